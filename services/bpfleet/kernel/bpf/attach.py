"""Where programs hang: cgroups, hooks, seccomp [kernel/bpf/cgroup.c, kernel/trace/bpf_trace.c].

Attaching to a cgroup makes the program's cgroup storage there. A hook is a named place (a tracepoint, a perf event)
that runs its programs whenever the owner of the kernel fires it.
"""

from dataclasses import dataclass
from typing import Final, final

from bpfleet.abi.bpf import (
    BPF_F_ALLOW_MULTI,
    BPF_F_ALLOW_OVERRIDE,
    AttachType,
    Capability,
    ProgType,
)
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.host import OpContext
from bpfleet.kernel.bpf.maps.cgroup_storage import CgroupStorageMap
from bpfleet.kernel.bpf.prog import Programs, RunResult
from bpfleet.kernel.bpf.prog_types import CGROUP_PROG_OF, EXACT_ATTACH
from bpfleet.kernel.bpf.program import BpfProg, prog_of, prog_of_type
from bpfleet.kernel.bpf.refusals import refuse
from bpfleet.kernel.cgroup.tree import Cgroup
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm.memory import Owner
from bpfleet.kernel.proc.fdtable import FileTable
from bpfleet.kernel.proc.file import File
from bpfleet.kernel.proc.task import Task

FLAGS: Final = BPF_F_ALLOW_OVERRIDE | BPF_F_ALLOW_MULTI
PROGS_MAX: Final = 64  # BPF_CGROUP_MAX_PROGS
HOOK_TYPES: Final = frozenset(
    {
        ProgType.KPROBE,
        ProgType.TRACEPOINT,
        ProgType.PERF_EVENT,
        ProgType.RAW_TRACEPOINT,
        ProgType.RAW_TRACEPOINT_WRITABLE,
        ProgType.TRACING,
        ProgType.LSM,
    }
)
INTERRUPT_TYPES: Final = frozenset(
    {
        ProgType.PERF_EVENT,
        ProgType.XDP,
        ProgType.SCHED_CLS,
        ProgType.SCHED_ACT,
        ProgType.SOCKET_FILTER,
    }
)


@final
class _CgroupHook:
    """The programs of one cgroup for one attach type, and the flags of the first."""

    __slots__ = ("flags", "progs")

    def __init__(self) -> None:
        self.flags = 0
        self.progs: Final[list[BpfProg]] = []


@dataclass(frozen=True, slots=True, eq=False)
class _Link:
    """A program on a hook; ``pid`` limits it to one process."""

    hook: str
    prog: BpfProg
    pid: int | None


@final
class Attachments:
    """All attachments of a node."""

    def __init__(self, programs: Programs, files: FileTable) -> None:
        self._programs: Final = programs
        self._files: Final = files
        self._cgroups: Final[dict[Cgroup, dict[AttachType, _CgroupHook]]] = {}
        self._storage_maps: Final[dict[CgroupStorageMap, dict[Cgroup, None]]] = {}
        self._links: Final[dict[str, list[_Link]]] = {}
        self._filters: Final[dict[Task, list[BpfProg]]] = {}

    # -- cgroups -------------------------------------------------------------------------------------------------

    def attach(
        self, task: Task, target_fd: int, prog_fd: int, attach_type: int, flags: int = 0
    ) -> None:
        """BPF_PROG_ATTACH to a cgroup descriptor.

        Raises EINVAL, EBADF, EPERM (an ancestor or the flags forbid it), E2BIG, ENOMEM (memory, or RLIMIT_MEMLOCK).
        """
        kind = self._cgroup_type(attach_type)
        if flags & ~FLAGS or flags == FLAGS:
            raise refuse(Errno.EINVAL, f"attach flags {flags:#x} are unknown or exclude each other")
        prog = prog_of_type(task, prog_fd, CGROUP_PROG_OF[kind])
        self._check_fits(task, prog, kind)
        cgroup = _cgroup_of(task, target_fd)
        if not self._ancestors_allow(cgroup, kind):
            raise KernelError(
                Errno.EPERM, Reason.OBJECT_BUSY, "an ancestor's program does not allow an override"
            )
        hook = self._cgroups.get(cgroup, {}).get(kind, _CgroupHook())
        self._check_room(hook, prog, flags)
        self._make_storages(cgroup, prog, kind, task)
        if hook.progs and not flags & BPF_F_ALLOW_MULTI:
            hook.progs.pop().put()
        prog.get()
        hook.progs.append(prog)
        hook.flags = flags
        self._cgroups.setdefault(cgroup, {})[kind] = hook

    def detach(self, task: Task, target_fd: int, prog_fd: int | None, attach_type: int) -> None:
        """BPF_PROG_DETACH. ``prog_fd`` None takes the only program. Raises EINVAL, EBADF, ENOENT.

        The cgroup storage stays.
        """
        kind = self._cgroup_type(attach_type)
        cgroup = _cgroup_of(task, target_fd)
        hook = self._cgroups.get(cgroup, {}).get(kind)
        if hook is None:
            raise KernelError(Errno.ENOENT, Reason.NO_SUCH_OBJECT, "nothing is attached there")
        prog = prog_of(task, prog_fd) if prog_fd is not None else None
        if hook.flags & BPF_F_ALLOW_MULTI:
            if prog is None:
                raise refuse(Errno.EINVAL, "several programs may be attached: say which")
            if prog not in hook.progs:
                raise KernelError(Errno.ENOENT, Reason.NO_SUCH_OBJECT, "it is not attached there")
        found = prog if hook.flags & BPF_F_ALLOW_MULTI and prog is not None else hook.progs[0]
        hook.progs.remove(found)
        if not hook.progs:
            self._forget_hook(cgroup, kind)
        found.put()

    def attached(self, cgroup: Cgroup) -> list[tuple[AttachType, int]]:
        """(attach type, program id) of everything attached to a cgroup."""
        hooks = self._cgroups.get(cgroup, {})
        return [(kind, prog.id) for kind, hook in hooks.items() for prog in hook.progs]

    def release_cgroup(self, cgroup: Cgroup) -> None:
        """The cgroup was removed: its programs and storages go [cgroup_bpf_release]."""
        for hook in self._cgroups.pop(cgroup, {}).values():
            while hook.progs:
                hook.progs.pop().put()
        for storage_map, cgroups in list(self._storage_maps.items()):
            if cgroups.pop(cgroup, self) is None:
                storage_map.drop_cgroup(cgroup.id)
            if not cgroups:
                del self._storage_maps[storage_map]

    def _cgroup_type(self, attach_type: int) -> AttachType:
        for kind in CGROUP_PROG_OF:
            if kind == attach_type:
                return kind
        raise refuse(Errno.EINVAL, f"attach type {attach_type} is not for cgroups")

    def _check_fits(self, task: Task, prog: BpfProg, kind: AttachType) -> None:
        """bpf_prog_attach_check_attach_type; every refusal is EINVAL to user space."""
        if prog.prog_type in EXACT_ATTACH and prog.expected_attach_type != kind:
            raise refuse(Errno.EINVAL, "the program was loaded for another attach type")
        admin = task.has(Capability.NET_ADMIN) or task.has(Capability.SYS_ADMIN)
        if prog.prog_type is ProgType.CGROUP_SKB and not admin:
            raise refuse(
                Errno.EINVAL, "attaching it needs CAP_NET_ADMIN", Reason.CAPABILITY_MISSING
            )

    def _ancestors_allow(self, cgroup: Cgroup, kind: AttachType) -> bool:
        parent = cgroup.parent
        while parent is not None:
            hook = self._cgroups.get(parent, {}).get(kind)
            if hook is not None:
                return bool(hook.flags & (BPF_F_ALLOW_MULTI | BPF_F_ALLOW_OVERRIDE))
            parent = parent.parent
        return True

    def _check_room(self, hook: _CgroupHook, prog: BpfProg, flags: int) -> None:
        if hook.progs and hook.flags != flags:
            raise KernelError(
                Errno.EPERM, Reason.OBJECT_BUSY, "programs are attached with other flags"
            )
        if len(hook.progs) >= PROGS_MAX:
            raise refuse(Errno.E2BIG, f"{PROGS_MAX} programs are attached")
        if flags & BPF_F_ALLOW_MULTI and prog in hook.progs:
            raise refuse(Errno.EINVAL, "the program is attached already")

    def _make_storages(self, cgroup: Cgroup, prog: BpfProg, kind: AttachType, task: Task) -> None:
        """bpf_cgroup_storages_alloc: what is missing, all or nothing. Raises ENOMEM."""
        made: list[CgroupStorageMap] = []
        try:
            for held in prog.maps:
                if isinstance(held, CgroupStorageMap):
                    key = held.key_for(cgroup.id, kind)
                    if not held.has(key):
                        held.allocate(key, task)
                        made.append(held)
        except KernelError:
            for storage_map in made:
                storage_map.drop_key(storage_map.key_for(cgroup.id, kind))
            raise
        for storage_map in made:
            storage_map.on_freed = self._forget_map
            self._storage_maps.setdefault(storage_map, {})[cgroup] = None

    def _forget_map(self, storage_map: CgroupStorageMap) -> None:
        self._storage_maps.pop(storage_map, None)

    def _forget_hook(self, cgroup: Cgroup, kind: AttachType) -> None:
        hooks = self._cgroups[cgroup]
        del hooks[kind]
        if not hooks:
            del self._cgroups[cgroup]

    # -- hooks ---------------------------------------------------------------------------------------------------

    def open_hook(self, task: Task, hook: str, prog_fd: int, pid: int | None = None) -> int:
        """Puts a tracing program on a hook; the descriptor is the link, closing it detaches.

        ``pid`` limits the program to one process. Raises EBADF, EINVAL, EMFILE, ENOMEM.
        """
        prog = prog_of(task, prog_fd)
        if prog.prog_type not in HOOK_TYPES:
            raise refuse(Errno.EINVAL, f"{prog.prog_type.name.lower()} programs go on no hook")
        link = _Link(hook, prog, pid)
        prog.get()
        self._links.setdefault(hook, []).append(link)
        try:
            file = File("bpf-link", link, self._release_link)
            return self._files.open(task, file, Owner("file", prog.id, "link"))
        except KernelError:
            self._close_link(link)
            raise

    def _release_link(self, file: File) -> None:
        assert isinstance(file.target, _Link), file.kind
        self._close_link(file.target)

    def fire(self, hook: str, task: Task, times: int = 1) -> RunResult:
        """Runs the hook's programs as ``task`` meets it ``times`` times; perf events run in interrupt context."""
        runs = failed = errno = charged_bytes = 0
        for link in list(self._links.get(hook, ())):
            if link.pid is not None and link.pid != task.pid:
                continue
            irq = link.prog.prog_type in INTERRUPT_TYPES
            context = OpContext(task, from_prog=True, in_interrupt=irq)
            result = self._programs.run(link.prog, context, times)
            runs += result.runs
            failed += result.failed_ops
            errno = result.errno or errno
            charged_bytes += result.charged_bytes
        return RunResult(runs, failed, errno, charged_bytes)

    def _close_link(self, link: _Link) -> None:
        links = self._links[link.hook]
        links.remove(link)
        if not links:
            del self._links[link.hook]
        link.prog.put()

    # -- seccomp -------------------------------------------------------------------------------------------------

    def add_seccomp_filter(self, task: Task, insn_cnt: int) -> None:
        """Installs a filter that lives as long as the task. Raises EINVAL, ENOMEM, 524."""
        self._filters.setdefault(task, []).append(self._programs.load_classic(task, insn_cnt))

    def release_task(self, task: Task) -> None:
        """The task is gone: its filters go."""
        for prog in self._filters.pop(task, []):
            prog.put()


def _cgroup_of(task: Task, fd: int) -> Cgroup:
    """cgroup_get_from_fd. Raises EBADF."""
    target = task.file(fd).target
    if not isinstance(target, Cgroup):
        raise KernelError(
            Errno.EBADF, Reason.BAD_FILE_DESCRIPTOR, f"descriptor {fd} is not a cgroup"
        )
    return target
