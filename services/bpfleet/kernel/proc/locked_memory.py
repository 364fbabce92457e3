"""Who else counts locked pages: sharers of BPF's per-user counter, and users of other counters that are not.

Perf ring buffers, AF_XDP umems, io_uring buffers and MSG_ZEROCOPY sends add to ``user->locked_vm``, as BPF does up to
5.10, each with its own test and errno. mlock counts per process and SHM_LOCK in ``user->locked_shm``: they share the
limit's value with BPF, not the counter [kernel/events/core.c, net/xdp/xdp_umem.c, io_uring/io_uring.c,
net/core/skbuff.c, mm/mlock.c].
"""

from dataclasses import dataclass
from typing import Final, final

from bpfleet.abi.bpf import Capability
from bpfleet.abi.errno import Errno
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memory import Block, Memory, Owner
from bpfleet.kernel.proc.fdtable import FileTable
from bpfleet.kernel.proc.file import File
from bpfleet.kernel.proc.sockets import Family, PerfEvent, Socket, socket_of
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.proc.user import User
from bpfleet.kernel.timeline import Timeline
from bpfleet.kernel.units import bytes_of, pages_for, roundup_pow_of_two, whole_pages

PAGES_PER_HUGE_PAGE: Final = 512
IO_RINGS_BYTES: Final = (
    320  # struct io_rings; then 16 bytes per completion, 4 per submission; 64 per entry apart
)


@dataclass(slots=True)
class _Hold:
    """Pages on a user's counter for one thing, dropped once."""

    user: User | None
    what: str
    pages: int

    def drop(self) -> None:
        if self.user is not None and self.pages:
            self.user.drop(self.what, self.pages)
        self.pages = 0


@dataclass(frozen=True, slots=True)
class _PerfMapping:
    """A mapped perf buffer: its share of the user's counter, of the process's pinned_vm, and its pages."""

    hold: _Hold
    extra_pages: int
    block: Block


@final
class IoUring:
    """An io_uring instance. Whether its creator had CAP_IPC_LOCK decides for all buffers registered later."""

    def __init__(self, *, unlimited: bool) -> None:
        self.unlimited: Final = unlimited
        self.holds: Final[list[_Hold]] = []

    def release(self) -> None:
        """The last descriptor is closed: registered buffers are unpinned."""
        while self.holds:
            self.holds.pop().drop()


@final
class LockedMemory:
    """Consumers of RLIMIT_MEMLOCK other than BPF. ``perf_event_mlock_kb`` and ``perf_event_paranoid`` are sysctls."""

    def __init__(
        self, memory: Memory, files: FileTable, timeline: Timeline, online_cpus: int
    ) -> None:
        self._memory: Final = memory
        self._files: Final = files
        self._timeline: Final = timeline
        self._online_cpus: Final = online_cpus
        self._mappings: Final[dict[int, list[_PerfMapping]]] = {}
        self.perf_event_mlock_kb = 516
        self.perf_event_paranoid = 2

    # -- sharers of user->locked_vm --------------------------------------------------------------------------------

    def mmap_perf(self, task: Task, fd: int, pages: int) -> None:
        """mmap(2) of a perf ring buffer of ``pages`` (a power of two of data pages, or none, and one) [perf_mmap].

        Up to 129 pages per online CPU and user come from the counter without any look at RLIMIT_MEMLOCK; only what is
        beyond goes to the process's pinned_vm, and only that is tested. The pages are charged to nobody's cgroup.
        Raises EBADF, EINVAL, EPERM, ENOMEM.
        """
        data_pages = pages - 1
        is_power_of_two = not data_pages & (data_pages - 1)
        if not isinstance(task.file(fd).target, PerfEvent) or pages < 1 or not is_power_of_two:
            raise KernelError(
                Errno.EINVAL,
                Reason.BAD_ATTRIBUTE,
                f"descriptor {fd} with {pages} pages is not a perf ring buffer",
            )
        free_of_test = self.perf_event_mlock_kb // 4 * self._online_cpus
        user = task.user
        used = min(user.locked_vm_pages, free_of_test)
        extra = max(0, used + pages - free_of_test)
        limit_pages = whole_pages(task.memlock_soft_bytes)
        over = task.pinned_vm_pages + extra > limit_pages
        if over and self.perf_event_paranoid > -1 and not task.has(Capability.IPC_LOCK):
            raise _refusal(Errno.EPERM, "a perf ring buffer", task, task.pinned_vm_pages, extra)
        what = f"perf buffer of process {task.pid}"
        gfp = GFP.GFP_KERNEL | GFP.ZERO | GFP.RETRY_MAYFAIL
        block = self._memory.alloc_pages(pages, gfp, None, task, Owner("perf", task.pid, what))
        task.pinned_vm_pages += extra
        hold = _hold(user, what, pages - extra)
        self._mappings.setdefault(task.pid, []).append(_PerfMapping(hold, extra, block))

    def register_umem(self, task: Task, fd: int, length_bytes: int) -> None:
        """XDP_UMEM_REG on an AF_XDP socket. Raises EBADF, ENOTSOCK, EINVAL, ENOBUFS over the limit [xdp_umem_reg]."""
        sock = socket_of(task, fd)
        if sock.kind.family != Family.XDP or length_bytes < 1:
            raise KernelError(
                Errno.EINVAL, Reason.BAD_ATTRIBUTE, f"descriptor {fd} takes no umem of that size"
            )
        hold = self._pin(task, "AF_XDP umem", pages_for(length_bytes), Errno.ENOBUFS)

        def leave(closed: Socket) -> None:
            hold.drop()

        sock.holders[hold.what] = leave

    def io_uring_setup(self, task: Task, entries: int) -> int:
        """io_uring_setup(2). Up to 5.11 (5.10.161) the rings themselves count. Raises EINVAL, EMFILE, ENOMEM."""
        if not 1 <= entries <= 32768:
            raise KernelError(
                Errno.EINVAL, Reason.BAD_ATTRIBUTE, f"{entries} entries: 1 to 32768 are possible"
            )
        ring = IoUring(unlimited=task.has(Capability.IPC_LOCK))
        if self._memory.profile.io_uring_rings_locked:
            ring.holds.append(self._pin(task, "io_uring", ring_pages(entries), Errno.ENOMEM))
        try:
            return self._files.open(
                task, File("io_uring", ring, lambda _: ring.release()), Owner("file", 0, "io_uring")
            )
        except KernelError:
            ring.release()
            raise

    def register_buffers(
        self, task: Task, fd: int, length_bytes: int, *, huge_pages: int = 0
    ) -> None:
        """IORING_REGISTER_BUFFERS: ``length_bytes`` of small pages, and huge pages touched, each counting in full.

        Raises EBADF, EINVAL, ENOMEM over the limit [io_sqe_buffers_register].
        """
        ring = task.file(fd).target
        if not isinstance(ring, IoUring) or length_bytes < 0 or huge_pages < 0:
            raise KernelError(
                Errno.EINVAL, Reason.BAD_ATTRIBUTE, f"descriptor {fd} takes no such buffers"
            )
        pages = pages_for(length_bytes) + huge_pages * PAGES_PER_HUGE_PAGE
        if not ring.unlimited:
            ring.holds.append(
                self._pin(task, "io_uring buffers", pages, Errno.ENOMEM, bypass=False)
            )

    def _pin(
        self, task: Task, what: str, pages: int, errno: Errno, *, bypass: bool = True
    ) -> _Hold:
        """Adds to the counter if the sum stays within the soft limit; CAP_IPC_LOCK neither tests nor adds."""
        if bypass and task.has(Capability.IPC_LOCK):
            return _Hold(None, what, 0)
        if task.user.locked_vm_pages + pages > whole_pages(task.memlock_soft_bytes):
            raise _refusal(errno, what, task, task.user.locked_vm_pages, pages)
        return _hold(task.user, f"{what} of process {task.pid}", pages)

    # -- users of other counters -----------------------------------------------------------------------------------

    def mlock(self, task: Task, length_bytes: int) -> None:
        """mlock(2): counted per process (VmLck), not where BPF counts. Raises EPERM, ENOMEM [do_mlock]."""
        if task.has(Capability.IPC_LOCK):
            task.mlocked_pages += pages_for(length_bytes)
            return
        if not task.memlock_soft_bytes:
            raise _refusal(Errno.EPERM, "mlock", task, task.mlocked_pages, pages_for(length_bytes))
        if task.mlocked_pages + pages_for(length_bytes) > whole_pages(task.memlock_soft_bytes):
            raise _refusal(Errno.ENOMEM, "mlock", task, task.mlocked_pages, pages_for(length_bytes))
        task.mlocked_pages += pages_for(length_bytes)

    def munlock(self, task: Task, length_bytes: int) -> None:
        """munlock(2) of up to ``length_bytes``."""
        task.mlocked_pages -= min(task.mlocked_pages, pages_for(length_bytes))

    def shm_lock(self, task: Task, length_bytes: int) -> None:
        """shmctl(SHM_LOCK): counted in user->locked_shm. Raises EPERM, ENOMEM [user_shm_lock]."""
        user, pages = task.user, pages_for(length_bytes)
        if not task.has(Capability.IPC_LOCK):
            if not task.memlock_soft_bytes:
                raise _refusal(Errno.EPERM, "SHM_LOCK", task, user.locked_shm_pages, pages)
            if user.locked_shm_pages + pages > whole_pages(task.memlock_soft_bytes):
                raise _refusal(Errno.ENOMEM, "SHM_LOCK", task, user.locked_shm_pages, pages)
        user.locked_shm_pages += pages

    # -- the end of a process --------------------------------------------------------------------------------------

    def release_task(self, task: Task) -> None:
        """Unmaps the perf buffers of a process that ends."""
        for mapping in self._mappings.pop(task.pid, ()):
            mapping.hold.drop()
            task.pinned_vm_pages -= mapping.extra_pages
            self._memory.free(mapping.block, task.cpu)


def _hold(user: User, what: str, pages: int) -> _Hold:
    user.hold(what, pages)
    return _Hold(user, what, pages)


def _refusal(errno: Errno, what: str, task: Task, used_pages: int, pages: int) -> KernelError:
    return KernelError(
        errno,
        Reason.RLIMIT_MEMLOCK_EXCEEDED,
        f"{what} of {pages} pages: {used_pages} are counted already,"
        f" RLIMIT_MEMLOCK of process {task.pid} allows {whole_pages(task.memlock_soft_bytes)}",
        uid=task.uid,
        limit_bytes=task.memlock_soft_bytes,
        usage_bytes=bytes_of(used_pages),
        requested_bytes=bytes_of(pages),
    )


def ring_pages(entries: int) -> int:
    """Pages of an io_uring's two areas, each a power of two [ring_pages]. There are twice as many completions.

    >>> ring_pages(1024), ring_pages(8)
    (32, 2)
    """
    slots = roundup_pow_of_two(entries)
    rings = IO_RINGS_BYTES + 2 * slots * 16 + slots * 4
    return sum(roundup_pow_of_two(pages_for(size)) for size in (rings, slots * 64))
