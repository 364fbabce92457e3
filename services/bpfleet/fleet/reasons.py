"""Every word for programs that the control plane says: why a call is refused, why a node is ruled out, why a replica
is as it is, and what happened. The tables of ``docs/api.md`` are made from here.

Reasons of the emulated kernel are in ``bpfleet.kernel.errors``; a replica that failed carries one of those.
"""

from enum import StrEnum
from typing import Self

__all__ = ["ControlReason", "FleetEventKind", "NodeReason", "ReplicaReason"]


class _Word(StrEnum):
    """A word for programs and what it means, for people."""

    meaning: str

    def __new__(cls, word: str, meaning: str) -> Self:
        member = str.__new__(cls, word)
        member._value_ = word
        member.meaning = meaning
        return member


class ControlReason(_Word):
    """Why a call is refused by an agent or a coordinator, not by an emulated kernel."""

    ADDRESS_UNPROVEN = "ADDRESS_UNPROVEN", "no agent with this token answers at the address"
    AGENT_UNKNOWN = "AGENT_UNKNOWN", "no agent of this name is registered"
    AGENT_UNREACHABLE = "AGENT_UNREACHABLE", "the agent that carries the node does not answer"
    BAD_PAGE_TOKEN = "BAD_PAGE_TOKEN", "the page token is not one of this list"
    BAD_REPLICA = "BAD_REPLICA", "an agent cannot start the replica it was given"
    BAD_REQUEST = "BAD_REQUEST", "a field of the request is wrong; `field` names it"
    BUSY = "BUSY", "too many commands wait for the store; try again after `retryAfterMs`"
    FLEET_FULL = "FLEET_FULL", "the fleet takes no more of these; `limit` says how many"
    GANG_TOO_LARGE = "GANG_TOO_LARGE", "a gang is placed at once; `limit` says how large it may be"
    INTERNAL = "INTERNAL", "a fault of ours: please report it"
    LABEL_EXISTS = "LABEL_EXISTS", "the label has another value and `overwrite` is not set"
    LEASE_EXPIRED = (
        "LEASE_EXPIRED",
        "the coordinator no longer knows this start of the agent; register again",
    )
    NODE_CRASHED = (
        "NODE_CRASHED",
        "an invariant of the node's kernel broke, or a crash was injected: it is stopped",
    )
    NODE_EXISTS = "NODE_EXISTS", "a node of this name exists"
    NODE_FULL = "NODE_FULL", "the node takes no more labels or taints; `limit` says how many"
    NODE_READY = "NODE_READY", "the node is Ready; only `force` removes it"
    NODE_UNKNOWN = "NODE_UNKNOWN", "no node of this name"
    NOT_LEADER = (
        "NOT_LEADER",
        "this coordinator is a standby; `leader` is the one to ask, if it is known",
    )
    OVERLOADED = "OVERLOADED", "too many calls at a time; try again after `retryAfterMs`"
    PER_NODE_FIXED = "PER_NODE_FIXED", "a workload cannot change between per_node and replicas"
    REAL_MEMORY_EXHAUSTED = (
        "REAL_MEMORY_EXHAUSTED",
        "the agent would take more of its machine's memory than it may; nothing was done",
    )
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED", "another request was made under this request_id"
    RESPONSE_TOO_LARGE = (
        "RESPONSE_TOO_LARGE",
        "the answer would be larger than a message may be; ask for less",
    )
    REVISION_BEHIND = (
        "REVISION_BEHIND",
        "this coordinator has less than the client has seen (`revision`); ask again, or another one",
    )
    REVISION_COMPACTED = (
        "REVISION_COMPACTED",
        "the revision is no longer kept; list, then watch from there",
    )
    REVISION_MISMATCH = (
        "REVISION_MISMATCH",
        "somebody changed the workload meanwhile; read it again",
    )
    REVISION_UNKNOWN = "REVISION_UNKNOWN", "the revision has not been reached yet"
    ROLE_FORBIDDEN = "ROLE_FORBIDDEN", "the token is one of a role that may not do this"
    SHUTTING_DOWN = "SHUTTING_DOWN", "the service is stopping; try again when it is back"
    STALE_COMMAND = (
        "STALE_COMMAND",
        "a later command, or one of a later leader, came before this one",
    )
    STORE_UNAVAILABLE = (
        "STORE_UNAVAILABLE",
        "the store is unavailable; retry with the same request_id",
    )
    SYSCALL_UNSUPPORTED = "SYSCALL_UNSUPPORTED", "the stream does not carry this call"
    TAINT_EXISTS = "TAINT_EXISTS", "the taint has another value and `overwrite` is not set"
    TOO_MANY_NODES = "TOO_MANY_NODES", "the agent carries no more nodes"
    TOO_MANY_READERS = "TOO_MANY_READERS", "the live page has as many readers as it takes"
    TOO_MANY_WATCHES = "TOO_MANY_WATCHES", "as many watches are open as the service takes"
    UNAUTHENTICATED = "UNAUTHENTICATED", "the token is missing or wrong"
    WATCH_LAGGED = "WATCH_LAGGED", "the reader of a watch was too slow; list, then watch again"
    WORKLOAD_DELETING = "WORKLOAD_DELETING", "the workload is being deleted"
    WORKLOAD_EXISTS = "WORKLOAD_EXISTS", "a workload of this name exists"
    WORKLOAD_UNKNOWN = "WORKLOAD_UNKNOWN", "no workload of this name"


class NodeReason(_Word):
    """Why a node is ruled out for a replica."""

    BAD_APPLICATION = "BAD_APPLICATION", "the application cannot be sized for the node"
    INSUFFICIENT_MEMORY = "INSUFFICIENT_MEMORY", "less memory is free than the replica books"
    KERNEL_REFUSES = (
        "KERNEL_REFUSES",
        "the node's kernel refuses a map or program of the replica, whatever the limits",
    )
    MEMLOCK_HEADROOM = (
        "MEMLOCK_HEADROOM",
        "other replicas of the same user leave too little of RLIMIT_MEMLOCK",
    )
    MEMLOCK_LIMIT = "MEMLOCK_LIMIT", "the replica would lock more than RLIMIT_MEMLOCK allows"
    MEMORY_LIMIT = "MEMORY_LIMIT", "the replica would be charged more than its memory.max"
    MEMORY_PRESSURE = "MEMORY_PRESSURE", "the node is short of memory"
    NODE_AFFINITY = "NODE_AFFINITY", "a label does not meet a required condition"
    NODE_CORDONED = "NODE_CORDONED", "the node is cordoned"
    NODE_DRAINING = "NODE_DRAINING", "the node is being drained"
    NODE_NAME = "NODE_NAME", "the workload names other nodes"
    NODE_NOT_READY = "NODE_NOT_READY", "the lease of the node's agent ran out"
    NODE_SELECTOR = "NODE_SELECTOR", "a label is not what the workload selects"
    NOT_TRIED_YET = "NOT_TRIED_YET", "what the replica takes there is still being tried out"
    NO_FREE_SLOT = "NO_FREE_SLOT", "the node has as many replicas as it takes"
    PREEMPTED = "PREEMPTED", "not ruled out: this many replicas make room there"
    RECENTLY_FAILED = (
        "RECENTLY_FAILED",
        "replicas of the workload kept failing there; taken if nothing else qualifies",
    )
    SPREAD = "SPREAD", "its domain has more replicas than others"
    SPREAD_LABEL = "SPREAD_LABEL", "the node lacks the label used by the spread constraint"
    TAINT = "TAINT", "the workload does not tolerate a taint of the node"
    TOO_MANY_KINDS = (
        "TOO_MANY_KINDS",
        "the fleet has more kinds of nodes than a prediction tries out",
    )
    TOO_LARGE_TO_PREDICT = (
        "TOO_LARGE_TO_PREDICT",
        "the replica has more maps and programs than a prediction tries out",
    )


class ReplicaReason(_Word):
    """Why a replica waits, stopped or failed, or a node went.

    A replica that failed may also carry a reason of the kernel, one that waits for its only node a reason of that node.
    """

    CALLER_KILLED = "CALLER_KILLED", "a signal ended the process"
    DELETED = "DELETED", "its workload is deleted"
    DRAINED = "DRAINED", "its node is drained"
    EVICTED = "EVICTED", "its node is short of memory"
    EXITED = "EXITED", "it ended with status 0 and is to run always"
    FAILED = "FAILED", "it failed, and its agent gives no reason"
    GANG_DOES_NOT_FIT = "GANG_DOES_NOT_FIT", "all replicas go together, and they do not all fit"
    NODE_CRASHED = "NODE_CRASHED", "the emulated kernel of its node is stopped"
    NODE_DOES_NOT_QUALIFY = (
        "NODE_DOES_NOT_QUALIFY",
        "its node's labels or taints no longer let it stay",
    )
    NODE_LOST = "NODE_LOST", "the lease of its node's agent ran out"
    NODE_NOT_READY = "NODE_NOT_READY", "the only node it may go to is not Ready"
    NODE_RESTARTED = "NODE_RESTARTED", "its node's agent restarted"
    NODE_SHRANK = "NODE_SHRANK", "its node has less memory than before"
    NO_FEASIBLE_NODE = "NO_FEASIBLE_NODE", "no node qualifies; the decision counts why"
    OOM_KILLED = "OOM_KILLED", "the OOM killer ended the process"
    OUTDATED = "OUTDATED", "it has an older spec and did not run"
    PREEMPTED = "PREEMPTED", "a more important replica takes its place"
    REMOVED = "REMOVED", "its node was removed"
    REPEATED_FAILURE = "REPEATED_FAILURE", "it kept failing on its node and is tried on another"
    REPLACED = "REPLACED", "a replica of the newer spec runs in its place"
    SCALED_DOWN = "SCALED_DOWN", "fewer replicas are wanted"
    TAINT = "TAINT", "it does not tolerate a NoExecute taint of its node"
    UNREGISTERED = "UNREGISTERED", "its node's agent left the fleet"
    VANISHED = "VANISHED", "its agent no longer has it"


class FleetEventKind(_Word):
    """What happened to the fleet."""

    AGENT_LOST = "AGENT_LOST", "an agent's lease ran out"
    AGENT_REGISTERED = "AGENT_REGISTERED", "an agent registered, or came back"
    AGENT_UNREGISTERED = "AGENT_UNREGISTERED", "an agent left"
    NODE_CORDONED = "NODE_CORDONED", "nothing new goes to the node"
    NODE_DRAINED = "NODE_DRAINED", "a node that is being drained is empty"
    NODE_DRAINING = "NODE_DRAINING", "the node's replicas are being moved away"
    NODE_LABELED = "NODE_LABELED", "labels were set or removed"
    NODE_MEMORY_CALM = "NODE_MEMORY_CALM", "the node has enough memory again"
    NODE_MEMORY_PRESSURE = "NODE_MEMORY_PRESSURE", "the node is short of memory"
    NODE_NOT_READY = "NODE_NOT_READY", "the node is no longer Ready"
    NODE_READY = "NODE_READY", "the node is Ready again"
    NODE_REGISTERED = "NODE_REGISTERED", "an agent announced the node for the first time"
    NODE_REMOVED = "NODE_REMOVED", "the node is forgotten"
    NODE_TAINTED = "NODE_TAINTED", "taints were set or removed"
    NODE_UNCORDONED = "NODE_UNCORDONED", "the node takes replicas again"
    REPLICA_ENDED = "REPLICA_ENDED", "it ended and is not started again"
    REPLICA_FAILED = "REPLICA_FAILED", "its process failed or was killed"
    REPLICA_LOST = "REPLICA_LOST", "its node is gone"
    REPLICA_MOVES = "REPLICA_MOVES", "it is tried on another node"
    REPLICA_PLACED = "REPLICA_PLACED", "it was given a node"
    REPLICA_RESTARTS = "REPLICA_RESTARTS", "it is started again"
    REPLICA_RUNNING = "REPLICA_RUNNING", "it runs"
    REPLICA_STOPPED = "REPLICA_STOPPED", "it is gone"
    REPLICA_STOPPING = "REPLICA_STOPPING", "it is being stopped"
    REPLICA_WAITS = "REPLICA_WAITS", "no node takes it for now"
    WORKLOAD_CREATED = "WORKLOAD_CREATED", "a workload was created"
    WORKLOAD_DELETED = "WORKLOAD_DELETED", "its last replica is gone"
    WORKLOAD_DELETING = "WORKLOAD_DELETING", "its replicas are being stopped for good"
    WORKLOAD_SCALED = "WORKLOAD_SCALED", "another number of replicas is wanted"
    WORKLOAD_UPDATED = "WORKLOAD_UPDATED", "a new spec is rolled out"
