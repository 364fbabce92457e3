"""All records of the fleet, with an undo log: what a decision changed can be taken back."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Final, TypeVar

from bpfleet.fleet.books import FleetBooks
from bpfleet.fleet.records import (
    FleetAgent,
    FleetNode,
    Meta,
    Parted,
    Record,
    RecordKind,
    Replica,
    RequestRecord,
    Retired,
    Workload,
)

__all__ = ["Change", "Tables", "address"]

# (kind, key, record before the change or None)
Change = tuple[RecordKind, str, Record | None]
_META_KEY: Final = "fleet"

R = TypeVar("R", bound=Record)


class Tables:
    """The records by kind and key. Every change goes through ``put`` or ``remove``."""

    def __init__(self) -> None:
        self.books = FleetBooks()
        self.agents: dict[str, FleetAgent] = {}
        self.nodes: dict[str, FleetNode] = {}
        self.workloads: dict[str, Workload] = {}
        self.replicas: dict[str, Replica] = {}
        self.requests: dict[str, RequestRecord] = {}
        self.retired: dict[str, Retired] = {}
        self.parted: dict[str, Parted] = {}
        self.per_node: dict[str, None] = {}
        self.metas: dict[str, Meta] = {_META_KEY: Meta()}
        self.log: list[Change] = []
        # Any: a table is chosen by kind, its records' type goes with it.
        self._tables: dict[RecordKind, dict[str, Any]] = {
            RecordKind.META: self.metas,
            RecordKind.AGENT: self.agents,
            RecordKind.NODE: self.nodes,
            RecordKind.WORKLOAD: self.workloads,
            RecordKind.REPLICA: self.replicas,
            RecordKind.REQUEST: self.requests,
            RecordKind.RETIRED: self.retired,
            RecordKind.PARTED: self.parted,
        }
        self.on_spec_change: Callable[[str], None] = lambda name: None

    @property
    def meta(self) -> Meta:
        """The fleet's counters."""
        return self.metas[_META_KEY]

    def put(self, record: Record) -> None:
        """Writes a record in place of the one with its kind and key."""
        kind, key = address(record)
        self.log.append((kind, key, self._tables[kind].get(key)))
        self._set(kind, key, record)

    def remove(self, record: Record) -> None:
        """Removes a record."""
        kind, key = address(record)
        self.log.append((kind, key, self._tables[kind][key]))
        self._set(kind, key, None)

    def get(self, kind: RecordKind, key: str) -> Record | None:
        """The record now."""
        record: Record | None = self._tables[kind].get(key)
        return record

    def rollback(self, length: int) -> None:
        """Takes back every change after the first ``length`` of the log, newest first."""
        while len(self.log) > length:
            kind, key, old = self.log.pop()
            self._set(kind, key, old)

    def records(self) -> Iterator[Record]:
        """Every record there is."""
        return chain.from_iterable(table.values() for table in self._tables.values())

    def load(self, records: Iterable[Record]) -> None:
        """Fills empty tables from the store; nothing is logged."""
        for record in records:
            kind, key = address(record)
            self._tables[kind][key] = record
        self.books.load(self.nodes.values(), self.replicas.values())
        self.per_node = {w.name: None for w in self.workloads.values() if w.spec.per_node}
        self._order(self.requests)
        self._order(self.retired)
        self._order(self.parted)

    def _order(self, table: dict[str, Any]) -> None:
        """Oldest first, as they were before the restart: the oldest is forgotten first."""
        kept = sorted(table.items(), key=lambda item: item[1].serial)
        table.clear()
        table.update(kept)

    def _set(self, kind: RecordKind, key: str, new: Record | None) -> None:
        table = self._tables[kind]
        old = table.get(key)
        if new is None:
            if old is not None:
                del table[key]
        else:
            table[key] = new
        if kind is RecordKind.REPLICA:
            self.books.set_replica(old, new)  # type: ignore[arg-type]  # kind says so
        elif kind is RecordKind.NODE:
            self.books.set_node(old, new)  # type: ignore[arg-type]  # kind says so
        elif kind is RecordKind.WORKLOAD:
            self._follow_workload(key, old, new)  # type: ignore[arg-type]  # kind says so

    def _follow_workload(self, key: str, old: Workload | None, new: Workload | None) -> None:
        if old is None or new is None or old.spec is not new.spec:
            self.on_spec_change(key)
        if new is not None and new.spec.per_node:
            self.per_node[key] = None
        else:
            self.per_node.pop(key, None)


def address(record: Record) -> tuple[RecordKind, str]:
    """RecordKind and key of a record."""
    match record:
        case Replica():
            return RecordKind.REPLICA, record.name
        case FleetNode():
            return RecordKind.NODE, record.name
        case Workload():
            return RecordKind.WORKLOAD, record.name
        case FleetAgent():
            return RecordKind.AGENT, record.name
        case Meta():
            return RecordKind.META, _META_KEY
        case RequestRecord():
            return RecordKind.REQUEST, record.request_id
        case Retired():
            return RecordKind.RETIRED, record.name
        case Parted():
            return RecordKind.PARTED, record.name
