"""What must hold after every step, one checker per property. A broken one raises ``Violation``.

What a checker expects is written down here a second time, on purpose: the rules of the product itself would agree with
their own mistakes.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from msgspec.structs import replace

from bpfleet.fleet.records import (
    FleetNode,
    Record,
    RecordKind,
    Replica,
    Workload,
    decode,
    decode_event,
)
from bpfleet.fleet.settings import FleetSettings
from bpfleet.fleet.state import FleetState
from bpfleet.fleet.store import Batch
from bpfleet.node_agent.replicas import Attempt
from bpfleet.rpc.replicas import phase_record
from bpfleet.v1 import registry_service_pb2, runtime_service_pb2
from bpfleet.workload.phase import Phase
from bpfleet.workload.resolve import inventory_of
from bpfleet.workload.spec import NodeShape, Scheduling

__all__ = [
    "AcknowledgedIsStored",
    "AgentsWord",
    "Books",
    "OneLife",
    "OneWriter",
    "OperatorsMarks",
    "OrderNumbers",
    "OrdersTaken",
    "Progress",
    "Promise",
    "Violation",
    "WatchedEvents",
    "what_runs_is_what_was_asked",
]

# Phases in which a replica holds the memory it booked.
_HOLDS: Final = frozenset({Phase.ASSIGNED, Phase.RUNNING, Phase.BACK_OFF, Phase.STOPPING})
_ENDED: Final = frozenset({Phase.FAILED, Phase.SUCCEEDED})


class Violation(AssertionError):
    """A property does not hold."""


class OneLife:
    """*no placement doubled*: a replica runs on one node only, and no attempt of it starts twice."""

    def __init__(self) -> None:
        self._where: dict[str, str] = {}
        self._started: dict[tuple[str, int], str] = {}

    def started(self, node: str, replica: str, attempt: int) -> None:
        """An agent started a replica."""
        other = self._where.get(replica)
        if other is not None:
            raise Violation(f"{replica} starts on {node} while it runs on {other}")
        before = self._started.get((replica, attempt))
        if before is not None:
            raise Violation(f"attempt {attempt} of {replica} starts again on {node}")
        self._where[replica] = node
        self._started[replica, attempt] = node

    def stopped(self, node: str, replica: str) -> None:
        """An agent stopped a replica, or lost it in a crash."""
        if self._where.pop(replica, None) != node:
            raise Violation(f"{replica} stops on {node}, where it did not run")

    def crashed(self, attempts: Mapping[str, int]) -> None:
        """An agent lost its memory: what it had started may be started again."""
        for replica, attempt in attempts.items():
            self._started.pop((replica, attempt), None)


class OneWriter:
    """*one leader writes*: once a later leader was elected, nothing of an earlier term is stored."""

    def __init__(self) -> None:
        self._epoch = 0

    def elected(self, epoch: int) -> None:
        """The store has elected, or confirmed, the leader of this term."""
        self._epoch = max(self._epoch, epoch)

    def stored(self, batch: Batch) -> None:
        """A batch was stored."""
        if batch.epoch < self._epoch:
            raise Violation(f"term {batch.epoch} is stored in term {self._epoch}")


class OrderNumbers:
    """*orders are told apart*: of the orders to one agent in one term, each has a number above all before it."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, int], int] = {}

    # Any: a request of RuntimeService.
    def sent(self, agent: str, message: Any) -> None:
        """A coordinator sends an order."""
        key = agent, message.leader_epoch
        last = self._last.get(key, 0)
        if message.sequence <= last:
            raise Violation(f"order {message.sequence} to {agent} follows order {last}")
        self._last[key] = message.sequence


class OrdersTaken:
    """*an order is carried out once* by one start of an agent, however often it arrives."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, int, int], None] = {}

    def admitted(self, life: str, epoch: int, sequence: int) -> None:
        """A start of an agent carries an order out."""
        if (life, epoch, sequence) in self._taken:
            raise Violation(f"{life} carries out order {sequence} of term {epoch} again")
        self._taken[life, epoch, sequence] = None


class AgentsWord:
    """*nothing is stored that no agent said*: a phase of an attempt is what an agent said of that very attempt."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, int, Phase], None] = {}
        self._refused: dict[str, None] = {}

    # Any: a request or an answer of any method.
    def said(self, message: Any) -> None:
        """An agent sent this."""
        match message:
            case registry_service_pb2.RegisterAgentRequest():
                statuses = [status for node in message.nodes for status in node.replicas]
            case registry_service_pb2.ReportNodesRequest():
                statuses = [status for report in message.reports for status in report.replicas]
            case runtime_service_pb2.RunReplicasResponse():
                statuses = list(message.statuses)
                self._refused.update(
                    (refused.replica, None) for refused in message.refused_replicas
                )
            case _:
                return
        for status in statuses:
            self._said[status.replica, status.attempt, phase_record(status.phase)] = None

    def stored(self, old: Replica | None, new: Replica) -> None:
        """A replica is stored in place of ``old``."""
        if old is not None and (old.phase, old.attempt) == (new.phase, new.attempt):
            return
        name, attempt = new.name, new.attempt
        match new.phase:
            case Phase.RUNNING | Phase.SUCCEEDED | Phase.FAILED as phase:
                heard = (name, attempt, phase) in self._said
            case Phase.BACK_OFF:
                ends = (Phase.FAILED, Phase.SUCCEEDED)
                heard = any((name, attempt, end) in self._said for end in ends)
            case _:
                return
        if not heard and name not in self._refused:
            raise Violation(
                f"attempt {attempt} of {name} is stored as {new.phase}: no agent said so"
            )


class Books:
    """*single placement* and *capacity*: what is stored, read back by itself, keeps its own books.

    ``shadow`` is what the store has, as the product reads it; the sums and the lives are checked beside it.
    """

    def __init__(self, settings: FleetSettings, word: AgentsWord) -> None:
        self.shadow: Final = FleetState(settings)
        self._word: Final = word
        self._settings: Final = settings
        self._bound: dict[str, str] = {}

    def stored(self, batch: Batch) -> None:
        """A batch was stored."""
        tables = self.shadow.tables
        removed = [tables.get(*_address(key)) for key in batch.removals]
        records = [_decode(_address(key)[0], text) for key, text in batch.puts.items()]
        updated = {
            record.name
            for record in records
            if isinstance(record, Workload)
            and (before := tables.workloads.get(record.name)) is not None
            and before.revision != record.revision
        }
        drained = _Drained(self.shadow, updated)
        for record in removed:
            if isinstance(record, Replica):
                tables.remove(record)
        for record in records:
            if not isinstance(record, Replica):
                tables.put(record)
        for record in records:
            if isinstance(record, Replica):
                old = tables.replicas.get(record.name)
                self._check_binding(record)
                self._check_life(old, record)
                self._word.stored(old, record)
                drained.look(old, record)
                tables.put(record)
        for record in removed:
            if record is not None and not isinstance(record, Replica):
                tables.remove(record)
        tables.log.clear()
        drained.check()
        self._check_sums()
        try:
            self.shadow.check()
        except AssertionError as error:
            raise Violation(f"the stored books are wrong: {error}") from error

    def _check_binding(self, replica: Replica) -> None:
        before = self._bound.setdefault(replica.name, replica.node)
        if before and before != replica.node:
            raise Violation(f"{replica.name} moved from {before} to {replica.node}")
        self._bound[replica.name] = replica.node

    def _check_life(self, old: Replica | None, new: Replica) -> None:
        """*one life*: counts only rise, what is to stop never runs again, and every failure is waited for."""
        name = new.name
        if new.restarts < new.attempt:
            raise Violation(
                f"{name} was started {new.attempt} times again, {new.restarts} are counted"
            )
        if new.restarts < new.failures - 1:
            raise Violation(
                f"{name} failed {new.failures} times, {new.restarts} restarts are counted"
            )
        if new.phase is Phase.BACK_OFF and (old is None or old.phase is not Phase.BACK_OFF):
            self._check_back_off(old, new)
        if old is None:
            return
        if new.attempt < old.attempt or new.restarts < old.restarts:
            raise Violation(f"{name} was started {old.restarts} times again, now {new.restarts}")
        if old.phase is Phase.STOPPING and new.phase is not Phase.STOPPING:
            raise Violation(f"{name} is to stop, and is {new.phase} again")
        if old.phase in _ENDED and new.phase not in (old.phase, Phase.STOPPING):
            raise Violation(f"{name} has ended as {old.phase}, and is {new.phase} again")
        again = new.phase in (Phase.ASSIGNED, Phase.RUNNING)
        if old.phase is Phase.BACK_OFF and again and new.attempt == old.attempt:
            raise Violation(f"{name} goes on after its end without another attempt")

    def _check_back_off(self, old: Replica | None, new: Replica) -> None:
        policy = self._settings.back_off_ms
        before = old.failures if old is not None else new.failures - 1
        ran_long = (
            old is not None
            and old.phase is Phase.RUNNING
            and new.since_ms - old.since_ms >= policy.reset
        )
        if new.failures != (1 if ran_long else before + 1):
            raise Violation(f"{new.name} failed {before} times in a row, now {new.failures}")
        pause_ms = new.due_ms - new.since_ms
        expected_ms = min(policy.first * 2 ** (new.failures - 1), policy.longest)
        if pause_ms != expected_ms:
            raise Violation(f"{new.name} waits {pause_ms} ms after {new.failures} failures")

    def _check_sums(self) -> None:
        """The books of every node against a sum of our own; and each victim makes room for one only."""
        tables = self.shadow.tables
        held = self.held()
        promised: dict[str, str] = {}
        for replica in tables.replicas.values():
            for victim in replica.waits_for:
                other = promised.setdefault(victim, replica.name)
                if other != replica.name:
                    raise Violation(f"{victim} makes room for {other} and for {replica.name}")
                leaving = tables.replicas.get(victim)
                if leaving is not None and leaving.priority >= replica.priority:
                    raise Violation(f"{victim} is as important as {replica.name}")
        for name, book in tables.books.nodes.items():
            if book.booked_bytes != held.get(name, 0):
                raise Violation(
                    f"{name} has {book.booked_bytes} bytes booked, its replicas hold {held.get(name, 0)}"
                )

    def held(self) -> dict[str, int]:
        """Bytes that replicas hold, by node."""
        found: dict[str, int] = {}
        for replica in self.shadow.tables.replicas.values():
            if replica.node and replica.phase in _HOLDS:
                held_bytes = replica.booked_bytes - replica.held_bytes
                found[replica.node] = found.get(replica.node, 0) + held_bytes
        return found

    def started(self, attempt: Attempt, there: list[Attempt]) -> None:
        """*room first*: what an agent has of what is booked there fits at every start, victims included."""
        tables = self.shadow.tables
        node = tables.nodes.get(attempt.key.node)
        if node is None:
            return
        here = [tables.replicas.get(each.key.replica) for each in there]
        present = [r for r in here if r is not None and r.node == node.name]
        size_bytes = sum(replica.booked_bytes for replica in present)
        if size_bytes > node.allocatable_bytes:
            names = sorted(replica.name for replica in present)
            raise Violation(f"{names} need {size_bytes} of {node.allocatable_bytes} on {node.name}")


class _Drained:
    """*a drain respects budgets*: what a batch takes from a workload that runs."""

    def __init__(self, state: FleetState, updated: Set[str]) -> None:
        self._state: Final = state
        self._updated: Final = updated
        self._running: Final = {
            name: book.count(Phase.RUNNING) for name, book in state.tables.books.workloads.items()
        }
        self._drained: Final[dict[str, int]] = {}

    def look(self, old: Replica | None, new: Replica) -> None:
        """A replica changes."""
        ran = old is not None and old.phase is Phase.RUNNING
        if new.phase is Phase.RUNNING and not ran:
            self._running[new.workload] = self._running.get(new.workload, 0) + 1
        # One that was restarted within the batch did not run when the drain took it.
        stayed = (
            ran and old is not None and (old.restarts, old.failures) == (new.restarts, new.failures)
        )
        if stayed and new.phase is Phase.STOPPING and new.reason == "DRAINED":
            self._drained[new.workload] = self._drained.get(new.workload, 0) + 1

    def check(self) -> None:
        """The batch is taken in."""
        for name, count in self._drained.items():
            workload = self._state.tables.workloads.get(name)
            if workload is None or workload.deleting or workload.spec.per_node:
                continue
            if name in self._updated:
                continue  # it was scaled in the same batch, before or after
            spare = workload.spec.scheduling.disruption_budget
            spare += self._running.get(name, 0) - workload.spec.replicas
            if count > max(0, spare):
                raise Violation(f"a drain takes {count} of {name}, which can spare {spare}")


def what_runs_is_what_was_asked(attempt: Attempt, workload: Workload | None) -> None:
    """*every word of a spec arrives*: an attempt runs what its workload says, in every field."""
    if workload is None or workload.deleting:
        return
    found, shape = attempt.run.spec, attempt.node.shape
    # Clients change these two from one version to the next; an order may be older than the last change.
    wanted = replace(
        workload.spec,
        replicas=found.workload.replicas,
        labels=found.workload.labels,
        # Where replicas may go is decided, and no agent is told.
        node_selector={},
        tolerations=(),
        spread=None,
        scheduling=Scheduling(),
    )
    sized = inventory_of(
        wanted, NodeShape(possible_cpus=shape.possible_cpus, ram_bytes=shape.ram_bytes)
    )
    for what, asked, runs in (
        ("replica", attempt.key.replica, found.name),
        ("workload", wanted, found.workload),
        ("inventory", sized, found.inventory),
    ):
        if runs != asked:
            raise Violation(f"{attempt.key.replica} runs with {what} {runs}, asked was {asked}")


@dataclass(frozen=True, slots=True)
class Promise:
    """What a client was told, or asked for: the workload's replicas and version; None: it is gone."""

    replicas: int
    version: int


@dataclass(slots=True)
class _Expected:
    """All that was ever asked for, and the first of it that may still be true."""

    asked: list[Promise | None] = field(default_factory=lambda: [None])
    first: int = 0

    @property
    def allowed(self) -> list[Promise | None]:
        return self.asked[self.first :]


class AcknowledgedIsStored:
    """*every acknowledged command visible for ever*: only what was acknowledged, or asked for and not yet
    answered, may be stored, and read.
    """

    def __init__(self) -> None:
        self._expected: dict[str, _Expected] = {}
        self._read: dict[tuple[str, str], int] = {}

    def asked(self, name: str, wanted: Promise | None) -> None:
        """A client asks for a change; both the old and the new state are right until the answer."""
        self._expected.setdefault(name, _Expected()).asked.append(wanted)

    def acknowledged(self, name: str) -> None:
        """The client has its answer: only the new state is right from now on."""
        expected = self._expected[name]
        expected.first = len(expected.asked) - 1

    def begin_read(self, name: str) -> int:
        """A client begins to read; give what this returns to ``read``."""
        return self._expected.setdefault(name, _Expected()).first

    def read(self, client: str, name: str, found: Promise | None, began: int) -> None:
        """A read has its answer: something that was true since it began, and nothing older than this client saw."""
        asked = self._expected[name].asked
        since = max(began, self._read.get((client, name), 0))
        places = [place for place in range(since, len(asked)) if asked[place] == found]
        if not places:
            raise Violation(f"{client} reads {name} as {found}, true since was {asked[since:]}")
        self._read[client, name] = places[0]

    def stored(self, batch: Batch) -> None:
        """A batch was stored."""
        for key in batch.removals:
            kind, name = _address(key)
            if kind is RecordKind.WORKLOAD:
                self._check(name, None)
        for key, text in batch.puts.items():
            kind, name = _address(key)
            if kind is RecordKind.WORKLOAD:
                workload = _decode(kind, text)
                assert isinstance(workload, Workload), "the key says so"
                self._check(name, workload)

    def check_all(self, workloads: dict[str, Workload]) -> None:
        """The end: everything acknowledged is there, and nothing else."""
        for name in sorted(self._expected.keys() | workloads.keys()):
            self._check(name, workloads.get(name))

    def wanted(self) -> dict[str, Promise]:
        """What should exist now, where no answer is outstanding."""
        return {n: e.allowed[-1] for n, e in self._expected.items() if e.allowed[-1] is not None}

    def _check(self, name: str, workload: Workload | None) -> None:
        allowed = self._expected.setdefault(name, _Expected()).allowed
        if workload is None or workload.deleting:
            found = None
        else:
            version = int(workload.spec.labels["version"])
            found = Promise(workload.spec.replicas, version)
        if found not in allowed:
            raise Violation(f"workload {name} is stored as {found}, clients may expect {allowed}")


class Progress:
    """*some write is acknowledged* every so often while a majority of parts is up."""

    def __init__(self, within_ms: int) -> None:
        self._within_ms: Final = within_ms
        self._since_ms: int | None = None

    def acknowledged(self, now_ms: int) -> None:
        """Some client has its answer."""
        self._since_ms = now_ms

    def look(self, now_ms: int, *, up: bool) -> None:
        """Whether the parts that a write needs are up now."""
        if not up or self._since_ms is None:
            self._since_ms = now_ms
        waited_ms = now_ms - self._since_ms
        if waited_ms > self._within_ms:
            raise Violation(f"no write was acknowledged for {waited_ms} ms, and everything is up")


class OperatorsMarks:
    """*every acknowledged command visible for ever*, for the labels and taints that operators set."""

    def __init__(self) -> None:
        self._allowed: dict[tuple[str, str], list[str | None]] = {}

    def asked(self, node: str, mark: str, value: str | None) -> None:
        """An operator asks for a label or taint (None: for its removal)."""
        self._allowed.setdefault((node, mark), [None]).append(value)

    def acknowledged(self, node: str, mark: str) -> None:
        """The operator has the answer: only the new value is right from now on."""
        self._allowed[node, mark] = self._allowed[node, mark][-1:]

    def stored(self, batch: Batch) -> None:
        """A batch was stored."""
        for key, text in batch.puts.items():
            kind, name = _address(key)
            if kind is RecordKind.NODE:
                node = _decode(kind, text)
                assert isinstance(node, FleetNode), "the key says so"
                taints = {taint.key: taint.value for taint in node.taints}
                self._check(name, {**dict(node.labels), **taints})

    def _check(self, name: str, marks: dict[str, str]) -> None:
        for (node, mark), allowed in self._allowed.items():
            if node == name and marks.get(mark) not in allowed:
                found = marks.get(mark)
                raise Violation(f"{mark} of {node} is stored as {found}, allowed are {allowed}")


class WatchedEvents:
    """*no event lost*: revisions are stored one after the other, without a gap, and never again; and whoever watches
    with a resume point sees each of them once.
    """

    def __init__(self) -> None:
        self._stored: dict[int, tuple[str, str, str]] = {}
        self.last = 0

    def stored(self, batch: Batch) -> None:
        """A batch was stored."""
        for text in batch.events:
            event = decode_event(text)
            if event.revision != self.last + 1:
                raise Violation(f"event {event.revision} follows event {self.last}")
            self.last = event.revision
            self._stored[event.revision] = event.kind, event.replica, event.node

    def seen(self, revision: int, kind: str, replica: str, node: str, *, after: int) -> None:
        """A watcher that has seen everything up to ``after`` gets this event."""
        if revision != after + 1:
            raise Violation(f"a watcher gets event {revision} after event {after}")
        if self._stored.get(revision) != (kind, replica, node):
            raise Violation(f"a watcher gets {kind} as event {revision}, stored is another")


@lru_cache(maxsize=4096)
def _decode(kind: RecordKind, text: str) -> Record:
    """Several checkers look at each record; records are frozen."""
    return decode(kind, text)


def _address(key: str) -> tuple[RecordKind, str]:
    kind, _, name = key.partition("/")
    return RecordKind(kind), name
