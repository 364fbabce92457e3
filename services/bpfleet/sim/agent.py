"""A simulated node agent: real emulated kernels, the registry's protocol, orders carried out in order."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from bpfleet.coordinator.node_client import AgentUnreachable, Answer
from bpfleet.coordinator.registry_service import RegistryServicer
from bpfleet.fleet.dispatch import Orders
from bpfleet.fleet.records import Workload
from bpfleet.kernel import profile_named
from bpfleet.kernel.kernel import Kernel
from bpfleet.node_agent.commands import CommandOrder
from bpfleet.rpc.errors import ApiError
from bpfleet.rpc.orders import news_of, order_messages
from bpfleet.rpc.workloads import replica_order_record
from bpfleet.runtime.replica import ReplicaRun
from bpfleet.sim.network import Network, Process, Unreachable
from bpfleet.v1 import registry_service_pb2 as registry
from bpfleet.v1 import runtime_service_pb2 as runtime
from bpfleet.workload.resolve import resolve
from bpfleet.workload.spec import NodeShape, Phase, ReplicaOrder

__all__ = ["NodePlan", "SimAgent", "SimAgents"]

_ROUND_SECONDS = 0.8
_STATES = {
    Phase.PENDING: registry.REPLICA_STATE_STARTING,
    Phase.RUNNING: registry.REPLICA_STATE_RUNNING,
    Phase.FAILED: registry.REPLICA_STATE_FAILED,
    Phase.STOPPED: registry.REPLICA_STATE_STOPPED,
}


@dataclass(frozen=True, slots=True)
class NodePlan:
    """What a simulated node is like."""

    name: str
    profile: str
    ram_bytes: int
    zone: str


@dataclass(slots=True)
class _Running:
    attempt: int
    run: ReplicaRun


class SimAgent(Process):
    """A few nodes and what runs on them. A crash loses both; the next life starts empty.

    ``on_start`` and ``on_stop`` are told of every replica that starts or ends here.
    """

    def __init__(
        self,
        name: str,
        plans: list[NodePlan],
        network: Network,
        random: Random,
        *,
        coordinators: dict[str, tuple[Process, Callable[[], RegistryServicer]]],
        on_start: Callable[[str, str, int], None],
        on_stop: Callable[[str, str], None],
    ) -> None:
        super().__init__(name)
        self.plans = plans
        self.kernels: dict[str, Kernel] = {}
        self.running: dict[tuple[str, str], _Running] = {}
        self._network = network
        self._random = random
        self._coordinators = coordinators
        self._changed: dict[tuple[str, str], None] = {}
        self._order = CommandOrder()
        self._on_start = on_start
        self._on_stop = on_stop

    def boot(self) -> None:
        """Starts with fresh kernels and nothing running."""
        self.start()
        self._order = CommandOrder()
        self._changed.clear()
        self.kernels = {
            plan.name: Kernel(
                profile_named(plan.profile),
                node=plan.name,
                ram_bytes=plan.ram_bytes,
                possible_cpus=2,
                seed=self._random.randrange(1 << 30),
            )
            for plan in self.plans
        }
        self.spawn(self._follow())

    def crash(self) -> None:
        """Power cut."""
        super().crash()
        for node, replica in list(self.running):
            self._on_stop(node, replica)
        self.running.clear()
        self.kernels.clear()

    # -- orders

    async def carry_out(
        self, stops: runtime.StopReplicasRequest, runs: runtime.RunReplicasRequest
    ) -> runtime.RunReplicasResponse:
        """Stops, then starts, unless a later command came before. Raises ``ApiError`` if so."""
        response = runtime.RunReplicasResponse()
        if stops.replicas:
            self._order.admit(stops.leader_epoch, stops.sequence)
            for key in stops.replicas:
                self._stop(key.node, key.replica)
        if runs.replicas:
            self._order.admit(runs.leader_epoch, runs.sequence)
            for spec in runs.replicas:
                response.statuses.append(self._run(spec))
        return response

    def _run(self, spec: runtime.ReplicaSpec) -> runtime.ReplicaStatus:
        order = replica_order_record(spec, "replica")
        key = (order.node, order.name)
        known = self.running.get(key)
        if known is not None and known.attempt < spec.attempt:
            self._stop(*key)
            known = None
        if known is None:
            known = self.running[key] = _Running(spec.attempt, self._new_run(order))
            self._on_start(order.node, order.name, order.attempt)
            known.run.start()
            self.kernels[spec.node].check()
        return runtime.ReplicaStatus(
            replica=order.name,
            attempt=known.attempt,
            node=order.node,
            workload=order.workload.name,
            state=_STATES[known.run.phase],
            reason=known.run.failure.reason if known.run.failure is not None else "",
        )

    def _new_run(self, order: ReplicaOrder) -> ReplicaRun:
        kernel = self.kernels[order.node]
        shape = NodeShape(possible_cpus=2, ram_bytes=kernel.ram.ram_bytes)
        record = resolve(order.workload, order.serial, order.node, shape, seed=order.seed)
        return ReplicaRun(kernel, record)

    def _stop(self, node: str, replica: str) -> None:
        known = self.running.pop((node, replica), None)
        self._changed.pop((node, replica), None)
        if known is None:
            return
        known.run.stop()
        self._on_stop(node, replica)
        self.kernels[node].check()

    # -- registering, renewing, reporting

    async def _follow(self) -> None:
        names = list(self._coordinators)
        turn = self._random.randrange(len(names))
        while True:
            name = names[turn % len(names)]
            try:
                await self._register(name)
                while True:
                    await asyncio.sleep(_ROUND_SECONDS)
                    await self._renew(name)
                    await self._report(name)
            except Unreachable:
                turn += 1
            except ApiError as error:
                if error.reason != "LEASE_EXPIRED":
                    turn += 1
            await asyncio.sleep(0.1)

    # Any: request and response types depend on the method.
    async def _call(self, coordinator: str, method: str, request: Any) -> Any:
        process, servicer = self._coordinators[coordinator]

        async def work() -> Any:
            return await getattr(servicer(), method)(request, None)

        return await self._network.call(self, process, work)

    async def _register(self, coordinator: str) -> None:
        request = registry.RegisterAgentRequest(
            agent=self.name, incarnation=str(self.life), address="127.0.0.1:1"
        )
        for plan in self.plans:
            request.nodes.add(
                node=plan.name,
                profile=plan.profile,
                possible_cpus=2,
                ram_bytes=plan.ram_bytes,
                reserved_bytes=plan.ram_bytes // 8,
                labels={"zone": plan.zone},
                replicas=[
                    self._told(replica) for node, replica in self.running if node == plan.name
                ],
            )
        before = self._order.position
        lease = (await self._call(coordinator, "RegisterAgent", request)).lease
        self._order.registered(lease.leader_epoch, lease.void_sequence, since=before)

    def _told(self, replica: str) -> registry.ReplicaReport:
        (running,) = [r for (_, name), r in self.running.items() if name == replica]
        return registry.ReplicaReport(
            replica=replica,
            attempt=running.attempt,
            state=_STATES[running.run.phase],
            reason=running.run.failure.reason if running.run.failure is not None else "",
        )

    async def _renew(self, coordinator: str) -> None:
        request = registry.RenewLeaseRequest(agent=self.name, incarnation=str(self.life))
        await self._call(coordinator, "RenewLease", request)

    async def _report(self, coordinator: str) -> None:
        """Lets everything churn, then reports it all: what died meanwhile is noticed here."""
        request = registry.ReportNodesRequest(agent=self.name, incarnation=str(self.life))
        for plan in self.plans:
            kernel = self.kernels[plan.name]
            kernel.advance(1_000_000)
            here = [replica for node, replica in self.running if node == plan.name]
            for replica in here:
                self.running[plan.name, replica].run.step()
            request.reports.add(
                node=plan.name,
                memory_used_bytes=kernel.ram.used_bytes,
                replicas=[self._told(replica) for replica in here],
            )
        answer = await self._call(coordinator, "ReportNodes", request)
        for replica in answer.unknown_replicas:
            for node, name in list(self.running):
                if name == replica:
                    self._stop(node, name)


class SimAgents:
    """How one coordinator reaches the agents: by name instead of by address."""

    def __init__(self, owner: Process, network: Network, agents: dict[str, SimAgent]) -> None:
        self._owner = owner
        self._network = network
        self._agents = agents

    async def carry_out(
        self, address: str, orders: Orders, workloads: dict[str, Workload], epoch: int
    ) -> Answer:
        """Hands orders over as the messages the real client would send."""
        agent = self._agents[orders.agent]
        stops, runs = order_messages(orders, workloads, epoch)
        try:
            response = await self._network.call(
                self._owner, agent, lambda: agent.carry_out(stops, runs)
            )
        except (Unreachable, ApiError) as error:
            raise AgentUnreachable(str(error)) from None
        return news_of(orders, response), list(orders.stops)

    async def close(self) -> None:
        """Nothing to let go of."""
