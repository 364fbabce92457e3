"""RegistryService: what agents tell the coordinator."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from grpc import aio
from msgspec.structs import replace

from bpfleet.coordinator.proof import AddressProver
from bpfleet.coordinator.reconcile import Coordinator
from bpfleet.fleet.commands import (
    Command,
    NodeAnnouncement,
    NodeUsage,
    RegisterAgent,
    ReportNodes,
    UnregisterAgent,
)
from bpfleet.fleet.reasons import ControlReason
from bpfleet.rpc.addresses import parse_address
from bpfleet.rpc.errors import ApiError, invalid
from bpfleet.rpc.fleet import announcement, usage_record
from bpfleet.rpc.interceptors import caller_of
from bpfleet.rpc.names import node_id
from bpfleet.rpc.refusals import api_errors
from bpfleet.rpc.server import SettingsError
from bpfleet.rpc.tokens import Role, Tokens
from bpfleet.v1 import registry_service_pb2 as pb
from bpfleet.v1.registry_service_pb2_grpc import RegistryServiceServicer

__all__ = ["RegistryServicer"]

NODES_PER_CALL_MAX: Final = 5_000
# Nodes, and what is told of their replicas, of one command: more would keep everybody else waiting for too long.
_PART: Final = 1_000
_NODE_WEIGHT: Final = 4

# Nodes read from a message, or looked up to be removed, in one turn.
_NODES_PER_TURN: Final = 200
_REMOVED_PART: Final = 20

Item = TypeVar("Item", NodeAnnouncement, NodeUsage)
_RENEWALS_PER_LEASE: Final = 3
# The generated servicers type the context with the messages of the method.
_Context = aio.ServicerContext[Any, Any]


class RegistryServicer(RegistryServiceServicer):
    """One method per RPC: parse, one command, format."""

    def __init__(
        self,
        coordinator: Coordinator,
        tokens: Tokens | None = None,
        prover: AddressProver | None = None,
    ) -> None:
        self._coordinator = coordinator
        self._tokens = tokens
        self._prover = prover

    def _acting(self, agent: str, context: _Context) -> str:
        """The id of the agent a call is about. Raises ``ApiError`` where another agent makes it."""
        agent = node_id(agent, "agent")
        if self._tokens is None:
            return agent
        caller = caller_of(context.invocation_metadata(), self._tokens)
        if caller is None or (caller.role is Role.AGENT and caller.agent != agent):
            raise ApiError(
                grpc.StatusCode.PERMISSION_DENIED,
                ControlReason.ROLE_FORBIDDEN,
                f"agent: the token is not that of {agent}; an agent acts as itself only",
            )
        return agent

    async def RegisterAgent(
        self, request: pb.RegisterAgentRequest, context: _Context
    ) -> pb.RegisterAgentResponse:
        """Announces an agent and its nodes."""
        command = RegisterAgent(
            agent=self._acting(request.agent, context),
            incarnation=_incarnation(request.incarnation),
            address=_address(request.address),
            version=request.version[:64],
        )
        if self._prover is not None:
            await self._prover.check(command.agent, command.incarnation, command.address)
        nodes: list[NodeAnnouncement] = []
        for position, node in enumerate(_bounded(request.nodes, "nodes")):
            nodes.append(announcement(node, f"nodes[{position}]"))
            if position % _NODES_PER_TURN == 0:
                await asyncio.sleep(0)
        parts = [replace(command, nodes=part, partial=True) for part in _parts(nodes)] or [command]
        parts[-1] = replace(parts[-1], partial=request.partial)
        # The parts of one call are one after the other: the first says whether it is late.
        parts[0] = replace(parts[0], sequence=max(0, request.sequence))
        with api_errors():
            answers = await self._submit(parts)
            rejections = [rejection for rejected, _ in answers for rejection in rejected]
            strays = [stray for _, strange in answers for stray in strange]
            void = self._coordinator.registered(command.agent, command.incarnation, strays)
            return pb.RegisterAgentResponse(
                lease=self._lease(void),
                rejected_nodes=[
                    pb.RejectedNode(node=node, reason=reason, message=message)
                    for node, reason, message in rejections
                ],
                accepted_count=len(nodes) - len(rejections),
            )

    async def RenewLease(
        self, request: pb.RenewLeaseRequest, context: _Context
    ) -> pb.RenewLeaseResponse:
        """Keeps all nodes of an agent Ready."""
        agent = self._acting(request.agent, context)
        with api_errors():
            self._coordinator.renew(agent, request.incarnation)
            return pb.RenewLeaseResponse(lease=self._lease())

    async def ReportNodes(
        self, request: pb.ReportNodesRequest, context: _Context
    ) -> pb.ReportNodesResponse:
        """Reports usage, verdicts and what became of replicas."""
        reports = _bounded(request.reports, "reports")
        agent = self._acting(request.agent, context)
        command = ReportNodes(agent=agent, incarnation=request.incarnation, reports=())
        records: list[NodeUsage] = []
        for position, report in enumerate(reports):
            records.append(usage_record(report))
            if position % _NODES_PER_TURN == 0:
                await asyncio.sleep(0)
        parts = [replace(command, reports=part) for part in _parts(records)]
        removed = _bounded(request.removed_nodes, "removed_nodes")
        parts += [
            replace(command, removed=tuple(removed[start : start + _REMOVED_PART]))
            for start in range(0, len(removed), _REMOVED_PART)
        ]
        with api_errors():
            strays = [
                stray for strange in await self._submit(parts or [command]) for stray in strange
            ]
            self._coordinator.stray(agent, strays)
            return pb.ReportNodesResponse(unknown_replicas=[replica for _, replica in strays])

    async def UnregisterAgent(
        self, request: pb.UnregisterAgentRequest, context: _Context
    ) -> pb.UnregisterAgentResponse:
        """Takes an agent and its nodes out of the fleet."""
        agent = self._acting(request.agent, context)
        command = UnregisterAgent(agent, _incarnation(request.incarnation))
        with api_errors():
            count = await self._coordinator.submit(command)
            self._coordinator.unregistered(agent)
            return pb.UnregisterAgentResponse(removed_node_count=count)

    # Any: the answers' type depends on the commands.
    async def _submit(self, commands: Sequence[Command]) -> list[Any]:
        """Carries out the parts of a large call one after the other; others get their turn between."""
        submitted = []
        for command in commands:
            submitted.append(asyncio.ensure_future(self._coordinator.submit(command)))
            await asyncio.sleep(0)
        return await asyncio.gather(*submitted)

    def _lease(self, void_sequence: int = 0) -> pb.Lease:
        lease_ms = self._coordinator.timing.lease_ms
        return pb.Lease(
            duration=_duration(lease_ms),
            renew_interval=_duration(lease_ms // _RENEWALS_PER_LEASE),
            leader_epoch=self._coordinator.epoch,
            void_sequence=void_sequence,
        )


def _parts(items: Sequence[Item]) -> Iterator[tuple[Item, ...]]:
    """The items in parts of about the same weight."""
    part: list[Item] = []
    weight = 0
    for item in items:
        part.append(item)
        weight += _NODE_WEIGHT + len(item.replicas)
        if weight >= _PART:
            yield tuple(part)
            part, weight = [], 0
    if part:
        yield tuple(part)


def _duration(time_ms: int) -> Duration:
    return Duration(seconds=time_ms // 1000, nanos=time_ms % 1000 * 1_000_000)


def _incarnation(text: str) -> str:
    if not 1 <= len(text) <= 64:
        raise invalid("incarnation", "give 1 to 64 characters that change with every start")
    return text


def _address(text: str) -> str:
    try:
        parse_address(text)
    except SettingsError as error:
        raise invalid("address", str(error)) from None
    return text


# Any: repeated fields of either message.
def _bounded(messages: Any, field: str) -> Any:
    if len(messages) > NODES_PER_CALL_MAX:
        text = f"{len(messages)} in one call; send at most {NODES_PER_CALL_MAX}, then the rest"
        raise invalid(field, text)
    return messages
