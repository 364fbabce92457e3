"""What map code may know: of the node, and of who runs an operation."""

from typing import Final, final

from bpfleet.kernel.proc.file import File
from bpfleet.kernel.proc.sockets import Inode
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile


@final
class Host:
    """What map code may know of the node: the profile, its CPUs, its sysctls. No memory, no tasks.

    ``late_refill``: bpf_mem_alloc caches are refilled only when a system call ends (memalloc.py).
    """

    __slots__ = (
        "anon_inode",
        "ifindexes",
        "jit_always_on",
        "jit_limit_bytes",
        "late_refill",
        "perf_event_max_stack",
        "possible_cpus",
        "profile",
        "unprivileged_bpf_disabled",
        "vmlinux_btf_parsed",
    )

    def __init__(self, profile: KernelProfile, possible_cpus: int) -> None:
        self.profile: Final = profile
        self.possible_cpus: Final = possible_cpus
        self.perf_event_max_stack = 127
        self.unprivileged_bpf_disabled = 2
        self.jit_limit_bytes = profile.bpf_jit_limit_bytes
        self.jit_always_on = profile.bpf_jit_always_on
        self.late_refill = False
        self.ifindexes = frozenset({1})  # network devices of the node: the loopback device
        self.anon_inode: Final = Inode("anon_inode")  # all anonymous descriptors share it
        self.vmlinux_btf_parsed = False  # the verifier parses it when it first runs


@final
class OpContext:
    """Who runs a map operation: the task, and whether from a program in interrupt context.

    ``from_prog`` operations see values, not user copies, and set LRU reference bits. ``map_file`` is the open file the
    map was reached through, None for programs.
    """

    __slots__ = ("cpu", "from_prog", "in_interrupt", "map_file", "task")

    def __init__(
        self,
        task: Task,
        *,
        from_prog: bool = False,
        in_interrupt: bool = False,
        map_file: File | None = None,
    ) -> None:
        self.task: Final = task
        self.from_prog: Final = from_prog
        self.in_interrupt: Final = in_interrupt
        self.cpu: Final = task.cpu
        self.map_file: Final = map_file
