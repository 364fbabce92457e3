"""What the coordinator remembers, as frozen records, and their form in the store.

One record kind per table. A change puts a whole new record in place of the old one, so undoing it
means putting the old one back. Times are milliseconds of the coordinator's clock since the epoch.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct

from bpfleet.fleet.reasons import FleetEventKind, NodeReason
from bpfleet.runtime.lifecycle import ENDED
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import Taint, TaintEffect, WorkloadSpec

__all__ = [
    "Decision",
    "FleetAgent",
    "FleetEvent",
    "FleetNode",
    "Marks",
    "Meta",
    "Parted",
    "Policy",
    "Record",
    "RecordKind",
    "Replica",
    "RequestRecord",
    "Retired",
    "Workload",
    "decode",
    "encode",
]

NODE_LABEL: Final = "bpfleet/node"
PROFILE_LABEL: Final = "bpfleet/profile"
CPUS_LABEL: Final = "bpfleet/cpus"


class RecordKind(StrEnum):
    """Tables of the fleet's state; the value prefixes the keys in the store."""

    META = "meta"
    AGENT = "agent"
    NODE = "node"
    WORKLOAD = "workload"
    REPLICA = "replica"
    REQUEST = "request"
    RETIRED = "retired"
    PARTED = "parted"


class Policy(StrEnum):
    """How a decision ranks the nodes that qualify."""

    LEAST_ALLOCATED = "least-allocated"
    MOST_ALLOCATED = "most-allocated"
    BALANCED = "balanced"
    POWER_OF_TWO_CHOICES = "power-of-two-choices"
    KERNEL_AWARE = "kernel-aware"


class Marks(Struct, frozen=True, array_like=True):
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


class Meta(Struct, frozen=True, kw_only=True, array_like=True):
    """The fleet's counters. ``revision`` is that of the last event."""

    revision: int = 0


class FleetAgent(Struct, frozen=True, kw_only=True, array_like=True):
    """A node agent: where it is reached, and which start of it is registered.

    ``whole``: it has announced all its nodes. ``leaving``: it has unregistered, and not all its nodes are gone yet.
    ``sequence`` is that of the latest call by which this incarnation registered.
    """

    name: str
    incarnation: str
    address: str
    version: str = ""
    alive: bool = True
    whole: bool = False
    leaving: bool = False
    sequence: int = 0


class FleetNode(Struct, frozen=True, kw_only=True, array_like=True):
    """A node as its agent announced it, and what the coordinator decided about it.

    ``incarnation`` is that of the agent's start which announced it last. Its bookings are not here: they are the sum
    of its replicas (invariant *one book*).
    """

    name: str
    agent: str
    profile: str
    possible_cpus: int
    ram_bytes: int
    allocatable_bytes: int
    announced_labels: tuple[tuple[str, str], ...] = ()
    announced_taints: tuple[Taint, ...] = ()
    marks: Marks = _NO_MARKS
    max_replicas: int = 110
    ready: bool = True
    cordoned: bool = False
    draining: bool = False
    pressure: bool = False
    incarnation: str = ""

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """The labels that count: the announced ones under the operator's marks."""
        return self.marks.over_labels(self.announced_labels)

    @property
    def taints(self) -> tuple[Taint, ...]:
        """The taints that count: the announced ones under the operator's marks."""
        return self.marks.over_taints(self.announced_taints)

    @property
    def schedulable(self) -> bool:
        """Whether anything new may be placed here."""
        return self.ready and not (self.cordoned or self.draining or self.pressure)


class Workload(Struct, frozen=True, kw_only=True, array_like=True):
    """What a user wants. ``generation`` rises when replicas must be replaced, ``revision`` with
    every change.

    ``avoid`` names nodes where replicas kept failing, each with the time until which it is avoided.
    """

    name: str
    spec: WorkloadSpec
    generation: int = 1
    revision: int = 0
    created_ms: int = 0
    next_serial: int = 0
    deleting: bool = False
    avoid: tuple[tuple[str, int], ...] = ()


class Decision(Struct, frozen=True, kw_only=True, array_like=True):
    """Why a replica is where it is, or why it is nowhere: small enough to keep with every replica."""

    policy: Policy
    score: float
    node_count: int
    feasible_count: int
    rejections: tuple[tuple[NodeReason, int], ...] = ()
    predicted_bytes: int = 0


class Replica(Struct, frozen=True, kw_only=True, array_like=True):
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


class RequestRecord(Struct, frozen=True, kw_only=True, array_like=True):
    """An answered ``request_id``: what it asked (as a fingerprint) and which workload answered it."""

    request_id: str
    fingerprint: str
    workload: str
    serial: int = 0


class Retired(Struct, frozen=True, kw_only=True, array_like=True):
    """A deleted workload's name: a later one of that name goes on counting, so ids never return."""

    name: str
    next_serial: int
    serial: int = 0


class Parted(Struct, frozen=True, kw_only=True, array_like=True):
    """What an operator decided about a node whose agent has unregistered: kept for its return."""

    name: str
    marks: Marks = _NO_MARKS
    cordoned: bool = False
    draining: bool = False
    serial: int = 0


class FleetEvent(Struct, frozen=True, kw_only=True, array_like=True):
    """Something that happened, for watchers and the event list."""

    revision: int
    time_ms: int
    kind: FleetEventKind
    workload: str = ""
    replica: str = ""
    node: str = ""
    reason: str = ""
    message: str = ""


Record = Meta | FleetAgent | FleetNode | Workload | Replica | RequestRecord | Retired | Parted


def encode(record: Record | FleetEvent) -> str:
    """The record as one line of JSON, for the store: its fields by position."""
    return _encode(record).decode()


def decode(kind: RecordKind, text: str) -> Record:
    """The record the store kept under a key of ``kind``. Raises ``msgspec.ValidationError`` naming the field."""
    return _DECODERS[kind].decode(text)


def decode_event(text: str) -> FleetEvent:
    """The event the store kept."""
    return _EVENTS.decode(text)


_encode: Final = msgspec.json.Encoder().encode
_DECODERS: Final[Mapping[RecordKind, msgspec.json.Decoder[Record]]] = {
    RecordKind.META: msgspec.json.Decoder(Meta),
    RecordKind.AGENT: msgspec.json.Decoder(FleetAgent),
    RecordKind.NODE: msgspec.json.Decoder(FleetNode),
    RecordKind.WORKLOAD: msgspec.json.Decoder(Workload),
    RecordKind.REPLICA: msgspec.json.Decoder(Replica),
    RecordKind.REQUEST: msgspec.json.Decoder(RequestRecord),
    RecordKind.RETIRED: msgspec.json.Decoder(Retired),
    RecordKind.PARTED: msgspec.json.Decoder(Parted),
}
_EVENTS: Final = msgspec.json.Decoder(FleetEvent)
