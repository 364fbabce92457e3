"""Prometheus metrics of a coordinator, in a registry of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bpfleet.coordinator.lead import Lead
from bpfleet.coordinator.watch import FleetEventLog
from bpfleet.fleet.dispatch import Orders
from bpfleet.fleet.engine import Commit
from bpfleet.fleet.leases import Leases
from bpfleet.fleet.reasons import FleetEventKind, ReplicaReason
from bpfleet.fleet.state import FleetState
from bpfleet.kernel.errors import Reason
from bpfleet.kernel.profile import kernel_of
from bpfleet.rpc.metrics import RpcMetrics, add_common
from bpfleet.workload.phase import Phase

__all__ = ["CoordinatorMetrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_PREFIX = "bpfleet_coordinator"


class CoordinatorMetrics:
    """What is counted and how."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        add_common(registry, "coordinator")
        self.calls = RpcMetrics(registry, "server")
        self.orders = RpcMetrics(registry, "client")
        self._events = Counter(
            f"{_PREFIX}_events", "Fleet events by kind", ["kind"], registry=registry
        )
        self._failures = Counter(
            f"{_PREFIX}_replica_failures",
            "Failed replicas by reason",
            ["reason"],
            registry=registry,
        )
        self._decide = Histogram(
            f"{_PREFIX}_decision_seconds",
            "Time to decide on a command",
            ["command"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._commit = Histogram(
            f"{_PREFIX}_commit_seconds",
            "Time to store a group",
            buckets=_SECONDS,
            registry=registry,
        )
        self._group = Histogram(
            f"{_PREFIX}_commit_records",
            "Records of a group",
            buckets=(1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000),
            registry=registry,
        )
        self._orders = Counter(
            f"{_PREFIX}_orders", "Orders agents took", ["order"], registry=registry
        )
        self._leading = Gauge(f"{_PREFIX}_leading", "1 on the leader", registry=registry)
        self._epoch = Gauge(f"{_PREFIX}_epoch", "The term led last", registry=registry)
        self._deposed = Counter(
            f"{_PREFIX}_deposed",
            "Terms that ended because another coordinator took the lead",
            registry=registry,
        )
        self._renewals = Gauge(
            f"{_PREFIX}_lead_renewals", "Renewals of the lead that succeeded", registry=registry
        )
        self._late = Gauge(
            f"{_PREFIX}_lead_renewals_late",
            "Renewals of the lead that came after its lease had run out",
            registry=registry,
        )
        self._nodes = Gauge(f"{_PREFIX}_nodes", "Nodes by state", ["state"], registry=registry)
        self._replicas = Gauge(
            f"{_PREFIX}_replicas", "Replicas by phase", ["phase"], registry=registry
        )
        self._waiting = Gauge(
            f"{_PREFIX}_waiting_workloads",
            "Workloads with replicas without a node",
            registry=registry,
        )
        self._queue = Gauge(
            f"{_PREFIX}_queued_commands",
            "Commands that wait for the store",
            registry=registry,
        )
        self._leases = Gauge(f"{_PREFIX}_leases", "Agents with a lease", registry=registry)
        self._watches = Gauge(f"{_PREFIX}_watches", "Open watch streams", registry=registry)
        self._charged = Gauge(
            f"{_PREFIX}_bpf_charged_bytes", "Reported BPF charge", ["model"], registry=registry
        )
        self._verdicts = Gauge(
            f"{_PREFIX}_verdicts", "Reported verdicts", ["model", "errno"], registry=registry
        )
        self._observed_s = 0.0

    def leads(self, leading: bool) -> None:
        """Notes whether this coordinator leads. One that does not has nothing to say of the fleet."""
        self._leading.set(leading)
        if not leading:
            for of_fleet in (self._nodes, self._replicas, self._charged, self._verdicts):
                of_fleet.clear()
            for number in (self._waiting, self._queue, self._leases, self._watches):
                number.set(0)
            self._observed_s = 0.0

    def term(self, epoch: int) -> None:
        """Notes that a term begins."""
        self._epoch.set(epoch)

    def deposed(self) -> None:
        """Counts a term that another coordinator ended."""
        self._deposed.inc()

    def renewed(self, lead: Lead) -> None:
        """Takes over how often the lead was renewed, and how often late."""
        self._renewals.set(lead.renewals)
        self._late.set(lead.late)

    @contextmanager
    def deciding(self, command: str) -> Iterator[None]:
        """Times a decision."""
        start_s = perf_counter()
        yield
        self._decide.labels(command).observe(perf_counter() - start_s)

    @contextmanager
    def committing(self, records: int) -> Iterator[None]:
        """Times a commit; one that fails is not counted."""
        start_s = perf_counter()
        yield
        self._commit.observe(perf_counter() - start_s)
        self._group.observe(records)

    def stored(self, commit: Commit) -> None:
        """Counts the events of a commit."""
        for event in commit.events:
            self._events.labels(event.kind).inc()
            if event.kind == FleetEventKind.REPLICA_FAILED:
                self._failures.labels(known_reason(event.reason)).inc()

    def delivered(self, orders: Orders) -> None:
        """Counts orders that an agent took."""
        self._orders.labels("run").inc(len(orders.runs))
        self._orders.labels("stop").inc(len(orders.stops))

    def queued(self, commands: int) -> None:
        """Notes how many commands came while the store was busy."""
        self._queue.set(commands)

    def observe(self, state: FleetState, leases: Leases, log: FleetEventLog) -> None:
        """Takes the gauges, at most every five seconds: they walk the fleet."""
        now_s = perf_counter()
        if now_s - self._observed_s < 5.0:
            return
        self._observed_s = now_s
        tables = state.tables
        ready = sum(node.ready for node in tables.nodes.values())
        self._nodes.labels("ready").set(ready)
        self._nodes.labels("not_ready").set(len(tables.nodes) - ready)
        self._leases.set(len(leases))
        self._watches.set(log.watches)
        self._waiting.set(len(tables.books.pending))
        counts = dict.fromkeys(Phase, 0)
        for book in tables.books.workloads.values():
            for phase, count in book.phases.items():
                counts[phase] += count
        for phase, count in counts.items():
            self._replicas.labels(phase.value).set(count)
        self._observe_usage(state)

    def _observe_usage(self, state: FleetState) -> None:
        charged: dict[str, int] = {}
        verdicts: dict[tuple[str, str], int] = {}
        for name, usage in state.soft.usage.items():
            node = state.tables.nodes.get(name)
            if node is None:
                continue
            model = kernel_of(node.profile).model.value
            charged[model] = charged.get(model, 0) + usage.bpf_charged_bytes
            for errno, count in usage.verdicts:
                verdicts[model, errno] = verdicts.get((model, errno), 0) + count
        for model, size in charged.items():
            self._charged.labels(model).set(size)
        for (model, errno), count in verdicts.items():
            self._verdicts.labels(model, errno).set(count)


_REASONS: Final = frozenset({*ReplicaReason, *Reason})


def known_reason(reason: str) -> str:
    """A reason as a label: those of ours and of the emulated kernel; what an agent says else is "other"."""
    return reason if reason in _REASONS else "other"
