"""BpfService: bpf(2) of each node. A unary call is one system call; ``ExecuteSyscalls`` carries thousands."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final, TypeVar

from google.protobuf.message import Message
from grpc import aio

from bpfleet.abi.errno import Errno
from bpfleet.kernel import KernelError
from bpfleet.kernel.bpf.batch import BatchResult
from bpfleet.kernel.bpf.command import Created
from bpfleet.kernel.bpf.info import MapInfo
from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.bpf.program import BpfProg, prog_of
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task
from bpfleet.node_agent.agent import Agent, calling
from bpfleet.node_agent.node import HostedNode
from bpfleet.node_agent.syscalls import BATCH_ELEMENTS_MAX, Executor, make, may_take
from bpfleet.rpc.convert import (
    charges_by_owner,
    map_message,
    not_negative,
    program_message,
    receipt_message,
    short,
    within,
)
from bpfleet.rpc.errors import invalid
from bpfleet.rpc.paging import page_by_key
from bpfleet.v1 import bpf_pb2
from bpfleet.v1 import bpf_service_pb2 as pb
from bpfleet.v1 import bpf_service_pb2_grpc as pb_grpc
from bpfleet.verbs import table as verbs
from bpfleet.verbs.verb import Verb

__all__ = ["BpfServicer"]

# gRPC's contexts are generic over messages that no method of ours touches.
_Context = aio.ServicerContext[Any, Any]
_Receipt = bpf_pb2.ChargeReceipt | None
Response = TypeVar("Response")
Kept = TypeVar("Kept", bound=Message)


class BpfServicer(pb_grpc.BpfServiceServicer):
    """Parses, makes one call of the kernel, formats."""

    def __init__(self, agent: Agent) -> None:
        self._agent: Final = agent
        self._executor: Final = Executor(agent)

    def _node(self, caller: bpf_pb2.Caller) -> HostedNode:
        return self._agent.named(caller.node, "caller.node")

    # -- maps

    async def CreateMap(
        self, request: pb.CreateMapRequest, context: _Context
    ) -> pb.CreateMapResponse:
        """BPF_MAP_CREATE."""
        return self._make_once(
            verbs.MAP_CREATE,
            request,
            pb.CreateMapResponse,
            lambda made, receipt: pb.CreateMapResponse(fd=made.fd, map_id=made.id, receipt=receipt),
        )

    async def OpenMap(self, request: pb.OpenMapRequest, context: _Context) -> pb.OpenMapResponse:
        """BPF_MAP_GET_FD_BY_ID."""
        return self._make(
            verbs.MAP_GET_FD_BY_ID, request, lambda done, receipt: pb.OpenMapResponse(fd=done)
        )

    async def GetMapInfo(
        self, request: pb.GetMapInfoRequest, context: _Context
    ) -> pb.GetMapInfoResponse:
        """BPF_OBJ_GET_INFO_BY_FD of a map."""
        node = self._node(request.caller)
        with node.guard() as kernel:
            info = verbs.OBJ_GET_INFO_BY_FD(kernel, calling(node, request.caller), request.fd)
            if not isinstance(info, MapInfo):
                raise invalid("fd", f"{request.fd} is a program; use GetProgramInfo")
            found = kernel.bpf.map_table.ids.get(info.id)
            charges = charges_by_owner(kernel)
            return pb.GetMapInfoResponse(map=map_message(node.node_id, found, charges))

    async def ListMaps(self, request: pb.ListMapsRequest, context: _Context) -> pb.ListMapsResponse:
        """BPF_MAP_GET_NEXT_ID, repeated; as process 0 the view of the emulator."""
        node = self._node(request.caller)
        with node.guard() as kernel:
            _may_list(verbs.MAP_GET_NEXT_ID, node, request.caller)
            found, token = page_by_key(
                kernel.bpf.maps(),
                key=_id,
                requested_size=request.page_size,
                token=request.page_token,
            )
            charges = charges_by_owner(kernel)
            maps = [map_message(node.node_id, each, charges) for each in found]
            return pb.ListMapsResponse(maps=maps, next_page_token=token)

    async def FreezeMap(
        self, request: pb.FreezeMapRequest, context: _Context
    ) -> pb.FreezeMapResponse:
        """BPF_MAP_FREEZE."""
        return self._make(verbs.MAP_FREEZE, request, lambda done, receipt: pb.FreezeMapResponse())

    # -- elements

    async def LookupElement(
        self, request: pb.LookupElementRequest, context: _Context
    ) -> pb.LookupElementResponse:
        """BPF_MAP_LOOKUP_ELEM."""
        return self._make(
            verbs.MAP_LOOKUP_ELEM,
            request,
            lambda done, receipt: pb.LookupElementResponse(value=done),
        )

    async def UpdateElement(
        self, request: pb.UpdateElementRequest, context: _Context
    ) -> pb.UpdateElementResponse:
        """BPF_MAP_UPDATE_ELEM."""
        return self._make(
            verbs.MAP_UPDATE_ELEM,
            request,
            lambda done, receipt: pb.UpdateElementResponse(receipt=receipt),
        )

    async def DeleteElement(
        self, request: pb.DeleteElementRequest, context: _Context
    ) -> pb.DeleteElementResponse:
        """BPF_MAP_DELETE_ELEM."""
        return self._make(
            verbs.MAP_DELETE_ELEM,
            request,
            lambda done, receipt: pb.DeleteElementResponse(receipt=receipt),
        )

    async def LookupAndDeleteElement(
        self, request: pb.LookupAndDeleteElementRequest, context: _Context
    ) -> pb.LookupAndDeleteElementResponse:
        """BPF_MAP_LOOKUP_AND_DELETE_ELEM."""
        return self._make(
            verbs.MAP_LOOKUP_AND_DELETE_ELEM,
            request,
            lambda done, receipt: pb.LookupAndDeleteElementResponse(value=done, receipt=receipt),
        )

    async def GetNextKey(
        self, request: pb.GetNextKeyRequest, context: _Context
    ) -> pb.GetNextKeyResponse:
        """BPF_MAP_GET_NEXT_KEY."""
        return self._make(
            verbs.MAP_GET_NEXT_KEY,
            request,
            lambda done, receipt: pb.GetNextKeyResponse(next_key=done),
        )

    # -- kernel batches

    async def LookupBatch(
        self, request: pb.LookupBatchRequest, context: _Context
    ) -> pb.LookupBatchResponse:
        """BPF_MAP_LOOKUP_BATCH."""
        return self._make_batch(
            verbs.MAP_LOOKUP_BATCH,
            request,
            lambda done, receipt: pb.LookupBatchResponse(**_found(done)),
        )

    async def UpdateBatch(
        self, request: pb.UpdateBatchRequest, context: _Context
    ) -> pb.UpdateBatchResponse:
        """BPF_MAP_UPDATE_BATCH."""
        return self._make_batch(
            verbs.MAP_UPDATE_BATCH,
            request,
            lambda done, receipt: pb.UpdateBatchResponse(**_progress(done), receipt=receipt),
        )

    async def DeleteBatch(
        self, request: pb.DeleteBatchRequest, context: _Context
    ) -> pb.DeleteBatchResponse:
        """BPF_MAP_DELETE_BATCH."""
        return self._make_batch(
            verbs.MAP_DELETE_BATCH,
            request,
            lambda done, receipt: pb.DeleteBatchResponse(**_progress(done), receipt=receipt),
        )

    async def LookupAndDeleteBatch(
        self, request: pb.LookupAndDeleteBatchRequest, context: _Context
    ) -> pb.LookupAndDeleteBatchResponse:
        """BPF_MAP_LOOKUP_AND_DELETE_BATCH."""
        return self._make_batch(
            verbs.MAP_LOOKUP_AND_DELETE_BATCH,
            request,
            lambda done, receipt: pb.LookupAndDeleteBatchResponse(**_found(done), receipt=receipt),
        )

    # -- programs

    async def LoadProgram(
        self, request: pb.LoadProgramRequest, context: _Context
    ) -> pb.LoadProgramResponse:
        """BPF_PROG_LOAD."""
        return self._make_once(
            verbs.PROG_LOAD,
            request,
            pb.LoadProgramResponse,
            lambda made, receipt: pb.LoadProgramResponse(
                fd=made.fd, program_id=made.id, receipt=receipt
            ),
        )

    async def OpenProgram(
        self, request: pb.OpenProgramRequest, context: _Context
    ) -> pb.OpenProgramResponse:
        """BPF_PROG_GET_FD_BY_ID."""
        return self._make(
            verbs.PROG_GET_FD_BY_ID, request, lambda done, receipt: pb.OpenProgramResponse(fd=done)
        )

    async def GetProgramInfo(
        self, request: pb.GetProgramInfoRequest, context: _Context
    ) -> pb.GetProgramInfoResponse:
        """BPF_OBJ_GET_INFO_BY_FD of a program."""
        node = self._node(request.caller)
        with node.guard() as kernel:
            prog = prog_of(calling(node, request.caller), request.fd)
            charges = charges_by_owner(kernel)
            return pb.GetProgramInfoResponse(program=program_message(node.node_id, prog, charges))

    async def ListPrograms(
        self, request: pb.ListProgramsRequest, context: _Context
    ) -> pb.ListProgramsResponse:
        """BPF_PROG_GET_NEXT_ID, repeated; as process 0 the view of the emulator."""
        node = self._node(request.caller)
        with node.guard() as kernel:
            _may_list(verbs.PROG_GET_NEXT_ID, node, request.caller)
            progs, token = page_by_key(
                kernel.bpf.progs(),
                key=_id,
                requested_size=request.page_size,
                token=request.page_token,
            )
            charges = charges_by_owner(kernel)
            programs = [program_message(node.node_id, prog, charges) for prog in progs]
            return pb.ListProgramsResponse(programs=programs, next_page_token=token)

    async def AttachProgram(
        self, request: pb.AttachProgramRequest, context: _Context
    ) -> pb.AttachProgramResponse:
        """BPF_PROG_ATTACH to a cgroup, or a link on a hook."""
        node = self._node(request.caller)
        place = request.WhichOneof("place")
        if place is None:
            raise invalid("place", "missing; give a cgroup or a hook")
        with node.guard() as kernel:
            task = calling(node, request.caller)
            if place == "hook":
                hook = short(request.hook, "hook")
                link = verbs.OPEN_HOOK(kernel, task, hook, request.fd)
                return pb.AttachProgramResponse(link_fd=link)
            flags = not_negative(request.flags, "flags")
            with _cgroup_fd(kernel, task, request.cgroup) as cgroup_fd:
                verbs.PROG_ATTACH(kernel, task, cgroup_fd, request.fd, request.attach_type, flags)
            return pb.AttachProgramResponse()

    async def DetachProgram(
        self, request: pb.DetachProgramRequest, context: _Context
    ) -> pb.DetachProgramResponse:
        """BPF_PROG_DETACH from a cgroup."""
        node = self._node(request.caller)
        with node.guard() as kernel:
            task = calling(node, request.caller)
            with _cgroup_fd(kernel, task, request.cgroup) as cgroup_fd:
                verbs.PROG_DETACH(kernel, task, cgroup_fd, request.fd, request.attach_type)
            return pb.DetachProgramResponse()

    async def RunProgram(
        self, request: pb.RunProgramRequest, context: _Context
    ) -> pb.RunProgramResponse:
        """BPF_PROG_TEST_RUN."""
        return self._make(
            verbs.PROG_TEST_RUN,
            request,
            lambda done, receipt: pb.RunProgramResponse(
                run_count=done.runs,
                failed_operation_count=done.failed_ops,
                errno=done.errno,
                receipt=receipt,
            ),
        )

    # -- pins

    async def PinObject(
        self, request: pb.PinObjectRequest, context: _Context
    ) -> pb.PinObjectResponse:
        """BPF_OBJ_PIN."""
        return self._make(verbs.OBJ_PIN, request, lambda done, receipt: pb.PinObjectResponse())

    async def OpenPinnedObject(
        self, request: pb.OpenPinnedObjectRequest, context: _Context
    ) -> pb.OpenPinnedObjectResponse:
        """BPF_OBJ_GET."""
        return self._make(
            verbs.OBJ_GET, request, lambda done, receipt: pb.OpenPinnedObjectResponse(fd=done)
        )

    async def UnpinObject(
        self, request: pb.UnpinObjectRequest, context: _Context
    ) -> pb.UnpinObjectResponse:
        """unlink(2) in the BPF file system."""
        return self._make(verbs.UNLINK, request, lambda done, receipt: pb.UnpinObjectResponse())

    # -- load

    async def ExecuteSyscalls(
        self, request_iterator: AsyncIterator[pb.ExecuteSyscallsRequest], context: _Context
    ) -> AsyncIterator[pb.ExecuteSyscallsResponse]:
        """Batches of calls, one message after the other."""
        async for request in request_iterator:
            yield await self._executor.execute(request)

    # -- one call

    def _make(
        self,
        verb: Verb[Any, ..., Any],
        request: Any,  # a request with a caller and the fields this verb takes
        respond: Callable[[Any, _Receipt], Response],
        *,
        calls: int = 1,
    ) -> Response:
        """Makes the call a request asks for, and the response of what it answered."""
        node = self._node(request.caller)
        with node.guard(calls=calls) as kernel:
            task = calling(node, request.caller)
            _admit(node, verb, task, request, request)
            done, cost = make(verb, kernel, task, request)
            return respond(done, receipt_message(kernel, cost))

    def _make_once(
        self,
        verb: Verb[Any, ..., Created],
        request: Any,  # as above, with a spec and a request_id
        kind: type[Kept],
        respond: Callable[[Created, _Receipt], Kept],
    ) -> Kept:
        """A creation: a request that was answered before gets the same answer again."""
        node = self._node(request.caller)
        if kept := node.answers.find(request.request_id, request, kind):
            return kept
        with node.guard() as kernel:
            task = calling(node, request.caller)
            _admit(node, verb, task, request, request.spec)
            done, cost = make(verb, kernel, task, request.spec)
            answer = respond(done, receipt_message(kernel, cost))
            return node.answers.keep(request.request_id, request, answer)

    def _make_batch(
        self,
        verb: Verb[Any, ..., BatchResult],
        request: Any,  # as above, with an element_count
        respond: Callable[[BatchResult, _Receipt], Response],
    ) -> Response:
        """A batch that did nothing is a refused call; one that did something tells its errno beside the count."""
        elements = within(request.element_count, "element_count", 0, BATCH_ELEMENTS_MAX)

        def settle(done: BatchResult, receipt: _Receipt) -> Response:
            if done.error is not None:
                if not done.count:
                    raise done.error
                self._node(request.caller).count_verdict(done.error)
            return respond(done, receipt)

        return self._make(verb, request, settle, calls=1 + elements)


def _admit(
    node: HostedNode, verb: Verb[Any, ..., Any], task: Task, request: Message, op: Any
) -> None:
    """Counts the real memory a call may take. Raises ``ApiError`` where the budget does not have it."""
    if not verb.reads:
        takes = may_take(verb.arm, task, op)
        if takes:
            node.takes(takes + request.ByteSize())


@contextlib.contextmanager
def _cgroup_fd(kernel: Kernel, task: Task, path: str) -> Iterator[int]:
    """A descriptor of a cgroup directory for the time of one call."""
    fd = verbs.OPEN_CGROUP(kernel, task, kernel.cgroup(short(path, "cgroup")))
    try:
        yield fd
    finally:
        verbs.CLOSE(kernel, task.pid, fd)


def _id(target: BpfMap | BpfProg) -> int:
    return target.id


def _may_list(verb: Verb[Any, [Task, int], int], node: HostedNode, caller: bpf_pb2.Caller) -> None:
    """Whether the process may walk the ids; the emulator itself may. Raises ``KernelError`` (EPERM)."""
    if not caller.pid:
        return
    try:
        verb(node.wake(), calling(node, caller), 0)
    except KernelError as error:
        if error.errno is not Errno.ENOENT:  # no id at all is fine
            raise


def _progress(done: BatchResult) -> dict[str, Any]:
    """How far a batch came and what ended it: fields that all answers to batches have."""
    reason = "" if done.error is None else str(done.error.reason)
    return {"element_count": done.count, "errno": done.errno, "reason": reason}


def _found(done: BatchResult) -> dict[str, Any]:
    """The fields that the answers to batch lookups have."""
    found = {"keys": done.keys, "values": done.values, "out_batch": done.out_batch}
    return {**found, **_progress(done)}
