"""Who gets in where, over real sockets: roles, agents that speak for others, addresses, pages, metrics."""

import asyncio
from contextlib import asynccontextmanager
from functools import partial

import aiohttp
import pytest
from coordinator_process import CoordinatorProcess, until
from grpc import aio
from node_agents import running
from obedient_agent import ObedientAgent, nodes_named
from prometheus_client import CollectorRegistry
from redis_server import free_port

from bpfleet.coordinator.config import Timing
from bpfleet.coordinator.fleet_service import FleetServicer
from bpfleet.coordinator.node_client import GrpcAgents
from bpfleet.coordinator.proof import AddressProver
from bpfleet.coordinator.reconcile import Coordinator
from bpfleet.coordinator.registry_service import RegistryServicer
from bpfleet.coordinator.store.memory import MemoryStore
from bpfleet.fleet.placement import RequestEstimator
from bpfleet.fleet.settings import FleetSettings
from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.rpc.channel import aio_channel
from bpfleet.rpc.errors import decode_rpc_error
from bpfleet.rpc.metrics import serve_metrics
from bpfleet.rpc.server import RpcServer, ServerOptions
from bpfleet.rpc.tokens import Tokens, agent_token
from bpfleet.v1 import fleet_service_pb2 as fleet
from bpfleet.v1 import registry_service_pb2 as registry
from bpfleet.v1 import runtime_service_pb2 as runtime
from bpfleet.v1.fleet_service_pb2_grpc import FleetServiceStub, add_FleetServiceServicer_to_server
from bpfleet.v1.registry_service_pb2_grpc import (
    RegistryServiceStub,
    add_RegistryServiceServicer_to_server,
)
from bpfleet.v1.runtime_service_pb2_grpc import RuntimeServiceStub

TOKENS = Tokens(operator="op", user="us", agent_secret="ag")
TIMING = Timing(lease_ms=60_000, leader_ttl_ms=60_000, tick_ms=20, leader_poll_ms=20, repeat_ms=500)


def channel_of(target, agent):
    return ChannelOptions(target=target, token=TOKENS.of_agent(agent))


@asynccontextmanager
async def guarded():
    """A coordinator with tokens; yields its address."""
    coordinator = Coordinator(
        MemoryStore(),
        GrpcAgents(channel_of),
        identity="test",
        fleet=FleetSettings(),
        timing=TIMING,
        estimator=RequestEstimator(),
    )
    prover = AddressProver(TOKENS, channel_of)
    server = RpcServer(
        ServerOptions(tokens=TOKENS),
        [
            partial(add_FleetServiceServicer_to_server, FleetServicer(coordinator)),
            partial(
                add_RegistryServiceServicer_to_server,
                RegistryServicer(coordinator, TOKENS, prover),
            ),
        ],
        ["bpfleet.v1.FleetService"],
    )
    port = await server.start()
    work = asyncio.create_task(coordinator.run())
    try:
        await coordinator.leading.wait()
        yield f"127.0.0.1:{port}"
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await coordinator.close()
        await server.stop(0)


def tell(story):
    async def main():
        async with asyncio.timeout(300), guarded() as target:
            await story(target)

    asyncio.run(main())


async def code_of(call):
    try:
        await call
    except aio.AioRpcError as error:
        told = decode_rpc_error(error)
        return told.code.name, told.reason
    return "OK", ""


def announce(agent, address, **fields):
    return registry.RegisterAgentRequest(
        agent=agent,
        incarnation="1",
        address=address,
        nodes=nodes_named([f"{agent}-n"]),
        **fields,
    )


def test_a_user_registers_no_agent_and_cordons_no_node():
    async def story(target):
        async with aio_channel(ChannelOptions(target=target, token="us")) as channel:
            users, agents = FleetServiceStub(channel), RegistryServiceStub(channel)
            assert await code_of(users.GetFleetStatus(fleet.GetFleetStatusRequest())) == ("OK", "")
            forbidden = ("PERMISSION_DENIED", "ROLE_FORBIDDEN")
            assert await code_of(agents.RegisterAgent(announce("evil", target))) == forbidden
            assert await code_of(users.CordonNode(fleet.CordonNodeRequest(name="n"))) == forbidden
            leave = registry.UnregisterAgentRequest(agent="a1", incarnation="1")
            assert await code_of(agents.UnregisterAgent(leave)) == forbidden

    tell(story)


def test_an_agent_speaks_for_itself_only():
    async def story(target):
        own = agent_token("ag", "a1")
        async with aio_channel(ChannelOptions(target=target, token=own)) as channel:
            stub = RegistryServiceStub(channel)
            forbidden = ("PERMISSION_DENIED", "ROLE_FORBIDDEN")
            for call in (
                stub.RegisterAgent(announce("a2", target)),
                stub.RenewLease(registry.RenewLeaseRequest(agent="a2", incarnation="1")),
                stub.ReportNodes(registry.ReportNodesRequest(agent="a2", incarnation="1")),
                stub.UnregisterAgent(registry.UnregisterAgentRequest(agent="a2", incarnation="1")),
            ):
                assert await code_of(call) == forbidden

    tell(story)


def test_an_agent_registers_only_where_it_answers_and_its_token_goes_nowhere_else():
    """An agent of another name listens at the address: it hears a question, and no token."""
    heard = []

    class Elsewhere(ObedientAgent):
        async def ProveAddress(self, request, context):
            heard.append(dict(context.invocation_metadata()))
            return runtime.ProveAddressResponse(proof="0" * 64)

    async def story(target):
        stranger = Elsewhere("other", [], [f"127.0.0.1:{free_port()}"])
        await stranger.start()
        try:
            own = agent_token("ag", "a1")
            async with aio_channel(ChannelOptions(target=target, token=own)) as channel:
                stub = RegistryServiceStub(channel)
                unproven = ("FAILED_PRECONDITION", "ADDRESS_UNPROVEN")
                nobody = f"127.0.0.1:{free_port()}"
                assert await code_of(stub.RegisterAgent(announce("a1", nobody))) == unproven
                there = announce("a1", stranger._address)
                assert await code_of(stub.RegisterAgent(there)) == unproven
            assert len(heard) == 1
            assert "authorization" not in heard[0]
        finally:
            await stranger.stop()

    tell(story)


def test_a_real_agent_proves_its_address_and_takes_orders_under_its_own_token():
    async def story(target):
        tokens = Tokens(operator="never sent here", agent_secret="ag", own_agent="a1")
        there = (ChannelOptions(target=target, token=agent_token("ag", "a1")),)
        server = ServerOptions(tokens=tokens, stop_grace_seconds=1)
        with await asyncio.to_thread(running, coordinators=there, server=server) as agent:
            async with aio_channel(ChannelOptions(target=target, token="us")) as channel:
                stub = FleetServiceStub(channel)

                async def ready():
                    told = await stub.GetFleetStatus(fleet.GetFleetStatusRequest())
                    return told.ready_node_count == 2

                await until(ready)
                spec = {"name": "w", "application": "falco", "replicas": 2}
                await stub.CreateWorkload(fleet.CreateWorkloadRequest(spec=spec))

                async def runs():
                    request = fleet.GetWorkloadRequest(name="w")
                    return (await stub.GetWorkload(request)).workload.status.running_count == 2

                await until(runs)
            orders = runtime.StopReplicasRequest(leader_epoch=1 << 40, sequence=1)
            for token, expected in (
                ("us", "UNAUTHENTICATED"),
                (agent_token("ag", "a2"), "UNAUTHENTICATED"),
            ):
                async with aio_channel(ChannelOptions(target=agent.target, token=token)) as channel:
                    code, _ = await code_of(RuntimeServiceStub(channel).StopReplicas(orders))
                    assert code == expected

    tell(story)


def test_who_leaves_says_which_start_of_it_leaves_and_leaves_whole():
    async def story(target):
        async with aio_channel(ChannelOptions(target=target, token="op")) as channel:
            stub = RegistryServiceStub(channel)
            leave = registry.UnregisterAgentRequest(agent="nodes/a1", incarnation="")
            assert await code_of(stub.UnregisterAgent(leave)) == ("INVALID_ARGUMENT", "BAD_REQUEST")

    tell(story)


def test_an_agent_that_has_not_registered_yet_takes_no_orders():
    nobody = (ChannelOptions(target=f"127.0.0.1:{free_port()}"),)
    with running(coordinators=nobody) as agent:

        async def ask(epoch):
            async with aio.insecure_channel(agent.target) as channel:
                orders = runtime.StopReplicasRequest(leader_epoch=epoch, sequence=1 << 40)
                return await code_of(RuntimeServiceStub(channel).StopReplicas(orders))

        for epoch in (0, 1, 1 << 40):
            assert asyncio.run(ask(epoch)) == ("ABORTED", "STALE_COMMAND")


# -- pages and metrics


async def get(url, **headers):
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, dict(answer.headers), await answer.text()


def test_metrics_need_a_token_where_there_is_one_and_a_host_that_is_known():
    registry_of_metrics = CollectorRegistry()
    port = serve_metrics("127.0.0.1:0", registry_of_metrics, tokens=TOKENS)
    url = f"http://127.0.0.1:{port}/metrics"

    async def story():
        assert (await get(url))[0] == 401
        assert (await get(url, Authorization="Bearer wrong"))[0] == 401
        for token in ("op", "us", agent_token("ag", "a1")):
            assert (await get(url, Authorization=f"Bearer {token}"))[0] == 200
        status, headers, _ = await get(url, Authorization="Bearer op", Host="evil.example")
        assert status == 421
        assert "Python" not in headers.get("Server", "")

    asyncio.run(story())


@pytest.mark.slow
def test_the_live_page_is_framed_by_nobody_answers_to_no_other_name_and_survives_odd_bytes(
    tmp_path,
):
    (tmp_path / "token").write_text("op")
    port = free_port()
    process = CoordinatorProcess(
        tmp_path, "--live", f"127.0.0.1:{port}", "--token-file", str(tmp_path / "token")
    )
    process.start()
    url = f"http://127.0.0.1:{port}/"

    async def story():
        async def up():
            try:
                return (await get(url))[0] == 200
            except aiohttp.ClientError:
                return False

        await until(up)
        _, headers, _ = await get(url)
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "Server" not in headers
        assert (await get(url, Host="evil.example"))[0] == 421
        assert (await get(url + "api/nodes/x"))[0] == 401
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"GET /api/nodes/x HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer \xff\r\n\r\n"
        )
        assert b" 401 " in await reader.readline()
        writer.close()

    try:
        asyncio.run(asyncio.wait_for(story(), 60))
    finally:
        process.kill()
    assert "Traceback" not in process.output
