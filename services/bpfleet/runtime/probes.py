"""How user-space libraries find out whether RLIMIT_MEMLOCK matters, and what they do about it.

libbpf looks for a helper that came with the accounting; cilium/ebpf and bpftool lower the limit to
0 and try. Kernels with the helper but without the accounting deceive the first and not the others.
Older agents raise the limit without asking, and die where they may not (suricata PR#15782, odigos
PR#4949).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bpfleet.abi.bpf import MapType, ProgType
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.program import ProgAttr
from bpfleet.kernel.errors import KernelError
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task

__all__ = [
    "LIBRARIES",
    "MEMLOCK_DEFAULTS",
    "Preparation",
    "prepare_memlock",
    "probe_by_helper",
    "probe_by_limit",
]

SKIPPED: Final = "skipped"
DONE: Final = "done"

# RLIMIT_MEMLOCK that a process starts with, in bytes, by who starts it. The kernel's own default
# (64 KiB, 8 MiB since 5.16) is in the kernel profile; these override it.
MEMLOCK_DEFAULTS: Final[dict[str, int]] = {
    "systemd before 250": 64 << 10,
    "systemd 250 and later": 8 << 20,
    "containerd of most distributions": RLIM_INFINITY,  # LimitMEMLOCK=infinity in its unit
    "containerd of Garden Linux": 64 << 20,
    "Android": 64 << 10,
}


@dataclass(frozen=True, slots=True)
class Preparation:
    """What a library did before its first map. ``answer`` is what the application gets: not ``ok``
    ends it.

    ``believes`` is ``memcg``, ``rlimit`` or ``-`` (did not ask); ``bump`` is ``skipped``, ``done``
    or an errno.
    """

    library: str
    believes: str
    bump: str
    answer: str


def probe_by_helper(kernel: Kernel, task: Task) -> bool:
    """libbpf's probe_memcg_account: a two-instruction program that calls bpf_ktime_get_coarse_ns
    loads.
    """
    if not kernel.profile.has_ktime_get_coarse_ns:
        return False
    try:
        fd = kernel.bpf.prog_load(task, ProgAttr(ProgType.SOCKET_FILTER, insn_cnt=2)).fd
    except KernelError:
        return False
    kernel.close(task.pid, fd)
    return True


def probe_by_limit(kernel: Kernel, task: Task) -> bool:
    """cilium/ebpf and bpftool: with a soft limit of 0, a one-entry array can still be created."""
    soft, hard = task.memlock_soft_bytes, task.memlock_hard_bytes
    kernel.prlimit(task.pid, "memlock", 0, hard)
    try:
        fd = kernel.bpf.map_create(
            task, MapAttr(MapType.ARRAY, key_size=4, value_size=4, max_entries=1)
        ).fd
    except KernelError:
        return False
    else:
        kernel.close(task.pid, fd)
        return True
    finally:
        kernel.prlimit(task.pid, "memlock", soft, hard)


@dataclass(frozen=True, slots=True)
class _Habit:
    """A library's way: how it asks (None: it does not), and whether a failed bump ends the
    application.
    """

    probe: Callable[[Kernel, Task], bool] | None
    bumps: bool
    bump_is_vital: bool


LIBRARIES: Final[dict[str, _Habit]] = {
    "libbpf": _Habit(probe_by_helper, bumps=True, bump_is_vital=False),
    "libbpf 0.6": _Habit(None, bumps=False, bump_is_vital=False),
    "falco libs": _Habit(
        None, bumps=True, bump_is_vital=False
    ),  # PR#1148: always, after libbpf's probe failed them
    "cilium/ebpf": _Habit(probe_by_limit, bumps=True, bump_is_vital=True),
    "bpftool": _Habit(probe_by_limit, bumps=True, bump_is_vital=False),
    "bcc": _Habit(None, bumps=True, bump_is_vital=False),
    "unconditional": _Habit(None, bumps=True, bump_is_vital=True),
}


def prepare_memlock(kernel: Kernel, task: Task, library: str) -> Preparation:
    """Carries out a library's preparation for ``task``. Raises ``KeyError`` for a library not in
    ``LIBRARIES``.
    """
    habit = LIBRARIES[library]
    believes = "-"
    if habit.probe is not None:
        believes = "memcg" if habit.probe(kernel, task) else "rlimit"
    if not habit.bumps or believes == "memcg":
        return Preparation(library, believes, SKIPPED, "ok")
    try:
        kernel.prlimit(task.pid, "memlock", RLIM_INFINITY, RLIM_INFINITY)
    except KernelError as error:
        name = error.errno.name
        return Preparation(library, believes, name, name if habit.bump_is_vital else "ok")
    return Preparation(library, believes, DONE, "ok")
