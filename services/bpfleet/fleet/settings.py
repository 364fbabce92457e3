"""What an operator may set about decisions. Durations in milliseconds, sizes in bytes."""

from dataclasses import dataclass
from typing import Final

from bpfleet.fleet.records import Policy
from bpfleet.runtime.lifecycle import BackOff

__all__ = ["BACK_OFF_MS", "FleetSettings"]

# The kubelet's figures, in milliseconds.
BACK_OFF_MS: Final = BackOff(first=10_000, longest=300_000, reset=600_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """The state machine's constants and limits.

    ``reserved_percent`` of a node's RAM is kept for the system unless the node says otherwise. A
    replica that ran ``back_off_ms.reset`` counts as healthy again. After ``failures_before_move``
    failures in a row on a node the replica goes elsewhere and the node is avoided for ``avoid_ms``.
    A node with less than ``pressure_available_bytes`` available is under memory pressure until
    ``pressure_hold_ms`` after it recovered, and evicts. With less than ``soft_available_bytes`` (0: off)
    it is under pressure too, but evicts only after ``soft_grace_ms`` in a row.
    One command changes ``work_at_once`` records or looks at so many nodes; the ticks do the rest.
    So it is with ``shapes_searched_at_once`` for nodes that replicas might go to, and with ``trial_effort_at_once``
    for maps and programs that are tried out; a gang that asks for more is refused.
    """

    policy: Policy = Policy.LEAST_ALLOCATED
    reserved_percent: int = 5
    max_replicas_per_node: int = 110
    back_off_ms: BackOff = BACK_OFF_MS
    failures_before_move: int = 3
    avoid_ms: int = 600_000
    avoided_nodes_max: int = 16
    pressure_available_bytes: int = 100 << 20
    pressure_hold_ms: int = 30_000
    soft_available_bytes: int = 0
    soft_grace_ms: int = 90_000
    eviction: str = "kubelet"
    workloads_max: int = 100_000
    nodes_max: int = 200_000
    agents_max: int = 10_000
    replicas_max: int = 1_000_000
    requests_max: int = 10_000
    retired_max: int = 10_000
    parted_max: int = 10_000
    waiting_tried_per_tick: int = 256
    work_at_once: int = 2_000
    gang_replicas_max: int = 1_000
    shapes_searched_at_once: int = 20_000
    trial_effort_at_once: int = 600
