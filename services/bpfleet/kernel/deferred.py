"""Work the kernel puts off (RCU callbacks, work items) as an explicit queue that runs only when the owner says so."""

import heapq
from collections.abc import Callable
from typing import Final

# How long what Linux puts off takes here: an RCU grace period, one that also waits for sleepable programs, a work item.
RCU_GRACE_NS: Final = 10_000_000
TASKS_TRACE_GRACE_NS: Final = 30_000_000
WORK_ITEM_NS: Final = 500_000


class DeferredQueue:
    """Callbacks ordered by due time, then by the order in which they were queued.

    Running one may queue more. Bounded by what callers hold: each entry belongs to one object being freed.
    """

    __slots__ = ("_heap", "_sequence")

    def __init__(self) -> None:
        self._heap: Final[list[tuple[int, int, Callable[[], None]]]] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._heap)

    def defer(self, due_ns: int, work: Callable[[], None]) -> None:
        """Queues ``work`` to run once virtual time has reached ``due_ns``."""
        self._sequence += 1
        heapq.heappush(self._heap, (due_ns, self._sequence, work))

    def next_due_ns(self) -> int | None:
        """When the earliest work falls due; None if nothing is queued."""
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now_ns: int) -> tuple[int, Callable[[], None]] | None:
        """Removes and returns the earliest work due at ``now_ns`` as (due_ns, work), or None."""
        if not self._heap or self._heap[0][0] > now_ns:
            return None
        due_ns, _, work = heapq.heappop(self._heap)
        return due_ns, work
