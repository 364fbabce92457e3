"""The store without durability: for the embedded default, tests and the simulation."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from time import monotonic

from bpfleet.fleet.store import (
    EVENTS_KEPT,
    Batch,
    Conflict,
    Fenced,
    Leadership,
    Snapshot,
)

__all__ = ["MemoryStore"]


class MemoryStore:
    """Keeps everything in this process; several coordinators of one process may share it."""

    name = "memory"

    def __init__(self, clock_ms: Callable[[], int] = lambda: int(monotonic() * 1000)) -> None:
        self._clock_ms = clock_ms
        self._records: dict[str, str] = {}
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
        self._events.extend(batch.events)
        self._revision = batch.revision

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
        if self._holder != candidate and now_ms < self._expires_ms:
            return Leadership(holder=self._holder, epoch=self._epoch)
        if self._holder != candidate or now_ms >= self._expires_ms:
            self._epoch += 1
        self._holder = candidate
        self._expires_ms = now_ms + ttl_ms
        return Leadership(holder=candidate, epoch=self._epoch)

    async def resign(self, candidate: str) -> None:
        """Lets the next one lead at once."""
        if self._holder == candidate:
            self._expires_ms = 0

    async def close(self) -> None:
        """Nothing to let go of."""
