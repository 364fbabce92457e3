"""FleetService: the fleet as its users see it."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import wraps
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import Message
from grpc import aio
from msgspec.structs import replace

from bpfleet.coordinator.fields import node_fields, workload_fields
from bpfleet.coordinator.reconcile import Coordinator
from bpfleet.fleet.commands import (
    Command,
    CordonNode,
    CreateWorkload,
    DeleteWorkload,
    DrainNode,
    RemoveNode,
    UncordonNode,
    UpdateWorkload,
)
from bpfleet.fleet.errors import FleetError, Refused
from bpfleet.fleet.placement import NodeScore
from bpfleet.fleet.reasons import ControlReason
from bpfleet.fleet.records import FleetEvent, FleetNode, Replica, Workload
from bpfleet.fleet.state import FleetState
from bpfleet.rpc import fleet as messages
from bpfleet.rpc.convert import within
from bpfleet.rpc.enums import POLICIES
from bpfleet.rpc.errors import ApiError, invalid
from bpfleet.rpc.listing import listed
from bpfleet.rpc.names import node_id, workload_id
from bpfleet.rpc.paging import PAGE_SIZE_MAX, page_by_key, page_key, page_size, page_token
from bpfleet.rpc.refusals import api_errors
from bpfleet.rpc.revision import highest_revision, revision_metadata
from bpfleet.rpc.workloads import spec_message, spec_record
from bpfleet.v1 import fleet_service_pb2 as pb
from bpfleet.v1 import workload_pb2
from bpfleet.v1.fleet_service_pb2_grpc import FleetServiceServicer
from bpfleet.version import __version__
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import REPLICAS_MAX, WorkloadSpec

__all__ = ["FleetServicer"]

_REQUEST_ID_CHARS_MAX: Final = 64
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
# The generated servicers type the context with the messages of the method.
_Context = aio.ServicerContext[Any, Any]
_Answer = TypeVar("_Answer")


# Refusals that tell something of the fleet: they must be as true as any answer.
_SAYS_HOW_IT_IS: Final = frozenset(
    {
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
    }
)
# Any: decorates methods of every request and answer.
_Method = Callable[[Any, Any, _Context], Awaitable[Any]]


def _write(method: _Method) -> _Method:
    """Lets a refusal that tells something of the fleet out once that is stored. The answer is stored as it is made."""

    @wraps(method)
    async def answer(servicer: "FleetServicer", request: Any, context: _Context) -> Any:
        try:
            return await method(servicer, request, context)
        except ApiError as error:
            if error.code in _SAYS_HOW_IT_IS:
                with api_errors():
                    await servicer.coordinator.seen(highest_revision(context.invocation_metadata()))
            raise

    return answer


def _read(method: _Method) -> _Method:
    """Lets an answer out once all it may show is stored, and never to a client that has seen more."""
    refuses_truly = _write(method)

    @wraps(method)
    async def answer(servicer: "FleetServicer", request: Any, context: _Context) -> Any:
        response = await refuses_truly(servicer, request, context)
        with api_errors():
            revision = await servicer.coordinator.seen(
                highest_revision(context.invocation_metadata())
            )
        context.set_trailing_metadata(revision_metadata(revision))
        return response

    return answer


class FleetServicer(FleetServiceServicer):
    """One method per RPC: parse, one command or one look at the state, format."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator: Final = coordinator

    # -- workloads

    @_write
    async def CreateWorkload(
        self, request: pb.CreateWorkloadRequest, context: _Context
    ) -> pb.CreateWorkloadResponse:
        """Creates a workload and places what fits."""
        spec = spec_record(request.spec)
        command = CreateWorkload(
            spec=spec,
            request_id=_request_id(request.request_id),
            fingerprint=_fingerprint(request),
        )

        return await self._carry_out(
            command, context, lambda: pb.CreateWorkloadResponse(workload=self._workload(spec.name))
        )

    @_read
    async def GetWorkload(
        self, request: pb.GetWorkloadRequest, context: _Context
    ) -> pb.GetWorkloadResponse:
        """One workload with a page of its replicas."""
        with api_errors():
            state = self.coordinator.state
            workload = self._known(workload_id(request.name))
            page, token = page_by_key(
                _by_age(state, workload),
                key=_serial,
                requested_size=request.page_size,
                token=request.page_token,
            )
            return pb.GetWorkloadResponse(
                workload=messages.workload_message(state, workload, replicas=page),
                next_page_token=token,
            )

    @_read
    async def ListWorkloads(
        self, request: pb.ListWorkloadsRequest, context: _Context
    ) -> pb.ListWorkloadsResponse:
        """Workloads in name order."""
        with api_errors():
            state = self.coordinator.state
            workloads = state.tables.workloads
            found = listed(
                [workloads[name] for name in sorted(workloads)],
                request,
                workload_fields(state),
                labels=lambda workload: workload.spec.labels,
            )
            return pb.ListWorkloadsResponse(
                workloads=[messages.workload_message(state, each) for each in found.page],
                next_page_token=found.next_page_token,
                total_size=found.total,
            )

    @_write
    async def UpdateWorkload(
        self, request: pb.UpdateWorkloadRequest, context: _Context
    ) -> pb.UpdateWorkloadResponse:
        """Scales a workload or rolls out a new spec."""
        name = workload_id(request.name)
        masked = list(request.update_mask.paths)
        has_spec = request.HasField("spec") or bool(masked)
        replicas = request.replicas if request.HasField("replicas") else None
        if not has_spec and replicas is None:
            raise invalid("spec", "nothing to change; give replicas, spec or both")
        if replicas is not None:
            within(replicas, "replicas", 0, REPLICAS_MAX)
        command = UpdateWorkload(
            name=name,
            replicas=replicas,
            spec=self._new_spec(name, request) if has_spec else None,
            expected_revision=request.expected_revision,
            request_id=_request_id(request.request_id),
            fingerprint=_fingerprint(request),
        )

        return await self._carry_out(
            command, context, lambda: pb.UpdateWorkloadResponse(workload=self._workload(name))
        )

    def _new_spec(self, name: str, request: pb.UpdateWorkloadRequest) -> WorkloadSpec:
        """The spec as it is to be: the one given, or what the mask names of it put into the present one."""
        paths = request.update_mask.paths
        if not paths:
            return _spec_named(name, request.spec)
        # Any: the stubs want the names of fields to be written out.
        merged: Any
        part: Any
        with api_errors():
            merged = spec_message(self._known(name).spec)
        for path in paths:
            if path not in merged.DESCRIPTOR.fields_by_name or path in ("name", "per_node"):
                text = f"{path[:80]!r} is no field of a spec that can change"
                raise invalid("update_mask", text)
            merged.ClearField(path)
            part = workload_pb2.WorkloadSpec()
            part.CopyFrom(request.spec)
            for field, _ in list(part.ListFields()):
                if field.name != path:
                    part.ClearField(field.name)
            merged.MergeFrom(part)
        return _spec_named(name, merged)

    @_write
    async def DeleteWorkload(
        self, request: pb.DeleteWorkloadRequest, context: _Context
    ) -> pb.DeleteWorkloadResponse:
        """Stops all replicas and forgets the workload."""
        command = DeleteWorkload(
            name=workload_id(request.name),
            request_id=_request_id(request.request_id),
            fingerprint=_fingerprint(request),
        )
        return await self._carry_out(command, context, pb.DeleteWorkloadResponse)

    # -- nodes

    @_read
    async def GetFleetNode(
        self, request: pb.GetFleetNodeRequest, context: _Context
    ) -> pb.GetFleetNodeResponse:
        """One node with a page of its replicas."""
        with api_errors():
            state = self.coordinator.state
            node = self._known_node(node_id(request.name, "name"))
            page, token = page_by_key(
                _by_name(state, node),
                key=_name,
                requested_size=request.page_size,
                token=request.page_token,
            )
            return pb.GetFleetNodeResponse(
                node=messages.node_message(state, node, replicas=page), next_page_token=token
            )

    @_read
    async def ListFleetNodes(
        self, request: pb.ListFleetNodesRequest, context: _Context
    ) -> pb.ListFleetNodesResponse:
        """Nodes in name order."""
        with api_errors():
            state = self.coordinator.state
            nodes = state.tables.nodes
            found = listed(
                [nodes[name] for name in sorted(nodes)],
                request,
                node_fields(state),
                labels=lambda node: dict(node.labels),
            )
            return pb.ListFleetNodesResponse(
                nodes=[messages.node_message(state, each) for each in found.page],
                next_page_token=found.next_page_token,
                total_size=found.total,
            )

    @_write
    async def CordonNode(
        self, request: pb.CordonNodeRequest, context: _Context
    ) -> pb.CordonNodeResponse:
        """Places nothing new on a node."""
        name = node_id(request.name, "name")

        return await self._carry_out(
            CordonNode(name, *_request(request)),
            context,
            lambda: pb.CordonNodeResponse(node=self._node(name)),
        )

    @_write
    async def UncordonNode(
        self, request: pb.UncordonNodeRequest, context: _Context
    ) -> pb.UncordonNodeResponse:
        """Allows placing on a node again."""
        name = node_id(request.name, "name")

        return await self._carry_out(
            UncordonNode(name, *_request(request)),
            context,
            lambda: pb.UncordonNodeResponse(node=self._node(name)),
        )

    @_write
    async def DrainNode(
        self, request: pb.DrainNodeRequest, context: _Context
    ) -> pb.DrainNodeResponse:
        """Moves a node's replicas away."""
        name = node_id(request.name, "name")

        def made() -> pb.DrainNodeResponse:
            node = self._node(name)
            return pb.DrainNodeResponse(node=node, remaining_count=node.replica_count)

        return await self._carry_out(DrainNode(name, *_request(request)), context, made)

    @_write
    async def LabelNode(
        self, request: pb.LabelNodeRequest, context: _Context
    ) -> pb.LabelNodeResponse:
        """Sets and removes labels of a node."""
        command = replace(
            messages.label_command(request),
            request_id=_request_id(request.request_id),
            fingerprint=_fingerprint(request),
        )

        return await self._carry_out(
            command, context, lambda: pb.LabelNodeResponse(node=self._node(command.name))
        )

    @_write
    async def TaintNode(
        self, request: pb.TaintNodeRequest, context: _Context
    ) -> pb.TaintNodeResponse:
        """Sets and removes taints of a node."""
        command = replace(
            messages.taint_command(request),
            request_id=_request_id(request.request_id),
            fingerprint=_fingerprint(request),
        )

        return await self._carry_out(
            command, context, lambda: pb.TaintNodeResponse(node=self._node(command.name))
        )

    @_write
    async def RemoveNode(
        self, request: pb.RemoveNodeRequest, context: _Context
    ) -> pb.RemoveNodeResponse:
        """Forgets a node."""
        command = RemoveNode(node_id(request.name, "name"), request.force)
        return await self._carry_out(command, context, pb.RemoveNodeResponse)

    # -- decisions

    @_read
    async def ExplainPlacement(
        self, request: pb.ExplainPlacementRequest, context: _Context
    ) -> pb.ExplainPlacementResponse:
        """Where the next replica would go, and why."""
        with api_errors():
            coordinator = self.coordinator
            workload = self._asked(request)
            policy = POLICIES.record(request.policy, "policy", coordinator.fleet.policy)
            size = page_size(request.page_size)
            offset = _offset(request.page_token)
            while not coordinator.state.known(workload, policy, coordinator.now_ms()):
                await asyncio.sleep(0)
            verdicts, preemption = coordinator.state.explain(workload, policy, coordinator.now_ms())
            page = verdicts[offset : offset + size]
            chosen = preemption.node if preemption is not None else _best(verdicts)
            return pb.ExplainPlacementResponse(
                chosen_node=chosen,
                scores=[messages.score_message(verdict) for verdict in page],
                rejections=_rejections(verdicts),
                summary=_summary(chosen, verdicts, preempts=preemption is not None),
                next_page_token=page_token(str(offset + size))
                if offset + size < len(verdicts)
                else "",
                policy=POLICIES.message(policy),
                preempted_replicas=sorted(victim.name for victim in preemption.victims)
                if preemption is not None
                else (),
            )

    def _asked(self, request: pb.ExplainPlacementRequest) -> Workload:
        if request.HasField("spec"):
            spec = spec_record(request.spec)
            return Workload(name=spec.name, spec=spec)
        if not request.name:
            raise invalid("name", "give a workload's name or a spec")
        return self._known(workload_id(request.name))

    # -- the whole

    @_read
    async def GetFleetStatus(
        self, request: pb.GetFleetStatusRequest, context: _Context
    ) -> pb.GetFleetStatusResponse:
        """The fleet in numbers."""
        with api_errors():
            coordinator = self.coordinator
            tables = coordinator.state.tables
            books = tables.books
            counts = dict.fromkeys((phase.value for phase in Phase), 0)
            for book in books.workloads.values():
                for phase, count in book.phases.items():
                    counts[phase.value] += count
            return pb.GetFleetStatusResponse(
                agent_count=len(coordinator.leases),
                node_count=len(tables.nodes),
                ready_node_count=sum(node.ready for node in tables.nodes.values()),
                workload_count=len(tables.workloads),
                replicas=counts,
                allocatable_bytes=sum(node.allocatable_bytes for node in tables.nodes.values()),
                booked_bytes=sum(book.booked_bytes for book in books.nodes.values()),
                leader_epoch=coordinator.epoch,
                revision=coordinator.log.last_revision,
                store=coordinator.store.name,
                store_available=coordinator.store_available,
                policy=POLICIES.message(coordinator.fleet.policy),
                version=__version__,
            )

    @_read
    async def ListFleetEvents(
        self, request: pb.ListFleetEventsRequest, context: _Context
    ) -> pb.ListFleetEventsResponse:
        """Past events, oldest first."""
        with api_errors():
            _ = self.coordinator.state
            log = self.coordinator.log
            after = _offset(request.page_token) or _revision(
                request.after_revision, "after_revision"
            )
            wanted = _wanted(request.workload, request.node)
            found: list[pb.FleetEvent] = []
            size = page_size(request.page_size)
            revision = max(after + 1, log.oldest_revision)
            while len(found) < size and revision <= log.last_revision:
                for event in log.since(revision):
                    revision = event.revision + 1
                    if wanted(event):
                        found.append(messages.event_message(event))
                    if len(found) == size:
                        break
            more = revision <= log.last_revision
            return pb.ListFleetEventsResponse(
                events=found,
                next_page_token=page_token(str(revision - 1)) if more else "",
                oldest_revision=log.oldest_revision,
                last_revision=log.last_revision,
            )

    async def WatchFleet(
        self, request: pb.WatchFleetRequest, context: _Context
    ) -> AsyncIterator[pb.WatchFleetResponse]:
        """Events as they happen."""
        start = None
        if request.HasField("start_revision"):
            start = max(1, _revision(request.start_revision, "start_revision"))
        with api_errors():
            await self.coordinator.seen(highest_revision(context.invocation_metadata()))
            stream = self.coordinator.log.watch(start, _wanted(request.workload, request.node))
            async for revision, events in stream:
                yield pb.WatchFleetResponse(
                    revision=revision,
                    events=[messages.event_message(event) for event in events],
                )

    async def _carry_out(
        self, command: Command, context: _Context, made: Callable[[], _Answer]
    ) -> _Answer:
        """Carries a command out; ``made`` says what it made, and is let out when that is stored."""
        seen = highest_revision(context.invocation_metadata())
        if isinstance(command, CreateWorkload | UpdateWorkload):
            self.coordinator.origins.note(_workload_of(command))
        with api_errors():
            answer, revision = await self.coordinator.show(command, made, seen)
        context.set_trailing_metadata(revision_metadata(revision))
        return answer

    def _workload(self, name: str) -> pb.Workload:
        """A workload with as many of its replicas as one answer surely holds."""
        state, workload = self.coordinator.state, self._known(name)
        replicas = _by_age(state, workload)[:PAGE_SIZE_MAX]
        return messages.workload_message(state, workload, replicas=replicas)

    def _known(self, name: str) -> Workload:
        workload = self.coordinator.state.tables.workloads.get(name)
        if workload is None:
            text = f"workload {name!r} does not exist; ListWorkloads lists those that do"
            raise FleetError(Refused.NOT_FOUND, ControlReason.WORKLOAD_UNKNOWN, text, workload=name)
        return workload

    def _node(self, name: str) -> pb.FleetNode:
        state, node = self.coordinator.state, self._known_node(name)
        replicas = _by_name(state, node)[:PAGE_SIZE_MAX]
        return messages.node_message(state, node, replicas=replicas)

    def _known_node(self, name: str) -> FleetNode:
        node = self.coordinator.state.tables.nodes.get(name)
        if node is None:
            text = f"node {name!r} is not in the fleet; ListFleetNodes lists those that are"
            raise FleetError(Refused.NOT_FOUND, ControlReason.NODE_UNKNOWN, text, node=name)
        return node


def _workload_of(command: CreateWorkload | UpdateWorkload) -> str:
    return command.spec.name if isinstance(command, CreateWorkload) else command.name


def _by_age(state: FleetState, workload: Workload) -> list[Replica]:
    return sorted(state.tables.books.workload(workload.name).replicas.values(), key=_serial)


def _by_name(state: FleetState, node: FleetNode) -> list[Replica]:
    return sorted(state.tables.books.nodes[node.name].replicas.values(), key=_name)


def _serial(replica: Replica) -> int:
    return replica.serial


def _name(replica: Replica) -> str:
    return replica.name


def _spec_named(name: str, message: workload_pb2.WorkloadSpec) -> WorkloadSpec:
    """The new spec of a workload, which keeps its name."""
    if message.name not in ("", name):
        raise invalid("spec.name", f"{message.name[:80]!r} is another workload than {name!r}")
    named = workload_pb2.WorkloadSpec(name=name)
    named.MergeFrom(message)
    return spec_record(named)


def _request_id(text: str) -> str:
    if len(text) > _REQUEST_ID_CHARS_MAX:
        raise invalid("request_id", f"longer than {_REQUEST_ID_CHARS_MAX} characters")
    return text


# Any: one of the requests that carry a request id.
def _request(request: Any) -> tuple[str, str]:
    """Its request id, and what was asked under it."""
    return _request_id(request.request_id), _fingerprint(request)


# Any: one of the requests that carry a request id.
def _fingerprint(request: Any) -> str:
    if not request.request_id:
        return ""
    asked: Message = request
    return f"{asked.DESCRIPTOR.name}:{messages.fingerprint(asked)}"


def _offset(token: str) -> int:
    key = page_key(token) or "0"
    if not _NUMBER.fullmatch(key):
        raise invalid("page_token", "belongs to another list; leave it empty")
    return int(key)


def _revision(value: int, field: str) -> int:
    if value < 0:
        raise invalid(field, f"{value} is negative; use 0 for the oldest kept")
    return value


def _wanted(workload: str, node: str) -> "_Filter":
    return _Filter(workload.removeprefix("workloads/"), node.removeprefix("nodes/"))


class _Filter:
    """Which events a reader wants; empty names want all."""

    def __init__(self, workload: str, node: str) -> None:
        self._workload = workload
        self._node = node

    def __call__(self, event: FleetEvent) -> bool:
        return self._workload in ("", event.workload) and self._node in ("", event.node)


def _best(verdicts: list[NodeScore]) -> str:
    return verdicts[0].node if verdicts and verdicts[0].refusal is None else ""


def _rejections(verdicts: list[NodeScore]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for verdict in verdicts:
        if verdict.refusal is not None:
            reason = verdict.refusal.reason
            counts[reason] = counts.get(reason, 0) + 1
    return counts


def _summary(chosen: str, verdicts: list[NodeScore], *, preempts: bool) -> str:
    feasible = sum(verdict.refusal is None for verdict in verdicts)
    if not verdicts:
        return "the fleet has no nodes"
    if preempts:
        return f"no node has room; {chosen} would have after preempting less important replicas"
    if not chosen:
        return f"none of {len(verdicts)} nodes qualifies"
    return f"{chosen} is best of {feasible} nodes that qualify, of {len(verdicts)} in all"
