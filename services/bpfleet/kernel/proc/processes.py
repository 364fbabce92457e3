"""The processes of one node: how they start, change credentials and limits, move between cgroups, and end [kernel/]."""

from collections.abc import Callable
from typing import Final, final

from bpfleet.abi.bpf import ALL_CAPABILITIES, Capability
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel.cgroup.tree import Cgroup, CgroupTree
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.events import EventKind
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memory import Block, Memory, Owner
from bpfleet.kernel.mm.oom_kill import OOM_SCORE_ADJ_MAX, OOM_SCORE_ADJ_MIN
from bpfleet.kernel.mm.swapfile import SwapSpace
from bpfleet.kernel.proc.address_space import AddressSpace
from bpfleet.kernel.proc.fdtable import FileTable
from bpfleet.kernel.proc.start import Objects, process_objects, thread_objects
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.proc.user import UserTable
from bpfleet.kernel.timeline import Timeline

FIRST_PID: Final = 100
PID_MAX: Final = 1 << 22
UID_MAX: Final = (1 << 32) - 2
SIGKILL: Final = 9
COMM_MAX: Final = 15


_SINCE_5_8: Final = frozenset({Capability.BPF, Capability.PERFMON})


@final
class Processes:
    """All live tasks, by pid. ``on_exit`` is called for each task that ends, before its descriptors are closed."""

    on_exit: Callable[[Task], None]

    def __init__(
        self,
        memory: Memory,
        cgroups: CgroupTree,
        users: UserTable,
        files: FileTable,
        timeline: Timeline,
        swap: SwapSpace | None = None,
    ) -> None:
        self._memory: Final = memory
        self._swap: Final = swap
        self._cgroups: Final = cgroups
        self._users: Final = users
        self._files: Final = files
        self._timeline: Final = timeline
        self._tasks: Final[dict[int, Task]] = {}
        self._next_pid = FIRST_PID

    # -- beginning -----------------------------------------------------------------------------------------------

    def spawn(
        self,
        cgroup: Cgroup,
        *,
        uid: int,
        caps: frozenset[Capability] | None,
        memlock: tuple[int, int],
        oom_score_adj: int,
        comm: str,
        cpu: int,
    ) -> Task:
        """Starts a process that was forked and started elsewhere and moved here, so it is charged nothing yet.

        Raises EBUSY (the cgroup distributes memory to its children), EINVAL (an argument out of range), EAGAIN.
        """
        self._cgroups.vet_member(cgroup)
        _check_uid(uid)
        _check_memlock(*memlock)
        _check_oom_score_adj(oom_score_adj)
        self._check_cpu(cpu)
        pid = self._allocate_pid()
        if caps is None:
            caps = ALL_CAPABILITIES if uid == 0 else frozenset()
        caps = self._known(caps)
        task = Task(
            pid,
            self._users.get(uid),
            caps,
            cgroup,
            AddressSpace(self._memory, Owner("process", pid, comm), self._swap),
            memlock_soft_bytes=memlock[0],
            memlock_hard_bytes=memlock[1],
            oom_score_adj=oom_score_adj,
            comm=comm[:COMM_MAX],
            cpu=cpu,
            kmem_accounting=self._memory.profile.kmem_accounting,
        )
        task.start_ns = self._timeline.now_ns
        self._tasks[pid] = task
        cgroup.pids[pid] = None
        self._timeline.emit(
            EventKind.PROCESS_STARTED, pid=pid, uid=uid, comm=task.comm, cgroup=cgroup.path
        )
        return task

    def _allocate_pid(self) -> int:
        if self._next_pid >= PID_MAX:
            raise KernelError(
                Errno.EAGAIN, Reason.TOO_MANY_PROCESSES, f"this node has used up its {PID_MAX} pids"
            )
        self._next_pid += 1
        return self._next_pid - 1

    def _check_cpu(self, cpu: int) -> None:
        if not 0 <= cpu < self._memory.possible_cpus:
            raise KernelError(
                Errno.EINVAL,
                Reason.BAD_ATTRIBUTE,
                f"cpu {cpu} does not exist: the node has CPUs 0 to {self._memory.possible_cpus - 1}",
            )

    # -- finding -------------------------------------------------------------------------------------------------

    def find(self, pid: int) -> Task:
        """The live process ``pid``. Raises ESRCH."""
        found = self._tasks.get(pid)
        if found is None:
            raise KernelError(Errno.ESRCH, Reason.NO_SUCH_PROCESS, f"no process {pid}", pid=pid)
        return found

    def all(self) -> list[Task]:
        """All live processes by pid."""
        return list(self._tasks.values())

    def below(self, cgroup: Cgroup) -> list[Task]:
        """Live processes of ``cgroup`` and below, in the order the OOM killer scans them."""
        return [self._tasks[pid] for member in cgroup.pre_order() for pid in member.pids]

    # -- changing ------------------------------------------------------------------------------------------------

    def move(self, pid: int, cgroup: Cgroup, *, thread: bool = False) -> None:
        """Migrates a process; what it has been charged stays where it is. Raises ESRCH, EBUSY.

        A ``thread`` alone cannot leave a domain cgroup, the only kind here: EOPNOTSUPP
        [cgroup_attach_permissions].
        """
        task = self.find(pid)
        self._cgroups.vet_member(cgroup)
        if thread and task.cgroup is not cgroup:
            raise KernelError(
                Errno.EOPNOTSUPP,
                Reason.OPERATION_UNSUPPORTED,
                f"process {pid} can move as a whole only, through cgroup.procs",
            )
        del task.cgroup.pids[pid]
        task.cgroup = cgroup
        cgroup.pids[pid] = None

    def prlimit(self, pid: int, resource: str, soft: int, hard: int) -> None:
        """Sets RLIMIT_MEMLOCK (bytes) or RLIMIT_NOFILE (descriptors).

        Raises EINVAL, EPERM for a raised hard limit without CAP_SYS_RESOURCE [do_prlimit].
        """
        task = self.find(pid)
        if resource == "memlock":
            _check_memlock(soft, hard)
            _check_raise(task, "RLIMIT_MEMLOCK", hard, task.memlock_hard_bytes)
            task.memlock_soft_bytes, task.memlock_hard_bytes = soft, hard
        elif resource == "nofile":
            if not 0 <= soft <= hard <= NR_OPEN:
                raise KernelError(
                    Errno.EPERM if hard > NR_OPEN else Errno.EINVAL,
                    Reason.BAD_ATTRIBUTE,
                    f"RLIMIT_NOFILE {soft}:{hard} must be soft <= hard <= {NR_OPEN}",
                )
            _check_raise(task, "RLIMIT_NOFILE", hard, task.nofile_hard)
            task.nofile, task.nofile_hard = soft, hard
        else:
            raise KernelError(
                Errno.EINVAL,
                Reason.BAD_ATTRIBUTE,
                f"resource {resource!r}: this kernel emulates memlock and nofile",
            )

    def setresuid(self, pid: int, *, ruid: int | None = None, euid: int | None = None) -> None:
        """setresuid(2). Later charges go to the new real uid, earlier ones stay; leaving uid 0 costs capabilities.

        Raises ESRCH, EINVAL; EPERM for an unprivileged process that asks for a uid it does not hold.
        """
        task = self.find(pid)
        new_ruid = task.uid if ruid is None else ruid
        new_euid = task.euid if euid is None else euid
        for uid in (new_ruid, new_euid):
            _check_uid(uid)
            if task.euid != 0 and uid not in (task.uid, task.euid):
                raise KernelError(
                    Errno.EPERM, Reason.CAPABILITY_MISSING, f"uid {uid} needs CAP_SETUID", uid=uid
                )
        had_root = 0 in (task.uid, task.euid)
        if new_euid != 0 and task.euid == 0:
            task.caps = frozenset()  # cap_emulate_setxuid: the effective set is cleared
        elif new_euid == 0 and task.euid != 0:
            task.caps = task.permitted
        if had_root and 0 not in (new_ruid, new_euid):
            task.permitted = task.caps = frozenset()
        task.uid, task.euid = new_ruid, new_euid
        task.user = self._users.get(new_ruid)

    def capset(self, pid: int, caps: frozenset[Capability]) -> None:
        """capset(2): makes ``caps`` the effective and permitted set. Raises EPERM for one not permitted so far."""
        task, caps = self.find(pid), self._known(caps)
        extra = sorted(caps - task.permitted)
        if extra:
            raise KernelError(
                Errno.EPERM,
                Reason.CAPABILITY_MISSING,
                f"CAP_{Capability(extra[0]).name} is not in the permitted set of process {pid}",
            )
        task.permitted = task.caps = caps

    def _known(self, caps: frozenset[Capability]) -> frozenset[Capability]:
        """Those up to cap_last_cap: a kernel drops what it has not heard of."""
        return caps if self._memory.profile.has_cap_bpf else caps - _SINCE_5_8

    def set_oom_score_adj(
        self, pid: int, oom_score_adj: int, *, writer: Task | None = None
    ) -> None:
        """/proc/PID/oom_score_adj, written by the process itself or by ``writer``.

        Raises ESRCH, EINVAL; EACCES for a value below the last one that somebody with CAP_SYS_RESOURCE wrote, without
        that capability [__set_oom_adj].
        """
        task = self.find(pid)
        _check_oom_score_adj(oom_score_adj)
        privileged = (writer or task).has(Capability.SYS_RESOURCE)
        if oom_score_adj < task.oom_score_adj_min and not privileged:
            raise KernelError(
                Errno.EACCES,
                Reason.CAPABILITY_MISSING,
                f"lowering oom_score_adj of process {pid} below {task.oom_score_adj_min} needs CAP_SYS_RESOURCE",
            )
        task.oom_score_adj = oom_score_adj
        if privileged:
            task.oom_score_adj_min = oom_score_adj

    def clone_threads(self, task: Task, count: int) -> None:
        """clone(2) of ``count`` threads: each has a kernel stack, its structures and an area with a page table for its
        stack. What it touches there is the process's own memory. Raises ENOMEM; those before stay [copy_process].
        """
        for _ in range(count):
            task.threads.append(self._take(thread_objects(self._memory), task))

    def execve(self, task: Task) -> None:
        """Charges what a process is that was forked and started in its cgroup. Raises ENOMEM, leaving nothing."""
        assert not task.own, task.pid
        task.own = self._take(process_objects(self._memory), task)

    def _take(self, objects: Objects, task: Task) -> tuple[Block, ...]:
        return self._memory.take_blocks(
            objects, GFP.GFP_KERNEL_ACCOUNT, task.objcg, task, task.mm.owner
        )

    # -- ending --------------------------------------------------------------------------------------------------

    def exit(self, task: Task, status: int, reason: str) -> None:
        """do_exit: user memory goes first, then descriptors are closed; what they held is freed later."""
        task.dying = True
        task.mm.drop(task.cpu)
        self.on_exit(task)
        for fd in list(task.fds):
            self._files.close(task, fd)
        self._files.release(task)
        while task.threads:
            self._memory.free_blocks(task.threads.pop(), task.cpu)
        self._memory.free_blocks(task.own, task.cpu)
        task.own = ()
        task.alive = False
        task.exit_status = status
        task.exit_reason = reason
        del task.cgroup.pids[task.pid]
        del self._tasks[task.pid]
        self._timeline.emit(
            EventKind.PROCESS_EXITED,
            pid=task.pid,
            uid=task.uid,
            comm=task.comm,
            cgroup=task.cgroup.path,
            status=status,
            reason=reason,
        )

    def forget_all(self) -> None:
        """The machine has stopped: no process exists any more, and none of them exited."""
        for task in self._tasks.values():
            task.alive = False
            task.exit_reason = "node crashed"
            task.cgroup.pids.pop(task.pid, None)
        self._tasks.clear()


NR_OPEN: Final = 1 << 20


def _check_uid(uid: int) -> None:
    if not 0 <= uid <= UID_MAX:
        raise KernelError(
            Errno.EINVAL, Reason.BAD_ATTRIBUTE, f"uid {uid} is outside 0 to {UID_MAX}"
        )


def _check_memlock(soft_bytes: int, hard_bytes: int) -> None:
    if not 0 <= soft_bytes <= hard_bytes <= RLIM_INFINITY:
        raise KernelError(
            Errno.EINVAL,
            Reason.BAD_ATTRIBUTE,
            f"RLIMIT_MEMLOCK {soft_bytes}:{hard_bytes} must be 0 <= soft <= hard <= {RLIM_INFINITY}",
        )


def _check_oom_score_adj(oom_score_adj: int) -> None:
    if not OOM_SCORE_ADJ_MIN <= oom_score_adj <= OOM_SCORE_ADJ_MAX:
        raise KernelError(
            Errno.EINVAL,
            Reason.BAD_ATTRIBUTE,
            f"oom_score_adj {oom_score_adj} is outside {OOM_SCORE_ADJ_MIN} to {OOM_SCORE_ADJ_MAX}",
        )


def _check_raise(task: Task, limit: str, new: int, old: int) -> None:
    if new > old and not task.has(Capability.SYS_RESOURCE):
        raise KernelError(
            Errno.EPERM,
            Reason.CAPABILITY_MISSING,
            f"raising the hard {limit} of process {task.pid} from {old} to {new} needs CAP_SYS_RESOURCE",
            limit_bytes=old,
            requested_bytes=new,
        )
