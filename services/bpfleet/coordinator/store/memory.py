"""The store without durability: for the embedded default, tests and the simulation."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from itertools import chain, islice, takewhile
from time import monotonic

from bpfleet.fleet.store import (
    CHANGES_KEPT,
    EVENTS_KEPT,
    MARKS_KEPT,
    Batch,
    Conflict,
    Fenced,
    Leadership,
    News,
    Snapshot,
)

__all__ = ["MemoryStore"]


class MemoryStore:
    """Keeps everything in this process; several coordinators of one process may share it."""

    name = "memory"

    def __init__(self, clock_ms: Callable[[], int] = lambda: int(monotonic() * 1000)) -> None:
        self._clock_ms = clock_ms
        self._records: dict[str, str] = {}
        # Revision of the last change of each key, oldest change first.
        self._changed_at: dict[str, int] = {}
        self._changes_from = 0
        self._event_count = 0
        # Marks by revision, oldest first.
        self._marks: dict[int, str] = {0: ""}
        self._events: deque[str] = deque(maxlen=EVENTS_KEPT)
        self._revision = 0
        self._epoch = 0
        self._holder = ""
        self._expires_ms = 0
        self._changed = asyncio.Condition()

    async def load(self) -> Snapshot:
        """A copy of all records."""
        return self.snapshot()

    def snapshot(self) -> Snapshot:
        """The same, for callers without an event loop."""
        return Snapshot(
            revision=self._revision,
            epoch=self._epoch,
            records=dict(self._records),
            events=tuple(self._events),
            mark=self._marks[self._revision],
            event_count=self._event_count,
        )

    async def newer(self, revision: int, mark: str, event_count: int) -> News | None:
        """What was saved after a batch."""
        return self.news(revision, mark, event_count)

    def news(self, revision: int, mark: str, event_count: int) -> News | None:
        """``newer`` for callers without an event loop."""
        missed = self._event_count - event_count
        known = self._changes_from <= revision and self._marks.get(revision) == mark
        if not known or not 0 <= missed <= len(self._events):
            return None
        keys = takewhile(lambda key: self._changed_at[key] > revision, reversed(self._changed_at))
        return News(
            revision=self._revision,
            mark=self._marks[self._revision],
            epoch=self._epoch,
            changes={key: self._records.get(key) for key in keys},
            events=tuple(islice(self._events, len(self._events) - missed, None)),
            event_count=self._event_count,
        )

    async def revision(self) -> int:
        """The revision saved last."""
        return self._revision

    async def save(self, batch: Batch) -> None:
        """Stores a batch. Raises ``Fenced`` or ``Conflict``."""
        self.write(batch)
        async with self._changed:
            self._changed.notify_all()

    def write(self, batch: Batch) -> None:
        """``save`` for callers without an event loop; wakes no watcher."""
        if batch.epoch != self._epoch:
            raise Fenced(f"epoch {batch.epoch} is over, {self._epoch} leads")
        if batch.expected_revision != self._revision:
            raise Conflict(f"revision is {self._revision}, not {batch.expected_revision}")
        self._records.update(batch.puts)
        for key in batch.removals:
            self._records.pop(key, None)
        for key in chain(batch.puts, batch.removals):
            self._changed_at.pop(key, None)
            self._changed_at[key] = batch.revision
        while len(self._changed_at) > CHANGES_KEPT:
            self._changes_from = self._changed_at.pop(next(iter(self._changed_at)))
        self._events.extend(batch.events)
        self._event_count += len(batch.events)
        self._revision = batch.revision
        self._marks[batch.revision] = batch.mark
        if len(self._marks) > MARKS_KEPT:
            del self._marks[next(iter(self._marks))]

    async def watch(self, after_revision: int) -> AsyncIterator[int]:
        """Revisions as they are saved."""
        while True:
            async with self._changed:
                while self._revision <= after_revision:
                    await self._changed.wait()
                after_revision = self._revision
            yield after_revision

    async def acquire(self, candidate: str, ttl_ms: int) -> Leadership:
        """Leads, renews, or tells who leads."""
        return self.elect(candidate, ttl_ms)

    def elect(self, candidate: str, ttl_ms: int) -> Leadership:
        """``acquire`` for callers without an event loop."""
        now_ms = self._clock_ms()
        if self._holder != candidate:
            if self._holder and now_ms < self._expires_ms:
                return Leadership(holder=self._holder, epoch=self._epoch)
            self._epoch += 1
        self._holder = candidate
        self._expires_ms = now_ms + ttl_ms
        return Leadership(holder=candidate, epoch=self._epoch)

    async def leader(self) -> Leadership:
        """Who leads now."""
        leads = self._holder if self._clock_ms() < self._expires_ms else ""
        return Leadership(holder=leads, epoch=self._epoch, free=not self._holder)

    async def resign(self, candidate: str) -> None:
        """Lets the next one lead at once."""
        if self._holder == candidate:
            self._holder = ""

    def twin(self) -> None:
        """Lives in this thread."""

    async def close(self) -> None:
        """Nothing to let go of."""
