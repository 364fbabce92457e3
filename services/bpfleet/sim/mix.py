"""The workloads of a simulated fleet: one of each kind that the coordinator treats in a way of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bpfleet.sim.checkers import Promise
from bpfleet.v1 import bpf_pb2, workload_pb2

__all__ = ["KINDS", "WorkloadKind", "spec_of"]

MIB: Final = 1 << 20
SLOT_BYTES: Final = 256 * MIB
_SMALL_BYTES: Final = 32 * MIB
_USER: Final = 1000


@dataclass(frozen=True, slots=True)
class WorkloadKind:
    """``certain``: in the end all its replicas run, whatever else is wanted. ``replicas_max`` 0: one per node."""

    name: str
    replicas_max: int
    priority: int
    certain: bool = True


KINDS: Final[Mapping[str, WorkloadKind]] = {
    kind.name: kind
    for kind in (
        WorkloadKind("plain", 3, 1),
        WorkloadKind("spread", 2, 0),
        WorkloadKind("gang", 2, 2),
        # A catalogue application under limits of every sort.
        WorkloadKind("probe", 2, 1),
        WorkloadKind("daemon", 0, 3),
        # Cannot start on 5.10, where its user may lock too little.
        WorkloadKind("frail", 2, -1, certain=False),
        # Never starts and is not started again.
        WorkloadKind("once", 2, -1, certain=False),
        # Takes what is left, and makes room for everybody else.
        WorkloadKind("filler", 14, -2, certain=False),
    )
}


def spec_of(name: str, wanted: Promise) -> workload_pb2.WorkloadSpec:
    """The spec of the workload of this kind."""
    kind = KINDS[name]
    spec = workload_pb2.WorkloadSpec(
        name=name,
        replicas=wanted.replicas,
        memory_request_bytes=SLOT_BYTES,
        memory_limit_bytes=SLOT_BYTES,
        priority=kind.priority,
        inventory=workload_pb2.Inventory(
            name="app",
            user_memory_bytes=1 * MIB,
            churn=workload_pb2.Churn(operations_per_step=3, step_ns=4_000_000_000),
            maps=[_table(64)],
        ),
    )
    spec.labels["version"] = str(wanted.version)
    match name:
        case "plain":
            spec.scheduling.disruption_budget = 2
        case "spread":
            spec.spread.topology_key = "zone"
            spec.spread.best_effort = True
        case "gang":
            spec.scheduling.gang = True
        case "probe":
            _be_a_probe(spec)
        case "daemon":
            spec.per_node = True
            spec.memory_request_bytes = _SMALL_BYTES
            spec.ClearField("memory_limit_bytes")
        case "frail":
            # 64 KiB of locked memory are too little for it on 5.10.
            spec.inventory.maps[0].max_entries = 4_096
        case "once":
            spec.uid = _USER
            spec.restart_policy = workload_pb2.RESTART_POLICY_NEVER
        case _:
            spec.restart_policy = workload_pb2.RESTART_POLICY_ON_FAILURE
    return spec


def _be_a_probe(spec: workload_pb2.WorkloadSpec) -> None:
    spec.ClearField("inventory")
    spec.application = "bcc-execsnoop"
    spec.user_memory_bytes = 2 * MIB
    spec.churn.CopyFrom(
        workload_pb2.Churn(updates=3, lookups=1, operations_per_step=4, step_ns=3_000_000_000)
    )
    spec.uid = _USER
    spec.capabilities.names.extend(["CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"])
    spec.memlock.unlimited = True
    spec.oom_score_adj = 500


def _table(entries: int) -> workload_pb2.MapDeclaration:
    return workload_pb2.MapDeclaration(
        name="table",
        map_type=bpf_pb2.MAP_TYPE_HASH,
        key_size=4,
        value_size=8,
        max_entries=entries,
    )
