"""RuntimeService: by which the coordinator starts and stops replicas on the nodes of this agent."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import grpc
from grpc import aio
from msgspec.structs import replace

from bpfleet.fleet.reasons import ControlReason
from bpfleet.node_agent.agent import Agent
from bpfleet.node_agent.commands import CommandOrder
from bpfleet.node_agent.replicas import Key, Replicas
from bpfleet.rpc import names
from bpfleet.rpc.errors import ApiError, invalid
from bpfleet.rpc.paging import page_by_key
from bpfleet.rpc.tokens import proof_of_address
from bpfleet.rpc.workloads import (
    replica_order_record,
    spec_problem,
)
from bpfleet.v1 import replica_pb2
from bpfleet.v1 import runtime_service_pb2 as pb
from bpfleet.v1 import runtime_service_pb2_grpc as pb_grpc
from bpfleet.workload.errors import SpecError
from bpfleet.workload.resolve import resolve
from bpfleet.workload.spec import NodeShape, replica_name

__all__ = ["RuntimeServicer"]

# gRPC's contexts are generic over messages that no method of ours touches.
_Context = aio.ServicerContext[Any, Any]

REPLICAS_PER_CALL_MAX: Final = 1000
NONCE_CHARS_MAX: Final = 64
_PER_TURN: Final = 50


class RuntimeServicer(pb_grpc.RuntimeServiceServicer):
    """Parses, hands over to ``Replicas``, formats. ``commands`` keeps the commands of coordinators in order."""

    def __init__(
        self,
        agent: Agent,
        replicas: Replicas,
        commands: CommandOrder,
        *,
        token: str = "",
        incarnation: str = "",
    ) -> None:
        self._agent: Final = agent
        self._replicas: Final = replicas
        self._commands: Final = commands
        self._token: Final = token
        self._incarnation: Final = incarnation

    async def RunReplicas(
        self, request: pb.RunReplicasRequest, context: _Context
    ) -> pb.RunReplicasResponse:
        """Starts replicas; a replica that cannot be started is refused and hinders no other."""
        _few(request.replicas)
        self._commands.admit(request.leader_epoch, request.sequence)
        response = pb.RunReplicasResponse()
        for position, spec in enumerate(request.replicas):
            try:
                response.statuses.append(self._run(spec, f"replicas[{position}]"))
            except ApiError as error:
                response.refused_replicas.add(
                    replica=replica_name(spec.workload.name, spec.serial),
                    reason=_refusal(error),
                    message=error.message,
                )
            if position % _PER_TURN == _PER_TURN - 1:
                await asyncio.sleep(0)
        return response

    def _run(self, message: pb.ReplicaSpec, path: str) -> replica_pb2.ReplicaStatus:
        order = replica_order_record(message, path)
        node = self._agent.find(order.node)
        shape = NodeShape(possible_cpus=node.shape.possible_cpus, ram_bytes=node.shape.ram_bytes)
        try:
            spec = resolve(order.workload, order.serial, order.node, shape, seed=order.seed)
        except SpecError as error:
            raise spec_problem(error, f"{path}.workload") from None
        if order.cgroup:
            spec = replace(spec, cgroup=order.cgroup)
        key = Key(order.name, order.node)
        return self._replicas.status(self._replicas.run(key, order.attempt, spec))

    async def StopReplicas(
        self, request: pb.StopReplicasRequest, context: _Context
    ) -> pb.StopReplicasResponse:
        """Stops and forgets replicas."""
        _few(request.replicas)
        self._commands.admit(request.leader_epoch, request.sequence)
        response = pb.StopReplicasResponse()
        for position, message in enumerate(request.replicas):
            node = names.node_id(message.node, f"replicas[{position}].node")
            status = self._replicas.stop(Key(message.replica, node))
            if status is not None:
                response.statuses.append(status)
            if position % _PER_TURN == _PER_TURN - 1:
                await asyncio.sleep(0)
        return response

    async def ListReplicas(
        self, request: pb.ListReplicasRequest, context: _Context
    ) -> pb.ListReplicasResponse:
        """One page of replicas, by id and node."""
        keys = self._replicas.keys
        if request.node:
            node = names.node_id(request.node)
            keys = [key for key in keys if key.node == node]
        page, token = page_by_key(
            keys, key=_text, requested_size=request.page_size, token=request.page_token
        )
        found = [self._replicas.find(key) for key in page]
        return pb.ListReplicasResponse(
            statuses=[self._replicas.status(attempt) for attempt in found if attempt is not None],
            next_page_token=token,
            total_size=len(keys),
        )

    async def ProveAddress(
        self, request: pb.ProveAddressRequest, context: _Context
    ) -> pb.ProveAddressResponse:
        """That this is the agent that registered."""
        if not 1 <= len(request.nonce) <= NONCE_CHARS_MAX:
            raise invalid("nonce", f"give 1 to {NONCE_CHARS_MAX} characters")
        own = (self._agent.agent_id, self._incarnation)
        if (request.agent, request.incarnation) != own:
            raise ApiError(
                grpc.StatusCode.FAILED_PRECONDITION,
                ControlReason.ADDRESS_UNPROVEN,
                "another agent, or another start of it, answers here",
            )
        proof = proof_of_address(
            self._token,
            nonce=request.nonce,
            agent=request.agent,
            incarnation=request.incarnation,
        )
        return pb.ProveAddressResponse(proof=proof)


def _few(replicas: Sequence[object]) -> None:
    if len(replicas) > REPLICAS_PER_CALL_MAX:
        raise invalid("replicas", f"{len(replicas)} of them; send at most {REPLICAS_PER_CALL_MAX}")


def _refusal(error: ApiError) -> str:
    known = (ControlReason.NODE_UNKNOWN, ControlReason.NODE_CRASHED)
    return error.reason if error.reason in known else ControlReason.BAD_REPLICA


def _text(key: Key) -> str:
    # The separator sorts before every character of an id, so texts sort like keys.
    return f"{key.replica} {key.node}"
