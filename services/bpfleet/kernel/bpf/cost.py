"""What a map costs: the estimate of the rlimit era and the list of real allocations. Data only, nothing is charged."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from bpfleet.abi.limits import U32_MAX
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.profile import KernelProfile

# A precharge of this or more does not fit [bpf_map_charge_init].
LARGEST_COST_BYTES: Final = U32_MAX - 4096


class How(IntEnum):
    """Which kernel function makes an allocation; decides allocator, flags and payer."""

    AREA = 0  # bpf_map_area_alloc: kmalloc up to 32 KiB, else vmalloc; charges the current task
    AREA_MMAPABLE = 1  # bpf_map_area_mmapable_alloc: always vmalloc; charges the current task
    KZALLOC = 2  # kzalloc(GFP_USER | __GFP_ACCOUNT) of a map struct; charges the current task
    KMALLOC_ACCOUNT = 3  # kmalloc(GFP_KERNEL_ACCOUNT); charges the current task, also with nobpf
    HELPER_KMALLOC = 4  # bpf_map_kmalloc_node, bpf_map_kzalloc; charges the map's owner record
    HELPER_PERCPU = 5  # bpf_map_alloc_percpu; charges the map's owner record
    PAGES = 6  # single pages mapped with vmap; charges the current task, also with nobpf
    MEM_ALLOC = 7  # bpf_mem_alloc prefill: charges the creator; failing is silent
    MEM_ALLOC_PERCPU = 8  # the same, per-CPU instance: a 16-byte header and the per-CPU value
    KMALLOC_UNCHARGED = 9
    PERCPU_UNCHARGED = 10


@dataclass(frozen=True, slots=True)
class Creation:
    """A map to be made: effective attributes, and on what. ``perfmon``: the creator has CAP_PERFMON."""

    attr: MapAttr
    profile: KernelProfile
    possible_cpus: int
    perfmon: bool = True


@dataclass(frozen=True, slots=True)
class Allocation:
    """``count`` allocations of ``size_bytes`` each, in kernel order. ``label`` is the kernel's own word for it."""

    label: str
    how: How
    size_bytes: int
    count: int = 1
    gfp: int = GFP.GFP_USER


@dataclass(frozen=True, slots=True)
class CostPlan:
    """The cost of creating one map.

    ``estimate_bytes`` is what kernels up to 5.10 precharge (before page rounding). ``allocations`` are made in order;
    the precharge happens before allocation number ``precharge_at``. ``per_element`` is what one more element
    allocates when it is inserted (nothing for preallocated types), with ``MEM_ALLOC`` for objects that come out of the
    map's bpf_mem_alloc caches.
    """

    estimate_bytes: int
    allocations: tuple[Allocation, ...]
    precharge_at: int = 0
    per_element: tuple[Allocation, ...] = ()


def struct_how(profile: KernelProfile) -> How:
    """How a map's struct is allocated: bpf_map_area_alloc since "bpf: Use bpf_map_area_alloc consistently" (6.1)."""
    return How.AREA if profile.map_structs_by_area_alloc else How.KZALLOC
