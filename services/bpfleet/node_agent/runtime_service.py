"""RuntimeService: by which the coordinator starts and stops replicas on the nodes of this agent."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from grpc import aio

from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.node_agent.agent import Agent
from bpfleet.node_agent.commands import CommandOrder
from bpfleet.node_agent.replicas import Key, Replicas
from bpfleet.rpc import names
from bpfleet.rpc.convert import capability_set
from bpfleet.rpc.errors import ApiError, ControlReason, invalid
from bpfleet.rpc.paging import page_by_key
from bpfleet.rpc.workloads import (
    churn_record,
    inventory_record,
    restart_policy_record,
    spec_problem,
)
from bpfleet.v1 import replica_pb2
from bpfleet.v1 import runtime_service_pb2 as pb
from bpfleet.v1 import runtime_service_pb2_grpc as pb_grpc
from bpfleet.workload.catalogue import inventory_for
from bpfleet.workload.errors import SpecError
from bpfleet.workload.spec import Inventory, NodeShape, ReplicaSpec

__all__ = ["RuntimeServicer"]

# gRPC's contexts are generic over messages that no method of ours touches.
_Context = aio.ServicerContext[Any, Any]

REPLICAS_PER_CALL_MAX: Final = 1000
_PER_TURN: Final = 50
_ORDINAL: Final = re.compile(r"(?P<workload>.*)-(?P<ordinal>[0-9]{1,6})")


class RuntimeServicer(pb_grpc.RuntimeServiceServicer):
    """Parses, hands over to ``Replicas``, formats. ``commands`` keeps the commands of coordinators in order."""

    def __init__(self, agent: Agent, replicas: Replicas, commands: CommandOrder) -> None:
        self._agent: Final = agent
        self._replicas: Final = replicas
        self._commands: Final = commands

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
                    replica=spec.replica, reason=_refusal(error), message=error.message
                )
            if position % _PER_TURN == _PER_TURN - 1:
                await asyncio.sleep(0)
        return response

    def _run(self, message: pb.ReplicaSpec, path: str) -> replica_pb2.ReplicaStatus:
        key = Key(
            names.node_id(message.replica, f"{path}.replica"),
            names.node_id(message.node, f"{path}.node"),
        )
        node = self._agent.find(key.node)
        shape = NodeShape(possible_cpus=node.shape.possible_cpus, ram_bytes=node.shape.ram_bytes)
        spec = _record(message, shape, path)
        return self._replicas.status(self._replicas.run(key, message.attempt, spec))

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


def _few(replicas: Sequence[object]) -> None:
    if len(replicas) > REPLICAS_PER_CALL_MAX:
        raise invalid("replicas", f"{len(replicas)} of them; send at most {REPLICAS_PER_CALL_MAX}")


def _refusal(error: ApiError) -> str:
    known = (ControlReason.NODE_UNKNOWN, ControlReason.NODE_CRASHED)
    return error.reason if error.reason in known else ControlReason.BAD_REPLICA


def _text(key: Key) -> str:
    # The separator sorts before every character of an id, so texts sort like keys.
    return f"{key.replica} {key.node}"


def _record(message: pb.ReplicaSpec, shape: NodeShape, path: str) -> ReplicaSpec:
    memory = message.memory_limit_bytes if message.HasField("memory_limit_bytes") else None
    workload, ordinal = _place(message)
    try:
        return ReplicaSpec(
            workload=workload,
            ordinal=ordinal,
            inventory=_inventory(message, shape, path),
            uid=message.uid,
            capabilities=(
                capability_set(message.capabilities, f"{path}.capabilities")
                if message.limit_capabilities
                else None
            ),
            cgroup=message.cgroup or f"/workloads/{message.replica}",
            memory_limit_bytes=memory,
            memlock_bytes=_memlock(message),
            oom_score_adj=message.oom_score_adj,
            restart_policy=restart_policy_record(message.restart_policy, f"{path}.restart_policy"),
            seed=message.seed,
        )
    except SpecError as error:
        raise spec_problem(error, path) from None


def _place(message: pb.ReplicaSpec) -> tuple[str, int]:
    """Workload and number of a replica; its id is ``workload-number`` where a coordinator made it."""
    match = _ORDINAL.fullmatch(message.replica)
    if match is None or (message.workload and match["workload"] != message.workload):
        return message.workload or message.replica, 0
    return match["workload"], int(match["ordinal"])


def _memlock(message: pb.ReplicaSpec) -> int | None:
    if not message.HasField("memlock_limit_bytes"):
        return None
    return RLIM_INFINITY if message.memlock_limit_bytes == -1 else message.memlock_limit_bytes


def _inventory(message: pb.ReplicaSpec, shape: NodeShape, path: str) -> Inventory:
    """What the replica creates, with the churn and heap the message asks for in place of its own."""
    if bool(message.application) == message.HasField("inventory"):
        raise invalid(f"{path}.application", "give either an application or an inventory")
    if message.application:
        inventory = inventory_for(message.application, shape, dict(message.options))
    else:
        inventory = inventory_record(message.inventory, f"{path}.inventory")
    if message.HasField("churn"):
        inventory = replace(inventory, churn=churn_record(message.churn, f"{path}.churn"))
    if message.HasField("user_memory_bytes"):
        inventory = replace(inventory, user_memory_bytes=message.user_memory_bytes)
    return inventory
