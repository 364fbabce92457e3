"""A day of a thousand nodes on a virtual clock, twice: real coordinator code, real kernels, leases of 10 seconds.

Agents renew three times a lease and report the nodes that run something; the replicas churn their maps, a client
rescales workloads, and every hour one agent is cut off until its lease has run out. The network is fast but never
twice the same, all under one seed, so the digests of everything that was stored and started must be equal.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from figures import Figure

from bpfleet.coordinator.config import Timing
from bpfleet.fleet.store import Batch
from bpfleet.kernel import KernelError
from bpfleet.sim.agent import NodePlan, SimAgent
from bpfleet.sim.checkers import Promise
from bpfleet.sim.fleet import Outcome, World
from bpfleet.sim.loop import VirtualLoop, run
from bpfleet.v1 import fleet_service_pb2 as pb
from bpfleet.v1 import registry_service_pb2 as registry

NODES, AGENTS = 1_000, 4
WORKLOADS, REPLICAS = 12, 8
LEASE_S, REPORT_S, RESCALE_S, CUT_S = 10.0, 60.0, 600.0, 3_600.0
SECONDS_A_DAY = 120
GIB = 1 << 30


def measure(hours: int) -> list[Figure]:
    """Two runs of ``hours`` simulated hours."""
    outcomes: list[Outcome] = []
    seconds: list[float] = []
    for _ in range(2):
        started, used = time.perf_counter(), time.process_time()
        outcomes.append(simulate(seed=1, hours=hours))
        seconds.append(time.perf_counter() - started)
        used = time.process_time() - used
    same = outcomes[0] == outcomes[1]
    slowest = max(seconds)
    return [
        Figure(
            f"{hours} h of {NODES:,} nodes, 10 s leases",
            f"{slowest:.1f} s",
            f"<= {SECONDS_A_DAY} s for 24 h",
            slowest * 24 / hours <= SECONDS_A_DAY,
            f"{used:.1f} s of CPU, {outcomes[0].calls:,} calls, {outcomes[0].batches:,} batches",
        ),
        Figure(
            "its event-log digest in two runs",
            " ".join(sorted({outcome.digest for outcome in outcomes})),
            "equal",
            same,
        ),
    ]


def simulate(*, seed: int, hours: int) -> Outcome:
    """One run."""
    loop = VirtualLoop()
    return run(Day(seed, loop, hours).run(seed), loop)


class DayAgent(SimAgent):
    """As in the simulation, at the pace of a real agent."""

    async def _follow(self) -> None:
        while True:
            try:
                await self._register("c1")
                due_s = 0.0
                while True:
                    await asyncio.sleep(LEASE_S / 3)
                    await self._renew("c1")
                    due_s -= LEASE_S / 3
                    if due_s <= 0:
                        due_s = REPORT_S
                        await self._report("c1")
            except Exception as error:
                if isinstance(error, AssertionError):
                    raise
            await asyncio.sleep(1)

    def _stop(self, node: str, replica: str) -> None:
        """Takes the replica's cgroup away too, as agents do: a day would pile thousands up."""
        known = self.running.get((node, replica))
        super()._stop(node, replica)
        if known is not None:
            kernel = self.kernels[node]
            kernel.run_deferred()
            with contextlib.suppress(KernelError):
                kernel.rmdir(known.run.cgroup)

    async def _report(self, coordinator: str) -> None:
        """One step of churn on every node that runs something, and the report of those nodes."""
        request = registry.ReportNodesRequest(agent=self.name, incarnation=str(self.life))
        here: dict[str, list[str]] = {}
        for node, replica in self.running:
            here.setdefault(node, []).append(replica)
        for node, replicas in here.items():
            kernel = self.kernels[node]
            kernel.advance(round(REPORT_S * 1e9))
            for replica in replicas:
                self.running[node, replica].run.step()
            request.reports.add(
                node=node,
                memory_used_bytes=kernel.ram.used_bytes,
                replicas=[self._told(replica) for replica in replicas],
            )
        answer = await self._call(coordinator, "ReportNodes", request)
        for key in [key for key in self.running if key[1] in set(answer.unknown_replicas)]:
            self._stop(*key)


class Day(World):
    """One coordinator, a few agents with many nodes each, and a client."""

    timing = Timing(
        lease_ms=round(LEASE_S * 1000),
        leader_ttl_ms=15_000,
        leader_poll_ms=5_000,
        warm_ms=60_000,
        tick_ms=1_000,
    )

    def __init__(self, seed: int, loop: VirtualLoop, hours: int) -> None:
        super().__init__(seed, loop)
        self._end_s = hours * 3600.0

    def _plan_agents(self) -> None:
        coordinator = self.coordinators["c1"]
        known: dict[str, tuple[Any, Callable[[], Any]]] = {
            "c1": (coordinator, coordinator.registry)
        }
        for number in range(AGENTS):
            plans = [
                NodePlan(f"n{number}-{each:03}", ("6.1", "6.12")[each % 2], 4 * GIB, f"z{each % 2}")
                for each in range(NODES // AGENTS)
            ]
            name = f"a{number}"
            self.agents[name] = DayAgent(
                name,
                plans,
                self.network,
                self.random,
                coordinators=known,
                on_start=self._on_start,
                on_stop=self._on_stop,
            )

    def on_write(self, writer: str, batch: Batch) -> None:
        """A batch was stored."""
        self.batches += 1
        self._note(f"{writer} {batch.revision} {sorted(batch.puts.items())} {batch.removals}")

    def _on_start(self, node: str, replica: str, attempt: int) -> None:
        self._note(f"start {node} {replica} {attempt}")

    def _on_stop(self, node: str, replica: str) -> None:
        self._note(f"stop {node} {replica}")

    async def run(self, seed: int) -> Outcome:
        """The day. Raises whatever broke."""
        self.store_server.start()
        self._users.start()
        self.coordinators["c1"].boot()
        for agent in self.agents.values():
            agent.boot()
        await asyncio.sleep(5)
        self._users.spawn(self._rescale())
        self._users.spawn(self._cut())
        await asyncio.sleep(self._end_s - self.loop.time())
        self._raise_failure()
        for agent in self.agents.values():
            for node, _ in agent.running:
                kernel = agent.kernels[node]
                kernel.check()
                last = kernel.events.since(max(0, kernel.events.revision - 200))
                self._note(f"{node} {kernel.ram.used_bytes} {last}")
        running = sum(len(agent.running) for agent in self.agents.values())
        assert running, "nothing ran"
        return Outcome(
            seed, self._digest.hexdigest(), self.batches, self.network.calls, self.answered, 0
        )

    async def _rescale(self) -> None:
        """Creates every workload, then changes one every ten minutes."""
        names = [f"w{3 * number}" for number in range(2, 2 + WORKLOADS)]
        for name in names:
            request = pb.CreateWorkloadRequest(
                spec=self._spec(name, Promise(REPLICAS, 0)), request_id=name
            )
            await self._ask("CreateWorkload", request)
        version = 0
        while True:
            await asyncio.sleep(RESCALE_S)
            version += 1
            name = names[version % len(names)]
            wanted = Promise(self.random.randint(1, 2 * REPLICAS), version)
            update = pb.UpdateWorkloadRequest(
                name=name, spec=self._spec(name, wanted), request_id=f"{name}-{version}"
            )
            await self._ask("UpdateWorkload", update)

    # Any: request and response types depend on the method.
    async def _ask(self, method: str, request: Any) -> None:
        coordinator = self.coordinators["c1"]
        await self.network.call(
            self._users, coordinator, lambda: getattr(coordinator.fleet, method)(request, None)
        )
        self.answered += 1

    async def _cut(self) -> None:
        """Every hour an agent is out of reach for longer than its lease."""
        while True:
            await asyncio.sleep(CUT_S)
            name = self.random.choice(sorted(self.agents))
            self._note(f"cut {name}")
            self.network.cut("c1", name)
            await asyncio.sleep(3 * LEASE_S)
            self.network.heal_link("c1", name)
