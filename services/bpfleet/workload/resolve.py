"""From what a user wants and the node it lands on to what runs there."""

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from bpfleet.abi.bpf import F_NO_PREALLOC, MapType
from bpfleet.workload.catalogue import inventory_for
from bpfleet.workload.seeding import seed_for
from bpfleet.workload.spec import Inventory, MapDeclaration, NodeShape, ReplicaSpec, WorkloadSpec

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
    if spec.fill:
        maps = tuple(_filled(declared, spec.fill) for declared in inventory.maps)
        inventory = replace(inventory, maps=maps)
    return inventory


def _filled(declared: MapDeclaration, fill: Mapping[str, float]) -> MapDeclaration:
    """``declared`` with as many elements as asked for, where an element costs something of its own."""
    share = fill.get(declared.name, fill.get("*"))
    if share is None or declared.map_type not in _GROWING or not declared.map_flags & F_NO_PREALLOC:
        return declared
    return replace(declared, fill_entries=int(declared.max_entries * share))


_GROWING: Final = (MapType.HASH, MapType.PERCPU_HASH, MapType.LPM_TRIE)
