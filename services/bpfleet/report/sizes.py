"""What maps and programs cost under each kernel: each is made on an empty emulated host, which may refuse it.

Per kernel: the estimate of the rlimit era, what bpftool shows as memlock, the charge at creation
by class of allocation, what is used without a charge, the charge of one more element, and the charge when
the map is full. The numbers of a map are those of its plan (``kernel/bpf/plan.py``), which kernels
charge by; those of a program are read from the host.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel import KernelError, KernelProfile
from bpfleet.kernel.bpf.plan import map_cost
from bpfleet.kernel.bpf.verifier import bounds_bytes
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.mm.memory import Owner
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.units import bytes_of
from bpfleet.runtime.maps import create_map, map_attr
from bpfleet.runtime.programs import complexity_of, prog_attr
from bpfleet.workload.spec import Inventory, MapDeclaration, ProgramDeclaration

__all__ = ["MapSize", "TotalSize", "size_of_inventory", "size_of_map", "total_of"]

_RAM_BYTES: Final = 1 << 46
_CGROUP: Final = "/size"


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSize:
    """The cost of one declaration under one kernel, all its copies together. Bytes; ``refusal``
    where it is refused.

    ``charged`` is by class of allocation (``locked`` under the rlimit model). ``element_bytes`` is
    what inserting one more element charges (0: paid at creation); a trie's includes the
    intermediate node it usually needs. ``full_bytes`` is the charge after the first filling,
    ``refilled_bytes`` after a flush of all elements and another. ``verifying_bytes`` are charged while a program is
    loaded, at least and at most; the two are one where its paths are declared.
    """

    name: str
    type_name: str
    count: int
    max_entries: int
    estimate_bytes: int = 0
    memlock_bytes: int = 0
    charged: Mapping[str, int] = field(default_factory=dict, hash=False)
    uncharged_bytes: int = 0
    element_bytes: int = 0
    full_bytes: int = 0
    refilled_bytes: int = 0
    verifying_bytes: tuple[int, int] = (0, 0)
    refusal: str = ""

    @property
    def charged_bytes(self) -> int:
        """The charge at creation, all classes."""
        return sum(self.charged.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalSize:
    """The sum over an inventory under one kernel. ``refused`` counts declarations the kernel
    refuses. ``verifying_bytes`` are those of the largest program: one is loaded at a time.
    """

    maps: int
    estimate_bytes: int
    memlock_bytes: int
    charged: Mapping[str, int]
    uncharged_bytes: int
    full_bytes: int
    refilled_bytes: int
    verifying_bytes: tuple[int, int]
    refused: int

    @property
    def charged_bytes(self) -> int:
        """The charge at creation, all classes."""
        return sum(self.charged.values())


def size_of_map(declared: MapDeclaration, profile: KernelProfile, possible_cpus: int) -> MapSize:
    """The cost of a map declaration, inner maps included."""
    own = _measured(declared, profile, possible_cpus)
    if declared.inner is None or not declared.inner_count or own.refusal:
        return _times(own, declared.count)
    inner = _times(_measured(declared.inner, profile, possible_cpus), declared.inner_count)
    return _times(_with_inner(own, inner), declared.count)


def size_of_inventory(
    inventory: Inventory, profile: KernelProfile, possible_cpus: int
) -> list[MapSize]:
    """The cost of every map declaration, then of every program."""
    sizes = [size_of_map(declared, profile, possible_cpus) for declared in inventory.maps]
    return sizes + [_program(p, profile, possible_cpus) for p in inventory.programs]


def total_of(sizes: Iterable[MapSize]) -> TotalSize:
    """The sum; programs count as no maps."""
    found: Sequence[MapSize] = list(sizes)
    charged: Counter[str] = Counter()
    for size in found:
        charged.update(size.charged)
    return TotalSize(
        maps=sum(s.count for s in found if s.type_name != _PROGRAM),
        estimate_bytes=sum(s.estimate_bytes for s in found),
        memlock_bytes=sum(s.memlock_bytes for s in found),
        charged=dict(sorted(charged.items())),
        uncharged_bytes=sum(s.uncharged_bytes for s in found),
        full_bytes=sum(s.full_bytes for s in found),
        refilled_bytes=sum(s.refilled_bytes for s in found),
        verifying_bytes=(
            max((s.verifying_bytes[0] for s in found), default=0),
            max((s.verifying_bytes[1] for s in found), default=0),
        ),
        refused=sum(bool(s.refusal) for s in found),
    )


_PROGRAM: Final = "program"


def _measured(declared: MapDeclaration, profile: KernelProfile, possible_cpus: int) -> MapSize:
    """One map: whether an empty host makes it, and the numbers of its plan."""
    kernel, task = _host(profile, possible_cpus)
    blank = MapSize(
        name=declared.name,
        type_name=declared.type_name,
        count=1,
        max_entries=declared.max_entries,
    )
    try:
        create_map(kernel, task, declared)
    except KernelError as error:
        return replace(blank, refusal=f"{error.errno.name}: {error.detail}")
    cost = map_cost(map_attr(declared), profile, possible_cpus)
    locked = cost.precharge_bytes
    sized = replace(
        blank, max_entries=cost.entries, memlock_bytes=cost.memlock_bytes, estimate_bytes=locked
    )
    if profile.is_rlimit:
        return replace(
            sized,
            charged=_locked(locked),
            full_bytes=locked,
            refilled_bytes=locked,
        )
    return replace(
        sized,
        charged=cost.created.by_class(),
        uncharged_bytes=cost.created.uncharged,
        element_bytes=cost.per_element.total,
        full_bytes=cost.full.total,
        refilled_bytes=cost.refilled.total,
    )


def _program(declared: ProgramDeclaration, profile: KernelProfile, possible_cpus: int) -> MapSize:
    kernel, task = _host(profile, possible_cpus)
    blank = MapSize(name=declared.name, type_name=_PROGRAM, count=1, max_entries=0)
    try:
        kernel.bpf.prog_load(task, prog_attr(declared))
    except KernelError as error:
        return replace(blank, refusal=f"{error.errno.name}: {error.detail}")
    (prog,) = kernel.bpf.progs()
    charged, escaped = _charges(kernel, prog.owner)
    locked = bytes_of(prog.image_pages)
    if profile.is_rlimit:
        charged, escaped = _locked(locked), 0
    return _times(
        replace(
            blank,
            estimate_bytes=locked,
            memlock_bytes=locked,
            charged=charged,
            uncharged_bytes=escaped,
            full_bytes=sum(charged.values()),
            refilled_bytes=sum(charged.values()),
            verifying_bytes=bounds_bytes(
                profile, declared.insn_cnt, declared.subprog_insns, complexity_of(declared)
            ),
        ),
        declared.count,
    )


def _host(profile: KernelProfile, possible_cpus: int) -> tuple[Kernel, Task]:
    kernel = Kernel(profile, ram_bytes=_RAM_BYTES, possible_cpus=possible_cpus)
    kernel.mkdir(_CGROUP)
    unlimited = (RLIM_INFINITY, RLIM_INFINITY)
    return kernel, kernel.spawn(uid=0, memlock=unlimited, cgroup=_CGROUP, comm="size")


def _charges(kernel: Kernel, owner: Owner) -> tuple[dict[str, int], int]:
    """Charged bytes of one owner by class, and the bytes it takes without a charge."""
    charged: Counter[str] = Counter()
    escaped = 0
    for account in kernel.memory.accounts.values():
        if account.owner is not owner:
            continue
        if account.objcg is None:
            escaped += account.taken_bytes
        elif account.charged_bytes:
            charged[account.kind.name.lower()] += account.charged_bytes
    return dict(sorted(charged.items())), escaped


def _locked(size_bytes: int) -> dict[str, int]:
    return {"locked": size_bytes} if size_bytes else {}


def _times(size: MapSize, count: int) -> MapSize:
    """``count`` equal ones; what one element costs stays."""
    return replace(
        size,
        count=size.count * count,
        estimate_bytes=size.estimate_bytes * count,
        memlock_bytes=size.memlock_bytes * count,
        charged={name: value * count for name, value in size.charged.items()},
        uncharged_bytes=size.uncharged_bytes * count,
        full_bytes=size.full_bytes * count,
        refilled_bytes=size.refilled_bytes * count,
    )


def _with_inner(outer: MapSize, inner: MapSize) -> MapSize:
    charged = Counter(outer.charged)
    charged.update(inner.charged)
    return replace(
        outer,
        count=1 + inner.count,
        estimate_bytes=outer.estimate_bytes + inner.estimate_bytes,
        memlock_bytes=outer.memlock_bytes + inner.memlock_bytes,
        charged=dict(sorted(charged.items())),
        uncharged_bytes=outer.uncharged_bytes + inner.uncharged_bytes,
        full_bytes=outer.full_bytes + inner.full_bytes,
        refilled_bytes=outer.refilled_bytes + inner.refilled_bytes,
        refusal=inner.refusal,
    )
