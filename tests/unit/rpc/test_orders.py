"""Orders to agents: a batch is a message that an agent takes, however long its specs are."""

from bpfleet.abi.bpf import MapType
from bpfleet.fleet.dispatch import Orders
from bpfleet.fleet.records import Replica, Workload
from bpfleet.rpc.orders import order_messages
from bpfleet.workload.spec import (
    Inventory,
    LabelOperator,
    MapDeclaration,
    Requirement,
    Scheduling,
    WorkloadSpec,
)


def batch(spec: WorkloadSpec, count: int):
    workload = Workload(name=spec.name, spec=spec)
    replicas = tuple(
        Replica(name=f"w-{n}", workload="w", serial=n, node="n1", generation=workload.generation)
        for n in range(count)
    )
    orders = Orders(agent="a", sequence=1, runs=replicas, stops=())
    return order_messages(orders, {"w": workload}, epoch=1)[1]


def test_an_agent_is_not_told_where_replicas_might_have_gone() -> None:
    long = tuple(
        Requirement(f"key{n}", LabelOperator.NOT_IN, tuple(f"value{v}" for v in range(64)))
        for n in range(60)
    )
    spec = WorkloadSpec(
        name="w",
        inventory=Inventory(name="i"),
        node_selector={"zone": "z1"},
        scheduling=Scheduling(required=long),
    )
    runs = batch(spec, 500)
    assert [order.serial for order in runs.replicas] == list(range(500))
    assert not runs.replicas[0].workload.HasField("scheduling")
    assert not runs.replicas[0].workload.node_selector
    assert runs.ByteSize() < 100_000


def test_what_would_make_a_message_too_large_is_left_for_later() -> None:
    declared = tuple(
        MapDeclaration(name=f"m{n}", map_type=MapType.HASH, key_size=4, value_size=8, max_entries=1)
        for n in range(4_096)
    )
    spec = WorkloadSpec(name="w", inventory=Inventory(name="i", maps=declared))
    runs = batch(spec, 500)
    assert 1 <= len(runs.replicas) < 500
    assert runs.ByteSize() < 9 << 20
