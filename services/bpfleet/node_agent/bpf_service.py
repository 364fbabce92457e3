"""BpfService: bpf(2) of each node. A unary call is one system call; ``ExecuteSyscalls`` carries thousands."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

from grpc import aio

from bpfleet.abi.errno import Errno
from bpfleet.kernel import KernelError
from bpfleet.kernel.bpf.batch import BatchResult
from bpfleet.kernel.bpf.command import cost_on
from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.bpf.program import BpfProg, prog_of
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task
from bpfleet.node_agent.agent import Agent, calling
from bpfleet.node_agent.node import HostedNode
from bpfleet.node_agent.syscalls import (
    BATCH_ELEMENTS_MAX,
    RESPONSE_BYTES_MAX,
    Executor,
    bpffs_path,
    delete_arguments,
    fitting,
    key_of,
    lookup_arguments,
    pin,
    run_cost,
    runs,
    update_arguments,
)
from bpfleet.rpc.convert import (
    charges_by_owner,
    map_attr,
    map_message,
    not_negative,
    prog_attr,
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

__all__ = ["BpfServicer"]

# gRPC's contexts are generic over messages that no method of ours touches.
_Context = aio.ServicerContext[Any, Any]


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
        node = self._node(request.caller)
        if kept := node.answers.find(request.request_id, request, pb.CreateMapResponse):
            return kept
        attr = map_attr(request.spec)
        with node.guard() as kernel:
            task = calling(node, request.caller)
            made = kernel.bpf.map_create(task, attr)
            answer = pb.CreateMapResponse(
                fd=made.fd, map_id=made.id, receipt=receipt_message(kernel, made.cost)
            )
            return node.answers.keep(request.request_id, request, answer)

    async def OpenMap(self, request: pb.OpenMapRequest, context: _Context) -> pb.OpenMapResponse:
        """BPF_MAP_GET_FD_BY_ID."""
        node = self._node(request.caller)
        map_id = within(request.map_id, "map_id", 0, 2**31 - 1)
        with node.guard() as kernel:
            fd = kernel.bpf.map_get_fd_by_id(calling(node, request.caller), map_id)
            return pb.OpenMapResponse(fd=fd)

    async def GetMapInfo(
        self, request: pb.GetMapInfoRequest, context: _Context
    ) -> pb.GetMapInfoResponse:
        """BPF_OBJ_GET_INFO_BY_FD of a map."""
        node = self._node(request.caller)
        with node.guard() as kernel:
            info = kernel.bpf.obj_get_info_by_fd(calling(node, request.caller), request.fd)
            found = kernel.bpf.map_table.ids.get(info.id)
            charges = charges_by_owner(kernel)
            return pb.GetMapInfoResponse(map=map_message(node.node_id, found, charges))

    async def ListMaps(self, request: pb.ListMapsRequest, context: _Context) -> pb.ListMapsResponse:
        """BPF_MAP_GET_NEXT_ID, repeated; as process 0 the view of the emulator."""
        node = self._node(request.caller)
        with node.guard() as kernel:
            if request.caller.pid:
                _may_list(kernel.bpf.map_get_next_id, calling(node, request.caller))
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
        node = self._node(request.caller)
        with node.guard() as kernel:
            kernel.bpf.map_freeze(calling(node, request.caller), request.fd)
            return pb.FreezeMapResponse()

    # -- elements

    async def LookupElement(
        self, request: pb.LookupElementRequest, context: _Context
    ) -> pb.LookupElementResponse:
        """BPF_MAP_LOOKUP_ELEM."""
        node = self._node(request.caller)
        flags = not_negative(request.flags, "flags")
        with node.guard() as kernel:
            task = calling(node, request.caller)
            fitting(task, request.fd, 1, RESPONSE_BYTES_MAX)
            value = kernel.bpf.map_lookup_elem(task, request.fd, key_of(request), flags)
            return pb.LookupElementResponse(value=value)

    async def UpdateElement(
        self, request: pb.UpdateElementRequest, context: _Context
    ) -> pb.UpdateElementResponse:
        """BPF_MAP_UPDATE_ELEM."""
        node = self._node(request.caller)
        flags = not_negative(request.mode, "mode")
        with node.guard() as kernel:
            task = calling(node, request.caller)
            charged = kernel.bpf.map_update_elem(
                task, request.fd, key_of(request), request.value, flags
            )
            cost = cost_on(task, request.fd, charged)
            return pb.UpdateElementResponse(receipt=receipt_message(kernel, cost))

    async def DeleteElement(
        self, request: pb.DeleteElementRequest, context: _Context
    ) -> pb.DeleteElementResponse:
        """BPF_MAP_DELETE_ELEM."""
        node = self._node(request.caller)
        with node.guard() as kernel:
            task = calling(node, request.caller)
            charged = kernel.bpf.map_delete_elem(task, request.fd, request.key)
            cost = cost_on(task, request.fd, charged)
            return pb.DeleteElementResponse(receipt=receipt_message(kernel, cost))

    async def LookupAndDeleteElement(
        self, request: pb.LookupAndDeleteElementRequest, context: _Context
    ) -> pb.LookupAndDeleteElementResponse:
        """BPF_MAP_LOOKUP_AND_DELETE_ELEM."""
        node = self._node(request.caller)
        flags = not_negative(request.flags, "flags")
        with node.guard() as kernel:
            task = calling(node, request.caller)
            fitting(task, request.fd, 1, RESPONSE_BYTES_MAX)
            taken = kernel.bpf.map_lookup_and_delete_elem(task, request.fd, key_of(request), flags)
            cost = cost_on(task, request.fd, taken.charged_bytes)
            return pb.LookupAndDeleteElementResponse(
                value=taken.value, receipt=receipt_message(kernel, cost)
            )

    async def GetNextKey(
        self, request: pb.GetNextKeyRequest, context: _Context
    ) -> pb.GetNextKeyResponse:
        """BPF_MAP_GET_NEXT_KEY."""
        node = self._node(request.caller)
        with node.guard() as kernel:
            task = calling(node, request.caller)
            return pb.GetNextKeyResponse(
                next_key=kernel.bpf.map_get_next_key(task, request.fd, key_of(request))
            )

    # -- kernel batches

    async def LookupBatch(
        self, request: pb.LookupBatchRequest, context: _Context
    ) -> pb.LookupBatchResponse:
        """BPF_MAP_LOOKUP_BATCH."""
        node = self._node(request.caller)
        with node.guard(calls=_batch_calls(request.element_count)) as kernel:
            task = calling(node, request.caller)
            wanted = lookup_arguments(task, request, RESPONSE_BYTES_MAX)
            done = _settled(node, kernel.bpf.map_lookup_batch(task, *wanted))
            return pb.LookupBatchResponse(**_found(done))

    async def UpdateBatch(
        self, request: pb.UpdateBatchRequest, context: _Context
    ) -> pb.UpdateBatchResponse:
        """BPF_MAP_UPDATE_BATCH."""
        node = self._node(request.caller)
        with node.guard(calls=_batch_calls(request.element_count)) as kernel:
            task = calling(node, request.caller)
            wanted = update_arguments(request)
            done = _settled(node, kernel.bpf.map_update_batch(task, *wanted))
            cost = cost_on(task, request.fd, done.charged_bytes)
            return pb.UpdateBatchResponse(**_progress(done), receipt=receipt_message(kernel, cost))

    async def DeleteBatch(
        self, request: pb.DeleteBatchRequest, context: _Context
    ) -> pb.DeleteBatchResponse:
        """BPF_MAP_DELETE_BATCH."""
        node = self._node(request.caller)
        with node.guard(calls=_batch_calls(request.element_count)) as kernel:
            task = calling(node, request.caller)
            wanted = delete_arguments(request)
            done = _settled(node, kernel.bpf.map_delete_batch(task, *wanted))
            cost = cost_on(task, request.fd, done.charged_bytes)
            return pb.DeleteBatchResponse(**_progress(done), receipt=receipt_message(kernel, cost))

    async def LookupAndDeleteBatch(
        self, request: pb.LookupAndDeleteBatchRequest, context: _Context
    ) -> pb.LookupAndDeleteBatchResponse:
        """BPF_MAP_LOOKUP_AND_DELETE_BATCH."""
        node = self._node(request.caller)
        with node.guard(calls=_batch_calls(request.element_count)) as kernel:
            task = calling(node, request.caller)
            wanted = lookup_arguments(task, request, RESPONSE_BYTES_MAX)
            done = _settled(node, kernel.bpf.map_lookup_and_delete_batch(task, *wanted))
            receipt = receipt_message(kernel, cost_on(task, request.fd, done.charged_bytes))
            return pb.LookupAndDeleteBatchResponse(**_found(done), receipt=receipt)

    # -- programs

    async def LoadProgram(
        self, request: pb.LoadProgramRequest, context: _Context
    ) -> pb.LoadProgramResponse:
        """BPF_PROG_LOAD."""
        node = self._node(request.caller)
        if kept := node.answers.find(request.request_id, request, pb.LoadProgramResponse):
            return kept
        attr = prog_attr(request.spec)
        with node.guard() as kernel:
            task = calling(node, request.caller)
            made = kernel.bpf.prog_load(task, attr)
            answer = pb.LoadProgramResponse(
                fd=made.fd, program_id=made.id, receipt=receipt_message(kernel, made.cost)
            )
            return node.answers.keep(request.request_id, request, answer)

    async def OpenProgram(
        self, request: pb.OpenProgramRequest, context: _Context
    ) -> pb.OpenProgramResponse:
        """BPF_PROG_GET_FD_BY_ID."""
        node = self._node(request.caller)
        program_id = not_negative(request.program_id, "program_id")
        with node.guard() as kernel:
            fd = kernel.bpf.prog_get_fd_by_id(calling(node, request.caller), program_id)
            return pb.OpenProgramResponse(fd=fd)

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
            if request.caller.pid:
                _may_list(kernel.bpf.prog_get_next_id, calling(node, request.caller))
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
                link = kernel.bpf.open_hook(task, hook, request.fd)
                return pb.AttachProgramResponse(link_fd=link)
            flags = not_negative(request.flags, "flags")
            with _cgroup_fd(kernel, task, request.cgroup) as cgroup_fd:
                kernel.bpf.prog_attach(task, cgroup_fd, request.fd, request.attach_type, flags)
            return pb.AttachProgramResponse()

    async def DetachProgram(
        self, request: pb.DetachProgramRequest, context: _Context
    ) -> pb.DetachProgramResponse:
        """BPF_PROG_DETACH from a cgroup."""
        node = self._node(request.caller)
        with node.guard() as kernel:
            task = calling(node, request.caller)
            with _cgroup_fd(kernel, task, request.cgroup) as cgroup_fd:
                kernel.bpf.prog_detach(task, cgroup_fd, request.fd, request.attach_type)
            return pb.DetachProgramResponse()

    async def RunProgram(
        self, request: pb.RunProgramRequest, context: _Context
    ) -> pb.RunProgramResponse:
        """BPF_PROG_TEST_RUN."""
        node = self._node(request.caller)
        with node.guard() as kernel:
            task = calling(node, request.caller)
            repeat = runs(task, request.fd, request.repeat_count)
            done = kernel.bpf.prog_test_run(
                task, request.fd, repeat=repeat, in_interrupt=request.in_interrupt
            )
            return pb.RunProgramResponse(
                run_count=done.runs,
                failed_operation_count=done.failed_ops,
                errno=done.errno,
                receipt=receipt_message(kernel, run_cost(task, request.fd, done)),
            )

    # -- pins

    async def PinObject(
        self, request: pb.PinObjectRequest, context: _Context
    ) -> pb.PinObjectResponse:
        """BPF_OBJ_PIN."""
        node = self._node(request.caller)
        path = bpffs_path(request.path)
        with node.guard() as kernel:
            pin(kernel, calling(node, request.caller), path, request.fd)
            return pb.PinObjectResponse()

    async def OpenPinnedObject(
        self, request: pb.OpenPinnedObjectRequest, context: _Context
    ) -> pb.OpenPinnedObjectResponse:
        """BPF_OBJ_GET."""
        node = self._node(request.caller)
        path = bpffs_path(request.path)
        with node.guard() as kernel:
            fd = kernel.bpf.obj_get(calling(node, request.caller), path)
            return pb.OpenPinnedObjectResponse(fd=fd)

    async def UnpinObject(
        self, request: pb.UnpinObjectRequest, context: _Context
    ) -> pb.UnpinObjectResponse:
        """unlink(2) in the BPF file system."""
        node = self._node(request.caller)
        path = bpffs_path(request.path)
        with node.guard() as kernel:
            kernel.bpf.unlink(calling(node, request.caller), path)
            return pb.UnpinObjectResponse()

    # -- load

    async def ExecuteSyscalls(
        self, request_iterator: AsyncIterator[pb.ExecuteSyscallsRequest], context: _Context
    ) -> AsyncIterator[pb.ExecuteSyscallsResponse]:
        """Batches of calls, one message after the other."""
        async for request in request_iterator:
            yield await self._executor.execute(request)


@contextlib.contextmanager
def _cgroup_fd(kernel: Kernel, task: Task, path: str) -> Iterator[int]:
    """A descriptor of a cgroup directory for the time of one call."""
    fd = kernel.objects.cgroup(task, kernel.cgroup(short(path, "cgroup")))
    try:
        yield fd
    finally:
        kernel.close(task.pid, fd)


def _id(target: BpfMap | BpfProg) -> int:
    return target.id


def _may_list(next_id: Callable[[Task, int], int], task: Task) -> None:
    """Whether the process may walk the ids. Raises ``KernelError`` (EPERM); no id at all is fine."""
    try:
        next_id(task, 0)
    except KernelError as error:
        if error.errno is not Errno.ENOENT:
            raise


def _batch_calls(element_count: int) -> int:
    """How many calls a batch counts as. Raises ``ApiError`` where it asks for too many elements."""
    return 1 + within(element_count, "element_count", 0, BATCH_ELEMENTS_MAX)


def _settled(node: HostedNode, done: BatchResult) -> BatchResult:
    """A batch that did nothing is a refused call; one that did something tells its errno beside the count."""
    if done.error is not None:
        if not done.count:
            raise done.error
        node.count_verdict(done.error)
    return done


def _progress(done: BatchResult) -> dict[str, Any]:
    """How far a batch came and what ended it: fields that all answers to batches have."""
    reason = "" if done.error is None else str(done.error.reason)
    return {"element_count": done.count, "errno": done.errno, "reason": reason}


def _found(done: BatchResult) -> dict[str, Any]:
    """The fields that the answers to batch lookups have."""
    found = {"keys": done.keys, "values": done.values, "out_batch": done.out_batch}
    return {**found, **_progress(done)}
