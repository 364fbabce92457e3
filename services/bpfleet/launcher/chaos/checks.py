"""What must hold of a cluster once a chaos run is over: pure checks over a survey and what was acknowledged. The
properties are those the simulation checks step by step.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from bpfleet.launcher.survey import Survey
from bpfleet.workload.phase import Phase

__all__ = ["Acknowledged", "Check", "check_all"]

# Some write is acknowledged in so long while faults come and go: four leases of a leader.
WAIT_SECONDS_MAX: Final = 60.0
_SHOWN: Final = 3
# Where a replica should be with an agent: in these phases and no others.
_PLACED: Final = frozenset({Phase.ASSIGNED, Phase.RUNNING, Phase.STOPPING})
_ENDED: Final = frozenset({Phase.STOPPED, Phase.FAILED, Phase.SUCCEEDED})


@dataclass(slots=True)
class Acknowledged:
    """What a client was told had been done: replicas of each workload, and what was deleted.

    ``unsure`` holds workloads whose last write got no answer: either outcome is right for them. A client waited
    ``longest_wait_seconds`` at most for one acknowledgement.
    """

    replicas: dict[str, int] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)
    writes: int = 0
    longest_wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Check:
    """One property: whether it holds, and what was looked at or what broke it."""

    name: str
    holds: bool
    detail: str


def check_all(survey: Survey, told: Acknowledged) -> list[Check]:
    """Every property, in a fixed order."""
    return [
        Check(name, not problems, _detail(problems, looked_at))
        for name, look in _CHECKS.items()
        for problems, looked_at in [look(survey, told)]
    ]


_Findings = tuple[list[str], str]


def _one_leader(survey: Survey, told: Acknowledged) -> _Findings:
    problems = [] if survey.leaders == 1 else [f"{survey.leaders} coordinators lead"]
    return problems, "one coordinator leads"


def _acknowledged_is_visible(survey: Survey, told: Acknowledged) -> _Findings:
    problems = [
        f"{name} should have {wanted} replicas and has {survey.workloads.get(name, 'none')}"
        for name, wanted in sorted(told.replicas.items())
        if name not in told.unsure and survey.workloads.get(name) != wanted
    ]
    problems += [
        f"{name} was deleted and is there"
        for name in sorted(told.deleted - told.unsure)
        if name in survey.workloads
    ]
    return problems, f"{told.writes} acknowledged writes, {len(told.unsure)} without an answer"


def _writes_go_on(survey: Survey, told: Acknowledged) -> _Findings:
    waited = f"a client waited {told.longest_wait_seconds:.1f} s at most"
    problems = [waited] if told.longest_wait_seconds > WAIT_SECONDS_MAX else []
    return problems, waited


def _no_replica_lost(survey: Survey, told: Acknowledged) -> _Findings:
    counts = Counter(
        replica.workload for replica in survey.booked if replica.phase != Phase.STOPPING
    )
    problems = [
        f"{name} wants {wanted} replicas and has {counts[name]}"
        for name, wanted in sorted(survey.workloads.items())
        if counts[name] != wanted
    ]
    at_agents = {(each.replica, each.node) for each in survey.running if each.phase not in _ENDED}
    problems += [
        f"{each.replica} runs on {each.node} by the books, and does not"
        for each in survey.booked
        if each.phase == Phase.RUNNING and (each.replica, each.node) not in at_agents
    ]
    return problems, f"{len(survey.booked)} replicas of {len(survey.workloads)} workloads"


def _no_replica_doubled(survey: Survey, told: Acknowledged) -> _Findings:
    places = defaultdict(list)
    for each in survey.running:
        if each.phase not in _ENDED:
            places[each.replica].append(each.node)
    problems = [
        f"{replica} runs on {' and '.join(sorted(nodes))}"
        for replica, nodes in sorted(places.items())
        if len(nodes) > 1
    ]
    booked = {(each.replica, each.node) for each in survey.booked if each.phase in _PLACED}
    problems += [
        f"{replica} runs on {nodes[0]}, where the books do not have it"
        for replica, nodes in sorted(places.items())
        if len(nodes) == 1 and (replica, nodes[0]) not in booked
    ]
    ids = Counter(each.replica for each in survey.booked)
    problems += [f"{replica} is booked {n} times" for replica, n in sorted(ids.items()) if n > 1]
    return problems, f"{len(places)} replicas at the agents"


def _ledgers_conserved(survey: Survey, told: Acknowledged) -> _Findings:
    return list(survey.broken), f"{survey.nodes_checked} nodes proved their books"


def _nodes_came_back(survey: Survey, told: Acknowledged) -> _Findings:
    problems = [f"{node} is not ready" for node in survey.nodes_not_ready] + survey.unreachable
    return problems, f"{survey.nodes} nodes ready"


_CHECKS: Final[dict[str, Callable[[Survey, Acknowledged], _Findings]]] = {
    "one leader": _one_leader,
    "acknowledged is visible": _acknowledged_is_visible,
    "writes go on": _writes_go_on,
    "no replica lost": _no_replica_lost,
    "no replica doubled": _no_replica_doubled,
    "ledgers conserved": _ledgers_conserved,
    "nodes came back": _nodes_came_back,
}


def _detail(problems: list[str], looked_at: str) -> str:
    if not problems:
        return looked_at
    more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return "; ".join(problems[:_SHOWN]) + more
