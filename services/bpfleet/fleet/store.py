"""What the coordinator asks of a store: load all, save a batch or nothing, watch, elect a leader.

One contract test runs on every implementation.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

__all__ = [
    "CHANGES_KEPT",
    "EVENTS_KEPT",
    "MARKS_KEPT",
    "Batch",
    "Conflict",
    "Fenced",
    "Leadership",
    "News",
    "Snapshot",
    "Store",
    "StoreError",
    "StoreMisused",
    "StoreUnavailable",
]

EVENTS_KEPT = 10_000
# Keys whose last change is remembered: whoever is behind by more reads everything.
CHANGES_KEPT = 50_000
# Batches whose marks are remembered, with the same effect.
MARKS_KEPT = 10_000


class StoreError(Exception):
    """The store did not do what it was asked to."""


class StoreUnavailable(StoreError):
    """The store does not answer; whether the last call took effect is unknown."""


class StoreMisused(StoreError):
    """The store answers, and will never do what it is asked: a setting is wrong."""


class Conflict(StoreError):
    """The store's revision is not the expected one: nothing was saved."""


class Fenced(StoreError):
    """A newer leader exists: nothing was saved, and this one must stop deciding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One atomic change. Keys are ``kind/name``; values and events are opaque text.

    ``epoch`` is the term of the leader that saves it. ``mark`` is its own: a store that lost its last batches in a
    failover has others under their revisions.
    """

    epoch: int
    expected_revision: int
    revision: int
    mark: str = ""
    puts: dict[str, str] = field(default_factory=dict)
    removals: tuple[str, ...] = ()
    events: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything stored, at one revision, with the mark of its last batch. ``events`` are the newest, oldest first;
    ``event_count`` is how many were ever stored.
    """

    revision: int
    epoch: int
    records: dict[str, str]
    events: tuple[str, ...]
    mark: str = ""
    event_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What was stored after a revision: records as they are now (None: removed), and the events."""

    revision: int
    mark: str
    epoch: int
    changes: dict[str, str | None]
    events: tuple[str, ...]
    event_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Leadership:
    """Who leads; nobody where ``holder`` is empty. ``epoch`` rises with every change of leader.

    ``free``: nobody leads, and nobody may come back to a term of its own: the last leader resigned, or there
    was none.
    """

    holder: str
    epoch: int
    free: bool = False


class Store(Protocol):
    """Durable state of the fleet. Every method raises ``StoreUnavailable`` where the store is away."""

    name: str

    async def load(self) -> Snapshot:
        """All records, with the revision they belong to."""

    async def newer(self, revision: int, mark: str, event_count: int) -> News | None:
        """What was saved after the batch with this revision and mark; None where that is too long ago, or is not
        what this store has under that revision.
        """

    async def revision(self) -> int:
        """The revision saved last."""

    async def save(self, batch: Batch) -> None:
        """Stores a batch whole, durably. Raises ``Conflict`` or ``Fenced`` and stores nothing of it."""

    def watch(self, after_revision: int) -> AsyncIterator[int]:
        """Revisions as they are saved, each later than the one before; some may be skipped."""

    async def acquire(self, candidate: str, ttl_ms: int) -> Leadership:
        """Leads from now on if nobody does, or renews what ``candidate`` has. Returns who leads.

        A term outlives its lease until somebody else leads: its leader renews it late, and goes on.
        """

    async def leader(self) -> Leadership:
        """Who leads now; changes nothing."""

    async def resign(self, candidate: str) -> None:
        """Ends the leadership of ``candidate``, if it has it."""

    def twin(self) -> "Store | None":
        """The same store with connections of its own, for another thread; None where it lives in this thread."""

    async def close(self) -> None:
        """Lets go of connections."""
