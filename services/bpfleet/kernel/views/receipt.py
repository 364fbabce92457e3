"""The receipt of a call: what was asked, what was charged, to whom."""

from dataclasses import dataclass

from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel.bpf.command import Cost
from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.mm.memcg import Memcg
from bpfleet.kernel.profile import KernelProfile, Payer
from bpfleet.kernel.units import bytes_of


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a call cost.

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


def make_receipt(profile: KernelProfile, cost: Cost, root: Memcg) -> Receipt:
    """The receipt of the call that has just returned ``cost``."""
    user = cost.target.charge.user
    if user is not None:
        limit = cost.task.memlock_soft_bytes
        return Receipt(
            profile.model.value,
            estimate_bytes(cost),
            charged_bytes(cost),
            f"uid {user.uid}",
            bytes_of(user.locked_vm_pages),
            None if limit == RLIM_INFINITY else limit,
        )
    memcg = _payer(profile, cost) or root
    return Receipt(
        profile.model.value,
        estimate_bytes(cost),
        charged_bytes(cost),
        memcg.path,
        memcg.usage_bytes,
        memcg.limit_bytes,
    )


def estimate_bytes(cost: Cost) -> int:
    """What a kernel up to 5.10 precharges for what the call made."""
    if not cost.created:
        return 0
    if isinstance(cost.target, BpfMap):
        return cost.target.estimate_bytes
    return bytes_of(cost.target.image_pages)


def charged_bytes(cost: Cost) -> int:
    """What the payer of the object was charged: a user where it was precharged, else a memory cgroup."""
    charge = cost.target.charge
    if charge.user is None:
        return cost.charged_bytes
    return bytes_of(charge.pages) if cost.created else 0


def _payer(profile: KernelProfile, cost: Cost) -> Memcg | None:
    """The map's owner; the updater where the policy says so; the loader of a program."""
    target, task = cost.target, cost.task
    if isinstance(target, BpfMap) and profile.payer is not Payer.UPDATER:
        return target.site.creator.memcg if target.site.creator is not None else None
    return task.objcg.memcg if task.objcg is not None else None
