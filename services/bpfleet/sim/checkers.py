"""What must hold after every step, one checker per property. A broken one raises ``Violation``."""

from dataclasses import dataclass, field

from bpfleet.fleet.records import Kind, Node, Replica, Workload, decode, decode_event
from bpfleet.fleet.state import FleetState
from bpfleet.fleet.store import Batch

__all__ = [
    "Acknowledged",
    "Books",
    "OneLife",
    "OperatorsMarks",
    "Promise",
    "Violation",
    "WatchedEvents",
]


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

    def crashed(self, attempts: dict[str, int]) -> None:
        """An agent lost its memory: what it had started may be started again."""
        for replica, attempt in attempts.items():
            self._started.pop((replica, attempt), None)


class Books:
    """*single placement* and *capacity*: what is stored, read back by itself, keeps its own books."""

    def __init__(self) -> None:
        self.shadow = FleetState()
        self._bound: dict[str, str] = {}

    def stored(self, batch: Batch) -> None:
        """A batch was stored."""
        tables = self.shadow.tables
        removed = [tables.get(*_address(key)) for key in batch.removals]
        records = [decode(_address(key)[0], text) for key, text in batch.puts.items()]
        for record in removed:
            if isinstance(record, Replica):
                tables.remove(record)
        for record in records:
            if not isinstance(record, Replica):
                tables.put(record)
        for record in records:
            if isinstance(record, Replica):
                self._check_binding(record)
                tables.put(record)
        for record in removed:
            if record is not None and not isinstance(record, Replica):
                tables.remove(record)
        tables.log.clear()
        try:
            self.shadow.check()
        except AssertionError as error:
            raise Violation(f"the stored books are wrong: {error}") from error

    def _check_binding(self, replica: Replica) -> None:
        before = self._bound.setdefault(replica.name, replica.node)
        if before and before != replica.node:
            raise Violation(f"{replica.name} moved from {before} to {replica.node}")
        self._bound[replica.name] = replica.node


@dataclass(frozen=True, slots=True)
class Promise:
    """What a client was told, or asked for: the workload's replicas and version; None: it is gone."""

    replicas: int
    version: int


@dataclass(slots=True)
class _Expected:
    allowed: list[Promise | None] = field(default_factory=lambda: [None])


class Acknowledged:
    """*every acknowledged command visible for ever*: only what was acknowledged, or asked for and not yet
    answered, may be stored.
    """

    def __init__(self) -> None:
        self._expected: dict[str, _Expected] = {}

    def asked(self, name: str, wanted: Promise | None) -> None:
        """A client asks for a change; both the old and the new state are right until the answer."""
        self._expected.setdefault(name, _Expected()).allowed.append(wanted)

    def acknowledged(self, name: str) -> None:
        """The client has its answer: only the new state is right from now on."""
        expected = self._expected[name]
        expected.allowed = expected.allowed[-1:]

    def stored(self, batch: Batch) -> None:
        """A batch was stored."""
        for key in batch.removals:
            kind, name = _address(key)
            if kind is Kind.WORKLOAD:
                self._check(name, None)
        for key, text in batch.puts.items():
            kind, name = _address(key)
            if kind is Kind.WORKLOAD:
                workload = decode(kind, text)
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
            if kind is Kind.NODE:
                node = decode(kind, text)
                assert isinstance(node, Node), "the key says so"
                taints = {taint.key: taint.value for taint in node.taints}
                self._check(name, {**dict(node.labels), **taints})

    def _check(self, name: str, marks: dict[str, str]) -> None:
        for (node, mark), allowed in self._allowed.items():
            if node == name and marks.get(mark) not in allowed:
                found = marks.get(mark)
                raise Violation(f"{mark} of {node} is stored as {found}, allowed are {allowed}")


class WatchedEvents:
    """*no event lost*: revisions are stored one after the other, without a gap, and never again."""

    def __init__(self) -> None:
        self.last = 0

    def stored(self, batch: Batch) -> None:
        """A batch was stored."""
        for text in batch.events:
            revision = decode_event(text).revision
            if revision != self.last + 1:
                raise Violation(f"event {revision} follows event {self.last}")
            self.last = revision


def _address(key: str) -> tuple[Kind, str]:
    kind, _, name = key.partition("/")
    return Kind(kind), name
