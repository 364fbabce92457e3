"""What an operator may set about decisions. Durations in milliseconds, sizes in bytes."""

from dataclasses import dataclass

from bpfleet.fleet.records import Policy

__all__ = ["FleetSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """The state machine's constants and limits.

    ``reserved_percent`` of a node's RAM is kept for the system unless the node says otherwise. A
    replica that ran ``back_off_reset_ms`` counts as healthy again. After ``failures_before_move``
    failures in a row on a node the replica goes elsewhere and the node is avoided for ``avoid_ms``.
    A node with less than ``pressure_available_bytes`` available is under memory pressure until
    ``pressure_hold_ms`` after it recovered, and evicts. With less than ``soft_available_bytes`` (0: off)
    it is under pressure too, but evicts only after ``soft_grace_ms`` in a row.
    """

    policy: Policy = Policy.LEAST_ALLOCATED
    reserved_percent: int = 5
    max_replicas_per_node: int = 110
    back_off_base_ms: int = 10_000
    back_off_max_ms: int = 300_000
    back_off_reset_ms: int = 600_000
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
    waiting_tried_per_tick: int = 256
    placements_per_tick: int = 2_000
