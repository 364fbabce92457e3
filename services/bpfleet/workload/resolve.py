"""From what a user wants and the node it lands on to what runs there."""

from msgspec.structs import replace

from bpfleet.workload.catalogue import inventory_for
from bpfleet.workload.seeding import seed_for
from bpfleet.workload.spec import Inventory, NodeShape, ReplicaSpec, WorkloadSpec

__all__ = ["inventory_of", "resolve"]


def resolve(
    spec: WorkloadSpec, serial: int, node: str, shape: NodeShape, *, seed: int
) -> ReplicaSpec:
    """Replica ``serial`` of a workload on a node: the application sized for it, the seed derived.

    The seed depends on ``seed`` (the fleet's), the node and the replica only. Raises ``SpecError``
    where the application cannot be sized.
    """
    return ReplicaSpec(
        workload=spec,
        serial=serial,
        inventory=inventory_of(spec, shape),
        seed=seed_for(seed, node, spec.name, serial),
    )


def inventory_of(spec: WorkloadSpec, shape: NodeShape) -> Inventory:
    """What one replica creates on a node of this shape, with the heap and churn the workload asks for.

    Raises ``SpecError`` where the application cannot be sized.
    """
    inventory = spec.inventory
    if inventory is None:
        inventory = inventory_for(spec.program_name, shape, spec.options)
    if spec.user_memory_bytes is not None:
        inventory = replace(inventory, user_memory_bytes=spec.user_memory_bytes)
    if spec.churn is not None:
        inventory = replace(inventory, churn=spec.churn)
    return inventory
