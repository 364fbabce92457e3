"""Whether a node's labels and taints allow a workload: the part of placement that no booking changes."""

from collections.abc import Container, Mapping
from dataclasses import dataclass

from bpfleet.fleet.reasons import NodeReason
from bpfleet.fleet.records import CPUS_LABEL, NODE_LABEL, PROFILE_LABEL, FleetNode, Workload
from bpfleet.workload.spec import LabelOperator, Requirement, Taint, TaintEffect

__all__ = [
    "Eligibility",
    "Judge",
    "Refusal",
    "constraint_key",
    "executes",
    "is_node_key",
    "judge",
    "label_of",
    "meets",
    "named_nodes_allow",
]

_NODE_KEYS = frozenset({NODE_LABEL, "node"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a node was ruled out: a reason for programs, a sentence for people."""

    reason: NodeReason
    message: str


@dataclass(frozen=True, slots=True)
class Eligibility:
    """What labels and taints say about a node: a refusal, or bonus points (-50 to 100)."""

    refusal: Refusal | None
    bonus: float = 0.0


class Judge:
    """The conditions of one workload, made ready for many nodes.

    Conditions on the node's own name are not looked at: nodes alike in all else share one verdict (see
    ``named_nodes_allow``).
    """

    def __init__(self, workload: Workload) -> None:
        spec = workload.spec
        self._workload = workload
        self._selector = [(k, v) for k, v in spec.node_selector.items() if k not in _NODE_KEYS]
        self._required = [
            (each, frozenset(each.values))
            for each in spec.scheduling.required
            if each.key not in _NODE_KEYS
        ]
        self._preferred = [
            (wish, frozenset(wish.requirement.values)) for wish in spec.scheduling.preferred
        ]
        self._offered = sum(wish.weight for wish in spec.scheduling.preferred)

    def verdict(self, node: FleetNode) -> Eligibility:
        """Selector, affinity and taints, in this order."""
        labels = implied_labels(node)
        for key, value in self._selector:
            if labels.get(key) != value:
                text = f"label {key} is not {value!r}"
                return Eligibility(Refusal(NodeReason.NODE_SELECTOR, text))
        for requirement, values in self._required:
            if not _meets(requirement, values, labels):
                text = f"label {requirement.key} does not qualify"
                return Eligibility(Refusal(NodeReason.NODE_AFFINITY, text))
        for taint in node.taints:
            if taint.effect is not TaintEffect.PREFER_NO_SCHEDULE and not self._tolerates(taint):
                text = f"taint {taint.key}={taint.value}:{taint.effect} is not tolerated"
                return Eligibility(Refusal(NodeReason.TAINT, text))
        return Eligibility(None, self._bonus(node, labels))

    def _bonus(self, node: FleetNode, labels: Mapping[str, str]) -> float:
        """Share of the wished-for points, up to 100; half of it is lost per unwelcoming taint."""
        points = 0
        for wish, values in self._preferred:
            if _meets(wish.requirement, values, labels):
                points += wish.weight
        unwelcome = sum(
            1
            for taint in node.taints
            if taint.effect is TaintEffect.PREFER_NO_SCHEDULE and not self._tolerates(taint)
        )
        return (100.0 * points / self._offered if self._offered else 0.0) - 50.0 * unwelcome

    def _tolerates(self, taint: Taint) -> bool:
        return _tolerated(taint, self._workload)


def judge(workload: Workload, node: FleetNode) -> Eligibility:
    """The verdict of a workload's conditions on one node; of many ask one ``Judge``."""
    return Judge(workload).verdict(node)


def executes(workload: Workload, node: FleetNode) -> Taint | None:
    """The first NoExecute taint of ``node`` that the workload does not tolerate: it must leave."""
    for taint in node.taints:
        if taint.effect is TaintEffect.NO_EXECUTE and not _tolerated(taint, workload):
            return taint
    return None


def meets(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    """Whether the labels satisfy one requirement (Kubernetes' rules for absent labels)."""
    return _meets(requirement, requirement.values, labels)


def _meets(requirement: Requirement, values: Container[str], labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case LabelOperator.IN:
            return value is not None and value in values
        case LabelOperator.NOT_IN:
            return value is None or value not in values
        case LabelOperator.EXISTS:
            return value is not None
        case LabelOperator.DOES_NOT_EXIST:
            return value is None
        case LabelOperator.GREATER_THAN:
            return _compare(value, requirement.values, 1)
        case LabelOperator.LESS_THAN:
            return _compare(value, requirement.values, -1)


def _compare(value: str | None, values: tuple[str, ...], sign: int) -> bool:
    if value is None or not values:
        return False
    try:
        return (int(value) - int(values[0])) * sign > 0
    except ValueError:
        return False


def named_nodes_allow(workload: Workload, name: str) -> bool:
    """Whether the conditions on the node's own name allow it."""
    wanted = [v for k, v in workload.spec.node_selector.items() if k in _NODE_KEYS]
    if any(value != name for value in wanted):
        return False
    own = dict.fromkeys(_NODE_KEYS, name)
    return all(meets(r, own) for r in workload.spec.scheduling.required if r.key in _NODE_KEYS)


def names_nodes(workload: Workload) -> bool:
    """Whether the workload has any condition on a node's own name."""
    return any(key in _NODE_KEYS for key in workload.spec.node_selector) or any(
        requirement.key in _NODE_KEYS for requirement in workload.spec.scheduling.required
    )


def is_node_key(key: str) -> bool:
    """Whether ``key`` stands for the node itself rather than for a label."""
    return key in _NODE_KEYS


def implied_labels(node: FleetNode) -> dict[str, str]:
    """The node's labels and those every node has."""
    own = {PROFILE_LABEL: node.profile, CPUS_LABEL: str(node.possible_cpus)}
    return {**own, **dict(node.labels)}


def label_of(node: FleetNode, key: str) -> str | None:
    """The value of a label of the node, implied ones included; None if it has none."""
    if key in _NODE_KEYS:
        return node.name
    return implied_labels(node).get(key)


def constraint_key(workload: Workload) -> object:
    """Equal for workloads on which ``judge`` cannot differ, so that they share its verdicts."""
    spec, scheduling = workload.spec, workload.spec.scheduling
    if not (spec.node_selector or spec.tolerations or scheduling.required or scheduling.preferred):
        return ()
    return (
        tuple(sorted(spec.node_selector.items())),
        spec.tolerations,
        scheduling.required,
        scheduling.preferred,
    )


def _tolerated(taint: Taint, workload: Workload) -> bool:
    tolerations = workload.spec.tolerations
    return any(t.tolerates(taint.key, taint.value, taint.effect) for t in tolerations)
