"""What every map type is made of: its checks, its cost plan, its operations, and the memory it holds."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import ClassVar, Final, Protocol, final

from bpfleet.abi.bpf import BPF_F_LOCK, F_RDONLY, F_WRONLY, Cmd, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel import deferred
from bpfleet.kernel.bpf.accounting.base import NO_CHARGE, BpfAccounting, Charge
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, How
from bpfleet.kernel.bpf.memalloc import BpfMemAlloc
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.current import KernelContext
from bpfleet.kernel.mm.memcg import Memcg, ObjCgroup
from bpfleet.kernel.mm.memory import Account, AllocKind, AllocSize, Block, Memory, Owner
from bpfleet.kernel.proc.file import File
from bpfleet.kernel.proc.sockets import Inode
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile, Memlock
from bpfleet.kernel.timeline import Timeline
from bpfleet.kernel.units import PAGE_SHIFT, bytes_of, pages_for, round_up_8

RCU_GRACE_NS: Final = deferred.RCU_GRACE_NS
WORK_ITEM_NS: Final = deferred.WORK_ITEM_NS

BATCH_NONE: Final[frozenset[Cmd]] = frozenset()
BATCH_LOOKUP_UPDATE: Final = frozenset({Cmd.MAP_LOOKUP_BATCH, Cmd.MAP_UPDATE_BATCH})
BATCH_NO_LOOKUP_AND_DELETE: Final = BATCH_LOOKUP_UPDATE | {Cmd.MAP_DELETE_BATCH}
BATCH_ALL: Final = BATCH_NO_LOOKUP_AND_DELETE | {Cmd.MAP_LOOKUP_AND_DELETE_BATCH}


@final
class Host:
    """What map code may know of the node: the profile, its CPUs, its sysctls. No memory, no tasks.

    ``late_refill``: bpf_mem_alloc caches are refilled only when a system call ends (memalloc.py).
    """

    __slots__ = (
        "anon_inode",
        "ifindexes",
        "jit_always_on",
        "jit_limit_bytes",
        "late_refill",
        "perf_event_max_stack",
        "possible_cpus",
        "profile",
        "unprivileged_bpf_disabled",
        "vmlinux_btf_parsed",
    )

    def __init__(self, profile: KernelProfile, possible_cpus: int) -> None:
        self.profile: Final = profile
        self.possible_cpus: Final = possible_cpus
        self.perf_event_max_stack = 127
        self.unprivileged_bpf_disabled = 2
        self.jit_limit_bytes = profile.bpf_jit_limit_bytes
        self.jit_always_on = profile.bpf_jit_always_on
        self.late_refill = False
        self.ifindexes = frozenset({1})  # network devices of the node: the loopback device
        self.anon_inode: Final = Inode("anon_inode")  # all anonymous descriptors share it
        self.vmlinux_btf_parsed = False  # the verifier parses it when it first runs


@final
class OpContext:
    """Who runs a map operation: the task, and whether from a program in interrupt context.

    ``from_prog`` operations see values, not user copies, and set LRU reference bits. ``map_file`` is the open file the
    map was reached through, None for programs.
    """

    __slots__ = ("cpu", "from_prog", "in_interrupt", "map_file", "task")

    def __init__(
        self,
        task: Task,
        *,
        from_prog: bool = False,
        in_interrupt: bool = False,
        map_file: File | None = None,
    ) -> None:
        self.task: Final = task
        self.from_prog: Final = from_prog
        self.in_interrupt: Final = in_interrupt
        self.cpu: Final = task.cpu
        self.map_file: Final = map_file


@final
class AllocSite:
    """Where one map's memory comes from: executes its plan, then serves its elements.

    ``creator`` is the owner record (map->objcg); None for a map made in the root cgroup. ``mem_allocs`` are the
    map's bpf_mem_alloc instances in plan order.
    """

    __slots__ = (
        "_pending",
        "accounting",
        "blocks",
        "creator",
        "mem_allocs",
        "memory",
        "owner",
        "owner_memcg",
        "profile",
        "recorded",
        "timeline",
    )

    def __init__(
        self,
        memory: Memory,
        accounting: BpfAccounting,
        profile: KernelProfile,
        owner: Owner,
        timeline: Timeline,
    ) -> None:
        self.memory: Final = memory
        self.accounting: Final = accounting
        self.profile: Final = profile
        self.owner: Final = owner
        self.timeline: Final = timeline
        self.blocks: Final[list[Block]] = []
        self.mem_allocs: tuple[BpfMemAlloc, ...] = ()
        self.creator: ObjCgroup | None = None
        self.owner_memcg: Memcg | None = (
            None  # up to 5.19 the record is the memcg itself, kept alive by it
        )
        self.recorded = False
        self._pending: dict[tuple[Account, AllocSize], int] | None = None

    # -- creation ------------------------------------------------------------------------------------------------

    def execute(self, allocation: Allocation, task: Task) -> None:
        """Makes one allocation of the plan. Raises KernelError(ENOMEM); prefill failures are silent, as in Linux."""
        memory, how, size = self.memory, allocation.how, allocation.size_bytes
        payer = self._creation_payer(how, task)
        if how is How.AREA:
            for _ in range(allocation.count):
                self.blocks.append(memory.area(size, payer, task, self.owner))
        elif how is How.AREA_MMAPABLE:
            gfp = GFP.GFP_KERNEL | GFP.RETRY_MAYFAIL | GFP.NOWARN
            self.blocks.append(memory.vmalloc(size, gfp, payer, task, self.owner))
        elif how is How.PAGES:
            gfp = GFP.GFP_KERNEL | GFP.RETRY_MAYFAIL | GFP.NOWARN
            block = memory.alloc_pages(allocation.count, gfp, payer, task, self.owner)
            self.blocks.append(block)
        elif how in (How.HELPER_PERCPU, How.PERCPU_UNCHARGED):
            block = memory.alloc_percpu(
                size, allocation.count, allocation.gfp, payer, task, self.owner
            )
            self.blocks.append(block)
        elif how in (How.MEM_ALLOC, How.MEM_ALLOC_PERCPU):
            self._make_mem_alloc(allocation, payer, task)
        else:
            for _ in range(allocation.count):
                self.blocks.append(memory.kmalloc(size, allocation.gfp, payer, task, self.owner))

    def _make_mem_alloc(self, allocation: Allocation, payer: ObjCgroup | None, task: Task) -> None:
        caches = BpfMemAlloc(
            self.memory,
            self.timeline,
            self.owner,
            payer,
            allocation.size_bytes,
            percpu=allocation.how is How.MEM_ALLOC_PERCPU,
        )
        self.mem_allocs += (caches,)
        caches.prefill(allocation.count // self.memory.possible_cpus, allocation.gfp, task)

    def _creation_payer(self, how: How, task: Task) -> ObjCgroup | None:
        if how in (How.HELPER_KMALLOC, How.HELPER_PERCPU):
            return self.accounting.creation_helper_payer(task)
        if how in (How.PAGES, How.KMALLOC_ACCOUNT):
            return None if self.profile.is_rlimit else task.objcg
        if how in (How.KMALLOC_UNCHARGED, How.PERCPU_UNCHARGED):
            return None
        return self.accounting.current_payer(task)

    def record_creator(self, task: Task) -> None:
        """Saves the owner record, after the map's body has been allocated [bpf_map_save_memcg]."""
        self.creator = self.accounting.current_payer(task)
        self.recorded = True
        if self.creator is not None and not self.profile.map_holds_objcg:
            self.owner_memcg = self.creator.memcg
            self.owner_memcg.pins += 1

    # -- elements ------------------------------------------------------------------------------------------------

    def element_account(self, context: OpContext, kind: AllocKind) -> Account:
        """The account that pays for an element made now."""
        payer = self.accounting.element_payer(
            self.creator, context.task.objcg, in_interrupt=context.in_interrupt
        )
        return self.memory.account(self.owner, kind, payer)

    def element_gfp(self) -> int:
        """GFP_NOWAIT from 6.0, GFP_ATOMIC before."""
        return GFP.GFP_NOWAIT if self.profile.elements_nowait else GFP.GFP_ATOMIC

    def take_element(self, size: AllocSize, context: OpContext, gfp: int) -> Account:
        """Takes one element's object; returns the account that must get it back. Raises KernelError(ENOMEM)."""
        account = self.element_account(context, size.kind)
        memcg = self.owner_memcg
        if memcg is not None and size.is_page_charged and account.objcg is self.creator:
            # Charged by page, so to the recorded memcg even after its removal, under its old limit.
            account = self.memory.account(self.owner, size.kind, memcg.css_ref)
        current = KernelContext(context.cpu) if context.in_interrupt else context.task
        self.memory.take(account, size, gfp, current)
        return account

    def give_element(self, account: Account, size: AllocSize, cpu: int) -> None:
        """Gives one element's object back to the account it came from."""
        self.memory.give(account, size, cpu)

    def give_after_rcu(self, account: Account, size: AllocSize, count: int = 1) -> None:
        """Gives element objects back when a grace period has passed [kfree_rcu]. One callback serves many."""
        pending = self._pending
        if pending is None:
            pending = self._pending = {}
            self.timeline.defer(RCU_GRACE_NS, self._grace_over)
        key = (account, size)
        pending[key] = pending.get(key, 0) + count

    def _grace_over(self, cpu: int = 0) -> None:
        pending, self._pending = self._pending, None
        for (account, size), count in (pending or {}).items():
            self.memory.give(account, size, cpu, count)

    def free_all(self, cpu: int = 0) -> None:
        """Frees what waits for RCU, the caches, and everything the plan allocated, in reverse order."""
        self._grace_over(cpu)
        for caches in reversed(self.mem_allocs):
            caches.destroy(cpu)
        self.mem_allocs = ()
        while self.blocks:
            self.memory.free(self.blocks.pop(), cpu)
        memcg, self.owner_memcg = self.owner_memcg, None
        if memcg is not None:
            memcg.pins -= 1
            self.memory.controller.release_if_unused(memcg)


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
    def plan(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, *, perfmon: bool = True
    ) -> CostPlan:
        """The cost of creating a map with effective ``attr``. ``perfmon``: the creator has CAP_PERFMON."""
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

    def release_user_refs(self) -> None:
        """The last descriptor and pin are gone [map_release_uref]; programs may still hold the map."""

    def release_file(self, file: File) -> None:
        """One open file of the map is gone [map_release]."""

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
        """Bytes now charged to memcgs for this map, whoever pays."""
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
    return pages_for(max_entries * round_up_8(key_size + value_size)) << PAGE_SHIFT


def unsupported(bpf_map: BpfMap, operation: str) -> KernelError:
    """ENOTSUPP (524): the type has no such operation."""
    return KernelError(
        Errno.ENOTSUPP,
        Reason.OPERATION_UNSUPPORTED,
        f"{bpf_map.map_type.name.lower()} has no {operation}",
    )


def refuse(errno: Errno, detail: str, reason: Reason = Reason.BAD_ATTRIBUTE) -> KernelError:
    """A KernelError to raise for a bad attribute or argument."""
    return KernelError(errno, reason, detail)


def not_found(detail: str = "no such key") -> KernelError:
    """ENOENT for a key that is not in the map."""
    return KernelError(Errno.ENOENT, Reason.KEY_NOT_FOUND, detail)


def key_exists() -> KernelError:
    """EEXIST: BPF_NOEXIST on a key that is there."""
    return KernelError(Errno.EEXIST, Reason.KEY_EXISTS, "the key exists and BPF_NOEXIST was given")


def map_full(errno: Errno, max_entries: int) -> KernelError:
    """The type's errno for a map that holds ``max_entries`` elements."""
    return KernelError(
        errno,
        Reason.MAP_FULL,
        f"the map holds its {max_entries} entries",
        max_entries=max_entries,
    )


def require_bpf(host: Host, task: Task) -> None:
    """The CAP_BPF test inside a type's own check, up to 6.4; later kernels test centrally. Raises EPERM."""
    if not host.profile.capability_check_central and not task.bpf_capable():
        raise KernelError(Errno.EPERM, Reason.CAPABILITY_MISSING, "this map type needs CAP_BPF")


def check_value_lock(bpf_map: BpfMap, flags: int) -> None:
    """BPF_F_LOCK needs a spin lock in the value. Raises EINVAL."""
    if flags & BPF_F_LOCK and not bpf_map.has_spin_lock:
        raise refuse(Errno.EINVAL, "BPF_F_LOCK needs a bpf_spin_lock in the value's BTF")
