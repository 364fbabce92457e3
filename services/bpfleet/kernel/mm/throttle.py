"""memory.high, memory.swap.high: what a task owes for exceeding them [mem_cgroup_handle_over_high]."""

from collections.abc import Callable
from typing import Final

from bpfleet.kernel.mm.current import Current
from bpfleet.kernel.mm.memcg import Memcg, SwapEvent
from bpfleet.kernel.mm.memcontrol import MAX_RECLAIM_RETRIES

HZ: Final = 250  # CONFIG_HZ of Debian's kernels
NS_PER_JIFFY: Final = 1_000_000_000 // HZ
MAX_DELAY_JIFFIES: Final = 2 * HZ
PRECISION_SHIFT: Final = 20
SCALING_SHIFT: Final = 14
SWAP_CLUSTER_MAX: Final = 32


def overage(usage_pages: int, high_pages: int) -> int:
    """How far usage is above high, as a fraction of high with 20 fractional bits [calculate_overage]."""
    if usage_pages <= high_pages:
        return 0
    return (usage_pages - high_pages << PRECISION_SHIFT) // max(high_pages, 1)


def delay_jiffies(max_overage: int, pages: int, batch_pages: int) -> int:
    """How long a task that charged ``pages`` sleeps, at most 2 s [calculate_high_delay].

    >>> delay_jiffies(overage(110, 100), 64, 64), delay_jiffies(overage(200, 100), 64, 64)
    (159, 500)
    """
    penalty = max_overage * max_overage * HZ >> PRECISION_SHIFT >> SCALING_SHIFT
    return min(penalty * pages // batch_pages, MAX_DELAY_JIFFIES)


def handle_over_high(
    memcg: Memcg,
    current: Current,
    batch_pages: int,
    reclaim_high: Callable[[Memcg, int], int],
) -> None:
    """Reclaims on behalf of a task, and makes it owe a sleep when that does not help.

    ``memcg`` is the task's own; ``reclaim_high`` makes one pass over its ancestors and returns pages freed.
    """
    pages, current.over_high_pages = current.over_high_pages, 0
    retries = MAX_RECLAIM_RETRIES
    wanted = pages
    while True:
        freed = reclaim_high(memcg, wanted)
        jiffies = delay_jiffies(_max_overage(memcg), pages, batch_pages)
        swap_jiffies = delay_jiffies(_max_swap_overage(memcg), pages, batch_pages)
        jiffies = min(jiffies + swap_jiffies, MAX_DELAY_JIFFIES)
        if jiffies <= HZ // 100:
            return
        if not freed:
            if not retries:
                break
            retries -= 1
        wanted = SWAP_CLUSTER_MAX
    current.stall_ns += jiffies * NS_PER_JIFFY
    current.notify_resume = True


def _max_overage(memcg: Memcg) -> int:
    """The worst overage of a memcg and its ancestors below the root [mem_find_max_overage]."""
    worst = 0
    level: Memcg | None = memcg
    while level is not None and level.parent is not None:
        worst = max(worst, overage(level.memory.usage, level.memory.high))
        level = level.parent
    return worst


def _max_swap_overage(memcg: Memcg) -> int:
    """The worst overage of memory.swap.high, with an event for each group over it [swap_find_max_overage]."""
    worst = 0
    level: Memcg | None = memcg
    while level is not None and level.parent is not None:
        found = overage(level.swap.usage, level.swap.high)
        if found:
            level.raise_swap_event(SwapEvent.HIGH)
        worst = max(worst, found)
        level = level.parent
    return worst
