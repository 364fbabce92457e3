"""A day of a thousand nodes on a virtual clock, twice: real coordinator code, real kernels, leases of 10 seconds.

Agents renew three times a lease and report the nodes whose replicas churned their maps; a client rescales workloads,
and every hour one agent is cut off until its lease has run out. The network is fast but never twice the same, all
under one seed, so the digests of everything that was stored and started must be equal.
"""

import asyncio
import time
from typing import Any

from figures import Figure

from bpfleet.coordinator.config import Timing
from bpfleet.fleet.store import Batch
from bpfleet.node_agent.replicas import Attempt
from bpfleet.sim.agent import SimAgent, SimNode
from bpfleet.sim.checkers import Promise
from bpfleet.sim.fleet import SeedOutcome, World
from bpfleet.sim.loop import VirtualLoop, run
from bpfleet.sim.mix import spec_of
from bpfleet.sim.transport import CallContext
from bpfleet.v1 import fleet_service_pb2 as pb
from bpfleet.v1 import workload_pb2

NODES, AGENTS = 1_000, 4
WORKLOADS, REPLICAS = 12, 8
LEASE_S, STEP_S, RESCALE_S, CUT_S = 10.0, 60.0, 600.0, 3_600.0
SECONDS_A_DAY = 120
GIB = 1 << 30


def measure(hours: int) -> list[Figure]:
    """Two runs of ``hours`` simulated hours."""
    outcomes: list[SeedOutcome] = []
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


def simulate(*, seed: int, hours: int) -> SeedOutcome:
    """One run."""
    loop = VirtualLoop()
    return run(Day(seed, loop, hours).run(seed), loop)


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
        self._asked = 0

    def _plan_agents(self) -> None:
        coordinator = self.coordinators["c1"]
        for number in range(AGENTS):
            plans = [
                SimNode(f"n{number}-{each:03}", ("6.1", "6.12")[each % 2], 4 * GIB, f"z{each % 2}")
                for each in range(NODES // AGENTS)
            ]
            name = f"a{number}"
            self.agents[name] = SimAgent(
                name,
                plans,
                self.network,
                self.random,
                clock=self.loop.time,
                coordinators={"c1": (coordinator, coordinator.registry)},
                witness=self,
            )

    def on_write(self, writer: str, batch: Batch) -> None:
        """A batch was stored."""
        self.batches += 1
        self._note(f"{writer} {batch.revision} {sorted(batch.puts.items())} {batch.removals}")

    def taken(self, attempt: Attempt) -> None:
        """An agent took an attempt."""
        self._note(f"start {attempt.key} {attempt.number}")

    def forgotten(self, attempt: Attempt) -> None:
        """An agent stopped an attempt."""
        self._note(f"stop {attempt.key} {attempt.number}")

    def said(self, agent: str, message: Any) -> None:
        """No checker listens: a day is long."""

    answered = said

    def ordered(self, coordinator: str, agent: str, message: Any) -> None:
        """No checker listens: a day is long."""

    async def run(self, seed: int) -> SeedOutcome:
        """The day. Raises whatever broke."""
        self.store_server.start()
        self.users.start()
        self.coordinators["c1"].boot()
        for agent in self.agents.values():
            agent.boot()
        await asyncio.sleep(5)
        self.users.spawn(self._rescale())
        self.users.spawn(self._cut_an_agent())
        await asyncio.sleep(self._end_s - self.loop.time())
        self._raise_failure()
        for agent in self.agents.values():
            for node, _ in sorted(agent.running()):
                kernel = agent.nodes.find(node).wake()
                kernel.check()
                last = kernel.events.since(max(0, kernel.events.revision - 200))
                self._note(f"{node} {kernel.ram.used_bytes} {last}")
        running = sum(len(agent.running()) for agent in self.agents.values())
        assert running, "nothing ran"
        return SeedOutcome(
            seed, self._digest.hexdigest(), self.batches, self.network.calls, self._asked, 0
        )

    async def _rescale(self) -> None:
        """Creates every workload, then changes one every ten minutes."""
        names = [f"w{number}" for number in range(WORKLOADS)]
        for name in names:
            request = pb.CreateWorkloadRequest(
                spec=_spec(name, Promise(REPLICAS, 0)), request_id=name
            )
            await self._ask("CreateWorkload", request)
        version = 0
        while True:
            await asyncio.sleep(RESCALE_S)
            version += 1
            name = names[version % len(names)]
            wanted = Promise(self.random.randint(1, 2 * REPLICAS), version)
            update = pb.UpdateWorkloadRequest(
                name=name, spec=_spec(name, wanted), request_id=f"{name}-{version}"
            )
            await self._ask("UpdateWorkload", update)

    # Any: request and response types depend on the method.
    async def _ask(self, method: str, request: Any) -> None:
        coordinator = self.coordinators["c1"]
        await self.network.call(
            self.users,
            coordinator,
            lambda: getattr(coordinator.fleet, method)(request, CallContext()),
        )
        self._asked += 1

    async def _cut_an_agent(self) -> None:
        """Every hour an agent is out of reach for longer than its lease."""
        while True:
            await asyncio.sleep(CUT_S)
            name = self.random.choice(sorted(self.agents))
            self._note(f"cut {name}")
            self.network.cut("c1", name)
            await asyncio.sleep(3 * LEASE_S)
            self.network.heal_link("c1", name)


def _spec(name: str, wanted: Promise) -> workload_pb2.WorkloadSpec:
    spec = spec_of("plain", wanted)
    spec.name = name
    spec.inventory.churn.operations_per_step = 5
    spec.inventory.churn.step_ns = round(STEP_S * 1e9)
    return spec
