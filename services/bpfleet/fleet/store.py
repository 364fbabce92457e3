"""What the coordinator asks of a store: load all, save a batch or nothing, watch, elect a leader.

One contract test runs on every implementation.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

__all__ = [
    "EVENTS_KEPT",
    "Batch",
    "Conflict",
    "Fenced",
    "Leadership",
    "Snapshot",
    "Store",
    "StoreError",
    "StoreUnavailable",
]

EVENTS_KEPT = 10_000


class StoreError(Exception):
    """The store did not do what it was asked to."""


class StoreUnavailable(StoreError):
    """The store does not answer; whether the last call took effect is unknown."""


class Conflict(StoreError):
    """The store's revision is not the expected one: nothing was saved."""


class Fenced(StoreError):
    """A newer leader exists: nothing was saved, and this one must stop deciding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One atomic change. Keys are ``kind/name``; values and events are opaque text.

    ``epoch`` is the term of the leader that saves it.
    """

    epoch: int
    expected_revision: int
    revision: int
    puts: dict[str, str] = field(default_factory=dict)
    removals: tuple[str, ...] = ()
    events: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything stored, at one revision. ``events`` are the newest, oldest first."""

    revision: int
    epoch: int
    records: dict[str, str]
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leadership:
    """Who leads. ``epoch`` rises with every change of leader."""

    holder: str
    epoch: int


class Store(Protocol):
    """Durable state of the fleet. Every method raises ``StoreUnavailable`` where the store is away."""

    name: str

    async def load(self) -> Snapshot:
        """All records, with the revision they belong to."""

    async def revision(self) -> int:
        """The revision saved last."""

    async def save(self, batch: Batch) -> None:
        """Stores a batch whole, durably. Raises ``Conflict`` or ``Fenced`` and stores nothing of it."""

    def watch(self, after_revision: int) -> AsyncIterator[int]:
        """Revisions as they are saved, each later than the one before; some may be skipped."""

    async def acquire(self, candidate: str, ttl_ms: int) -> Leadership:
        """Leads from now on if nobody does, or renews what ``candidate`` has. Returns who leads."""

    async def resign(self, candidate: str) -> None:
        """Ends the leadership of ``candidate``, if it has it."""

    async def close(self) -> None:
        """Lets go of connections."""
