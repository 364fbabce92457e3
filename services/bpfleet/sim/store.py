"""The store as a process of its own: what was saved stays, answers are slow, lost, or do not come."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from bpfleet.coordinator.store.memory import MemoryStore
from bpfleet.fleet.store import Batch, Leadership, News, Snapshot, StoreUnavailable
from bpfleet.sim.network import Network, SimProcess, Unreachable

__all__ = ["SimStore"]

T = TypeVar("T")


class SimStore:
    """One coordinator's way to the shared store. ``on_write`` sees every batch that was stored,
    ``on_elect`` who leads."""

    name = "simulated"

    def __init__(
        self,
        memory: MemoryStore,
        network: Network,
        *,
        owner: SimProcess,
        server: SimProcess,
        on_write: Callable[[str, Batch], None],
        on_elect: Callable[[Leadership], None],
    ) -> None:
        self._memory = memory
        self._network = network
        self._owner = owner
        self._server = server
        self._on_write = on_write
        self._on_elect = on_elect

    async def load(self) -> Snapshot:
        """All records."""
        return await self._ask(self._memory.load)

    async def newer(self, revision: int, mark: str, event_count: int) -> News | None:
        """What was saved after a batch."""
        return await self._ask(lambda: self._memory.newer(revision, mark, event_count))

    async def revision(self) -> int:
        """The revision saved last."""
        return await self._ask(self._memory.revision)

    async def save(self, batch: Batch) -> None:
        """Stores a batch; it may be stored although the answer is lost."""

        async def write() -> None:
            self._memory.write(batch)
            self._on_write(self._owner.name, batch)

        await self._ask(write)

    async def watch(self, after_revision: int) -> AsyncIterator[int]:
        """Revisions as they are saved."""
        while True:
            revision = await self.revision()
            if revision > after_revision:
                after_revision = revision
                yield revision
            await asyncio.sleep(0.1)

    async def acquire(self, candidate: str, ttl_ms: int) -> Leadership:
        """Leads, renews, or tells who leads."""

        async def elect() -> Leadership:
            held = self._memory.elect(candidate, ttl_ms)
            self._on_elect(held)
            return held

        return await self._ask(elect)

    async def leader(self) -> Leadership:
        """Who leads now."""
        return await self._ask(self._memory.leader)

    def twin(self) -> None:
        """Virtual time has one thread."""

    async def resign(self, candidate: str) -> None:
        """Lets the next one lead at once."""
        await self._ask(lambda: self._memory.resign(candidate))

    async def close(self) -> None:
        """Nothing to let go of."""

    async def _ask(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            return await self._network.call(self._owner, self._server, work)
        except Unreachable as error:
            raise StoreUnavailable(str(error)) from None
