"""Labels and taints that an operator sets: what they do to replicas, and what outlives a registration."""

import pytest
from small_fleet import SmallFleet

from bpfleet.fleet.commands import (
    CordonNode,
    LabelNode,
    RegisterAgent,
    RemoveNode,
    ReportNodes,
    TaintNode,
    UnregisterAgent,
)
from bpfleet.fleet.errors import FleetError
from bpfleet.fleet.records import RecordKind, decode, encode
from bpfleet.fleet.settings import FleetSettings
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import Spread, Taint, TaintEffect, Toleration

NO_EXECUTE = TaintEffect.NO_EXECUTE
NO_SCHEDULE = TaintEffect.NO_SCHEDULE


@pytest.fixture
def small() -> SmallFleet:
    fleet = SmallFleet()
    for name in ("a", "b"):
        fleet.node(name, labels={"zone": "1"})
    return fleet


def label(small, node, *, removed=(), overwrite=True, request_id="", **labels):
    small.apply(
        LabelNode(
            name=node,
            labels=tuple(sorted(labels.items())),
            removed=removed,
            overwrite=overwrite,
            request_id=request_id,
            fingerprint=request_id and f"{labels}{removed}",
        )
    )


def taint(small, node, *taints, removed=(), overwrite=False):
    small.apply(TaintNode(name=node, taints=taints, removed=removed, overwrite=overwrite))


def labels(small, node):
    return dict(small.state.tables.nodes[node].labels)


def taints(small, node):
    return [(t.key, t.value, t.effect) for t in small.state.tables.nodes[node].taints]


# -- labels


def test_what_an_operator_set_or_removed_outlives_a_registration_all_else_follows_the_agent(small):
    label(small, "a", tier="gold", removed=("zone",))
    assert labels(small, "a") == {"tier": "gold"}
    small.node("a", labels={"zone": "2", "tier": "iron", "disk": "ssd"}, incarnation="2")
    assert labels(small, "a") == {"tier": "gold", "disk": "ssd"}
    label(small, "a", zone="3", removed=("tier",))
    small.node("a", labels={"zone": "2", "tier": "iron"}, incarnation="3")
    assert labels(small, "a") == {"zone": "3"}


def test_a_label_set_to_what_the_agent_announces_is_the_operators_from_then_on(small):
    label(small, "a", zone="1")
    small.node("a", labels={"zone": "2"}, incarnation="2")
    assert labels(small, "a") == {"zone": "1"}


def test_repeating_a_change_changes_nothing_and_leaves_no_event(small):
    for _ in range(2):
        label(small, "a", tier="gold", removed=("zone", "absent"))
        taint(small, "a", Taint("repair", "", NO_SCHEDULE), removed=(("absent", None),))
    assert [e.message for e in small.events("NODE_LABELED")] == ["tier=gold, zone-"]
    assert [e.message for e in small.events("NODE_TAINTED")] == ["repair:NoSchedule"]


def test_a_request_that_is_repeated_late_does_not_undo_what_came_after(small):
    label(small, "a", tier="gold", request_id="r1")
    label(small, "a", tier="iron", request_id="r2")
    label(small, "a", tier="gold", request_id="r1")
    assert labels(small, "a")["tier"] == "iron"


def test_another_value_is_refused_unless_it_is_to_be_overwritten(small):
    taint(small, "a", Taint("repair", "disk", NO_SCHEDULE))
    with pytest.raises(FleetError, match="zone of a is '1'; use overwrite"):
        label(small, "a", zone="2", tier="gold", overwrite=False)
    with pytest.raises(FleetError, match="repair:NoSchedule of a has the value 'disk'"):
        taint(small, "a", Taint("repair", "fan", NO_SCHEDULE))
    assert labels(small, "a") == {"zone": "1"}
    taint(small, "a", Taint("repair", "fan", NO_SCHEDULE), overwrite=True)
    assert taints(small, "a") == [("repair", "fan", NO_SCHEDULE)]


def test_a_node_takes_a_bounded_number_of_labels(small):
    with pytest.raises(FleetError, match="at most 64 labels"):
        label(small, "a", **{f"k{number}": "" for number in range(64)})
    assert labels(small, "a") == {"zone": "1"}


def test_a_selector_counts_when_a_replica_is_placed_not_while_it_runs(small):
    small.create("web", node_selector={"tier": "gold"})
    small.create("each", per_node=True, node_selector={"tier": "gold"})
    small.settle()
    assert small.replicas("web", Phase.PENDING)
    label(small, "b", tier="gold")
    small.settle()
    assert small.where("web") == small.where("each") == ["b"]
    label(small, "b", removed=("tier",))
    small.settle()
    assert small.where("web") == ["b"]
    assert small.where("each") == []


def test_a_spread_counts_by_the_labels_as_they_are_now(small):
    label(small, "b", zone="2")
    small.create("web", 4, spread=Spread(topology_key="zone"))
    small.settle()
    assert small.where("web") == ["a", "a", "b", "b"]


# -- taints


def test_no_execute_moves_away_what_does_not_tolerate_it(small):
    patient = (Toleration("repair", "", NO_EXECUTE),)
    small.create("web", 2, node_selector={"node": "a"})
    small.create("patient", node_selector={"node": "a"}, tolerations=patient)
    small.create("anywhere", 1)
    small.settle()
    taint(small, "a", Taint("repair", "", NO_EXECUTE))
    small.settle()
    assert small.where("patient") == ["a"]
    assert small.where("anywhere") == ["b"]
    assert len(small.replicas("web", Phase.PENDING)) == 2
    taint(small, "a", removed=(("repair", None),))
    small.settle()
    assert small.where("web") == ["a", "a"]


def test_no_schedule_keeps_new_ones_away_and_lets_running_ones_be_also_one_per_node(small):
    small.create("each", per_node=True)
    small.settle()
    taint(small, "a", Taint("repair", "", NO_SCHEDULE))
    small.create("web", 3)
    small.create("late", per_node=True)
    small.settle()
    assert small.where("each") == ["a", "b"]
    assert small.where("web") == ["b", "b", "b"]
    assert small.where("late") == ["b"]
    taint(small, "a", Taint("repair", "", NO_EXECUTE))
    small.settle()
    assert small.where("each") == ["b"]


def test_a_taint_is_removed_by_effect_or_whole_and_stays_removed(small):
    announced = (Taint("gpu", "", NO_EXECUTE), Taint("gpu", "", NO_SCHEDULE))
    small.node("a", taints=announced, incarnation="2")
    taint(small, "a", removed=(("gpu", NO_EXECUTE),))
    assert taints(small, "a") == [("gpu", "", NO_SCHEDULE)]
    taint(small, "a", Taint("disk", "", NO_SCHEDULE), removed=(("gpu", None),))
    small.node("a", taints=announced, incarnation="3")
    assert taints(small, "a") == [("disk", "", NO_SCHEDULE)]


def test_marks_come_back_from_the_store(small):
    label(small, "a", tier="gold", removed=("zone",))
    taint(small, "a", Taint("repair", "x", NO_EXECUTE))
    node = small.state.tables.nodes["a"]
    assert decode(RecordKind.NODE, encode(node)) == node


# -- pods that are replaced


def unregister(small, node):
    small.apply(UnregisterAgent(agent=f"agent-{node}", incarnation="1"))


def test_marks_and_a_cordon_survive_a_graceful_replacement_of_the_agent(small):
    label(small, "a", tier="gold", removed=("zone",))
    taint(small, "a", Taint("repair", "yes", NO_SCHEDULE))
    small.apply(CordonNode("a"))
    unregister(small, "a")
    assert "a" not in small.state.tables.nodes
    small.node("a", labels={"zone": "1"}, incarnation="2")
    assert labels(small, "a") == {"tier": "gold"}
    assert taints(small, "a") == [("repair", "yes", NO_SCHEDULE)]
    assert small.state.tables.nodes["a"].cordoned
    assert not small.state.tables.parted
    unregister(small, "b")
    assert not small.state.tables.parted, "nobody decided anything about b"


def test_a_node_that_an_operator_removes_takes_its_marks_along(small):
    label(small, "a", tier="gold")
    small.apply(RemoveNode("a", force=True))
    small.node("a", incarnation="2")
    assert labels(small, "a") == {}


def test_only_so_many_marks_are_kept_and_the_oldest_go_first():
    small = SmallFleet(FleetSettings(parted_max=2))
    for name in ("a", "b", "c"):
        small.node(name)
        small.apply(CordonNode(name))
    for name in ("b", "a", "c"):
        unregister(small, name)
    assert set(small.state.tables.parted) == {"a", "c"}


# -- nodes that are no more


def test_a_node_deleted_on_its_agent_leaves_the_fleet_and_its_replicas_go_elsewhere(small):
    small.create("web", replicas=2)
    small.apply(ReportNodes(agent="agent-b", incarnation="1", reports=(), removed=("a", "b")))
    assert set(small.state.tables.nodes) == {"a"}, "b is its own, a is not"
    assert set(small.where("web")) <= {"a", ""}


def test_what_a_new_start_of_an_agent_does_not_announce_is_removed():
    small = SmallFleet()
    for name in ("a", "b", "c"):
        small.node(name, agent="one")
    small.apply(
        RegisterAgent(agent="one", incarnation="2", address="127.0.0.1:1", nodes=(), partial=True)
    )
    assert set(small.state.tables.nodes) == {"a", "b", "c"}, "more may follow"
    small.node("b", agent="one", incarnation="2")
    assert set(small.state.tables.nodes) == {"b"}
