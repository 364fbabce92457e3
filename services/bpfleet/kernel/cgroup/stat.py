"""memory.stat: which lines a kernel has, in its order, and where their numbers come from [memory_stats[]]."""

from collections.abc import Callable
from typing import Final, final

from bpfleet.kernel.mm.memcg import Memcg, Stat
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.units import bytes_of, pages_for

_ZERO: Final[Callable[[list[int]], int]] = lambda stat: 0  # noqa: E731


def _pages(which: Stat) -> Callable[[list[int]], int]:
    return lambda stat: bytes_of(stat[which])


def _plain(which: Stat) -> Callable[[list[int]], int]:
    return lambda stat: stat[which]


# What a line reads. Lines not listed are 0 here: huge pages, the swap cache, writeback, working-set detection and NUMA
# balancing are not modelled.
_SOURCES: Final[dict[str, Callable[[list[int]], int]]] = {
    "anon": _pages(Stat.ANON_PAGES),
    "file": _pages(Stat.FILE_PAGES),
    "kernel": _pages(Stat.KERNEL_PAGES),
    "kernel_stack": _pages(Stat.KERNEL_STACK_PAGES),
    "pagetables": _pages(Stat.PGTABLE_PAGES),
    "percpu": _plain(Stat.PERCPU),
    "vmalloc": _pages(Stat.VMALLOC_PAGES),
    "shmem": _pages(Stat.SHMEM_PAGES),
    # Anonymous and shared pages are not told apart by age.
    "inactive_anon": lambda stat: bytes_of(stat[Stat.ANON_PAGES] + stat[Stat.SHMEM_PAGES]),
    "inactive_file": lambda stat: bytes_of(
        stat[Stat.FILE_PAGES] - stat[Stat.SHMEM_PAGES] - stat[Stat.ACTIVE_FILE_PAGES]
    ),
    "active_file": _pages(Stat.ACTIVE_FILE_PAGES),
    "slab_reclaimable": _plain(Stat.SLAB_RECLAIMABLE),
    "slab_unreclaimable": _plain(Stat.SLAB_UNRECLAIMABLE),
    "slab": lambda stat: stat[Stat.SLAB_RECLAIMABLE] + stat[Stat.SLAB_UNRECLAIMABLE],
    "pgfault": _plain(Stat.PGFAULT),
    "pswpout": _plain(Stat.PSWPOUT),
    "pgscan": _plain(Stat.PGSCAN),
    "pgsteal": _plain(Stat.PGSTEAL),
    "pgscan_direct": _plain(Stat.PGSCAN),
    "pgsteal_direct": _plain(Stat.PGSTEAL),
}


FLUSH_NS: Final = 2_000_000_000  # FLUSH_TIME: a periodic flush of all cgroups
_BYTE_STATS: Final = (Stat.SLAB_RECLAIMABLE, Stat.SLAB_UNRECLAIMABLE, Stat.PERCPU)


@final
class LaggingStats:
    """memory.stat as late as Linux reads it: what was flushed last, until enough has changed or 2 s have passed.

    Enough is a batch of pages per CPU, summed over all statistics [memcg_vmstats_needs_flush]. The ledger stays exact.
    """

    def __init__(self, flush_pages: int) -> None:
        self._flush_pages: Final = flush_pages
        self._flushed: Final[dict[Memcg, tuple[int, list[int]]]] = {}

    def read(self, memcg: Memcg, now_ns: int) -> list[int]:
        """The statistics that a read at ``now_ns`` shows."""
        at_ns, shown = self._flushed.get(memcg, (now_ns, [0] * len(memcg.stat)))
        if now_ns - at_ns >= FLUSH_NS or self._changed_pages(shown, memcg.stat) > self._flush_pages:
            at_ns, shown = now_ns, list(memcg.stat)
        self._flushed[memcg] = at_ns, shown
        return shown

    def _changed_pages(self, shown: list[int], real: list[int]) -> int:
        moved = [abs(now - before) for before, now in zip(shown, real, strict=True)]
        return sum(
            pages_for(amount) if stat in _BYTE_STATS else amount
            for stat, amount in enumerate(moved)
        )


def memory_stat_text(stat: list[int], profile: KernelProfile) -> str:
    """The whole file."""
    return "".join(
        f"{name} {_SOURCES.get(name, _ZERO)(stat)}\n" for name in profile.memory_stat_lines
    )
