"""The receipt of the latest call: what was asked, what was charged, to whom."""

from dataclasses import dataclass

from bpfleet.abi.limits import PAGE_SIZE, RLIM_INFINITY
from bpfleet.kernel.bpf.accounting.base import Charge
from bpfleet.kernel.bpf.object_syscall import ObjectSyscalls
from bpfleet.kernel.mm.memcg import Memcg
from bpfleet.kernel.profile import KernelProfile, Payer
from bpfleet.kernel.units import bytes_of


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the last call that changed something cost.

    ``estimate_bytes`` is what a kernel up to 5.10 precharges for a creation or load, 0 for other calls;
    ``charged_bytes`` what this kernel charged (negative where the call gave back); ``charged_to`` a cgroup path or
    ``uid N``. ``usage_bytes`` and ``limit_bytes`` (None: unlimited) are that payer's, afterwards.
    """

    model: str
    estimate_bytes: int
    charged_bytes: int
    charged_to: str
    usage_bytes: int
    limit_bytes: int | None


def make_receipt(profile: KernelProfile, bpf: ObjectSyscalls, root: Memcg) -> Receipt:
    """The receipt of the latest call that changed a map or loaded a program."""
    estimate, charge = _precharge(bpf)
    task = bpf.last_task
    if charge is not None and charge.user is not None:
        limit = task.memlock_soft_bytes if task is not None else RLIM_INFINITY
        return Receipt(
            profile.model.value,
            estimate,
            bytes_of(charge.pages) if bpf.last_created else 0,
            f"uid {charge.user.uid}",
            bytes_of(charge.user.locked_vm_pages),
            None if limit == RLIM_INFINITY else limit,
        )
    memcg = _payer(profile, bpf) or root
    return Receipt(
        profile.model.value,
        estimate,
        bpf.last_charged_bytes,
        memcg.path,
        memcg.usage_bytes,
        memcg.limit_bytes,
    )


def _precharge(bpf: ObjectSyscalls) -> tuple[int, Charge | None]:
    """(estimate of what the call made, the object's precharge record)."""
    bpf_map, prog = bpf.last_map, bpf.last_prog
    if bpf_map is not None:
        return (bpf_map.estimate_bytes if bpf.last_created else 0), bpf_map.charge
    if prog is not None:
        return prog.image_pages * PAGE_SIZE, prog.charge
    return 0, None


def _payer(profile: KernelProfile, bpf: ObjectSyscalls) -> Memcg | None:
    """The map's owner; the updater where the policy says so; the loader of a program."""
    task, bpf_map = bpf.last_task, bpf.last_map
    if bpf_map is not None and profile.payer is not Payer.UPDATER:
        return bpf_map.site.creator.memcg if bpf_map.site.creator is not None else None
    return task.objcg.memcg if task is not None and task.objcg is not None else None
