"""Replicas on an agent: started, told apart by attempt, failing with a reason, churning, stopped."""

import grpc
import pytest
from node_agents import connected, until

from bpfleet.client.session import CallError
from bpfleet.v1 import bpf_pb2, replica_pb2, workload_pb2
from bpfleet.v1 import runtime_service_pb2 as pb
from bpfleet.v1 import runtime_service_pb2_grpc as pb_grpc

NODE = "a1-00001"


class Runtime:
    """Calls to RuntimeService."""

    def __init__(self, client):
        self.session = client.session
        self.stub = pb_grpc.RuntimeServiceStub(client.session.channel)

    def run(self, *replicas, **numbers):
        request = pb.RunReplicasRequest(replicas=replicas, **numbers)
        return self.session.call(self.stub.RunReplicas, request)

    def stop(self, *replicas, **numbers):
        keys = [pb.ReplicaKey(node=node, replica=replica) for node, replica in replicas]
        request = pb.StopReplicasRequest(replicas=keys, **numbers)
        return self.session.call(self.stub.StopReplicas, request)

    def all(self, **changes):
        request = pb.ListReplicasRequest(**changes)
        pages = self.session.pages(self.stub.ListReplicas, request)
        return [status for page in pages for status in page.statuses]

    def settled(self, replica):
        """The status of a replica once it runs or has failed."""
        return until(lambda: self._settled(replica), f"{replica} has started")

    def _settled(self, replica):
        for status in self.all():
            if status.replica == replica and status.phase != replica_pb2.REPLICA_PHASE_ASSIGNED:
                return status
        return None


@pytest.fixture
def client():
    with connected() as (_, connected_client):
        yield connected_client


@pytest.fixture
def runtime(client):
    return Runtime(client)


def inventory(max_entries=64, **churn):
    flows = workload_pb2.MapDeclaration(
        name="flows",
        map_type=bpf_pb2.MAP_TYPE_HASH,
        key_size=4,
        value_size=8,
        max_entries=max_entries,
        fill_entries=10,
    )
    xdp = workload_pb2.ProgramDeclaration(
        name="count", prog_type=bpf_pb2.PROGRAM_TYPE_XDP, insn_cnt=100, map_names=["flows"]
    )
    return workload_pb2.Inventory(
        name="counter",
        maps=[flows],
        programs=[xdp],
        user_memory_bytes=1 << 20,
        churn=workload_pb2.Churn(step_ns=20_000_000, **churn),
    )


def spec(replica="counter-0", *, node=NODE, attempt=0, cgroup="", **changes):
    name, _, serial = replica.rpartition("-")
    workload = workload_pb2.WorkloadSpec(**{"name": name, "inventory": inventory(), **changes})
    return pb.ReplicaSpec(
        workload=workload, serial=int(serial), node=node, attempt=attempt, cgroup=cgroup
    )


def test_a_replica_starts_and_tells_what_it_has(runtime, client):
    (status,) = runtime.run(spec(memory_limit_bytes=16 << 20)).statuses
    assert status.phase == replica_pb2.REPLICA_PHASE_ASSIGNED
    status = runtime.settled("counter-0")
    assert status.phase == replica_pb2.REPLICA_PHASE_RUNNING
    assert (status.workload, status.map_count, status.program_count) == ("counter", 1, 1)
    assert status.cgroup == "/workloads/counter-0"
    assert status.charged_bytes > 1 << 20
    assert status.rss_bytes == 1 << 20
    assert client.node(NODE).cgroup(status.cgroup).read("memory.max") == f"{16 << 20}\n"


def test_an_application_of_the_catalogue_is_sized_for_its_node(runtime):
    runtime.run(spec("katran-0", inventory=None, application="katran"))
    status = runtime.settled("katran-0")
    assert status.phase == replica_pb2.REPLICA_PHASE_RUNNING, status.message
    assert status.map_count > 5


def test_churn_goes_on_while_the_replica_runs(runtime):
    runtime.run(spec())
    until(lambda: runtime.settled("counter-0").operation_count > 100, "churn has made operations")


def test_a_refused_start_tells_call_object_errno_and_reason(runtime):
    runtime.run(spec(inventory=inventory(max_entries=1_000_000), memory_limit_bytes=2 << 20))
    status = runtime.settled("counter-0")
    assert status.phase == replica_pb2.REPLICA_PHASE_FAILED
    assert (status.errno, status.reason) == (12, "MEMCG_LIMIT_EXCEEDED")
    assert (status.call, status.object) == ("MAP_CREATE", "flows")
    assert status.message.startswith("MAP_CREATE of flows: ENOMEM MEMCG_LIMIT_EXCEEDED: ")


def test_a_replica_killed_for_its_heap_says_so(runtime):
    runtime.run(spec(user_memory_bytes=8 << 20, memory_limit_bytes=4 << 20))
    status = runtime.settled("counter-0")
    assert status.phase == replica_pb2.REPLICA_PHASE_FAILED
    assert (status.reason, status.errno) == ("OOM_KILLED", 0)


@pytest.mark.parametrize("signal", ["kill", "cgroup.kill"])
def test_a_replica_killed_by_a_signal_says_so(runtime, client, signal):
    runtime.run(spec())
    status = runtime.settled("counter-0")
    if signal == "kill":
        client.node(NODE).process(status.pid).kill()
    else:
        client.node(NODE).cgroup(status.cgroup).write("cgroup.kill", "1")
    status = runtime.settled("counter-0")
    assert status.phase == replica_pb2.REPLICA_PHASE_FAILED
    assert (status.reason, status.errno) == ("CALLER_KILLED", 0)
    assert str(status.pid) in status.message


def test_the_same_attempt_is_left_alone_and_a_higher_one_takes_its_place(runtime):
    runtime.run(spec())
    first = runtime.settled("counter-0")
    (again,) = runtime.run(spec()).statuses
    assert (again.pid, again.attempt) == (first.pid, 0)
    runtime.run(spec(attempt=1))
    until(lambda: runtime.settled("counter-0").pid != first.pid, "the new attempt has started")
    (late,) = runtime.run(spec(attempt=0)).statuses
    assert late.attempt == 1


def test_a_replica_that_cannot_be_is_refused_and_hinders_no_other(runtime):
    answer = runtime.run(
        spec("lost-0", node="nowhere"),
        spec("odd-0", application="katran"),
        spec("unknown-0", inventory=None, application="no-such-app"),
        spec("huge-0", uid=-1),
        spec("privileged-0", capabilities={"names": ["CAP_MAGIC"]}),
        spec("relative-0", cgroup="workloads/x"),
        spec("deep-0", cgroup="/x" * 4096),
        spec("good-0"),
    )
    assert [(r.replica, r.reason) for r in answer.refused_replicas] == [
        ("lost-0", "NODE_UNKNOWN"),
        ("odd-0", "BAD_REPLICA"),
        ("unknown-0", "BAD_REPLICA"),
        ("huge-0", "BAD_REPLICA"),
        ("privileged-0", "BAD_REPLICA"),
        ("relative-0", "BAD_REPLICA"),
        ("deep-0", "BAD_REPLICA"),
    ]
    assert all(r.message for r in answer.refused_replicas)
    assert [status.replica for status in answer.statuses] == ["good-0"]


def test_serials_have_no_end(runtime):
    numbers = (99_999, 100_000, 100_001, 1_000_000, 1_000_001, (1 << 63) - 1)
    pinned = inventory()
    pinned.maps[0].pinned = True
    answer = runtime.run(*(spec(f"counter-{n}", inventory=pinned) for n in numbers))
    assert not answer.refused_replicas
    for number in numbers:
        status = runtime.settled(f"counter-{number}")
        assert status.phase == replica_pb2.REPLICA_PHASE_RUNNING, status.message
        assert status.map_count == 1, "every replica pins a map of its own"


def test_a_stopped_replica_leaves_nothing_behind(runtime, client):
    node = client.node(NODE)
    before = node.info().status
    runtime.run(spec())
    runtime.settled("counter-0")
    (status,) = runtime.stop((NODE, "counter-0")).statuses
    assert status.replica == "counter-0"
    assert runtime.all() == []
    # Without another call to the node: nobody has to ask for what Linux frees late.
    after = node.info().status
    assert (after.process_count, after.map_count) == (0, 0)
    assert after.bpf_charged_bytes == before.bpf_charged_bytes == 0
    assert {line.owner for line in node.ledger()} <= {"cpu stock"}
    assert [cgroup.path for cgroup in node.list_cgroups()] == ["/", "/workloads"]
    assert runtime.stop((NODE, "counter-0")).statuses == []


def test_lists_have_pages_and_one_nodes_replicas(runtime):
    runtime.run(*(spec(f"counter-{n}", node=f"a1-0000{1 + n % 2}") for n in range(5)))
    request = pb.ListReplicasRequest(page_size=2)
    pages = list(runtime.session.pages(runtime.stub.ListReplicas, request))
    assert [len(page.statuses) for page in pages] == [2, 2, 1]
    assert pages[0].total_size == 5
    assert [s.replica for s in runtime.all(node="a1-00002")] == ["counter-1", "counter-3"]


def test_late_commands_and_those_of_a_deposed_coordinator_are_refused(runtime):
    runtime.run(spec(), leader_epoch=2, sequence=5)
    for epoch, sequence in ((2, 5), (2, 4), (1, 99)):
        with pytest.raises(CallError) as caught:
            runtime.stop((NODE, "counter-0"), leader_epoch=epoch, sequence=sequence)
        assert (caught.value.code, caught.value.reason) == (
            grpc.StatusCode.ABORTED,
            "STALE_COMMAND",
        )
    assert len(runtime.all()) == 1
    runtime.stop((NODE, "counter-0"), leader_epoch=3, sequence=1)
    assert runtime.all() == []


def test_replicas_of_a_crashed_node_have_failed_and_those_of_a_deleted_one_are_gone(
    runtime, client
):
    runtime.run(spec("a-0"), spec("b-0", node="a1-00002"))
    runtime.settled("a-0")
    runtime.settled("b-0")
    client.node(NODE).inject_fault("crash")
    client.node("a1-00002").delete()
    (status,) = runtime.all()
    assert status.phase == replica_pb2.REPLICA_PHASE_FAILED
    assert (status.replica, status.reason) == ("a-0", "NODE_CRASHED")


def test_too_many_replicas_in_one_call_are_refused(runtime):
    with pytest.raises(CallError, match="at most 1000"):
        runtime.run(*[spec()] * 1001)
