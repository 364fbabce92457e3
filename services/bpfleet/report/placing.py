"""Where a scenario's replicas go: decided once, before any kernel runs, by the coordinator's own state machine.

Workloads are submitted in the scenario's order, as ``bpfleet fleet apply`` submits them, so gangs, affinity,
spread, taints, disruption budgets and preemption mean what they mean on a running fleet. Memory requests do not
depend on the accounting model: every model gets the same placement, and differences are the kernels'.
"""

from dataclasses import dataclass
from typing import Final

from bpfleet.fleet.commands import (
    Command,
    CreateWorkload,
    NodeUsage,
    ReplicaNews,
    ReportNodes,
    Tick,
)
from bpfleet.fleet.records import FleetAgent, FleetNode, Replica
from bpfleet.fleet.settings import FleetSettings
from bpfleet.fleet.state import FleetState
from bpfleet.workload.phase import Phase
from bpfleet.workload.scenario import Scenario, ScenarioNode
from bpfleet.workload.spec import WorkloadSpec

__all__ = ["Assignment", "NodePlan", "Placement", "place"]

_AGENT: Final = FleetAgent(name="compare", incarnation="1", address="")
# The models run on the same hardware; the profile is not known to placement.
_ANY_PROFILE: Final = "any"
_NOW_MS: Final = 1
_NO_LIMIT: Final = 1 << 40
_SETTINGS: Final = FleetSettings(
    workloads_max=_NO_LIMIT,
    replicas_max=_NO_LIMIT,
    waiting_tried_per_tick=_NO_LIMIT,
    work_at_once=_NO_LIMIT,
    gang_replicas_max=_NO_LIMIT,
    shapes_searched_at_once=_NO_LIMIT,
    trial_effort_at_once=_NO_LIMIT,
)


@dataclass(frozen=True, slots=True)
class Assignment:
    """Replica ``serial`` of a workload."""

    workload: WorkloadSpec
    serial: int


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node and what was placed on it, in the scenario's order. ``index`` counts the fleet's nodes."""

    index: int
    node: ScenarioNode
    assignments: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """Every node's plan, and the replicas that fit nowhere, each with the reasons."""

    nodes: tuple[NodePlan, ...]
    unplaced: tuple[tuple[str, str], ...]

    @property
    def replicas(self) -> int:
        """Replicas that were placed."""
        return sum(len(plan.assignments) for plan in self.nodes)


def place(scenario: Scenario) -> Placement:
    """Places every workload. What is preempted stops at once and goes elsewhere where it can."""
    fleet = scenario.fleet()
    state = FleetState(_SETTINGS)
    state.load([_AGENT, *(_record(node) for node in fleet)])
    for spec in scenario.workloads:
        _apply(state, CreateWorkload(spec=spec))
        _let_victims_go(state)
    assigned: dict[str, list[Assignment]] = {node.name: [] for node in fleet}
    unplaced: list[tuple[str, str]] = []
    for spec in scenario.workloads:
        replicas = state.tables.books.workload(spec.name).replicas.values()
        reasons = ""
        for replica in sorted(replicas, key=lambda replica: replica.serial):
            if replica.node:
                assigned[replica.node].append(Assignment(spec, replica.serial))
                continue
            # Of those that wait alike, the first says why.
            reasons = _reasons(replica) or reasons
            unplaced.append((replica.name, reasons))
    plans = (NodePlan(index, node, tuple(assigned[node.name])) for index, node in enumerate(fleet))
    return Placement(tuple(plans), tuple(unplaced))


def _let_victims_go(state: FleetState) -> None:
    """Reports what was preempted as stopped, and lets what waits be placed, until nothing stops any more."""
    while True:
        stopping = [r for r in state.tables.replicas.values() if r.phase is Phase.STOPPING]
        if not stopping:
            return
        reports = tuple(
            NodeUsage(node=replica.node, replicas=(_stopped(replica),)) for replica in stopping
        )
        _apply(
            state,
            ReportNodes(
                agent=_AGENT.name,
                incarnation=_AGENT.incarnation,
                reports=reports,
                measured=False,
            ),
        )
        _apply(state, Tick())


def _stopped(replica: Replica) -> ReplicaNews:
    return ReplicaNews(replica=replica.name, attempt=replica.attempt, phase=Phase.STOPPED)


def _apply(state: FleetState, command: Command) -> None:
    """Carries a command out for good: nothing here is ever taken back, and nobody reads the events."""
    state.apply(command, _NOW_MS)
    state.tables.log.clear()
    state.events.clear()


def _reasons(replica: Replica) -> str:
    if replica.decision is None:
        return replica.reason
    return ", ".join(f"{reason} on {n}" for reason, n in replica.decision.rejections)


def _record(node: ScenarioNode) -> FleetNode:
    return FleetNode(
        name=node.name,
        agent=_AGENT.name,
        profile=_ANY_PROFILE,
        possible_cpus=node.shape.possible_cpus,
        ram_bytes=node.shape.ram_bytes,
        allocatable_bytes=node.allocatable_bytes,
        announced_labels=tuple(sorted(node.labels.items())),
        announced_taints=node.taints,
    )
