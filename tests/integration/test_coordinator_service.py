"""FleetService and RegistryService over real gRPC, on the memory store: answers, refusals, pages, watches."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import grpc
import pytest
from coordinator_process import until
from grpc import aio
from held_stores import HoldsBatches, OneAtATime
from obedient_agent import GIB, ObedientAgent, nodes_named

from bpfleet.client.fleet import FleetClient, SeenRevision
from bpfleet.client.session import CallError, Session
from bpfleet.coordinator.clock import wall_clock_ms
from bpfleet.coordinator.config import Timing
from bpfleet.coordinator.fleet_service import FleetServicer
from bpfleet.coordinator.node_client import GrpcAgents
from bpfleet.coordinator.reconcile import Coordinator
from bpfleet.coordinator.registry_service import RegistryServicer
from bpfleet.coordinator.store.memory import MemoryStore
from bpfleet.fleet.placement import RequestEstimator
from bpfleet.fleet.settings import FleetSettings
from bpfleet.fleet.store import Batch, Store, StoreUnavailable
from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.rpc.errors import decode_rpc_error
from bpfleet.rpc.revision import highest_revision, revision_metadata
from bpfleet.rpc.server import RpcServer, ServerOptions
from bpfleet.runtime.lifecycle import BackOff
from bpfleet.v1 import fleet_service_pb2 as pb
from bpfleet.v1 import registry_service_pb2 as registry
from bpfleet.v1 import replica_pb2, workload_pb2
from bpfleet.v1.fleet_service_pb2_grpc import FleetServiceStub, add_FleetServiceServicer_to_server
from bpfleet.v1.registry_service_pb2_grpc import (
    RegistryServiceStub,
    add_RegistryServiceServicer_to_server,
)

# Short times, so that back-off, leases and drains pass within a test; nothing asserts how long anything took.
TIMING = Timing(lease_ms=2_000, leader_ttl_ms=1_500, tick_ms=20, leader_poll_ms=20, repeat_ms=500)
SETTINGS = FleetSettings(
    back_off_ms=BackOff(first=50, longest=200, reset=600_000), failures_before_move=1_000
)


class Bench:
    """One coordinator in this process, and stubs for it."""

    def __init__(self, coordinator: Coordinator, target: str, channel: aio.Channel) -> None:
        self.coordinator = coordinator
        self.target = target
        # Any: the asyncio stubs' types exist for the type checker only.
        self.fleet: Any = FleetServiceStub(channel)
        self.registry: Any = RegistryServiceStub(channel)

    async def create(self, name: str, **spec: Any) -> pb.Workload:
        spec.setdefault("replicas", 1)
        spec.setdefault("memory_request_bytes", GIB)
        if "application" not in spec:
            spec.setdefault("inventory", workload_pb2.Inventory(name="app"))
        request = pb.CreateWorkloadRequest(spec=workload_pb2.WorkloadSpec(name=name, **spec))
        return (await self.fleet.CreateWorkload(request)).workload

    async def get(self, name: str) -> pb.Workload:
        return (await self.fleet.GetWorkload(pb.GetWorkloadRequest(name=name))).workload

    async def runs(self, name: str, count: int) -> bool:
        return (await self.get(name)).status.running_count == count

    async def register(self, agent: str, nodes: list[registry.RegisteredNode], **fields: Any):
        request = {"agent": agent, "incarnation": "1", "address": "127.0.0.1:9", **fields}
        return await self.registry.RegisterAgent(
            registry.RegisterAgentRequest(nodes=nodes, **request)
        )


Body = Callable[[Bench], Coroutine[object, object, None]]


def serve(
    body: Body,
    settings: FleetSettings = SETTINGS,
    store: Store | None = None,
    wall_ms: Callable[[], int] = wall_clock_ms,
) -> None:
    async def main() -> None:
        coordinator = Coordinator(
            store or MemoryStore(),
            GrpcAgents(lambda target, agent: ChannelOptions(target=target)),
            identity="test",
            fleet=settings,
            timing=TIMING,
            estimator=RequestEstimator(),
            wall_ms=wall_ms,
        )
        server = RpcServer(
            ServerOptions(),
            [
                partial(add_FleetServiceServicer_to_server, FleetServicer(coordinator)),
                partial(add_RegistryServiceServicer_to_server, RegistryServicer(coordinator)),
            ],
            ["bpfleet.v1.FleetService"],
        )
        port = await server.start()
        work = asyncio.create_task(coordinator.run())
        try:
            async with asyncio.timeout(300):
                await coordinator.leading.wait()
                async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                    await body(Bench(coordinator, f"127.0.0.1:{port}", channel))
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await coordinator.close()
            await server.stop(0)

    asyncio.run(main())


async def refused(call: Any) -> Any:
    with pytest.raises(aio.AioRpcError) as failure:
        await call
    return decode_rpc_error(failure.value)


def with_agent(
    body: Callable[[Bench, ObedientAgent], Coroutine[object, object, None]], **nodes: Any
):
    async def wrapped(bench: Bench) -> None:
        agent = ObedientAgent("a", nodes_named(["n1", "n2", "n3"], **nodes), [bench.target])
        await agent.start()
        await until(lambda: _registered(agent))
        try:
            await body(bench, agent)
        finally:
            await agent.stop()

    return wrapped


async def _registered(agent: ObedientAgent) -> bool:
    return agent.registrations > 0


def test_a_workload_is_created_runs_is_scaled_updated_and_deleted():
    async def body(bench: Bench, agent: ObedientAgent) -> None:
        created = await bench.create("web", replicas=3)
        assert created.name == "workloads/web"
        assert {r.placement.summary.split(" ")[0] for r in created.replicas} == {"n1", "n2", "n3"}
        await until(lambda: bench.runs("web", 3))
        assert len(agent.running) == 3
        scaled = await bench.fleet.UpdateWorkload(
            pb.UpdateWorkloadRequest(name="workloads/web", replicas=5)
        )
        assert scaled.workload.spec.replicas == 5
        await until(lambda: bench.runs("web", 5))
        spec = (await bench.get("web")).spec
        spec.uid = 1000
        await bench.fleet.UpdateWorkload(pb.UpdateWorkloadRequest(name="web", spec=spec))

        async def updated() -> bool:
            status = (await bench.get("web")).status
            return (status.updated_count, status.stopping_count) == (5, 0)

        await until(updated)
        await bench.fleet.DeleteWorkload(pb.DeleteWorkloadRequest(name="web"))

        async def gone() -> bool:
            listed = await bench.fleet.ListWorkloads(pb.ListWorkloadsRequest())
            return listed.total_size == 0 and not agent.running

        await until(gone)

    serve(with_agent(body))


def test_a_replica_that_dies_is_restarted_with_back_off_and_tells_why():
    async def body(bench: Bench, agent: ObedientAgent) -> None:
        agent.failing["web"] = "RLIMIT_MEMLOCK_EXCEEDED"
        await bench.create("web")

        async def backs_off() -> pb.Replica | None:
            (replica,) = (await bench.get("web")).replicas
            return replica if replica.restart_count >= 2 else None

        replica = await until(backs_off)
        assert (replica.last_reason, replica.last_errno) == ("RLIMIT_MEMLOCK_EXCEEDED", 1)
        agent.failing.clear()
        await until(lambda: bench.runs("web", 1))

    serve(with_agent(body))


class LosesAnAnswer(MemoryStore):
    """Stores a batch and says nothing, once it was told to: the leader has to read its state anew."""

    def __init__(self) -> None:
        super().__init__()
        self.loses = False

    async def save(self, batch: Batch) -> None:
        await super().save(batch)
        if self.loses:
            self.loses = False
            raise StoreUnavailable("the answer was lost")


def test_agents_hear_a_leader_that_read_its_state_anew():
    store = LosesAnAnswer()

    async def body(bench: Bench, agent: ObedientAgent) -> None:
        for name in ("one", "two", "three"):
            await bench.create(name)
            await until(partial(bench.runs, name, 1))
        store.loses = True
        request = pb.CreateWorkloadRequest(
            spec=workload_pb2.WorkloadSpec(
                name="four", replicas=1, inventory=workload_pb2.Inventory(name="app")
            ),
            request_id="once",
        )

        async def created() -> bool:
            with contextlib.suppress(aio.AioRpcError):
                await bench.fleet.CreateWorkload(request)
                return True
            return False

        await until(created)
        assert not store.loses
        await until(partial(bench.runs, "four", 1))
        assert agent.stale == 0

    serve(with_agent(body), store=store)


def test_a_silent_agent_is_lost_and_rejoins_with_the_truth():
    async def body(bench: Bench, agent: ObedientAgent) -> None:
        await bench.create("web", replicas=2)
        await until(lambda: bench.runs("web", 2))
        agent.pause()

        async def status(ready: int) -> bool:
            told = await bench.fleet.GetFleetStatus(pb.GetFleetStatusRequest())
            return told.ready_node_count == ready

        await until(lambda: status(0))
        workload = await bench.get("web")
        assert workload.status.pending_count == 2
        assert "NODE_NOT_READY" in workload.status.message
        held = dict(agent.running)
        agent.resume()
        await until(lambda: status(3))
        await until(lambda: bench.runs("web", 2))
        replicas = {(r.node, r.replica) for r in (await bench.get("web")).replicas}

        async def only_these() -> bool:
            return set(agent.running) == replicas

        await until(only_these)
        assert not set(held) & replicas, "what was lost was replaced, not adopted"

    serve(with_agent(body))


def test_cordon_drain_and_uncordon():
    async def body(bench: Bench, agent: ObedientAgent) -> None:
        await bench.create("web", replicas=3)
        await until(lambda: bench.runs("web", 3))
        node = (await bench.fleet.CordonNode(pb.CordonNodeRequest(name="nodes/n1"))).node
        assert node.cordoned
        drained = await bench.fleet.DrainNode(pb.DrainNodeRequest(name="n1"))
        assert drained.node.draining

        async def empty() -> bool:
            got = await bench.fleet.GetFleetNode(pb.GetFleetNodeRequest(name="n1"))
            return got.node.replica_count == 0

        await until(empty)
        await until(lambda: bench.runs("web", 3))
        node = (await bench.fleet.UncordonNode(pb.UncordonNodeRequest(name="n1"))).node
        assert not node.cordoned
        assert not node.draining
        told = await refused(bench.fleet.RemoveNode(pb.RemoveNodeRequest(name="n1")))
        assert told.code is grpc.StatusCode.FAILED_PRECONDITION

    serve(with_agent(body))


def test_an_explanation_covers_every_node_page_by_page():
    async def body(bench: Bench) -> None:
        await bench.register("a", nodes_named([f"n{number}" for number in range(5)]))
        small = nodes_named(["small"], ram_bytes=GIB // 2)
        await bench.register("b", small)
        request = pb.ExplainPlacementRequest(
            spec=workload_pb2.WorkloadSpec(
                name="asked", memory_request_bytes=GIB, inventory=workload_pb2.Inventory(name="app")
            ),
            policy=pb.PLACEMENT_POLICY_MOST_ALLOCATED,
            page_size=4,
        )
        seen = []
        while True:
            answer = await bench.fleet.ExplainPlacement(request)
            chosen = answer.chosen_node
            assert dict(answer.rejections) == {"INSUFFICIENT_MEMORY": 1}
            seen.extend(answer.scores)
            if not answer.next_page_token:
                break
            request.page_token = answer.next_page_token
        others = [f"n{number}" for number in range(5) if f"n{number}" != chosen]
        assert [s.node for s in seen] == [chosen, *others, "small"]
        assert "are free" in seen[-1].message
        listed = await bench.fleet.ListWorkloads(pb.ListWorkloadsRequest())
        assert listed.total_size == 0, "explaining changes nothing"

    serve(body)


def test_lists_are_pages_in_name_order():
    async def body(bench: Bench) -> None:
        await bench.register("a", nodes_named([f"n{number:03}" for number in range(250)]))
        seen: list[str] = []
        request = pb.ListFleetNodesRequest(page_size=100)
        while True:
            answer = await bench.fleet.ListFleetNodes(request)
            assert answer.total_size == 250
            assert len(answer.nodes) <= 100
            seen += [node.name for node in answer.nodes]
            if not answer.next_page_token:
                break
            request.page_token = answer.next_page_token
        assert seen == [f"nodes/n{number:03}" for number in range(250)]

    serve(body)


def test_a_watch_resumes_where_it_ended_and_filters():
    async def body(bench: Bench) -> None:
        await bench.register("a", nodes_named(["n1"]))
        await bench.create("one")
        first = bench.fleet.WatchFleet(pb.WatchFleetRequest(start_revision=1))
        seen: list[pb.FleetEvent] = []
        async for answer in first:
            seen.extend(answer.events)
            if any(event.kind == "REPLICA_PLACED" for event in seen):
                break
        first.cancel()
        after = seen[-1].revision
        assert [event.revision for event in seen] == list(range(1, after + 1))
        second = bench.fleet.WatchFleet(
            pb.WatchFleetRequest(start_revision=after + 1, workload="two")
        )
        await bench.create("other")
        await bench.create("two")
        rest: list[pb.FleetEvent] = []
        async for answer in second:
            rest.extend(answer.events)
            if any(event.kind == "REPLICA_PLACED" for event in rest):
                break
        second.cancel()
        assert {event.workload for event in rest} == {"two"}
        assert all(event.revision > after for event in rest)
        told = await refused(
            bench.fleet.WatchFleet(pb.WatchFleetRequest(start_revision=10_000)).read()
        )
        assert told.reason == "REVISION_UNKNOWN"

    serve(body)


def test_a_watch_from_a_forgotten_revision_is_told_to_list():
    async def body(bench: Bench) -> None:
        for start in range(0, 12_000, 3_000):
            names = [f"n{number}" for number in range(start, start + 3_000)]
            await bench.register("a", nodes_named(names))
        told = await refused(bench.fleet.WatchFleet(pb.WatchFleetRequest(start_revision=1)).read())
        assert (told.code, told.reason) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_COMPACTED")
        oldest = int(told.metadata["oldestRevision"])
        listed = await bench.fleet.ListFleetEvents(pb.ListFleetEventsRequest(page_size=2))
        assert listed.oldest_revision == oldest
        assert [event.revision for event in listed.events] == [oldest, oldest + 1]

    serve(body)


test_a_watch_from_a_forgotten_revision_is_told_to_list = pytest.mark.slow(
    test_a_watch_from_a_forgotten_revision_is_told_to_list
)


def test_a_repeated_request_id_answers_with_the_same_workload():
    async def body(bench: Bench) -> None:
        request = pb.CreateWorkloadRequest(
            request_id="r1",
            spec=workload_pb2.WorkloadSpec(
                name="web", replicas=1, inventory=workload_pb2.Inventory(name="app")
            ),
        )
        first = await bench.fleet.CreateWorkload(request)
        again = await bench.fleet.CreateWorkload(request)
        assert again.workload.revision == first.workload.revision
        request.spec.replicas = 2
        told = await refused(bench.fleet.CreateWorkload(request))
        assert told.reason == "REQUEST_ID_REUSED"

    serve(body)


BAD_SPECS = [
    ({"replicas": -1}, "spec.replicas"),
    ({"replicas": 100_001}, "spec.replicas"),
    ({"uid": -1}, "uid"),
    ({"memory_request_bytes": -5}, "memory_request_bytes"),
    ({"memory_limit_bytes": -5}, "memory_limit_bytes"),
    ({"oom_score_adj": 1001}, "oom_score_adj"),
    ({"application": "nonsense"}, "spec.application"),
    ({"application": "cilium", "inventory": {"name": "x"}}, "spec.application"),
    ({"inventory": {"name": "Bad Name"}}, "name"),
    ({"inventory": {"name": "x", "maps": [{"name": "m", "map_type": 9999}]}}, "map_type"),
    ({"restart_policy": 99}, "restart_policy"),
    ({"node_selector": {"": "x"}}, "node_selector"),
    ({"scheduling": {"required": [{"key": "k"}]}}, "operator"),
    ({"scheduling": {"required": [{"key": "k", "operator": 5, "values": ["x"]}]}}, "values"),
    ({"scheduling": {"preferred": [{"requirement": {"key": "k", "operator": 3}}]}}, "weight"),
    ({"tolerations": [{"effect": 77}]}, "effect"),
    ({"spread": {"topology_key": ""}}, "topology_key"),
    ({"scheduling": {"gang": True}, "per_node": True}, "scheduling.gang"),
    ({"scheduling": {"max_unavailable": -3}}, "max_unavailable"),
    ({"memlock": {"bytes": -7}}, "memlock.bytes"),
    ({"memlock": {}}, "memlock"),
    ({"memlock": {"unlimited": False}}, "memlock"),
    ({"capabilities": {"names": ["CAP_NONSENSE"]}}, "capabilities"),
    ({"labels": {f"k{n}": "" for n in range(65)}}, "labels"),
    ({}, "spec.application"),
]


def test_bad_workloads_are_refused_by_field_and_change_nothing():
    async def body(bench: Bench) -> None:
        for spec, field in BAD_SPECS:
            if spec and not {"application", "inventory"} & spec.keys():
                spec = {**spec, "inventory": {"name": "app"}}
            request = pb.CreateWorkloadRequest(spec={"name": "web", **spec})
            told = await refused(bench.fleet.CreateWorkload(request))
            assert told.code is grpc.StatusCode.INVALID_ARGUMENT, (spec, told)
            assert field in told.message, (spec, told.message)
        for name in ("", "Web", "-web", "web-", "w" * 64, "a/b", "nodes/web", "ü"):
            spec = workload_pb2.WorkloadSpec(name=name, inventory={"name": "app"})
            told = await refused(bench.fleet.CreateWorkload(pb.CreateWorkloadRequest(spec=spec)))
            assert told.code is grpc.StatusCode.INVALID_ARGUMENT, name
        listed = await bench.fleet.ListWorkloads(pb.ListWorkloadsRequest())
        assert listed.total_size == 0
        assert bench.coordinator.log.last_revision == 0

    serve(body)


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("GetWorkload", pb.GetWorkloadRequest(name="none"), "NOT_FOUND"),
        ("GetWorkload", pb.GetWorkloadRequest(), "INVALID_ARGUMENT"),
        ("UpdateWorkload", pb.UpdateWorkloadRequest(name="none", replicas=1), "NOT_FOUND"),
        ("UpdateWorkload", pb.UpdateWorkloadRequest(name="none"), "INVALID_ARGUMENT"),
        ("UpdateWorkload", pb.UpdateWorkloadRequest(name="w", replicas=-1), "INVALID_ARGUMENT"),
        ("DeleteWorkload", pb.DeleteWorkloadRequest(name="none"), "NOT_FOUND"),
        (
            "DeleteWorkload",
            pb.DeleteWorkloadRequest(name="none", request_id="x" * 65),
            "INVALID_ARGUMENT",
        ),
        ("GetFleetNode", pb.GetFleetNodeRequest(name="none"), "NOT_FOUND"),
        ("CordonNode", pb.CordonNodeRequest(name="none"), "NOT_FOUND"),
        ("DrainNode", pb.DrainNodeRequest(name="n o"), "INVALID_ARGUMENT"),
        ("ListWorkloads", pb.ListWorkloadsRequest(page_size=-1), "INVALID_ARGUMENT"),
        ("ListWorkloads", pb.ListWorkloadsRequest(page_token="?"), "INVALID_ARGUMENT"),
        ("ListFleetNodes", pb.ListFleetNodesRequest(page_token="bm9uZQ=="), "INVALID_ARGUMENT"),
        ("ListFleetEvents", pb.ListFleetEventsRequest(page_token="MTp4"), "INVALID_ARGUMENT"),
        ("ListFleetEvents", pb.ListFleetEventsRequest(after_revision=-9), "INVALID_ARGUMENT"),
        ("ExplainPlacement", pb.ExplainPlacementRequest(), "INVALID_ARGUMENT"),
        ("ExplainPlacement", pb.ExplainPlacementRequest(name="none"), "NOT_FOUND"),
        ("ExplainPlacement", pb.ExplainPlacementRequest(name="x", policy=99), "NOT_FOUND"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_reason(method, request_, code):
    async def body(bench: Bench) -> None:
        told = await refused(getattr(bench.fleet, method)(request_))
        assert told.code.name == code
        assert told.reason
        assert told.message

    serve(body)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"agent": ""}, "agent"),
        ({"incarnation": ""}, "incarnation"),
        ({"address": "nowhere"}, "address"),
        ({"nodes": nodes_named(["n 1"])}, "nodes[0].node"),
        ({"nodes": nodes_named(["n1"], profile="2.4")}, "nodes[0].profile"),
        ({"nodes": nodes_named(["n1"], possible_cpus=0)}, "nodes[0].possible_cpus"),
        ({"nodes": nodes_named(["n1"], ram_bytes=-1)}, "nodes[0].ram_bytes"),
        ({"nodes": nodes_named(["n1"], reserved_bytes=1 << 60)}, "nodes[0].reserved_bytes"),
        ({"nodes": nodes_named(["n"]) * 5_001}, "nodes"),
    ],
)
def test_bad_registrations_are_refused_by_field(fields, field):
    async def body(bench: Bench) -> None:
        request = {"agent": "a", "nodes": [], **fields}
        told = await refused(bench.register(**request))
        assert told.code is grpc.StatusCode.INVALID_ARGUMENT
        assert told.message.startswith(field)
        assert bench.coordinator.log.last_revision == 0

    serve(body)


def test_an_agent_without_a_lease_is_told_to_register():
    async def body(bench: Bench) -> None:
        renew = registry.RenewLeaseRequest(agent="a", incarnation="1")
        report = registry.ReportNodesRequest(agent="a", incarnation="1")
        for call in (bench.registry.RenewLease(renew), bench.registry.ReportNodes(report)):
            told = await refused(call)
            assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "LEASE_EXPIRED")
        answer = await bench.register("a", nodes_named(["n1"]))
        assert answer.accepted_count == 1
        assert answer.lease.duration.ToTimedelta().total_seconds() == 2
        await bench.registry.RenewLease(renew)
        taken = await bench.register("b", nodes_named(["n1"]))
        assert [node.reason for node in taken.rejected_nodes] == ["NODE_EXISTS"]
        gone = await bench.registry.UnregisterAgent(
            registry.UnregisterAgentRequest(agent="a", incarnation="1")
        )
        assert gone.removed_node_count == 1

    serve(body)


def test_an_unknown_replica_is_named_and_stopped():
    async def body(bench: Bench, agent: ObedientAgent) -> None:
        agent.running["n1", "ghost-0"] = 0
        answer = await agent.report(
            bench.target, "n1", "ghost-0", phase=replica_pb2.REPLICA_PHASE_RUNNING
        )
        assert list(answer.unknown_replicas) == ["ghost-0"]

        async def stopped() -> bool:
            return not agent.running

        await until(stopped)

    serve(with_agent(body))


# -- bounds, pages, masks


def test_a_workload_of_many_replicas_is_stored_and_told_page_by_page() -> None:
    """More replicas with longer names than one message holds: the answers stay within it."""
    name = "w" + 49 * "x"

    async def body(bench: Bench) -> None:
        await bench.register("a", nodes_named(["n1"]))
        made = await bench.create(name, replicas=2_500, memory_request_bytes=1 << 20)
        assert 0 < len(made.replicas) <= 1_000

        async def all_there() -> bool:
            status = await bench.fleet.GetFleetStatus(pb.GetFleetStatusRequest())
            return sum(status.replicas.values()) == 2_500

        await until(all_there)
        answer = await bench.fleet.GetWorkload(pb.GetWorkloadRequest(name=name, page_size=5_000))
        assert len(answer.workload.replicas) == 1_000
        found: list[str] = []
        token = ""
        while True:
            request = pb.GetWorkloadRequest(name=name, page_size=700, page_token=token)
            answer = await bench.fleet.GetWorkload(request)
            found += [replica.replica for replica in answer.workload.replicas]
            token = answer.next_page_token
            if not token:
                break
        assert found == [f"{name}-{number}" for number in range(2_500)]

    serve(body)


def test_lists_are_filtered_and_ordered() -> None:
    async def body(bench: Bench) -> None:
        await bench.register("a", nodes_named(["n1", "n2", "n3"]))
        await bench.fleet.CordonNode(pb.CordonNodeRequest(name="n2"))
        request = pb.ListFleetNodesRequest(filter="cordoned = false", order_by="name desc")
        answer = await bench.fleet.ListFleetNodes(request)
        assert [node.name for node in answer.nodes] == ["nodes/n3", "nodes/n1"]
        assert answer.total_size == 2
        await bench.create("small")
        await bench.create("large", priority=7)
        request = pb.ListWorkloadsRequest(filter="priority > 0")
        (found,) = (await bench.fleet.ListWorkloads(request)).workloads
        assert found.name == "workloads/large"
        told = await refused(
            bench.fleet.ListWorkloads(pb.ListWorkloadsRequest(filter="colour = red"))
        )
        assert told.metadata["field"] == "filter"

    serve(body)


def test_a_mask_changes_the_fields_it_names_and_no_others() -> None:
    async def body(bench: Bench) -> None:
        await bench.create("w", priority=3, memory_limit_bytes=GIB, labels={"a": "b"})
        request = pb.UpdateWorkloadRequest(
            name="w", spec=workload_pb2.WorkloadSpec(memory_limit_bytes=2 * GIB, priority=9)
        )
        request.update_mask.paths.append("memory_limit_bytes")
        changed = (await bench.fleet.UpdateWorkload(request)).workload.spec
        assert (changed.memory_limit_bytes, changed.priority) == (2 * GIB, 3)
        assert dict(changed.labels) == {"a": "b"}
        request = pb.UpdateWorkloadRequest(name="w")
        request.update_mask.paths.append("memory_limit_bytes")
        cleared = (await bench.fleet.UpdateWorkload(request)).workload.spec
        assert not cleared.HasField("memory_limit_bytes")
        for path in ("name", "per_node", "colour", "labels.a"):
            request = pb.UpdateWorkloadRequest(name="w")
            request.update_mask.paths.append(path)
            told = await refused(bench.fleet.UpdateWorkload(request))
            assert (told.code.name, told.metadata["field"]) == ("INVALID_ARGUMENT", "update_mask")

    serve(body)


def test_verdicts_that_are_no_errnos_are_not_kept() -> None:
    async def body(bench: Bench) -> None:
        await bench.register("a", nodes_named(["n1"]))
        report = registry.NodeReport(
            node="n1", verdicts={"ENOMEM": 3, "x" * 5000: 1, "OOM_KILL": 2}
        )
        await bench.registry.ReportNodes(
            registry.ReportNodesRequest(agent="a", incarnation="1", reports=[report])
        )
        node = (await bench.fleet.GetFleetNode(pb.GetFleetNodeRequest(name="n1"))).node
        assert dict(node.verdicts) == {"ENOMEM": 3, "OOM_KILL": 2}

    serve(body)


def test_a_read_shows_nothing_that_is_not_stored():
    store = HoldsBatches()

    async def body(bench: Bench) -> None:
        await bench.register("a", nodes_named(["n1"]))
        await bench.create("before")
        store.free.clear()
        write = asyncio.ensure_future(bench.create("web"))
        await until(lambda: _decided(bench, "web"))
        for read in (
            bench.fleet.GetWorkload(pb.GetWorkloadRequest(name="web")),
            bench.fleet.ListWorkloads(pb.ListWorkloadsRequest()),
        ):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await read
        store.free.set()
        await write
        assert (await bench.get("web")).name == "workloads/web"

    serve(body, store=store)


def test_a_write_is_answered_when_its_own_batch_is_stored():
    """Others' writes fill the next batch meanwhile: to wait for that too would double the time of every write."""
    store = OneAtATime()

    async def body(bench: Bench) -> None:
        store.permits = asyncio.Semaphore(0)
        first = asyncio.ensure_future(bench.create("first"))
        await until(lambda: _decided(bench, "first"))
        second = asyncio.ensure_future(bench.create("second"))
        await until(lambda: _decided(bench, "second"))
        store.permits.release()
        assert (await first).name == "workloads/first"
        assert not second.done()
        store.permits.release()
        assert (await second).name == "workloads/second"
        store.permits = asyncio.Semaphore(1_000)

    serve(body, store=store)


async def _decided(bench: Bench, name: str) -> bool:
    return name in bench.coordinator.state.tables.workloads


def test_a_client_that_has_seen_more_is_not_answered():
    async def body(bench: Bench) -> None:
        await bench.create("web")
        asked = pb.GetWorkloadRequest(name="web")
        call = bench.fleet.GetWorkload(asked)
        await call
        told = highest_revision(await call.trailing_metadata())
        assert told >= 1
        await bench.fleet.GetWorkload(asked, metadata=revision_metadata(told))
        for request in (asked, pb.GetWorkloadRequest(name="none")):
            refusal = await refused(
                bench.fleet.GetWorkload(request, metadata=revision_metadata(told + 1))
            )
            assert (refusal.code, refusal.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "REVISION_BEHIND",
            )

    serve(body)


def test_a_client_carries_the_revision_it_saw_to_the_next_coordinator():
    async def body(bench: Bench) -> None:
        seen = SeenRevision()

        def calls() -> None:
            with Session(bench.target) as session:
                FleetClient(session, seen).status()
            first = seen.revision
            seen.revision += 1_000_000
            with Session(bench.target) as session, pytest.raises(CallError) as refusal:
                FleetClient(session, seen).workload("web")
            assert refusal.value.reason == "REVISION_BEHIND"
            assert first >= 1

        await bench.create("web")
        await asyncio.to_thread(calls)

    serve(body)


def test_a_watch_ends_with_the_term_and_leads_to_the_new_leader():
    store = MemoryStore()

    async def body(bench: Bench) -> None:
        await bench.create("web")
        watch = bench.fleet.WatchFleet(pb.WatchFleetRequest(start_revision=1))
        await watch.read()
        await store.resign("test")
        await store.acquire("other#1", 60_000)

        async def to_the_end() -> None:
            while await watch.read() is not aio.EOF:
                pass

        told = await refused(to_the_end())
        assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_LEADER")
        for call in (
            bench.fleet.GetFleetStatus(pb.GetFleetStatusRequest()),
            bench.fleet.GetWorkload(pb.GetWorkloadRequest(name="none")),
            bench.fleet.WatchFleet(pb.WatchFleetRequest()).read(),
        ):
            told = await refused(call)
            assert (told.reason, told.metadata["leader"]) == ("NOT_LEADER", "other#1")

    serve(body, store=store)


def test_a_jump_of_the_wall_clock_ends_no_lease():
    wrong_ms = [0]

    async def body(bench: Bench) -> None:
        await bench.register("a", nodes_named(["n1"]))
        for jump_ms in (3_600_000, -7_200_000):
            wrong_ms[0] += jump_ms
            before = bench.coordinator.log.last_revision
            await bench.registry.RenewLease(registry.RenewLeaseRequest(agent="a", incarnation="1"))
            await bench.create(f"web{jump_ms < 0:d}")
            events = bench.coordinator.log.since(before + 1)
            assert "AGENT_LOST" not in {event.kind for event in events}
            assert bench.coordinator.state.tables.nodes["n1"].ready

    serve(body, wall_ms=lambda: wall_clock_ms() + wrong_ms[0])


def test_a_large_call_of_an_agent_is_many_small_commands(monkeypatch) -> None:
    """How much each holds is what bounds a turn of the event loop; how long it takes depends on the machine."""
    sizes: list[int] = []
    submit = Coordinator.submit

    async def seen(self: Coordinator, command: Any) -> Any:
        told = getattr(command, "nodes", ()) or getattr(command, "reports", ())
        sizes.append(sum(1 + len(each.replicas) for each in told))
        sizes.append(len(getattr(command, "removed", ())))
        return await submit(self, command)

    monkeypatch.setattr(Coordinator, "submit", seen)
    names = [f"n{number}" for number in range(400)]
    news = [replica_pb2.ReplicaStatus(replica=f"gone-{number}") for number in range(20)]

    async def body(bench: Bench) -> None:
        await bench.register("a", nodes_named(names, replicas=news))
        reports = [registry.NodeReport(node=name, replicas=news) for name in names]
        request = registry.ReportNodesRequest(
            agent="a", incarnation="1", reports=reports, removed_nodes=names
        )
        await bench.registry.ReportNodes(request)
        assert not bench.coordinator.state.tables.nodes

    serve(body)
    assert max(sizes) <= 1_000
    assert sum(sizes) >= 400 * 21 * 2
