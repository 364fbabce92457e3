"""No decision takes for ever: what is too much for one turn is done in the next ones."""

import pytest
from small_fleet import GIB, SmallFleet

from bpfleet.abi.bpf import F_NO_PREALLOC, MapType
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.fleet.prediction import try_out
from bpfleet.fleet.settings import FleetSettings
from bpfleet.fleet.state import FleetState
from bpfleet.kernel import profile_named
from bpfleet.kernel.kernel import Kernel
from bpfleet.runtime.replica import ReplicaRun
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import (
    Inventory,
    LabelOperator,
    MapDeclaration,
    NodeShape,
    Preference,
    ReplicaSpec,
    Requirement,
    Scheduling,
    WorkloadSpec,
)

SHAPE = NodeShape(possible_cpus=8, ram_bytes=64 * GIB)


def filled(map_type, entries, **fields):
    table = MapDeclaration(
        name="m",
        map_type=map_type,
        key_size=8,
        value_size=64,
        max_entries=entries,
        fill_entries=entries,
        **fields,
    )
    return WorkloadSpec(
        name="w", inventory=Inventory(name="i", maps=(table,)), memlock_bytes=RLIM_INFINITY
    )


@pytest.mark.parametrize("profile", ["5.10", "6.1", "6.12"])
@pytest.mark.parametrize(
    ("map_type", "flags"),
    [
        (MapType.ARRAY, 0),
        (MapType.HASH, 0),
        (MapType.HASH, F_NO_PREALLOC),
        (MapType.LRU_HASH, 0),
        (MapType.PERCPU_HASH, F_NO_PREALLOC),
    ],
)
def test_the_formula_foresees_what_filling_one_by_one_takes(profile, map_type, flags):
    key_size = {"key_size": 4} if map_type is MapType.ARRAY else {}
    table = MapDeclaration(
        **{
            "name": "m",
            "map_type": map_type,
            "key_size": 8,
            "value_size": 64,
            "max_entries": 3000,
            "fill_entries": 3000,
            "map_flags": flags,
            **key_size,
        }
    )
    spec = WorkloadSpec(
        name="w", inventory=Inventory(name="i", maps=(table,)), memlock_bytes=RLIM_INFINITY
    )
    trial = try_out(spec, profile_named(profile), SHAPE)
    assert trial.refusal is None
    kernel = Kernel(profile_named(profile), ram_bytes=64 * GIB, possible_cpus=8)
    run = ReplicaRun(kernel, ReplicaSpec(workload=spec, serial=0, inventory=spec.inventory))
    run.start()
    assert run.phase is Phase.RUNNING, run.failure
    charged = kernel.cgroup(run.cgroup).memcg.usage_bytes
    # A stock of 64 pages lies between what is used and what is charged.
    assert abs(trial.charged_bytes - charged) <= 2 * 64 * 4096


def test_a_trial_makes_no_element_and_touches_no_heap_one_by_one():
    """A hundred million elements and a heap of a TiB, by formula. One by one it would not end within this test."""
    spec = filled(MapType.HASH, 1 << 27, map_flags=F_NO_PREALLOC)
    trial = try_out(
        WorkloadSpec(
            name="w",
            inventory=spec.inventory,
            memlock_bytes=RLIM_INFINITY,
            user_memory_bytes=1 << 40,
        ),
        profile_named("6.12"),
        SHAPE,
    )
    assert trial.charged_bytes > (1 << 27) * 64 + (1 << 40)


def test_many_replicas_come_over_several_ticks():
    small = SmallFleet(FleetSettings(replicas_added_at_once=10, placements_per_tick=4))
    for number in range(8):
        small.node(f"n{number}", ram_bytes=64 * GIB)
    small.create("w", 35, memory_request_bytes=GIB)
    assert len(small.replicas("w")) == 10
    assert len(small.replicas("w", Phase.ASSIGNED)) == 4
    small.settle()
    for _ in range(40):
        small.tick()
    assert len(small.replicas("w")) == 35
    assert not small.replicas("w", Phase.PENDING)


def test_a_new_leader_goes_on_where_the_old_one_stopped():
    settings = FleetSettings(replicas_added_at_once=10)
    small = SmallFleet(settings)
    small.node("n", ram_bytes=64 * GIB)
    small.create("w", 25, memory_request_bytes=1 << 20)
    records = [
        *small.state.tables.workloads.values(),
        *small.state.tables.nodes.values(),
        *small.state.tables.replicas.values(),
        *small.state.tables.agents.values(),
        small.state.tables.meta,
    ]
    small.state = FleetState(settings)
    small.state.load(records)
    for _ in range(10):
        small.tick()
    assert len(small.replicas("w")) == 25


def test_a_labelled_fleet_costs_few_searches_a_turn():
    small = SmallFleet(FleetSettings(shapes_searched_at_once=20))
    for number in range(10):
        small.node(f"n{number}", ram_bytes=64 * GIB, labels={"rack": str(number)})
    wish = Preference(requirement=Requirement(key="rack", operator=LabelOperator.EXISTS), weight=1)
    small.create("w", 9, memory_request_bytes=1 << 20, scheduling=Scheduling(preferred=(wish,)))
    assert len(small.replicas("w", Phase.ASSIGNED)) == 2
    for _ in range(10):
        small.tick()
    assert not small.replicas("w", Phase.PENDING)
