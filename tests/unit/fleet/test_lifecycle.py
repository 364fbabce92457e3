"""What becomes of replicas: start, failure and back-off, loss of nodes, scaling, updates, drains."""

import pytest
from msgspec.structs import replace
from small_fleet import GIB, MIB, SmallFleet

from bpfleet.fleet.commands import (
    AgentLost,
    CordonNode,
    CreateWorkload,
    DrainNode,
    NodeAnnouncement,
    RegisterAgent,
    RemoveNode,
    ReplicaNews,
    UncordonNode,
    UnregisterAgent,
    UpdateWorkload,
)
from bpfleet.fleet.errors import FleetError
from bpfleet.fleet.reasons import ControlReason
from bpfleet.fleet.records import Policy
from bpfleet.fleet.settings import FleetSettings
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import RestartPolicy, Spread, Taint, TaintEffect


@pytest.fixture
def small() -> SmallFleet:
    fleet = SmallFleet()
    for name in ("a", "b", "c"):
        fleet.node(name)
    return fleet


def news(replica, phase=Phase.RUNNING, attempt=0):
    return ReplicaNews(replica=replica, attempt=attempt, phase=phase)


# -- failures


def test_a_failing_replica_backs_off_twice_as_long_each_time(small):
    small.create("one", restart_policy=RestartPolicy.ALWAYS)
    small.failing["one"] = "OOM_KILLED"
    waits = []
    for _ in range(2):
        small.settle()
        (replica,) = small.replicas("one")
        assert replica.phase is Phase.BACK_OFF
        assert replica.reason == "OOM_KILLED"
        waits.append(replica.due_ms - small.now_ms)
        small.tick(waits[-1] / 1000 - 0.001)
        assert small.replicas("one")[0].phase is Phase.BACK_OFF
        small.tick(0.001)
        assert small.replicas("one")[0].phase is Phase.ASSIGNED
    assert waits == [10_000, 20_000]


def test_the_back_off_has_a_ceiling_and_is_forgotten_after_a_long_run(small):
    small.create("one", per_node=True, node_selector={"node": "a"})
    small.failing["one"] = "EPERM"
    waits = []
    for _ in range(8):
        small.settle()
        (replica,) = small.replicas("one", Phase.BACK_OFF)
        waits.append((replica.due_ms - small.now_ms) // 1000)
        small.tick(waits[-1])
    assert waits == [10, 20, 40, 80, 160, 300, 300, 300]
    small.failing.clear()
    small.settle()
    small.tick(601)
    (replica,) = small.replicas("one", Phase.RUNNING)
    small.report(replica, Phase.FAILED, "OOM_KILLED")
    (replica,) = small.replicas("one")
    assert replica.due_ms - small.now_ms == 10_000


def test_repeated_failures_on_a_node_move_the_replica_and_say_so(small):
    small.create("one")
    small.failing["one"] = "RLIMIT_MEMLOCK_EXCEEDED"
    small.settle()
    (first,) = small.replicas("one")
    for _ in range(2):
        small.tick(300)
        small.settle()
    (moved,) = [r for r in small.replicas("one") if r.phase is Phase.PENDING]
    assert moved.due_ms > small.now_ms, "the back-off goes on"
    (event,) = small.events("REPLICA_MOVES")
    assert event.node == first.node
    assert "trying another node" in event.message
    small.failing.clear()
    small.tick(300)
    small.settle()
    assert small.where("one") != [first.node]
    assert small.replicas("one")[0].restarts == 3


def test_a_replica_that_shall_not_restart_stays_ended_and_holds_nothing(small):
    small.create("never", restart_policy=RestartPolicy.NEVER)
    small.create("once", restart_policy=RestartPolicy.ON_FAILURE)
    small.settle()
    small.report(small.replicas("never")[0], Phase.FAILED, "ENOMEM")
    small.report(small.replicas("once")[0], Phase.SUCCEEDED)
    small.settle()
    assert small.replicas("never")[0].phase is Phase.FAILED
    assert small.replicas("once")[0].phase is Phase.SUCCEEDED
    assert all(book.booked_bytes == 0 for book in small.state.tables.books.nodes.values())
    small.delete("never")
    small.delete("once")
    small.settle()
    assert not small.state.tables.replicas


def test_news_of_an_older_attempt_change_nothing(small):
    small.create("one")
    small.failing["one"] = "ENOMEM"
    small.settle()
    small.tick(10)
    (replica,) = small.replicas("one")
    assert (replica.phase, replica.attempt) == (Phase.ASSIGNED, 1)
    small.report(replica, Phase.FAILED, "late", attempt=0)
    small.report(replica, Phase.RUNNING, attempt=0)
    assert small.replicas("one")[0] is replica


# -- nodes come and go


def test_what_ran_on_a_lost_node_is_placed_elsewhere(small):
    small.create("one", 6, spread=Spread(topology_key="node", max_skew=1))
    small.settle()
    assert small.where("one") == ["a", "a", "b", "b", "c", "c"]
    small.lose("a")
    small.settle()
    assert small.where("one") == ["b", "b", "b", "c", "c", "c"]
    assert not small.state.tables.nodes["a"].ready
    assert {event.node for event in small.events("REPLICA_LOST")} == {"a"}


def test_a_node_that_rejoins_is_told_to_stop_what_moved_away(small):
    small.create("one", 1)
    small.settle()
    (replica,) = small.replicas("one")
    lost = replica.node
    small.lose(lost)
    small.settle()
    rejections, strays = small.node(lost, replicas=(news(replica.name),))
    assert not rejections
    assert strays == [(lost, replica.name)]
    assert len(small.where("one")) == 1
    assert small.state.tables.nodes[lost].ready


def test_a_node_that_restarted_empty_gets_its_replicas_started_again(small):
    small.create("one", 3, spread=Spread(topology_key="node"))
    small.settle()
    before = {r.name: r.node for r in small.replicas("one")}
    small.node("a", incarnation="2")
    (again,) = [r for r in small.replicas("one") if r.phase is Phase.ASSIGNED]
    assert (again.node, again.attempt, again.reason) == ("a", 1, "NODE_RESTARTED")
    small.settle()
    assert {r.name: r.node for r in small.replicas("one")} == before


def test_a_stop_is_done_only_when_the_agent_confirms_it(small):
    small.create("one", 1)
    small.settle()
    (replica,) = small.replicas("one")
    small.delete("one")
    # The list may be older than the start of the replica: its absence proves nothing.
    small.node(replica.node, incarnation="2")
    assert small.replicas("one")[0].phase is Phase.STOPPING
    small.settle()
    assert "one" not in small.state.tables.workloads


def test_a_node_name_belongs_to_the_agent_that_has_it_until_that_is_lost(small):
    rejections, _ = small.node("a", agent="thief")
    assert rejections[0][:2] == ("a", "NODE_EXISTS")
    small.lose("a")
    rejections, _ = small.node("a", agent="heir")
    assert not rejections
    assert small.state.tables.nodes["a"].agent == "heir"


def test_a_node_that_comes_back_smaller_sheds_the_least_important(small):
    small.create("low", 1, priority=1, node_selector={"node": "a"}, memory_request_bytes=4 * GIB)
    small.create("high", 1, priority=9, node_selector={"node": "a"}, memory_request_bytes=4 * GIB)
    small.settle()
    running = tuple(news(r.name) for w in ("low", "high") for r in small.replicas(w))
    small.node("a", ram_bytes=5 * GIB, replicas=running)
    small.settle()
    assert small.where("high") == ["a"]
    assert small.replicas("low")[0].phase is Phase.PENDING


def test_a_no_execute_taint_drives_away_who_does_not_tolerate_it(small):
    small.create("one", 3, spread=Spread(topology_key="node"))
    small.settle()
    (here,) = [r for r in small.replicas("one") if r.node == "a"]
    taint = Taint("broken", "", TaintEffect.NO_EXECUTE)
    small.node("a", taints=(taint,), replicas=(news(here.name),))
    small.settle()
    assert small.where("one") == ["b", "b", "c"] or small.where("one") == ["b", "c", "c"]


def test_an_agent_that_unregisters_takes_its_nodes_along(small):
    small.create("one", 3, spread=Spread(topology_key="node"))
    small.settle()
    assert small.apply(UnregisterAgent("agent-a")) == 1
    small.settle()
    assert sorted(set(small.where("one"))) == ["b", "c"]
    assert "a" not in small.state.tables.nodes


def test_a_ready_node_is_removed_only_by_force(small):
    with pytest.raises(FleetError, match="Ready"):
        small.apply(RemoveNode("a"))
    small.apply(RemoveNode("a", force=True))
    assert "a" not in small.state.tables.nodes


def test_a_crashed_node_loses_its_replicas_and_the_others_of_its_agent_stay(small):
    small.node("d", agent="agent-a")
    small.create("one", 4, spread=Spread(topology_key="node"))
    small.settle()
    from bpfleet.fleet.commands import NodeUsage, ReportNodes

    small.apply(
        ReportNodes(
            agent="agent-a",
            incarnation="1",
            reports=(NodeUsage(node="a", crashed=True),),
        )
    )
    small.settle()
    assert not small.state.tables.nodes["a"].ready
    assert small.state.tables.nodes["d"].ready
    assert len(small.where("one")) == 4


# -- cordon and drain


def test_a_cordoned_node_keeps_what_it_has_and_gets_nothing_new(small):
    small.create("one", 3, spread=Spread(topology_key="node"))
    small.settle()
    small.apply(CordonNode("a"))
    small.create("two", 4)
    small.settle()
    assert "a" in small.where("one")
    assert "a" not in small.where("two")
    small.apply(UncordonNode("a"))
    small.scale("two", 8)
    small.settle()
    assert "a" in small.where("two")


def test_a_drain_empties_the_node_within_the_disruption_budget(small):
    small.create("one", 6, spread=Spread(topology_key="node", max_skew=6))
    small.settle()
    here = small.where("one").count("a")
    assert here == 2
    small.apply(DrainNode("a"))
    lowest = 6
    while any(r.node == "a" for r in small.replicas("one")):
        lowest = min(lowest, len(small.replicas("one", Phase.RUNNING)))
        small.step()
        small.tick()
    small.settle()
    assert lowest == 5
    assert "a" not in small.where("one")
    assert len(small.where("one")) == 6
    assert [event.node for event in small.events("NODE_DRAINED")] == ["a"]


def test_a_drain_does_not_take_the_last_replicas_that_fit_nowhere_else():
    small = SmallFleet()
    small.node("a", ram_bytes=4 * GIB)
    small.node("b", ram_bytes=GIB)
    small.create("one", 3)
    small.settle()
    small.apply(DrainNode("a"))
    small.settle()
    running = len(small.replicas("one", Phase.RUNNING))
    assert running == 2, "one at a time: the next leaves only once the first runs elsewhere"


# -- one per node


def test_one_per_node_follows_the_nodes(small):
    small.create("agent", per_node=True)
    small.settle()
    assert small.where("agent") == ["a", "b", "c"]
    small.node("d")
    small.settle()
    assert small.where("agent") == ["a", "b", "c", "d"]
    small.lose("b")
    small.settle()
    assert small.where("agent") == ["a", "c", "d"]
    small.node("b", incarnation="2")
    small.settle()
    assert small.where("agent") == ["a", "b", "c", "d"]
    small.apply(DrainNode("a"))
    small.settle()
    assert small.where("agent") == ["b", "c", "d"]
    small.apply(UncordonNode("a"))
    small.settle()
    assert small.where("agent") == ["a", "b", "c", "d"]


def test_one_per_node_waits_for_memory_on_its_own_node(small):
    small.create("big", 1, memory_request_bytes=10 * GIB, node_selector={"node": "a"})
    small.settle()
    small.create("agent", per_node=True)
    small.settle()
    assert small.where("agent") == ["b", "c"]
    (waiting,) = small.replicas("agent", Phase.PENDING)
    assert (waiting.target, waiting.reason) == ("a", "INSUFFICIENT_MEMORY")
    small.delete("big")
    small.settle()
    assert small.where("agent") == ["a", "b", "c"]


# -- scaling, updating, deleting


def test_scaling_adds_and_takes_away_the_newest(small):
    small.create("one", 2)
    small.settle()
    small.scale("one", 5)
    small.settle()
    assert [r.serial for r in small.replicas("one")] == [0, 1, 2, 3, 4]
    small.scale("one", 3)
    small.settle()
    assert [r.serial for r in small.replicas("one")] == [0, 1, 2]
    small.scale("one", 0)
    small.settle()
    assert not small.replicas("one")


def test_an_update_starts_the_new_beside_the_old_one_at_a_time(small):
    small.create("one", 3)
    small.settle()
    small.update("one", uid=7)
    most = 0
    while any(r.generation == 1 for r in small.replicas("one")):
        live = [r for r in small.replicas("one") if r.phase is not Phase.STOPPING]
        most = max(most, len(live))
        assert len(small.replicas("one", Phase.RUNNING)) >= 3 - 0
        coming = [r for r in live if r.phase is Phase.ASSIGNED]
        assert len(coming) <= 1
        for replica in coming:
            old = small.state.tables.replicas[replica.replaces]
            assert replica.node == old.node, "the old pinned maps are on this node"
        small.step()
        small.tick()
    small.settle()
    assert most == 4
    assert {r.generation for r in small.replicas("one")} == {2}
    assert {r.uid for r in small.replicas("one")} == {7}
    assert len(small.where("one")) == 3


def test_an_update_whose_new_replicas_fail_stops_by_itself(small):
    small.create("one", 3)
    small.settle()
    small.update("one", uid=7)
    small.failing["one"] = "ENOMEM"
    small.settle()
    assert len(small.replicas("one", Phase.RUNNING)) == 3
    assert {r.generation for r in small.replicas("one", Phase.RUNNING)} == {1}
    small.update("one", uid=8)
    small.failing.clear()
    small.tick(300)
    small.settle()
    assert {(r.generation, r.uid) for r in small.replicas("one")} == {(3, 8)}


def test_an_update_that_fits_nowhere_beside_the_old_stops_the_old_first():
    small = SmallFleet()
    small.node("a", ram_bytes=3 * GIB)
    small.create("one", 3)
    small.settle()
    small.update("one", uid=7)
    fewest = 3
    while any(r.generation == 1 for r in small.replicas("one")):
        fewest = min(fewest, len(small.replicas("one", Phase.RUNNING)))
        small.step()
        small.tick()
    small.settle()
    assert fewest == 2
    assert len(small.where("one")) == 3


def test_one_per_node_is_updated_node_by_node(small):
    small.create("agent", per_node=True)
    small.settle()
    small.update("agent", uid=7)
    small.settle()
    assert small.where("agent") == ["a", "b", "c"]
    assert {r.uid for r in small.replicas("agent")} == {7}


def test_a_changed_number_of_replicas_alone_rolls_nothing(small):
    small.create("one", 2)
    small.settle()
    small.apply(UpdateWorkload(name="one", replicas=3))
    small.settle()
    assert {r.generation for r in small.replicas("one")} == {1}


def test_a_deleted_name_can_be_used_again_and_ids_never_return(small):
    small.create("one", 2)
    small.settle()
    small.delete("one")
    with pytest.raises(FleetError, match="being deleted"):
        small.create("one")
    small.settle()
    assert "one" not in small.state.tables.workloads
    small.create("one", 1)
    small.settle()
    assert [r.name for r in small.replicas("one")] == ["one-2"]


# -- requests


def test_a_repeated_request_changes_nothing_and_a_reused_id_is_refused(small):
    from small_fleet import INVENTORY

    from bpfleet.workload.spec import WorkloadSpec

    command = CreateWorkload(
        spec=WorkloadSpec(name="one", inventory=INVENTORY),
        request_id="r1",
        fingerprint="f1",
    )
    small.apply(command)
    revision = small.state.tables.meta.revision
    assert small.apply(command) == "one"
    assert small.state.tables.meta.revision == revision
    other = CreateWorkload(
        spec=WorkloadSpec(name="two", inventory=INVENTORY),
        request_id="r1",
        fingerprint="f2",
    )
    with pytest.raises(FleetError) as refusal:
        small.apply(other)
    assert refusal.value.reason == "REQUEST_ID_REUSED"
    assert "two" not in small.state.tables.workloads


def test_request_ids_and_retired_names_are_bounded():
    small = SmallFleet(FleetSettings(requests_max=3, retired_max=3))
    from small_fleet import INVENTORY

    from bpfleet.workload.spec import WorkloadSpec

    for number in range(6):
        spec = WorkloadSpec(name=f"w{number}", inventory=INVENTORY, replicas=0)
        small.apply(CreateWorkload(spec=spec, request_id=str(number), fingerprint="f"))
        small.delete(f"w{number}")
    small.settle()
    assert list(small.state.tables.requests) == ["3", "4", "5"]
    assert list(small.state.tables.retired) == ["w3", "w4", "w5"]


def test_an_update_against_an_older_revision_is_refused(small):
    small.create("one")
    revision = small.state.tables.workloads["one"].revision
    small.scale("one", 2)
    with pytest.raises(FleetError) as refusal:
        small.apply(UpdateWorkload(name="one", replicas=3, expected_revision=revision))
    assert refusal.value.reason == "REVISION_MISMATCH"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (UpdateWorkload(name="none", replicas=1), "WORKLOAD_UNKNOWN"),
        (CordonNode("none"), "NODE_UNKNOWN"),
        (DrainNode("none"), "NODE_UNKNOWN"),
        (RemoveNode("none"), "NODE_UNKNOWN"),
        (UnregisterAgent("none"), "AGENT_UNKNOWN"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(small, command, reason):
    log = len(small.state.tables.log)
    with pytest.raises(FleetError) as refusal:
        small.apply(command)
    assert refusal.value.reason == reason
    assert "none" in refusal.value.message
    assert len(small.state.tables.log) == log


# -- memory pressure


def test_a_node_under_pressure_evicts_in_kubelets_order_and_takes_nothing_new(small):
    for name, priority in (("frugal", 0), ("greedy-vip", 9), ("greedy", 5)):
        small.create(name, priority=priority, node_selector={"node": "a"})
    small.settle()
    used = {"frugal-0": GIB // 2, "greedy-vip-0": 3 * GIB, "greedy-0": 2 * GIB}
    order = []
    for _ in range(3):
        small.usage("a", 10 * GIB - 10 * MIB, used)
        (victim,) = [r for r in small.state.tables.replicas.values() if r.phase is Phase.STOPPING]
        order.append(victim.workload)
        used.pop(victim.name)
        small.settle()
    assert order == ["greedy", "greedy-vip", "frugal"]
    assert small.state.tables.nodes["a"].pressure
    assert all(r.phase is Phase.PENDING for r in small.state.tables.replicas.values())
    small.usage("a", GIB)
    small.now_ms += 29_999
    small.usage("a", GIB)
    assert small.state.tables.nodes["a"].pressure, "calm for too short a time"
    small.now_ms += 1
    small.usage("a", GIB)
    small.settle()
    assert not small.state.tables.nodes["a"].pressure
    assert small.where("greedy") == ["a"]


def test_below_the_soft_threshold_a_node_evicts_only_after_the_grace_period_without_a_break():
    soft = FleetSettings(soft_available_bytes=GIB, soft_grace_ms=60_000, pressure_hold_ms=1_000)
    small = SmallFleet(soft)
    small.node("a")
    small.create("web", 2)
    small.settle()

    def after(seconds, available_bytes):
        small.now_ms += seconds * 1000
        small.usage("a", 10 * GIB + 1 - available_bytes, {"web-0": 3 * GIB})
        node = small.state.tables.nodes["a"]
        return node.pressure, len(small.replicas("web", Phase.STOPPING))

    assert after(0, GIB) == (False, 0)
    assert after(0, GIB - 1) == (True, 0), "under pressure at once, as kubelet reports it"
    assert after(59, GIB - 1) == (True, 0)
    assert after(0, GIB) == (True, 0), "a break starts the grace period anew"
    assert after(1, GIB - 1) == (True, 0)
    assert after(59, GIB - 1) == (True, 0)
    assert after(1, GIB - 1) == (True, 1)
    assert [r.name for r in small.replicas("web", Phase.STOPPING)] == ["web-0"]
    assert "for 60 s" in small.replicas("web", Phase.STOPPING)[0].message


def test_below_the_hard_threshold_nothing_is_waited_for():
    small = SmallFleet(FleetSettings(soft_available_bytes=GIB))
    small.node("a")
    small.create("web")
    small.settle()
    small.usage("a", 10 * GIB - 10 * MIB)
    assert small.replicas("web", Phase.STOPPING)


def test_the_oomd_rule_takes_the_largest_user():
    small = SmallFleet(FleetSettings(eviction="oomd"))
    small.node("a")
    small.create("small-user", priority=0, memory_request_bytes=0)
    small.create("large-user", priority=9, memory_request_bytes=8 * GIB)
    small.settle()
    small.usage("a", 10 * GIB, {"small-user-0": GIB, "large-user-0": 7 * GIB})
    assert small.replicas("large-user")[0].phase is Phase.STOPPING


def test_waiting_workloads_are_tried_by_priority_when_memory_comes_free():
    small = SmallFleet(FleetSettings(policy=Policy.MOST_ALLOCATED))
    small.node("a", ram_bytes=GIB)
    small.create("first", priority=5)
    small.settle()
    for name, priority in (("low", 1), ("high", 5), ("mid", 3)):
        small.create(name, priority=priority)
    small.delete("first")
    small.settle()
    assert small.where("high") == ["a"]


def test_an_update_keeps_the_nodes_on_which_one_per_node_replicas_wait_for_memory(small):
    small.create("big", 1, memory_request_bytes=10 * GIB, node_selector={"node": "a"})
    small.settle()
    small.create("agent", per_node=True)
    small.settle()
    small.update("agent", oom_score_adj=1)
    small.settle()
    small.delete("big")
    small.settle()
    assert small.where("agent") == ["a", "b", "c"]


@pytest.mark.parametrize("kind", [CordonNode, DrainNode])
def test_a_cordon_that_arrives_again_late_does_not_undo_what_came_after_it(kind):
    small = SmallFleet()
    small.node("a")
    first = kind("a", "request-1", "asked")
    small.apply(first)
    small.apply(UncordonNode("a", "request-2", "asked"))
    small.apply(first)
    assert not small.state.tables.nodes["a"].cordoned
    small.apply(kind("a", "request-3", "asked"))
    assert small.state.tables.nodes["a"].cordoned
    small.apply(UncordonNode("a", "request-2", "asked"))
    assert small.state.tables.nodes["a"].cordoned


def test_a_registration_that_comes_late_is_refused():
    """It would renew the lease and forget what was started since: its agent never says that again."""
    small = SmallFleet()
    announced = NodeAnnouncement(name="a", profile="6.12", possible_cpus=4, ram_bytes=10 * GIB)

    def register(sequence: int, *replicas: ReplicaNews) -> list[tuple[str, str]]:
        command = RegisterAgent(
            agent="agent-a", incarnation="1", address="127.0.0.1:1", sequence=sequence,
            nodes=(replace(announced, replicas=replicas),),
        )  # fmt: skip
        return small.apply(command)[1]

    register(1)
    small.apply(AgentLost("agent-a"))
    register(2)
    small.apply(AgentLost("agent-a"))
    with pytest.raises(FleetError) as refused:
        register(1)
    assert refused.value.reason is ControlReason.STALE_COMMAND
    assert not small.state.tables.agents["agent-a"].alive
    unknown = ReplicaNews(replica="w-0", attempt=0, phase=Phase.RUNNING)
    assert register(3, unknown) == [("a", "w-0")]
