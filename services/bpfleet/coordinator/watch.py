"""The newest events, and those who wait for more. Readers share one bounded log: none has a buffer."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import islice

from bpfleet.fleet.errors import FleetError, Refused
from bpfleet.fleet.reasons import ControlReason
from bpfleet.fleet.records import FleetEvent
from bpfleet.fleet.store import EVENTS_KEPT

__all__ = ["FleetEventLog"]

_BATCH_MAX = 500
_WATCHES_MAX = 1_000
_PROGRESS_SECONDS = 10.0


class FleetEventLog:
    """Committed events in order of revision, without gaps."""

    def __init__(self, kept: int = EVENTS_KEPT) -> None:
        self._events: deque[FleetEvent] = deque(maxlen=kept)
        self._last = 0
        self._news = asyncio.Event()
        self._watches = 0
        self._closed = False
        # A stream belongs to a term of this coordinator, and ends with it.
        self._term = 0
        self._end: FleetError | None = None

    @property
    def last_revision(self) -> int:
        """Revision of the newest event; 0 if there was none."""
        return self._last

    @property
    def oldest_revision(self) -> int:
        """Revision of the oldest event kept."""
        return self._last - len(self._events) + 1

    @property
    def watches(self) -> int:
        """Streams that are open."""
        return self._watches

    def extend(self, events: Iterable[FleetEvent]) -> None:
        """Adds events that are stored now, and wakes who waits."""
        for event in events:
            self._events.append(event)
            self._last = event.revision
        self._wake()

    def restart(self, events: Iterable[FleetEvent], revision: int) -> None:
        """Starts over from the store after a change of leader."""
        self._events.clear()
        self._last = 0
        self.extend(events)
        self._last = max(self._last, revision)

    def all(self) -> list[FleetEvent]:
        """The events kept, oldest first."""
        return list(self._events)

    def end_watches(self, error: FleetError) -> None:
        """Ends every watch with ``error``: what happens next happens elsewhere."""
        self._term, self._end = self._term + 1, error
        self._wake()

    def close(self) -> None:
        """Ends every watch."""
        self._closed = True
        self._wake()

    def since(self, revision: int, limit: int = _BATCH_MAX) -> list[FleetEvent]:
        """Events from ``revision`` on, at most ``limit``. Raises ``FleetError`` if they are gone."""
        if revision < self.oldest_revision:
            text = f"revision {revision} is no longer kept, the oldest is {self.oldest_revision}"
            raise FleetError(
                Refused.OUT_OF_RANGE,
                ControlReason.REVISION_COMPACTED,
                f"{text}; list the fleet, then watch from its revision",
                oldestRevision=self.oldest_revision,
            )
        start = revision - self.oldest_revision
        return list(islice(self._events, start, start + limit))

    async def watch(
        self, start_revision: int | None, wanted: Callable[[FleetEvent], bool]
    ) -> AsyncIterator[tuple[int, list[FleetEvent]]]:
        """(revision reached, wanted events) as they come; an empty list every few seconds.

        A reader that falls behind what is kept is ended with WATCH_LAGGED.
        """
        if self._watches >= _WATCHES_MAX:
            text = f"{_WATCHES_MAX} watches are open; close one"
            raise FleetError(Refused.EXHAUSTED, ControlReason.TOO_MANY_WATCHES, text)
        after = self._last if start_revision is None else start_revision - 1
        if after > self._last:
            text = f"start_revision: {start_revision} is in the future, the last is {self._last}"
            raise FleetError(Refused.OUT_OF_RANGE, ControlReason.REVISION_UNKNOWN, text)
        if after < self._last:
            self.since(after + 1, 0)
        term = self._term
        self._watches += 1
        try:
            yield after, []
            while not self._closed:
                if term != self._term and self._end is not None:
                    raise self._end
                if after >= self._last:
                    if not await self._wait():
                        yield after, []
                    continue
                events = self._next(after + 1)
                after = events[-1].revision
                chosen = [event for event in events if wanted(event)]
                if chosen:
                    yield after, chosen
        finally:
            self._watches -= 1

    def _next(self, revision: int) -> list[FleetEvent]:
        try:
            return self.since(revision)
        except FleetError as error:
            raise FleetError(
                Refused.EXHAUSTED,
                ControlReason.WATCH_LAGGED,
                "the reader is too slow: events it has not read are gone; list, then watch again",
                **error.numbers,
            ) from None

    async def _wait(self) -> bool:
        """False if nothing came for a while."""
        try:
            async with asyncio.timeout(_PROGRESS_SECONDS):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
