"""The live page in a real browser, fed by a real coordinator with real agents."""

import asyncio
import json
import re
from pathlib import Path

import aiohttp
import pytest
from accessibility import axe, complaints
from browser import Browser, needs_chromium
from coordinator_process import CoordinatorProcess, Fleet, until
from node_agents import running
from obedient_agent import ObedientAgent, nodes_named
from redis_server import RedisServer, free_port, needs_redis

from bpfleet.fleet.frames import LINES_MAX, changed_rows, event_lines, frame
from bpfleet.fleet.records import FleetEvent
from bpfleet.rpc.addresses import ChannelOptions
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
            name="probe", application="datadog-npm", replicas=4, memory_limit_bytes=256 << 20
        )
        request = fleet.CreateWorkloadRequest(spec=spec)
        await calls.first.CreateWorkload(request)
        await page.until("Number(document.querySelector('#f-replicas').textContent) >= 4")
        await page.until(f"{EVENTS}.includes('REPLICA_PLACED \u00d74, last: probe-')")
        await page.click(*await square(page, "new-00001"))
        await page.until("document.querySelector('#n-title').textContent === 'new-00001'")
        await page.until("document.querySelectorAll('#n-cgroups tr').length >= 2")
        assert "agent new" in await page.value("document.querySelector('#n-note').textContent")
        await page.press("Escape")
        await _by_keyboard(page, url)
        await _filtered(page, calls)
        await page.until("document.querySelector('#node').hidden")
        await _who_holds_what(page, calls)
        assert not await page.value(SCROLLS_SIDEWAYS)
        assert page.errors == []


@pytest.mark.browser
@needs_chromium
def test_it_has_no_fault_for_axe_with_and_without_a_node_open(tmp_path: Path) -> None:
    axe()
    process, url = coordinator(tmp_path)
    try:
        with running(agent_id="a", nodes=4, coordinators=(ChannelOptions(target=process.target),)):
            asyncio.run(_examined(process.target, url))
    finally:
        process.kill()


async def _examined(target: str, url: str) -> None:
    await ready(target, 4)
    for dark in (False, True):
        async with Browser(dark=dark) as page:
            for width in (1280, 390):
                await page.resize(width, 800)
                await page.open(url)
                await page.until("document.querySelector('#f-ready').textContent === '4'")
                assert await complaints(page) == [], (dark, width)
                assert not await page.value(SCROLLS_SIDEWAYS)
                await page.click(*await square(page, "a-00001"))
                await page.until("document.querySelectorAll('#n-cgroups tr').length >= 2")
                assert await complaints(page) == [], (dark, width, "node")


async def _by_keyboard(page: Browser, url: str) -> None:
    """From the top of the page to a node and back, with nothing but keys; opening must not close it again."""
    focus = "document.activeElement.id"
    await page.open("about:blank")
    await page.open(url)
    await page.until("document.querySelector('#f-ready').textContent === '60'")
    await page.press("Tab")
    await page.press("Enter")
    assert await page.value(focus) == "grid"
    await page.press("ArrowRight")
    await page.press("ArrowRight")
    assert "BPF charged" in await page.value("document.querySelector('#hover').textContent")
    await page.press("Enter")
    assert await page.value(
        "[document.querySelector('#node').hidden, document.activeElement.id]"
    ) == [False, "n-close"]
    await page.until("document.querySelectorAll('#n-cgroups tr').length >= 2")
    reached = []
    while (
        name := await page.value("document.activeElement.getAttribute('aria-label')")
    ) != "Ledger":
        reached.append(name)
        await page.press("Tab")
        assert len(reached) < 20, reached
    assert [name for name in reached if name] == ["Replicas", "Cgroups", "Maps", "Processes"]
    await page.press("Escape")
    assert await page.value("document.querySelector('#node').hidden")
    assert await page.value(focus) == "grid"


async def _filtered(page: Browser, calls: Fleet) -> None:
    request = fleet.LabelNodeRequest(name="old-00003", labels={"zone": "z1"})
    await calls.first.LabelNode(request)
    shown = "document.querySelector('#shown').textContent"
    choose = (
        "(() => {{ const box = document.querySelector('#{0}');"
        " box.value = '{1}'; box.dispatchEvent(new Event('input')); }})()"
    )
    await page.value(choose.format("by-kernel", "5.10"))
    assert await page.value(shown) == "30 of 60 nodes"
    await page.value(choose.format("by-kernel", ""))
    await page.value(choose.format("by-label", "zone=z1"))
    await page.until(f"{shown} === '1 of 60 nodes'")
    await page.value("document.querySelector('#grid').focus()")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        await page.press(key)
    assert (await page.value("document.querySelector('#hover').textContent")).startswith(
        "old-00003"
    )
    await page.value(choose.format("by-label", ""))
    await page.value(choose.format("by-state", "closed"))
    assert await page.value(shown) == "0 of 60 nodes"
    await calls.first.CordonNode(fleet.CordonNodeRequest(name="new-00002"))
    await page.until(f"{shown} === '1 of 60 nodes'")
    await page.value(choose.format("by-state", ""))
    assert await page.value(shown) == ""


async def _who_holds_what(page: Browser, calls: Fleet) -> None:
    """A node with a replica: its limit, how full its maps are, and which process has them."""
    spec = workload_pb2.WorkloadSpec(
        name="held",
        application="bcc-execsnoop",
        replicas=1,
        memory_limit_bytes=256 << 20,
        node_selector={"bpfleet/profile": "6.12"},
    )
    await calls.first.CreateWorkload(fleet.CreateWorkloadRequest(spec=spec))

    async def placed() -> str:
        answer = await calls.first.GetWorkload(fleet.GetWorkloadRequest(name="held"))
        return "".join(
            r.node for r in answer.workload.replicas if answer.workload.status.running_count
        )

    node = (await until(placed)).removeprefix("nodes/")
    await page.click(*await square(page, node))
    await page.until("document.querySelectorAll('#n-maps tr').length > 2")
    texts = {
        part: await page.value(f"document.querySelector('#n-{part}').innerText")
        for part in ("replicas", "cgroups", "maps", "processes")
    }
    assert "256 MiB" in texts["replicas"]
    assert "256 MiB" in texts["cgroups"]
    assert "memory.high" in texts["cgroups"]
    assert " of " in texts["maps"]
    assert "%" in texts["maps"]
    pid = re.search(r"^(\d+)\t(\S+)", texts["processes"], re.M)
    assert pid is not None, texts["processes"]
    assert f"{pid[2]} ({pid[1]})" in texts["maps"]


EVENTS = "document.querySelector('#events').textContent"
SCROLLS_SIDEWAYS = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
# How many squares of the grid have ink in their middle, and how many places those squares have.
DRAWN = """(() => {
    const canvas = document.querySelector('#grid'), ink = canvas.getContext('2d');
    const dots = ink.getImageData(0, 0, canvas.width, canvas.height), half = Math.floor(plan.size / 2);
    const inked = cells.filter(([x, y]) => dots.data[((y + half) * dots.width + x + half) * 4 + 3] === 255);
    return [inked.length, new Set(inked.map(String)).size];
})()"""


async def square(page: Browser, node: str) -> list[float]:
    """The place of a node's square in the window."""
    return await page.value(
        "(() => { const b = document.querySelector('#grid').getBoundingClientRect(),"
        f" c = cells[nodes.findIndex(n => n[0] === '{node}')]; return [b.x + c[0] + 2, b.y + c[1] + 2]; }})()"
    )


@pytest.mark.browser
@needs_chromium
def test_ten_thousand_nodes_fit_into_the_window_and_follow_what_happens(tmp_path: Path) -> None:
    """Nodes without kernels, but for one agent, so that their number costs nothing: the page cannot tell."""
    process, url = coordinator(tmp_path)
    there = (ChannelOptions(target=process.target),)
    try:
        with running(agent_id="real", nodes=2, coordinators=there):
            asyncio.run(_visit_ten_thousand(process.target, url))
    finally:
        process.kill()


async def _visit_ten_thousand(target: str, url: str) -> None:
    models = ("5.10", "5.11", "6.1", "6.12", "6.12:nobpf")
    many = [
        node
        for turn, model in enumerate(models)
        for node in nodes_named((f"n{turn}-{i:05}" for i in range(2_000)), profile=model)
    ]
    agent = ObedientAgent("many", many[:9_998], [target])
    await agent.start()
    try:
        await ready(target, 10_000)
        async with Browser() as page:
            await page.resize(1280, 800)
            await page.open(url)
            await page.until("document.querySelector('#f-ready').textContent === '10,000'")
            assert await page.value(DRAWN) == [10_000, 10_000]
            assert await page.value("document.documentElement.scrollHeight") <= 800
            assert not await page.value(SCROLLS_SIDEWAYS)
            await _point_at_a_node(page)
            await _see_a_node_cordoned(page, target)
            await page.click(*await square(page, "real-00002"))
            await page.until("document.querySelectorAll('#n-ledger tr').length >= 2")
            await page.press("Escape")
            assert await page.value("document.querySelector('#node').hidden")
            await page.resize(700, 900)
            await page.until("cells.every(c => c[0] + plan.step <= 700)")
            assert await page.value(DRAWN) == [10_000, 10_000]
            assert page.errors == []
    finally:
        await agent.stop()


async def _point_at_a_node(page: Browser) -> None:
    """The mouse and the arrow keys tell about the same nodes, also across the edge of a kernel's nodes."""
    told = "document.querySelector('#hover').textContent"
    await page.point(*await square(page, "n1-00000"))
    await page.until(f"{told}.startsWith('n1-00000   5.11   Ready')")
    await page.value("document.querySelector('#grid').focus()")
    await page.value("cursor = nodes.findIndex(n => n[0] === 'n1-00001')")
    await page.press("ArrowLeft")
    await page.until(f"{told}.startsWith('n1-00000 ')")
    await page.press("ArrowUp")
    await page.until(f"{told}.startsWith('n0-') && {told}.includes('5.10')")
    await page.press("ArrowDown")
    await page.until(f"{told}.startsWith('n1-00000 ')")


async def _see_a_node_cordoned(page: Browser, target: str) -> None:
    before = await page.value("colour(nodes.find(n => n[0] === 'n3-01000'))")
    await Fleet(target).first.CordonNode(fleet.CordonNodeRequest(name="nodes/n3-01000"))
    await page.until(f"colour(nodes.find(n => n[0] === 'n3-01000')) !== '{before}'")
    await page.until(f"{EVENTS}.includes('NODE_CORDONED on n3-01000')")


@needs_redis
def test_a_standby_names_the_leader_until_it_leads(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as redis:
        first, leader = coordinator(tmp_path, "--redis", redis.url)
        second = None
        try:
            asyncio.run(_leads(leader))
            second, standby = coordinator(tmp_path, "--redis", redis.url)
            asyncio.run(_stands_by(standby, first.target))
            first.kill()
            asyncio.run(_leads(standby))
        finally:
            first.kill()
            if second is not None:
                second.kill()


async def _leads(url: str) -> None:
    async with aiohttp.ClientSession() as session:

        async def look() -> bool:
            return (await _answer(session, url + "api/stream"))[0] == 200

        await until(look)


async def _stands_by(url: str, leader: str) -> None:
    async with aiohttp.ClientSession() as session:

        async def look() -> bool:
            status, text = await _answer(session, url + "api/stream")
            return status == 503 and f"{leader}#" in text and "leads" in text

        await until(look)
        status, text = await _answer(session, url + "api/nodes/n1")
        assert status == 503
        assert f"{leader}#" in json.loads(text)["error"]
        assert (await _answer(session, url))[0] == 200, "the page itself, which tries again"


async def _answer(session: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    """Status and first line; 0 where nobody listens yet."""
    try:
        async with session.get(url) as answer:
            return answer.status, (await answer.content.readline()).decode()
    except aiohttp.ClientConnectionError:
        return 0, ""


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
    event = FleetEvent(revision=7, time_ms=5, kind="REPLICA_FAILED", node="b")
    told = frame(before, now, [event])
    assert told["changed"] == [[1, ("b", "6.12", 3)]]
    assert "nodes" not in told
    assert told["events"][0]["revision"] == 7
    assert changed_rows(before, [("a", "6.12", 1), ("c", "6.12", 2)]) is None
    assert changed_rows(before, now[:1]) is None
    assert frame(None, now, [])["nodes"] == now


def test_events_alike_are_one_line_and_what_is_left_out_is_counted() -> None:
    def failed(revision: int, workload: str, time_ms: int = 5) -> FleetEvent:
        return FleetEvent(
            revision=revision, time_ms=time_ms, kind="REPLICA_FAILED", workload=workload,
            replica=f"{workload}-{revision}", reason="OOM_KILLED",
        )  # fmt: skip

    lines, skipped = event_lines(
        [failed(1, "a"), failed(2, "b"), failed(3, "a"), failed(4, "a", 1_000)]
    )
    told = [(line["replica"], line["count"]) for line in lines]
    assert told == [("b-2", 1), ("a-3", 2), ("a-4", 1)]
    assert skipped == 0
    many = [failed(i, f"w{i}") for i in range(LINES_MAX)]
    lines, skipped = event_lines([failed(0, "old"), failed(0, "old"), *many])
    assert (len(lines), skipped) == (LINES_MAX, 2)
    assert frame([], [], many, missed=7)["skipped"] == 7
