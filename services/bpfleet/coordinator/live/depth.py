"""One node in depth: its cgroups, maps and ledger, asked of the agent that carries it."""

from collections.abc import Awaitable
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from grpc import aio

from bpfleet.coordinator.node_client import AgentChannel
from bpfleet.fleet.errors import FleetError, Refused
from bpfleet.fleet.reasons import ControlReason
from bpfleet.fleet.records import Replica
from bpfleet.fleet.state import FleetState
from bpfleet.rpc.channel import aio_channel
from bpfleet.rpc.errors import decode_rpc_error
from bpfleet.v1 import (
    bpf_pb2,
    bpf_service_pb2,
    cgroup_service_pb2,
    node_service_pb2,
    process_service_pb2,
)
from bpfleet.v1.bpf_service_pb2_grpc import BpfServiceStub
from bpfleet.v1.cgroup_service_pb2_grpc import CgroupServiceStub
from bpfleet.v1.node_service_pb2_grpc import NodeServiceStub
from bpfleet.v1.process_service_pb2_grpc import ProcessServiceStub

__all__ = ["ROWS_MAX", "node_in_depth"]

ROWS_MAX: Final = 1000
_DEADLINE_SECONDS: Final = 5.0


async def node_in_depth(state: FleetState, name: str, options: AgentChannel) -> dict[str, Any]:
    """Cgroups, processes, maps and ledger lines of node ``name``, the first ``ROWS_MAX`` of each, and its replicas.

    Raises ``FleetError``: NODE_UNKNOWN, or UNAVAILABLE when its agent does not answer.
    """
    node = state.tables.nodes.get(name)
    agent = state.tables.agents.get(node.agent) if node is not None else None
    if node is None or agent is None:
        raise FleetError(
            Refused.NOT_FOUND, ControlReason.NODE_UNKNOWN, f"no node {name!r}", node=name
        )
    channel = aio_channel(options(agent.address, agent.name))
    try:
        told = await _ask(channel, f"nodes/{name}")
    except aio.AioRpcError as error:
        reason = decode_rpc_error(error).message
        text = f"agent {agent.name!r} of node {name!r} does not answer: {reason}"
        raise FleetError(
            Refused.UNAVAILABLE, ControlReason.AGENT_UNREACHABLE, text, node=name
        ) from None
    finally:
        await channel.close()
    told["replicas"] = [
        _replica(state, each) for each in state.tables.books.nodes[name].replicas.values()
    ]
    told["name"] = name
    told["agent"] = agent.name
    return told


def _replica(state: FleetState, replica: Replica) -> dict[str, Any]:
    spec, name = state.tables.workloads[replica.workload].spec, replica.name
    return {
        "name": name,
        "phase": replica.phase,
        "reason": replica.reason,
        "restarts": replica.restarts,
        "booked_bytes": replica.booked_bytes,
        "charged_bytes": state.soft.charged_bytes.get(name),
        "limit_bytes": spec.memory_limit_bytes,
    }


async def _ask(channel: aio.Channel, name: str) -> dict[str, Any]:
    cgroups = CgroupServiceStub(channel).ListCgroups(
        cgroup_service_pb2.ListCgroupsRequest(node=name, page_size=ROWS_MAX),
        timeout=_DEADLINE_SECONDS,
    )
    maps = BpfServiceStub(channel).ListMaps(
        bpf_service_pb2.ListMapsRequest(caller=bpf_pb2.Caller(node=name), page_size=ROWS_MAX),
        timeout=_DEADLINE_SECONDS,
    )
    ledger = NodeServiceStub(channel).ListLedgerLines(
        node_service_pb2.ListLedgerLinesRequest(name=name, page_size=ROWS_MAX),
        timeout=_DEADLINE_SECONDS,
    )
    processes = ProcessServiceStub(channel).ListProcesses(
        process_service_pb2.ListProcessesRequest(node=name, page_size=ROWS_MAX),
        timeout=_DEADLINE_SECONDS,
    )
    return {
        "processes": await _rows(processes, "processes"),
        "cgroups": await _rows(cgroups, "cgroups"),
        "maps": await _rows(maps, "maps"),
        "ledger": await _rows(ledger, "lines"),
    }


# Any: answers of three different services, turned into JSON.
async def _rows(call: Awaitable[Any], field: str) -> dict[str, Any]:
    answer = await call
    rows = [
        MessageToDict(each, preserving_proto_field_name=True) for each in getattr(answer, field)
    ]
    return {"rows": rows, "more": bool(answer.next_page_token)}
