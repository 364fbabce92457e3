"""bpf(2): one method per command, each in the kernel's order of checks [kernel/bpf/syscall.c].

The first argument is the calling task; descriptors are its own. Every refusal is a KernelError.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Final, final

from bpfleet.abi.bpf import BPF_F_CPU, BPF_F_LOCK, F_RDONLY, F_WRONLY, F_ZERO_SEED, Cmd, MapType
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import KMALLOC_MAX_SIZE, U32_MAX
from bpfleet.chance import splitmix64
from bpfleet.kernel.bpf import batch
from bpfleet.kernel.bpf.accounting.base import BpfAccounting
from bpfleet.kernel.bpf.attr import Address, MapAttr, UserBytes
from bpfleet.kernel.bpf.batch import BatchResult
from bpfleet.kernel.bpf.btf import check_map_btf
from bpfleet.kernel.bpf.command import Cost, Created, Taken, command
from bpfleet.kernel.bpf.cost import Creation
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.info import MapInfo, map_info
from bpfleet.kernel.bpf.map_create import (
    allocate,
    check_attr,
    check_name,
    check_unprivileged,
    selected_memcg,
    without_token,
)
from bpfleet.kernel.bpf.maps.base import (
    CPU_SHIFT,
    BpfMap,
    check_op_flags,
    check_value_lock,
    given_value_size,
    of_cpu,
    unsupported,
)
from bpfleet.kernel.bpf.maps.bloom_filter import BloomFilterMap
from bpfleet.kernel.bpf.maps.queue_stack import QueueStackMap
from bpfleet.kernel.bpf.object_syscall import (
    INT_MAX,
    ObjectSyscalls,
    access_of,
    require_sys_admin,
)
from bpfleet.kernel.bpf.refusals import refuse
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.events import EventKind
from bpfleet.kernel.mm.memory import Memory, Owner
from bpfleet.kernel.proc.fdtable import FileTable
from bpfleet.kernel.proc.file import File
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.timeline import Timeline

ONE_CPU: Final = BPF_F_CPU | U32_MAX << CPU_SHIFT  # what a lookup takes of a CPU


@final
class BpfSyscalls(ObjectSyscalls):
    """The commands of one node; those on programs, pins and information are in `ObjectSyscalls`."""

    def __init__(
        self,
        host: Host,
        memory: Memory,
        accounting: BpfAccounting,
        files: FileTable,
        timeline: Timeline,
        leave: Callable[[Task], None],
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(host, memory, accounting, files, timeline, leave)
        self._seed: Final = seed

    # -- creation ------------------------------------------------------------------------------------------------

    @command
    def map_create(self, task: Task, attr: MapAttr) -> Created:
        """BPF_MAP_CREATE."""
        before = self.memory.charged_bytes_total
        host = self.host
        check_unprivileged(host, task, creates=True)
        flags = without_token(attr.map_flags, host.profile)
        wants_token = flags != attr.map_flags
        attr = _shared(replace(attr, map_flags=flags))
        cls = check_attr(attr, host, task, wants_token=wants_token)
        bpf_map = self._allocate(task, attr, cls)
        try:
            bpf_map.after_alloc(task)
            check_name(attr.map_name)
            bpf_map.hold_btf(check_map_btf(bpf_map, attr, task, host.profile))
        except KernelError:
            self.map_table.destroy(bpf_map, task.cpu)
            raise
        self._publish(task, bpf_map)
        bpf_map.get_with_uref()
        fd = self.open_map(
            task,
            bpf_map,
            readable=not attr.map_flags & F_WRONLY,
            writable=not attr.map_flags & F_RDONLY,
        )
        charged_bytes = self.memory.charged_bytes_total - before
        return Created(fd, Cost(task, bpf_map, charged_bytes, created=True))

    def _allocate(self, task: Task, attr: MapAttr, cls: type[BpfMap]) -> BpfMap:
        host, profile = self.host, self.host.profile
        attr = cls.effective(attr, host.possible_cpus)
        plan = cls.plan(Creation(attr, profile, host.possible_cpus, task.perfmon_capable()))
        owner = Owner("map", 0, attr.map_name)
        site = AllocSite(self.memory, self.accounting, profile, owner, self.timeline)
        site.selected = selected_memcg(attr, task)
        holder = f"map {self.map_table.ids.next_id}"
        charge = allocate(plan, cls, site, self.accounting, task, holder)
        bpf_map = cls(attr, host, site)
        bpf_map.charge = charge
        bpf_map.estimate_bytes = plan.estimate_bytes
        return bpf_map

    def _publish(self, task: Task, bpf_map: BpfMap) -> None:
        """Gives the map its id and its owner record; from here on others can find it."""
        self.map_table.publish(bpf_map)
        bpf_map.site.record_creator(task)
        bpf_map.creator_uid = task.uid
        bpf_map.creator_cgroup = task.cgroup.path
        for caches in bpf_map.site.mem_allocs:
            caches.late_refill = self.host.late_refill
        if not bpf_map.map_flags & F_ZERO_SEED:
            bpf_map.hash_seed = splitmix64(self._seed, bpf_map.id) & U32_MAX
        self.timeline.emit(
            EventKind.MAP_CREATED,
            id=bpf_map.id,
            type=bpf_map.map_type.name.lower(),
            name=bpf_map.name,
            pid=task.pid,
            cgroup=task.cgroup.path,
        )

    # -- elements ------------------------------------------------------------------------------------------------

    @command
    def map_lookup_elem(
        self,
        task: Task,
        fd: int,
        key: UserBytes,
        flags: int = 0,
        value: UserBytes = b"",
        out: Address = Address.GOOD,
    ) -> bytes:
        """BPF_MAP_LOOKUP_ELEM. ``value`` is what the value pointer holds before, which only bloom filters read."""
        allowed = BPF_F_LOCK | ONE_CPU if self.host.profile.has_cpu_flags else BPF_F_LOCK
        if flags & ~allowed:
            raise refuse(Errno.EINVAL, f"lookup flags {flags:#x} are not valid")
        bpf_map, file = self._map_and_file(task, fd)
        if not file.readable:
            raise _access(fd, "read")
        if flags:
            check_op_flags(bpf_map, flags, BPF_F_LOCK | BPF_F_CPU)
        copied = _copy_key(bpf_map, key)
        if isinstance(bpf_map, BloomFilterMap):
            # A value that was not given reads as zeros, of which only a sane number is made.
            size = bpf_map.user_value_size
            unset = value == b"" and size <= KMALLOC_MAX_SIZE
            wanted = _copy_value(size, bytes(size) if unset else value)
            bpf_map.peek(wanted)
            return wanted
        found = bpf_map.lookup(copied, OpContext(task, map_file=file))
        if out is not Address.GOOD:
            raise _fault()
        return of_cpu(found, flags, bpf_map.value_size) if flags else found

    @command
    def map_update_elem(
        self, task: Task, fd: int, key: UserBytes, value: UserBytes, flags: int = 0
    ) -> int:
        """BPF_MAP_UPDATE_ELEM; push for queues, stacks and bloom filters. Returns the bytes it charged."""
        memory = self.memory
        before = memory.charged_bytes_total
        bpf_map, file = self._map_and_file(task, fd)
        self._check_writable(bpf_map, file, fd)
        size = bpf_map.user_value_size
        if flags and self.host.profile.has_cpu_flags:
            check_op_flags(bpf_map, flags, U32_MAX)
            size = given_value_size(bpf_map, flags)
        elif flags:
            check_value_lock(bpf_map, flags)
        copied = _copy_key(bpf_map, key)
        given = _copy_value(size, value)
        bpf_map.update(copied, given, flags, OpContext(task, map_file=file))
        charged_bytes = memory.charged_bytes_total - before
        if self.host.late_refill:
            self._refill(bpf_map, task)
        return charged_bytes

    @command
    def map_delete_elem(self, task: Task, fd: int, key: UserBytes, flags: int = 0) -> int:
        """BPF_MAP_DELETE_ELEM. It has no flags: anything in the fields after the key is EINVAL.

        Returns the bytes it charged: below 0 where it gave some back at once.
        """
        before = self.memory.charged_bytes_total
        if flags:
            raise refuse(Errno.EINVAL, "map_delete_elem takes neither value nor flags")
        bpf_map, file = self._map_and_file(task, fd)
        self._check_writable(bpf_map, file, fd)
        bpf_map.delete(_copy_key(bpf_map, key), OpContext(task, map_file=file))
        return self.memory.charged_bytes_total - before

    @command
    def map_get_next_key(
        self, task: Task, fd: int, key: UserBytes, out: Address = Address.GOOD
    ) -> bytes:
        """BPF_MAP_GET_NEXT_KEY; a NULL key asks for the first."""
        bpf_map, file = self._map_and_file(task, fd)
        if not file.readable:
            raise _access(fd, "read")
        following = bpf_map.next_key(None if key is None else _copy_key(bpf_map, key))
        if out is not Address.GOOD:
            raise _fault()
        return following

    @command
    def map_lookup_and_delete_elem(
        self,
        task: Task,
        fd: int,
        key: UserBytes,
        flags: int = 0,
        out: Address = Address.GOOD,
    ) -> Taken:
        """BPF_MAP_LOOKUP_AND_DELETE_ELEM; pop for queues and stacks. A bad out pointer still loses the value."""
        before = self.memory.charged_bytes_total
        profile = self.host.profile
        if flags & (~BPF_F_LOCK if profile.hash_lookup_and_delete else ~0):
            raise refuse(Errno.EINVAL, f"lookup_and_delete flags {flags:#x} are not valid")
        bpf_map, file = self._map_and_file(task, fd)
        self._check_writable(bpf_map, file, fd, also_read=True)
        queue = isinstance(bpf_map, QueueStackMap)
        if flags and queue:
            raise refuse(Errno.EINVAL, "a queue or stack takes no flags")
        check_value_lock(bpf_map, flags)
        copied = _copy_key(bpf_map, key)
        if not bpf_map.has_lookup_and_delete(profile):
            raise unsupported(bpf_map, "lookup_and_delete")
        context = OpContext(task, map_file=file)
        found = bpf_map.lookup_and_delete(copied, flags, context)
        if out is not Address.GOOD:
            raise _fault()
        return Taken(found, self.memory.charged_bytes_total - before)

    @command
    def map_freeze(self, task: Task, fd: int, flags: int = 0) -> None:
        """BPF_MAP_FREEZE: no system call writes any more. Raises EINVAL, ENOTSUPP, EPERM, EBUSY."""
        if flags:
            raise refuse(Errno.EINVAL, "map_freeze takes a descriptor only")
        bpf_map, file = self._map_and_file(task, fd)
        if bpf_map.map_type is MapType.STRUCT_OPS:
            raise unsupported(bpf_map, "freeze")
        by_access = self.host.profile.freeze_checks_access
        if by_access:
            if bpf_map.has_spin_lock:
                raise unsupported(bpf_map, "freeze")
            self._check_writable(bpf_map, file, fd)
        if bpf_map.write_mappings or bpf_map.frozen:
            raise KernelError(
                Errno.EBUSY, Reason.OBJECT_BUSY, f"map {bpf_map.id} is frozen or being written"
            )
        if not by_access and not task.bpf_capable():
            raise KernelError(
                Errno.EPERM, Reason.CAPABILITY_MISSING, "freezing a map needs CAP_BPF"
            )
        bpf_map.frozen = True

    # -- batches -------------------------------------------------------------------------------------------------

    @command
    def map_update_batch(
        self,
        task: Task,
        fd: int,
        keys: UserBytes,
        values: UserBytes,
        count: int,
        elem_flags: int = 0,
        flags: int = 0,
    ) -> BatchResult:
        """BPF_MAP_UPDATE_BATCH: keys and values one after the other, up to the first error, which is in the result."""
        before = self.memory.charged_bytes_total
        bpf_map, context = self._batch(task, fd, Cmd.MAP_UPDATE_BATCH)
        done = batch.update_batch(bpf_map, keys, values, count, elem_flags, context)
        done.charged_bytes = self.memory.charged_bytes_total - before
        if self.host.late_refill:
            self._refill(bpf_map, task)
        return done

    @command
    def map_delete_batch(
        self,
        task: Task,
        fd: int,
        keys: UserBytes,
        count: int,
        elem_flags: int = 0,
        flags: int = 0,
    ) -> BatchResult:
        """BPF_MAP_DELETE_BATCH. Stops at the first error, which is in the result."""
        before = self.memory.charged_bytes_total
        bpf_map, context = self._batch(task, fd, Cmd.MAP_DELETE_BATCH)
        done = batch.delete_batch(bpf_map, keys, count, elem_flags, context)
        done.charged_bytes = self.memory.charged_bytes_total - before
        return done

    @command
    def map_lookup_batch(
        self,
        task: Task,
        fd: int,
        in_batch: UserBytes,
        count: int,
        elem_flags: int = 0,
        flags: int = 0,
        *,
        out: Address = Address.GOOD,
    ) -> BatchResult:
        """BPF_MAP_LOOKUP_BATCH: up to ``count`` elements from ``in_batch`` on, ENOENT in the result at the end."""
        bpf_map, context = self._batch(task, fd, Cmd.MAP_LOOKUP_BATCH)
        return batch.lookup_batch(
            bpf_map, in_batch, count, elem_flags, flags, context, delete=False, out=out
        )

    @command
    def map_lookup_and_delete_batch(
        self,
        task: Task,
        fd: int,
        in_batch: UserBytes,
        count: int,
        elem_flags: int = 0,
        flags: int = 0,
        *,
        out: Address = Address.GOOD,
    ) -> BatchResult:
        """BPF_MAP_LOOKUP_AND_DELETE_BATCH: as lookup, removing what it returns."""
        before = self.memory.charged_bytes_total
        bpf_map, context = self._batch(task, fd, Cmd.MAP_LOOKUP_AND_DELETE_BATCH)
        done = batch.lookup_batch(
            bpf_map, in_batch, count, elem_flags, flags, context, delete=True, out=out
        )
        done.charged_bytes = self.memory.charged_bytes_total - before
        return done

    def _batch(self, task: Task, fd: int, command: Cmd) -> tuple[BpfMap, OpContext]:
        """The map of a batch, after the checks all batches share [bpf_map_do_batch]."""
        if not self.host.profile.has_batch:
            raise refuse(Errno.EINVAL, f"{self.host.profile.release} has no {command.name.lower()}")
        bpf_map, file = self._map_and_file(task, fd)
        reads = command in (Cmd.MAP_LOOKUP_BATCH, Cmd.MAP_LOOKUP_AND_DELETE_BATCH)
        if reads and not file.readable:
            raise _access(fd, "read")
        if command is not Cmd.MAP_LOOKUP_BATCH:
            self._check_writable(bpf_map, file, fd)
        if command not in bpf_map.batch_commands(self.host.profile):
            raise unsupported(bpf_map, command.name.lower())
        return bpf_map, OpContext(task, map_file=file)

    # -- ids and information -------------------------------------------------------------------------------------

    @command
    def map_get_next_id(self, task: Task, start_id: int) -> int:
        """BPF_MAP_GET_NEXT_ID. Raises EINVAL, EPERM, ENOENT after the last."""
        if not 0 <= start_id < INT_MAX:
            raise refuse(Errno.EINVAL, f"id {start_id} is out of range")
        require_sys_admin(task, "walking ids")
        return self.map_table.ids.after(start_id)

    @command
    def map_get_fd_by_id(self, task: Task, map_id: int, open_flags: int = 0) -> int:
        """BPF_MAP_GET_FD_BY_ID. Raises EINVAL, EPERM, ENOENT, EMFILE, ENOMEM."""
        if open_flags & ~(F_RDONLY | F_WRONLY):
            raise refuse(Errno.EINVAL, f"open flags {open_flags:#x} are not valid")
        require_sys_admin(task, "opening by id")
        readable, writable = access_of(open_flags)
        bpf_map = self.map_table.ids.get(map_id)
        bpf_map.get_with_uref()
        return self.open_map(task, bpf_map, readable=readable, writable=writable)

    @command
    def map_info(self, task: Task, fd: int) -> MapInfo:
        """BPF_OBJ_GET_INFO_BY_FD of a map, and the lines of its fdinfo. Raises EBADF, EINVAL."""
        return map_info(*self._map_and_file(task, fd))

    def maps(self) -> list[BpfMap]:
        """Every map that still has its id, by id."""
        return self.map_table.ids.all()

    # -- shared --------------------------------------------------------------------------------------------------

    def _map_and_file(self, task: Task, fd: int) -> tuple[BpfMap, File]:
        """The map behind a descriptor. Raises EBADF, EINVAL [__bpf_map_get]."""
        file = task.file(fd)
        target = file.target
        if not isinstance(target, BpfMap):
            raise KernelError(
                Errno.EINVAL,
                Reason.BAD_FILE_DESCRIPTOR,
                f"descriptor {fd} is a {file.kind}, not a map",
            )
        return target, file

    def _check_writable(
        self, bpf_map: BpfMap, file: File, fd: int, *, also_read: bool = False
    ) -> None:
        """Raises EPERM for a read-only descriptor or a frozen map [map_get_sys_perms]."""
        if also_read and not file.readable:
            raise _access(fd, "read")
        if not file.writable:
            raise _access(fd, "write")
        if bpf_map.frozen:
            raise KernelError(
                Errno.EPERM, Reason.MAP_FROZEN, f"map {bpf_map.id} is frozen", id=bpf_map.id
            )

    def _refill(self, bpf_map: BpfMap, task: Task) -> None:
        """Late irq_work: the caches catch up when the call returns."""
        for caches in bpf_map.site.mem_allocs:
            caches.refill(task.cpu)


@lru_cache(4096)
def _shared(attr: MapAttr) -> MapAttr:
    """The nodes of a fleet create the same maps: one record for equal attributes."""
    return attr


def _copy_key(bpf_map: BpfMap, key: UserBytes) -> bytes:
    """__bpf_copy_key. Raises EFAULT; EINVAL for a key where the type has none, or of another length."""
    if isinstance(key, bytes):
        if len(key) == bpf_map.key_size and key:
            return key
        raise refuse(
            Errno.EINVAL, f"the key has {len(key)} bytes, this map's keys have {bpf_map.key_size}"
        )
    if bpf_map.key_size:
        raise _fault()
    if key is Address.BAD:
        raise refuse(Errno.EINVAL, "this map type has no keys, the key pointer must be NULL")
    return b""


def _copy_value(size: int, value: UserBytes) -> bytes:
    """Raises EFAULT; EINVAL for a value that has not ``size`` bytes."""
    if not isinstance(value, bytes):
        if size:
            raise _fault()
        return b""
    if len(value) != size:
        raise refuse(
            Errno.EINVAL, f"the value has {len(value)} bytes, this map's values have {size}"
        )
    return value


def _access(fd: int, what: str) -> KernelError:
    return KernelError(
        Errno.EPERM, Reason.MAP_ACCESS_MODE, f"descriptor {fd} was not opened to {what}", fd=fd
    )


def _fault() -> KernelError:
    return KernelError(Errno.EFAULT, Reason.BAD_ADDRESS, "a pointer is not mapped")
