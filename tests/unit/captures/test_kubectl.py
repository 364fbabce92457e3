"""Kubernetes, Helm and Prometheus as inputs: what is read, what it becomes, and what is refused."""

import json
from decimal import Decimal

import pytest

from bpfleet.captures.helm import options_of_values
from bpfleet.captures.kubectl import quantity, read_cluster, scenario_of
from bpfleet.captures.prometheus import read_answers
from bpfleet.report.placing import place
from bpfleet.workload.errors import SpecError
from tests.cluster_of_kubernetes import cluster, node, pod

MIB = 1 << 20


def scenario_from(*items: object):  # type: ignore[no-untyped-def]
    text = json.dumps({"items": list(items) or cluster()["items"]})
    return scenario_of(read_cluster([("c.json", text)]), options={}, heaps={}, fill={})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("512M", 512_000_000),
        ("512Mi", 512 * MIB),
        ("1e3", 1000),
        ("2", 2),
        ("1.5Gi", 3 << 29),
        ("100m", Decimal("0.1")),
    ],
)
def test_quantities_are_those_of_kubernetes(text: str, value: object) -> None:
    assert quantity(text) == value


@pytest.mark.parametrize("text", ["", "12 parsecs", "1KB", "--1", "1e", "NaN"])
def test_other_texts_are_no_quantities(text: str) -> None:
    with pytest.raises(ValueError, match="write 512Mi"):
        quantity(text)


def test_nodes_alike_are_a_pool_and_pods_stay_where_they_are() -> None:
    scenario = scenario_from()
    assert [(g.count, g.kernel, g.possible_cpus) for g in scenario.nodes] == [
        (2, "5.10.0-28-amd64", 16),
        (1, "6.12.10", 16),
    ]
    placed = {
        plan.node.name: sorted(a.workload.name for a in plan.assignments)
        for plan in place(scenario).nodes
    }
    assert placed == {
        "pool-1-0001": ["cilium", "falco"],
        "pool-1-0002": ["cilium", "falco"],
        "pool-2-0001": ["cilium"],
    }
    limits = {w.name: w.memory_limit_bytes for w in scenario.workloads}
    assert limits == {"cilium": 1 << 30, "falco": 320_000_000}


def test_what_is_in_no_catalogue_is_counted() -> None:
    found = read_cluster([("c.json", json.dumps(cluster()))])
    assert found.unmatched == {"nginx:1.27": 1}


def test_two_of_a_kind_on_one_node_are_two_replicas() -> None:
    image = "falcosecurity/falco"
    scenario = scenario_from(
        node("a", "6.12"),
        pod("f-1", "a", image, container="falco", owner="falco"),
        pod("f-2", "a", image, container="falco", owner="falco"),
    )
    assert [w.name for w in scenario.workloads] == ["falco", "falco-2"]
    assert place(scenario).replicas == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not a list of objects"),
        ('{"items": []}', "no node in it"),
        (json.dumps({"items": [{"kind": "Node", "metadata": {"name": "a"}}]}), "items[0].status"),
        (json.dumps({"items": [node("a", "6.12", memory="12 parsecs")]}), "capacity.memory"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, said: str) -> None:
    with pytest.raises(SpecError) as refused:
        read_cluster([("c.json", text)])
    assert said in str(refused.value)


def test_values_of_charts_become_options() -> None:
    values = {"bpf": {"ctTcpMax": 1_000_000, "mapDynamicSizeRatio": 0.01, "natMax": None}}
    assert options_of_values("cilium", values) == {
        "ct_tcp_max": 1_000_000,
        "ratio_per_million": 10_000,
    }
    assert options_of_values("falco", {"driver": {"modernEbpf": {"bufSizePreset": 4}}}) == {
        "buffer_bytes": 8 * MIB
    }
    assert options_of_values("tetragon", {}) == {}
    with pytest.raises(SpecError, match="no such chart"):
        options_of_values("nginx", {})
    with pytest.raises(SpecError, match=r"cilium\.bpf\.natMax"):
        options_of_values("cilium", {"bpf": {"natMax": "many"}})


def answer(*series: tuple[dict[str, str], list[list[object]]]) -> tuple[str, str]:
    result = [{"metric": metric, "values": values} for metric, values in series]
    return "p.json", json.dumps(
        {"status": "success", "data": {"resultType": "matrix", "result": result}}
    )


def test_prometheus_tells_heap_use_and_pressure() -> None:
    where = {"namespace": "kube-system", "pod": "cilium-a", "container": "cilium-agent"}
    seen = read_answers(
        [
            answer(
                (
                    {"__name__": "container_memory_rss", **where},
                    [[1, "100"], [2, "300"], [3, "200"]],
                ),
                ({"__name__": "container_memory_usage_bytes", **where}, [[1, "900"]]),
                ({"__name__": "container_memory_working_set_bytes", **where}, [[1, "500"]]),
                (
                    {"__name__": "cilium_bpf_map_pressure", "map_name": "cilium_policy_v2_00001"},
                    [[1, "0.25"]],
                ),
            )
        ]
    )
    key = ("kube-system", "cilium-a", "cilium-agent")
    assert seen.heap_bytes == {key: 300}
    assert seen.used_bytes == {key: 500}
    assert seen.pressure == {"cilium_policy_v": 0.25}


def test_a_failed_query_is_refused() -> None:
    with pytest.raises(SpecError, match="not a successful answer"):
        read_answers([("p.json", '{"status": "error"}')])
