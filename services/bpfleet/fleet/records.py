"""What the coordinator remembers, as frozen records, and their form in the store.

One record kind per table. A change puts a whole new record in place of the old one, so undoing it
means putting the old one back. Times are milliseconds of the coordinator's clock since the epoch.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from bpfleet.runtime.lifecycle import ENDED
from bpfleet.workload.codec import from_data, to_data
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import WorkloadSpec

__all__ = [
    "Agent",
    "Decision",
    "Event",
    "Kind",
    "LabelOperator",
    "Marks",
    "Meta",
    "Node",
    "Policy",
    "Preference",
    "Record",
    "Replica",
    "RequestRecord",
    "Requirement",
    "Retired",
    "Scheduling",
    "Taint",
    "TaintEffect",
    "Toleration",
    "Workload",
    "decode",
    "encode",
]

# One decoded JSON value: what the store gives back.
Json = Any

NODE_LABEL: Final = "bpfleet/node"
PROFILE_LABEL: Final = "bpfleet/profile"
CPUS_LABEL: Final = "bpfleet/cpus"


class Kind(StrEnum):
    """Tables of the fleet's state; the value prefixes the keys in the store."""

    META = "meta"
    AGENT = "agent"
    NODE = "node"
    WORKLOAD = "workload"
    REPLICA = "replica"
    REQUEST = "request"
    RETIRED = "retired"


class Policy(StrEnum):
    """How a decision ranks the nodes that qualify."""

    LEAST_ALLOCATED = "least-allocated"
    MOST_ALLOCATED = "most-allocated"
    BALANCED = "balanced"
    POWER_OF_TWO_CHOICES = "power-of-two-choices"
    KERNEL_AWARE = "kernel-aware"


class TaintEffect(StrEnum):
    """What a taint does to workloads that do not tolerate it (Kubernetes' words)."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class LabelOperator(StrEnum):
    """How a requirement compares a node label with its values."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"
    GREATER_THAN = "Gt"
    LESS_THAN = "Lt"


@dataclass(frozen=True, slots=True)
class Taint:
    """A mark on a node that keeps workloads away."""

    key: str
    value: str
    effect: TaintEffect


@dataclass(frozen=True, slots=True)
class Marks:
    """What an operator set (a value) or removed (None) on a node, over what its agent announces.

    Labels by key, taints by key and effect; sorted.
    """

    labels: tuple[tuple[str, str | None], ...] = ()
    taints: tuple[tuple[str, TaintEffect, str | None], ...] = ()

    def over_labels(self, announced: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        """The labels a node has: the announced ones, changed by these marks; sorted."""
        if not self.labels:
            return announced
        merged = {**dict(announced), **dict(self.labels)}
        return tuple((key, value) for key, value in sorted(merged.items()) if value is not None)

    def over_taints(self, announced: tuple[Taint, ...]) -> tuple[Taint, ...]:
        """The taints a node has: the announced ones, changed by these marks."""
        if not self.taints:
            return announced
        merged: dict[tuple[str, TaintEffect], str | None] = {
            (taint.key, taint.effect): taint.value for taint in announced
        }
        merged.update({(key, effect): value for key, effect, value in self.taints})
        return tuple(
            Taint(key, value, effect)
            for (key, effect), value in sorted(merged.items())
            if value is not None
        )


_NO_MARKS: Final = Marks()


@dataclass(frozen=True, slots=True)
class Toleration:
    """Permission to ignore a taint; an empty field matches everything."""

    key: str = ""
    value: str = ""
    effect: TaintEffect | None = None


@dataclass(frozen=True, slots=True)
class Requirement:
    """A condition on a node's labels."""

    key: str
    operator: LabelOperator
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Preference:
    """A wished-for condition and the points (1 to 100) a node earns by meeting it."""

    requirement: Requirement
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduling:
    """Where a workload may go and how it changes, beyond what its ``WorkloadSpec`` says."""

    required: tuple[Requirement, ...] = ()
    preferred: tuple[Preference, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    spread_best_effort: bool = False
    gang: bool = False
    max_unavailable: int = 1
    disruption_budget: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """The fleet's counters. ``revision`` is that of the last event."""

    revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A node agent: where it is reached, and which start of it is registered."""

    name: str
    incarnation: str
    address: str
    version: str = ""
    alive: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node as its agent announced it, and what the coordinator decided about it.

    ``labels`` and ``taints`` are what counts: the announced ones under the operator's ``marks``. Its
    bookings are not here: they are the sum of its replicas (invariant *one book*).
    """

    name: str
    agent: str
    profile: str
    possible_cpus: int
    ram_bytes: int
    allocatable_bytes: int
    labels: tuple[tuple[str, str], ...] = ()
    taints: tuple[Taint, ...] = ()
    announced_labels: tuple[tuple[str, str], ...] = ()
    announced_taints: tuple[Taint, ...] = ()
    marks: Marks = _NO_MARKS
    max_replicas: int = 110
    ready: bool = True
    cordoned: bool = False
    draining: bool = False
    pressure: bool = False

    @property
    def schedulable(self) -> bool:
        """Whether anything new may be placed here."""
        return self.ready and not (self.cordoned or self.draining or self.pressure)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a user wants. ``generation`` rises when replicas must be replaced, ``revision`` with
    every change.

    ``avoid`` names nodes where replicas kept failing, each with the time until which it is avoided.
    """

    name: str
    spec: WorkloadSpec
    scheduling: Scheduling = field(default_factory=Scheduling)
    generation: int = 1
    revision: int = 0
    created_ms: int = 0
    next_serial: int = 0
    deleting: bool = False
    avoid: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Why a replica is where it is, or why it is nowhere: small enough to keep with every replica."""

    policy: Policy
    score: float
    node_count: int
    feasible_count: int
    rejections: tuple[tuple[str, int], ...] = ()
    predicted_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One replica: bound to at most one node, once. Moving means a new replica with a new serial.

    ``booked_bytes`` and ``locked_bytes`` are what it holds of its node. ``waits_for`` names victims of
    preemption that must be gone before it may start; of its booking, ``held_bytes`` do not count
    until then, because the victims still hold them. ``yields`` marks a victim. ``replaces`` is the
    older replica that stops once this one runs. ``target`` is the only node it may go to. ``due_ms``
    is when it may start again (BACK_OFF) or be placed (PENDING); 0 for at once.
    """

    name: str
    workload: str
    serial: int
    generation: int
    phase: Phase = Phase.PENDING
    node: str = ""
    attempt: int = 0
    restarts: int = 0
    failures: int = 0
    due_ms: int = 0
    since_ms: int = 0
    booked_bytes: int = 0
    held_bytes: int = 0
    locked_bytes: int = 0
    uid: int = 0
    priority: int = 0
    reason: str = ""
    errno: str = ""
    message: str = ""
    waits_for: tuple[str, ...] = ()
    yields: bool = False
    replaces: str = ""
    target: str = ""
    decision: Decision | None = None

    @property
    def live(self) -> bool:
        """Whether it counts towards what the user asked for."""
        return self.phase is not Phase.STOPPING

    @property
    def bound(self) -> bool:
        """Whether it may hold memory on a node."""
        return bool(self.node) and self.phase not in ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """An answered ``request_id``: what it asked (as a fingerprint) and which workload answered it."""

    request_id: str
    fingerprint: str
    workload: str
    serial: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retired:
    """A deleted workload's name: a later one of that name goes on counting, so ids never return."""

    name: str
    next_serial: int
    serial: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, for watchers and the event list."""

    revision: int
    time_ms: int
    kind: str
    workload: str = ""
    replica: str = ""
    node: str = ""
    reason: str = ""
    message: str = ""


Record = Meta | Agent | Node | Workload | Replica | RequestRecord | Retired


def encode(record: Record | Event) -> str:
    """The record as one line of JSON, for the store."""
    return _dumps(_ROWS[type(record)](record))


def decode(kind: Kind, text: str) -> Record:
    """The record the store kept under a key of ``kind``."""
    return _READERS[kind](json.loads(text))


def decode_event(text: str) -> Event:
    """The event the store kept."""
    revision, time_ms, kind, workload, replica, node, reason, message = json.loads(text)
    return Event(
        revision=revision,
        time_ms=time_ms,
        kind=kind,
        workload=workload,
        replica=replica,
        node=node,
        reason=reason,
        message=message,
    )


_dumps: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def _event_row(event: Event) -> Json:
    return [
        event.revision,
        event.time_ms,
        event.kind,
        event.workload,
        event.replica,
        event.node,
        event.reason,
        event.message,
    ]


def _meta_row(meta: Meta) -> Json:
    return [meta.revision]


def _agent_row(agent: Agent) -> Json:
    return [agent.name, agent.incarnation, agent.address, agent.version, agent.alive]


def _node_row(node: Node) -> Json:
    flags = node.ready | node.cordoned << 1 | node.draining << 2 | node.pressure << 3
    return [
        node.name,
        node.agent,
        node.profile,
        node.possible_cpus,
        node.ram_bytes,
        node.allocatable_bytes,
        dict(node.announced_labels),
        [[taint.key, taint.value, taint.effect] for taint in node.announced_taints],
        node.max_replicas,
        flags,
        node.marks.labels,
        node.marks.taints,
    ]


def _workload_row(workload: Workload) -> Json:
    return [
        workload.name,
        to_data(workload.spec),
        to_data(workload.scheduling),
        workload.generation,
        workload.revision,
        workload.created_ms,
        workload.next_serial,
        workload.deleting,
        workload.avoid,
    ]


def _replica_row(replica: Replica) -> Json:
    decision = replica.decision
    return [
        replica.name,
        replica.workload,
        replica.serial,
        replica.generation,
        replica.phase,
        replica.node,
        replica.attempt,
        replica.restarts,
        replica.failures,
        replica.due_ms,
        replica.since_ms,
        replica.booked_bytes,
        replica.locked_bytes,
        replica.uid,
        replica.priority,
        replica.reason,
        replica.errno,
        replica.message,
        replica.waits_for,
        replica.yields,
        replica.replaces,
        replica.target,
        decision and _decision_row(decision),
        replica.held_bytes,
    ]


def _decision_row(decision: Decision) -> Json:
    return [
        decision.policy,
        decision.score,
        decision.node_count,
        decision.feasible_count,
        decision.rejections,
        decision.predicted_bytes,
    ]


def _request_row(request: RequestRecord) -> Json:
    return [request.request_id, request.fingerprint, request.workload, request.serial]


def _retired_row(retired: Retired) -> Json:
    return [retired.name, retired.next_serial, retired.serial]


_ROWS: Final[Mapping[type, Callable[[Any], Json]]] = {
    Meta: _meta_row,
    Agent: _agent_row,
    Node: _node_row,
    Workload: _workload_row,
    Replica: _replica_row,
    RequestRecord: _request_row,
    Retired: _retired_row,
    Event: _event_row,
}


def _read_meta(row: Json) -> Meta:
    return Meta(revision=row[0])


def _read_agent(row: Json) -> Agent:
    return Agent(name=row[0], incarnation=row[1], address=row[2], version=row[3], alive=row[4])


def _read_node(row: Json) -> Node:
    flags = row[9]
    labels = tuple(sorted(row[6].items()))
    taints = tuple(Taint(key, value, TaintEffect(effect)) for key, value, effect in row[7])
    marks = Marks(
        labels=tuple((key, value) for key, value in row[10]),
        taints=tuple((key, TaintEffect(effect), value) for key, effect, value in row[11]),
    )
    return Node(
        name=row[0],
        agent=row[1],
        profile=row[2],
        possible_cpus=row[3],
        ram_bytes=row[4],
        allocatable_bytes=row[5],
        labels=marks.over_labels(labels),
        taints=marks.over_taints(taints),
        announced_labels=labels,
        announced_taints=taints,
        marks=marks,
        max_replicas=row[8],
        ready=bool(flags & 1),
        cordoned=bool(flags & 2),
        draining=bool(flags & 4),
        pressure=bool(flags & 8),
    )


def _read_workload(row: Json) -> Workload:
    return Workload(
        name=row[0],
        spec=from_data(WorkloadSpec, row[1], "store"),
        scheduling=from_data(Scheduling, row[2], "store"),
        generation=row[3],
        revision=row[4],
        created_ms=row[5],
        next_serial=row[6],
        deleting=row[7],
        avoid=tuple((node, until_ms) for node, until_ms in row[8]),
    )


def _read_replica(row: Json) -> Replica:
    return Replica(
        name=row[0],
        workload=row[1],
        serial=row[2],
        generation=row[3],
        phase=Phase(row[4]),
        node=row[5],
        attempt=row[6],
        restarts=row[7],
        failures=row[8],
        due_ms=row[9],
        since_ms=row[10],
        booked_bytes=row[11],
        locked_bytes=row[12],
        uid=row[13],
        priority=row[14],
        reason=row[15],
        errno=row[16],
        message=row[17],
        waits_for=tuple(row[18]),
        yields=row[19],
        replaces=row[20],
        target=row[21],
        decision=_read_decision(row[22]),
        held_bytes=row[23],
    )


def _read_decision(row: Json) -> Decision | None:
    if row is None:
        return None
    return Decision(
        policy=Policy(row[0]),
        score=row[1],
        node_count=row[2],
        feasible_count=row[3],
        rejections=tuple((reason, count) for reason, count in row[4]),
        predicted_bytes=row[5],
    )


def _read_request(row: Json) -> RequestRecord:
    return RequestRecord(request_id=row[0], fingerprint=row[1], workload=row[2], serial=row[3])


def _read_retired(row: Json) -> Retired:
    return Retired(name=row[0], next_serial=row[1], serial=row[2])


_READERS: Final[Mapping[Kind, Callable[[Json], Record]]] = {
    Kind.META: _read_meta,
    Kind.AGENT: _read_agent,
    Kind.NODE: _read_node,
    Kind.WORKLOAD: _read_workload,
    Kind.REPLICA: _read_replica,
    Kind.REQUEST: _read_request,
    Kind.RETIRED: _read_retired,
}
