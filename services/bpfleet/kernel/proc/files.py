"""Text of /proc files: limits, status, cgroup, oom_score_adj of a process; meminfo of the node [fs/proc/*.c].

Lines about what is not modelled (threads, signals, huge pages) read as on a freshly started process or node.
"""

from collections.abc import Callable
from typing import Final

from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm.memcg import Memcg, Stat
from bpfleet.kernel.mm.page_alloc import NodeMemory
from bpfleet.kernel.mm.swapfile import SwapSpace
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.units import bytes_of

_KIB: Final = 1024
_UNLIMITED: Final = (RLIM_INFINITY, RLIM_INFINITY)


def _limit_text(value: int) -> str:
    return "unlimited" if value >= RLIM_INFINITY else str(value)


def limits_text(task: Task) -> str:
    """/proc/PID/limits [proc_pid_limits]."""
    rows: list[tuple[str, tuple[int, int], str]] = [
        ("Max cpu time", _UNLIMITED, "seconds"),
        ("Max file size", _UNLIMITED, "bytes"),
        ("Max data size", _UNLIMITED, "bytes"),
        ("Max stack size", (8 << 20, RLIM_INFINITY), "bytes"),
        ("Max core file size", (0, RLIM_INFINITY), "bytes"),
        ("Max resident set", _UNLIMITED, "bytes"),
        ("Max processes", (31_000, 31_000), "processes"),
        ("Max open files", (task.nofile, task.nofile_hard), "files"),
        ("Max locked memory", (task.memlock_soft_bytes, task.memlock_hard_bytes), "bytes"),
        ("Max address space", _UNLIMITED, "bytes"),
        ("Max file locks", _UNLIMITED, "locks"),
        ("Max pending signals", (31_000, 31_000), "signals"),
        ("Max msgqueue size", (819_200, 819_200), "bytes"),
        ("Max nice priority", (0, 0), ""),
        ("Max realtime priority", (0, 0), ""),
        ("Max realtime timeout", _UNLIMITED, "us"),
    ]
    lines = [f"{'Limit':<25} {'Soft Limit':<20} {'Hard Limit':<20} {'Units':<10}"]
    for name, (soft, hard), unit in rows:
        line = f"{name:<25} {_limit_text(soft):<20} {_limit_text(hard):<20} "
        lines.append(line + (f"{unit:<10}" if unit else ""))
    return "\n".join(lines) + "\n"


def status_text(task: Task) -> str:
    """/proc/PID/status, the lines about identity, memory and capabilities [proc_pid_status]."""
    mm = task.mm
    kib = {
        "VmPeak": bytes_of(mm.peak_vm_pages) // _KIB,
        "VmSize": bytes_of(mm.total_vm) // _KIB,
        "VmLck": bytes_of(task.mlocked_pages) // _KIB,
        "VmPin": bytes_of(task.pinned_vm_pages) // _KIB,
        "VmHWM": bytes_of(mm.peak_pages) // _KIB,
        "VmRSS": task.rss_bytes // _KIB,
        "RssAnon": bytes_of(mm.anon_pages) // _KIB,
        "RssFile": 0,
        "RssShmem": bytes_of(mm.shmem_pages) // _KIB,
        "VmPTE": bytes_of(mm.pgtable_pages) // _KIB,
        "VmSwap": bytes_of(mm.swap_pages) // _KIB,
    }
    lines = [
        f"Name:\t{task.comm}",
        "State:\tS (sleeping)",
        f"Tgid:\t{task.pid}",
        f"Pid:\t{task.pid}",
        f"Uid:\t{task.uid}\t{task.euid}\t{task.euid}\t{task.euid}",
        f"FDSize:\t{_fd_size(task)}",
        *(f"{name}:\t{value:8d} kB" for name, value in kib.items()),
        "Threads:\t1",
        f"CapPrm:\t{_capability_mask(task.permitted)}",
        f"CapEff:\t{_capability_mask(task.caps)}",
    ]
    return "\n".join(lines) + "\n"


def _fd_size(task: Task) -> int:
    """Slots of the descriptor table, which doubles from 64."""
    size = 64
    while size <= max(task.fds, default=0):
        size *= 2
    return size


def _capability_mask(caps: frozenset[int]) -> str:
    return f"{sum(1 << cap for cap in caps):016x}"


def cgroup_text(task: Task) -> str:
    """/proc/PID/cgroup on a host with cgroup v2 alone."""
    return f"0::{task.cgroup.path}\n"


def oom_score_adj_text(task: Task) -> str:
    """/proc/PID/oom_score_adj."""
    return f"{task.oom_score_adj}\n"


PROCESS_FILES: Final[dict[str, Callable[[Task], str]]] = {
    "cgroup": cgroup_text,
    "comm": lambda task: f"{task.comm}\n",
    "limits": limits_text,
    "oom_score_adj": oom_score_adj_text,
    "status": status_text,
}


def meminfo_text(node: NodeMemory, root: Memcg, swap: SwapSpace | None = None) -> str:
    """/proc/meminfo: what is free, and what the rest is, as far as it is known [meminfo_proc_show]."""
    stat = root.stat
    file_bytes = bytes_of(stat[Stat.FILE_PAGES])
    reclaimable = file_bytes - bytes_of(stat[Stat.SHMEM_PAGES])
    rows = {
        "MemTotal": node.ram_bytes,
        "MemFree": node.free_bytes,
        "MemAvailable": node.free_bytes + reclaimable,
        "Buffers": 0,
        "Cached": file_bytes,
        "SwapCached": 0,
        "AnonPages": bytes_of(stat[Stat.ANON_PAGES]),
        "Shmem": bytes_of(stat[Stat.SHMEM_PAGES]),
        "PageTables": bytes_of(stat[Stat.PGTABLE_PAGES]),
        "SwapTotal": 0 if swap is None else bytes_of(swap.total_pages),
        "SwapFree": 0 if swap is None else bytes_of(swap.free_pages),
    }
    return "".join(f"{name + ':':<16}{value // _KIB:8d} kB\n" for name, value in rows.items())


def no_such_file(name: str) -> KernelError:
    """ENOENT for a /proc file that is not emulated."""
    known = ", ".join((*PROCESS_FILES, "fdinfo/N"))
    return KernelError(
        Errno.ENOENT,
        Reason.NO_SUCH_OBJECT,
        f"/proc file {name!r} is not emulated; of a process: {known}; of the node: meminfo",
    )


__all__ = ["PROCESS_FILES", "meminfo_text", "no_such_file"]
