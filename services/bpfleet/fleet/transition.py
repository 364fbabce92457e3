"""One command being carried out: the tables it changes, the time it sees, the events it leaves."""

from dataclasses import dataclass, field
from typing import Final

from bpfleet.fleet.books import FleetBooks, WorkloadBook
from bpfleet.fleet.commands import NodeUsage
from bpfleet.fleet.errors import FleetError, Refused
from bpfleet.fleet.placement import (
    EligibilityCache,
    Estimator,
    RequestEstimator,
    Search,
    SparingEstimator,
)
from bpfleet.fleet.reasons import ControlReason, FleetEventKind
from bpfleet.fleet.records import FleetEvent, FleetNode, Policy, Replica, Workload
from bpfleet.fleet.settings import FleetSettings
from bpfleet.fleet.tables import Tables

__all__ = ["Soft", "Transition", "Visits"]


_BY_REQUEST: Final = RequestEstimator()


@dataclass(slots=True)
class Soft:
    """What is known only from the latest reports: lost at a restart, never decided upon twice."""

    usage: dict[str, NodeUsage] = field(default_factory=dict)
    charged_bytes: dict[str, int] = field(default_factory=dict)
    rss_bytes: dict[str, int] = field(default_factory=dict)
    calm_since_ms: dict[str, int] = field(default_factory=dict)
    soft_since_ms: dict[str, int] = field(default_factory=dict)
    timers: list[tuple[int, str]] = field(default_factory=list)
    waiting_seen: int = -1
    waiting_cursor: str = ""
    # Some would have found a node, but it was enough for one turn.
    waiting_more: bool = False
    # What was too much for one turn, or may have been left so by an earlier leader.
    workloads: dict[str, None] = field(default_factory=dict)
    agents: dict[str, None] = field(default_factory=dict)
    visits: list["Visits"] = field(default_factory=list)

    def forget_node(self, name: str) -> None:
        """Drops what was reported of a node that is gone or not Ready."""
        self.usage.pop(name, None)
        self.calm_since_ms.pop(name, None)
        self.soft_since_ms.pop(name, None)


@dataclass(slots=True)
class Visits:
    """Each of these one-per-node workloads is to be settled on each of these nodes: from where it goes on."""

    workloads: list[str]
    nodes: list[str]
    workload_at: int = 0
    node_at: int = 0

    @property
    def over(self) -> bool:
        """Whether none is left."""
        return not self.nodes or self.workload_at >= len(self.workloads)


class Transition:
    """Carries what the handlers of one command share."""

    def __init__(
        self,
        tables: Tables,
        settings: FleetSettings,
        *,
        estimator: Estimator,
        verdicts: EligibilityCache,
        soft: Soft,
        now_ms: int,
    ) -> None:
        self.tables = tables
        self.settings = settings
        self.estimator = estimator
        self.soft = soft
        self.now_ms = now_ms
        self.events: list[FleetEvent] = []
        self.dirty: dict[str, None] = {}
        self.changed_nodes: dict[str, None] = {}
        self.visits: list[Visits] = []
        self._sparing: SparingEstimator | None = None
        self._looked_at = 0
        self._log_length = len(tables.log)
        self._verdicts = verdicts
        self._revision = tables.meta.revision

    @property
    def books(self) -> FleetBooks:
        """The bookings, as they are now."""
        return self.tables.books

    @property
    def room(self) -> int:
        """How much more this command may do before it leaves the rest to the next tick."""
        done = self._looked_at + len(self.tables.log) - self._log_length
        return max(0, self.settings.work_at_once - done)

    @property
    def full(self) -> bool:
        """Whether the rest is for the next tick."""
        return not self.room

    def looked(self, count: int = 1) -> None:
        """Counts what was looked at."""
        self._looked_at += count

    @property
    def revision(self) -> int:
        """Revision of the newest event."""
        return self._revision

    def event(
        self,
        kind: FleetEventKind,
        *,
        workload: str = "",
        replica: str = "",
        node: str = "",
        reason: str = "",
        message: str = "",
    ) -> None:
        """Leaves an event."""
        self._revision += 1
        self.events.append(
            FleetEvent(
                revision=self._revision,
                time_ms=self.now_ms,
                kind=kind,
                workload=workload,
                replica=replica,
                node=node,
                reason=reason,
                message=message,
            )
        )

    def forget_events(self, count: int) -> None:
        """Takes back every event after the first ``count``."""
        self._revision -= len(self.events) - count
        del self.events[count:]

    def replica_event(
        self, kind: FleetEventKind, replica: Replica, *, reason: str = "", message: str = ""
    ) -> None:
        """Leaves an event about a replica."""
        self.event(
            kind,
            workload=replica.workload,
            replica=replica.name,
            node=replica.node,
            reason=reason,
            message=message,
        )

    def node(self, name: str) -> FleetNode:
        """The node. Raises ``FleetError``."""
        node = self.tables.nodes.get(name)
        if node is None:
            raise FleetError(
                Refused.NOT_FOUND,
                ControlReason.NODE_UNKNOWN,
                f"node {name!r} is not in the fleet",
                node=name,
            )
        return node

    def workload(self, name: str) -> Workload:
        """The workload. Raises ``FleetError``."""
        workload = self.tables.workloads.get(name)
        if workload is None:
            text = f"workload {name!r} does not exist"
            raise FleetError(Refused.NOT_FOUND, ControlReason.WORKLOAD_UNKNOWN, text, workload=name)
        return workload

    def book(self, name: str) -> WorkloadBook:
        """The book of a workload."""
        return self.books.workload(name)

    def search(self, workload: Workload, policy: Policy | None = None) -> Search:
        """A search for nodes for the workload; only kernel-aware ones ask the estimator."""
        policy = policy or self.settings.policy
        aware = policy is Policy.KERNEL_AWARE
        if aware and self._sparing is None:
            self._sparing = SparingEstimator(self.estimator, self.settings.trial_effort_at_once)
        return Search(
            self.books,
            workload,
            policy=policy,
            estimator=(aware and self._sparing) or _BY_REQUEST,
            verdicts=self._verdicts,
            now_ms=self.now_ms,
        )
