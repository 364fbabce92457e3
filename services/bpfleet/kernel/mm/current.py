"""Who is running: a task, or an interrupt [include/asm-generic/current.h, include/linux/preempt.h]."""

from typing import TYPE_CHECKING, Final, Protocol, final

if TYPE_CHECKING:
    from bpfleet.kernel.mm.memcg import ObjCgroup


class Current(Protocol):
    """What memory management needs to know of the running context.

    ``over_high_pages`` and ``stall_ns`` are debts of a task that exceeded memory.high, paid when it returns to user
    space. ``dying`` means SIGKILL is pending. ``notify_resume`` says that one of them waits for that return.
    """

    notify_resume: bool
    over_high_pages: int
    stall_ns: int

    @property
    def pid(self) -> int: ...
    @property
    def cpu(self) -> int: ...
    @property
    def comm(self) -> str: ...
    @property
    def oom_score_adj(self) -> int: ...
    @property
    def dying(self) -> bool: ...
    @property
    def in_task(self) -> bool: ...
    @property
    def objcg(self) -> "ObjCgroup | None": ...


@final
class KernelContext:
    """Interrupts, work items, and administrators whose process is not modelled: never charged, never killed."""

    def __init__(self, cpu: int = 0, *, comm: str = "kworker", in_task: bool = False) -> None:
        self.pid: Final = 0
        self.cpu: Final = cpu
        self.comm: Final = comm
        self.oom_score_adj: Final = 0
        self.dying: Final = False
        self.in_task: Final = in_task
        self.objcg: Final = None
        self.notify_resume = False
        self.over_high_pages = 0
        self.stall_ns = 0
