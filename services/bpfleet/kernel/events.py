"""What happened on a node, in order: a bounded log whose revisions only rise."""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class EventKind(StrEnum):
    """What an event is about. The fields each one carries are documented where it is emitted."""

    MAP_CREATED = "map_created"
    MAP_FREED = "map_freed"
    PROG_LOADED = "prog_loaded"
    PROG_FREED = "prog_freed"
    CHARGE_FAILED = "charge_failed"
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
    """The last ``capacity`` events of a node. Older ones are dropped: readers resume from a revision or list anew."""

    __slots__ = ("_events", "capacity", "revision", "total_by_kind")

    def __init__(self, capacity: int = 1024) -> None:
        self.capacity: Final = capacity
        self.revision = 0
        self.total_by_kind: dict[EventKind, int] = {}
        self._events: deque[Event] = deque()

    def append(self, time_ns: int, kind: EventKind, fields: dict[str, int | str]) -> Event:
        """Records an event, dropping the oldest beyond ``capacity``."""
        self.revision += 1
        event = Event(self.revision, time_ns, kind, fields)
        self._events.append(event)
        self.total_by_kind[kind] = self.total_by_kind.get(kind, 0) + 1
        if len(self._events) > self.capacity:
            self._events.popleft()
        return event

    @property
    def oldest_revision(self) -> int:
        """The oldest revision still held; ``revision + 1`` when the log is empty."""
        return self._events[0].revision if self._events else self.revision + 1

    def since(self, revision: int, limit: int = 256) -> list[Event]:
        """Up to ``limit`` events with a revision > ``revision``, oldest first.

        Raises ``LookupError`` when events after ``revision`` have already been dropped.
        """
        if revision + 1 < self.oldest_revision and revision < self.revision:
            raise LookupError(
                f"events after revision {revision} were dropped; oldest held is {self.oldest_revision}"
            )
        skip = max(0, revision + 1 - self.oldest_revision)
        found: list[Event] = []
        for position, event in enumerate(self._events):
            if position >= skip:
                found.append(event)
                if len(found) == limit:
                    break
        return found
