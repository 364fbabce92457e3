"""Messages of FleetService and RegistryService, and the coordinator's records: both ways."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from bpfleet.abi.bpf import Capability
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.fleet.commands import (
    LabelNode,
    NodeAnnouncement,
    NodeUsage,
    TaintNode,
)
from bpfleet.fleet.constraints import is_node_key
from bpfleet.fleet.placement import NodeVerdict, summary
from bpfleet.fleet.records import (
    Event,
    LabelOperator,
    Node,
    Policy,
    Preference,
    Replica,
    Requirement,
    Scheduling,
    Taint,
    TaintEffect,
    Toleration,
    Workload,
)
from bpfleet.fleet.state import FleetState
from bpfleet.kernel.profile import kernel_of
from bpfleet.rpc.errors import invalid
from bpfleet.rpc.names import node_id, node_name, workload_name
from bpfleet.rpc.replicas import errno_message, news_record, phase_message
from bpfleet.rpc.workloads import (
    churn_message,
    churn_record,
    inventory_message,
    inventory_record,
    restart_policy_message,
    restart_policy_record,
    spec_problem,
)
from bpfleet.v1 import fleet_service_pb2, registry_service_pb2, workload_pb2
from bpfleet.workload.catalogue import applications
from bpfleet.workload.errors import SpecError
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import Spread, WorkloadSpec

__all__ = [
    "announcement",
    "event_message",
    "fingerprint",
    "label_command",
    "node_message",
    "policy_message",
    "policy_record",
    "replica_message",
    "scheduling_record",
    "score_message",
    "spec_message",
    "spec_record",
    "taint_command",
    "usage_record",
    "workload_message",
]

REPLICAS_PER_WORKLOAD_MAX: Final = 100_000
_NAME: Final = re.compile(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?")
_LABEL_KEY: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_./-]{0,125}[A-Za-z0-9])?")
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_TEXT_CHARS_MAX: Final = 253
_OWN_LABELS: Final = "bpfleet/"
_LABELS_MAX: Final = 64
_ENTRIES_MAX: Final = 64
_INT64_MAX: Final = (1 << 63) - 1
_MEMORY_BYTES_MAX: Final = 1 << 50
_CPUS_MAX: Final = 8192


# -- from messages to records


def spec_record(name: str, message: workload_pb2.WorkloadSpec) -> WorkloadSpec:
    """The workload a user describes. Raises ``ApiError`` that names the field."""
    if not _NAME.fullmatch(name):
        rule = "1 to 50 of a-z, 0-9 and '-', a letter first, no '-' at the end"
        raise invalid("workload", f"{name[:80]!r} is not a name; use {rule}")
    if message.application and message.application not in _applications():
        known = ", ".join(_applications())
        raise invalid(
            "spec.application", f"{message.application[:80]!r} is unknown; use one of {known}"
        )
    has_inventory = message.HasField("inventory")
    if bool(message.application) == has_inventory:
        raise invalid("spec.application", "give either an application or an inventory")
    try:
        return WorkloadSpec(
            name=name,
            application=message.application or None,
            inventory=inventory_record(message.inventory, "spec.inventory")
            if has_inventory
            else None,
            options=dict(message.options),
            labels=_labels(message.labels, "spec.labels"),
            replicas=_within(message.replicas, 0, REPLICAS_PER_WORKLOAD_MAX, "spec.replicas"),
            per_node=message.one_per_node,
            priority=message.priority,
            uid=message.uid,
            capabilities=_capabilities(message),
            memory_request_bytes=message.memory_request_bytes,
            memory_limit_bytes=_optional(message, "memory_limit_bytes"),
            memlock_bytes=_memlock(message),
            oom_score_adj=message.oom_score_adj,
            user_memory_bytes=_optional(message, "user_memory_bytes"),
            churn=churn_record(message.churn, "spec.churn") if message.HasField("churn") else None,
            restart_policy=restart_policy_record(message.restart_policy, "spec.restart_policy"),
            node_selector=_labels(message.node_selector, "spec.node_selector"),
            spread=_spread(message),
        )
    except SpecError as error:
        raise spec_problem(error, "spec") from None


@cache
def _applications() -> tuple[str, ...]:
    """The catalogue's names; it does not change while the program runs."""
    return applications()


def _capabilities(message: workload_pb2.WorkloadSpec) -> frozenset[Capability] | None:
    if not message.limit_capabilities:
        return None
    known = {f"CAP_{capability.name}": capability for capability in Capability}
    for name in message.capabilities:
        if name not in known:
            names = ", ".join(known)
            raise invalid("spec.capabilities", f"{name[:80]!r} is unknown; use {names}")
    return frozenset(known[name] for name in message.capabilities)


def _memlock(message: workload_pb2.WorkloadSpec) -> int | None:
    size_bytes = _optional(message, "memlock_bytes")
    return RLIM_INFINITY if size_bytes == -1 else size_bytes


def _spread(message: workload_pb2.WorkloadSpec) -> Spread | None:
    if not message.HasField("spread"):
        return None
    spread = message.spread
    return Spread(topology_key=spread.label, max_skew=spread.max_skew or 1)


def scheduling_record(message: workload_pb2.WorkloadSpec) -> Scheduling:
    """Affinity, tolerations, gang and rollout of a workload. Raises ``ApiError``."""
    for name in ("required_affinity", "preferred_affinity", "tolerations"):
        _within(len(getattr(message, name)), 0, _ENTRIES_MAX, f"spec.{name}")
    if message.gang and message.one_per_node:
        raise invalid("spec.gang", "one_per_node cannot be a gang; give one of them")
    rollout = message.rollout
    return Scheduling(
        required=tuple(
            _requirement(entry, f"spec.required_affinity[{position}]")
            for position, entry in enumerate(message.required_affinity)
        ),
        preferred=tuple(
            Preference(
                _requirement(entry.requirement, f"spec.preferred_affinity[{position}]"),
                _within(entry.weight, 1, 100, f"spec.preferred_affinity[{position}].weight"),
            )
            for position, entry in enumerate(message.preferred_affinity)
        ),
        tolerations=tuple(
            Toleration(
                _text(entry.key, "spec.tolerations.key"),
                _text(entry.value, "spec.tolerations.value"),
                _effect(entry, "spec.tolerations"),
            )
            for entry in message.tolerations
        ),
        spread_best_effort=message.spread.best_effort,
        gang=message.gang,
        max_unavailable=_count(rollout.max_unavailable, "spec.rollout.max_unavailable"),
        disruption_budget=_count(rollout.disruption_budget, "spec.rollout.disruption_budget"),
    )


def _count(value: int, field: str) -> int:
    """A count that is at least 1; 0 stands for 1."""
    return _within(value or 1, 1, REPLICAS_PER_WORKLOAD_MAX, field)


def _requirement(message: workload_pb2.LabelRequirement, path: str) -> Requirement:
    operator = _OPERATORS.get(message.operator)
    if operator is None:
        raise invalid(f"{path}.operator", f"{message.operator} is unknown")
    _within(len(message.values), 0, _ENTRIES_MAX, f"{path}.values")
    if operator in (LabelOperator.GREATER_THAN, LabelOperator.LESS_THAN):
        if len(message.values) != 1 or not _INTEGER.fullmatch(message.values[0]):
            raise invalid(f"{path}.values", f"{operator} needs one integer")
    elif operator in (LabelOperator.IN, LabelOperator.NOT_IN) and not message.values:
        raise invalid(f"{path}.values", f"{operator} needs at least one value")
    values = tuple(_text(value, f"{path}.values") for value in message.values)
    return Requirement(_label_key(message.key, f"{path}.key"), operator, values)


# Any: a taint or a toleration.
def _effect(message: Any, path: str) -> TaintEffect | None:
    """The effect; None where it is not given."""
    if not message.effect:
        return None
    effect = _EFFECTS.get(message.effect)
    if effect is None:
        raise invalid(f"{path}.effect", f"{message.effect} is unknown")
    return effect


def policy_record(number: int, default: Policy) -> Policy:
    """The policy a request names, or the default. Raises ``ApiError``."""
    if not number:
        return default
    policy = _POLICIES.get(number)
    if policy is None:
        raise invalid("policy", f"{number} is unknown")
    return policy


def announcement(message: registry_service_pb2.RegisteredNode, path: str) -> NodeAnnouncement:
    """A node as its agent announces it. Raises ``ApiError`` that names the field."""
    try:
        kernel_of(message.profile)
    except ValueError as error:
        raise invalid(f"{path}.profile", str(error)) from None
    ram_bytes = _within(message.ram_bytes, 1 << 20, _MEMORY_BYTES_MAX, f"{path}.ram_bytes")
    _within(len(message.taints), 0, _ENTRIES_MAX, f"{path}.taints")
    return NodeAnnouncement(
        name=node_id(message.node, f"{path}.node"),
        profile=message.profile,
        possible_cpus=_within(message.possible_cpus, 1, _CPUS_MAX, f"{path}.possible_cpus"),
        ram_bytes=ram_bytes,
        reserved_bytes=_within(message.reserved_bytes, 0, ram_bytes, f"{path}.reserved_bytes"),
        labels=tuple(sorted(_labels(message.labels, f"{path}.labels").items())),
        taints=tuple(_taint(taint, f"{path}.taints") for taint in message.taints),
        max_replicas=_within(message.max_replicas, 0, 1_000_000, f"{path}.max_replicas"),
        replicas=tuple(news_record(status) for status in message.replicas),
    )


def _taint(message: workload_pb2.Taint, path: str) -> Taint:
    effect = _effect(message, path) or TaintEffect.NO_SCHEDULE
    return Taint(_label_key(message.key, f"{path}.key"), _text(message.value, path), effect)


def label_command(message: fleet_service_pb2.LabelNodeRequest) -> LabelNode:
    """What an operator wants changed of a node's labels. Raises ``ApiError`` that names the field."""
    labels = _labels(message.labels, "labels")
    _within(len(message.removed_labels), 0, _LABELS_MAX, "removed_labels")
    removed = [_label_key(key, "removed_labels") for key in message.removed_labels]
    if not labels and not removed:
        raise invalid("labels", "nothing to change; give labels, removed_labels or both")
    for key in labels:
        if is_node_key(key) or key.startswith(_OWN_LABELS):
            raise invalid("labels", f"{key} describes the node itself and cannot be set")
        if key in removed:
            raise invalid("removed_labels", f"{key} is also to be set; do one of both")
    return LabelNode(
        name=node_id(message.name, "name"),
        labels=tuple(sorted(labels.items())),
        removed=tuple(dict.fromkeys(removed)),
        overwrite=message.overwrite,
    )


def taint_command(message: fleet_service_pb2.TaintNodeRequest) -> TaintNode:
    """What an operator wants changed of a node's taints. Raises ``ApiError`` that names the field."""
    for name in ("taints", "removed_taints"):
        _within(len(getattr(message, name)), 0, _ENTRIES_MAX, name)
    if not message.taints and not message.removed_taints:
        raise invalid("taints", "nothing to change; give taints, removed_taints or both")
    taints = {(t.key, t.effect): t for t in (_taint(entry, "taints") for entry in message.taints)}
    if len(taints) < len(message.taints):
        raise invalid("taints", "a key with the same effect twice; give each once")
    removed = tuple(
        (_label_key(entry.key, "removed_taints.key"), _effect(entry, "removed_taints"))
        for entry in message.removed_taints
    )
    for key, effect in taints:
        if (key, effect) in removed or (key, None) in removed:
            raise invalid("removed_taints", f"{key}:{effect} is also to be set; do one of both")
    return TaintNode(
        name=node_id(message.name, "name"),
        taints=tuple(taints.values()),
        removed=removed,
        overwrite=message.overwrite,
    )


def usage_record(message: registry_service_pb2.NodeReport) -> NodeUsage:
    """What an agent reports about a node. Negative figures count as 0: they are only shown."""
    return NodeUsage(
        node=message.node,
        memory_used_bytes=max(0, message.memory_used_bytes),
        bpf_charged_bytes=max(0, message.bpf_charged_bytes),
        locked_bytes=max(0, message.locked_bytes),
        verdicts=tuple(sorted(message.verdicts.items())[:_ENTRIES_MAX]),
        crashed=message.crashed,
        replicas=tuple(news_record(status) for status in message.replicas),
    )


def fingerprint(message: Message) -> str:
    """The same for requests that ask the same, so that a repeated request id can be told from a reused one."""
    return hashlib.blake2b(
        message.SerializeToString(deterministic=True), digest_size=16
    ).hexdigest()


# -- from records to messages


def workload_message(
    state: FleetState, workload: Workload, *, replicas: bool
) -> fleet_service_pb2.Workload:
    """The workload with its status; with its replicas if asked for."""
    message = fleet_service_pb2.Workload(
        name=workload_name(workload.name),
        spec=spec_message(workload),
        status=_status_message(state, workload),
        generation=workload.generation,
        revision=workload.revision,
        create_time=_timestamp(workload.created_ms),
        deleting=workload.deleting,
    )
    if replicas:
        book = state.tables.books.workload(workload.name)
        by_age = sorted(book.replicas.values(), key=lambda replica: replica.serial)
        message.replicas.extend(replica_message(state, replica) for replica in by_age)
    return message


def spec_message(workload: Workload) -> workload_pb2.WorkloadSpec:
    """A workload as its owner submits it."""
    spec, scheduling = workload.spec, workload.scheduling
    message = workload_pb2.WorkloadSpec(
        replicas=spec.replicas,
        uid=spec.uid,
        memory_request_bytes=spec.memory_request_bytes,
        application=spec.application or "",
        inventory=inventory_message(spec.inventory) if spec.inventory is not None else None,
        churn=churn_message(spec.churn) if spec.churn is not None else None,
        priority=spec.priority,
        oom_score_adj=spec.oom_score_adj,
        restart_policy=restart_policy_message(spec.restart_policy),
        labels=spec.labels,
        node_selector=spec.node_selector,
        required_affinity=[_requirement_message(entry) for entry in scheduling.required],
        preferred_affinity=[
            workload_pb2.PreferredRequirement(
                requirement=_requirement_message(entry.requirement), weight=entry.weight
            )
            for entry in scheduling.preferred
        ],
        tolerations=[
            *(_toleration_message(entry) for entry in scheduling.tolerations),
            *(workload_pb2.Toleration(key=t.key, value=t.value) for t in spec.tolerations),
        ],
        one_per_node=spec.per_node,
        gang=scheduling.gang,
        rollout=workload_pb2.RolloutStrategy(
            max_unavailable=scheduling.max_unavailable,
            disruption_budget=scheduling.disruption_budget,
        ),
        limit_capabilities=spec.capabilities is not None,
        capabilities=[f"CAP_{c.name}" for c in sorted(spec.capabilities or ())],
        options=spec.options,
    )
    for name in ("memory_limit_bytes", "user_memory_bytes"):
        value = getattr(spec, name)
        if value is not None:
            setattr(message, name, value)
    if spec.memlock_bytes is not None:
        unlimited = spec.memlock_bytes > _INT64_MAX
        message.memlock_bytes = -1 if unlimited else spec.memlock_bytes
    if spec.spread is not None:
        message.spread.label = spec.spread.topology_key
        message.spread.max_skew = spec.spread.max_skew
        message.spread.best_effort = scheduling.spread_best_effort
    return message


def _status_message(state: FleetState, workload: Workload) -> fleet_service_pb2.WorkloadStatus:
    book = state.tables.books.workload(workload.name)
    wanted = book.live - len(book.replacing) if workload.spec.per_node else workload.spec.replicas
    current = book.generations.get(workload.generation, {})
    return fleet_service_pb2.WorkloadStatus(
        wanted_count=0 if workload.deleting else wanted,
        pending_count=book.count(Phase.PENDING),
        assigned_count=book.count(Phase.ASSIGNED),
        running_count=book.count(Phase.RUNNING),
        back_off_count=book.count(Phase.BACK_OFF),
        stopping_count=book.count(Phase.STOPPING),
        ended_count=book.count(Phase.FAILED) + book.count(Phase.SUCCEEDED),
        updated_count=sum(book.replicas[name].phase is Phase.RUNNING for name in current),
        restart_count=sum(replica.restarts for replica in book.replicas.values()),
        message=_trouble(book.replicas.values()),
    )


def _trouble(replicas: Iterable[Replica]) -> str:
    """The first thing that is wrong: what waits for a node, else what failed last."""
    failing = ""
    for replica in replicas:
        if replica.phase is Phase.PENDING and replica.message:
            return replica.message
        if replica.phase in (Phase.BACK_OFF, Phase.FAILED) and not failing:
            failing = f"{replica.name} failed: {replica.reason}"
            failing += f": {replica.message}" if replica.message else ""
    return failing


def replica_message(state: FleetState, replica: Replica) -> fleet_service_pb2.Replica:
    """One replica."""
    message = fleet_service_pb2.Replica(
        replica=replica.name,
        workload=replica.workload,
        node=replica.node,
        phase=phase_message(replica.phase),
        generation=replica.generation,
        restart_count=replica.restarts,
        last_reason=replica.reason,
        last_errno=errno_message(replica.errno),
        message=replica.message,
        charged_bytes=state.soft.charged_bytes.get(replica.name, 0),
    )
    if replica.due_ms:
        message.next_start_time.CopyFrom(_timestamp(replica.due_ms))
    if replica.decision is not None:
        decision = replica.decision
        message.placement.policy = policy_message(decision.policy)
        message.placement.score = decision.score
        message.placement.node_count = decision.node_count
        message.placement.feasible_count = decision.feasible_count
        message.placement.rejections.update(dict(decision.rejections))
        message.placement.summary = summary(decision, replica.node or None)
        message.placement.booked_bytes = replica.booked_bytes
        message.placement.predicted_charge_bytes = decision.predicted_bytes
    return message


def node_message(state: FleetState, node: Node, *, replicas: bool) -> fleet_service_pb2.FleetNode:
    """The node with its bookings and its last report; with its replicas if asked for."""
    book = state.tables.books.nodes[node.name]
    usage = state.soft.usage.get(node.name, NodeUsage(node=node.name))
    agent = state.tables.agents.get(node.agent)
    message = fleet_service_pb2.FleetNode(
        name=node_name(node.name),
        agent=node.agent,
        profile=node.profile,
        possible_cpus=node.possible_cpus,
        ram_bytes=node.ram_bytes,
        allocatable_bytes=node.allocatable_bytes,
        booked_bytes=book.booked_bytes,
        labels=dict(node.labels),
        taints=[
            workload_pb2.Taint(key=t.key, value=t.value, effect=_EFFECT_NUMBERS[t.effect])
            for t in node.taints
        ],
        ready=node.ready,
        cordoned=node.cordoned,
        draining=node.draining,
        memory_pressure=node.pressure,
        replica_count=len(book.replicas),
        memory_used_bytes=usage.memory_used_bytes,
        bpf_charged_bytes=usage.bpf_charged_bytes,
        verdicts=dict(usage.verdicts),
        locked_bytes=usage.locked_bytes,
        model=kernel_of(node.profile).model.value,
        agent_address=agent.address if agent else "",
    )
    if replicas:
        by_name = sorted(book.replicas.values(), key=lambda replica: replica.name)
        message.replicas.extend(replica_message(state, replica) for replica in by_name)
    return message


def score_message(verdict: NodeVerdict) -> fleet_service_pb2.NodeScore:
    """One line of an explanation."""
    refusal = verdict.refusal
    return fleet_service_pb2.NodeScore(
        node=verdict.node,
        feasible=refusal is None,
        score=verdict.score,
        reason=refusal.reason if refusal is not None else "",
        message=refusal.message if refusal is not None else "",
        booked_bytes=verdict.need.booked_bytes,
        free_bytes=verdict.free_bytes,
        predicted_charge_bytes=verdict.need.predicted_bytes,
    )


def event_message(event: Event) -> fleet_service_pb2.FleetEvent:
    """One event."""
    return fleet_service_pb2.FleetEvent(
        revision=event.revision,
        time=_timestamp(event.time_ms),
        kind=event.kind,
        workload=event.workload,
        replica=event.replica,
        node=event.node,
        reason=event.reason,
        message=event.message,
    )


# Any: the generated enum types are ints at run time, which the type checker does not know.
def policy_message(policy: Policy) -> Any:
    """The number of a policy."""
    return _POLICY_NUMBERS[policy]


def _requirement_message(record: Requirement) -> workload_pb2.LabelRequirement:
    return workload_pb2.LabelRequirement(
        key=record.key, operator=_OPERATOR_NUMBERS[record.operator], values=record.values
    )


def _toleration_message(record: Toleration) -> workload_pb2.Toleration:
    message = workload_pb2.Toleration(key=record.key, value=record.value)
    if record.effect is not None:
        message.effect = _EFFECT_NUMBERS[record.effect]
    return message


def _timestamp(time_ms: int) -> Timestamp:
    return Timestamp(seconds=time_ms // 1000, nanos=time_ms % 1000 * 1_000_000)


# -- checks


def _within(value: int, low: int, high: int, field: str) -> int:
    if not low <= value <= high:
        raise invalid(field, f"{value} is out of range; use {low} to {high}")
    return value


# Any: the field's type depends on its name.
def _optional(message: Message, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None


def _labels(labels: Mapping[str, str], field: str) -> dict[str, str]:
    _within(len(labels), 0, _LABELS_MAX, field)
    return {_label_key(key, field): _text(value, field) for key, value in sorted(labels.items())}


def _label_key(key: str, field: str) -> str:
    if not _LABEL_KEY.fullmatch(key):
        rule = "1 to 127 letters, digits, '-', '_', '.' and '/', a letter or digit at both ends"
        raise invalid(field, f"{key[:80]!r} is not a label; use {rule}")
    return key


def _text(value: str, field: str) -> str:
    if len(value) > _TEXT_CHARS_MAX:
        raise invalid(field, f"longer than {_TEXT_CHARS_MAX} characters")
    return value


_OPERATORS: Final[dict[int, LabelOperator]] = {
    workload_pb2.LABEL_OPERATOR_IN: LabelOperator.IN,
    workload_pb2.LABEL_OPERATOR_NOT_IN: LabelOperator.NOT_IN,
    workload_pb2.LABEL_OPERATOR_EXISTS: LabelOperator.EXISTS,
    workload_pb2.LABEL_OPERATOR_DOES_NOT_EXIST: LabelOperator.DOES_NOT_EXIST,
    workload_pb2.LABEL_OPERATOR_GREATER_THAN: LabelOperator.GREATER_THAN,
    workload_pb2.LABEL_OPERATOR_LESS_THAN: LabelOperator.LESS_THAN,
}
_EFFECTS: Final[dict[int, TaintEffect]] = {
    workload_pb2.TAINT_EFFECT_NO_SCHEDULE: TaintEffect.NO_SCHEDULE,
    workload_pb2.TAINT_EFFECT_PREFER_NO_SCHEDULE: TaintEffect.PREFER_NO_SCHEDULE,
    workload_pb2.TAINT_EFFECT_NO_EXECUTE: TaintEffect.NO_EXECUTE,
}
_POLICIES: Final[dict[int, Policy]] = {
    fleet_service_pb2.PLACEMENT_POLICY_LEAST_ALLOCATED: Policy.LEAST_ALLOCATED,
    fleet_service_pb2.PLACEMENT_POLICY_MOST_ALLOCATED: Policy.MOST_ALLOCATED,
    fleet_service_pb2.PLACEMENT_POLICY_BALANCED: Policy.BALANCED,
    fleet_service_pb2.PLACEMENT_POLICY_POWER_OF_TWO_CHOICES: Policy.POWER_OF_TWO_CHOICES,
    fleet_service_pb2.PLACEMENT_POLICY_KERNEL_AWARE: Policy.KERNEL_AWARE,
}
# The tables below turn those above round; the generated enum types are ints at run time.
_OPERATOR_NUMBERS: Final[dict[LabelOperator, Any]] = {v: k for k, v in _OPERATORS.items()}
_EFFECT_NUMBERS: Final[dict[TaintEffect, Any]] = {v: k for k, v in _EFFECTS.items()}
_POLICY_NUMBERS: Final[dict[Policy, Any]] = {v: k for k, v in _POLICIES.items()}
