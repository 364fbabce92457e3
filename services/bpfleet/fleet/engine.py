"""Group commit, without I/O: decisions are taken at once, stored in groups, acknowledged after that.

A command changes the state immediately, so that the next one sees it. All commands since the last
group form the open group; ``seal`` turns it into a ``Batch`` for the store while newer commands fill
the next one. When the store has it, ``committed`` acknowledges its tickets and says what changed;
when it does not, ``failed`` takes back every change that is not stored, and refuses the tickets.
At most one batch is under way.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bpfleet.fleet.commands import Command
from bpfleet.fleet.errors import FleetError
from bpfleet.fleet.records import FleetEvent, Record, RecordKind, Replica, encode
from bpfleet.fleet.state import FleetState
from bpfleet.fleet.store import Batch

__all__ = ["Commit", "GroupCommit", "Ticket"]


@dataclass(slots=True, eq=False)
class Ticket:
    """A command that waits for the store. Exactly one of the callbacks is called, once.

    ``result`` is what the state machine answered; its type depends on the command.
    """

    result: Any
    done: Callable[[Any], None]
    refused: Callable[[FleetError], None]


@dataclass(frozen=True, slots=True)
class Commit:
    """What a batch changed: the records as stored (None: removed), and the events."""

    revision: int
    changes: dict[tuple[RecordKind, str], Record | None]
    events: tuple[FleetEvent, ...]


@dataclass(slots=True)
class _Flight:
    batch: Batch
    commit: Commit
    tickets: list[Ticket]
    log_length: int
    event_count: int


@dataclass(slots=True)
class _Open:
    tickets: list[Ticket] = field(default_factory=list)


class GroupCommit:
    """Feeds commands to the state and batches to the store. ``revision`` is the store's, and ``mark`` that of the last
    batch known to be there; ``name`` is the engine's own, and makes the marks of its batches its own.
    """

    def __init__(
        self, state: FleetState, *, epoch: int, revision: int, mark: str = "", name: str = ""
    ) -> None:
        self.state = state
        self.epoch = epoch
        self.revision = revision
        self.mark = mark
        self._name = name
        self._sealed = 0
        self._open = _Open()
        self._flight: _Flight | None = None

    @property
    def idle(self) -> bool:
        """Whether everything decided is stored."""
        return self._flight is None and not self.state.tables.log and not self._open.tickets

    @property
    def stored_revision(self) -> int:
        """The revision the store is known to have."""
        return self.revision - (self._flight is not None)

    @property
    def open_tickets(self) -> int:
        """Commands in the group that is still being filled."""
        return len(self._open.tickets)

    def submit(
        self,
        command: Command,
        now_ms: int,
        done: Callable[[Any], None],
        refused: Callable[[FleetError], None],
    ) -> bool:
        """Carries a command out; ``done`` is called once it is stored.

        A command that changed nothing still waits for what it may have seen: the changes before it
        that are not stored yet. ``refused`` is called at once where the state machine says no.
        Returns whether the answer is given already: without the store's word that this is the leader.
        """
        try:
            result = self.state.apply(command, now_ms)
        except FleetError as error:
            refused(error)
            return True
        return self._wait(Ticket(result, done, refused))

    def read(self, done: Callable[[Any], None], refused: Callable[[FleetError], None]) -> bool:
        """``done`` is called once all that can be seen now is stored. Returns whether it is already."""
        return self._wait(Ticket(None, done, refused))

    def _wait(self, ticket: Ticket) -> bool:
        if len(self.state.tables.log) > self._flight_log_length():
            self._open.tickets.append(ticket)
        elif self._flight is not None:
            self._flight.tickets.append(ticket)
        else:
            ticket.done(ticket.result)
            return True
        return False

    def stored_replicas(self, agent: str) -> list[Replica]:
        """The replicas on an agent's nodes as the store has them: without what is only decided."""
        tables = self.state.tables
        before: dict[str, Record | None] = {}
        for kind, name, old in tables.log:
            if kind is RecordKind.REPLICA:
                before.setdefault(name, old)
        nodes = tables.books.agents.get(agent, {})
        found = [
            replica
            for node in nodes
            for replica in tables.books.nodes[node].replicas.values()
            if replica.name not in before
        ]
        undecided = (old for old in before.values() if isinstance(old, Replica))
        return found + [replica for replica in undecided if replica.node in nodes]

    def seal(self) -> Batch | None:
        """The open group as a batch for the store; None while one is under way or nothing changed."""
        if self._flight is not None or not self.state.tables.log:
            return None
        tables = self.state.tables
        touched = dict.fromkeys((kind, key) for kind, key, _ in tables.log)
        changes = {(kind, key): tables.get(kind, key) for kind, key in touched}
        events = tuple(self.state.events)
        self.revision += 1
        self._sealed += 1
        batch = Batch(
            epoch=self.epoch,
            expected_revision=self.revision - 1,
            revision=self.revision,
            mark=f"{self._name}.{self._sealed}",
            puts={f"{kind}/{key}": encode(r) for (kind, key), r in changes.items() if r},
            removals=tuple(f"{kind}/{key}" for (kind, key), r in changes.items() if r is None),
            events=tuple(encode(event) for event in events),
        )
        commit = Commit(self.revision, changes, events)
        self._flight = _Flight(batch, commit, self._open.tickets, len(tables.log), len(events))
        self._open = _Open()
        return batch

    def committed(self) -> Commit:
        """The batch under way is stored: acknowledges its commands and returns what it changed."""
        flight = self._flight
        if flight is None:
            raise RuntimeError("no batch is under way")
        self._flight = None
        self.mark = flight.batch.mark
        del self.state.tables.log[: flight.log_length]
        del self.state.events[: flight.event_count]
        for ticket in flight.tickets:
            ticket.done(ticket.result)
        return flight.commit

    def failed(self, error: FleetError) -> None:
        """The batch under way is not stored, or it is unknown whether it is: takes back all that is
        not known to be, and refuses every command that waits.
        """
        flight, self._flight = self._flight, None
        if flight is not None:
            self.revision -= 1
        waiting = [*(flight.tickets if flight is not None else ()), *self._open.tickets]
        self._open = _Open()
        self.state.rollback(0, 0)
        for ticket in waiting:
            ticket.refused(error)

    def _flight_log_length(self) -> int:
        return self._flight.log_length if self._flight is not None else 0
