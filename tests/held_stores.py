"""Stores of coordinators in tests that let a test say when a batch is stored."""

import asyncio

from bpfleet.coordinator.store.memory import MemoryStore
from bpfleet.fleet.store import Batch


class HoldsBatches(MemoryStore):
    """Stores nothing while it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.free = asyncio.Event()
        self.free.set()

    async def save(self, batch: Batch) -> None:
        await self.free.wait()
        await super().save(batch)


class OneAtATime(MemoryStore):
    """Stores a batch for each permit."""

    def __init__(self) -> None:
        super().__init__()
        self.permits = asyncio.Semaphore(1_000)

    async def save(self, batch: Batch) -> None:
        await self.permits.acquire()
        await super().save(batch)
