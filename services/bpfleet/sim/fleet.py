"""A whole fleet in one process under one seed: real coordinator code, real kernels, everything else bad.

First comes a time of faults: calls are delayed, lost and repeated, links are cut, coordinators, agents
and the store crash, clients and an operator go on working. Then everything heals, and the fleet must
come to rest as the clients were promised. Checkers look at every stored batch and every start and stop.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from bpfleet.coordinator.config import Timing
from bpfleet.coordinator.fleet_service import FleetServicer
from bpfleet.coordinator.reconcile import Coordinator
from bpfleet.coordinator.registry_service import RegistryServicer
from bpfleet.coordinator.store.memory import MemoryStore
from bpfleet.fleet.prediction import KernelEstimator
from bpfleet.fleet.records import Phase, Policy
from bpfleet.fleet.settings import FleetSettings
from bpfleet.fleet.store import Batch
from bpfleet.kernel.profile import Use, used_by
from bpfleet.rpc.errors import ApiError
from bpfleet.sim.agent import NodePlan, SimAgent, SimAgents
from bpfleet.sim.checkers import (
    Acknowledged,
    Books,
    OneLife,
    OperatorsMarks,
    Promise,
    Violation,
    WatchedEvents,
)
from bpfleet.sim.loop import VirtualLoop, run
from bpfleet.sim.network import Faults, Network, Process, Unreachable
from bpfleet.sim.store import SimStore
from bpfleet.v1 import bpf_pb2, workload_pb2
from bpfleet.v1 import fleet_service_pb2 as pb

__all__ = ["Outcome", "Violation", "simulate"]

MIB: Final = 1 << 20
_TIMING: Final = Timing(
    lease_ms=3_000,
    leader_ttl_ms=1_500,
    leader_poll_ms=300,
    tick_ms=400,
    repeat_ms=1_000,
    store_retry_ms=300,
)
_FAULT_SECONDS: Final = 30.0
_REST_SECONDS: Final = 120.0
_WORKLOADS: Final = 6
# This one cannot start on 5.10, where its user may lock too little; it may not find a node at all.
_FAILS: Final = "w4"
_VERSIONS: Final = 4
_PROFILES: Final = used_by(Use.SIMULATION)
# Shared by all seeds: a prediction depends on nothing but the workload and the kind of node.
_ESTIMATOR: Final = KernelEstimator()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one seed did. Equal seeds give equal digests."""

    seed: int
    digest: str
    batches: int
    calls: int
    acknowledged: int
    crashes: int


class SimCoordinator(Process):
    """A coordinator that can crash: every life is a new ``Coordinator`` with nothing but the store."""

    def __init__(self, name: str, world: "World") -> None:
        super().__init__(name)
        self._world = world
        self._now: tuple[Coordinator, FleetServicer, RegistryServicer] | None = None

    def boot(self) -> None:
        """Starts as a standby."""
        self.start()
        world = self._world
        coordinator = Coordinator(
            SimStore(
                world.memory,
                world.network,
                owner=self,
                server=world.store_server,
                on_write=world.on_write,
            ),
            SimAgents(self, world.network, world.agents),
            identity=f"{self.name}#{self.life}",
            fleet=world.settings,
            timing=world.timing,
            estimator=_ESTIMATOR,
            clock_ms=world.loop.now_ms,
        )
        self._now = coordinator, FleetServicer(coordinator), RegistryServicer(coordinator)
        self.spawn(self._run(coordinator))

    async def _run(self, coordinator: Coordinator) -> None:
        try:
            await coordinator.run()
        except Exception as error:
            self._world.fail(error)

    @property
    def coordinator(self) -> Coordinator:
        """This life's coordinator."""
        return self._parts[0]

    @property
    def fleet(self) -> FleetServicer:
        """What users call."""
        return self._parts[1]

    def registry(self) -> RegistryServicer:
        """What agents call."""
        return self._parts[2]

    @property
    def _parts(self) -> tuple[Coordinator, FleetServicer, RegistryServicer]:
        if self._now is None:
            raise Unreachable(f"{self.name} was never started")
        return self._now


class World:
    """Everything there is under one seed. ``timing`` is that of its coordinators."""

    timing = _TIMING

    def __init__(self, seed: int, loop: VirtualLoop) -> None:
        self.loop = loop
        self.random = Random(seed)
        self.network = Network(self.random)
        self.memory = MemoryStore(loop.now_ms)
        self.store_server = Process("store")
        self.settings = FleetSettings(
            policy=self.random.choice(list(Policy)),
            back_off_base_ms=500,
            back_off_max_ms=4_000,
            avoid_ms=5_000,
            pressure_available_bytes=1 * MIB,
            pressure_hold_ms=1_000,
        )
        self.one_life = OneLife()
        self.books = Books()
        self.promises = Acknowledged()
        self.marks = OperatorsMarks()
        self.events = WatchedEvents()
        self.agents: dict[str, SimAgent] = {}
        self.coordinators = {name: SimCoordinator(name, self) for name in ("c1", "c2")}
        self.batches = self.answered = self.crashes = self._marks_asked = 0
        self.trace: Callable[[str], None] = lambda line: None
        self._failure: BaseException | None = None
        self._digest = hashlib.blake2b(digest_size=8)
        self._users = Process("users")
        self._plan_agents()

    def _plan_agents(self) -> None:
        number = 0
        for name in ("a1", "a2", "a3"):
            plans = []
            for _ in range(self.random.randint(1, 3)):
                profile = self.random.choice(_PROFILES)
                ram_bytes = self.random.choice((128, 192, 256)) * MIB
                plans.append(NodePlan(f"n{number}", profile, ram_bytes, f"z{number % 2}"))
                number += 1
            self.agents[name] = SimAgent(
                name,
                plans,
                self.network,
                self.random,
                coordinators={
                    key: (process, process.registry) for key, process in self.coordinators.items()
                },
                on_start=self._on_start,
                on_stop=self._on_stop,
            )

    # -- what the checkers hear

    def on_write(self, writer: str, batch: Batch) -> None:
        """A batch was stored."""
        self.batches += 1
        self._note(f"{writer} {batch.revision} {sorted(batch.puts.items())} {batch.removals}")
        try:
            self.events.stored(batch)
            self.promises.stored(batch)
            self.marks.stored(batch)
            self.books.stored(batch)
        except Violation as violation:
            self.fail(violation)

    def _on_start(self, node: str, replica: str, attempt: int) -> None:
        self._note(f"start {node} {replica} {attempt}")
        try:
            self.one_life.started(node, replica, attempt)
        except Violation as violation:
            self.fail(violation)

    def _on_stop(self, node: str, replica: str) -> None:
        self._note(f"stop {node} {replica}")
        try:
            self.one_life.stopped(node, replica)
        except Violation as violation:
            self.fail(violation)

    def fail(self, error: BaseException) -> None:
        """The first thing that went wrong is what the run reports."""
        if self._failure is None and not isinstance(error, asyncio.CancelledError):
            self._failure = error

    def _note(self, text: str) -> None:
        line = f"{self.loop.now_ms()} {text}"
        self._digest.update(line.encode())
        self.trace(line)

    # -- the run

    async def run(self, seed: int) -> Outcome:
        """Faults, then healing, then the final look. Raises ``Violation`` or whatever broke."""
        self.loop.set_exception_handler(lambda loop, context: self._uncaught(context))
        self.store_server.start()
        self._users.start()
        for coordinator in self.coordinators.values():
            coordinator.boot()
        for agent in self.agents.values():
            agent.boot()
        self.network.faults = self._weather()
        clients = [self._users.spawn(self._client(f"w{number}")) for number in range(_WORKLOADS)]
        operator = self._users.spawn(self._operator())
        await self._trouble()
        self._heal()
        await self._finish([*clients, operator])
        await self._rest()
        self._check_end()
        return Outcome(
            seed,
            self._digest.hexdigest(),
            self.batches,
            self.network.calls,
            self.answered,
            self.crashes,
        )

    # Any: asyncio's context of an uncaught exception.
    def _uncaught(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, AssertionError):
            self.fail(error)

    def _weather(self) -> Faults:
        """How bad the network is while there are faults; some seeds have good weather."""
        grade = self.random.random()
        return Faults(
            loss=0.05 * grade,
            duplication=0.05 * grade,
            delay_max_s=0.01 + 0.1 * grade,
            slow_share=0.1 * grade,
        )

    async def _trouble(self) -> None:
        end_s = self.loop.time() + _FAULT_SECONDS
        troubles = [self._crash_coordinator, self._crash_agent, self._crash_store, self._cut_link]
        while self.loop.time() < end_s:
            await asyncio.sleep(0.3 + 3 * self.random.random())
            self._raise_failure()
            self._users.spawn(self.random.choice(troubles)())

    async def _crash_coordinator(self) -> None:
        await self._crash_for_a_while(self.random.choice(list(self.coordinators.values())))

    async def _crash_agent(self) -> None:
        agent = self.random.choice(list(self.agents.values()))
        if agent.up:
            self.one_life.crashed({name: r.attempt for (_, name), r in agent.running.items()})
            await self._crash_for_a_while(agent)

    async def _crash_for_a_while(self, process: SimCoordinator | SimAgent) -> None:
        if not process.up:
            return
        self.crashes += 1
        self._note(f"crash {process.name}")
        process.crash()
        await asyncio.sleep(0.1 + 6 * self.random.random())
        if not process.up:
            process.boot()

    async def _crash_store(self) -> None:
        """A restart of Redis: what was saved is still there."""
        if self.store_server.up:
            self.crashes += 1
            self._note("crash store")
            self.store_server.crash()
            await asyncio.sleep(0.1 + 3 * self.random.random())
            self.store_server.start()

    async def _cut_link(self) -> None:
        names = [*self.coordinators, *self.agents, "store"]
        one, other = self.random.sample(names, 2)
        self._note(f"cut {one} {other}")
        self.network.cut(one, other)
        await asyncio.sleep(0.5 + 8 * self.random.random())
        self.network.heal_link(one, other)

    def _heal(self) -> None:
        self.network.heal()
        if not self.store_server.up:
            self.store_server.start()
        processes: list[SimCoordinator | SimAgent] = [
            *self.coordinators.values(),
            *self.agents.values(),
        ]
        for process in processes:
            if not process.up:
                process.boot()

    async def _finish(self, users: list[asyncio.Task[Any]]) -> None:
        """Lets clients and operator come to their end. Raises ``Violation`` if one never does."""
        _, waiting = await asyncio.wait(users, timeout=_REST_SECONDS)
        self._raise_failure()
        if waiting:
            raise Violation("a client waits for ever")
        for user in users:
            user.result()

    async def _rest(self) -> None:
        """Waits until the fleet is as it was promised. Raises ``Violation`` if it never is."""
        end_s = self.loop.time() + _REST_SECONDS
        missing = ""
        while self.loop.time() < end_s:
            self._raise_failure()
            missing = self._missing()
            if not missing:
                return
            await asyncio.sleep(0.5)
        raise Violation(f"the fleet does not come to rest: {missing}")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    # -- clients and operator

    async def _client(self, name: str) -> None:
        """Creates, changes and deletes one workload, one request after the other."""
        random = self.random
        exists: Promise | None = None
        for number in range(random.randint(3, 8)):
            await asyncio.sleep(4 * random.random())
            wanted: Promise | None = Promise(random.randint(0, 4), random.randrange(_VERSIONS))
            request: Any
            if exists is None:
                method, request = "CreateWorkload", self._create(name, wanted)
            elif random.random() < 0.2:
                method, request, wanted = "DeleteWorkload", pb.DeleteWorkloadRequest(), None
            else:
                method, request = "UpdateWorkload", self._update(name, wanted)
            if method != "CreateWorkload":
                request.name = name
            request.request_id = f"{name}-{number}"
            self.promises.asked(name, wanted)
            await self._insist(method, request)
            self.promises.acknowledged(name)
            self.answered += 1
            exists = wanted
            if wanted is None:
                await self._until_deleted(name)

    # Any: the request's type depends on the method.
    async def _insist(self, method: str, request: Any) -> Any:
        """Repeats a request on one coordinator after the other, until it is answered."""
        turn = self.random.randrange(2)
        while True:
            coordinator = list(self.coordinators.values())[turn % 2]

            async def work(process: SimCoordinator = coordinator) -> Any:
                return await getattr(process.fleet, method)(request, None)

            try:
                return await self.network.call(self._users, coordinator, work)
            except Unreachable:
                turn += 1
            except ApiError as error:
                if error.code.name == "NOT_FOUND" and method != "CreateWorkload":
                    return None
                if error.code.name != "UNAVAILABLE":
                    raise
                turn += 1
            await asyncio.sleep(0.1 + 0.2 * self.random.random())

    async def _until_deleted(self, name: str) -> None:
        """A name can be used again only once its workload is gone."""
        while f"workload/{name}" in self.memory.snapshot().records:
            await asyncio.sleep(0.5)

    def _create(self, name: str, wanted: Promise | None) -> pb.CreateWorkloadRequest:
        assert wanted is not None, "only what shall exist is created"
        return pb.CreateWorkloadRequest(spec=self._spec(name, wanted))

    def _update(self, name: str, wanted: Promise | None) -> pb.UpdateWorkloadRequest:
        assert wanted is not None, "only what shall exist is updated"
        return pb.UpdateWorkloadRequest(spec=self._spec(name, wanted))

    def _spec(self, name: str, wanted: Promise) -> workload_pb2.WorkloadSpec:
        """By its number a workload spreads, is a gang, is important, or cannot start on old kernels."""
        kind = int(name[1:])
        spec = workload_pb2.WorkloadSpec(
            name=name,
            replicas=wanted.replicas,
            memory_request_bytes=16 * MIB,
            memory_limit_bytes=16 * MIB,
            priority=kind % 3,
            scheduling=workload_pb2.Scheduling(gang=kind == 2),
            inventory=workload_pb2.Inventory(
                name="app",
                user_memory_bytes=1 * MIB,
                churn=workload_pb2.Churn(operations_per_step=5),
                maps=[
                    workload_pb2.MapDeclaration(
                        name="table",
                        map_type=bpf_pb2.MAP_TYPE_HASH,
                        key_size=4,
                        value_size=8,
                        # 64 KiB of locked memory are too little for the large one on 5.10.
                        max_entries=4_096 if name == _FAILS else 64,
                    )
                ],
            ),
        )
        spec.labels["version"] = str(wanted.version)
        if kind == 1:
            spec.spread.topology_key = "zone"
            spec.spread.best_effort = True
        return spec

    async def _operator(self) -> None:
        """Cordons, drains, marks and brings back; in the end one node is left draining, the others serve."""
        nodes = [plan.name for agent in self.agents.values() for plan in agent.plans]
        for _ in range(self.random.randint(1, 4)):
            await asyncio.sleep(8 * self.random.random())
            name = self.random.choice(nodes)
            for method, request in (
                ("CordonNode", pb.CordonNodeRequest(name=name)),
                ("DrainNode", pb.DrainNodeRequest(name=name)),
                ("UncordonNode", pb.UncordonNodeRequest(name=name)),
            ):
                if self.random.random() < 0.7 or method == "UncordonNode":
                    await self._insist(method, request)
                    await asyncio.sleep(3 * self.random.random())
            await self._mark(self.random.choice(nodes))
        if len(nodes) > 3:
            await self._insist("DrainNode", pb.DrainNodeRequest(name=nodes[0]))

    async def _mark(self, node: str) -> None:
        """Moves a node to another duty, and throws everything off it for a while."""
        duty = str(self.random.randrange(3))
        label = pb.LabelNodeRequest(labels={"duty": duty}, overwrite=True)
        await self._set_mark(node, "duty", duty, label)
        taint = workload_pb2.Taint(key="repair", effect=workload_pb2.TAINT_EFFECT_NO_EXECUTE)
        await self._set_mark(node, "repair", "", pb.TaintNodeRequest(taints=[taint]))
        await asyncio.sleep(3 * self.random.random())
        await self._set_mark(node, "repair", None, pb.TaintNodeRequest(removed_taints=[taint]))

    async def _set_mark(
        self,
        node: str,
        mark: str,
        value: str | None,
        request: pb.LabelNodeRequest | pb.TaintNodeRequest,
    ) -> None:
        self._marks_asked += 1
        request.name, request.request_id = node, f"mark-{self._marks_asked}"
        self.marks.asked(node, mark, value)
        method = type(request).__name__.removesuffix("Request")
        while await self._insist(method, request) is None:
            await asyncio.sleep(0.5)  # the node has yet to register
        self.marks.acknowledged(node, mark)

    # -- the end

    def _missing(self) -> str:
        """What is not yet as promised; empty once the fleet rests."""
        tables = self.books.shadow.tables
        unready = [node.name for node in tables.nodes.values() if not node.ready]
        planned = sum(len(agent.plans) for agent in self.agents.values())
        if unready or len(tables.nodes) != planned:
            return f"nodes {unready or len(tables.nodes)} of {planned} are not Ready"
        draining = [n.name for n in tables.nodes.values() if n.draining]
        full = [name for name in draining if self._holds_the_healthy(name)]
        if full:
            return f"draining nodes {full} are not empty"
        running = {
            (replica.node, replica.name)
            for replica in tables.replicas.values()
            if replica.phase is Phase.RUNNING
        }
        actual = {
            key
            for agent in self.agents.values()
            for key, running_replica in agent.running.items()
            if running_replica.run.running
        }
        if running != actual:
            return f"stored as running {sorted(running - actual)}, runs {sorted(actual - running)}"
        return self._missing_replicas()

    def _holds_the_healthy(self, node: str) -> bool:
        """A workload that cannot start may hold up a drain: its disruption budget is spent."""
        book = self.books.shadow.tables.books.nodes[node]
        return any(replica.workload != _FAILS for replica in book.replicas.values())

    def _missing_replicas(self) -> str:
        tables = self.books.shadow.tables
        for name, promise in self.promises.wanted().items():
            if name == _FAILS:
                continue
            book = tables.books.workload(name)
            workload = tables.workloads.get(name)
            if workload is None:
                return f"{name} does not exist"
            if book.count(Phase.RUNNING) != promise.replicas:
                return f"{name}: {book.phases} of {promise.replicas}"
            current = book.generations.get(workload.generation, {})
            if len(current) != promise.replicas:
                return f"{name}: {len(current)} of {promise.replicas} are up to date"
        return ""

    def _check_end(self) -> None:
        workloads = self.books.shadow.tables.workloads
        gone = [name for name, w in workloads.items() if w.deleting]
        if gone:
            raise Violation(f"{gone} are not deleted to the end")
        self.promises.check_all(workloads)
        for agent in self.agents.values():
            for kernel in agent.kernels.values():
                kernel.check()


def simulate(seed: int) -> Outcome:
    """Runs one seed. Raises what went wrong; the caller says how to repeat it."""
    loop = VirtualLoop()
    world = World(seed, loop)
    return run(world.run(seed), loop)
