"""The control files of a directory of the memory controller's own hierarchy, cgroup v1 [mm/memcontrol-v1.c].

Linux: a limit is refused where what is in use does not fit below it and cannot be reclaimed (EBUSY); nobody is killed.
There is no memory.high, no group kill. Events are those of the directory itself. Kernel memory has its own counter.
Here: as there. Memory and swap together are counted and have no limit (no memory.memsw.limit_in_bytes); thresholds,
soft limits and moved charges do nothing.
"""

from collections.abc import Callable
from typing import Final, final

from bpfleet.abi.errno import Errno
from bpfleet.kernel.cgroup.files import (
    CgroupProcs,
    ControlFile,
    FileHost,
    limit_changed,
)
from bpfleet.kernel.cgroup.parse import invalid, kstrtoint, page_counter_memparse, strstrip
from bpfleet.kernel.cgroup.tree import Cgroup
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memcg import Stat
from bpfleet.kernel.mm.memcontrol import MAX_RECLAIM_RETRIES, Memcg, MemcgEvent
from bpfleet.kernel.mm.page_counter import PAGE_COUNTER_MAX
from bpfleet.kernel.units import bytes_of

SWAPPINESS_MAX: Final = 100
UNLIMITED: Final = "-1"  # what is written; it reads as the largest counter


@final
class Counter(ControlFile):
    """A number that only the kernel changes; ``resets`` names those that a write of 0 starts anew."""

    def __init__(
        self, number: Callable[[Memcg], int], reset: Callable[[Memcg], None] | None = None
    ) -> None:
        self._number: Final = number
        self._reset: Final = reset

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        return f"{self._number(cgroup.memcg)}\n"

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        if self._reset is None:
            super().write(cgroup, text, host)
        else:
            self._reset(cgroup.memcg)


@final
class LimitInBytes(ControlFile):
    """memory.limit_in_bytes. Raises EBUSY for a value that reclaim cannot make room for, which changes nothing."""

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        return f"{bytes_of(cgroup.memcg.memory.max)}\n"

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        pages = page_counter_memparse(
            "memory.limit_in_bytes", text, unlimited=UNLIMITED, page_bytes=host.profile.page_bytes
        )
        host.tree.controller.resize_max(cgroup.memcg, pages)
        limit_changed(cgroup, host, "memory.limit_in_bytes", pages)


@final
class ForceEmpty(ControlFile):
    """memory.force_empty: reclaims all that can be. Raises EBUSY with processes or children, on older kernels too."""

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        controller, memcg = host.tree.controller, cgroup.memcg
        controller.drain_stocks(memcg)
        retries = MAX_RECLAIM_RETRIES
        while retries and memcg.memory.usage:
            if not controller.reclaim(memcg, 1, GFP.GFP_KERNEL):
                retries -= 1


@final
class OomControl(ControlFile):
    """memory.oom_control: whether the killer may act here, and how often it did. It always may here."""

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        killed = cgroup.memcg.event_counts_local[MemcgEvent.OOM_KILL]
        return f"oom_kill_disable 0\nunder_oom 0\noom_kill {killed}\n"

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        value = kstrtoint("memory.oom_control", text)
        if value not in (0, 1):
            raise invalid("memory.oom_control", strstrip(text), "0 or 1")
        if value:
            raise KernelError(
                Errno.EOPNOTSUPP,
                Reason.OPERATION_UNSUPPORTED,
                "memory.oom_control: waiting instead of killing is not emulated",
            )


@final
class MemoryStatV1(ControlFile):
    """memory.stat of v1: the directory itself, then its limit, then with everything below."""

    on_root = True

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        memcg = cgroup.memcg
        own = [
            total - sum(child.stat[i] for child in memcg.children)
            for i, total in enumerate(memcg.stat)
        ]
        lines = [f"{name} {value}" for name, value in _lines(own)]
        lines.append(f"hierarchical_memory_limit {bytes_of(_least_limit(memcg))}")
        lines += [f"total_{name} {value}" for name, value in _lines(memcg.stat)]
        return "\n".join(lines) + "\n"


def _lines(stat: list[int]) -> list[tuple[str, int]]:
    """The lines BPF and its processes move, and those that are 0 here, in the file's order."""
    files = stat[Stat.FILE_PAGES] - stat[Stat.SHMEM_PAGES]
    return [
        ("cache", bytes_of(stat[Stat.FILE_PAGES])),
        ("rss", bytes_of(stat[Stat.ANON_PAGES])),
        ("rss_huge", 0),
        ("shmem", bytes_of(stat[Stat.SHMEM_PAGES])),
        ("mapped_file", 0),
        ("dirty", 0),
        ("writeback", 0),
        ("swap", bytes_of(stat[Stat.SWAP_PAGES])),
        ("pgfault", stat[Stat.PGFAULT]),
        ("inactive_anon", bytes_of(stat[Stat.ANON_PAGES] + stat[Stat.SHMEM_PAGES])),
        ("active_anon", 0),
        ("inactive_file", bytes_of(files - stat[Stat.ACTIVE_FILE_PAGES])),
        ("active_file", bytes_of(stat[Stat.ACTIVE_FILE_PAGES])),
        ("unevictable", 0),
    ]


def _least_limit(memcg: Memcg) -> int:
    least, level = PAGE_COUNTER_MAX, memcg
    while level.parent is not None:
        least, level = min(least, level.memory.max), level.parent
    return least


@final
class Setting(ControlFile):
    """A number that is kept by Linux and does nothing here; only its own value is taken."""

    def __init__(self, value: int) -> None:
        self._value: Final = value

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        return f"{self._value}\n"

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        if strstrip(text) != str(self._value):
            raise KernelError(
                Errno.EOPNOTSUPP,
                Reason.OPERATION_UNSUPPORTED,
                f"{strstrip(text)!r}: this file keeps {self._value} here",
            )


@final
class Swappiness(ControlFile):
    """memory.swappiness: 0 to 100; children created later inherit it. With 0 a limit never swaps the group out."""

    def read(self, cgroup: Cgroup, host: FileHost) -> str:
        return f"{cgroup.memcg.swappiness}\n"

    def write(self, cgroup: Cgroup, text: str, host: FileHost) -> None:
        value = kstrtoint("memory.swappiness", text)
        if not 0 <= value <= SWAPPINESS_MAX:
            raise invalid("memory.swappiness", strstrip(text), f"0 to {SWAPPINESS_MAX}")
        cgroup.memcg.swappiness = value


def _kernel_bytes(memcg: Memcg) -> int:
    return bytes_of(memcg.stat[Stat.KERNEL_PAGES])


def _memsw_bytes(memcg: Memcg) -> int:
    return bytes_of(memcg.memory.usage + memcg.swap.usage)


def _forget_peak(memcg: Memcg) -> None:
    memcg.memory.watermark = memcg.memory.usage


def _forget_failures(memcg: Memcg) -> None:
    memcg.memory.failcnt = 0


CONTROL_FILES_V1: Final[dict[str, ControlFile]] = {
    "cgroup.procs": CgroupProcs(threads=False),
    "memory.failcnt": Counter(lambda memcg: memcg.memory.failcnt, _forget_failures),
    "memory.force_empty": ForceEmpty(),
    "memory.kmem.usage_in_bytes": Counter(_kernel_bytes),
    "memory.limit_in_bytes": LimitInBytes(),
    "memory.max_usage_in_bytes": Counter(
        lambda memcg: bytes_of(memcg.memory.watermark), _forget_peak
    ),
    "memory.memsw.usage_in_bytes": Counter(_memsw_bytes),
    "memory.move_charge_at_immigrate": Setting(0),
    "memory.oom_control": OomControl(),
    "memory.stat": MemoryStatV1(),
    "memory.swappiness": Swappiness(),
    "memory.usage_in_bytes": Counter(lambda memcg: memcg.usage_bytes),
    "memory.use_hierarchy": Setting(1),
    "notify_on_release": Setting(0),
    "tasks": CgroupProcs(threads=True),
}
