"""What happened on a node, in order: a bounded log whose revisions only rise."""

from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final


class EventKind(StrEnum):
    """What an event is about. The fields each one carries are documented where it is emitted."""

    MAP_CREATED = "map_created"
    MAP_FREED = "map_freed"
    PROG_LOADED = "prog_loaded"
    PROG_FREED = "prog_freed"
    OOM_KILL = "oom_kill"
    OOM_NO_VICTIM = "oom_no_victim"
    LIMIT_CHANGED = "limit_changed"
    PROCESS_STARTED = "process_started"
    PROCESS_EXITED = "process_exited"
    CGROUP_CREATED = "cgroup_created"
    CGROUP_REMOVED = "cgroup_removed"
    CHARGE_LEAKED = "charge_leaked"
    FAULT_INJECTED = "fault_injected"
    NODE_CRASHED = "node_crashed"
    KERNEL_LOG = "kernel_log"


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the log. ``revision`` starts at 1 and never repeats on a node."""

    revision: int
    time_ns: int
    kind: EventKind
    fields: dict[str, int | str] = field(default_factory=dict)


class EventLog:
    """The last ``capacity`` events of a node. Older ones are dropped: readers resume from a revision or list again.

    An event is kept as (time, kind, names, values...) until somebody reads it: thousands of idle nodes keep the events
    of their start.
    """

    __slots__ = ("_entries", "capacity", "revision", "total_by_kind")

    def __init__(self, capacity: int = 1024) -> None:
        self.capacity: Final = capacity
        self.revision = 0
        self.total_by_kind: dict[EventKind, int] = {}
        # The last of them has ``revision``. Up to an eighth more than ``capacity``, so that dropping is rarely done.
        self._entries: list[_Entry] = []

    def append(self, time_ns: int, kind: EventKind, fields: dict[str, int | str]) -> None:
        """Records an event, dropping the oldest beyond ``capacity``."""
        self.revision += 1
        entries = self._entries
        entries.append((time_ns, kind, _shared(tuple(fields)), *fields.values()))
        self.total_by_kind[kind] = self.total_by_kind.get(kind, 0) + 1
        if len(entries) > self.capacity + self.capacity // 8:
            del entries[: len(entries) - self.capacity]

    @property
    def oldest_revision(self) -> int:
        """The oldest revision still held; ``revision + 1`` when the log is empty."""
        return self.revision + 1 - min(len(self._entries), self.capacity)

    def since(self, revision: int, limit: int = 256) -> list[Event]:
        """Up to ``limit`` events with a revision > ``revision``, oldest first.

        Raises ``LookupError`` when events after ``revision`` have already been dropped.
        """
        oldest = self.oldest_revision
        if revision + 1 < oldest and revision < self.revision:
            raise LookupError(
                f"events after revision {revision} were dropped; oldest held is {oldest}"
            )
        entries = self._entries
        base = self.revision + 1 - len(entries)
        first = max(revision + 1, oldest)
        return [
            _event(number, entries[number - base])
            for number in range(first, min(first + limit, self.revision + 1))
        ]


# (time_ns, kind, names, value of each name ...)
_Entry = tuple[Any, ...]


def _event(revision: int, entry: _Entry) -> Event:
    time_ns, kind, names, *values = entry
    return Event(revision, time_ns, kind, dict(zip(names, values, strict=True)))


@lru_cache(256)
def _shared(names: tuple[str, ...]) -> tuple[str, ...]:
    """Every event of one kind has the same names: one tuple for all of them."""
    return names
