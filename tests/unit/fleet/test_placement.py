"""Where replicas go: filters, policies, spread, preemption, explanation."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_fleet import GIB, INVENTORY, SmallFleet

from bpfleet.fleet.commands import UpdateWorkload
from bpfleet.fleet.errors import FleetError
from bpfleet.fleet.records import Policy, Workload
from bpfleet.fleet.settings import FleetSettings
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import (
    LabelOperator,
    Preference,
    Requirement,
    Scheduling,
    Spread,
    Taint,
    TaintEffect,
    Toleration,
    WorkloadSpec,
)


def fleet(policy: Policy = Policy.LEAST_ALLOCATED, **settings) -> SmallFleet:
    return SmallFleet(FleetSettings(policy=policy, **settings))


def explained(small: SmallFleet, policy: Policy = Policy.LEAST_ALLOCATED, **spec):
    spec.setdefault("memory_request_bytes", GIB)
    workload = Workload(
        name="asked",
        spec=WorkloadSpec(name="asked", inventory=INVENTORY, **spec),
    )
    verdicts, preemption = small.state.explain(workload, policy, small.now_ms)
    reasons = {v.node: v.refusal.reason if v.refusal else "" for v in verdicts}
    return verdicts, reasons, preemption


def test_least_allocated_takes_the_emptiest_node():
    small = fleet()
    small.node("a")
    small.node("b", ram_bytes=20 * GIB)
    small.create("one", 3)
    small.settle()
    assert small.where("one") == ["a", "b", "b"]


def test_most_allocated_fills_one_node_before_the_next():
    small = fleet(Policy.MOST_ALLOCATED)
    for name in "abc":
        small.node(name)
    small.create("one", 12)
    small.settle()
    assert sorted(Counter(small.where("one")).values()) == [2, 10]


def test_balanced_uses_memory_and_slots_in_equal_parts():
    small = fleet(Policy.BALANCED)
    small.node("few-slots", max_replicas=10)
    small.node("many-slots", max_replicas=100)
    # 1 of 10 GiB goes well with 1 of 10 slots, not with 1 of 100.
    small.create("one")
    small.settle()
    assert small.where("one") == ["few-slots"]


def test_power_of_two_choices_takes_the_emptier_of_two():
    small = fleet(Policy.POWER_OF_TWO_CHOICES)
    for number in range(20):
        small.node(f"n{number}")
    small.create("one", 100)
    small.settle()
    counts = [small.where("one").count(f"n{number}") for number in range(20)]
    assert sum(counts) == 100
    assert max(counts) <= 8


def test_a_node_without_memory_or_slots_is_refused_and_says_so():
    small = fleet()
    small.node("small", ram_bytes=GIB // 2)
    small.node("full", max_replicas=1)
    small.create("one", 1)
    _, reasons, _ = explained(small)
    assert reasons == {"small": "INSUFFICIENT_MEMORY", "full": "NO_FREE_SLOT"}


def test_selector_affinity_and_taints_refuse_with_their_own_reasons():
    small = fleet()
    dedicated = Taint("team", "net", TaintEffect.NO_SCHEDULE)
    small.node("right", labels={"disk": "ssd", "rack": "7"})
    small.node("wrong", labels={"disk": "hdd", "rack": "7"})
    small.node("low", labels={"disk": "ssd", "rack": "2"})
    small.node("tainted", labels={"disk": "ssd", "rack": "7"}, taints=(dedicated,))
    above = Requirement("rack", LabelOperator.GREATER_THAN, ("5",))
    asked = {"node_selector": {"disk": "ssd"}, "scheduling": Scheduling(required=(above,))}
    _, reasons, _ = explained(small, **asked)
    assert reasons == {
        "right": "",
        "wrong": "NODE_SELECTOR",
        "low": "NODE_AFFINITY",
        "tainted": "TAINT",
    }
    _, reasons, _ = explained(small, **asked, tolerations=(Toleration("team", "net"),))
    assert reasons["tainted"] == ""


@pytest.mark.parametrize(
    ("operator", "values", "expected"),
    [
        (LabelOperator.IN, ("a", "b"), {"x"}),
        (LabelOperator.NOT_IN, ("a",), {"y", "z"}),
        (LabelOperator.EXISTS, (), {"x", "y"}),
        (LabelOperator.DOES_NOT_EXIST, (), {"z"}),
    ],
)
def test_affinity_operators_treat_absent_labels_as_kubernetes_does(operator, values, expected):
    small = fleet()
    small.node("x", labels={"k": "a"})
    small.node("y", labels={"k": "c"})
    small.node("z")
    wish = Scheduling(required=(Requirement("k", operator, values),))
    _, reasons, _ = explained(small, scheduling=wish)
    assert {name for name, reason in reasons.items() if not reason} == expected


def test_conditions_on_the_node_itself_select_it():
    small = fleet()
    for name in "abc":
        small.node(name)
    wish = Scheduling(required=(Requirement("bpfleet/node", LabelOperator.IN, ("b",)),))
    small.create("one", scheduling=wish)
    small.settle()
    assert small.where("one") == ["b"]
    _, reasons, _ = explained(small, scheduling=wish)
    assert reasons["a"] == "NODE_NAME"


def test_wished_for_labels_and_unwelcoming_taints_weigh_in():
    small = fleet()
    small.node("empty", ram_bytes=100 * GIB)
    small.node("wished", labels={"gpu": "yes"})
    small.node("shy", ram_bytes=200 * GIB, taints=(Taint("x", "", TaintEffect.PREFER_NO_SCHEDULE),))
    wish = Preference(Requirement("gpu", LabelOperator.EXISTS), 100)
    verdicts, _, _ = explained(small, scheduling=Scheduling(preferred=(wish,)))
    assert [v.node for v in verdicts] == ["wished", "empty", "shy"]


def test_spread_by_node_keeps_replicas_apart():
    small = fleet(Policy.MOST_ALLOCATED)
    for name in "abc":
        small.node(name)
    small.create("one", 7, spread=Spread(topology_key="node"))
    small.settle()
    counts = sorted(small.where("one").count(name) for name in "abc")
    assert counts == [2, 2, 3]


def test_spread_by_label_counts_domains_and_waits_rather_than_crowd():
    small = fleet(Policy.MOST_ALLOCATED)
    small.node("a1", labels={"zone": "a"}, ram_bytes=2 * GIB)
    small.node("b1", labels={"zone": "b"})
    small.node("none")
    small.create("one", 8, spread=Spread(topology_key="zone"))
    small.settle()
    assert small.where("one") == ["a1", "a1", "b1", "b1", "b1"]
    waiting = small.replicas("one", Phase.PENDING)
    assert len(waiting) == 3
    assert dict(waiting[0].decision.rejections) == {
        "INSUFFICIENT_MEMORY": 1,
        "SPREAD": 1,
        "SPREAD_LABEL": 1,
    }
    # Best effort crowds where the constraint would wait.
    small.create(
        "two",
        6,
        spread=Spread(topology_key="zone", best_effort=True),
    )
    small.settle()
    assert len(small.where("two")) == 6


def test_the_least_important_make_room_for_the_important():
    small = fleet()
    small.node("a")
    small.create("low", 5, priority=1)
    small.create("mid", 5, priority=5)
    small.settle()
    small.create("high", 2, priority=10)
    first, _ = small.replicas("high")
    assert first.phase is Phase.ASSIGNED
    assert first.waits_for
    assert {small.state.tables.replicas[n].workload for n in first.waits_for} == {"low"}
    assert small.state.tables.books.nodes["a"].booked_bytes == 10 * GIB
    small.settle()
    assert small.where("high") == ["a", "a"]
    assert len(small.where("low")) == 3
    assert len(small.replicas("low", Phase.PENDING)) == 2
    assert len(small.where("mid")) == 5


def test_what_a_victim_held_is_not_promised_twice():
    small = fleet()
    small.node("a", ram_bytes=2 * GIB)
    small.create("low", 2, priority=0)
    small.settle()
    small.create("high", 3, priority=5)
    held = [r for r in small.replicas("high") if r.waits_for]
    victims = [name for r in held for name in r.waits_for]
    assert len(held) == 2
    assert len(victims) == len(set(victims)) == 2
    assert len(small.replicas("high", Phase.PENDING)) == 1
    small.settle()
    assert small.state.tables.books.nodes["a"].booked_bytes == 2 * GIB


def test_equals_do_not_preempt_each_other():
    small = fleet()
    small.node("a", ram_bytes=GIB)
    small.create("one", priority=3)
    small.create("two", priority=3)
    small.settle()
    assert small.where("one") == ["a"]
    assert small.replicas("two")[0].phase is Phase.PENDING


def test_an_explanation_names_whom_it_would_preempt():
    small = fleet()
    small.node("a", ram_bytes=GIB)
    small.create("low")
    small.settle()
    _, reasons, preemption = explained(small, priority=9)
    assert reasons == {"a": "INSUFFICIENT_MEMORY"}
    assert preemption.node == "a"
    assert [victim.name for victim in preemption.victims] == ["low-0"]


@pytest.mark.parametrize(
    ("policy", "counts"), [(Policy.LEAST_ALLOCATED, [2, 2, 2]), (Policy.MOST_ALLOCATED, [6])]
)
def test_replicas_that_request_nothing_are_spread_or_packed_as_all_others(policy, counts):
    small = fleet(policy)
    for name, size in (("a", 4), ("b", 4), ("c", 8)):
        small.node(name, ram_bytes=size * GIB)
    small.create("free", 6, memory_request_bytes=0)
    small.settle()
    assert sorted(Counter(small.where("free")).values()) == counts


def test_a_gang_is_placed_whole_or_not_at_all():
    small = fleet()
    small.node("a", ram_bytes=3 * GIB)
    small.create("gang", 5, scheduling=Scheduling(gang=True))
    small.settle()
    assert {r.phase for r in small.replicas("gang")} == {Phase.PENDING}
    assert small.replicas("gang")[0].reason == "GANG_DOES_NOT_FIT"
    assert small.state.tables.books.nodes["a"].booked_bytes == 0
    small.node("b", ram_bytes=2 * GIB)
    small.settle()
    assert small.where("gang") == ["a", "a", "a", "b", "b"]


def test_a_gang_is_no_larger_than_one_decision_can_place():
    small = fleet(gang_replicas_max=5, shapes_searched_at_once=8)
    small.node("a", ram_bytes=100 * GIB)
    with pytest.raises(FleetError, match="at most 5") as refusal:
        small.create("gang", 6, scheduling=Scheduling(gang=True))
    assert (refusal.value.reason, refusal.value.numbers) == ("GANG_TOO_LARGE", {"limit": 5})
    small.create("gang", 5, scheduling=Scheduling(gang=True))
    with pytest.raises(FleetError, match="at most 5"):
        small.apply(UpdateWorkload(name="gang", replicas=6))
    small.settle()
    assert small.where("gang") == ["a"] * 5


def test_a_gang_waits_where_the_fleet_has_too_many_kinds_of_nodes_for_it():
    small = fleet(shapes_searched_at_once=8)
    for cpus in (1, 2, 3):
        small.node(f"n{cpus}", cpus=cpus, ram_bytes=100 * GIB)
    small.create("gang", 3, scheduling=Scheduling(gang=True))
    small.settle()
    waiting = small.replicas("gang")[0]
    assert waiting.reason == "GANG_DOES_NOT_FIT"
    assert "among 3 kinds of nodes a gang has at most 2" in waiting.message
    small.apply(UpdateWorkload(name="gang", replicas=2))
    small.settle()
    assert len(small.where("gang")) == 2


SIZES = st.lists(st.integers(1, 8), min_size=1, max_size=12)


@given(SIZES, st.permutations(list(range(6))), st.sampled_from(list(Policy)))
def test_the_choice_does_not_depend_on_the_order_of_registration(sizes, order, policy):
    outcomes = []
    for names in (range(6), order):
        small = fleet(policy)
        for number in names:
            zone = {"zone": str(number % 2)}
            small.node(f"n{number}", ram_bytes=(4 + number % 3) * GIB, labels=zone)
        for number, size in enumerate(sizes):
            small.create(f"w{number}", 2, memory_request_bytes=size * GIB // 2)
        outcomes.append({r.name: r.node for r in small.state.tables.replicas.values()})
    assert outcomes[0] == outcomes[1]


@given(SIZES, st.sampled_from([Policy.LEAST_ALLOCATED, Policy.MOST_ALLOCATED]))
def test_the_choice_is_the_first_line_of_the_explanation(sizes, policy):
    small = fleet(policy)
    for number in range(5):
        small.node(f"n{number}", ram_bytes=(4 + number) * GIB)
    for number, size in enumerate(sizes):
        verdicts, _, _ = explained(small, policy, memory_request_bytes=size * GIB)
        small.create(f"w{number}", memory_request_bytes=size * GIB)
        (replica,) = small.replicas(f"w{number}")
        best = verdicts[0]
        if best.refusal is None:
            chosen = next(v for v in verdicts if v.node == replica.node)
            assert chosen.refusal is None
            assert chosen.score == best.score
        else:
            assert not replica.node


@pytest.mark.parametrize("policy", [p for p in Policy if p is not Policy.POWER_OF_TWO_CHOICES])
@pytest.mark.parametrize("profiles", [("6.12",), ("5.10", "6.1", "6.12", "seed-v5")])
def test_equally_good_nodes_share_by_the_replicas_name(policy, profiles):
    small = SmallFleet(FleetSettings(policy=policy))
    for number in range(8):
        small.node(f"n{number}", profile=profiles[number % len(profiles)])
    taken = set()
    for number in range(40):
        small.create(f"w{number}", memory_request_bytes=0)
        small.settle()
        taken.update(small.where(f"w{number}"))
        small.delete(f"w{number}")
        small.settle()
    assert len(taken) >= 4


def test_the_share_does_not_depend_on_the_order_of_registration():
    found = []
    for order in (range(8), reversed(range(8))):
        small = SmallFleet()
        for number in order:
            small.node(f"n{number}", profile=("5.10", "6.12")[number % 2])
        for number in range(12):
            small.create(f"w{number}", memory_request_bytes=GIB // 4)
        small.settle()
        found.append([small.where(f"w{number}") for number in range(12)])
    assert found[0] == found[1]
