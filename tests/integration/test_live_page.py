"""The live page in a real browser, fed by a real coordinator with real agents."""

import asyncio
from pathlib import Path

import aiohttp
import pytest
from browser import Browser, needs_chromium
from coordinator_process import CoordinatorProcess, Fleet, until
from node_agents import running
from redis_server import free_port

from bpfleet.coordinator.live.frames import changed_rows, frame
from bpfleet.coordinator.records import Event
from bpfleet.rpc.channel import ChannelOptions
from bpfleet.v1 import fleet_service_pb2 as fleet
from bpfleet.v1 import workload_pb2

pytestmark = pytest.mark.slow


def coordinator(folder: Path, *arguments: str) -> tuple[CoordinatorProcess, str]:
    port = free_port()
    process = CoordinatorProcess(folder, "--live", f"127.0.0.1:{port}", *arguments)
    process.start()
    return process, f"http://127.0.0.1:{port}/"


async def ready(target: str, nodes: int) -> None:
    calls = Fleet(target)

    async def look() -> bool:
        answer = await calls.first.GetFleetStatus(fleet.GetFleetStatusRequest())
        return bool(answer.ready_node_count == nodes)

    await until(look)


@pytest.mark.browser
@needs_chromium
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_reader_sees_the_fleet_and_opens_a_node(tmp_path: Path, dark: bool) -> None:
    process, url = coordinator(tmp_path)
    there = (ChannelOptions(target=process.target),)
    try:
        with (
            running(agent_id="old", profile="5.10", nodes=30, coordinators=there),
            running(agent_id="new", nodes=30, coordinators=there),
        ):
            asyncio.run(_visit(process.target, url, dark))
    finally:
        process.kill()


async def _visit(target: str, url: str, dark: bool) -> None:
    await ready(target, 60)
    async with Browser(dark=dark) as page:
        await page.open(url)
        await page.until("document.querySelector('#f-ready').textContent === '60'")
        assert await page.value("document.querySelector('#link').textContent") == "live"
        calls = Fleet(target)
        spec = workload_pb2.WorkloadSpec(
            application="datadog-npm", replicas=4, memory_limit_bytes=256 << 20
        )
        request = fleet.CreateWorkloadRequest(workload="probe", spec=spec)
        await calls.first.CreateWorkload(request)
        await page.until("Number(document.querySelector('#f-replicas').textContent) >= 4")
        await page.until("document.querySelectorAll('#events li').length > 60")
        box = await page.value(
            "(() => { const b = document.querySelector('#grid').getBoundingClientRect(),"
            " c = cells[nodes.findIndex(n => n[0] === 'new-00001')]; return [b.x + c[0] + 4, b.y + c[1] + 4]; })()"
        )
        await page.click(*box)
        await page.until("document.querySelector('#n-title').textContent === 'new-00001'")
        await page.until("document.querySelectorAll('#n-cgroups tr').length >= 2")
        assert "agent new" in await page.value("document.querySelector('#n-note').textContent")
        wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not await page.value(wide), "the page scrolls sideways"
        assert page.errors == []


def test_readers_need_the_token(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("sesame-sesame-sesame")
    process, url = coordinator(tmp_path, "--token-file", str(secret))
    try:
        asyncio.run(_knock(url))
    finally:
        process.kill()


async def _knock(url: str) -> None:
    async with aiohttp.ClientSession() as session:

        async def status(path: str, token: str = "") -> int:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            try:
                async with session.get(url + path, headers=headers) as answer:
                    return answer.status
            except aiohttp.ClientConnectionError:
                return 0

        async def page_is_up() -> bool:
            return await status("") == 200

        await until(page_is_up)
        assert await status("api/stream") == 401
        assert await status("api/nodes/x", "wrong") == 401
        assert await status("api/nodes/x", "sesame-sesame-sesame") in (404, 503)
        assert await status("nowhere", "sesame-sesame-sesame") == 404


def test_a_reader_is_told_only_what_changed() -> None:
    before = [("a", "6.12", 1), ("b", "6.12", 2)]
    now = [("a", "6.12", 1), ("b", "6.12", 3)]
    event = Event(revision=7, time_ms=5, kind="REPLICA_FAILED", node="b")
    told = frame(before, now, [event])
    assert told["changed"] == [[1, ("b", "6.12", 3)]]
    assert "nodes" not in told
    assert told["events"][0]["revision"] == 7
    assert changed_rows(before, [("a", "6.12", 1), ("c", "6.12", 2)]) is None
    assert changed_rows(before, now[:1]) is None
    assert frame(None, now, [])["nodes"] == now
