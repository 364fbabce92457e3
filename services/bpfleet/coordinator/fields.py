"""Fields of workloads and nodes that lists can be filtered and ordered by."""

from bpfleet.fleet.records import FleetNode, Workload
from bpfleet.fleet.state import FleetState
from bpfleet.kernel.profile import kernel_of
from bpfleet.rpc.listing import Fields
from bpfleet.workload.phase import Phase

__all__ = ["node_fields", "workload_fields"]


def workload_fields(state: FleetState) -> Fields[Workload]:
    """Of a workload, as ``ListWorkloads`` documents them."""
    books = state.tables.books
    return {
        "name": lambda each: each.name,
        "application": lambda each: each.spec.application or "",
        "deleting": lambda each: each.deleting,
        "priority": lambda each: each.spec.priority,
        "replicas": lambda each: each.spec.replicas,
        "pending": lambda each: books.workload(each.name).count(Phase.PENDING),
        "running": lambda each: books.workload(each.name).count(Phase.RUNNING),
        "create_time": lambda each: each.created_ms,
    }


def node_fields(state: FleetState) -> Fields[FleetNode]:
    """Of a node, as ``ListFleetNodes`` documents them."""
    books = state.tables.books
    return {
        "name": lambda each: each.name,
        "agent": lambda each: each.agent,
        "profile": lambda each: each.profile,
        "model": lambda each: kernel_of(each.profile).model.value,
        "ready": lambda each: each.ready,
        "cordoned": lambda each: each.cordoned,
        "draining": lambda each: each.draining,
        "memory_pressure": lambda each: each.pressure,
        "ram_bytes": lambda each: each.ram_bytes,
        "booked_bytes": lambda each: books.nodes[each.name].booked_bytes,
        "free_bytes": lambda each: books.nodes[each.name].free_bytes,
        "replica_count": lambda each: len(books.nodes[each.name].replicas),
    }
