"""Placement for a comparison: by requests, the same for every model."""

from dataclasses import replace

from sample_fleet import small_scenario

from bpfleet.report.placing import place


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


def test_important_workloads_are_placed_first() -> None:
    scenario = small_scenario()
    low = replace(scenario.workloads[0], replicas=50, memory_request_bytes=1 << 30)
    high = replace(low, name="high", priority=10)
    placement = place(replace(scenario, workloads=(low, high), events=()))
    assert all(name.startswith("bpftrace") for name, _ in placement.unplaced)
