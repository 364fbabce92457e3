"""What a coordinator does per second, over real gRPC, on a real Redis with every write synced.

    python benchmarks/coordinator.py                    all figures, 5,000 nodes
    python benchmarks/coordinator.py --only ready --nodes 50000
    python benchmarks/coordinator.py --json

Coordinator and Redis are processes of their own; clients and agents share this one. Agents have no
kernels: they answer every order at once. Prints a table with the machine and the versions.
"""

import asyncio
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import click
import grpc
import redis
from grpc import aio
from rich.console import Console
from rich.table import Table

from bpfleet.rpc.errors import decode_rpc_error
from bpfleet.v1 import fleet_service_pb2 as pb
from bpfleet.v1 import registry_service_pb2 as registry
from bpfleet.v1 import replica_pb2, workload_pb2
from bpfleet.v1 import runtime_service_pb2 as runtime
from bpfleet.v1.fleet_service_pb2_grpc import FleetServiceStub
from bpfleet.v1.registry_service_pb2_grpc import RegistryServiceStub
from bpfleet.v1.runtime_service_pb2_grpc import (
    RuntimeServiceServicer,
    add_RuntimeServiceServicer_to_server,
)
from bpfleet.version import __version__
from bpfleet.workload.spec import replica_name

MIB = 1 << 20
GIB = 1 << 30
OPTIONS = [
    ("grpc.max_receive_message_length", 64 * MIB),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]


@dataclass(frozen=True)
class Figure:
    """One line of the table. ``target`` is what was asked for."""

    name: str
    value: float
    unit: str
    target: str
    note: str = ""


class Agent(RuntimeServiceServicer):
    """Nodes without kernels: starts whatever it is told to, at once."""

    def __init__(self, name: str, nodes: list[registry.RegisteredNode]) -> None:
        self.name = name
        self.nodes = nodes
        self.running = 0
        self._server = aio.server(options=OPTIONS)
        self._renewal: asyncio.Task[None] | None = None
        self.renewed_epoch = 0

    async def ProveAddress(self, request: Any, context: Any) -> runtime.ProveAddressResponse:
        """Nobody asks: the benchmark uses no tokens."""
        return runtime.ProveAddressResponse()

    async def start(self, targets: list[str]) -> None:
        add_RuntimeServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self._targets = targets
        self._address = f"127.0.0.1:{port}"
        self._renewal = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewal
        await self._server.stop(0)

    async def _follow(self) -> None:
        turn = 0
        while True:
            try:
                target = self._targets[turn % len(self._targets)]
                async with aio.insecure_channel(target, options=OPTIONS) as channel:
                    await self._renew(RegistryServiceStub(channel))
            except aio.AioRpcError as error:
                turn += decode_rpc_error(error).reason != "LEASE_EXPIRED"
                await asyncio.sleep(0.05)

    async def _renew(self, stub: Any) -> None:
        request = registry.RenewLeaseRequest(agent=self.name, incarnation="1")
        while True:
            try:
                lease = (await stub.RenewLease(request, timeout=30)).lease
                self.renewed_epoch = lease.leader_epoch
            except aio.AioRpcError as error:
                if decode_rpc_error(error).reason != "LEASE_EXPIRED":
                    raise
                await self._register(stub)
                continue
            await asyncio.sleep(1)

    async def _register(self, stub: Any) -> None:
        for start in range(0, len(self.nodes), 2_000):
            part = self.nodes[start : start + 2_000]
            request = registry.RegisterAgentRequest(
                agent=self.name, incarnation="1", address=self._address, nodes=part
            )
            await stub.RegisterAgent(request, timeout=60)

    async def RunReplicas(
        self, request: runtime.RunReplicasRequest, context: Any
    ) -> runtime.RunReplicasResponse:
        self.running += len(request.replicas)
        return runtime.RunReplicasResponse(
            statuses=[
                replica_pb2.ReplicaStatus(
                    replica=replica_name(spec.workload.name, spec.serial),
                    attempt=spec.attempt,
                    node=spec.node,
                    phase=replica_pb2.REPLICA_PHASE_RUNNING,
                )
                for spec in request.replicas
            ]
        )

    async def ListReplicas(self, request: Any, context: Any) -> NoReturn:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this agent only counts its replicas")
        raise AssertionError("abort raises")

    async def StopReplicas(
        self, request: runtime.StopReplicasRequest, context: Any
    ) -> runtime.StopReplicasResponse:
        self.running -= len(request.replicas)
        return runtime.StopReplicasResponse()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Bench:
    """Redis, coordinators, agents and a client, for the length of a ``with``."""

    def __init__(self, directory: Path, nodes: int, policy: str) -> None:
        self.directory = directory
        self.node_count = nodes
        self.policy = policy
        self.redis_port = free_port()
        self.targets = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.agents: list[Agent] = []
        self.retries = 0
        self.channels = [aio.insecure_channel(t, options=OPTIONS) for t in self.targets]
        # Any: the asyncio stub's type exists for the type checker only.
        self.stubs: list[Any] = [FleetServiceStub(channel) for channel in self.channels]
        self.fleet = self.stubs[0]

    async def __aenter__(self) -> "Bench":
        command = ["redis-server", "--port", str(self.redis_port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        self._spawn("redis", [*command, "--dir", str(self.directory)])
        await self._until_redis_answers()
        self.start_coordinator(0)
        await self.until(lambda: self._leads(0))
        return self

    async def __aexit__(self, *_: object) -> None:
        for agent in self.agents:
            await agent.stop()
        for channel in self.channels:
            await channel.close()
        for process in self.processes.values():
            process.kill()
            process.wait()

    def _spawn(self, name: str, command: list[str]) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log)

    async def _until_redis_answers(self) -> None:
        with redis.Redis(port=self.redis_port) as client:
            while True:
                with contextlib.suppress(redis.RedisError):
                    client.ping()
                    return
                await asyncio.sleep(0.02)

    def start_coordinator(self, number: int) -> None:
        command = [sys.executable, "-m", "bpfleet.coordinator", "--listen", self.targets[number]]
        command += ["--leader-ttl", "1.5"]
        command += ["--redis", f"redis://127.0.0.1:{self.redis_port}/0", "--lease", "30"]
        self._spawn(f"coordinator-{number}", [*command, "--policy", self.policy])

    def kill_coordinator(self, number: int) -> None:
        process = self.processes.pop(f"coordinator-{number}")
        process.kill()
        process.wait()

    async def _leads(self, number: int) -> bool:
        await self.stubs[number].GetFleetStatus(pb.GetFleetStatusRequest(), timeout=5)
        return True

    async def until(self, look: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        while True:
            with contextlib.suppress(aio.AioRpcError):
                if await look():
                    return
            await asyncio.sleep(0.01)

    async def ready(self, number: int, count: int) -> bool:
        status = await self.stubs[number].GetFleetStatus(pb.GetFleetStatusRequest(), timeout=30)
        return bool(status.ready_node_count == count)

    async def settled(self) -> bool:
        """Whether agents have carried out all their orders."""
        status = await self.fleet.GetFleetStatus(pb.GetFleetStatusRequest(), timeout=30)
        return not status.replicas["ASSIGNED"] and not status.replicas["STOPPING"]

    async def start_agents(self) -> None:
        """Agents of 1,000 nodes: nine shapes of node, ten zones."""
        for number in range(0, self.node_count, 1_000):
            names = range(number, min(number + 1_000, self.node_count))
            agent = Agent(f"a{number}", [node(n) for n in names])
            self.agents.append(agent)
        await asyncio.gather(*(agent.start(self.targets) for agent in self.agents))

    async def create(self, spec: workload_pb2.WorkloadSpec, stub: Any = None) -> None:
        request = pb.CreateWorkloadRequest(spec=spec, request_id=spec.name)
        while True:
            try:
                await (stub or self.fleet).CreateWorkload(request, timeout=60)
                return
            except aio.AioRpcError as error:
                if stub is not None or error.code().name != "UNAVAILABLE":
                    raise
                self.retries += 1
                await asyncio.sleep(0.05)


def node(number: int) -> registry.RegisteredNode:
    return registry.RegisteredNode(
        node=f"n{number:06}",
        profile=("5.10", "6.1", "6.12")[number % 3],
        possible_cpus=(4, 16, 64)[number // 3 % 3],
        ram_bytes=(16, 64, 256)[number // 3 % 3] * GIB,
        labels={"zone": f"z{number % 10}"},
    )


async def crowd(
    names: list[str], work: Callable[[str], Coroutine[Any, Any, None]], clients: int = 64
) -> float:
    """Runs ``work`` for every name, so many at a time; returns seconds."""
    waiting = iter(names)
    start = time.perf_counter()

    async def worker() -> None:
        for name in waiting:
            await work(name)

    await asyncio.gather(*(worker() for _ in range(clients)))
    return time.perf_counter() - start


# -- the figures


async def measure_ready(bench: Bench) -> list[Figure]:
    start = time.perf_counter()
    await bench.start_agents()
    await bench.until(lambda: bench.ready(0, bench.node_count))
    seconds = time.perf_counter() - start
    target = "20 s" if bench.node_count <= 5_000 else "150 s"
    return [Figure(f"{bench.node_count:,} nodes Ready", seconds, "s", f"at most {target}")]


def workload(
    name: str, replicas: int, memory_request_bytes: int = 0, priority: int = 0
) -> workload_pb2.WorkloadSpec:
    return workload_pb2.WorkloadSpec(
        name=name,
        replicas=replicas,
        memory_request_bytes=memory_request_bytes,
        priority=priority,
        inventory=workload_pb2.Inventory(name="app"),
    )


async def measure_placements(bench: Bench) -> list[Figure]:
    figures = []
    spread, scheduling = workload_pb2.Spread, workload_pb2.Scheduling
    shapes: dict[str, workload_pb2.WorkloadSpec] = {
        "placements": workload_pb2.WorkloadSpec(),
        "placements, spread over zones": workload_pb2.WorkloadSpec(
            spread=spread(topology_key="zone")
        ),
        "placements, spread over nodes": workload_pb2.WorkloadSpec(
            spread=spread(topology_key="bpfleet/node")
        ),
        "placements, gang of 100": workload_pb2.WorkloadSpec(scheduling=scheduling(gang=True)),
    }
    for number, (label, shape) in enumerate(shapes.items()):
        names = [f"p{number}-{serial}" for serial in range(100)]

        async def work(name: str, shape: workload_pb2.WorkloadSpec = shape) -> None:
            spec = workload(name, 100, 20 * MIB)
            spec.MergeFrom(shape)
            await bench.create(spec)

        seconds = await crowd(names, work, clients=16)
        target = "at least 2,000/s" if number == 0 else "at least 1,000/s"
        figures.append(Figure(label, 10_000 / seconds, "/s", target, "100 replicas a request"))
    names = [f"s-{serial}" for serial in range(3_000)]
    seconds = await crowd(names, lambda name: bench.create(workload(name, 1, 20 * MIB)))
    note = "1 replica a request, 64 clients"
    figures.append(Figure("placements, single", 3_000 / seconds, "/s", "", note))
    return figures


async def measure_latency(bench: Bench) -> list[Figure]:
    """Requests at 500 a second, sent when they are due whether or not others have been answered."""
    await bench.until(bench.settled)
    took: list[float] = []

    async def one(name: str) -> None:
        start = time.perf_counter()
        await bench.create(workload(name, 1, 20 * MIB))
        took.append(time.perf_counter() - start)

    start, tasks = time.perf_counter(), []
    for number in range(2_500):
        due = start + number / 500
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(f"l-{number}")))
    await asyncio.gather(*tasks)
    rate = len(took) / (time.perf_counter() - start)
    cuts = statistics.quantiles(took, n=100)
    note = f"at {rate:.0f}/s, median {cuts[49] * 1000:.1f} ms"
    return [Figure("one request, 99th percentile", cuts[98] * 1000, "ms", "under 50 ms", note)]


async def measure_preemption(bench: Bench) -> list[Figure]:
    """Fills the fleet with what may go, then asks for what may not wait."""
    status = await bench.fleet.GetFleetStatus(pb.GetFleetStatusRequest())
    free = status.allocatable_bytes - status.booked_bytes
    # One fits a node of 64 GiB, four fit one of 256 GiB.
    size = 58 * GIB
    fill = [f"fill-{number}" for number in range(free // size // 1_000 + 1)]
    for name in fill:
        await bench.create(workload(name, 1_000, size))
    await bench.until(bench.settled)
    names = [f"vip-{serial}" for serial in range(2_000)]
    seconds = await crowd(
        names,
        lambda name: bench.create(workload(name, 1, size, priority=10)),
    )
    status = await bench.fleet.GetFleetStatus(pb.GetFleetStatusRequest())
    note = f"{status.replicas['PENDING']} replicas wait afterwards"
    return [Figure("placements by preemption", 2_000 / seconds, "/s", "at least 1,000/s", note)]


async def measure_takeover(bench: Bench) -> list[Figure]:
    bench.start_coordinator(1)
    await asyncio.sleep(3)
    epoch = (await bench.fleet.GetFleetStatus(pb.GetFleetStatusRequest())).leader_epoch
    start = time.perf_counter()
    bench.kill_coordinator(0)

    async def writes() -> bool:
        await bench.create(workload("after-takeover", 1), bench.stubs[1])
        return True

    await bench.until(writes)
    seconds = time.perf_counter() - start
    await bench.until(lambda: renewed(bench, epoch))
    rejoined = time.perf_counter() - start
    note = f"all agents with it after {rejoined:.1f} s"
    return [Figure("standby takes over", seconds, "s", "within 3 s", note)]


async def renewed(bench: Bench, epoch: int) -> bool:
    return all(agent.renewed_epoch > epoch for agent in bench.agents)


async def measure_rejoin(bench: Bench) -> list[Figure]:
    """From the start of a new coordinator until every agent has renewed with it and all is Ready."""
    number = 1 if "coordinator-1" in bench.processes else 0
    status = await bench.stubs[number].GetFleetStatus(pb.GetFleetStatusRequest())
    bench.kill_coordinator(number)
    # Until the lease in Redis is over nobody can lead; that wait is the take-over's figure.
    await asyncio.sleep(2.5)
    start = time.perf_counter()
    bench.start_coordinator(number)
    await bench.until(lambda: bench.ready(number, bench.node_count))
    await bench.until(lambda: renewed(bench, status.leader_epoch))
    seconds = time.perf_counter() - start
    note = f"{sum(status.replicas.values()):,} replicas loaded, program start included"
    label = f"{bench.node_count:,} nodes rejoin a restarted coordinator"
    return [Figure(label, seconds, "s", "10,000 within 5 s", note)]


MEASURES = {
    "ready": measure_ready,
    "placements": measure_placements,
    "latency": measure_latency,
    "preemption": measure_preemption,
    "takeover": measure_takeover,
    "rejoin": measure_rejoin,
}


async def measure(nodes: int, policy: str, chosen: tuple[str, ...]) -> list[Figure]:
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as directory:
        try:
            async with Bench(Path(directory), nodes, policy) as bench:
                for name, take in MEASURES.items():
                    if name in chosen or name == "ready":
                        figures += await take(bench)
        except aio.AioRpcError:
            for log in sorted(Path(directory).glob("coordinator-*.log")):
                print(log.read_text()[-4_000:], file=sys.stderr)
            raise
    return figures


def machine() -> dict[str, str]:
    server = subprocess.run(["redis-server", "--version"], capture_output=True, text=True)
    return {
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, Linux {platform.release()}",
        "load": f"{os.getloadavg()[0]:.1f} before the start",
        "versions": f"bpfleet {__version__}, Python {platform.python_version()}, "
        f"grpcio {__import__('grpc').__version__}, Redis {server.stdout.split('v=')[1].split(' ')[0]}",
    }


@click.command()
@click.option("--nodes", type=click.IntRange(1), default=5_000, show_default=True)
@click.option("--policy", default="least-allocated", show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(MEASURES)), help="Only these.")
@click.option("--json", "as_json", is_flag=True, help="Data instead of a table.")
def main(nodes: int, policy: str, only: tuple[str, ...], as_json: bool) -> None:
    """Measures a coordinator over real gRPC on a real Redis."""
    if shutil.which("redis-server") is None:
        raise click.ClickException("no redis-server; apt-get install redis-server")
    facts = machine()
    figures = asyncio.run(measure(nodes, policy, only or tuple(MEASURES)))
    if as_json:
        click.echo(json.dumps({**facts, "figures": [asdict(f) for f in figures]}, indent=2))
        return
    table = Table(caption="; ".join(f"{key}: {value}" for key, value in facts.items()))
    for heading in ("figure", "measured", "asked for", "note"):
        table.add_column(heading, justify="right" if heading == "measured" else "left")
    for figure in figures:
        measured = f"{figure.value:,.1f} {figure.unit}"
        table.add_row(figure.name, measured, figure.target, figure.note)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
