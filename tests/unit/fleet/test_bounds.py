"""No decision takes for ever: what is too much for one turn is done in the next ones."""

import pytest
from small_fleet import GIB, SmallFleet

from bpfleet.abi.bpf import F_NO_PREALLOC, MapType
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.fleet.commands import AgentLost, NodeAnnouncement, RegisterAgent, UnregisterAgent
from bpfleet.fleet.prediction import KernelEstimator, try_out
from bpfleet.fleet.reasons import NodeReason
from bpfleet.fleet.records import Policy, Workload
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
    small = SmallFleet(FleetSettings(work_at_once=21))
    for number in range(8):
        small.node(f"n{number}", ram_bytes=64 * GIB)
    small.create("w", 35, memory_request_bytes=GIB)
    assert len(small.replicas("w")) == 10
    small.settle()
    for _ in range(40):
        small.tick()
    assert len(small.replicas("w")) == 35
    assert not small.replicas("w", Phase.PENDING)


def test_a_new_leader_goes_on_where_the_old_one_stopped():
    settings = FleetSettings(work_at_once=20)
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
    small = SmallFleet(FleetSettings(shapes_searched_at_once=20, work_at_once=1_000))
    for number in range(10):
        small.node(f"n{number}", ram_bytes=64 * GIB, labels={"rack": str(number)})
    wish = Preference(requirement=Requirement(key="rack", operator=LabelOperator.EXISTS), weight=1)
    small.create("w", 9, memory_request_bytes=1 << 20, scheduling=Scheduling(preferred=(wish,)))
    assert len(small.replicas("w", Phase.ASSIGNED)) == 2
    for _ in range(10):
        small.tick()
    assert not small.replicas("w", Phase.PENDING)


def test_who_was_left_waiting_is_looked_at_again_behind_one_who_cannot_be_placed():
    small = SmallFleet(FleetSettings(shapes_searched_at_once=30, work_at_once=30))
    for number in range(10):
        small.node(f"n{number}", ram_bytes=64 * GIB, labels={"rack": str(number)})
    wish = Preference(requirement=Requirement(key="rack", operator=LabelOperator.EXISTS), weight=1)
    small.create("all", 9, memory_request_bytes=1, scheduling=Scheduling(preferred=(wish,)))
    small.create(
        "gang", 9, memory_request_bytes=1, scheduling=Scheduling(preferred=(wish,), gang=True)
    )
    assert small.replicas("all", Phase.PENDING)
    for _ in range(20):
        small.tick()
    assert not small.replicas("all", Phase.PENDING)
    assert len(small.replicas("gang", Phase.PENDING)) == 9


BOUND = 40
PER_NODE = 3


class Counting(SmallFleet):
    """Counts what each command changes: that, and not the time it takes, is what no machine makes more of."""

    def __init__(self, settings):
        super().__init__(settings)
        self.most = 0

    def apply(self, command):
        before = len(self.state.tables.log)
        result = super().apply(command)
        self.most = max(self.most, len(self.state.tables.log) - before)
        return result


def registered(small, incarnation, nodes):
    """One agent, whose nodes are announced a few at a time."""
    for start in range(0, nodes, 5):
        announced = tuple(
            NodeAnnouncement(
                name=f"n{number}",
                profile="6.12",
                possible_cpus=4,
                ram_bytes=64 * GIB,
                max_replicas=PER_NODE,
            )
            for number in range(start, min(start + 5, nodes))
        )
        small.apply(
            RegisterAgent(
                agent="a",
                incarnation=incarnation,
                address="127.0.0.1:1",
                nodes=announced,
                partial=start + 5 < nodes,
            )
        )


def story(small):
    """Every way in which one command changes many things; the state after each part of it."""
    registered(small, "1", 100)
    seen = []

    def rest():
        for _ in range(40):
            small.tick()
        small.settle()
        for _ in range(40):
            small.tick()
        tables = small.state.tables
        seen.append(
            (
                sorted((r.workload, r.phase.value) for r in tables.replicas.values()),
                sorted(n.name for n in tables.nodes.values() if n.ready),
                sorted(tables.workloads),
                sorted(tables.agents),
            )
        )

    small.create("many", 200, memory_request_bytes=1)
    rest()
    small.create("each", 0, per_node=True, memory_request_bytes=1)
    rest()
    small.update("many", memory_request_bytes=2)
    rest()
    small.scale("many", 5)
    rest()
    small.scale("many", 150)
    rest()
    small.apply(AgentLost("a"))
    rest()
    registered(small, "2", 60)
    rest()
    small.delete("each")
    rest()
    small.apply(UnregisterAgent("a", "2"))
    rest()
    small.delete("many")
    rest()
    return seen


def test_no_command_changes_more_than_the_bound_and_all_is_done_in_the_end():
    at_once, sliced = (Counting(FleetSettings(work_at_once=each)) for each in (1 << 40, BOUND))
    assert story(sliced) == story(at_once)
    # Who would be over the bound by one thing does that thing whole: all of a node, an event's record.
    assert sliced.most <= BOUND + 5 * (PER_NODE + 2)
    assert at_once.most > 4 * BOUND


@pytest.mark.parametrize("ends", ["lost", "left", "smaller"])
def test_a_new_leader_ends_what_the_old_one_began_with_the_nodes_of_an_agent(ends):
    settings = FleetSettings(work_at_once=BOUND)
    small = SmallFleet(settings)
    registered(small, "1", 100)
    small.create("w", 200, memory_request_bytes=1)
    small.settle()
    if ends == "lost":
        small.apply(AgentLost("a"))
    elif ends == "left":
        small.apply(UnregisterAgent("a", "1"))
    else:
        registered(small, "2", 5)
    records = list(small.state.tables.records())
    small.state = FleetState(settings)
    small.state.load(records)
    for _ in range(60):
        small.tick()
    nodes = small.state.tables.nodes.values()
    assert [node.name for node in nodes if node.ready] == [f"n{n}" for n in range(5)] * (
        ends == "smaller"
    )
    assert len(nodes) == {"lost": 100, "left": 0, "smaller": 5}[ends]
    assert set(small.state.tables.agents) == (set() if ends == "left" else {"a"})


def test_a_batch_that_was_not_stored_is_done_again_by_the_ticks():
    small = SmallFleet(FleetSettings(work_at_once=BOUND))
    registered(small, "1", 100)
    small.create("w", 200, memory_request_bytes=1)
    small.state.tables.log.clear()
    small.tick()
    small.state.rollback(0, 0)
    for _ in range(40):
        small.tick()
    assert len(small.replicas("w", Phase.ASSIGNED)) == 200


def kinds(small, count):
    for number in range(count):
        small.node(f"n{number}", ram_bytes=(64 + number) * GIB)


def test_trials_on_many_kinds_of_nodes_are_made_over_several_turns():
    class Counted(KernelEstimator):
        trials = 0

        def need(self, workload, node):
            self.trials += bool(self.effort(workload, node))
            return super().need(workload, node)

    estimator = Counted()
    settings = FleetSettings(policy=Policy.KERNEL_AWARE, trial_effort_at_once=250)
    small = SmallFleet(settings, estimator)
    kinds(small, 10)
    most = before = 0
    small.create("w", 4, application="cilium", inventory=None)
    while small.replicas("w", Phase.PENDING):
        most, before = max(most, estimator.trials - before), estimator.trials
        small.tick()
    assert estimator.trials == 10
    assert most <= 2
    assert len(small.replicas("w", Phase.ASSIGNED)) == 4


def test_an_explanation_waits_for_the_trials_it_needs():
    settings = FleetSettings(trial_effort_at_once=1)
    state = SmallFleet(settings, KernelEstimator())
    kinds(state, 5)
    workload = Workload(name="w", spec=WorkloadSpec(name="w", application="falco"))
    asked = (workload, Policy.KERNEL_AWARE, 0)
    verdicts, _ = state.state.explain(*asked)
    refused = [each.refusal.reason for each in verdicts if each.refusal is not None]
    assert refused == [NodeReason.NOT_TRIED_YET] * 4
    turns = 0
    while not state.state.known(*asked):
        turns += 1
    assert turns >= 3
    verdicts, _ = state.state.explain(*asked)
    assert all(each.refusal is None for each in verdicts)
