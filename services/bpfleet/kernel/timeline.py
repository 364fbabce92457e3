"""Virtual time of one node: the clock, the work waiting for it, and the log of what happened."""

from collections.abc import Callable
from typing import Final, final

from bpfleet.kernel.deferred import DeferredQueue
from bpfleet.kernel.events import EventKind, EventLog


@final
class Timeline:
    """Time advances only through `advance` and `run_deferred`; nothing in the kernel reads a real clock."""

    __slots__ = ("deferred", "events", "now_ns")

    def __init__(self, event_capacity: int = 1024) -> None:
        self.now_ns = 0
        self.deferred: Final = DeferredQueue()
        self.events: Final = EventLog(event_capacity)

    def emit(self, kind: EventKind, **fields: int | str) -> None:
        """Records an event at the present moment."""
        self.events.append(self.now_ns, kind, fields)

    def defer(self, delay_ns: int, work: Callable[[], None]) -> None:
        """Queues ``work`` to run ``delay_ns`` from now."""
        self.deferred.defer(self.now_ns + delay_ns, work)

    def advance(self, delta_ns: int) -> int:
        """Moves the clock forward, running what falls due at its own time. Returns how many pieces of work ran."""
        assert delta_ns >= 0, delta_ns
        target = self.now_ns + delta_ns
        ran = 0
        while (item := self.deferred.pop_due(target)) is not None:
            self.now_ns = max(self.now_ns, item[0])
            item[1]()
            ran += 1
        self.now_ns = max(self.now_ns, target)  # work may have taken time itself
        return ran

    def run_deferred(self) -> int:
        """Runs all pending work, and what that queues in turn, moving the clock as far as needed."""
        ran = 0
        while (due := self.deferred.next_due_ns()) is not None:
            ran += self.advance(max(0, due - self.now_ns))
        return ran
