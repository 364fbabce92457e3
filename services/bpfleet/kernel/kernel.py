"""One emulated host: builds the subsystems, owns virtual time, and wires the OOM killer to the tasks it kills."""

from typing import Final, final

from bpfleet.abi.bpf import Capability
from bpfleet.abi.errno import Errno
from bpfleet.kernel import invariants
from bpfleet.kernel.bpf.accounting.base import BpfAccounting
from bpfleet.kernel.bpf.accounting.memcg import MemcgAccounting
from bpfleet.kernel.bpf.accounting.rlimit import RlimitAccounting
from bpfleet.kernel.bpf.command import Cost
from bpfleet.kernel.bpf.fdinfo import fdinfo_text
from bpfleet.kernel.bpf.host import Host
from bpfleet.kernel.bpf.syscall import BpfSyscalls
from bpfleet.kernel.cgroup import files as cgroup_files
from bpfleet.kernel.cgroup.files_v1 import CONTROL_FILES_V1
from bpfleet.kernel.cgroup.stat import LaggingStats
from bpfleet.kernel.cgroup.tree import Cgroup, CgroupTree
from bpfleet.kernel.errors import KernelError, Reason, TaskKilled
from bpfleet.kernel.events import EventKind, EventLog
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.current import Current
from bpfleet.kernel.mm.faults import CHARGE
from bpfleet.kernel.mm.filemap import PageCache
from bpfleet.kernel.mm.memcg import Memcg
from bpfleet.kernel.mm.memcontrol import MemoryController
from bpfleet.kernel.mm.memory import AllocKind, Memory
from bpfleet.kernel.mm.page_alloc import NodeMemory
from bpfleet.kernel.mm.swapfile import SwapSpace
from bpfleet.kernel.mm.throttle import handle_over_high
from bpfleet.kernel.mm.vmscan import Reclaimer
from bpfleet.kernel.proc.fdtable import FileTable
from bpfleet.kernel.proc.files import PROCESS_FILES, meminfo_text, no_such_file
from bpfleet.kernel.proc.locked_memory import LockedMemory
from bpfleet.kernel.proc.objects import Objects
from bpfleet.kernel.proc.oom import OomKiller
from bpfleet.kernel.proc.processes import SIGKILL, Processes
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.proc.user import User, UserTable
from bpfleet.kernel.profile import KernelProfile, Model
from bpfleet.kernel.timeline import Timeline
from bpfleet.kernel.units import bytes_of, pages_for, round_up, whole_pages
from bpfleet.kernel.views.explain import Explanation, explain
from bpfleet.kernel.views.ledger import LedgerLine, holders_of, ledger
from bpfleet.kernel.views.orphans import Orphan, find_orphans
from bpfleet.kernel.views.receipt import Receipt, make_receipt
from bpfleet.kernel.views.tools import ToolView, tool_views

SIGNALS: Final = range(1, 65)
FAULT_KINDS: Final[dict[str, AllocKind | str]] = {
    CHARGE: CHARGE,
    "slab": AllocKind.SLAB,
    "percpu": AllocKind.PERCPU,
    "vmalloc": AllocKind.VMALLOC,
    "page": AllocKind.PAGES,
    "anon": AllocKind.ANON,
}
PAGE_NS: Final = 1_000  # taking, clearing and charging a page, by fault or by a system call
LATE_REFILL: Final = "late_refill"
RANDOM: Final = "random"


def _accounting(profile: KernelProfile) -> BpfAccounting:
    if profile.model is Model.RLIMIT:
        return RlimitAccounting()
    if profile.model is Model.NONE:
        return BpfAccounting()  # cgroup.memory=nobpf and nokmem
    return MemcgAccounting(profile)


@final
class Kernel:
    """A node. Single-threaded: every call runs to completion and leaves all invariants true, also when it raises.

    ``ram_bytes`` is the node's memory, ``swap_bytes`` its swap space, ``possible_cpus`` its possible CPUs, ``seed``
    feeds hash seeds only.
    """

    def __init__(
        self,
        profile: KernelProfile,
        *,
        node: str = "node",
        ram_bytes: int = 8 << 30,
        swap_bytes: int = 0,
        possible_cpus: int = 2,
        seed: int = 0,
    ) -> None:
        self.profile: Final = profile
        self.node: Final = node
        self.seed: Final = seed
        self.crashed = ""  # why the machine stopped; empty while it runs
        self.timeline: Final = Timeline()
        self.events: Final[EventLog] = self.timeline.events
        self._timed_bytes = 0  # of what was ever allocated: the virtual time it took has passed
        self.ram: Final = NodeMemory(ram_bytes)
        self.controller: Final = MemoryController(profile, possible_cpus)
        self.memory: Final = Memory(profile, self.controller, self.ram, possible_cpus, seed)
        swap_pages = whole_pages(swap_bytes)
        self.swap: Final = SwapSpace(self.memory, swap_pages) if swap_pages else None
        self.page_cache: Final = PageCache(self.memory, self.swap)
        self.reclaimer: Final = Reclaimer(
            self.page_cache,
            self.controller.root,
            self.swap,
            walks_in_part=profile.reclaim_walks_in_part,
        )
        self.cgroups: Final = CgroupTree(self.memory, self.timeline, v1=profile.cgroup_v1)
        self.users: Final = UserTable()
        self.files: Final = FileTable(self.memory, self.timeline)
        self.objects: Final = Objects(self.files, profile)
        self.locked: Final = LockedMemory(self.memory, self.files, self.timeline, possible_cpus)
        self.processes: Final = Processes(
            self.memory, self.cgroups, self.users, self.files, self.timeline, self.swap
        )
        self.oom_killer: Final = OomKiller(
            self.processes,
            self.memory,
            self.cgroups.root,
            self.timeline,
            self.crash,
            swap_pages,
        )
        self.host: Final = Host(profile, possible_cpus)
        self.accounting: Final[BpfAccounting] = _accounting(profile)
        self.bpf: Final = BpfSyscalls(
            self.host,
            self.memory,
            self.accounting,
            self.files,
            self.timeline,
            self.leave,
            seed=seed,
        )
        self._control_files: Final = cgroup_files.FileHost(
            self.cgroups,
            self.timeline,
            self,
            CONTROL_FILES_V1 if profile.cgroup_v1 else cgroup_files.CONTROL_FILES,
            LaggingStats(profile.memcg_charge_batch * possible_cpus) if profile.stats_lag else None,
        )
        self._wire()

    def _wire(self) -> None:
        """Lower layers call upwards through these callbacks only."""
        self.controller.reclaim = self._reclaim
        self.controller.reclaim_proactively = self.reclaimer.reclaim
        self.controller.oom = self.oom_killer.kill_in_memcg
        self.controller.wait_for_victim = self.oom_killer.wait
        self.controller.catch_up = self.catch_up
        self.controller.elapse = self.advance
        self.controller.throttle = self._throttle
        self.ram.reclaim = self.reclaimer.reclaim_node
        self.ram.oom = self.oom_killer.kill_on_node
        self.processes.on_exit = self._on_exit
        self.memory.fault_struck = self._fault_struck

    def _on_exit(self, task: Task) -> None:
        """A process ends: what only its mappings and its own storage held is freed."""
        self.locked.release_task(task)
        self.bpf.release_task(task)

    # -- time ----------------------------------------------------------------------------------------------------

    @property
    def now_ns(self) -> int:
        """Virtual time since boot."""
        return self.timeline.now_ns

    def advance(self, delta_ns: int) -> int:
        """Moves virtual time forward and runs what falls due. Returns how many pieces of work ran.

        What was allocated before is taken to have happened within that time.
        """
        self._timed_bytes = self.ram.taken_bytes_total
        return self.timeline.advance(delta_ns)

    def catch_up(self) -> int:
        """Lets the time pass that allocations took since time passed last. Returns how many pieces of work ran."""
        pages = whole_pages(self.ram.taken_bytes_total - self._timed_bytes)
        return self.advance(pages * PAGE_NS * self.controller.pace)

    def run_deferred(self) -> int:
        """Runs all deferred work now (RCU, work items). Returns how many pieces ran."""
        return self.timeline.run_deferred()

    # -- the way back to user space ------------------------------------------------------------------------------

    def leave(self, task: Task) -> None:
        """What happens to a task at the end of a system call: it pays for exceeding memory.high, or dies.

        Raises TaskKilled when SIGKILL was pending: nothing returns to user space.
        """
        task.notify_resume = False
        if task.over_high_pages:
            self._throttle(task, GFP.GFP_KERNEL)
        stall_ns, task.stall_ns = task.stall_ns, 0
        if task.dying:
            if task.alive:
                self.processes.exit(task, SIGKILL, task.dying_reason)
            raise TaskKilled(
                task.pid, f"process {task.pid} ({task.comm}) was killed inside the call"
            )
        if stall_ns:
            start_ns = self.timeline.now_ns
            self.timeline.advance(stall_ns)
            task.cgroup.memcg.stalled(start_ns, self.timeline.now_ns)
        task.notify_resume = False

    def _throttle(self, current: Current, gfp: int) -> None:
        if not current.pid:
            current.over_high_pages = 0  # an administrator outside every limit
            return
        task = self.processes.find(current.pid)
        handle_over_high(
            task.cgroup.memcg, current, self.controller.batch_pages, self._reclaim_high
        )

    def _reclaim(self, memcg: Memcg, pages: int, gfp: int) -> int:
        return self.reclaimer.reclaim(memcg, pages)

    def _reclaim_high(self, memcg: Memcg, pages: int) -> int:
        return self.controller.reclaim_high(memcg, pages, GFP.GFP_KERNEL)

    def crash(self, reason: str) -> None:
        """The machine stops: no process is left and nothing is cleaned up. The caller boots a new Kernel."""
        if self.crashed:
            return
        self.crashed = reason
        self.timeline.emit(EventKind.KERNEL_LOG, line=reason)
        self.timeline.emit(EventKind.NODE_CRASHED, reason=reason, ram_bytes=self.ram.ram_bytes)
        for task in self.processes.all():
            task.sigkill("node crashed")
        self.processes.forget_all()

    # -- cgroups -------------------------------------------------------------------------------------------------

    def cgroup(self, path: str) -> Cgroup:
        """The cgroup at ``path``. Raises ENOENT, EINVAL."""
        return self.cgroups.find(path)

    def list_cgroups(self) -> list[str]:
        """Paths of all cgroups, parents before children."""
        return [cgroup.path for cgroup in self.cgroups.root.pre_order()]

    def mkdir(self, path: str, *, delegate: bool = True, cpu: int = 0) -> Cgroup:
        """Creates a cgroup.

        ``delegate`` first enables memory in the parent's cgroup.subtree_control where the rules allow it, as container
        managers do; without it mkdir is only the system call. The memcg is charged to the parent on ``cpu``, whose
        stock keeps what was charged ahead: other CPUs cannot use it before it is drained. Raises ENOENT, EEXIST,
        EINVAL, ENAMETOOLONG, EAGAIN, ENOMEM.
        """
        parent = self.cgroups.find(path.rstrip("/").rpartition("/")[0] or "/")
        if delegate and parent.has_memory and not parent.pids:
            self.cgroups.enable_memory(parent)
        cgroup = self.cgroups.mkdir(path, cpu)
        self.timeline.emit(EventKind.CGROUP_CREATED, cgroup=cgroup.path)
        return cgroup

    def rmdir(self, path: str) -> None:
        """Removes an empty cgroup. Raises EBUSY, ENOENT."""
        cgroup = self.cgroups.rmdir(path)
        self.bpf.release_cgroup(cgroup)
        self.timeline.emit(EventKind.CGROUP_REMOVED, cgroup=cgroup.path)

    def list_files(self, path: str) -> list[str]:
        """Names of the control files of a cgroup. Raises ENOENT."""
        return cgroup_files.list_files(self.cgroups.find(path), self._control_files)

    def read_file(self, path: str, name: str) -> str:
        """The exact text of a control file. Raises ENOENT, EINVAL."""
        return cgroup_files.read_file(self.cgroups.find(path), name, self._control_files)

    def write_file(self, path: str, name: str, text: str) -> int:
        """Writes a control file; returns the bytes written. Raises ENOENT, EINVAL and the file's own errors."""
        return cgroup_files.write_file(self.cgroups.find(path), name, text, self._control_files)

    def move(self, pid: int, cgroup: Cgroup, *, thread: bool = False) -> None:
        """Migrates a process. A ``thread`` alone cannot leave its cgroup. Raises ESRCH, EBUSY, EOPNOTSUPP."""
        self.processes.move(pid, cgroup, thread=thread)

    def kill_below(self, cgroup: Cgroup) -> None:
        """Kills every process of a subtree."""
        for task in self.processes.below(cgroup):
            self.processes.exit(task, SIGKILL, "killed by signal 9")

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
        """Starts a process. ``caps`` None: all for uid 0, none otherwise. ``memlock`` (soft, hard) bytes.

        Raises ENOENT, EBUSY (the cgroup distributes memory to its children), EINVAL.
        """
        return self.processes.spawn(
            self.cgroups.find(cgroup),
            uid=uid,
            caps=caps,
            memlock=memlock or (self.profile.default_memlock_bytes,) * 2,
            oom_score_adj=oom_score_adj,
            comm=comm,
            cpu=cpu,
        )

    def task(self, pid: int) -> Task:
        """The live process ``pid``. Raises ESRCH."""
        return self.processes.find(pid)

    def tasks(self) -> list[Task]:
        """All live processes by pid."""
        return self.processes.all()

    def clone_threads(self, pid: int, count: int) -> None:
        """clone(2): ``count`` threads more for a process. Raises ESRCH, ENOMEM, TaskKilled."""
        task = self.processes.find(pid)
        try:
            self.processes.clone_threads(task, count)
        finally:
            if task.notify_resume:
                self.leave(task)

    def execve(self, pid: int) -> None:
        """Charges a process what it costs itself, as one started in its cgroup. Raises ESRCH, ENOMEM, TaskKilled."""
        task = self.processes.find(pid)
        try:
            self.processes.execve(task)
        finally:
            if task.notify_resume:
                self.leave(task)

    def exit(self, pid: int, code: int = 0) -> None:
        """A process ends by itself: its memory goes, its descriptors are closed. Raises ESRCH."""
        self.processes.exit(self.processes.find(pid), code, "exited")

    def kill(self, pid: int, signal: int = SIGKILL) -> None:
        """kill(2) with a signal that ends the process. Raises ESRCH, EINVAL."""
        task = self.processes.find(pid)
        if signal not in SIGNALS:
            raise KernelError(
                Errno.EINVAL, Reason.BAD_ATTRIBUTE, f"signal {signal} is outside 1 to 64"
            )
        self.processes.exit(task, signal, f"killed by signal {signal}")

    def prlimit(self, pid: int, resource: str, soft: int, hard: int) -> None:
        """Sets "memlock" (bytes) or "nofile". Raises ESRCH, EINVAL, EPERM without CAP_SYS_RESOURCE."""
        self.processes.prlimit(pid, resource, soft, hard)

    def setresuid(self, pid: int, *, ruid: int | None = None, euid: int | None = None) -> None:
        """setresuid(2); None keeps an id. Raises ESRCH, EINVAL, EPERM."""
        self.processes.setresuid(pid, ruid=ruid, euid=euid)

    def capset(self, pid: int, caps: frozenset[Capability]) -> None:
        """capset(2) of the effective and permitted set. Raises ESRCH, EPERM."""
        self.processes.capset(pid, caps)

    def close(self, pid: int, fd: int) -> int:
        """close(2). Returns the bytes it charged: below 0 where it gave some back at once. Raises ESRCH, EBADF."""
        before = self.memory.charged_bytes_total
        self.files.close(self.processes.find(pid), fd)
        return self.memory.charged_bytes_total - before

    def dup(self, pid: int, fd: int) -> int:
        """dup(2). Raises ESRCH, EBADF, EMFILE."""
        task = self.processes.find(pid)
        return self.files.dup(task, fd, task)

    def user(self, uid: int) -> User:
        """The user_struct of ``uid``."""
        return self.users.get(uid)

    # -- user memory ---------------------------------------------------------------------------------------------

    def touch(self, pid: int, nbytes: int, *, shared: bool = False) -> None:
        """Page faults of a process on ``nbytes`` of fresh memory, anonymous or (``shared``) shared.

        Raises ESRCH, EINVAL, ENOMEM, TaskKilled. ENOMEM with ``hangs`` in its numbers: nobody could be killed; Linux
        would repeat the fault for ever.
        """
        task = self.processes.find(pid)
        pages = self._pages_of(nbytes)
        kind = AllocKind.SHMEM if shared else AllocKind.ANON
        try:
            done = task.mm.fault_in(kind, pages, task.cgroup.memcg, task.objcg, task)
            if done < pages and not task.dying:
                error = self.memory.failure()
                raise KernelError(
                    error.errno,
                    error.reason,
                    f"{error.detail}; nobody can be killed, so the page fault repeats for ever",
                    **{**error.numbers, "hangs": 1},
                )
        finally:
            if task.notify_resume:
                self.leave(task)

    def release(self, pid: int, nbytes: int, *, shared: bool = False) -> int:
        """A process gives up to ``nbytes`` of its newest memory back. Returns bytes given back."""
        task = self.processes.find(pid)
        kind = AllocKind.SHMEM if shared else AllocKind.ANON
        return bytes_of(task.mm.release(kind, self._pages_of(nbytes), task.cpu))

    def _pages_of(self, nbytes: int) -> int:
        """Whole pages of this kernel. Raises EINVAL."""
        if nbytes < 0:
            raise KernelError(Errno.EINVAL, Reason.BAD_ATTRIBUTE, f"{nbytes} bytes: must be >= 0")
        return pages_for(round_up(nbytes, self.profile.page_bytes))

    def read_file_pages(self, pid: int, path: str, nbytes: int) -> int:
        """read(2) of the first ``nbytes`` of a file on disk: what is not cached yet is charged to the reader's cgroup.

        Returns bytes read. Raises ESRCH, EINVAL, ENOMEM, TaskKilled.
        """
        task = self.processes.find(pid)
        pages = self._pages_of(nbytes)
        return self._through_the_cache(
            task, pages, self.page_cache.read(path, pages, task.cgroup.memcg, task)
        )

    def write_tmpfs(self, pid: int, path: str, nbytes: int) -> int:
        """Makes a tmpfs file at least ``nbytes`` long. Returns its length. Raises ESRCH, EINVAL, ENOMEM, TaskKilled."""
        task = self.processes.find(pid)
        pages = self._pages_of(nbytes)
        return self._through_the_cache(
            task, pages, self.page_cache.write_tmpfs(path, pages, task.cgroup.memcg, task)
        )

    def _through_the_cache(self, task: Task, wanted: int, done: int) -> int:
        """The end of a system call that brought ``done`` of ``wanted`` pages into the page cache."""
        if task.notify_resume:
            self.leave(task)
        if done < wanted:
            raise self.memory.failure()
        return bytes_of(done)

    def unlink_tmpfs(self, path: str) -> None:
        """Removes a tmpfs file. Raises ENOENT."""
        if not self.page_cache.unlink_tmpfs(path):
            raise KernelError(Errno.ENOENT, Reason.NO_SUCH_OBJECT, f"no tmpfs file {path!r}")

    # -- faults --------------------------------------------------------------------------------------------------

    def inject_fault(self, kind: str, nth: int = 1) -> None:
        """Makes the ``nth`` allocation of a kind from now on fail once (``charge``: of those charged to a cgroup).

        ``random``: one in ``nth`` allocations fails, by the node's seed; ``late_refill``: caches are refilled late;
        both until `clear_faults`. Raises ``ValueError`` naming the kinds there are.
        """
        if kind == LATE_REFILL:
            self._set_late_refill(late=True)
        elif kind == RANDOM:
            self.memory.faults.fail_one_in(nth)
        elif kind in FAULT_KINDS:
            self.memory.faults.fail_nth(FAULT_KINDS[kind], nth)
        else:
            known = ", ".join((*FAULT_KINDS, RANDOM, LATE_REFILL))
            raise ValueError(f"no fault {kind!r}; there are {known}")

    def _fault_struck(self, kind: AllocKind) -> None:
        self.timeline.emit(EventKind.FAULT_INJECTED, allocation=kind.name.lower())

    def clear_faults(self) -> None:
        """Takes back every fault that has not struck yet."""
        self.memory.faults.clear()
        self._set_late_refill(late=False)

    def _set_late_refill(self, *, late: bool) -> None:
        self.host.late_refill = late
        for bpf_map in self.bpf.maps():
            for caches in bpf_map.site.mem_allocs:
                caches.late_refill = late

    # -- views ---------------------------------------------------------------------------------------------------

    def ledger(self) -> list[LedgerLine]:
        """Every live charge with its payer, then what CPUs hold in stock; each subtree sums to its memory.current."""
        return ledger(self.memory)

    def tool_views(self, path: str) -> list[ToolView]:
        """What each tool says about a cgroup's memory, and what it leaves out. Raises ENOENT."""
        return tool_views(self.cgroups.find(path), self.memory, self.bpf.maps(), self.profile)

    def receipt(self, cost: Cost) -> Receipt:
        """The receipt of the call that has just returned ``cost``."""
        return make_receipt(self.profile, cost, self.controller.root)

    def read_proc(self, pid: int | None, name: str) -> str:
        """The text of a /proc file: ``limits``, ``status``, ``cgroup``, ``fdinfo/N`` of a process; ``meminfo``.

        Raises ESRCH, ENOENT, EBADF.
        """
        if pid is None:
            if name != "meminfo":
                raise no_such_file(name)
            return meminfo_text(self.ram, self.controller.root, self.swap)
        task = self.processes.find(pid)
        directory, _, fd = name.partition("/")
        if directory == "fdinfo" and fd.isdecimal():
            return fdinfo_text(task.file(int(fd)), self.profile)
        if name not in PROCESS_FILES:
            raise no_such_file(name)
        return PROCESS_FILES[name](task)

    def explain(self, error: KernelError) -> Explanation:
        """What a refusal means: whose counter, which limit, who else holds it, and where it would have passed."""
        return explain(error, self.profile, holders_of(error, self.memory, self.users))

    def orphans(self) -> list[Orphan]:
        """Maps whose creator's cgroup is gone, and maps that only a pin keeps alive."""
        return find_orphans(self.bpf.maps(), self.cgroups, self.memory)

    def check(self) -> None:
        """Asserts every named invariant. AssertionError is a bug of the emulator, never of its user."""
        if self.crashed:
            return
        invariants.check_single_owner(self.memory)
        invariants.check_charge_conservation(self.memory, self.cgroups)
        invariants.check_hierarchy(self.memory)
        invariants.check_limit(self.memory)
        invariants.check_stats(self.memory)
        swapped = [task.mm.swapped for task in self.processes.all()]
        swapped += self.page_cache.swap_entries()
        invariants.check_swap(self.swap, swapped, self.memory)
        invariants.check_memlock_conservation(self.users)
        if not len(self.timeline.deferred):
            invariants.check_no_orphan(self.memory, self.processes, self._live_bpf())

    def _live_bpf(self) -> set[tuple[str, int]]:
        live = {("map", bpf_map.id) for bpf_map in self.bpf.maps()}
        return live | {("prog", prog.id) for prog in self.bpf.progs()}
