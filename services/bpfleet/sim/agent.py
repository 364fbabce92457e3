"""A simulated node agent: the production agent on emulated kernels, over the simulated network and clock."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Final, Protocol

from bpfleet.coordinator.node_client import Answer, hand_over
from bpfleet.fleet.dispatch import Orders
from bpfleet.fleet.records import Workload
from bpfleet.kernel import profile_named
from bpfleet.node_agent.agent import Agent
from bpfleet.node_agent.commands import CommandOrder
from bpfleet.node_agent.node import NodeBoot
from bpfleet.node_agent.registration import Registration
from bpfleet.node_agent.replicas import Attempt, Replicas
from bpfleet.node_agent.runtime_service import RuntimeServicer
from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.sim.network import Network, SimProcess, Unreachable
from bpfleet.sim.transport import Link, Stub, opened
from bpfleet.workload.phase import Phase

__all__ = ["AgentWitness", "SimAgent", "SimAgents", "SimNode"]

_CALL_NS: Final = 1_000
_CHURN_SHARE: Final = 0.5
_CPUS: Final = 2


@dataclass(frozen=True, slots=True)
class SimNode:
    """What a simulated node is like. Its zone is the operator's business: agents announce no labels."""

    name: str
    profile: str
    ram_bytes: int
    zone: str


class AgentWitness(Protocol):
    """Who hears what agents do and say."""

    def taken(self, attempt: Attempt) -> None:
        """An agent took an attempt: it starts."""

    def forgotten(self, attempt: Attempt) -> None:
        """An agent stopped an attempt, or lost it in a crash."""

    # Any: a request or an answer of any method.
    def said(self, agent: str, message: Any) -> None:
        """An agent sent this message to a coordinator."""

    def answered(self, agent: str, message: Any) -> None:
        """An agent got this answer of a coordinator."""

    def ordered(self, coordinator: str, agent: str, message: Any) -> None:
        """A coordinator sent this order to an agent."""

    def admitted(self, life: str, epoch: int, sequence: int) -> None:
        """A start of an agent carries an order out."""

    def fail(self, error: BaseException) -> None:
        """Something broke."""


# Name to the process of a coordinator, and how to find its registry service.
Coordinators = Mapping[str, tuple[SimProcess, Callable[[], object]]]


class SimAgent(SimProcess):
    """A few nodes and what runs on them. A crash loses both; the next life starts empty, as a new incarnation."""

    def __init__(
        self,
        name: str,
        plans: list[SimNode],
        network: Network,
        random: Random,
        *,
        clock: Callable[[], float],
        coordinators: Coordinators,
        witness: AgentWitness,
    ) -> None:
        super().__init__(name, random)
        self.plans: Final = plans
        self._network: Final = network
        self._clock: Final = clock
        self._coordinators: Final = coordinators
        self._witness: Final = witness
        self.nodes: Agent = Agent(name, call_ns=_CALL_NS)
        self.replicas: Replicas | None = None
        self._servicer: RuntimeServicer | None = None

    def boot(self) -> None:
        """Starts with fresh kernels and nothing running."""
        self.start()
        self.nodes = Agent(self.name, call_ns=_CALL_NS)
        for plan in self.plans:
            shape = NodeBoot(
                profile=profile_named(plan.profile),
                ram_bytes=plan.ram_bytes,
                possible_cpus=_CPUS,
                seed=self._random.randrange(1 << 30),
            )
            self.nodes.create(plan.name, shape)
        self.replicas = Replicas(
            self.nodes, churn_share=_CHURN_SHARE, clock=self._clock, listener=self._heard
        )
        commands, life = CommandOrder(), f"{self.name}#{self.life}"
        self._servicer = _HeardRuntime(
            self.nodes, self.replicas, commands, partial(self._witness.admitted, life)
        )
        names = list(self._coordinators)
        self._random.shuffle(names)
        registration = Registration(
            self.nodes,
            self.replicas,
            commands,
            [ChannelOptions(target=f"{name}:1") for name in names],
            address=f"{self.name}:1",
            connect=lambda options: opened(self._to(options.target.partition(":")[0])),
            incarnation=life,
        )
        self.spawn(self._carry_on(self.replicas.pump))
        self.spawn(self._carry_on(registration.run))

    def crash(self) -> None:
        """Power cut."""
        super().crash()
        for attempt in self.attempts():
            self._witness.forgotten(attempt)
        self.replicas = None

    def runtime(self) -> RuntimeServicer:
        """What coordinators call."""
        if self._servicer is None:
            raise Unreachable(f"{self.name} was never started")
        return self._servicer

    def attempts(self) -> list[Attempt]:
        """What this life has taken and not forgotten."""
        if self.replicas is None:
            return []
        found = (self.replicas.find(key) for key in self.replicas.keys)
        return [attempt for attempt in found if attempt is not None]

    def running(self) -> set[tuple[str, str]]:
        """(node, replica) of what runs."""
        return {
            (attempt.key.node, attempt.key.replica)
            for attempt in self.attempts()
            if attempt.settle() is Phase.RUNNING
        }

    def check(self) -> None:
        """Asserts that every kernel's books add up and that none has stopped."""
        for node in self.nodes.all():
            assert not node.crash_message, f"node {node.node_id} stopped: {node.crash_message}"
            node.wake().check()

    async def _carry_on(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:
            self._witness.fail(error)

    def _heard(self, attempt: Attempt, taken: bool) -> None:
        if taken:
            self._witness.taken(attempt)
        else:
            attempt.node.wake().check()
            self._witness.forgotten(attempt)

    # Any: a request and its answer, of any method.
    def _hears(self, request: Any, answer: Any) -> None:
        if answer is None:
            self._witness.said(self.name, request)
        else:
            self._witness.answered(self.name, answer)

    def _to(self, coordinator: str) -> Link:
        process, servicer = self._coordinators[coordinator]
        return Link(
            self._network,
            self,
            process,
            servicer,
            hears=self._hears,
            fails=self._witness.fail,
        )


class _HeardRuntime(RuntimeServicer):
    """Tells which orders a start of an agent carries out."""

    def __init__(
        self,
        agent: Agent,
        replicas: Replicas,
        commands: CommandOrder,
        admitted: Callable[[int, int], None],
    ) -> None:
        super().__init__(agent, replicas, commands)
        self._admitted: Final = admitted

    # Any: requests and answers, and no context in a simulated call.
    async def RunReplicas(self, request: Any, context: Any) -> Any:
        answer = await super().RunReplicas(request, context)
        self._admitted(request.leader_epoch, request.sequence)
        return answer

    async def StopReplicas(self, request: Any, context: Any) -> Any:
        answer = await super().StopReplicas(request, context)
        self._admitted(request.leader_epoch, request.sequence)
        return answer


class SimAgents:
    """How one coordinator reaches the agents: the production client over a simulated link."""

    def __init__(
        self,
        owner: SimProcess,
        network: Network,
        agents: Mapping[str, SimAgent],
        witness: AgentWitness,
    ) -> None:
        self._owner: Final = owner
        self._network: Final = network
        self._agents: Final = agents
        self._witness: Final = witness

    async def carry_out(
        self, address: str, orders: Orders, workloads: dict[str, Workload], epoch: int
    ) -> Answer:
        """Hands orders over. Raises ``AgentUnreachable``."""
        # Any: a Stub stands for the stub of every service.
        stub: Any = Stub(self._to(address.partition(":")[0]))
        return await hand_over(stub, orders, workloads, epoch)

    def _to(self, name: str) -> Link:
        agent, witness = self._agents[name], self._witness

        def hears(request: Any, answer: Any) -> None:
            if answer is None:
                witness.ordered(self._owner.name, name, request)
            else:
                witness.said(name, answer)

        return Link(
            self._network, self._owner, agent, agent.runtime, hears=hears, fails=witness.fail
        )

    async def close(self) -> None:
        """Nothing to let go of."""
