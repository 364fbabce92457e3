"""Where a scenario's replicas go: decided once, by the coordinator's own placement, before any
kernel runs.

Memory requests do not depend on the accounting model, so every model gets the same placement and
differences are the kernels'.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bpfleet.fleet.books import FleetBooks
from bpfleet.fleet.placement import RequestEstimator, Search, VerdictCache
from bpfleet.fleet.records import Node, Policy, Replica, Workload
from bpfleet.workload.phase import Phase
from bpfleet.workload.scenario import FleetNode, Scenario
from bpfleet.workload.spec import WorkloadSpec

__all__ = ["Assignment", "NodePlan", "Placement", "place"]

_POLICY: Final = Policy.LEAST_ALLOCATED
_AGENT: Final = "compare"
# The models run on the same hardware; the profile is not known to placement.
_ANY_PROFILE: Final = "any"


@dataclass(frozen=True, slots=True)
class Assignment:
    """Replica ``ordinal`` of a workload."""

    workload: WorkloadSpec
    ordinal: int


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node and what was placed on it, in placement order. ``index`` counts the fleet's nodes."""

    index: int
    node: FleetNode
    assignments: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """Every node's plan, and per workload the reasons of replicas that fit nowhere."""

    nodes: tuple[NodePlan, ...]
    unplaced: tuple[tuple[str, str], ...]

    @property
    def replicas(self) -> int:
        """Replicas that were placed."""
        return sum(len(plan.assignments) for plan in self.nodes)


def place(scenario: Scenario) -> Placement:
    """Places every workload, the most important first, equals in the scenario's order."""
    fleet = scenario.fleet()
    books = FleetBooks()
    for node in fleet:
        books.set_node(None, _record(node))
    assigned: dict[str, list[Assignment]] = {node.name: [] for node in fleet}
    unplaced: list[tuple[str, str]] = []
    for spec in sorted(scenario.workloads, key=lambda w: -w.priority):
        for ordinal, chosen, reason in _choices(spec, books, fleet):
            if chosen is None:
                unplaced.append((f"{spec.name}-{ordinal}", reason))
            else:
                assigned[chosen].append(Assignment(spec, ordinal))
    plans = (NodePlan(index, node, tuple(assigned[node.name])) for index, node in enumerate(fleet))
    return Placement(tuple(plans), tuple(unplaced))


def _choices(
    spec: WorkloadSpec, books: FleetBooks, fleet: tuple[FleetNode, ...]
) -> Iterator[tuple[int, str | None, str]]:
    verdicts: VerdictCache = {}
    search = Search(
        books,
        Workload(name=spec.name, spec=spec),
        policy=_POLICY,
        estimator=RequestEstimator(),
        verdicts=verdicts,
        now_ms=0,
    )
    places = _every_node(spec, search, fleet) if spec.per_node else _anywhere(spec, search)
    for ordinal, node, reason in places:
        if node is not None:
            books.set_replica(None, _booking(spec, ordinal, node))
            search.placed(node)
        yield ordinal, node, reason


def _every_node(
    spec: WorkloadSpec, search: Search, fleet: tuple[FleetNode, ...]
) -> Iterator[tuple[int, str | None, str]]:
    """One replica per eligible node; nodes the workload does not select are skipped, not counted."""
    for index, node in enumerate(fleet):
        refusal = search.admit(node.name).refusal
        if refusal is None:
            yield index, node.name, ""
        elif refusal.reason in _SHORTAGES:
            yield index, None, refusal.reason


_SHORTAGES: Final = frozenset({"INSUFFICIENT_MEMORY", "NO_FREE_SLOT"})


def _anywhere(spec: WorkloadSpec, search: Search) -> Iterator[tuple[int, str | None, str]]:
    for ordinal in range(spec.replicas):
        choice = search.choose(f"{spec.name}-{ordinal}")
        reasons = ", ".join(f"{reason} on {n}" for reason, n in choice.decision.rejections)
        yield ordinal, choice.node, reasons


def _record(node: FleetNode) -> Node:
    return Node(
        name=node.name,
        agent=_AGENT,
        profile=_ANY_PROFILE,
        possible_cpus=node.shape.possible_cpus,
        ram_bytes=node.shape.ram_bytes,
        allocatable_bytes=node.allocatable_bytes,
        labels=tuple(sorted(node.labels.items())),
    )


def _booking(spec: WorkloadSpec, ordinal: int, node: str) -> Replica:
    return Replica(
        name=f"{spec.name}-{ordinal}",
        workload=spec.name,
        serial=ordinal,
        generation=1,
        phase=Phase.RUNNING,
        node=node,
        booked_bytes=spec.memory_request_bytes,
        uid=spec.uid,
        priority=spec.priority,
    )
