"""NodeService: boot nodes, look at them, let time pass, break things, read and watch their logs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from grpc import aio

from bpfleet.kernel import PROFILES, KernelProfile, profile_named
from bpfleet.kernel.profile_file import profile_from_toml
from bpfleet.kernel.views.ledger import LedgerLine
from bpfleet.kernel.views.orphans import Orphan
from bpfleet.node_agent.agent import Agent
from bpfleet.node_agent.node import HostedNode, NodeBoot
from bpfleet.node_agent.replicas import Replicas
from bpfleet.node_agent.watch import Watches, compacted
from bpfleet.rpc import names
from bpfleet.rpc.convert import event_kinds, event_message, profile_message, within
from bpfleet.rpc.errors import invalid
from bpfleet.rpc.paging import page_by_key, page_key, page_position, page_size, page_token
from bpfleet.rpc.views import ledger_line_message, orphan_message, tool_view_message
from bpfleet.v1 import node_service_pb2 as pb
from bpfleet.v1 import node_service_pb2_grpc as pb_grpc

__all__ = ["NodeServicer", "node_shape"]

# gRPC's contexts are generic over messages that no method of ours touches.
_Context = aio.ServicerContext[Any, Any]

RAM_BYTES_MIN: Final = 64 << 20
RAM_BYTES_MAX: Final = 16 << 40
CPUS_MAX: Final = 8192
PROFILE_FILE_MAX: Final = 64 << 10
ADVANCE_NS_MAX: Final = 365 * 86_400 * 10**9
# How much virtual time passes before other calls get their turn.
_ADVANCE_STEP_NS: Final = 60 * 10**9


def node_shape(spec: pb.NodeSpec, field: str = "spec") -> NodeBoot:
    """What a node is booted with. Raises ``ApiError`` naming the field and what it accepts."""
    return NodeBoot(
        profile=_profile(spec, field),
        ram_bytes=within(spec.ram_bytes, f"{field}.ram_bytes", RAM_BYTES_MIN, RAM_BYTES_MAX),
        swap_bytes=within(spec.swap_bytes, f"{field}.swap_bytes", 0, RAM_BYTES_MAX),
        possible_cpus=within(spec.possible_cpus, f"{field}.possible_cpus", 1, CPUS_MAX),
        seed=within(spec.seed, f"{field}.seed", 0, (1 << 63) - 1),
        profile_text=spec.profile_file,
    )


def _profile(spec: pb.NodeSpec, field: str) -> KernelProfile:
    if not spec.profile_file:
        try:
            return profile_named(spec.profile)
        except ValueError as error:
            raise invalid(f"{field}.profile", str(error)) from None
    if spec.profile:
        raise invalid(f"{field}.profile", "give either a profile's name or the text of its file")
    if len(spec.profile_file) > PROFILE_FILE_MAX:
        raise invalid(f"{field}.profile_file", f"more than {PROFILE_FILE_MAX:,} characters")
    try:
        return profile_from_toml(spec.profile_file)
    except ValueError as error:
        raise invalid(f"{field}.profile_file", str(error)) from None


class NodeServicer(pb_grpc.NodeServiceServicer):
    """Parses, makes one call of the kernel, formats."""

    def __init__(self, agent: Agent, watches: Watches, replicas: Replicas) -> None:
        self._agent: Final = agent
        self._watches: Final = watches
        self._replicas: Final = replicas

    async def CreateNode(
        self, request: pb.CreateNodeRequest, context: _Context
    ) -> pb.CreateNodeResponse:
        """Boots a node. The node itself remembers the request: repeating it is safe as long as the node lives."""
        node_id = names.node_id(request.node)
        shape = node_shape(request.spec)
        if request.request_id and self._agent.has(node_id):
            node = self._agent.find(node_id)
            if kept := node.answers.find(request.request_id, request, pb.CreateNodeResponse):
                return kept
        node = self._agent.create(node_id, shape)
        answer = pb.CreateNodeResponse(node=_message(node))
        return node.answers.keep(request.request_id, request, answer)

    async def GetNode(self, request: pb.GetNodeRequest, context: _Context) -> pb.GetNodeResponse:
        """One node, running or stopped."""
        node = self._agent.named(request.name)
        answer = pb.GetNodeResponse(node=_message(node))
        answer.node.spec.profile_file = node.shape.profile_text
        return answer

    async def ListNodes(
        self, request: pb.ListNodesRequest, context: _Context
    ) -> pb.ListNodesResponse:
        """One page of nodes, by id."""
        ids, token = page_by_key(
            self._agent.node_ids,
            key=str,
            requested_size=request.page_size,
            token=request.page_token,
        )
        return pb.ListNodesResponse(
            nodes=[_message(self._agent.find(node_id)) for node_id in ids],
            next_page_token=token,
            total_size=len(self._agent.node_ids),
        )

    async def DeleteNode(
        self, request: pb.DeleteNodeRequest, context: _Context
    ) -> pb.DeleteNodeResponse:
        """Switches a node off for good."""
        node = self._agent.named(request.name)
        self._replicas.stop_node(node.node_id)
        self._agent.delete(node.node_id)
        return pb.DeleteNodeResponse()

    async def AdvanceClock(
        self, request: pb.AdvanceClockRequest, context: _Context
    ) -> pb.AdvanceClockResponse:
        """Lets virtual time pass, in steps between which other calls get their turn."""
        node = self._agent.named(request.name)
        left = within(request.duration_ns, "duration_ns", 0, ADVANCE_NS_MAX)
        while True:
            step = min(left, _ADVANCE_STEP_NS)
            with node.guard(calls=0) as kernel:
                kernel.advance(step)
                left -= step
                if not left:
                    return pb.AdvanceClockResponse(clock_ns=kernel.now_ns)
            await asyncio.sleep(0)

    async def RunDeferredWork(
        self, request: pb.RunDeferredWorkRequest, context: _Context
    ) -> pb.RunDeferredWorkResponse:
        """Runs all deferred work now."""
        with self._agent.named(request.name).guard(calls=0) as kernel:
            return pb.RunDeferredWorkResponse(work_count=kernel.run_deferred())

    async def InjectFault(
        self, request: pb.InjectFaultRequest, context: _Context
    ) -> pb.InjectFaultResponse:
        """Lets an allocation fail, or stops the node."""
        node = self._agent.named(request.name)
        nth = within(request.nth or 1, "nth", 1, 1 << 40)
        with node.guard(calls=0) as kernel:
            if request.kind == "crash":
                kernel.crash("a crash was asked for")
            elif request.kind == "none":
                kernel.clear_faults()
            else:
                try:
                    kernel.inject_fault(request.kind, nth)
                except ValueError as error:
                    raise invalid("kind", f"{error}, crash, none") from None
            return pb.InjectFaultResponse()

    async def CheckInvariants(
        self, request: pb.CheckInvariantsRequest, context: _Context
    ) -> pb.CheckInvariantsResponse:
        """Asks the kernel to prove its books."""
        with self._agent.named(request.name).guard(calls=0) as kernel:
            kernel.check()
            return pb.CheckInvariantsResponse()

    async def ListLedgerLines(
        self, request: pb.ListLedgerLinesRequest, context: _Context
    ) -> pb.ListLedgerLinesResponse:
        """One page of the ledger, in the order of cgroup, owner and kind."""
        with self._agent.named(request.name).guard(calls=0) as kernel:
            ledger = sorted(kernel.ledger(), key=_line_key)
        page, token = page_by_key(
            ledger,
            key=_line_key,
            requested_size=request.page_size,
            token=request.page_token,
        )
        return pb.ListLedgerLinesResponse(
            lines=[ledger_line_message(line) for line in page], next_page_token=token
        )

    async def ListOrphans(
        self, request: pb.ListOrphansRequest, context: _Context
    ) -> pb.ListOrphansResponse:
        """One page of the maps nobody visible uses, in the order of their ids."""
        with self._agent.named(request.name).guard(calls=0) as kernel:
            found = sorted(kernel.orphans(), key=_map_id)
        page, token = page_by_key(
            found,
            key=_map_id,
            requested_size=request.page_size,
            token=request.page_token,
        )
        return pb.ListOrphansResponse(
            orphans=[orphan_message(orphan) for orphan in page], next_page_token=token
        )

    async def GetToolViews(
        self, request: pb.GetToolViewsRequest, context: _Context
    ) -> pb.GetToolViewsResponse:
        """What each tool would say about one cgroup."""
        with self._agent.named(request.name).guard(calls=0) as kernel:
            views = kernel.tool_views(request.path or "/")
        return pb.GetToolViewsResponse(views=[tool_view_message(view) for view in views])

    async def ListKernelProfiles(
        self, request: pb.ListKernelProfilesRequest, context: _Context
    ) -> pb.ListKernelProfilesResponse:
        """The profiles without their variants."""
        after = page_key(request.page_token)
        known = list(PROFILES.values())
        start = next((i + 1 for i, profile in enumerate(known) if profile.name == after), 0)
        page = known[start : start + page_size(request.page_size)]
        more = start + len(page) < len(known)
        return pb.ListKernelProfilesResponse(
            profiles=[profile_message(profile) for profile in page],
            next_page_token=page_token(page[-1].name) if more else "",
        )

    async def ListEvents(
        self, request: pb.ListEventsRequest, context: _Context
    ) -> pb.ListEventsResponse:
        """One page of the log, also of a node that is stopped."""
        node = self._agent.named(request.name)
        log = node.wake().events
        size = page_size(request.page_size)
        start = _first_revision(node, request)
        if start < log.oldest_revision:
            raise compacted(node, start)
        events = log.since(start - 1, size)
        more = bool(events) and events[-1].revision < log.revision
        return pb.ListEventsResponse(
            events=[event_message(event) for event in events],
            next_page_token=page_token(str(events[-1].revision + 1)) if more else "",
            revision=log.revision,
        )

    async def WatchEvents(
        self, request: pb.WatchEventsRequest, context: _Context
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        """Events as they happen."""
        node = self._agent.named(request.name)
        kinds = event_kinds(request.kinds)
        start = request.start_revision if request.HasField("start_revision") else None
        async for revision, events in self._watches.watch(node, start, kinds):
            yield pb.WatchEventsResponse(
                revision=revision, events=[event_message(event) for event in events]
            )


def _first_revision(node: HostedNode, request: pb.ListEventsRequest) -> int:
    log = node.wake().events
    position = page_position(request.page_token)
    if position is not None:
        return position
    if request.HasField("start_revision"):
        return within(request.start_revision, "start_revision", 1, log.revision + 1)
    return log.oldest_revision


def _line_key(line: LedgerLine) -> str:
    return f"{line.cgroup}\0{line.owner}\0{line.kind}"


def _map_id(orphan: Orphan) -> int:
    return orphan.map_id


def _message(node: HostedNode) -> pb.Node:
    kernel, shape = node.wake(), node.shape
    maps = kernel.bpf.maps()
    return pb.Node(
        name=names.node_name(node.node_id),
        spec=pb.NodeSpec(
            profile=shape.profile.name,
            ram_bytes=shape.ram_bytes,
            swap_bytes=shape.swap_bytes,
            possible_cpus=shape.possible_cpus,
            seed=shape.seed,
        ),
        status=pb.NodeStatus(
            phase=pb.NODE_PHASE_CRASHED if node.crash_message else pb.NODE_PHASE_RUNNING,
            clock_ns=kernel.now_ns,
            revision=kernel.events.revision,
            usage_bytes=node.used_bytes,
            bpf_charged_bytes=node.bpf_charged_bytes,
            bpf_estimate_bytes=sum(each.estimate_bytes for each in maps),
            process_count=len(kernel.tasks()),
            map_count=len(maps),
            program_count=len(kernel.bpf.progs()),
            cgroup_count=len(kernel.list_cgroups()),
            verdicts=node.all_verdicts(),
            crash_message=node.crash_message,
        ),
        kernel=profile_message(shape.profile),
    )
