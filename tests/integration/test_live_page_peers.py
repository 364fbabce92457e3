"""Peers of the live page that do not ask, or do not read: their places are free again after a while."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import aiohttp
from held_stores import HoldsBatches

from bpfleet.coordinator.config import Timing
from bpfleet.coordinator.live.server import LivePage
from bpfleet.coordinator.node_client import GrpcAgents
from bpfleet.coordinator.reconcile import Coordinator
from bpfleet.fleet.commands import NodeAnnouncement, RegisterAgent
from bpfleet.fleet.placement import RequestEstimator
from bpfleet.fleet.settings import FleetSettings
from bpfleet.rpc.addresses import ChannelOptions

GIB = 1 << 30


async def register(coordinator: Coordinator, nodes: int) -> None:
    announced = tuple(
        NodeAnnouncement(
            name=f"node-{number}", profile="6.12", possible_cpus=4, ram_bytes=GIB, reserved_bytes=0
        )
        for number in range(nodes)
    )
    await coordinator.submit(
        RegisterAgent(agent="a", incarnation="1", address="127.0.0.1:1", nodes=announced)
    )


def serve(body: Callable[[Coordinator, HoldsBatches, int], Awaitable[None]]) -> None:
    async def main() -> None:
        store = HoldsBatches()
        coordinator = Coordinator(
            store,
            GrpcAgents(lambda target, agent: ChannelOptions(target=target)),
            identity="test",
            fleet=FleetSettings(),
            timing=Timing(tick_ms=50),
            estimator=RequestEstimator(),
        )
        page = LivePage(
            coordinator,
            lambda target, agent: ChannelOptions(target=target),
            readers_max=1,
            silence_seconds=0.5,
        )
        port = await page.start("127.0.0.1:0")
        work = asyncio.create_task(coordinator.run())
        try:
            async with asyncio.timeout(120):
                await coordinator.leading.wait()
                await body(coordinator, store, port)
        finally:
            await page.close()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await coordinator.close()

    asyncio.run(main())


def test_half_a_request_does_not_stay_open() -> None:
    async def body(coordinator: Coordinator, store: HoldsBatches, port: int) -> None:
        for sent in (b"", b"GET /api/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            assert await reader.read() == b""
            writer.close()

    serve(body)


def test_a_reader_that_reads_nothing_loses_its_place_to_one_that_does() -> None:
    async def body(coordinator: Coordinator, store: HoldsBatches, port: int) -> None:
        await register(coordinator, 100_000)
        with socket.socket() as silent:
            # So little fits between the two that the page notices.
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            silent.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(silent, ("127.0.0.1", port))
            await loop.sock_sendall(silent, b"GET /api/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert (await loop.sock_recv(silent, 16)).startswith(b"HTTP/1.1 200")
            async with aiohttp.ClientSession(read_bufsize=1 << 24) as session:
                url = f"http://127.0.0.1:{port}/api/stream"
                statuses = []
                while 200 not in statuses:
                    async with session.get(url) as answer:
                        statuses.append(answer.status)
                    await asyncio.sleep(0.05)
                assert statuses[0] == 503

    serve(body)


def test_the_page_shows_nothing_that_is_not_stored() -> None:
    async def body(coordinator: Coordinator, store: HoldsBatches, port: int) -> None:
        store.free.clear()
        registering = asyncio.ensure_future(register(coordinator, 1))
        url = f"http://127.0.0.1:{port}/api/stream"
        async with aiohttp.ClientSession() as session:
            asked = asyncio.ensure_future(session.get(url))
            while "node-0" not in coordinator.state.tables.nodes:
                await asyncio.sleep(0.01)
            done, _ = await asyncio.wait((asked,), timeout=0.3)
            assert not done
            store.free.set()
            await registering
            async with await asked as answer:
                assert b"node-0" in await answer.content.readline()

    serve(body)
