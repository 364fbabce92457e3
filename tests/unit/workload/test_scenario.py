"""Scenarios are read, scaled and turned into replicas without chance."""

import pytest

from bpfleet.workload.errors import SpecError
from bpfleet.workload.resolve import resolve
from bpfleet.workload.scenario import (
    builtin_scenario,
    builtin_scenarios,
    scenario_from_toml,
)

TEXT = """
name = "two-groups"
seed = 5
[[nodes]]
name = "small"
count = 3
possible_cpus = 4
ram_bytes = "8G"
labels = { zone = "a" }
[[nodes]]
name = "large"
count = 1
possible_cpus = 64
ram_bytes = "256G"
[[workloads]]
name = "falco"
application = "falco"
per_node = true
memory_limit_bytes = "512Mi"
[[workloads]]
name = "web"
application = "beyla"
replicas = 8
options = { groups = 2 }
[[events]]
step = 3
workload = "falco"
"""


def test_nodes_are_numbered_within_their_group_and_labelled() -> None:
    fleet = scenario_from_toml(TEXT, "f.toml").fleet()
    assert [node.name for node in fleet] == ["small-0001", "small-0002", "small-0003", "large-0001"]
    assert fleet[0].labels == {"zone": "a", "node": "small-0001", "group": "small", "cpus": "4"}
    assert fleet[3].shape.possible_cpus == 64


@pytest.mark.parametrize(("nodes", "counts"), [(1, [0, 1]), (4, [3, 1]), (40, [30, 10])])
def test_scaling_keeps_the_proportions(nodes: int, counts: list[int]) -> None:
    scenario = scenario_from_toml(TEXT, "f.toml").scaled_to(nodes)
    assert [group.count for group in scenario.nodes] == counts
    assert scenario.workloads[1].replicas == 2 * nodes


def test_an_application_is_sized_for_the_node_it_lands_on() -> None:
    scenario = scenario_from_toml(TEXT, "f.toml")
    small, *_, large = scenario.fleet()
    falco = scenario.workloads[0]
    on_small = resolve(falco, 0, small.name, small.shape, seed=scenario.seed)
    on_large = resolve(falco, 0, large.name, large.shape, seed=scenario.seed)
    assert on_small.inventory.maps[0].inner_count == 2
    assert on_large.inventory.maps[0].inner_count == 32
    assert on_small.workload.memory_limit_bytes == 512 << 20


def test_seeds_differ_by_node_workload_and_serial_and_by_nothing_else() -> None:
    scenario = scenario_from_toml(TEXT, "f.toml")
    node = scenario.fleet()[0]
    falco, web = scenario.workloads
    seeds = {
        resolve(workload, serial, name, node.shape, seed=5).seed
        for workload in (falco, web)
        for serial in (0, 1)
        for name in ("a", "b")
    }
    assert len(seeds) == 8
    assert resolve(falco, 0, "a", node.shape, seed=5).seed in seeds


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 5", "sede = 5", r"f\.toml: sede: unknown field"),
        ("count = 3", "count = -3", r"f\.toml: nodes\[0\]\.count = -3: out of range"),
        ('ram_bytes = "8G"', 'ram_bytes = "8 apples"', r"nodes\[0\]\.ram_bytes = '8 apples'"),
        ("possible_cpus = 4", "swap_bytes = -1", r"nodes\[0\]\.swap_bytes = -1: out of range"),
        ("possible_cpus = 4", "possible_cpus = 0", r"nodes\[0\]\.possible_cpus = 0: out of range"),
        ('workload = "falco"', 'workload = "x"', r"events\[0\]\.workload = 'x': no such workload"),
        ('name = "web"', 'name = "falco"', r"workloads\[1\]\.name = 'falco': used twice"),
        ("groups = 2", "gruops = 2", r"gruops = 2: unknown option; did you mean 'groups'"),
        (
            'application = "falco"',
            'application = "flaco"',
            r"'flaco': unknown; did you mean 'falco'",
        ),
        ("seed = 5", "seed = ", r"f\.toml: not TOML"),
        ("replicas = 8", "replicas = 8.5", r"workloads\[1\]\.replicas = 8\.5: not a whole number"),
    ],
)
def test_mistakes_are_named(old: str, new: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        scenario_from_toml(TEXT.replace(old, new, 1), "f.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", builtin_scenarios())
def test_built_in_scenarios_can_be_read_and_say_what_they_are(name: str) -> None:
    scenario = builtin_scenario(name)
    assert scenario.name == name
    assert scenario.title
    assert scenario.workloads


def test_the_built_in_comparison_has_more_than_a_handful_of_nodes() -> None:
    assert len(builtin_scenario("mixed-fleet").fleet()) >= 24


def test_nodes_have_the_swap_of_their_group() -> None:
    text = TEXT.replace('ram_bytes = "8G"', 'ram_bytes = "8G"\nswap_bytes = "2G"', 1)
    nodes = scenario_from_toml(text, "f.toml").fleet()
    assert {(node.group, node.swap_bytes) for node in nodes} == {("small", 2 << 30), ("large", 0)}
