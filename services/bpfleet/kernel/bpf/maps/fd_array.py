"""PROG_ARRAY, PERF_EVENT_ARRAY, CGROUP_ARRAY [kernel/bpf/arraymap.c], since 4.2, 4.3, 4.8. All profiles.

At create: PROG_ARRAY an auxiliary struct (charged also with cgroup.memory=nobpf), then one area with the struct and a
pointer per slot. Per element: PERF_EVENT_ARRAY 40 bytes that nobody is charged for; what a slot refers to is held.
Freed with the map; a program array lets go of its programs when its last descriptor and pin are gone.
Known gap: the class names it.
"""

from typing import ClassVar, Final, Protocol

from bpfleet.abi.bpf import BPF_ANY, F_PRESERVE_ELEMS, F_RDONLY_PROG, F_WRONLY_PROG
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.maps.array import check_array, check_slots, slots
from bpfleet.kernel.bpf.maps.base import KeyBtf, unsupported
from bpfleet.kernel.bpf.maps.slot import SlotMap, empty_slot, slot_of
from bpfleet.kernel.bpf.refusals import refuse
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.deferred import RCU_GRACE_NS, WORK_ITEM_NS
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memory import Block
from bpfleet.kernel.proc.file import File
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile

SLOT_BYTES: Final = 8


class HeldObject(Protocol):
    """What a slot refers to, as far as the array cares."""

    @property
    def id(self) -> int: ...

    def get(self) -> None: ...

    def put(self) -> None: ...


class Program(HeldObject, Protocol):
    """A program, as far as tail calls through an array care."""

    @property
    def prog_type(self) -> int: ...

    @property
    def jited(self) -> bool: ...


class FdArrayMap(SlotMap[HeldObject]):
    """Slots that take a descriptor and hold what it refers to."""

    holds_fds = True
    delete_beyond = Errno.E2BIG
    delete_needs_entry = True

    @classmethod
    def check(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """fd_array_map_alloc_check. Raises EINVAL, E2BIG."""
        check_fd_array(attr, host.profile)

    @classmethod
    def check_alloc(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """E2BIG when the slots rounded up do not fit 32 bits."""
        check_slots(attr, task)

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """One area of pointers."""
        attr, profile = creation.attr, creation.profile
        size = fd_array_bytes(profile, slots(attr.max_entries, perfmon=creation.perfmon))
        return CostPlan(size, (Allocation("array", How.AREA, size),))

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """array_map_mem_usage."""
        return fd_array_bytes(profile, attr.max_entries)

    def acquire(self, fd: int, context: OpContext) -> HeldObject:
        """What descriptor ``fd`` of the caller refers to, with a reference taken. Raises EBADF, EINVAL."""
        raise NotImplementedError

    def dispose(self, held: HeldObject, *, deferred: bool) -> None:
        """Drops the reference of a slot."""
        held.put()

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """The id of what the slot holds. Raises ENOENT for an empty slot."""
        index = slot_of(key)
        held = self.slots.get(index)
        if held is None:
            raise empty_slot(index)
        return held.id.to_bytes(4, "little")

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Raises EINVAL for any flag, E2BIG beyond the end, and what `acquire` raises."""
        if flags != BPF_ANY:
            raise refuse(Errno.EINVAL, f"descriptors are stored with BPF_ANY, not {flags:#x}")
        index = self.slot_within(key)
        held = self.acquire(int.from_bytes(value, "little"), context)
        old = self.slots.get(index)
        self.slots[index] = held
        if old is not None:
            self.dispose(old, deferred=True)

    def let_go(self, entry: HeldObject, context: OpContext) -> None:
        """Drops the reference of a deleted slot."""
        self.dispose(entry, deferred=True)

    def clear(self) -> None:
        """Empties every slot [bpf_fd_array_map_clear]."""
        held = list(self.slots.values())
        self.slots.clear()
        for each in held:
            self.dispose(each, deferred=False)

    def free(self, cpu: int) -> None:
        """Lets go of what the slots hold."""
        self.clear()


class ProgArrayMap(FdArrayMap):
    """PROG_ARRAY: programs of one kind for tail calls. The first one stored decides which."""

    gap: ClassVar[str] = "poke tables of tail calls, charged to nobody, are not modelled"

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        self.owner: tuple[int, bool] | None = None  # (program type, jited)

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """The auxiliary struct, then the slots."""
        profile = creation.profile
        array = super().plan(creation)
        aux = Allocation(
            "aux", How.KMALLOC_ACCOUNT, profile.structs.bpf_array_aux, 1, GFP.GFP_KERNEL
        )
        return CostPlan(array.estimate_bytes, (aux, *array.allocations), 1)

    def acquire(self, fd: int, context: OpContext) -> HeldObject:
        """A program of the array's kind. Raises EBADF, EINVAL."""
        file = context.task.file(fd)
        if file.kind != "bpf-prog":
            raise _wrong_kind(fd, file, Errno.EINVAL, "program")
        program: Program = file.target  # type: ignore[assignment]
        kind = (int(program.prog_type), program.jited)
        if self.owner is None:
            self.owner = kind
        elif self.owner != kind:
            raise refuse(
                Errno.EINVAL, f"this array takes programs of type {self.owner[0]}, not {kind[0]}"
            )
        program.get()
        return program

    def release_user_refs(self) -> None:
        """Queues emptying the array, which keeps the map until then [prog_array_map_clear]."""
        self.get()
        self.site.timeline.defer(WORK_ITEM_NS, self._clear_and_put)

    def _clear_and_put(self) -> None:
        self.clear()
        self.put()


class _EventEntry:
    """One installed event [struct bpf_event_entry]: the perf event, and through which map descriptor it came."""

    __slots__ = ("block", "map_file", "perf_file")

    def __init__(self, perf_file: File, map_file: File | None, block: Block) -> None:
        self.perf_file: Final = perf_file
        self.map_file: Final = map_file
        self.block: Final = block

    @property
    def id(self) -> int:
        """Never shown: the type has no lookup."""
        return 0

    def get(self) -> None:
        """Entries are not shared."""

    def put(self) -> None:
        """Entries are freed by the map."""


class PerfEventArrayMap(FdArrayMap):
    """PERF_EVENT_ARRAY: events, removed when the map descriptor they were installed through is closed."""

    key_btf = KeyBtf.REFUSED

    def acquire(self, fd: int, context: OpContext) -> HeldObject:
        """A perf event. Raises EBADF for anything else, ENOMEM."""
        file = context.task.file(fd)
        if file.kind != "perf-event":
            raise _wrong_kind(fd, file, Errno.EBADF, "perf event")
        site, size = self.site, self.host.profile.structs.bpf_event_entry
        block = site.memory.kmalloc(size, GFP.GFP_KERNEL, None, context.task, site.owner)
        file.refs += 1
        return _EventEntry(file, context.map_file, block)

    def dispose(self, held: HeldObject, *, deferred: bool) -> None:
        """Frees the entry after a grace period, with its hold on the event's file."""
        assert isinstance(held, _EventEntry)
        self.site.timeline.defer(RCU_GRACE_NS, lambda: self._free_entry(held))

    def _free_entry(self, entry: _EventEntry) -> None:
        self.site.memory.free(entry.block)
        entry.perf_file.put(self.site.memory)

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """Always ENOTSUPP."""
        raise unsupported(self, "lookup")

    def release_file(self, file: File) -> None:
        """Removes what was installed through ``file``, unless BPF_F_PRESERVE_ELEMS [map_release]."""
        if self.map_flags & F_PRESERVE_ELEMS:
            return
        for index, held in list(self.slots.items()):
            if isinstance(held, _EventEntry) and held.map_file is file:
                del self.slots[index]
                self.dispose(held, deferred=True)


class _CgroupHold:
    """A cgroup in a slot; holding it keeps nothing alive that is modelled."""

    __slots__ = ("cgroup",)

    def __init__(self, cgroup: object) -> None:
        self.cgroup: Final = cgroup

    @property
    def id(self) -> int:
        """Never shown: the type has no lookup."""
        return 0

    def get(self) -> None:
        """No count is kept."""

    def put(self) -> None:
        """No count is kept."""


class CgroupArrayMap(FdArrayMap):
    """CGROUP_ARRAY: cgroup directories."""

    key_btf = KeyBtf.REFUSED

    def acquire(self, fd: int, context: OpContext) -> HeldObject:
        """A cgroup directory. Raises EBADF for anything else."""
        file = context.task.file(fd)
        if file.kind != "cgroup":
            raise _wrong_kind(fd, file, Errno.EBADF, "cgroup directory")
        return _CgroupHold(file.target)

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """Always ENOTSUPP."""
        raise unsupported(self, "lookup")


def check_fd_array(attr: MapAttr, profile: KernelProfile) -> None:
    """fd_array_map_alloc_check, also of ARRAY_OF_MAPS. Raises EINVAL, E2BIG."""
    if attr.value_size != 4:
        raise refuse(Errno.EINVAL, f"value size {attr.value_size}: descriptors are 4 bytes")
    if attr.map_flags & (F_RDONLY_PROG | F_WRONLY_PROG):
        raise refuse(Errno.EINVAL, "program access flags are not valid for arrays of descriptors")
    check_array(attr, profile)


def fd_array_bytes(profile: KernelProfile, slots_count: int) -> int:
    """Bytes of struct bpf_array with a pointer per slot."""
    return profile.structs.bpf_array + slots_count * SLOT_BYTES


def _wrong_kind(fd: int, file: File, errno: Errno, wanted: str) -> KernelError:
    return KernelError(
        errno, Reason.BAD_FILE_DESCRIPTOR, f"descriptor {fd} is a {file.kind}, not a {wanted}"
    )
