"""What the live page is told, as plain data. Pure: a state goes in, JSON-able rows come out.

A node is one row; its position is its identity on the page. After the whole fleet has been sent once, a reader is
told only the rows that differ from those it has, so nothing is buffered for it and a slow reader merely skips.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from bpfleet.coordinator.commands import NodeUsage
from bpfleet.coordinator.records import Event, Node
from bpfleet.coordinator.state import FleetState

__all__ = ["COLUMNS", "Row", "changed_rows", "event_row", "fleet_rows", "frame"]

COLUMNS: Final = (
    "name",
    "profile",
    "condition",
    "ram_bytes",
    "used_bytes",
    "charged_bytes",
    "locked_bytes",
    "replicas",
    "EPERM",
    "ENOMEM",
    "OOM_KILL",
)
_VERDICTS: Final = ("EPERM", "ENOMEM", "OOM_KILL")
_NOTHING: Final = NodeUsage(node="")

Row = tuple[str | int, ...]


def fleet_rows(state: FleetState) -> list[Row]:
    """One row per node in the order of names; the columns are ``COLUMNS``."""
    counts: dict[str, int] = {}
    for replica in state.tables.replicas.values():
        if replica.bound:
            counts[replica.node] = counts.get(replica.node, 0) + 1
    usage = state.soft.usage
    return [
        _row(node, usage.get(name, _NOTHING), counts.get(name, 0))
        for name, node in sorted(state.tables.nodes.items())
    ]


def _row(node: Node, usage: NodeUsage, replicas: int) -> Row:
    verdicts = dict(usage.verdicts)
    return (
        node.name,
        node.profile,
        _condition(node),
        node.ram_bytes,
        usage.memory_used_bytes,
        usage.bpf_charged_bytes,
        usage.locked_bytes,
        replicas,
        *(verdicts.get(name, 0) for name in _VERDICTS),
    )


def _condition(node: Node) -> str:
    if not node.ready:
        return "NotReady"
    if node.pressure:
        return "MemoryPressure"
    if node.draining:
        return "Draining"
    return "Cordoned" if node.cordoned else "Ready"


def changed_rows(before: Sequence[Row], now: Sequence[Row]) -> list[list[Any]] | None:
    """[position, row] of every row that differs; None if nodes came or went, so that all must be sent anew."""
    if len(before) != len(now):
        return None
    changed: list[list[Any]] = []
    for position, (old, new) in enumerate(zip(before, now, strict=True)):
        if old[0] != new[0]:
            return None
        if old != new:
            changed.append([position, new])
    return changed


def event_row(event: Event) -> dict[str, Any]:
    """An event for the ticker."""
    return {
        "revision": event.revision,
        "time_ms": event.time_ms,
        "kind": event.kind,
        "node": event.node,
        "replica": event.replica or event.workload,
        "reason": event.reason,
        "message": event.message,
    }


def frame(
    before: Sequence[Row] | None, now: Sequence[Row], events: Iterable[Event]
) -> dict[str, Any]:
    """One message to a reader that has ``before`` (None: nothing yet) and is to have ``now``."""
    changed = None if before is None else changed_rows(before, now)
    told: dict[str, Any] = {"events": [event_row(event) for event in events]}
    if changed is None:
        told["columns"] = COLUMNS
        told["nodes"] = now
    else:
        told["changed"] = changed
    return told
