"""ARRAY [kernel/bpf/arraymap.c], since 3.19. All profiles.

At create: one area holding the struct and all values (mmapable: vmalloc, struct and values page-aligned). Per element:
nothing. Freed with the map. Creators without CAP_PERFMON get the entries rounded up to a power of two.
Known gap: none.
"""

from collections.abc import Sequence
from typing import Final

from bpfleet.abi.bpf import (
    BPF_EXIST,
    BPF_F_LOCK,
    BPF_NOEXIST,
    F_INNER_MAP,
    F_MMAPABLE,
    F_NUMA_NODE,
    F_PRESERVE_ELEMS,
    F_RDONLY,
    F_RDONLY_PROG,
    F_WRONLY,
    F_WRONLY_PROG,
    Cmd,
    MapType,
)
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import U32_MAX
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.maps.base import (
    BATCH_LOOKUP_UPDATE,
    BpfMap,
    KeyBtf,
    SpinLocks,
    check_value_lock,
    zeroes,
)
from bpfleet.kernel.bpf.maps.slot import empty_slot, next_slot, slot_of, slot_out_of_range
from bpfleet.kernel.bpf.refusals import key_exists, refuse
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.errors import KernelError
from bpfleet.kernel.mm.sizes import pcpu_unit_min_bytes
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.units import round_up, round_up_8, roundup_pow_of_two

ACCESS_MASK: Final = F_RDONLY | F_WRONLY | F_RDONLY_PROG | F_WRONLY_PROG
_CREATE_FLAGS: Final = F_NUMA_NODE | ACCESS_MASK


class ArrayMap(BpfMap):
    """Values by index, all present from the start and zero; only written ones take memory here."""

    mappable = True
    key_btf = KeyBtf.INT
    spin_locks = SpinLocks.ALWAYS
    __slots__ = ("_values", "_zero")

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        self._values: dict[int, bytes] = {}
        self._zero: Final = zeroes(self.user_value_size)

    def stored(self) -> int:
        """Values kept."""
        return len(self._values)

    @classmethod
    def check(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """array_map_alloc_check. Raises EINVAL, E2BIG."""
        check_array(attr, host.profile)

    @classmethod
    def check_alloc(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """E2BIG when the power of two for index masking does not fit 32 bits."""
        check_slots(attr, task)

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """One area; see `array_bytes`."""
        attr, profile = creation.attr, creation.profile
        size = array_bytes(attr, profile, slots(attr.max_entries, perfmon=creation.perfmon))
        how = How.AREA_MMAPABLE if attr.map_flags & F_MMAPABLE else How.AREA
        return CostPlan(size, (Allocation("array", how, size),))

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """array_map_mem_usage: the area, without rounding the entries."""
        return array_bytes(attr, profile, attr.max_entries)

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """ENOENT beyond the end, otherwise always found."""
        index = slot_of(key)
        value = self._values.get(index)
        if value is not None:
            return value
        if index >= self.max_entries:
            raise empty_slot(index)
        return self._zero

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Raises EINVAL for flags, E2BIG beyond the end, EEXIST for BPF_NOEXIST."""
        index = slot_of(key)
        if flags:
            self._check_flags(flags, index)
        if index >= self.max_entries:
            raise slot_out_of_range(index, self.max_entries)
        self._values[index] = value

    def _check_flags(self, flags: int, index: int) -> None:
        if flags & ~BPF_F_LOCK > BPF_EXIST:
            raise refuse(Errno.EINVAL, f"unknown update flags {flags:#x}")
        if index >= self.max_entries:
            raise slot_out_of_range(index, self.max_entries)
        if flags & BPF_NOEXIST:
            raise key_exists()
        check_value_lock(self, flags)

    def update_many(
        self, keys: Sequence[bytes], values: Sequence[bytes], flags: int, context: OpContext
    ) -> tuple[int, KernelError | None]:
        """As single updates, without their overhead when no flags are given."""
        if flags:
            return super().update_many(keys, values, flags, context)
        stored, end, done = self._values, self.max_entries, 0
        for key, value in zip(keys, values, strict=True):
            index = slot_of(key)
            if index >= end:
                return done, slot_out_of_range(index, end)
            stored[index] = value
            done += 1
        return done, None

    def delete(self, key: bytes, context: OpContext) -> None:
        """Always EINVAL: elements of an array cannot be removed."""
        raise refuse(Errno.EINVAL, "elements of an array cannot be removed")

    def next_key(self, key: bytes | None) -> bytes:
        """index + 1; from the start for None or an index beyond the end. ENOENT after the last."""
        return next_slot(key, self.max_entries)

    @classmethod
    def batch_commands(cls, profile: KernelProfile) -> frozenset[Cmd]:
        """Lookup and update; nothing can be deleted."""
        return BATCH_LOOKUP_UPDATE


# -- shared by all types built on struct bpf_array --------------------------------------------------------------------


def check_array(attr: MapAttr, profile: KernelProfile) -> None:
    """array_map_alloc_check for every type that uses it. Raises EINVAL, E2BIG."""
    percpu = attr.map_type == MapType.PERCPU_ARRAY
    flags = attr.map_flags
    if attr.max_entries == 0 or attr.key_size != 4 or attr.value_size == 0:
        raise refuse(
            Errno.EINVAL,
            f"an array needs entries, a 4-byte key and a value; got {attr.max_entries} entries,"
            f" key {attr.key_size}, value {attr.value_size}",
        )
    check_flags(flags, _create_flags(profile))
    if percpu and flags & F_NUMA_NODE:
        raise refuse(Errno.EINVAL, "per-CPU memory has no NUMA node")
    if attr.map_type != MapType.ARRAY and flags & (F_MMAPABLE | F_INNER_MAP):
        raise refuse(Errno.EINVAL, "BPF_F_MMAPABLE and BPF_F_INNER_MAP are for plain arrays")
    if attr.map_type != MapType.PERF_EVENT_ARRAY and flags & F_PRESERVE_ELEMS:
        raise refuse(Errno.EINVAL, "BPF_F_PRESERVE_ELEMS is for perf event arrays")
    if attr.value_size > profile.array_value_limit_bytes:
        raise too_big(attr.value_size, profile.array_value_limit_bytes)
    if percpu:
        check_percpu_value(attr, profile)


def _create_flags(profile: KernelProfile) -> int:
    return (
        _CREATE_FLAGS
        | F_MMAPABLE * profile.has_mmap
        | F_INNER_MAP * profile.array_takes_inner_map_flag
        | F_PRESERVE_ELEMS * profile.perf_event_array_keeps_entries
    )


def check_flags(flags: int, allowed: int) -> None:
    """EINVAL for a flag the type does not know, or for both *_PROG access flags [bpf_map_flags_access_ok]."""
    unknown = flags & ~allowed
    if unknown:
        raise refuse(Errno.EINVAL, f"map flags {unknown:#x} are not valid for this type")
    both = F_RDONLY_PROG | F_WRONLY_PROG
    if flags & both == both:
        raise refuse(Errno.EINVAL, "BPF_F_RDONLY_PROG and BPF_F_WRONLY_PROG exclude each other")


def check_percpu_value(attr: MapAttr, profile: KernelProfile) -> None:
    """E2BIG for a value no per-CPU chunk can hold."""
    limit = pcpu_unit_min_bytes(profile.page_bytes)
    if profile.percpu_value_size_checked and round_up_8(attr.value_size) > limit:
        raise too_big(attr.value_size, limit)


def too_big(size_bytes: int, limit_bytes: int) -> KernelError:
    """E2BIG for a key or value size."""
    return refuse(Errno.E2BIG, f"{size_bytes} bytes are over the limit of {limit_bytes}")


def slots(max_entries: int, *, perfmon: bool) -> int:
    """Slots allocated: a power of two for creators without CAP_PERFMON (Spectre v1 index masking)."""
    return max_entries if perfmon else roundup_pow_of_two(max_entries)


def check_slots(attr: MapAttr, task: Task) -> None:
    """E2BIG when the rounded number of slots does not fit 32 bits."""
    if slots(attr.max_entries, perfmon=task.perfmon_capable()) > U32_MAX:
        raise refuse(Errno.E2BIG, f"{attr.max_entries} entries rounded up do not fit 32 bits")


def array_bytes(attr: MapAttr, profile: KernelProfile, slots_count: int) -> int:
    """Bytes of struct bpf_array with its values.

    >>> from bpfleet.kernel.profile import PROFILES
    >>> array_bytes(MapAttr(2, 4, 8, 473), PROFILES["5.10"], 473)
    4104
    """
    values = slots_count * round_up_8(attr.value_size)
    header = profile.structs.bpf_array
    if attr.map_flags & F_MMAPABLE:
        page = profile.page_bytes
        return round_up(header, page) + round_up(values, page)
    return header + values
