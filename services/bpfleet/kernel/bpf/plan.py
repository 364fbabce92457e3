"""What a map will cost, without a kernel: the plan of its type in numbers. Pure.

For `bpfleet size`, for placement, and for reports. Everything is bytes.
"""

from dataclasses import dataclass
from typing import Final

from bpfleet.abi.bpf import MapType
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How
from bpfleet.kernel.bpf.map_create import class_of
from bpfleet.kernel.bpf.maps.base import BpfMap, footprint_bytes, user_value_size
from bpfleet.kernel.bpf.memalloc import PERCPU_HEADER_BYTES, prefill_count, watermarks
from bpfleet.kernel.mm.sizes import (
    kmalloc_bytes,
    kmalloc_charge_bytes,
    percpu_bytes,
    percpu_charge_bytes,
    vmalloc_bytes,
)
from bpfleet.kernel.profile import KernelProfile, Memlock
from bpfleet.kernel.units import bytes_of, pages_for

AREA_KMALLOC_ORDER: Final = 3  # PAGE_ALLOC_COSTLY_ORDER
_ALWAYS_CHARGED: Final = (
    How.KMALLOC_ACCOUNT,
    How.PAGES,
)  # at creation, also with cgroup.memory=nobpf
_NEVER_CHARGED: Final = (How.KMALLOC_UNCHARGED, How.PERCPU_UNCHARGED)
_HELPERS: Final = (How.HELPER_KMALLOC, How.HELPER_PERCPU)


@dataclass(frozen=True, slots=True)
class Charges:
    """Bytes charged to the creator's memcg by allocator, and ``uncharged``: taken, but charged to nobody."""

    slab: int = 0
    percpu: int = 0
    vmalloc: int = 0
    pages: int = 0
    uncharged: int = 0

    @property
    def total(self) -> int:
        """Bytes charged."""
        return self.slab + self.percpu + self.vmalloc + self.pages

    def by_class(self) -> dict[str, int]:
        """Bytes charged by class of allocation, without those that are zero."""
        classes = {
            "pages": self.pages,
            "percpu": self.percpu,
            "slab": self.slab,
            "vmalloc": self.vmalloc,
        }
        return {name: charged for name, charged in classes.items() if charged}

    def __add__(self, other: "Charges") -> "Charges":
        return Charges(
            self.slab + other.slab,
            self.percpu + other.percpu,
            self.vmalloc + other.vmalloc,
            self.pages + other.pages,
            self.uncharged + other.uncharged,
        )

    def __mul__(self, times: int) -> "Charges":
        return Charges(
            self.slab * times,
            self.percpu * times,
            self.vmalloc * times,
            self.pages * times,
            self.uncharged * times,
        )


@dataclass(frozen=True, slots=True)
class MapCost:
    """One map under one profile.

    ``precharge_bytes`` is what 5.10 holds on the user's RLIMIT_MEMLOCK, ``memlock_bytes`` the memlock line right after
    creation and ``memlock_full_bytes`` with every entry in. ``refilled`` is the charge when all of it was deleted at
    once and inserted again. ``per_element`` is one more element on its own, without
    what the element caches keep ready; ``full`` the whole map with every entry inserted on one CPU. ``entries`` is
    max_entries as the kernel reports it; 0 for types that have none, and then ``full`` equals ``created``.
    """

    profile: str
    entries: int
    precharge_bytes: int
    memlock_bytes: int
    memlock_full_bytes: int
    created: Charges
    per_element: Charges
    full: Charges
    refilled: Charges


def plan_map(attr: MapAttr, profile: KernelProfile, possible_cpus: int) -> CostPlan:
    """The type's plan for unchecked attributes. Raises KernelError(EINVAL) where the kernel lacks the type."""
    cls = class_of(attr.map_type, profile)
    return cls.plan(Creation(cls.effective(attr, possible_cpus), profile, possible_cpus))


def map_cost(
    attr: MapAttr, profile: KernelProfile, possible_cpus: int, *, perfmon: bool = True
) -> MapCost:
    """All numbers of a map; ``perfmon`` False is a creator without CAP_PERFMON.

    Raises KernelError(EINVAL) where the kernel lacks the type.

    >>> from bpfleet.kernel.profile import PROFILES
    >>> cost = map_cost(MapAttr(MapType.HASH, 8, 8, 1000, 1), PROFILES["6.1"], 8)
    >>> cost.created.total, cost.per_element.total, cost.full.total - cost.created.total
    (20744, 104, 109824)
    """
    cls = class_of(attr.map_type, profile)
    attr = cls.effective(attr, possible_cpus)
    creation = Creation(attr, profile, possible_cpus, perfmon)
    plan = cls.plan(creation)
    created = element = filled = again = Charges()
    for allocation in plan.allocations:
        created += _charge(allocation, profile, possible_cpus, at_creation=True)
    for allocation in plan.per_element:
        element += _charge(allocation, profile, possible_cpus, at_creation=False)
        count = _inserted(attr, allocation, profile, attr.max_entries)
        filled += _charge(allocation, profile, possible_cpus, at_creation=False, count=count)
        count = _held_back(attr, allocation, profile, attr.max_entries)
        again += _charge(allocation, profile, possible_cpus, at_creation=False, count=count)
    return MapCost(
        profile=profile.name,
        entries=attr.max_entries,
        precharge_bytes=bytes_of(pages_for(plan.estimate_bytes)),
        memlock_bytes=_memlock(cls, creation, 0),
        memlock_full_bytes=_memlock(cls, creation, attr.max_entries),
        created=created,
        per_element=element,
        full=created + filled,
        refilled=created + filled + again,
    )


def filled_charges(
    attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
) -> Charges:
    """What ``entries`` elements add to a map that was just made, inserted one after the other on one CPU.

    >>> from bpfleet.kernel.profile import PROFILES
    >>> on_demand = MapAttr(MapType.HASH, 8, 8, 1 << 31, 1)
    >>> filled_charges(on_demand, PROFILES["6.1"], 8, 1000).total
    109824
    """
    cls = class_of(attr.map_type, profile)
    attr = cls.effective(attr, possible_cpus)
    filled = Charges()
    for allocation in cls.plan(Creation(attr, profile, possible_cpus)).per_element:
        count = _inserted(attr, allocation, profile, entries)
        filled += _charge(allocation, profile, possible_cpus, at_creation=False, count=count)
    return filled


def memlock_line(
    attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int = 0
) -> int:
    """The memlock line of fdinfo and bpftool with ``entries`` elements in the map.

    >>> from bpfleet.kernel.profile import PROFILES
    >>> lru = MapAttr(MapType.LRU_HASH, 14, 56, 131072)
    >>> [memlock_line(lru, PROFILES[name], 8) for name in ("5.10", "6.1", "6.12")]
    [17829888, 9437184, 17826944]
    """
    cls = class_of(attr.map_type, profile)
    return _memlock(
        cls, Creation(cls.effective(attr, possible_cpus), profile, possible_cpus), entries
    )


def _memlock(cls: type[BpfMap], creation: Creation, entries: int) -> int:
    attr, profile, possible_cpus = creation.attr, creation.profile, creation.possible_cpus
    if profile.memlock is Memlock.CHARGED:
        return bytes_of(pages_for(cls.plan(creation).estimate_bytes))
    if profile.memlock is Memlock.FOOTPRINT:
        value_size = user_value_size(cls, attr, possible_cpus)
        return footprint_bytes(attr.key_size, value_size, attr.max_entries)
    return cls.mem_usage(attr, profile, possible_cpus, entries)


def _inserted(attr: MapAttr, allocation: Allocation, profile: KernelProfile, entries: int) -> int:
    """How many of an element's allocation a map makes when ``entries`` are inserted, one after the other on one CPU."""
    wanted = entries * allocation.count
    if attr.map_type == MapType.LPM_TRIE and allocation.label != "leaf":
        wanted = max(wanted - 1, 0)  # intermediate nodes part two prefixes: one fewer than leaves
    if allocation.how not in (How.MEM_ALLOC, How.MEM_ALLOC_PERCPU) or not wanted:
        return wanted
    return cached_objects(
        profile,
        allocation.size_bytes,
        wanted,
        percpu=allocation.how is How.MEM_ALLOC_PERCPU,
    )


def cached_objects(profile: KernelProfile, unit: int, wanted: int, *, percpu: bool) -> int:
    """Objects a CPU's cache takes beyond its prefill to hand out ``wanted``, refilled in batches.

    >>> from bpfleet.kernel.profile import PROFILES
    >>> [cached_objects(PROFILES["6.1"], 72, n, percpu=False) for n in (100, 1000)]
    [144, 1056]
    """
    low, _, batch = watermarks(profile, unit, percpu=percpu)
    short = low + wanted - prefill_count(profile, unit, percpu=percpu)
    return max(-(-short // batch), 0) * batch


def _held_back(attr: MapAttr, allocation: Allocation, profile: KernelProfile, entries: int) -> int:
    """How many more there are when all was deleted in one burst and inserted again: what was freed waits meanwhile."""
    wanted = entries * allocation.count
    if allocation.how not in (How.MEM_ALLOC, How.MEM_ALLOC_PERCPU):
        return 0
    if profile.mem_alloc_reuses_waiting or attr.map_type == MapType.LPM_TRIE:
        return 0
    percpu = allocation.how is How.MEM_ALLOC_PERCPU
    return held_back_objects(profile, allocation.size_bytes, wanted, percpu=percpu)


def held_back_objects(profile: KernelProfile, unit: int, wanted: int, *, percpu: bool) -> int:
    """Objects that wait for an overflow when ``wanted`` were freed in a burst, and are taken anew for as many elements.

    What the first overflow sends off is given back; what stays ready serves the next elements.

    >>> from bpfleet.kernel.profile import PROFILES
    >>> [held_back_objects(PROFILES["6.1"], 72, n, percpu=False) for n in (10, 50, 1000)]
    [0, 15, 975]
    """
    low, high, batch = watermarks(profile, unit, percpu=percpu)
    surplus = high + 1 - (high + low) // 2
    taken = cached_objects(profile, unit, wanted, percpu=percpu)
    ready = prefill_count(profile, unit, percpu=percpu) + taken
    overflows = max(-(-(ready - high) // surplus), 0)
    if not overflows:
        return 0
    ready -= overflows * surplus
    return max(-(-(low + wanted - ready) // batch), 0) * batch - surplus


def _charge(
    allocation: Allocation,
    profile: KernelProfile,
    possible_cpus: int,
    *,
    at_creation: bool,
    count: int | None = None,
) -> Charges:
    how, size = allocation.how, allocation.size_bytes
    times = allocation.count if count is None else count
    page, least = profile.page_bytes, profile.kmalloc_min_bytes
    if how is How.PAGES:
        return _one("pages", how, bytes_of(times), bytes_of(times), profile, at_creation)
    if how in (How.HELPER_PERCPU, How.PERCPU_UNCHARGED, How.MEM_ALLOC_PERCPU):
        vector = profile.percpu_charges_objcg_vector
        charge = percpu_charge_bytes(size, possible_cpus, objcg_vector=vector)
        taken = percpu_bytes(size, possible_cpus)
        made = _one("percpu", how, charge * times, taken * times, profile, at_creation)
        if how is How.MEM_ALLOC_PERCPU:
            charge, taken = (
                kmalloc_charge_bytes(PERCPU_HEADER_BYTES, page, least),
                kmalloc_bytes(PERCPU_HEADER_BYTES, page, least),
            )
            made += _one("slab", how, charge * times, taken * times, profile, at_creation)
        return made
    if how is How.AREA_MMAPABLE or (how is How.AREA and size > page << AREA_KMALLOC_ORDER):
        area = vmalloc_bytes(size, page) * times
        return _one("vmalloc", how, area, area, profile, at_creation)
    charge = kmalloc_charge_bytes(size, page, least)
    taken = kmalloc_bytes(size, page, least)
    return _one("slab", how, charge * times, taken * times, profile, at_creation)


def _one(
    kind: str, how: How, charge: int, taken: int, profile: KernelProfile, at_creation: bool
) -> Charges:
    if not is_charged(how, profile, at_creation=at_creation):
        return Charges(uncharged=taken)
    if kind == "slab":
        return Charges(slab=charge)
    if kind == "percpu":
        return Charges(percpu=charge)
    return Charges(vmalloc=charge) if kind == "vmalloc" else Charges(pages=charge)


def is_charged(how: How, profile: KernelProfile, *, at_creation: bool) -> bool:
    """Whether an allocation is charged to a memcg at all under a profile."""
    if profile.is_rlimit or not profile.kmem_accounting or how in _NEVER_CHARGED:
        return False
    if not profile.bpf_accounting:
        return at_creation and how in _ALWAYS_CHARGED
    if at_creation and how in _HELPERS:
        return profile.creation_percpu_charged
    return True
