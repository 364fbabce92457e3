"""The fleet's state machine: a command and a time go in, changed records and events come out. Pure.

Records change in place but through an undo log: ``rollback`` takes back whatever has not been
committed to the store. The same commands at the same times give the same records, everywhere.
"""

from collections.abc import Iterable
from heapq import heapify, heappop
from itertools import islice
from typing import Any, assert_never

from bpfleet.fleet import marks, nodes, workloads
from bpfleet.fleet.commands import (
    AgentLost,
    Command,
    CordonNode,
    CreateWorkload,
    DeleteWorkload,
    DrainNode,
    LabelNode,
    RegisterAgent,
    RemoveNode,
    ReportNodes,
    TaintNode,
    Tick,
    UncordonNode,
    UnregisterAgent,
    UpdateWorkload,
)
from bpfleet.fleet.disruption import settle_drain
from bpfleet.fleet.errors import FleetError
from bpfleet.fleet.placement import (
    EligibilityCache,
    Estimator,
    NodeScore,
    Preemption,
    RequestEstimator,
    Search,
)
from bpfleet.fleet.records import FleetEvent, Meta, Policy, Record, Workload
from bpfleet.fleet.replicas import start_due
from bpfleet.fleet.settings import FleetSettings
from bpfleet.fleet.settle import place_waiting, settle
from bpfleet.fleet.tables import Tables
from bpfleet.fleet.transition import Soft, Transition, Visits
from bpfleet.workload.phase import Phase

__all__ = ["FleetState"]

_WORKLOADS_PER_TICK_MAX = 100


class FleetState:
    """All that is known of the fleet, and the rules by which it changes."""

    def __init__(
        self, settings: FleetSettings | None = None, estimator: Estimator | None = None
    ) -> None:
        self.settings = settings or FleetSettings()
        self.estimator: Estimator = estimator or RequestEstimator()
        self.tables = Tables()
        self.soft = Soft()
        self.events: list[FleetEvent] = []
        self._verdicts: EligibilityCache = {}

    def load(self, records: Iterable[Record]) -> None:
        """Takes over what the store has; the state must be new."""
        self.tables.load(records)
        self._rebuild_timers()
        self._look_at_all()

    # The result's type depends on the command.
    def apply(self, command: Command, now_ms: int) -> Any:
        """Carries a command out. Raises ``FleetError`` and changes nothing where it is refused."""
        transition = self._transition(now_ms)
        mark = len(self.tables.log)
        try:
            result = _carry_out(transition, command)
            settle(transition)
        except FleetError:
            self.tables.rollback(mark)
            raise
        if transition.events:
            self.tables.put(Meta(revision=transition.revision))
            self.events.extend(transition.events)
        return result

    def rollback(self, log_length: int, events_kept: int) -> None:
        """Takes back all changes after the first ``log_length`` of the log."""
        self.tables.rollback(log_length)
        del self.events[events_kept:]
        self.soft.waiting_seen = -1
        self._rebuild_timers()
        self._look_at_all()

    def explain(
        self, workload: Workload, policy: Policy, now_ms: int
    ) -> tuple[list[NodeScore], Preemption | None]:
        """Every node's verdict on one more replica of ``workload``, which need not exist; best first.

        The second part tells whom it would have to preempt if no node qualifies.
        """
        search = self.search(workload, policy, now_ms)
        verdicts = search.explain()
        if any(verdict.refusal is None for verdict in verdicts):
            return verdicts, None
        lower = any(p < workload.spec.priority for p in self.tables.books.priorities)
        return verdicts, search.preempt() if lower else None

    def known(self, workload: Workload, policy: Policy, now_ms: int) -> bool:
        """Whether ``explain`` knows what the workload needs everywhere. Finds out a part of it at each call."""
        return self.search(workload, policy, now_ms).known()

    def search(self, workload: Workload, policy: Policy | None, now_ms: int) -> Search:
        """A search over the fleet as it is now."""
        return self._transition(now_ms).search(workload, policy)

    def check(self) -> None:
        """Asserts the invariants of the books (*one book*, *capacity*, *single placement*)."""
        books = self.tables.books
        books.check()
        bound = sum(len(book.replicas) for book in books.nodes.values())
        assert bound == sum(r.bound for r in self.tables.replicas.values()), "a booking is lost"
        for name, book in books.nodes.items():
            assert book.booked_bytes >= 0, f"{name}: booked {book.booked_bytes}"
            stopping = sum(
                r.booked_bytes for r in book.replicas.values() if r.phase is Phase.STOPPING
            )
            limit = book.node.allocatable_bytes + stopping
            assert book.booked_bytes <= limit, f"{name}: {book.booked_bytes} of {limit} booked"
        for replica in self.tables.replicas.values():
            assert replica.workload in self.tables.workloads, f"{replica.name} has no workload"
            waits = replica.phase is Phase.PENDING
            assert waits == (not replica.node), f"{replica.name} {replica.phase} on {replica.node}"

    def _transition(self, now_ms: int) -> Transition:
        return Transition(
            self.tables,
            self.settings,
            estimator=self.estimator,
            verdicts=self._verdicts,
            soft=self.soft,
            now_ms=now_ms,
        )

    def _look_at_all(self) -> None:
        """What was left for later is no longer known, or was done and taken back: the ticks look at everything."""
        tables = self.tables
        self.soft.workloads = dict.fromkeys(tables.workloads)
        self.soft.agents = dict.fromkeys(tables.agents)
        self.soft.visits = [Visits(list(tables.per_node), list(tables.nodes))]

    def _rebuild_timers(self) -> None:
        self.soft.timers = [
            (replica.due_ms, replica.name)
            for replica in self.tables.replicas.values()
            if replica.due_ms
        ]
        heapify(self.soft.timers)


# The result's type depends on the command.
def _carry_out(t: Transition, command: Command) -> Any:
    match command:
        case CreateWorkload():
            return workloads.create_workload(t, command)
        case UpdateWorkload():
            return workloads.update_workload(t, command)
        case DeleteWorkload():
            return workloads.delete_workload(t, command)
        case CordonNode():
            return nodes.cordon_node(t, command)
        case UncordonNode():
            return nodes.uncordon_node(t, command)
        case DrainNode():
            return nodes.drain_node(t, command)
        case LabelNode():
            return marks.label_node(t, command)
        case TaintNode():
            return marks.taint_node(t, command)
        case RemoveNode():
            return nodes.remove_node(t, command)
        case RegisterAgent():
            return nodes.register_agent(t, command)
        case ReportNodes():
            return nodes.report_nodes(t, command)
        case UnregisterAgent():
            return nodes.unregister_agent(t, command)
        case AgentLost(agent):
            return nodes.lose_agent(t, agent)
        case Tick():
            return _tick(t)
        case _:
            assert_never(command)


def _tick(t: Transition) -> None:
    """What time brings, and what was too much for the commands before."""
    _start_what_is_due(t)
    for name in list(t.books.draining):
        settle_drain(t, name)
    for name in list(t.soft.agents):
        del t.soft.agents[name]
        nodes.settle_agent(t, name)
        if t.full:
            break
    for name in list(islice(t.soft.workloads, _WORKLOADS_PER_TICK_MAX)):
        del t.soft.workloads[name]
        t.dirty[name] = None
    t.visits, t.soft.visits = t.soft.visits, []
    settle(t)
    if not t.full:
        _place_what_waits(t)


def _start_what_is_due(t: Transition) -> None:
    timers = t.soft.timers
    while timers and timers[0][0] <= t.now_ms and not t.full:
        due_ms, name = heappop(timers)
        t.looked()
        replica = t.tables.replicas.get(name)
        if replica is not None and replica.due_ms == due_ms:
            start_due(t, replica)


def _place_what_waits(t: Transition) -> None:
    """Looks at waiting workloads again once memory or nodes have come free: the important first.

    At most so many a tick; the next tick goes on where this one stopped.
    """
    version = t.books.capacity_version
    if t.soft.waiting_seen == version and not t.soft.waiting_cursor and not t.soft.waiting_more:
        return
    names = sorted(t.books.pending, key=lambda name: _importance(t, name))
    start = t.soft.waiting_cursor
    if start in t.books.pending:
        names = names[names.index(start) :]
    else:
        # Whom the ticks before left waiting is among them again.
        t.soft.waiting_more = False
    for tried, name in enumerate(names):
        if tried >= t.settings.waiting_tried_per_tick or t.full:
            t.soft.waiting_cursor = name
            return
        place_waiting(t, t.tables.workloads[name])
    t.soft.waiting_cursor = ""
    t.soft.waiting_seen = version


def _importance(t: Transition, name: str) -> tuple[int, str]:
    return -t.tables.workloads[name].spec.priority, name
