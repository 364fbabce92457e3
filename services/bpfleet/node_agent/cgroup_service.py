"""CgroupService: the cgroup v2 tree of each node, and the text of its files."""

from typing import Any, Final

from grpc import aio

from bpfleet.node_agent.agent import Agent
from bpfleet.rpc.convert import short
from bpfleet.rpc.errors import invalid
from bpfleet.rpc.paging import page_by_key
from bpfleet.rpc.views import cgroup_message, memory_stat
from bpfleet.v1 import cgroup_service_pb2 as pb
from bpfleet.v1 import cgroup_service_pb2_grpc as pb_grpc
from bpfleet.verbs import table as verbs

__all__ = ["CgroupServicer"]

# gRPC's contexts are generic over messages that no method of ours touches.
_Context = aio.ServicerContext[Any, Any]
CONTENT_BYTES_MAX: Final = 4096


class CgroupServicer(pb_grpc.CgroupServiceServicer):
    """Parses, makes one call of the kernel, formats. Reads need no privilege; writes are those of root."""

    def __init__(self, agent: Agent) -> None:
        self._agent: Final = agent

    async def CreateCgroup(
        self, request: pb.CreateCgroupRequest, context: _Context
    ) -> pb.CreateCgroupResponse:
        """mkdir(2)."""
        node = self._agent.named(request.node, "node")
        with node.guard() as kernel:
            verbs.MKDIR(kernel, short(request.path, "path"))
            cgroup = kernel.cgroup(request.path)
            return pb.CreateCgroupResponse(cgroup=cgroup_message(kernel, cgroup))

    async def GetCgroup(
        self, request: pb.GetCgroupRequest, context: _Context
    ) -> pb.GetCgroupResponse:
        """The counters of one cgroup."""
        node = self._agent.named(request.node, "node")
        with node.guard() as kernel:
            cgroup = kernel.cgroup(short(request.path, "path"))
            message = cgroup_message(kernel, cgroup)
            message.usage.stat.update(memory_stat(kernel, cgroup.path))
            return pb.GetCgroupResponse(cgroup=message)

    async def ListCgroups(
        self, request: pb.ListCgroupsRequest, context: _Context
    ) -> pb.ListCgroupsResponse:
        """One page of cgroups, by path."""
        node = self._agent.named(request.node, "node")
        with node.guard() as kernel:
            paths, token = page_by_key(
                sorted(kernel.list_cgroups()),
                key=str,
                requested_size=request.page_size,
                token=request.page_token,
            )
            cgroups = [cgroup_message(kernel, kernel.cgroup(path)) for path in paths]
            return pb.ListCgroupsResponse(cgroups=cgroups, next_page_token=token)

    async def DeleteCgroup(
        self, request: pb.DeleteCgroupRequest, context: _Context
    ) -> pb.DeleteCgroupResponse:
        """rmdir(2)."""
        node = self._agent.named(request.node, "node")
        with node.guard() as kernel:
            verbs.RMDIR(kernel, short(request.path, "path"))
            return pb.DeleteCgroupResponse()

    async def ReadControlFile(
        self, request: pb.ReadControlFileRequest, context: _Context
    ) -> pb.ReadControlFileResponse:
        """The exact text of a control file."""
        node = self._agent.named(request.node, "node")
        with node.guard() as kernel:
            path, file = short(request.path, "path"), short(request.file, "file")
            text = verbs.READ_FILE(kernel, path, file)
            return pb.ReadControlFileResponse(content=text)

    async def WriteControlFile(
        self, request: pb.WriteControlFileRequest, context: _Context
    ) -> pb.WriteControlFileResponse:
        """write(2) of a control file."""
        node = self._agent.named(request.node, "node")
        if len(request.content.encode()) > CONTENT_BYTES_MAX:
            raise invalid("content", f"longer than {CONTENT_BYTES_MAX} bytes")
        with node.guard() as kernel:
            path, file = short(request.path, "path"), short(request.file, "file")
            verbs.WRITE_FILE(kernel, path, file, request.content)
            return pb.WriteControlFileResponse()
