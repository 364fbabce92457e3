"""A whole fleet in one process under one seed: real coordinators, real agents, real kernels, everything else bad.

First comes a time of faults: calls are delayed, lost and repeated, links are cut, coordinators, agents and the store
crash, clients and operators go on working. Then everything heals, and the fleet must come to rest as the clients were
promised; last, one agent dies for good and must be missed in time. Checkers look at every stored batch, every start
and stop, and every message between coordinators and agents.
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
from bpfleet.fleet.records import FleetNode, Policy
from bpfleet.fleet.settings import FleetSettings
from bpfleet.fleet.store import Batch
from bpfleet.kernel.profile import Use, used_by
from bpfleet.node_agent.replicas import Attempt
from bpfleet.runtime.lifecycle import BackOff
from bpfleet.sim.agent import SimAgent, SimAgents, SimNode
from bpfleet.sim.checkers import (
    AcknowledgedIsStored,
    AgentsWord,
    Books,
    OneLife,
    OneWriter,
    OperatorsMarks,
    OrderNumbers,
    OrdersTaken,
    Progress,
    Violation,
    WatchedEvents,
    what_runs_is_what_was_asked,
)
from bpfleet.sim.loop import VirtualLoop, run
from bpfleet.sim.mix import KINDS, SLOT_BYTES
from bpfleet.sim.network import LATE_SECONDS, Network, NetworkFaults, SimProcess, Unreachable
from bpfleet.sim.store import SimStore
from bpfleet.sim.users import Users
from bpfleet.v1 import registry_service_pb2
from bpfleet.workload.phase import Phase

__all__ = ["SeedOutcome", "Violation", "simulate"]

MIB: Final = 1 << 20
_TIMING: Final = Timing(
    lease_ms=3_000,
    leader_ttl_ms=1_500,
    leader_poll_ms=300,
    tick_ms=400,
    repeat_ms=1_000,
    store_retry_ms=300,
)
_FAULT_SECONDS: Final = 16.0
_REST_SECONDS: Final = 120.0
_QUIET_SHARE: Final = 0.2
_STARVED_SHARE: Final = 0.1
_STARVED_SECONDS: Final = 90.0
# Some write is acknowledged in so many leases of a leader while a majority of parts is up.
_PROGRESS_LEASES: Final = 30
# The longest a process is stopped, or a turn of its event loop lasts, in leases of a leader.
_HELD_LEASES: Final = 3
_HOUR_MS: Final = 3_600_000
# From the end of a lease until the loss is stored, on a healthy network: two ticks and a commit.
_LOSS_MS: Final = 1_000
_LEASE_REQUESTS: Final = (
    registry_service_pb2.RegisterAgentRequest,
    registry_service_pb2.RenewLeaseRequest,
)
_LEASE_ANSWERS: Final = (
    registry_service_pb2.RegisterAgentResponse,
    registry_service_pb2.RenewLeaseResponse,
)
# What may be on its way for so long in a fleet at rest.
_STUCK_MS: Final = 20_000
_PROFILES: Final = used_by(Use.SIMULATION)
# Shared by all seeds: a prediction depends on nothing but the workload and the kind of node.
_ESTIMATOR: Final = KernelEstimator()


@dataclass(frozen=True, slots=True)
class SeedOutcome:
    """What one seed did. Equal seeds give equal digests."""

    seed: int
    digest: str
    batches: int
    calls: int
    acknowledged: int
    crashes: int


class SimCoordinator(SimProcess):
    """A coordinator that can crash: every life is a new ``Coordinator`` with nothing but the store."""

    def __init__(self, name: str, world: "World") -> None:
        super().__init__(name, world.random)
        self._world = world
        # What its wall clock is wrong by.
        self._wrong_ms = 0
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
                on_elect=lambda held: world.one_writer.elected(held.epoch),
            ),
            SimAgents(self, world.network, world.agents, world),
            identity=f"{self.name}#{self.life}",
            fleet=world.settings,
            timing=world.timing,
            estimator=_ESTIMATOR,
            clock_ms=world.loop.now_ms,
            wall_ms=lambda: world.loop.now_ms() + self._wrong_ms,
            random=world.random,
            sleep=self.sleep,
        )
        registry = _HeardRegistry(coordinator, world)
        self._now = coordinator, FleetServicer(coordinator), registry
        self.spawn(self._run(coordinator))

    def jump(self, by_ms: int) -> None:
        """Its wall clock jumps."""
        self._wrong_ms += by_ms

    async def restart(self) -> None:
        """Ends as by SIGTERM, and starts again."""
        await self.coordinator.close()
        self.crash()
        self.boot()

    async def _run(self, coordinator: Coordinator) -> None:
        try:
            await coordinator.run()
        except Exception as error:
            self._world.fail(error)

    @property
    def process(self) -> SimProcess:
        """What can crash."""
        return self

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


class _HeardRegistry(RegistryServicer):
    """*a lease that has run out is not renewed*: the agent has to register, for what ran there may run elsewhere."""

    def __init__(self, coordinator: Coordinator, world: "World") -> None:
        super().__init__(coordinator)
        self._leases: Final = coordinator.leases
        self._world: Final = world

    # Any: no context in a simulated call.
    async def RenewLease(
        self, request: registry_service_pb2.RenewLeaseRequest, context: Any
    ) -> registry_service_pb2.RenewLeaseResponse:
        over = request.agent in self._leases.expired(self._world.loop.now_ms())
        answer = await super().RenewLease(request, context)
        if over:
            self._world.fail(Violation(f"the lease of {request.agent} is over, and is renewed"))
        return answer


class World:
    """Everything there is under one seed. ``timing`` is that of its coordinators."""

    timing = _TIMING

    def __init__(self, seed: int, loop: VirtualLoop) -> None:
        self.loop = loop
        self.random = Random(seed)
        self.network = Network(self.random)
        self.memory = MemoryStore(loop.now_ms)
        self.store_server = SimProcess("store", self.random)
        self.settings = FleetSettings(
            policy=self.random.choice(list(Policy)),
            back_off_ms=BackOff(first=500, longest=4_000, reset=8_000),
            avoid_ms=5_000,
            pressure_available_bytes=1 * MIB,
            pressure_hold_ms=1_000,
            # Under some seeds most commands are more than one turn does.
            work_at_once=6 if seed % 3 == 0 else 2_000,
            trial_effort_at_once=1 if seed % 3 == 0 else 1_000,
        )
        self.one_life = OneLife()
        self.one_writer = OneWriter()
        self.orders = OrderNumbers()
        self.orders_taken = OrdersTaken()
        self.word = AgentsWord()
        self.books = Books(self.settings, self.word)
        self.promises = AcknowledgedIsStored()
        self.marks = OperatorsMarks()
        self.events = WatchedEvents()
        self.agents: dict[str, SimAgent] = {}
        self.coordinators = {name: SimCoordinator(name, self) for name in ("c1", "c2")}
        self.batches = self.crashes = 0
        self._healed_s = 0.0
        # Some mistakes show only where nothing else happens that would uncover a coordinator that is behind.
        self._quiet = self.random.random() < _QUIET_SHARE
        # Others show only where nothing fails, and there is too little CPU for everything.
        self._starved = not self._quiet and self.random.random() < _STARVED_SHARE
        self.progress = Progress(_PROGRESS_LEASES * self.timing.leader_ttl_ms)
        self.trace: Callable[[str], None] = lambda line: None
        self._failure: BaseException | None = None
        self._digest = hashlib.blake2b(digest_size=8)
        # When an agent asked for its lease last, and last with success.
        self._asked_ms: dict[str, int] = {}
        self._granted_ms: dict[str, int] = {}
        self._plan_agents()
        self.users = Users(
            self.random,
            self.network,
            self.coordinators,
            nodes={plan.name: plan.zone for agent in self.agents.values() for plan in agent.plans},
            promises=self.promises,
            marks=self.marks,
            progress=self.progress,
            now_ms=loop.now_ms,
            events=self.events,
            exists=lambda name: f"workload/{name}" in self.memory.snapshot().records,
            fails=self.fail,
        )

    def _plan_agents(self) -> None:
        number = 0
        for name in ("a1", "a2", "a3"):
            plans = []
            for _ in range(2):
                profile = self.random.choice(_PROFILES)
                ram_bytes = self.random.randint(4, 6) * SLOT_BYTES
                plans.append(SimNode(f"n{number}", profile, ram_bytes, f"z{number % 2}"))
                number += 1
            self.agents[name] = SimAgent(
                name,
                plans,
                self.network,
                self.random,
                clock=self.loop.time,
                coordinators={
                    key: (process, process.registry) for key, process in self.coordinators.items()
                },
                witness=self,
            )

    # -- what the checkers hear

    def on_write(self, writer: str, batch: Batch) -> None:
        """A batch was stored."""
        self.batches += 1
        self._note(f"{writer} {batch.revision} {sorted(batch.puts.items())} {batch.removals}")
        try:
            self.one_writer.stored(batch)
            self.events.stored(batch)
            self.promises.stored(batch)
            self.marks.stored(batch)
            self.books.stored(batch)
        except Violation as violation:
            self.fail(violation)

    def taken(self, attempt: Attempt) -> None:
        """An agent took an attempt: it starts."""
        node, replica = attempt.key.node, attempt.key.replica
        self._note(f"start {node} {replica} {attempt.number}")
        agent = next(a for a in self.agents.values() if a.nodes.has(node))
        tables = self.books.shadow.tables
        stored = tables.replicas.get(replica)
        workload = tables.workloads.get(replica.rpartition("-")[0])
        there = [each for each in agent.attempts() if each.key.node == node]
        try:
            self.one_life.started(node, replica, attempt.number)
            self.books.started(attempt, there)
            if (
                stored is not None
                and workload is not None
                and stored.generation == workload.generation
            ):
                what_runs_is_what_was_asked(attempt, workload)
        except Violation as violation:
            self.fail(violation)

    def forgotten(self, attempt: Attempt) -> None:
        """An agent stopped an attempt, or lost it in a crash."""
        node, replica = attempt.key.node, attempt.key.replica
        self._note(f"stop {node} {replica}")
        try:
            self.one_life.stopped(node, replica)
        except Violation as violation:
            self.fail(violation)

    # Any: a message of any method.
    def said(self, agent: str, message: Any) -> None:
        """An agent sent this message to a coordinator."""
        self.word.said(message)
        if isinstance(message, _LEASE_REQUESTS):
            self._asked_ms[agent] = self.loop.now_ms()

    def answered(self, agent: str, message: Any) -> None:
        """An agent got this answer of a coordinator."""
        if isinstance(message, _LEASE_ANSWERS):
            self._granted_ms[agent] = self._asked_ms[agent]

    def ordered(self, coordinator: str, agent: str, message: Any) -> None:
        """A coordinator sent this order to an agent."""
        try:
            self.orders.sent(agent, message)
        except Violation as violation:
            self.fail(violation)

    def admitted(self, life: str, epoch: int, sequence: int) -> None:
        """A start of an agent carries an order out."""
        try:
            self.orders_taken.admitted(life, epoch, sequence)
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

    async def run(self, seed: int) -> SeedOutcome:
        """Faults, then healing, then the final look. Raises ``Violation`` or whatever broke."""
        self.loop.set_exception_handler(lambda loop, context: self._uncaught(context))
        self.store_server.start()
        for coordinator in self.coordinators.values():
            coordinator.boot()
        for agent in self.agents.values():
            agent.boot()
        self.network.faults = self._weather()
        users = self.users.begin(quiet=self._quiet)
        await self._trouble()
        self._heal()
        await self._finish(users)
        await self._rest()
        await self._miss_one()
        self._check_end()
        return SeedOutcome(
            seed,
            self._digest.hexdigest(),
            self.batches,
            self.network.calls,
            self.users.answered,
            self.crashes,
        )

    # Any: asyncio's context of an uncaught exception.
    def _uncaught(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, AssertionError):
            self.fail(error)

    def _weather(self) -> NetworkFaults:
        """How bad the network is while there are faults; some seeds have good weather."""
        if self._starved:
            return NetworkFaults()
        grade = self.random.random()
        return NetworkFaults(
            loss=0.05 * grade,
            duplication=0.2 * grade,
            delay_max_s=0.01 + 0.1 * grade,
            slow_share=0.1 * grade,
        )

    async def _trouble(self) -> None:
        end_s = self.loop.time() + _FAULT_SECONDS
        if self._starved:
            await self._starve()
            return
        troubles = [
            self._crash_coordinator,
            self._restart_coordinator,
            self._hold_process,
            self._hold_leader,
            self._slow_store,
            self._jump_clock,
            self._crash_agent,
            self._crash_agent,
            self._crash_store,
            self._cut_link,
            self._kill_process,
            self._kill_process,
        ]
        if self._quiet:
            troubles = [self._cut_leader, self._hold_leader]
        while self.loop.time() < end_s:
            await asyncio.sleep(0.2 + 1.4 * self.random.random())
            self._raise_failure()
            self.users.spawn(self.random.choice(troubles)())

    async def _starve(self) -> None:
        """Every step of everybody comes late, and the store answers late; nothing else fails, so somebody writes."""
        ttl_s = self.timing.leader_ttl_ms / 1000
        late_s = ttl_s * (0.1 + 1.1 * self.random.random())
        beating = self.users.spawn(self.users.keep_marking("n0"))
        everybody = [*self.coordinators.values(), *self.agents.values(), self.store_server]
        for process in everybody:
            process.slow_s = late_s
        self._note(f"starve {late_s}")
        end_s = self.loop.time() + _STARVED_SECONDS
        while self.loop.time() < end_s:
            await asyncio.sleep(0.25)
            self._raise_failure()
            self.progress.look(self.loop.now_ms(), up=True)
        for process in everybody:
            process.slow_s = 0.0
        beating.cancel()

    async def _hold_process(self) -> None:
        await self._hold(self.random.choice([*self.coordinators.values(), *self.agents.values()]))

    async def _hold_leader(self) -> None:
        """The leader is stopped for longer than its lease, and wakes up as if nothing had happened."""
        for process in self.coordinators.values():
            if process.up and process.coordinator.leading.is_set():
                await self._hold(process)
                return

    async def _hold(self, process: SimProcess) -> None:
        seconds = self.random.random() * _HELD_LEASES * self.timing.leader_ttl_ms / 1000
        self._note(f"hold {process.name} {seconds}")
        process.hold(seconds)

    async def _slow_store(self) -> None:
        """Every answer of the store takes longer than a third of a lease, for a while."""
        self._note("slow store")
        self.store_server.slow_s = self.random.random() * self.timing.leader_ttl_ms / 1000
        await asyncio.sleep(5 * self.random.random())
        self.store_server.slow_s = 0.0

    async def _restart_coordinator(self) -> None:
        process = self.random.choice(list(self.coordinators.values()))
        if process.up:
            self._note(f"restart {process.name}")
            await process.restart()

    async def _jump_clock(self) -> None:
        process = self.random.choice(list(self.coordinators.values()))
        by_ms = round((2 * self.random.random() - 1) * _HOUR_MS)
        self._note(f"jump {process.name} {by_ms}")
        process.jump(by_ms)

    async def _crash_coordinator(self) -> None:
        await self._crash_for_a_while(self.random.choice(list(self.coordinators.values())))

    async def _crash_agent(self) -> None:
        agent = self.random.choice(list(self.agents.values()))
        if agent.up:
            self.one_life.crashed({a.key.replica: a.number for a in agent.attempts()})
            await self._crash_for_a_while(agent)

    async def _crash_for_a_while(self, process: SimCoordinator | SimAgent) -> None:
        if not process.up:
            return
        self.crashes += 1
        self._note(f"crash {process.name}")
        process.crash()
        await asyncio.sleep(0.1 + 5 * self.random.random())
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

    async def _kill_process(self) -> None:
        """A replica's process is killed from outside; its agent has to find out."""
        running = [
            attempt
            for agent in self.agents.values()
            for attempt in agent.attempts()
            if attempt.settle() is Phase.RUNNING
        ]
        if running:
            attempt = self.random.choice(running)
            self._note(f"kill {attempt.key.replica}")
            assert attempt.run.task is not None, "what runs has a process"
            attempt.node.wake().kill(attempt.run.task.pid)

    async def _cut_link(self) -> None:
        names = [*self.coordinators, *self.agents, "store"]
        one, other = self.random.sample(names, 2)
        await self._cut(one, other)

    async def _cut_leader(self) -> None:
        """The leader loses the store and nothing else: it does not know yet that another one will lead."""
        for name, process in self.coordinators.items():
            if process.up and process.coordinator.leading.is_set():
                await self._cut(name, "store")
                return

    async def _cut(self, one: str, other: str) -> None:
        self._note(f"cut {one} {other}")
        self.network.cut(one, other)
        await asyncio.sleep(0.5 + 8 * self.random.random())
        self.network.heal_link(one, other)

    def _heal(self) -> None:
        self._healed_s = self.loop.time()
        self.network.heal()
        self.store_server.slow_s = 0.0
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

    async def _miss_one(self) -> None:
        """*a lease is a promise for its time*: an agent that dies is missed when its lease is over, not before."""
        # A renewal that the network repeated late would prolong the lease.
        await asyncio.sleep(max(0.0, self._healed_s + LATE_SECONDS - self.loop.time()))
        agent = self.random.choice(list(self.agents.values()))
        self.one_life.crashed({a.key.replica: a.number for a in agent.attempts()})
        self._note(f"crash {agent.name}")
        agent.crash()
        lease_ms = self.timing.lease_ms
        over_ms = self._granted_ms[agent.name] + lease_ms
        end_ms = self._asked_ms[agent.name] + lease_ms + _LOSS_MS
        while self.loop.now_ms() < end_ms and any(n.ready for n in self._nodes_of(agent)):
            await asyncio.sleep(0.01)
            self._raise_failure()
        left_ms = over_ms - self.loop.now_ms()
        if left_ms > 0:
            raise Violation(f"{agent.name} is lost {left_ms} ms before its lease is over")
        if any(node.ready for node in self._nodes_of(agent)):
            raise Violation(f"{agent.name} is not lost {_LOSS_MS} ms after its lease is over")
        agent.boot()
        await self._rest()

    def _nodes_of(self, agent: SimAgent) -> list[FleetNode]:
        nodes = self.books.shadow.tables.nodes.values()
        return [node for node in nodes if node.agent == agent.name]

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

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
        actual = {key for agent in self.agents.values() for key in agent.running()}
        if running != actual:
            return f"stored as running {sorted(running - actual)}, runs {sorted(actual - running)}"
        there = {
            (a.key.node, a.key.replica) for agent in self.agents.values() for a in agent.attempts()
        }
        unknown = there - {(replica.node, replica.name) for replica in tables.replicas.values()}
        if unknown:
            return f"agents have {sorted(unknown)}, which nobody knows"
        return self._missing_replicas() or self.users.behind

    def _holds_the_healthy(self, node: str) -> bool:
        """A workload that cannot start may hold up a drain: its disruption budget is spent."""
        book = self.books.shadow.tables.books.nodes[node]
        return any(KINDS[replica.workload].certain for replica in book.replicas.values())

    def _missing_replicas(self) -> str:
        tables = self.books.shadow.tables
        for name, promise in self.promises.wanted().items():
            workload = tables.workloads.get(name)
            if workload is None:
                return f"{name} does not exist"
            book = tables.books.workload(name)
            wanted = promise.replicas
            if workload.spec.per_node:
                wanted = sum(node.schedulable for node in tables.nodes.values())
            elif book.live - len(book.replacing) != wanted:
                return f"{name}: {book.live} replicas, {wanted} wanted"
            if KINDS[name].certain and book.count(Phase.RUNNING) != wanted:
                return f"{name}: {book.phases}, {wanted} wanted"
            current = book.generations.get(workload.generation, {})
            if KINDS[name].certain and len(current) != wanted:
                return f"{name}: {len(current)} of {wanted} are up to date"
        return ""

    def _check_end(self) -> None:
        workloads = self.books.shadow.tables.workloads
        gone = [name for name, w in workloads.items() if w.deleting]
        if gone:
            raise Violation(f"{gone} are not deleted to the end")
        self.promises.check_all(workloads)
        now_ms = self.loop.now_ms()
        for replica in self.books.shadow.tables.replicas.values():
            moving = replica.phase in (Phase.ASSIGNED, Phase.STOPPING)
            if moving and now_ms - replica.since_ms > _STUCK_MS:
                raise Violation(f"{replica.name} is {replica.phase} for ever")
        for agent in self.agents.values():
            agent.check()


def simulate(seed: int) -> SeedOutcome:
    """Runs one seed. Raises what went wrong; the caller says how to repeat it."""
    loop = VirtualLoop()
    world = World(seed, loop)
    return run(world.run(seed), loop)
