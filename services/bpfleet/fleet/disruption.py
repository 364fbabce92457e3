"""Taking replicas away on purpose: draining a node, easing memory pressure, always within budgets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from bpfleet.fleet.commands import NodeUsage
from bpfleet.fleet.constraints import executes
from bpfleet.fleet.reasons import FleetEventKind, ReplicaReason
from bpfleet.fleet.records import FleetNode, Replica
from bpfleet.fleet.replicas import stop
from bpfleet.fleet.transition import Transition
from bpfleet.workload.phase import Phase

__all__ = ["EVICTION_RULES", "EvictionCandidate", "evict_for_pressure", "settle_drain", "shed"]


def settle_drain(t: Transition, name: str) -> None:
    """Stops as many replicas of a draining node as the disruption budgets allow now."""
    book = t.books.nodes[name]
    for replica in sorted(book.replicas.values(), key=lambda r: r.name):
        if replica.phase is not Phase.STOPPING and _may_disrupt(t, replica):
            stop(t, replica, ReplicaReason.DRAINED, f"{name} is being drained")


def _may_disrupt(t: Transition, replica: Replica) -> bool:
    """Whether the workload can do without this replica now. One that does not run is not missed."""
    workload = t.tables.workloads[replica.workload]
    if workload.deleting or workload.spec.per_node or replica.phase is not Phase.RUNNING:
        return True
    missing = workload.spec.replicas - t.book(workload.name).count(Phase.RUNNING)
    return missing < workload.spec.scheduling.disruption_budget


def shed(t: Transition, node: FleetNode) -> None:
    """A node has less memory or other taints than before: what no longer belongs there leaves."""
    book = t.books.nodes[node.name]
    by_importance = sorted(book.replicas.values(), key=lambda r: (r.priority, -r.serial))
    excess_bytes = book.booked_bytes - node.allocatable_bytes
    for replica in by_importance:
        taint = executes(t.tables.workloads[replica.workload], node)
        if replica.phase is Phase.STOPPING:
            excess_bytes -= replica.booked_bytes
        elif taint is not None:
            stop(t, replica, ReplicaReason.TAINT, f"taint {taint.key} is not tolerated")
            excess_bytes -= replica.booked_bytes
        elif excess_bytes > 0:
            stop(t, replica, ReplicaReason.NODE_SHRANK, f"{node.name} has less memory than before")
            excess_bytes -= replica.booked_bytes


@dataclass(frozen=True, slots=True)
class EvictionCandidate:
    """A replica that could be evicted, with what is known of its memory."""

    replica: Replica
    used_bytes: int

    @property
    def excess_bytes(self) -> int:
        """Memory used beyond what it booked."""
        return self.used_bytes - self.replica.booked_bytes


# Ranks candidates; the lowest goes first.
EvictionRule = Callable[[EvictionCandidate], tuple[int | str, ...]]


def _kubelet(candidate: EvictionCandidate) -> tuple[int | str, ...]:
    """kubelet's order: who uses more than requested, then the least important, then the greatest excess."""
    within = candidate.excess_bytes <= 0
    return within, candidate.replica.priority, -candidate.excess_bytes, candidate.replica.name


def _oomd(candidate: EvictionCandidate) -> tuple[int | str, ...]:
    """oomd's habit: the largest user of memory, whatever it asked for."""
    return -candidate.used_bytes, candidate.replica.priority, candidate.replica.name


EVICTION_RULES: Final[Mapping[str, EvictionRule]] = {"kubelet": _kubelet, "oomd": _oomd}


def evict_for_pressure(t: Transition, node: FleetNode, usage: NodeUsage) -> None:
    """Follows a node into and out of memory pressure, as kubelet's eviction manager does.

    Below either threshold the node is under pressure and gets nothing new; it leaves that state only
    after it has been calm for a while, so that it does not flap. Below the hard threshold one replica
    per report is evicted, below the soft one only once its grace period is over.
    """
    available_bytes = node.ram_bytes - usage.memory_used_bytes
    if not node.ready or not usage.memory_used_bytes:
        return
    hard = available_bytes < t.settings.pressure_available_bytes
    soft_ms = _soft_for_ms(t, node, available_bytes)
    if not hard and soft_ms is None:
        _calm(t, node)
        return
    t.soft.calm_since_ms.pop(node.name, None)
    if not node.pressure:
        text = f"{available_bytes} bytes are available"
        t.tables.put(replace(node, pressure=True))
        t.event(FleetEventKind.NODE_MEMORY_PRESSURE, node=node.name, message=text)
    if hard:
        _evict_one(t, node, f"{node.name} has {available_bytes} bytes available")
    elif soft_ms is not None and soft_ms >= t.settings.soft_grace_ms:
        limit_bytes = t.settings.soft_available_bytes
        text = f"{node.name} had less than {limit_bytes} bytes available for {soft_ms // 1000} s"
        _evict_one(t, node, text)


def _soft_for_ms(t: Transition, node: FleetNode, available_bytes: int) -> int | None:
    """How long the node has been below the soft threshold without a break; None if it is not."""
    if available_bytes >= t.settings.soft_available_bytes:
        t.soft.soft_since_ms.pop(node.name, None)
        return None
    return t.now_ms - t.soft.soft_since_ms.setdefault(node.name, t.now_ms)


def _evict_one(t: Transition, node: FleetNode, message: str) -> None:
    """Evicts whom the rule ranks first, unless a replica is leaving already."""
    book = t.books.nodes[node.name]
    if any(replica.phase is Phase.STOPPING for replica in book.replicas.values()):
        return
    rule = EVICTION_RULES[t.settings.eviction]
    candidates = [
        EvictionCandidate(replica, _used_bytes(t, replica))
        for replica in book.replicas.values()
        if replica.phase in (Phase.RUNNING, Phase.ASSIGNED)
    ]
    if candidates:
        stop(t, min(candidates, key=rule).replica, ReplicaReason.EVICTED, message)


def _calm(t: Transition, node: FleetNode) -> None:
    if not node.pressure:
        return
    since_ms = t.soft.calm_since_ms.setdefault(node.name, t.now_ms)
    if t.now_ms - since_ms >= t.settings.pressure_hold_ms:
        del t.soft.calm_since_ms[node.name]
        t.tables.put(replace(node, pressure=False))
        t.changed_nodes[node.name] = None
        t.event(FleetEventKind.NODE_MEMORY_CALM, node=node.name)


def _used_bytes(t: Transition, replica: Replica) -> int:
    name = replica.name
    return t.soft.charged_bytes.get(name, 0) + t.soft.rss_bytes.get(name, 0)
