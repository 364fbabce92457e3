"""Messages of FleetService and RegistryService, and the fleet's records: both ways."""

import hashlib
from collections.abc import Iterable, Mapping, Sized
from typing import Final

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from bpfleet.abi.errno import Errno
from bpfleet.fleet.commands import LabelNode, NodeAnnouncement, NodeUsage, TaintNode
from bpfleet.fleet.constraints import is_node_key
from bpfleet.fleet.placement import NodeScore, summary
from bpfleet.fleet.records import FleetEvent, FleetNode, Replica, Workload
from bpfleet.fleet.state import FleetState
from bpfleet.kernel.profile import kernel_of
from bpfleet.rpc.convert import within
from bpfleet.rpc.enums import POLICIES, TAINT_EFFECTS
from bpfleet.rpc.errors import invalid
from bpfleet.rpc.names import label_key, label_value, node_id, node_name, workload_name
from bpfleet.rpc.replicas import errno_message, news_message, news_record, phase_message
from bpfleet.rpc.workloads import (
    spec_message,
)
from bpfleet.v1 import fleet_service_pb2, registry_service_pb2, workload_pb2
from bpfleet.workload.names import LABELS_MAX
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import (
    CPUS_MAX,
    MEMORY_BYTES_MAX,
    Taint,
    TaintEffect,
)

__all__ = [
    "announcement",
    "announcement_message",
    "event_message",
    "fingerprint",
    "label_command",
    "node_message",
    "replica_message",
    "score_message",
    "taint_command",
    "taint_message",
    "usage_message",
    "usage_record",
    "workload_message",
]

# All of a node leave it at once when it is lost.
_REPLICAS_PER_NODE_MAX: Final = 1_000
# What an agent says in words is cut rather than refused: its news must not be lost.
_TEXT_CHARS_MAX: Final = 253
_OWN_LABELS: Final = "bpfleet/"
# What an agent may count: other words would be kept, and be labels of metrics, for ever.
_VERDICTS: Final = frozenset({*(errno.name for errno in Errno), "OOM_KILL"})


# -- from messages to records


def announcement(message: registry_service_pb2.RegisteredNode, path: str) -> NodeAnnouncement:
    """A node as its agent announces it. Raises ``ApiError`` that names the field."""
    try:
        kernel_of(message.profile)
    except ValueError as error:
        raise invalid(f"{path}.profile", str(error)) from None
    ram_bytes = within(message.ram_bytes, f"{path}.ram_bytes", 1 << 20, MEMORY_BYTES_MAX)
    _few(message.taints, f"{path}.taints")
    return NodeAnnouncement(
        name=node_id(message.node, f"{path}.node"),
        profile=message.profile,
        possible_cpus=within(message.possible_cpus, f"{path}.possible_cpus", 1, CPUS_MAX),
        ram_bytes=ram_bytes,
        reserved_bytes=within(message.reserved_bytes, f"{path}.reserved_bytes", 0, ram_bytes),
        labels=tuple(sorted(_labels(message.labels, f"{path}.labels").items())),
        taints=tuple(_taint(taint, f"{path}.taints") for taint in message.taints),
        max_replicas=within(
            message.max_replicas, f"{path}.max_replicas", 0, _REPLICAS_PER_NODE_MAX
        ),
        replicas=tuple(news_record(status) for status in message.replicas),
    )


def _taint(message: workload_pb2.Taint, path: str) -> Taint:
    effect = TAINT_EFFECTS.record(message.effect, f"{path}.effect", TaintEffect.NO_SCHEDULE)
    key, value = label_key(message.key, f"{path}.key"), label_value(message.value, f"{path}.value")
    return Taint(key, value, effect)


def announcement_message(record: NodeAnnouncement) -> registry_service_pb2.RegisteredNode:
    """A node as its agent announces it."""
    return registry_service_pb2.RegisteredNode(
        node=record.name,
        profile=record.profile,
        possible_cpus=record.possible_cpus,
        ram_bytes=record.ram_bytes,
        reserved_bytes=record.reserved_bytes,
        labels=dict(record.labels),
        taints=[taint_message(taint) for taint in record.taints],
        max_replicas=record.max_replicas,
        replicas=[news_message(news) for news in record.replicas],
    )


def taint_message(record: Taint) -> workload_pb2.Taint:
    """A taint."""
    return workload_pb2.Taint(
        key=record.key, value=record.value, effect=TAINT_EFFECTS.message(record.effect)
    )


def label_command(message: fleet_service_pb2.LabelNodeRequest) -> LabelNode:
    """What an operator wants changed of a node's labels. Raises ``ApiError`` that names the field."""
    labels = _labels(message.labels, "labels")
    _few(message.removed_labels, "removed_labels")
    removed = [label_key(key, "removed_labels") for key in message.removed_labels]
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
        _few(getattr(message, name), name)
    if not message.taints and not message.removed_taints:
        raise invalid("taints", "nothing to change; give taints, removed_taints or both")
    taints = {(t.key, t.effect): t for t in (_taint(entry, "taints") for entry in message.taints)}
    if len(taints) < len(message.taints):
        raise invalid("taints", "a key with the same effect twice; give each once")
    removed = tuple(
        (
            label_key(entry.key, "removed_taints.key"),
            TAINT_EFFECTS.optional(entry.effect, "removed_taints.effect"),
        )
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
        verdicts=tuple(sorted(e for e in message.verdicts.items() if e[0] in _VERDICTS)),
        crashed=message.crashed,
        replicas=tuple(news_record(status) for status in message.replicas),
    )


def usage_message(record: NodeUsage) -> registry_service_pb2.NodeReport:
    """What an agent reports about a node."""
    return registry_service_pb2.NodeReport(
        node=record.node,
        memory_used_bytes=record.memory_used_bytes,
        bpf_charged_bytes=record.bpf_charged_bytes,
        locked_bytes=record.locked_bytes,
        verdicts=dict(record.verdicts),
        crashed=record.crashed,
        replicas=[news_message(news) for news in record.replicas],
    )


def fingerprint(message: Message) -> str:
    """The same for requests that ask the same, so that a repeated request id can be told from a reused one."""
    return hashlib.blake2b(
        message.SerializeToString(deterministic=True), digest_size=16
    ).hexdigest()


# -- from records to messages


def workload_message(
    state: FleetState, workload: Workload, *, replicas: Iterable[Replica] = ()
) -> fleet_service_pb2.Workload:
    """The workload with its status, and those of its replicas that the answer has room for."""
    message = fleet_service_pb2.Workload(
        name=workload_name(workload.name),
        spec=spec_message(workload.spec),
        status=_status_message(state, workload),
        generation=workload.generation,
        revision=workload.revision,
        create_time=_timestamp(workload.created_ms),
        deleting=workload.deleting,
    )
    message.replicas.extend(replica_message(state, replica) for replica in replicas)
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
        message.placement.policy = POLICIES.message(decision.policy)
        message.placement.score = decision.score
        message.placement.node_count = decision.node_count
        message.placement.feasible_count = decision.feasible_count
        message.placement.rejections.update(dict(decision.rejections))
        message.placement.summary = summary(decision, replica.node or None)
        message.placement.booked_bytes = replica.booked_bytes
        message.placement.predicted_charge_bytes = decision.predicted_bytes
    return message


def node_message(
    state: FleetState, node: FleetNode, *, replicas: Iterable[Replica] = ()
) -> fleet_service_pb2.FleetNode:
    """The node with its bookings and its last report, and those of its replicas that the answer has room for."""
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
        taints=[taint_message(taint) for taint in node.taints],
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
    message.replicas.extend(replica_message(state, replica) for replica in replicas)
    return message


def score_message(verdict: NodeScore) -> fleet_service_pb2.NodeScore:
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


def event_message(event: FleetEvent) -> fleet_service_pb2.FleetEvent:
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


def _timestamp(time_ms: int) -> Timestamp:
    return Timestamp(seconds=time_ms // 1000, nanos=time_ms % 1000 * 1_000_000)


# -- checks


def _few(entries: Sized, field: str) -> None:
    if len(entries) > LABELS_MAX:
        raise invalid(field, f"{len(entries)} entries; send at most {LABELS_MAX}")


def _labels(labels: Mapping[str, str], field: str) -> dict[str, str]:
    _few(labels, field)
    return {
        label_key(key, field): label_value(value, field) for key, value in sorted(labels.items())
    }
