"""The commands of bpf(2) about programs, pins, BTF and information, and what hangs on them [kernel/bpf/syscall.c]."""

from collections.abc import Callable
from typing import Final

from bpfleet.abi.bpf import F_RDONLY, F_WRONLY, Capability
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.accounting.base import BpfAccounting
from bpfleet.kernel.bpf.attach import Attachments
from bpfleet.kernel.bpf.bpffs import BpfFs, Pinnable
from bpfleet.kernel.bpf.btf import BtfTable, BtfType
from bpfleet.kernel.bpf.command import Boundary, Cost, Created, command, system_call
from bpfleet.kernel.bpf.host import Host
from bpfleet.kernel.bpf.info import MapInfo, map_info
from bpfleet.kernel.bpf.map_create import check_unprivileged
from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.bpf.maps.local_storage import destroy_storage
from bpfleet.kernel.bpf.mmap import PROT_READ, Mappings
from bpfleet.kernel.bpf.object import MapTable, map_file
from bpfleet.kernel.bpf.prog import ProgInfo, Programs, RunResult
from bpfleet.kernel.bpf.program import BpfProg, ProgAttr, prog_of
from bpfleet.kernel.bpf.refusals import refuse
from bpfleet.kernel.cgroup.tree import Cgroup
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm.memcg import ObjCgroup
from bpfleet.kernel.mm.memory import Memory, Owner
from bpfleet.kernel.proc.fdtable import FileTable
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.timeline import Timeline

INT_MAX: Final = (1 << 31) - 1


class ObjectSyscalls(Boundary):
    """Commands on objects of any kind. The first argument is the calling task; every refusal is a KernelError."""

    def __init__(
        self,
        host: Host,
        memory: Memory,
        accounting: BpfAccounting,
        files: FileTable,
        timeline: Timeline,
        leave: Callable[[Task], None],
    ) -> None:
        self.host: Final = host
        self.memory: Final = memory
        self.accounting: Final = accounting
        self.files: Final = files
        self.timeline: Final = timeline
        self.map_table: Final = MapTable(accounting, timeline)
        self.fs: Final = BpfFs(memory)
        self.btf: Final = BtfTable(files)
        self.programs: Final = Programs(host, memory, accounting, files, timeline)
        self.attachments: Final = Attachments(self.programs, files)
        self.mappings: Final = Mappings(memory)
        self.leave = leave

    # -- programs ------------------------------------------------------------------------------------------------

    @command
    def prog_load(self, task: Task, attr: ProgAttr) -> Created:
        """BPF_PROG_LOAD. See `Programs.load` for what it refuses."""
        before = self.memory.charged_bytes_total
        fd = self.programs.load(task, attr)
        charged_bytes = self.memory.charged_bytes_total - before
        return Created(fd, Cost(task, prog_of(task, fd), charged_bytes, created=True))

    @command
    def prog_attach(
        self, task: Task, target_fd: int, prog_fd: int, attach_type: int, flags: int = 0
    ) -> None:
        """BPF_PROG_ATTACH to a cgroup; makes its cgroup storage. See `Attachments.attach`."""
        self.attachments.attach(task, target_fd, prog_fd, attach_type, flags)

    @command
    def prog_detach(
        self, task: Task, target_fd: int, prog_fd: int | None, attach_type: int
    ) -> None:
        """BPF_PROG_DETACH from a cgroup."""
        self.attachments.detach(task, target_fd, prog_fd, attach_type)

    @command
    def prog_test_run(
        self, task: Task, fd: int, *, repeat: int = 1, in_interrupt: bool = False
    ) -> RunResult:
        """BPF_PROG_TEST_RUN: the program's map operations, performed for the caller or as if it were interrupted."""
        return self.programs.test_run(task, fd, repeat=repeat, in_interrupt=in_interrupt)

    @command
    def open_hook(self, task: Task, hook: str, prog_fd: int, pid: int | None = None) -> int:
        """BPF_RAW_TRACEPOINT_OPEN and its like: puts a program on a named hook; the descriptor is the link."""
        return self.attachments.open_hook(task, hook, prog_fd, pid)

    @system_call
    def fire(self, hook: str, task: Task, times: int = 1) -> RunResult:
        """``task`` passes a hook ``times`` times: its programs run."""
        return self.attachments.fire(hook, task, times)

    @command
    def prog_get_next_id(self, task: Task, start_id: int) -> int:
        """BPF_PROG_GET_NEXT_ID. Raises EINVAL, EPERM, ENOENT after the last."""
        if not 0 <= start_id < INT_MAX:
            raise refuse(Errno.EINVAL, f"id {start_id} is out of range")
        require_sys_admin(task, "walking ids")
        return self.programs.ids.after(start_id)

    @command
    def prog_get_fd_by_id(self, task: Task, prog_id: int) -> int:
        """BPF_PROG_GET_FD_BY_ID. Raises EPERM, ENOENT, EMFILE, ENOMEM."""
        require_sys_admin(task, "opening by id")
        return self.programs.open(task, self.programs.ids.get(prog_id))

    def progs(self) -> list[BpfProg]:
        """Every program that still has its id, by id."""
        return self.programs.ids.all()

    # -- BTF and information -------------------------------------------------------------------------------------

    @command
    def btf_load(self, task: Task, types: tuple[BtfType, ...], size_bytes: int = 0) -> int:
        """BPF_BTF_LOAD. Raises EPERM, E2BIG, EMFILE, ENOMEM."""
        return self.btf.load(task, types, size_bytes)

    @command
    def obj_get_info_by_fd(self, task: Task, fd: int) -> MapInfo | ProgInfo:
        """BPF_OBJ_GET_INFO_BY_FD of a map or program. Raises EBADF, EINVAL."""
        file = task.file(fd)
        if isinstance(file.target, BpfMap):
            return map_info(file.target, file)
        if isinstance(file.target, BpfProg):
            return self.programs.info(file.target)
        raise _no_object(fd)

    # -- pins ----------------------------------------------------------------------------------------------------

    @command
    def obj_pin(self, task: Task, path: str, fd: int) -> None:
        """BPF_OBJ_PIN.

        Raises EINVAL (from 5.7 for a bad descriptor too, EBADF before), EEXIST, ENOENT, EPERM (a dot), ENAMETOOLONG,
        ENOMEM.
        """
        file = task.fds.get(fd)
        if file is None and not self.host.profile.pin_probes_every_kind:
            task.file(fd)  # EBADF
        target = None if file is None else file.target
        if not isinstance(target, BpfMap | BpfProg):
            raise _no_object(fd)
        self.fs.pin(task, path, target)
        if isinstance(target, BpfMap):
            target.get_with_uref()
        else:
            target.get()
        self._recharge(target, self.accounting.pin_payer(self.memory.controller.root.objcg), task)

    @command
    def obj_get(self, task: Task, path: str, open_flags: int = 0) -> int:
        """BPF_OBJ_GET. Raises EINVAL, ENOENT, EACCES, EMFILE, ENOMEM."""
        if open_flags & ~(F_RDONLY | F_WRONLY):
            raise refuse(Errno.EINVAL, f"open flags {open_flags:#x} are not valid")
        readable, writable = access_of(open_flags)
        target = self.fs.find(path)
        self._recharge(target, self.accounting.reopen_payer(task), task)
        if isinstance(target, BpfMap):
            return self._get_map(task, target, readable=readable, writable=writable)
        assert isinstance(target, BpfProg)
        if open_flags:
            raise refuse(Errno.EINVAL, "a program is opened without flags")
        return self.programs.open(task, target)

    def _recharge(self, target: Pinnable, payer: ObjCgroup | None, task: Task) -> None:
        """Moves all charges of an object to another payer, if a policy says so. Raises ENOMEM, then nothing moved."""
        if payer is None:
            return
        if isinstance(target, BpfMap):
            self.memory.recharge(target.site.owner, payer, task)
            target.site.creator = payer
        elif isinstance(target, BpfProg):
            self.memory.recharge(target.owner, payer, task)

    def _get_map(self, task: Task, bpf_map: BpfMap, *, readable: bool, writable: bool) -> int:
        bpf_map.get_with_uref()
        return self.open_map(task, bpf_map, readable=readable, writable=writable)

    def open_map(self, task: Task, bpf_map: BpfMap, *, readable: bool, writable: bool) -> int:
        """A descriptor for a reference already taken, which is given back on failure. Raises EMFILE, ENOMEM."""
        file = map_file(bpf_map, readable=readable, writable=writable)
        try:
            return self.files.open(task, file, Owner("file", bpf_map.id, "bpf-map"))
        except KernelError:
            bpf_map.put_with_uref()
            raise

    def unlink(self, task: Task, path: str) -> None:
        """unlink(2) in bpffs: the pin's reference goes. Raises ENOENT, EISDIR."""
        _drop_pin(self.fs.unlink(path, task.cpu))

    def mkdir(self, task: Task, path: str) -> None:
        """mkdir(2) in bpffs. Raises EEXIST, ENOENT, EPERM, ENAMETOOLONG."""
        self.fs.mkdir(path)

    # -- memory mappings -----------------------------------------------------------------------------------------

    def mmap(
        self,
        task: Task,
        fd: int,
        length: int,
        *,
        prot: int = PROT_READ,
        offset: int = 0,
        address: int = 0,
        shared: bool = True,
    ) -> int:
        """mmap(2) of a map; returns the address. See `Mappings.mmap` for what it refuses."""
        return self.mappings.mmap(
            task, fd, length, prot=prot, offset=offset, address=address, shared=shared
        )

    def munmap(self, task: Task, address: int) -> None:
        """munmap(2) of a whole mapping."""
        self.mappings.munmap(task, address)

    @system_call
    def touch_arena(self, task: Task, address: int, pages: int, first_page: int = 0) -> None:
        """Page faults of ``task`` on a mapped arena. Raises EFAULT, ENOMEM."""
        self.mappings.touch(task, address, first_page, pages)

    # -- other subsystems' ends ----------------------------------------------------------------------------------

    def release_task(self, task: Task) -> None:
        """A task has exited: its mappings, seccomp filters and task storage go."""
        self.mappings.release_task(task)
        self.attachments.release_task(task)
        destroy_storage(task, task.cpu)

    def release_cgroup(self, cgroup: Cgroup) -> None:
        """A cgroup has been removed: its programs, cgroup storage and local storage go."""
        self.attachments.release_cgroup(cgroup)
        destroy_storage(cgroup)

    @command
    def unknown_command(self, task: Task, command: int) -> None:
        """bpf(2) with a command number no kernel here knows, or of one that asks for what it does not have: EINVAL."""
        raise refuse(Errno.EINVAL, f"bpf command {command} is not known")

    # -- shared --------------------------------------------------------------------------------------------------

    def enter(self, task: Task) -> None:
        """kernel.unprivileged_bpf_disabled at the entry of bpf(2), where it closes every command (up to 5.18)."""
        check_unprivileged(self.host, task, creates=False)


def access_of(open_flags: int) -> tuple[bool, bool]:
    """(readable, writable) of BPF_F_RDONLY and BPF_F_WRONLY. Raises EINVAL for both [bpf_get_file_flag]."""
    if open_flags & F_RDONLY and open_flags & F_WRONLY:
        raise refuse(Errno.EINVAL, "BPF_F_RDONLY and BPF_F_WRONLY exclude each other")
    return not open_flags & F_WRONLY, not open_flags & F_RDONLY


def require_sys_admin(task: Task, what: str) -> None:
    """Raises EPERM without CAP_SYS_ADMIN."""
    if not task.has(Capability.SYS_ADMIN):
        raise KernelError(Errno.EPERM, Reason.CAPABILITY_MISSING, f"{what} needs CAP_SYS_ADMIN")


def _drop_pin(target: Pinnable) -> None:
    if isinstance(target, BpfMap):
        target.put_with_uref()
    else:
        assert isinstance(target, BpfProg)
        target.put()


def _no_object(fd: int) -> KernelError:
    return KernelError(
        Errno.EINVAL, Reason.BAD_FILE_DESCRIPTOR, f"descriptor {fd} is neither map nor program"
    )
