"""What the live page is told, as plain data. Pure: a state goes in, JSON-able rows come out.

A node is one row; its position is its identity on the page. After the whole fleet has been sent once, a reader is
told only the rows that differ from those it has, so nothing is buffered for it and a slow reader merely skips.
"""

from collections.abc import Sequence
from typing import Any, Final

from bpfleet.fleet.commands import NodeUsage
from bpfleet.fleet.records import FleetEvent, FleetNode
from bpfleet.fleet.state import FleetState

__all__ = ["COLUMNS", "LINES_MAX", "Row", "changed_rows", "event_lines", "fleet_rows", "frame"]

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
    "labels",
)
_VERDICTS: Final = ("EPERM", "ENOMEM", "OOM_KILL")
LINES_MAX: Final = 200
_NOTHING: Final = NodeUsage(node="")

Row = tuple[str | int, ...]


def fleet_rows(state: FleetState) -> list[Row]:
    """One row per node in the order of names; the columns are ``COLUMNS``."""
    books, usage = state.tables.books.nodes, state.soft.usage
    return [
        _row(node, usage.get(name, _NOTHING), len(books[name].replicas))
        for name, node in sorted(state.tables.nodes.items())
    ]


def _row(node: FleetNode, usage: NodeUsage, replicas: int) -> Row:
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
        " ".join(f"{key}={value}" for key, value in node.labels),
    )


def _condition(node: FleetNode) -> str:
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


def event_lines(events: Sequence[FleetEvent]) -> tuple[list[dict[str, Any]], int]:
    """At most ``LINES_MAX`` lines for the ticker, oldest first, and how many events are in none of them.

    What happened to one workload for one reason within one second is one line: the last event, and their count.
    """
    groups: dict[tuple[int, str, str, str], tuple[int, FleetEvent]] = {}
    for event in events:
        key = (event.time_ms // 1000, event.kind, event.workload, event.reason)
        groups[key] = (groups.get(key, (0, event))[0] + 1, event)
    newest = sorted(groups.values(), key=lambda group: group[1].revision)[-LINES_MAX:]
    return [_line(*group) for group in newest], len(events) - sum(count for count, _ in newest)


def _line(count: int, event: FleetEvent) -> dict[str, Any]:
    return {
        "revision": event.revision,
        "time_ms": event.time_ms,
        "kind": event.kind,
        "node": event.node,
        "workload": event.workload,
        "replica": event.replica,
        "reason": event.reason,
        "message": event.message,
        "count": count,
    }


def frame(
    before: Sequence[Row] | None, now: Sequence[Row], events: Sequence[FleetEvent], missed: int = 0
) -> dict[str, Any]:
    """One message to a reader that has ``before`` (None: nothing yet) and is to have ``now``.

    ``missed`` events came and went unseen before ``events``.
    """
    changed = None if before is None else changed_rows(before, now)
    lines, skipped = event_lines(events)
    told: dict[str, Any] = {"events": lines, "skipped": skipped + missed}
    if changed is None:
        told["columns"] = COLUMNS
        told["nodes"] = now
    else:
        told["changed"] = changed
    return told
