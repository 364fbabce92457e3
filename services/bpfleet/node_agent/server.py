"""Puts an agent together: kernels, services, registration, metrics, and their end in the right order."""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Final, final

from grpc import aio
from prometheus_client import CollectorRegistry

from bpfleet.node_agent.agent import Agent
from bpfleet.node_agent.bpf_service import BpfServicer
from bpfleet.node_agent.budget import Budget, machine_bytes
from bpfleet.node_agent.cgroup_service import CgroupServicer
from bpfleet.node_agent.commands import CommandOrder
from bpfleet.node_agent.config import AgentSettings
from bpfleet.node_agent.metrics import AgentMetrics
from bpfleet.node_agent.node_service import NodeServicer
from bpfleet.node_agent.process_service import ProcessServicer
from bpfleet.node_agent.registration import Registration, over_grpc
from bpfleet.node_agent.replicas import Replicas
from bpfleet.node_agent.runtime_service import RuntimeServicer
from bpfleet.node_agent.sleep import sleep_when_idle
from bpfleet.node_agent.watch import Watches
from bpfleet.rpc.metrics import RpcMetrics, add_common, serve_metrics
from bpfleet.rpc.server import RpcServer
from bpfleet.v1 import (
    bpf_service_pb2_grpc,
    cgroup_service_pb2_grpc,
    node_service_pb2_grpc,
    process_service_pb2_grpc,
    runtime_service_pb2_grpc,
)

__all__ = ["SERVICES", "NodeAgent"]

_log: Final = logging.getLogger(__name__)

SERVICES: Final = tuple(
    f"bpfleet.v1.{name}Service" for name in ("Bpf", "Cgroup", "Node", "Process", "Runtime")
)
# Coordinators call it, so it serves once one of them knows the agent: what a readiness probe asks for.
READY_SERVICE: Final = "bpfleet.v1.RuntimeService"
_NODES_PER_TURN: Final = 100


@final
class NodeAgent:
    """An agent from its start to its stop: ``start``, then ``run_until_signal`` or ``stop``."""

    def __init__(self, settings: AgentSettings) -> None:
        self.settings: Final = settings
        budget = Budget(
            agent_bytes=settings.memory_budget_bytes or machine_bytes(),
            node_bytes=settings.node_memory_budget_bytes,
        )
        self.agent: Final = Agent(settings.agent_id, call_ns=settings.call_ns, budget=budget)
        self.replicas: Final = Replicas(self.agent, churn_share=settings.churn_share)
        self._commands: Final = CommandOrder(member=bool(settings.coordinators))
        self._incarnation: Final = uuid.uuid4().hex
        self._registry: Final = CollectorRegistry()
        add_common(self._registry, "agent")
        self._watches: Final = Watches(self.agent)
        self.server: Final = RpcServer(
            settings.server,
            [self._add_services],
            SERVICES,
            ended=RpcMetrics(self._registry, "server").ended,
        )
        self._registration: Registration | None = None
        self._tasks: Final[set[asyncio.Task[None]]] = set()

    def _add_services(self, server: aio.Server) -> None:
        agent = self.agent
        bpf_service_pb2_grpc.add_BpfServiceServicer_to_server(BpfServicer(agent), server)
        cgroup_service_pb2_grpc.add_CgroupServiceServicer_to_server(CgroupServicer(agent), server)
        node_service_pb2_grpc.add_NodeServiceServicer_to_server(
            NodeServicer(agent, self._watches, self.replicas), server
        )
        process_service_pb2_grpc.add_ProcessServiceServicer_to_server(
            ProcessServicer(agent), server
        )
        runtime_service_pb2_grpc.add_RuntimeServiceServicer_to_server(
            RuntimeServicer(
                agent,
                self.replicas,
                self._commands,
                token=self.settings.own_token,
                incarnation=self._incarnation,
            ),
            server,
        )

    async def start(self) -> int:
        """Listens, boots the nodes, then registers; returns the port. Raises ``ListenError`` or ``SettingsError``."""
        settings = self.settings
        if settings.metrics:
            metrics = AgentMetrics(self.agent, self.replicas)
            self._registry.register(metrics)
            serve_metrics(settings.metrics, self._registry, tokens=settings.server.tokens)
            self._spawn(metrics.refresh())
        port = await self.server.start(serving=False)
        await self._boot()
        await self.server.announce()
        await self.server.set_serving(READY_SERVICE, not settings.coordinators)
        self._spawn(self.replicas.pump())
        self._spawn(sleep_when_idle(self._idle_nodes))
        if settings.coordinators:
            self._registration = Registration(
                self.agent,
                self.replicas,
                self._commands,
                settings.coordinators,
                settings.address(port),
                incarnation=self._incarnation,
                connect=over_grpc(RpcMetrics(self._registry, "client").ended),
            )
            self._spawn(self._registration.run())
            self._spawn(self._follow_registration(self._registration))
        _log.info(
            "event=serving agent=%s address=%s port=%d profile=%s nodes=%d seed=%d",
            settings.agent_id,
            settings.server.listen,
            port,
            settings.shape.profile.name,
            settings.nodes,
            settings.shape.seed,
        )
        return port

    async def _follow_registration(self, registration: Registration) -> None:
        """An agent is ready once a coordinator knows it; it stays so while coordinators are away."""
        await registration.registered.wait()
        await self.server.set_serving(READY_SERVICE, True)

    async def _boot(self) -> None:
        shape = self.settings.shape
        for number, node_id in enumerate(self.settings.node_ids(), start=1):
            self.agent.create(node_id, replace(shape, seed=shape.seed + number))
            if number % _NODES_PER_TURN == 0:
                await asyncio.sleep(0)

    def _idle_nodes(self) -> list[Callable[[], bool]]:
        """How to put those nodes to sleep that nobody has called for some rounds."""
        return [
            node.fall_asleep
            for node in self.agent.all()
            if node.tires() and not self.replicas.on_node(node.node_id)
        ]

    async def run_until_signal(self) -> None:
        """Serves until SIGTERM or SIGINT, then stops."""
        await self.server.run_until_signal(self._wind_down)

    async def stop(self) -> None:
        """Stops without a signal: for tests and embedding."""
        await self._wind_down()
        await self.server.stop(self.settings.server.stop_grace_seconds)

    async def _wind_down(self) -> None:
        """Leaves the fleet first, so that nothing new is placed here, then ends what runs in the background."""
        if self._registration is not None:
            await self._registration.leave()
        self._watches.close()
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)
        _log.info("event=stopping agent=%s", self.settings.agent_id)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(_report_end)


def _report_end(task: asyncio.Task[None]) -> None:
    """Background work never ends by itself; if it does, that is a bug worth a line."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("event=background_task_failed", exc_info=error)
