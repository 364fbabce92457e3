"""Placement for a comparison: by requests, the same for every model."""

from collections import Counter

import pytest
from msgspec.structs import replace
from sample_fleet import small_scenario

from bpfleet.report.placing import place
from bpfleet.workload.scenario import builtin_scenario
from bpfleet.workload.spec import (
    LabelOperator,
    Requirement,
    Scheduling,
    Spread,
    Taint,
    Toleration,
)


def test_per_node_workloads_go_everywhere_they_may() -> None:
    placement = place(small_scenario())
    placed = {p.node.name: sorted(a.workload.name for a in p.assignments) for p in placement.nodes}
    assert all("falco" in names for names in placed.values())
    assert [name for name, names in placed.items() if "probe" in names] == [
        "small-0001",
        "small-0002",
    ]


def test_what_fits_nowhere_is_listed_with_the_reason() -> None:
    scenario = small_scenario()
    huge = replace(scenario.workloads[0], memory_request_bytes=1 << 40)
    placement = place(replace(scenario, workloads=(huge,), events=()))
    assert [name for name, _ in placement.unplaced] == ["bpftrace-0", "bpftrace-1"]
    assert all("INSUFFICIENT_MEMORY" in reason for _, reason in placement.unplaced)


def test_requests_are_never_overbooked() -> None:
    scenario = small_scenario()
    many = replace(scenario.workloads[0], replicas=400, memory_request_bytes=1 << 30)
    placement = place(replace(scenario, workloads=(many,), events=()))
    for plan in placement.nodes:
        booked = sum(a.workload.memory_request_bytes for a in plan.assignments)
        assert booked <= plan.node.allocatable_bytes
    assert placement.replicas + len(placement.unplaced) == 400


@pytest.mark.slow
def test_a_large_fleet_is_placed_as_a_whole_however_long_it_takes() -> None:
    """A coordinator would leave most of it to its next ticks; here there are none."""
    scenario = small_scenario().scaled_to(400)
    many = replace(scenario.workloads[0], replicas=20_000, memory_request_bytes=1 << 20)
    placement = place(replace(scenario, workloads=(many,), events=()))
    assert placement.replicas == 20_000


def test_a_gang_that_does_not_fit_is_placed_nowhere() -> None:
    scenario = small_scenario()
    gang = replace(
        scenario.workloads[0],
        replicas=40,
        memory_request_bytes=4 << 30,
        scheduling=Scheduling(gang=True),
    )
    placement = place(replace(scenario, workloads=(gang,), events=()))
    assert placement.replicas == 0
    assert [name for name, _ in placement.unplaced] == [f"bpftrace-{n}" for n in range(40)]
    small = replace(gang, replicas=3)
    assert place(replace(scenario, workloads=(small,), events=())).replicas == 3


def test_affinity_decides_as_on_a_running_fleet() -> None:
    scenario = small_scenario()
    large = Requirement("tier", LabelOperator.IN, ("large",))
    picky = replace(scenario.workloads[0], replicas=4, scheduling=Scheduling(required=(large,)))
    placement = place(replace(scenario, workloads=(picky,), events=()))
    assert {p.node.name for p in placement.nodes if p.assignments} == {"large-0001"}


def test_spread_keeps_replicas_apart_and_best_effort_lets_them_crowd() -> None:
    scenario = small_scenario()
    strict = replace(
        scenario.workloads[0],
        replicas=9,
        memory_request_bytes=6 << 30,
        spread=Spread(topology_key="tier"),
    )
    crowded = replace(strict, spread=Spread(topology_key="tier", best_effort=True))
    placed = [
        place(replace(scenario, workloads=(workload,), events=())).replicas
        for workload in (strict, crowded)
    ]
    # Each small node has room for one; the large one may have one more than they.
    assert placed == [5, 9]


def test_taints_keep_away_what_does_not_tolerate_them() -> None:
    scenario = small_scenario()
    small, large = scenario.nodes
    tainted = replace(small, taints=(Taint("dedicated", "net"),))
    patient = replace(
        scenario.workloads[0], name="patient", tolerations=(Toleration("dedicated", "net"),)
    )
    other = replace(patient, name="other", tolerations=())
    everywhere = tuple(replace(w, per_node=True) for w in (patient, other))
    scenario = replace(scenario, nodes=(tainted, large), workloads=everywhere, events=())
    where = {
        name: [
            p.node.group
            for p in place(scenario).nodes
            for a in p.assignments
            if a.workload.name == name
        ]
        for name in ("patient", "other")
    }
    assert where == {"patient": ["small", "small", "large"], "other": ["large"]}


def test_the_important_take_the_place_of_the_less_important() -> None:
    scenario = small_scenario()
    low = replace(scenario.workloads[0], replicas=11, memory_request_bytes=5 << 30)
    high = replace(low, name="high", replicas=3, priority=10)
    placement = place(replace(scenario, workloads=(low, high), events=()))
    placed = [a.workload.name for p in placement.nodes for a in p.assignments]
    assert placed.count("high") == 3
    assert placed.count("bpftrace") + len(placement.unplaced) == 11
    assert all(name.startswith("bpftrace") for name, _ in placement.unplaced)


def test_important_workloads_are_placed_first() -> None:
    scenario = small_scenario()
    low = replace(scenario.workloads[0], replicas=50, memory_request_bytes=1 << 30)
    high = replace(low, name="high", priority=10)
    placement = place(replace(scenario, workloads=(low, high), events=()))
    assert all(name.startswith("bpftrace") for name, _ in placement.unplaced)


def test_nothing_of_a_large_fleet_is_left_for_a_later_turn() -> None:
    scenario = builtin_scenario("mixed-fleet").scaled_to(480)
    placement = place(scenario)
    per_node = {w.name for w in scenario.workloads if w.per_node and not w.node_selector}
    for plan in placement.nodes:
        assert per_node <= {each.workload.name for each in plan.assignments}
    expected = sum(w.replicas for w in scenario.workloads if not w.per_node)
    placed = Counter(a.workload.name for plan in placement.nodes for a in plan.assignments)
    left = [name for name, _ in placement.unplaced]
    assert sum(placed[w.name] for w in scenario.workloads if not w.per_node) + len(left) == expected
    assert not left
