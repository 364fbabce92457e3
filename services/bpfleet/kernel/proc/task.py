"""A task: credentials, limits, descriptors and the memory its page faults brought in [include/linux/sched.h]."""

from typing import ClassVar, Final, final

from bpfleet.abi.bpf import Capability
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import RLIMIT_NOFILE_DEFAULT
from bpfleet.kernel.cgroup.tree import Cgroup
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm.memcontrol import ObjCgroup
from bpfleet.kernel.mm.memory import Block
from bpfleet.kernel.proc.address_space import AddressSpace
from bpfleet.kernel.proc.file import File
from bpfleet.kernel.proc.user import User
from bpfleet.kernel.units import bytes_of

FIRST_FD: Final = 3
NR_OPEN_DEFAULT: Final = 64  # descriptors of the table inside struct files_struct
RLIMIT_NOFILE_HARD: Final = 4096  # INR_OPEN_MAX


@final
class Task:
    """One process. Its threads are a number, and what each of them costs.

    ``user`` belongs to the real uid and is the one BPF charges; capabilities are those in the initial user namespace.
    """

    __slots__ = (
        "alive",
        "bpf_storage",
        "caps",
        "cgroup",
        "comm",
        "cpu",
        "dying",
        "dying_reason",
        "euid",
        "exit_reason",
        "exit_status",
        "fds",
        "fdtable",
        "kmem_accounting",
        "max_fds",
        "memlock_hard_bytes",
        "memlock_soft_bytes",
        "mlocked_pages",
        "mm",
        "next_fd",
        "nofile",
        "nofile_hard",
        "notify_resume",
        "oom_score_adj",
        "oom_score_adj_min",
        "over_high_pages",
        "own",
        "permitted",
        "pid",
        "pinned_vm_pages",
        "stall_ns",
        "start_ns",
        "threads",
        "uid",
        "user",
    )

    in_task: ClassVar[bool] = True  # as opposed to interrupt context

    def __init__(
        self,
        pid: int,
        user: User,
        caps: frozenset[Capability],
        cgroup: Cgroup,
        mm: AddressSpace,
        *,
        memlock_soft_bytes: int,
        memlock_hard_bytes: int,
        oom_score_adj: int = 0,
        comm: str = "",
        cpu: int = 0,
        kmem_accounting: bool = True,
    ) -> None:
        self.pid: Final = pid
        self.user = user
        self.uid = user.uid
        self.euid = user.uid
        self.caps = caps  # the effective set
        self.permitted = caps
        self.cgroup = cgroup
        self.memlock_soft_bytes = memlock_soft_bytes
        self.memlock_hard_bytes = memlock_hard_bytes
        self.nofile = RLIMIT_NOFILE_DEFAULT
        self.nofile_hard = RLIMIT_NOFILE_HARD
        self.oom_score_adj = oom_score_adj
        self.oom_score_adj_min = (
            oom_score_adj  # what a writer with CAP_SYS_RESOURCE, as the runtime, set last
        )
        self.comm = comm
        self.cpu = cpu
        self.kmem_accounting: Final = kmem_accounting
        self.fds: Final[dict[int, File]] = {}
        self.next_fd = FIRST_FD
        self.max_fds = NR_OPEN_DEFAULT
        self.fdtable: tuple[Block, ...] = ()  # of more than that
        self.threads: Final[
            list[tuple[Block, ...]]
        ] = []  # beside the first, with what was taken for each
        self.own: tuple[Block, ...] = ()  # of the process itself, where it was started here
        self.mm: Final = mm
        self.pinned_vm_pages = 0  # VmPin
        self.mlocked_pages = 0  # VmLck
        self.notify_resume = False  # something waits for the return to user space: see Kernel.leave
        self.over_high_pages = 0
        self.stall_ns = 0
        self.start_ns = 0
        self.bpf_storage: object | None = None  # kernel/bpf hangs this task's local storage here
        self.alive = True
        self.dying = False  # SIGKILL is pending; the task ends when it returns to user space
        self.dying_reason = ""
        self.exit_reason = ""
        self.exit_status = 0

    @property
    def objcg(self) -> ObjCgroup | None:
        """Whom this task's accounted kernel allocations are charged to; None in the root cgroup or with nokmem."""
        if not self.kmem_accounting:
            return None
        memcg = self.cgroup.memcg
        return None if memcg.parent is None else memcg.objcg

    @property
    def rss_bytes(self) -> int:
        """Resident user memory: anonymous and shared."""
        return bytes_of(self.mm.rss_pages)

    def has(self, capability: Capability) -> bool:
        """capable(): whether the capability is in the effective set."""
        return capability in self.caps

    def bpf_capable(self) -> bool:
        """CAP_BPF or CAP_SYS_ADMIN [bpf_capable]."""
        return Capability.BPF in self.caps or Capability.SYS_ADMIN in self.caps

    def perfmon_capable(self) -> bool:
        """CAP_PERFMON or CAP_SYS_ADMIN [perfmon_capable]."""
        return Capability.PERFMON in self.caps or Capability.SYS_ADMIN in self.caps

    def sigkill(self, reason: str) -> None:
        """Makes SIGKILL pending: the task ends when it next returns to user space."""
        self.dying = True
        self.dying_reason = self.dying_reason or reason
        self.notify_resume = True

    def file(self, fd: int) -> File:
        """What descriptor ``fd`` refers to. Raises EBADF."""
        found = self.fds.get(fd)
        if found is None:
            raise KernelError(
                Errno.EBADF,
                Reason.BAD_FILE_DESCRIPTOR,
                f"process {self.pid} has no descriptor {fd}",
            )
        return found

    def install(self, file: File) -> int:
        """Gives ``file`` the lowest free descriptor. Raises EMFILE at the soft RLIMIT_NOFILE."""
        fd = self.next_fd
        while fd in self.fds:
            fd += 1
        if fd >= self.nofile:
            raise KernelError(
                Errno.EMFILE,
                Reason.TOO_MANY_FILES,
                f"process {self.pid} has {len(self.fds)} descriptors, its limit is {self.nofile}",
                limit=self.nofile,
            )
        self.fds[fd] = file
        file.refs += 1
        self.next_fd = fd + 1
        return fd

    def uninstall(self, fd: int) -> File:
        """Takes descriptor ``fd`` away and returns what it referred to. Raises EBADF."""
        file = self.file(fd)
        del self.fds[fd]
        self.next_fd = min(self.next_fd, fd)
        file.refs -= 1
        return file
