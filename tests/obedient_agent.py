"""An agent without kernels: speaks the real protocol over real gRPC, runs whatever it is told, notes abuse."""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

import grpc
from grpc import aio

from bpfleet.rpc.errors import decode_rpc_error
from bpfleet.v1 import registry_service_pb2 as registry
from bpfleet.v1 import replica_pb2
from bpfleet.v1 import runtime_service_pb2 as runtime
from bpfleet.v1.registry_service_pb2_grpc import RegistryServiceStub
from bpfleet.v1.runtime_service_pb2_grpc import (
    RuntimeServiceServicer,
    add_RuntimeServiceServicer_to_server,
)
from bpfleet.workload.spec import replica_name

GIB = 1 << 30
RUNNING = replica_pb2.REPLICA_PHASE_RUNNING


def nodes_named(names: Iterable[str], **fields: Any) -> list[registry.RegisteredNode]:
    """Nodes of 10 GiB, all of which can be booked but one byte."""
    shape = {
        "profile": "6.12",
        "possible_cpus": 4,
        "ram_bytes": 10 * GIB + 1,
        "reserved_bytes": 1,
        **fields,
    }
    return [registry.RegisteredNode(node=name, **shape) for name in names]


class ObedientAgent(RuntimeServiceServicer):
    """Life: ``start``, then ``follow`` in a task, then ``stop``. ``running`` is what runs: (node, replica)."""

    def __init__(
        self,
        name: str,
        nodes: list[registry.RegisteredNode],
        coordinators: list[str],
        *,
        incarnation: str = "1",
    ) -> None:
        self.name = name
        self.incarnation = incarnation
        self.nodes = nodes
        self.running: dict[tuple[str, str], int] = {}
        self.failing: dict[str, str] = {}
        self.last = (0, 0)
        self.stale = 0
        self.registrations = 0
        self.epoch = 0
        self._coordinators = coordinators
        self._server = aio.server()
        self._address = ""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        add_RuntimeServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._address = f"127.0.0.1:{port}"
        await self._server.start()
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._server.stop(0)

    def pause(self) -> None:
        """Goes silent: no more heartbeats, but it still takes orders if it gets any."""
        assert self._task is not None, "start comes first"
        self._task.cancel()

    def resume(self) -> None:
        self._task = asyncio.create_task(self._follow())

    # -- what the coordinator calls

    async def RunReplicas(self, request: Any, context: Any) -> runtime.RunReplicasResponse:
        await self._admit(request, context)
        response = runtime.RunReplicasResponse()
        for spec in request.replicas:
            name = replica_name(spec.workload.name, spec.serial)
            failed = self.failing.get(spec.workload.name, "")
            if not failed:
                self.running[spec.node, name] = spec.attempt
            response.statuses.add(
                replica=name,
                attempt=spec.attempt,
                node=spec.node,
                workload=spec.workload.name,
                phase=replica_pb2.REPLICA_PHASE_FAILED if failed else RUNNING,
                reason=failed,
                errno=1 if failed else 0,
            )
        return response

    async def StopReplicas(self, request: Any, context: Any) -> runtime.StopReplicasResponse:
        await self._admit(request, context)
        for key in request.replicas:
            self.running.pop((key.node, key.replica), None)
        return runtime.StopReplicasResponse()

    async def ProveAddress(self, request: Any, context: Any) -> runtime.ProveAddressResponse:
        """It has no token to prove anything with."""
        return runtime.ProveAddressResponse()

    async def _admit(self, request: Any, context: Any) -> None:
        number = (request.leader_epoch, request.sequence)
        if number <= self.last:
            self.stale += 1
            await context.abort(grpc.StatusCode.ABORTED, "stale command")
        self.last = number

    # -- what it calls

    async def _follow(self) -> None:
        turn = 0
        while True:
            target = self._coordinators[turn % len(self._coordinators)]
            try:
                async with aio.insecure_channel(target) as channel:
                    await self._serve(RegistryServiceStub(channel))
            except aio.AioRpcError as error:
                if decode_rpc_error(error).reason != "LEASE_EXPIRED":
                    turn += 1
                await asyncio.sleep(0.05)

    async def _serve(self, stub: Any) -> None:
        """Renews first: after a change of leader the lease still stands."""
        try:
            await self._renew(stub)
        except aio.AioRpcError as error:
            if decode_rpc_error(error).reason != "LEASE_EXPIRED":
                raise
            await self._register(stub)
        while True:
            await asyncio.sleep(0.2)
            await self._renew(stub)

    async def _renew(self, stub: Any) -> None:
        request = registry.RenewLeaseRequest(agent=self.name, incarnation=self.incarnation)
        response = await stub.RenewLease(request, timeout=60)
        self.epoch = response.lease.leader_epoch

    async def _register(self, stub: Any) -> None:
        on_node: dict[str, list[replica_pb2.ReplicaStatus]] = {}
        for (node, replica), attempt in self.running.items():
            report = replica_pb2.ReplicaStatus(replica=replica, attempt=attempt, phase=RUNNING)
            on_node.setdefault(node, []).append(report)
        for node in self.nodes:
            del node.replicas[:]
            node.replicas.extend(on_node.get(node.node, []))
        for start in range(0, max(1, len(self.nodes)), 2_000):
            await stub.RegisterAgent(
                registry.RegisterAgentRequest(
                    agent=self.name,
                    incarnation=self.incarnation,
                    address=self._address,
                    nodes=self.nodes[start : start + 2_000],
                ),
                timeout=30,
            )
        self.registrations += 1

    async def report(self, target: str, node: str, replica: str, **fields: Any) -> Any:
        """Reports one replica by hand."""
        async with aio.insecure_channel(target) as channel:
            return await RegistryServiceStub(channel).ReportNodes(
                registry.ReportNodesRequest(
                    agent=self.name,
                    incarnation=self.incarnation,
                    reports=[
                        registry.NodeReport(
                            node=node,
                            replicas=[replica_pb2.ReplicaStatus(replica=replica, **fields)],
                        )
                    ],
                ),
                timeout=60,
            )
