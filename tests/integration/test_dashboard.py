"""The Grafana dashboard asks for what real scrapes of a real coordinator and real agents hold."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
from coordinator_process import CoordinatorProcess, Fleet, until
from prometheus_client.parser import text_string_to_metric_families
from redis_server import free_port

from bpfleet.v1 import fleet_service_pb2 as fleet
from bpfleet.v1 import workload_pb2

pytestmark = pytest.mark.slow

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards" / "fleet.json"
SELECTOR = re.compile(r"(bpfleet_\w+)(?:\{(\w+)(=|!=)\"([^\"]*)\"\})?")
# How workloads end: refused by RLIMIT_MEMLOCK on 5.10; by memory.max, and killed for it, on 6.12.
LIMITS = {"falco": 512 << 20, "aws-network-policy-agent": 64 << 20, "tetragon": 80 << 20}

Labels = dict[str, str]
Scrape = dict[str, list[Labels]]


@contextmanager
def agent(model: str, coordinator: str, metrics: str, log: Path) -> Iterator[None]:
    """A node agent in a process of its own, that serves metrics."""
    options = (
        "--agent-id",
        f"a-{model[0]}",
        "--kernel",
        model,
        "--nodes",
        "3",
        "--metrics",
        metrics,
    )
    where = ("--coordinator", coordinator, "--listen", f"127.0.0.1:{free_port()}")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "bpfleet.node_agent", *options, *where], stdout=out, stderr=out
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def scrape(session: aiohttp.ClientSession, address: str, into: Scrape) -> None:
    """Adds the labels of each sample, as Prometheus would read them."""
    async with session.get(f"http://{address}/metrics") as answer:
        for family in text_string_to_metric_families(await answer.text()):
            for sample in family.samples:
                into.setdefault(sample.name, []).append(sample.labels)


def missing(expression: str, seen: Scrape) -> list[str]:
    """Selectors of an expression that no sample answers, and labels it sums by that no sample has."""
    grouped = re.findall(r"by \(([^)]*)\)", expression)
    labels = {name.strip() for group in grouped for name in group.split(",")}
    gone = []
    for found in SELECTOR.finditer(expression):
        metric, label, sign, value = found.groups()
        samples = [
            each
            for each in seen.get(metric, [])
            if not label or (each[label] == value if sign == "=" else label in each)
        ]
        if not samples or not labels <= samples[0].keys():
            gone.append(found[0])
    return gone


def test_every_panel_finds_its_metrics_in_real_scrapes(tmp_path: Path) -> None:
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    process = CoordinatorProcess(tmp_path, "--metrics", addresses[0])
    process.start()
    try:
        with (
            agent("5.10", process.target, addresses[1], tmp_path / "old.log"),
            agent("6.12", process.target, addresses[2], tmp_path / "new.log"),
        ):
            asyncio.run(_look_for_all(process.target, addresses))
    finally:
        process.kill()


async def _look_for_all(target: str, addresses: list[str]) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [each["expr"] for panel in panels for each in panel["targets"]]
    assert all(SELECTOR.search(expression) for expression in expressions)
    calls = Fleet(target)

    async def ready() -> bool:
        status = await calls.first.GetFleetStatus(fleet.GetFleetStatusRequest())
        return bool(status.ready_node_count == 6)

    await until(ready)
    for name, limit in LIMITS.items():
        spec = workload_pb2.WorkloadSpec(
            name=name, application=name, per_node=True, memory_limit_bytes=limit
        )
        await calls.first.CreateWorkload(fleet.CreateWorkloadRequest(spec=spec))
    gone: list[str] = []

    async def all_found() -> bool:
        seen: Scrape = {}
        async with aiohttp.ClientSession() as session:
            for address in addresses:
                await scrape(session, address, seen)
        gone[:] = [selector for each in expressions for selector in missing(each, seen)]
        return not gone

    try:
        await until(all_found)
    except AssertionError:
        raise AssertionError(f"in no scrape: {gone}") from None
    finally:
        await calls.close()
