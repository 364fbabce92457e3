"""An agent and its coordinator: registering, renewing, reporting, and getting along while it is away."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from node_agents import running, until

from bpfleet.client.bpf import AgentClient
from bpfleet.client.session import Session
from bpfleet.fleet.reasons import ControlReason
from bpfleet.node_agent.server import READY_SERVICE
from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.rpc.errors import ApiError, api_status
from bpfleet.v1 import (
    node_service_pb2,
    node_service_pb2_grpc,
    replica_pb2,
    runtime_service_pb2,
    runtime_service_pb2_grpc,
    workload_pb2,
)
from bpfleet.v1 import registry_service_pb2 as pb
from bpfleet.v1 import registry_service_pb2_grpc as pb_grpc


class Registry(pb_grpc.RegistryServiceServicer):
    """A coordinator that takes down what it hears. Short leases keep the tests short."""

    def __init__(self):
        self.lock = threading.Lock()
        self.registered, self.renewed, self.reports, self.left = [], 0, [], []
        self.expired = False
        self.unknown, self.removed = [], []

    def RegisterAgent(self, request, context):
        with self.lock:
            self.registered.append(request)
            self.expired = False
        return pb.RegisterAgentResponse(lease=lease(), accepted_count=len(request.nodes))

    def RenewLease(self, request, context):
        with self.lock:
            expired = self.expired
            self.renewed += 1
        if expired:
            error = ApiError(grpc.StatusCode.NOT_FOUND, ControlReason.LEASE_EXPIRED, "who are you")
            context.abort_with_status(rpc_status.to_status(api_status(error)))
        return pb.RenewLeaseResponse(lease=lease())

    def ReportNodes(self, request, context):
        with self.lock:
            self.reports.extend(request.reports)
            self.removed.extend(request.removed_nodes)
            unknown, self.unknown = self.unknown, []
        return pb.ReportNodesResponse(unknown_replicas=unknown)

    def UnregisterAgent(self, request, context):
        with self.lock:
            self.left.append(request.agent)
        return pb.UnregisterAgentResponse()

    def states(self, replica):
        with self.lock:
            found = [r for report in self.reports for r in report.replicas]
        return [each.phase for each in found if each.replica == replica]


def lease():
    message = pb.Lease(leader_epoch=1)
    message.duration.FromMilliseconds(900)
    message.renew_interval.FromMilliseconds(50)
    return message


class Coordinator:
    """A server with a registry, which can be stopped and started again on the same port."""

    def __init__(self):
        self.registry = Registry()
        self.server = None
        self.port = self.start(0)
        self.options = ChannelOptions(target=f"127.0.0.1:{self.port}")

    def start(self, port):
        self.server = grpc.server(ThreadPoolExecutor(4))
        pb_grpc.add_RegistryServiceServicer_to_server(self.registry, self.server)
        bound = self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.server.start()
        return bound

    def stop(self):
        self.server.stop(0).wait(10)


@pytest.fixture
def coordinator():
    made = Coordinator()
    yield made
    made.stop()


def replica(name="katran-0"):
    workload, _, serial = name.rpartition("-")
    spec = workload_pb2.WorkloadSpec(name=workload, application="katran")
    return runtime_service_pb2.ReplicaSpec(workload=spec, serial=int(serial), node="a1-00001")


# Each command of the term comes after the one before.
SEQUENCE = itertools.count(1)


def run(agent, *replicas):
    with Session(agent.target) as session:
        stub = runtime_service_pb2_grpc.RuntimeServiceStub(session.channel)
        request = runtime_service_pb2.RunReplicasRequest(
            replicas=replicas, leader_epoch=1, sequence=next(SEQUENCE)
        )
        session.call(stub.RunReplicas, request)


def listed(agent):
    with Session(agent.target) as session:
        stub = runtime_service_pb2_grpc.RuntimeServiceStub(session.channel)
        return session.call(stub.ListReplicas, runtime_service_pb2.ListReplicasRequest()).statuses


def test_an_agent_announces_all_its_nodes_renews_its_lease_and_leaves(coordinator):
    registry = coordinator.registry
    with running(nodes=3, profile="5.10", coordinators=(coordinator.options,)) as agent:
        until(lambda: registry.renewed > 2, "the lease was renewed")
        target = agent.target
    (request,) = registry.registered
    assert (request.agent, request.address) == ("a1", target)
    assert [node.node for node in request.nodes] == ["a1-00001", "a1-00002", "a1-00003"]
    assert {(n.profile, n.possible_cpus, n.ram_bytes) for n in request.nodes} == {
        ("5.10", 4, 8 << 30)
    }
    assert registry.left == ["a1"]


def test_nodes_that_were_called_are_reported_and_others_are_not(coordinator):
    registry = coordinator.registry
    with running(nodes=3, coordinators=(coordinator.options,)) as agent:
        until(lambda: len(registry.reports) >= 3, "every node was reported once")
        with registry.lock:
            registry.reports.clear()
        with Session(agent.target) as session:
            node = AgentClient(session).node("a1-00002")
            process = node.create_process()
            process.create_map("array", key_size=4, value_size=8, max_entries=1)
        until(lambda: registry.reports, "the node was reported")
        renewed = registry.renewed
        until(lambda: registry.renewed > renewed + 2, "some time has passed")
    assert {report.node for report in registry.reports} == {"a1-00002"}


def test_replicas_are_reported_as_soon_as_they_change(coordinator):
    registry = coordinator.registry
    with running(coordinators=(coordinator.options,)) as agent:
        until(lambda: registry.renewed, "the agent is registered")
        run(agent, replica())
        until(lambda: replica_pb2.REPLICA_PHASE_RUNNING in registry.states("katran-0"), "it runs")
        with Session(agent.target) as session:
            AgentClient(session).node("a1-00001").inject_fault("crash")
        until(
            lambda: replica_pb2.REPLICA_PHASE_FAILED in registry.states("katran-0"), "it has failed"
        )
        until(lambda: any(r.crashed for r in registry.reports), "the crash was reported")


def test_an_agent_registers_again_with_what_runs_when_its_lease_has_expired(coordinator):
    registry = coordinator.registry
    with running(coordinators=(coordinator.options,)) as agent:
        until(lambda: registry.renewed, "the agent is registered")
        run(agent, replica())
        until(lambda: replica_pb2.REPLICA_PHASE_RUNNING in registry.states("katran-0"), "it runs")
        with registry.lock:
            registry.expired = True
        until(lambda: len(registry.registered) == 2, "the agent has registered again")
    first, second = registry.registered
    assert first.incarnation == second.incarnation
    assert [r.replica for node in second.nodes for r in node.replicas] == ["katran-0"]


def test_nodes_run_on_while_the_coordinator_is_away_and_rejoin_when_it_is_back(coordinator):
    registry = coordinator.registry
    with running(coordinators=(coordinator.options,)) as agent:
        until(lambda: registry.renewed, "the agent is registered")
        coordinator.stop()
        run(agent, replica())
        until(
            lambda: listed(agent)[0].phase == replica_pb2.REPLICA_PHASE_RUNNING,
            "it runs all the same",
        )
        registry.expired = True  # it comes back without its memory, however fast
        coordinator.start(coordinator.port)
        until(lambda: len(registry.registered) == 2, "the agent has registered again")
        rejoined = registry.registered[-1]
    assert [r.replica for node in rejoined.nodes for r in node.replicas] == ["katran-0"]


def test_an_agent_finds_the_coordinator_that_answers(coordinator):
    nobody = ChannelOptions(target="127.0.0.1:1")
    with running(coordinators=(nobody, coordinator.options)):
        until(lambda: coordinator.registry.renewed, "the second coordinator was found")


def test_replicas_the_coordinator_does_not_know_are_stopped(coordinator):
    registry = coordinator.registry
    with running(coordinators=(coordinator.options,)) as agent:
        until(lambda: registry.renewed, "the agent has registered")
        run(agent, replica())
        with registry.lock:
            registry.unknown = ["katran-0"]
        until(lambda: not listed(agent), "the replica was stopped")


def test_a_node_created_later_is_announced(coordinator):
    registry = coordinator.registry
    with running(coordinators=(coordinator.options,)) as agent:
        until(lambda: registry.renewed, "the agent is registered")
        with Session(agent.target) as session:
            AgentClient(session).create_node("extra", profile="5.10")
        until(lambda: len(registry.registered) == 2, "the new node was announced")
    assert [node.node for node in registry.registered[1].nodes] == ["extra"]
    assert registry.registered[0].incarnation == registry.registered[1].incarnation


def test_a_node_that_was_deleted_is_reported_until_the_coordinator_has_heard(coordinator):
    registry = coordinator.registry
    with running(coordinators=(coordinator.options,), nodes=2) as agent:
        until(lambda: registry.renewed, "the agent is registered")
        gone = registry.registered[0].nodes[1].node
        with Session(agent.target) as session:
            stub = node_service_pb2_grpc.NodeServiceStub(session.channel)
            stub.DeleteNode(node_service_pb2.DeleteNodeRequest(name=f"nodes/{gone}"), timeout=10)
        until(lambda: registry.removed, "the deletion was reported")
    assert registry.removed == [gone]
    assert not registry.registered[0].partial


def test_an_agent_is_ready_once_a_coordinator_knows_it(coordinator):
    with running(coordinators=(ChannelOptions(target="127.0.0.1:1"),)) as agent:
        assert health(agent.target, "") == health_pb2.HealthCheckResponse.SERVING
        assert health(agent.target, READY_SERVICE) == health_pb2.HealthCheckResponse.NOT_SERVING
    with running(coordinators=(coordinator.options,)) as agent:
        serving = health_pb2.HealthCheckResponse.SERVING
        until(lambda: health(agent.target, READY_SERVICE) == serving, "the agent is ready")
        coordinator.stop()
        assert health(agent.target, READY_SERVICE) == serving, "what runs there runs on"


def health(target, service):
    with grpc.insecure_channel(target) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return health_pb2_grpc.HealthStub(channel).Check(request, timeout=10).status
