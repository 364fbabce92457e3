"""What can be asked of the fleet's state machine, as frozen records."""

from msgspec import Struct

from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import Taint, TaintEffect, WorkloadSpec

__all__ = [
    "AgentLost",
    "Command",
    "CordonNode",
    "CreateWorkload",
    "DeleteWorkload",
    "DrainNode",
    "LabelNode",
    "NodeAnnouncement",
    "NodeUsage",
    "RegisterAgent",
    "RemoveNode",
    "ReplicaNews",
    "ReportNodes",
    "TaintNode",
    "Tick",
    "UncordonNode",
    "UnregisterAgent",
    "UpdateWorkload",
]


class CreateWorkload(Struct, frozen=True, kw_only=True):
    """A new workload. ``request_id`` "" for none."""

    spec: WorkloadSpec
    request_id: str = ""
    fingerprint: str = ""


class UpdateWorkload(Struct, frozen=True, kw_only=True):
    """A new number of replicas, a new spec, or both. ``expected_revision`` 0 for any."""

    name: str
    replicas: int | None = None
    spec: WorkloadSpec | None = None
    expected_revision: int = 0
    request_id: str = ""
    fingerprint: str = ""


class DeleteWorkload(Struct, frozen=True, kw_only=True):
    """Stop all replicas, then forget the workload."""

    name: str
    request_id: str = ""
    fingerprint: str = ""


class CordonNode(Struct, frozen=True):
    """Place nothing new on a node."""

    name: str
    request_id: str = ""
    fingerprint: str = ""


class UncordonNode(Struct, frozen=True):
    """Place on a node again; ends a drain."""

    name: str
    request_id: str = ""
    fingerprint: str = ""


class DrainNode(Struct, frozen=True):
    """Cordon a node and move its replicas away within the disruption budgets."""

    name: str
    request_id: str = ""
    fingerprint: str = ""


class LabelNode(Struct, frozen=True, kw_only=True):
    """Set and remove labels of a node; ``overwrite`` also those that have another value."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()
    removed: tuple[str, ...] = ()
    overwrite: bool = False
    request_id: str = ""
    fingerprint: str = ""


class TaintNode(Struct, frozen=True, kw_only=True):
    """Set and remove taints of a node; a removal without an effect means all of the key."""

    name: str
    taints: tuple[Taint, ...] = ()
    removed: tuple[tuple[str, TaintEffect | None], ...] = ()
    overwrite: bool = False
    request_id: str = ""
    fingerprint: str = ""


class RemoveNode(Struct, frozen=True):
    """Forget a node; one that is Ready only with ``force``."""

    name: str
    force: bool = False


class ReplicaNews(Struct, frozen=True, kw_only=True):
    """What an agent says about one replica. ``errno`` is Linux's name, "" for none."""

    replica: str
    attempt: int
    phase: Phase
    reason: str = ""
    errno: str = ""
    message: str = ""
    charged_bytes: int = 0
    rss_bytes: int = 0


class NodeAnnouncement(Struct, frozen=True, kw_only=True):
    """A node and what runs on it. ``reserved_bytes`` 0 and ``max_replicas`` 0 for the defaults."""

    name: str
    profile: str
    possible_cpus: int
    ram_bytes: int
    reserved_bytes: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    taints: tuple[Taint, ...] = ()
    max_replicas: int = 0
    replicas: tuple[ReplicaNews, ...] = ()


class RegisterAgent(Struct, frozen=True, kw_only=True):
    """An agent with its nodes. Calls of one incarnation add nodes; the first that is not ``partial`` ends the
    registration: what an earlier incarnation had besides is gone. ``sequence`` rises with every call of an
    incarnation; 0 is not looked at.
    """

    agent: str
    incarnation: str
    address: str
    version: str = ""
    nodes: tuple[NodeAnnouncement, ...] = ()
    partial: bool = False
    sequence: int = 0


class NodeUsage(Struct, frozen=True, kw_only=True):
    """What an agent measured on one node, and news of its replicas."""

    node: str
    memory_used_bytes: int = 0
    bpf_charged_bytes: int = 0
    locked_bytes: int = 0
    verdicts: tuple[tuple[str, int], ...] = ()
    crashed: bool = False
    replicas: tuple[ReplicaNews, ...] = ()


class ReportNodes(Struct, frozen=True, kw_only=True):
    """Reports of an agent. ``measured`` False: only replicas are told about, usage is not. ``removed`` names nodes
    that were deleted there.
    """

    agent: str
    incarnation: str
    reports: tuple[NodeUsage, ...]
    measured: bool = True
    removed: tuple[str, ...] = ()


class UnregisterAgent(Struct, frozen=True):
    """An agent leaves with its nodes. ``incarnation`` "" for any."""

    agent: str
    incarnation: str = ""


class AgentLost(Struct, frozen=True):
    """An agent's lease ran out: its nodes are NotReady, their replicas are lost."""

    agent: str


class Tick(Struct, frozen=True):
    """Time went by: due starts, drains and waiting replicas are looked at."""


Command = (
    CreateWorkload
    | UpdateWorkload
    | DeleteWorkload
    | CordonNode
    | UncordonNode
    | DrainNode
    | LabelNode
    | TaintNode
    | RemoveNode
    | RegisterAgent
    | ReportNodes
    | UnregisterAgent
    | AgentLost
    | Tick
)
