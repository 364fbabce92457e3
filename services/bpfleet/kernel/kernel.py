"""One emulated host: builds the subsystems, owns virtual time, and wires the OOM killer to the tasks it kills."""

from dataclasses import dataclass
from typing import Final, final

from bpfleet.abi.bpf import ALL_CAPABILITIES, Capability
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import PAGE_SIZE, RLIM_INFINITY
from bpfleet.kernel.bpf.accounting.base import BpfAccounting
from bpfleet.kernel.bpf.accounting.memcg import MemcgAccounting
from bpfleet.kernel.bpf.accounting.none import NoAccounting
from bpfleet.kernel.bpf.accounting.rlimit import RlimitAccounting
from bpfleet.kernel.bpf.maps.base import Host
from bpfleet.kernel.bpf.syscall import BpfSyscalls
from bpfleet.kernel.cgroup.tree import Cgroup, CgroupTree
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.events import EventKind, EventLog
from bpfleet.kernel.mm.memcontrol import MemoryController
from bpfleet.kernel.mm.memory import Memory
from bpfleet.kernel.mm.page_alloc import NodeMemory
from bpfleet.kernel.profile import KernelProfile, Model
from bpfleet.kernel.proc.fdtable import FileTable
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.proc.user import User, UserTable
from bpfleet.kernel.timeline import Timeline

FIRST_PID: Final = 100


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """Live charges of one owner against one cgroup. Bytes are as charged."""

    cgroup: str
    owner: str
    kind: str
    count: int
    bytes: int


def _accounting(profile: KernelProfile) -> BpfAccounting:
    if profile.model is Model.RLIMIT:
        return RlimitAccounting()
    if profile.model is Model.NONE:
        return NoAccounting()
    return MemcgAccounting(profile)


@final
class Kernel:
    """A node. Single-threaded: every call runs to completion and leaves all invariants true, also when it raises.

    ``ram_bytes`` is the node's memory, ``possible_cpus`` its possible CPUs, ``seed`` feeds hash seeds only.
    """

    def __init__(
        self,
        profile: KernelProfile,
        *,
        node: str = "node",
        ram_bytes: int = 8 << 30,
        possible_cpus: int = 2,
        seed: int = 0,
    ) -> None:
        self.profile: Final = profile
        self.node: Final = node
        self.seed: Final = seed
        self.timeline: Final = Timeline()
        self.events: Final[EventLog] = self.timeline.events
        self.ram: Final = NodeMemory(ram_bytes)
        self.controller: Final = MemoryController(profile, possible_cpus)
        self.memory: Final = Memory(profile, self.controller, self.ram, possible_cpus)
        self.cgroups: Final = CgroupTree(self.controller)
        self.users: Final = UserTable()
        self.files: Final = FileTable(self.memory)
        self.host: Final = Host(profile, possible_cpus)
        self.accounting: Final[BpfAccounting] = _accounting(profile)
        self.bpf: Final = BpfSyscalls(
            self.host, self.memory, self.accounting, self.files, self.timeline, seed=seed
        )
        self._tasks: Final[dict[int, Task]] = {}
        self._next_pid = FIRST_PID

    # -- time ----------------------------------------------------------------------------------------------------

    @property
    def now_ns(self) -> int:
        """Virtual time since boot."""
        return self.timeline.now_ns

    def advance(self, delta_ns: int) -> int:
        """Moves virtual time forward and runs what falls due. Returns how many pieces of work ran."""
        return self.timeline.advance(delta_ns)

    def run_deferred(self) -> int:
        """Runs all deferred work now (RCU, work items). Returns how many pieces ran."""
        return self.timeline.run_deferred()

    # -- cgroups -------------------------------------------------------------------------------------------------

    def cgroup(self, path: str) -> Cgroup:
        """The cgroup at ``path``. Raises ENOENT."""
        return self.cgroups.find(path)

    def mkdir(self, path: str) -> Cgroup:
        """Creates a cgroup. Raises ENOENT, EEXIST, EINVAL."""
        return self.cgroups.mkdir(path)

    def rmdir(self, path: str) -> None:
        """Removes an empty cgroup. Raises EBUSY, ENOENT."""
        self.cgroups.rmdir(path)

    # -- tasks ---------------------------------------------------------------------------------------------------

    def spawn(
        self,
        *,
        uid: int = 0,
        caps: frozenset[Capability] | None = None,
        memlock: tuple[int, int] | None = None,
        cgroup: str = "/",
        oom_score_adj: int = 0,
        comm: str = "task",
        cpu: int = 0,
    ) -> Task:
        """Starts a process. ``caps`` None: all for uid 0, none otherwise. ``memlock`` (soft, hard) bytes."""
        where = self.cgroups.find(cgroup)
        soft, hard = memlock or (self.profile.default_memlock_bytes,) * 2
        if caps is None:
            caps = ALL_CAPABILITIES if uid == 0 else frozenset()
        task = Task(
            self._next_pid,
            self.users.get(uid),
            caps,
            where,
            memlock_soft_bytes=soft,
            memlock_hard_bytes=hard,
            oom_score_adj=oom_score_adj,
            comm=comm,
            cpu=cpu,
            kmem_accounting=self.profile.kmem_accounting,
        )
        self._next_pid += 1
        self._tasks[task.pid] = task
        where.pids[task.pid] = None
        self.timeline.emit(EventKind.PROCESS_STARTED, pid=task.pid, uid=uid, cgroup=where.path)
        return task

    def task(self, pid: int) -> Task:
        """The live process ``pid``. Raises ESRCH."""
        found = self._tasks.get(pid)
        if found is None:
            raise KernelError(Errno.ESRCH, Reason.NO_SUCH_PROCESS, f"no process {pid}", pid=pid)
        return found

    def tasks(self) -> list[Task]:
        """All live processes by pid."""
        return list(self._tasks.values())

    def exit(self, pid: int, status: int = 0, reason: str = "exited") -> None:
        """Ends a process: descriptors are closed first, then its memory goes. Raises ESRCH."""
        task = self.task(pid)
        task.dying = True
        for fd in list(task.fds):
            self.files.close(task, fd)
        task.alive = False
        task.exit_status = status
        task.exit_reason = reason
        del task.cgroup.pids[pid]
        del self._tasks[pid]
        self.timeline.emit(EventKind.PROCESS_EXITED, pid=pid, status=status, reason=reason)

    def prlimit(self, pid: int, resource: str, soft_bytes: int, hard_bytes: int) -> None:
        """Sets RLIMIT_MEMLOCK. Raises EPERM for a raised hard limit without CAP_SYS_RESOURCE, EINVAL."""
        task = self.task(pid)
        if resource != "memlock" or not 0 <= soft_bytes <= hard_bytes <= RLIM_INFINITY:
            raise KernelError(
                Errno.EINVAL,
                Reason.BAD_ATTRIBUTE,
                f"limit {resource} {soft_bytes}..{hard_bytes}: only memlock with soft <= hard is known",
            )
        if hard_bytes > task.memlock_hard_bytes and not task.has(Capability.SYS_RESOURCE):
            raise KernelError(
                Errno.EPERM,
                Reason.CAPABILITY_MISSING,
                "raising a hard limit needs CAP_SYS_RESOURCE",
            )
        task.memlock_soft_bytes = soft_bytes
        task.memlock_hard_bytes = hard_bytes

    def close(self, pid: int, fd: int) -> None:
        """close(2). Raises ESRCH, EBADF."""
        self.files.close(self.task(pid), fd)

    def dup(self, pid: int, fd: int) -> int:
        """dup(2). Raises ESRCH, EBADF, EMFILE."""
        task = self.task(pid)
        return self.files.dup(task, fd, task)

    def user(self, uid: int) -> User:
        """The user_struct of ``uid``."""
        return self.users.get(uid)

    # -- views ---------------------------------------------------------------------------------------------------

    def ledger(self) -> list[LedgerLine]:
        """Every live charge, and what the CPUs hold in stock; sums to memory.current per cgroup subtree."""
        lines = [
            LedgerLine(
                account.objcg.memcg.path,
                repr(account.owner),
                account.kind.name.lower(),
                account.count,
                account.charged_bytes,
            )
            for account in self.memory.accounts.values()
            if account.objcg is not None
        ]
        return lines


__all__ = ["PAGE_SIZE", "Kernel", "LedgerLine"]
