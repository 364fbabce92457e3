"""Metrics that every server has, scraped from real ones."""

import asyncio
import re

import aiohttp
import pytest
from coordinator_process import CoordinatorProcess, Fleet, until
from grpc import aio
from node_agents import connected
from redis_server import free_port

from bpfleet.coordinator.metrics import known_reason
from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.v1 import fleet_service_pb2 as fleet

COMMON = (
    "bpfleet_build_info", "process_resident_memory_bytes", "python_info", "python_gc_collections_total",
)  # fmt: skip


async def scrape(port):
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as answer,
    ):
        return await answer.text()


def value(text, series):
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else None


@pytest.mark.slow
def test_a_coordinator_tells_what_it_is_and_counts_its_calls_by_code(tmp_path):
    port = free_port()
    process = CoordinatorProcess(tmp_path, "--metrics", f"127.0.0.1:{port}")
    process.start()

    async def story():
        calls = Fleet(process.target)
        await calls.call("GetFleetStatus", fleet.GetFleetStatusRequest())
        with pytest.raises(aio.AioRpcError, match="does not exist"):
            await calls.first.GetWorkload(fleet.GetWorkloadRequest(name="none"))
        service = 'grpc_service="bpfleet.v1.FleetService"'
        head = "grpc_server_handled_total{grpc_code="
        ok = f'{head}"OK",grpc_method="GetFleetStatus",{service}}}'
        gone = f'{head}"NOT_FOUND",grpc_method="GetWorkload",{service}}}'

        async def counted():
            text = await scrape(port)
            return value(text, ok) == 1 and value(text, gone) == 1

        await until(counted)
        text = await scrape(port)
        assert all(f"# TYPE {name}" in text for name in COMMON)
        assert 'program="coordinator"' in text
        await calls.close()

    try:
        asyncio.run(asyncio.wait_for(story(), 60))
    finally:
        process.kill()


def test_an_agent_has_the_same_metrics():
    port = free_port()
    with connected(metrics=f"127.0.0.1:{port}") as (_, client):
        client.node("a1-00001").info()
        text = asyncio.run(scrape(port))
    assert all(f"# TYPE {name}" in text for name in COMMON)
    assert 'grpc_method="GetNode"' in text
    assert 'program="agent"' in text


@pytest.mark.slow
def test_calls_that_are_made_are_counted_as_those_that_are_served(tmp_path):
    port = free_port()
    process = CoordinatorProcess(tmp_path)
    process.start()
    try:
        there = (ChannelOptions(target=process.target),)
        with connected(metrics=f"127.0.0.1:{port}", coordinators=there):

            async def counted():
                text = await scrape(port)
                head = 'grpc_client_handled_total{grpc_code="OK",grpc_method="RegisterAgent"'
                return value(text, head + ',grpc_service="bpfleet.v1.RegistryService"}')

            assert asyncio.run(until(counted)) == 1
    finally:
        process.kill()


def test_reasons_that_agents_make_up_are_one_label():
    assert known_reason("OOM_KILLED") == "OOM_KILLED"
    assert known_reason("x" * 64) == "other"
