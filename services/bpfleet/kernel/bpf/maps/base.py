"""What every map type is made of: its checks, its cost plan, its operations, and the memory it holds."""

from collections.abc import Callable, Sequence
from enum import Enum, auto
from functools import lru_cache
from typing import ClassVar, Final, Protocol

from bpfleet.abi.bpf import (
    BPF_EXIST,
    BPF_F_ALL_CPUS,
    BPF_F_CPU,
    BPF_F_LOCK,
    F_RDONLY,
    F_WRONLY,
    Capability,
    Cmd,
    MapType,
)
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import U32_MAX
from bpfleet.kernel.bpf.accounting.base import NO_CHARGE, Charge
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import CostPlan, Creation
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.refusals import refuse
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.deferred import RCU_GRACE_NS, WORK_ITEM_NS
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.proc.file import File
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile, Memlock
from bpfleet.kernel.units import bytes_of, pages_for, round_up_8

CPU_FLAGS: Final = BPF_F_CPU | BPF_F_ALL_CPUS
CPU_SHIFT: Final = 32  # BPF_F_CPU's CPU is the upper half of the flags

BATCH_NONE: Final[frozenset[Cmd]] = frozenset()
BATCH_LOOKUP_UPDATE: Final = frozenset({Cmd.MAP_LOOKUP_BATCH, Cmd.MAP_UPDATE_BATCH})
BATCH_NO_LOOKUP_AND_DELETE: Final = BATCH_LOOKUP_UPDATE | {Cmd.MAP_DELETE_BATCH}
BATCH_ALL: Final = BATCH_NO_LOOKUP_AND_DELETE | {Cmd.MAP_LOOKUP_AND_DELETE_BATCH}


class KeyBtf(Enum):
    """What a map type demands of the BTF of its keys [map_check_btf]."""

    ANY = auto()
    REFUSED = auto()  # no BTF at all
    INT = auto()
    CGROUP = auto()  # struct bpf_cgroup_storage_key, or an integer of 8 bytes
    STRUCT = auto()
    VOID = auto()
    NONE_FITS = auto()  # types that no map of this type can have
    UNCHECKED = auto()  # the type has a check of its own, which accepts any and also none


class SpinLocks(Enum):
    """Whether values of a map type may hold a bpf_spin_lock."""

    NEVER = auto()
    WITH_RECORDS = auto()  # where fields are checked as one record, from 6.2
    ALWAYS = auto()


class Held(Protocol):
    """Something counted that a map keeps alive."""

    def get(self) -> None: ...

    def put(self) -> None: ...


def _ignore(bpf_map: "BpfMap") -> None:
    """Stands in until the map has been published."""


class BpfMap:
    """One map. Subclasses are one per type (or per family) and say nothing about who pays.

    ``attr`` holds the attributes as created, with ``max_entries`` as the kernel reports it (rounded for per-CPU LRU
    lists). ``refs`` counts holders of any kind, ``user_refs`` those that user space can see (descriptors, pins).
    """

    supported: ClassVar[str] = "exact"  # or "cost only": what docs/fidelity.md says of the type
    gap: ClassVar[str] = ""  # what is not as in Linux, in words
    holds_fds: ClassVar[bool] = False  # IS_FD_MAP: values are descriptors, 4 bytes each
    percpu_values: ClassVar[bool] = False  # values are round_up_8(value) bytes per possible CPU
    charge_errno: ClassVar[Errno | None] = None  # what a refused precharge is turned into
    capability: ClassVar[Capability | None] = None  # CAP_BPF or CAP_NET_ADMIN, to create one
    takes_map_extra: ClassVar[bool] = False  # map_extra means something
    mappable: ClassVar[bool] = False  # mmap(2) works, given the flags
    key_btf: ClassVar[KeyBtf] = KeyBtf.ANY
    spin_locks: ClassVar[SpinLocks] = SpinLocks.NEVER
    free_delay_ns: ClassVar[int] = WORK_ITEM_NS  # from the last reference to freed memory

    # A fleet holds a hundred thousand maps that nobody touches: no dictionary for each.
    __slots__ = (
        "attr",
        "btf",
        "charge",
        "creator_cgroup",
        "creator_uid",
        "estimate_bytes",
        "freed_after_grace",
        "frozen",
        "has_spin_lock",
        "hash_seed",
        "host",
        "id",
        "key_size",
        "map_flags",
        "map_type",
        "max_entries",
        "name",
        "on_unreferenced",
        "pinned_paths",
        "refs",
        "site",
        "user_refs",
        "user_value_size",
        "value_size",
        "write_mappings",
    )

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        self.attr: Final = attr
        self.host: Final = host
        self.site: Final = site
        self.map_type: Final = MapType(attr.map_type)
        self.key_size: Final = attr.key_size
        self.value_size: Final = attr.value_size
        self.user_value_size: Final = user_value_size(type(self), attr, host.possible_cpus)
        self.max_entries: Final = attr.max_entries
        self.map_flags = attr.map_flags & ~(F_RDONLY | F_WRONLY)
        self.id = 0
        self.name: Final = attr.map_name
        self.frozen = False
        self.refs = 0
        self.user_refs = 0
        self.charge: Charge = NO_CHARGE
        self.estimate_bytes = 0  # what a kernel up to 5.10 would have precharged
        self.btf: Held | None = None
        self.creator_uid = 0
        self.creator_cgroup = ""
        self.pinned_paths: tuple[str, ...] = ()
        self.write_mappings = 0
        self.has_spin_lock = False
        self.hash_seed = 0
        self.freed_after_grace = False  # was an inner map: one more grace period before the free
        self.on_unreferenced: Callable[[BpfMap], None] = _ignore

    # -- before there is a map -----------------------------------------------------------------------------------

    @classmethod
    def check(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """map_alloc_check: refuses bad attributes, in the kernel's order. Raises KernelError."""

    @classmethod
    def check_alloc(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """Checks at the start of map_alloc, which lose to permission errors from 6.5 on. Raises KernelError."""

    @classmethod
    def effective(cls, attr: MapAttr, possible_cpus: int) -> MapAttr:
        """The attributes as map_alloc uses them (max_entries may be rounded)."""
        return attr

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """The cost of creating a map, whose attributes are the effective ones."""
        raise NotImplementedError

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """map_mem_usage of 6.4 and later, in bytes, with ``entries`` elements inserted."""
        raise NotImplementedError

    # -- operations ----------------------------------------------------------------------------------------------

    def after_alloc(self, task: Task) -> None:
        """What map_alloc still does with the caller's descriptors once the memory is there. Raises KernelError."""

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """The value of ``key`` as user space reads it. Raises ENOENT."""
        raise unsupported(self, "lookup")

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Stores a value."""
        raise unsupported(self, "update")

    def delete(self, key: bytes, context: OpContext) -> None:
        """Removes a key."""
        raise unsupported(self, "delete")

    def next_key(self, key: bytes | None) -> bytes:
        """The key after ``key``, the first one for None or an unknown key. Raises ENOENT at the end."""
        raise unsupported(self, "get_next_key")

    def lookup_and_delete(self, key: bytes, flags: int, context: OpContext) -> bytes:
        """Reads a value and removes it."""
        raise unsupported(self, "lookup_and_delete")

    @classmethod
    def has_lookup_and_delete(cls, profile: KernelProfile) -> bool:
        """Whether BPF_MAP_LOOKUP_AND_DELETE_ELEM knows the type."""
        return False

    @classmethod
    def batch_commands(cls, profile: KernelProfile) -> frozenset[Cmd]:
        """Which batch commands the type has."""
        return BATCH_NONE

    def update_many(
        self, keys: Sequence[bytes], values: Sequence[bytes], flags: int, context: OpContext
    ) -> tuple[int, KernelError | None]:
        """Stores pairs in order up to the first error. Returns (stored, that error or None)."""
        done = 0
        try:
            for key, value in zip(keys, values, strict=True):
                self.update(key, value, flags, context)
                done += 1
        except KernelError as error:
            return done, error
        return done, None

    def delete_many(
        self, keys: Sequence[bytes], context: OpContext
    ) -> tuple[int, KernelError | None]:
        """Removes keys in order up to the first error. Returns (removed, that error or None)."""
        done = 0
        try:
            for key in keys:
                self.delete(key, context)
                done += 1
        except KernelError as error:
            return done, error
        return done, None

    def entries(self) -> int:
        """Elements now in the map, as map_mem_usage counts them."""
        return 0

    def stored(self) -> int:
        """Values that the emulator itself keeps for the map; untouched ones of an array are not."""
        return self.entries()

    def release_user_refs(self) -> None:
        """The last descriptor and pin are gone [map_release_uref]; programs may still hold the map."""

    def release_file(self, file: File) -> None:
        """One open file of the map is gone [map_release]."""

    def free_delay(self) -> int:
        """How long it takes from the last reference until the memory is freed.

        Up to 5.8 all wait for a grace period; later those that were inner maps do, beside what their type waits for.
        """
        own = self.own_free_delay()
        if self.host.profile.maps_freed_behind_grace:
            return max(own, RCU_GRACE_NS)
        return own + RCU_GRACE_NS if self.freed_after_grace else own

    def own_free_delay(self) -> int:
        """What the type itself waits for."""
        return self.free_delay_ns

    def free(self, cpu: int) -> None:
        """Frees elements; the plan's blocks are freed by the caller afterwards."""

    # -- references ----------------------------------------------------------------------------------------------

    def get(self) -> None:
        """Takes a reference that user space does not see (a program, an outer map)."""
        self.refs += 1

    def put(self) -> None:
        """Drops one; the last one takes the id away and queues the free [bpf_map_put]."""
        assert self.refs > 0, self.refs
        self.refs -= 1
        if not self.refs:
            self.on_unreferenced(self)

    def get_with_uref(self) -> None:
        """Takes a reference for a descriptor or a pin."""
        self.refs += 1
        self.user_refs += 1

    def hold_btf(self, btf: Held | None) -> None:
        """Keeps the BTF object of the map's types, whose reference this takes; let go with the map."""
        if btf is not None:
            btf.get()
            self.btf = btf

    def put_with_uref(self) -> None:
        """Drops it [bpf_map_put_with_uref]."""
        assert self.user_refs > 0, self.user_refs
        self.user_refs -= 1
        if not self.user_refs:
            self.release_user_refs()
        self.put()

    # -- what user space reads about it --------------------------------------------------------------------------

    def usage_bytes(self) -> int:
        """map_mem_usage of 6.4 and later, in bytes."""
        return self.mem_usage(self.attr, self.host.profile, self.host.possible_cpus, self.entries())

    def memlock_bytes(self) -> int:
        """The memlock line of fdinfo; what it means depends on the kernel."""
        profile = self.host.profile
        if profile.memlock is Memlock.CHARGED:
            return bytes_of(self.charge.pages)
        if profile.memlock is Memlock.FOOTPRINT:
            return footprint_bytes(self.key_size, self.user_value_size, self.max_entries)
        return self.usage_bytes()

    @property
    def charged_bytes(self) -> int:
        """Bytes now charged to memcgs for this map, over all payers."""
        return sum(account.charged_bytes for account in self.site.owner.lines())

    @property
    def precharged_bytes(self) -> int:
        """Bytes held on the creator's locked_vm."""
        return bytes_of(self.charge.pages)


def user_value_size(cls: type[BpfMap], attr: MapAttr, possible_cpus: int) -> int:
    """Bytes of one value as user space exchanges it [bpf_map_value_size]."""
    if cls.percpu_values:
        return round_up_8(attr.value_size) * possible_cpus
    return 4 if cls.holds_fds else attr.value_size


@lru_cache(1024)
def zeroes(size_bytes: int) -> bytes:
    """What an untouched value reads as; one for all maps with values of that size."""
    return bytes(size_bytes)


def footprint_bytes(key_size: int, value_size: int, max_entries: int) -> int:
    """bpf_map_memory_footprint of 5.11 - 6.3: a bare product, related to no allocation.

    >>> footprint_bytes(20, 4, 16384), footprint_bytes(0, 0, 16777216)
    (393216, 0)
    """
    return bytes_of(pages_for(max_entries * round_up_8(key_size + value_size)))


def unsupported(bpf_map: BpfMap, operation: str) -> KernelError:
    """ENOTSUPP (524): the type has no such operation."""
    return KernelError(
        Errno.ENOTSUPP,
        Reason.OPERATION_UNSUPPORTED,
        f"{bpf_map.map_type.name.lower()} has no {operation}",
    )


def check_value_lock(bpf_map: BpfMap, flags: int) -> None:
    """BPF_F_LOCK needs a spin lock in the value. Raises EINVAL."""
    if flags & BPF_F_LOCK and not bpf_map.has_spin_lock:
        raise refuse(Errno.EINVAL, "BPF_F_LOCK needs a bpf_spin_lock in the value's BTF")


def check_op_flags(bpf_map: BpfMap, flags: int, allowed: int) -> None:
    """bpf_map_check_op_flags: BPF_F_LOCK needs its lock; CPU flags, which only later kernels allow, a per-CPU map.

    ``allowed`` are flags of the lower half; the upper one is BPF_F_CPU's CPU. Raises EINVAL, ERANGE for no such CPU.
    """
    with_cpus = bpf_map.host.profile.has_cpu_flags
    lower = flags & U32_MAX if with_cpus else flags
    if lower & ~(allowed if with_cpus else allowed & ~CPU_FLAGS):
        raise refuse(Errno.EINVAL, f"flags {flags:#x} are not valid here")
    check_value_lock(bpf_map, flags)
    if with_cpus:
        _check_cpu_flags(bpf_map, flags)


def _check_cpu_flags(bpf_map: BpfMap, flags: int) -> None:
    """The part that came with BPF_F_CPU and BPF_F_ALL_CPUS (7.0)."""
    if not flags & BPF_F_CPU and flags >> CPU_SHIFT:
        raise refuse(Errno.EINVAL, f"flags {flags:#x} name a CPU without BPF_F_CPU")
    if not flags & CPU_FLAGS:
        return
    if not bpf_map.percpu_values:
        raise refuse(Errno.EINVAL, "BPF_F_CPU and BPF_F_ALL_CPUS are for per-CPU maps")
    if flags & CPU_FLAGS == CPU_FLAGS:
        raise refuse(Errno.EINVAL, "BPF_F_CPU and BPF_F_ALL_CPUS exclude each other")
    cpu, possible = flags >> CPU_SHIFT, bpf_map.host.possible_cpus
    if flags & BPF_F_CPU and cpu >= possible:
        raise refuse(Errno.ERANGE, f"CPU {cpu} is not one of {possible}")


def takes_one_value(bpf_map: BpfMap, flags: int) -> bool:
    """Whether an update of a per-CPU map gives the value of one CPU, for it or for all. Raises EINVAL.

    Kernels that know these flags look only for greater ones, and so accept BPF_NOEXIST | BPF_EXIST, which asks nothing.
    """
    if bpf_map.host.profile.has_cpu_flags:
        if flags & BPF_F_LOCK or flags & U32_MAX > BPF_F_ALL_CPUS:
            raise refuse(Errno.EINVAL, f"unknown update flags {flags:#x}")
        return bool(flags & CPU_FLAGS)
    if flags > BPF_EXIST:
        raise refuse(Errno.EINVAL, f"unknown update flags {flags:#x}")
    return False


def given_value_size(bpf_map: BpfMap, flags: int) -> int:
    """Bytes of one value at a call's pointer: with BPF_F_CPU or BPF_F_ALL_CPUS that of one CPU [bpf_map_value_size]."""
    return bpf_map.value_size if flags & CPU_FLAGS else bpf_map.user_value_size


def of_cpu(all_cpus: bytes, flags: int, value_size: int) -> bytes:
    """What a lookup with ``flags`` gives of a per-CPU value: all, or with BPF_F_CPU that of one CPU."""
    if not flags & BPF_F_CPU:
        return all_cpus
    start = (flags >> CPU_SHIFT) * round_up_8(value_size)
    return all_cpus[start : start + value_size]


def onto_cpus(all_cpus: bytes, value: bytes, flags: int) -> bytes:
    """``all_cpus`` once a value of one CPU is on the CPU that ``flags`` name, or with BPF_F_ALL_CPUS on each."""
    width = round_up_8(len(value))
    if flags & BPF_F_ALL_CPUS:
        return value.ljust(width, b"\0") * (len(all_cpus) // width)
    return splice_cpu(all_cpus, value, flags >> CPU_SHIFT)


def splice_cpu(all_cpus: bytes, value: bytes, cpu: int) -> bytes:
    """``all_cpus`` with the part of ``cpu`` replaced by ``value``, as a program on that CPU writes it."""
    width = round_up_8(len(value))
    start = cpu * width
    return all_cpus[:start] + value + all_cpus[start + len(value) :]
