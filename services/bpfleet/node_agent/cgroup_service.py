"""CgroupService: the cgroup v2 tree of each node, and the text of its files."""

from typing import Any, Final

from grpc import aio

from bpfleet.abi.errno import Errno
from bpfleet.kernel import KernelError
from bpfleet.kernel.cgroup.tree import Cgroup
from bpfleet.kernel.kernel import Kernel
from bpfleet.node_agent.agent import Agent
from bpfleet.rpc import names
from bpfleet.rpc.convert import short
from bpfleet.rpc.errors import invalid
from bpfleet.rpc.paging import page_by_key
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
            return pb.CreateCgroupResponse(cgroup=_message(kernel, cgroup))

    async def GetCgroup(
        self, request: pb.GetCgroupRequest, context: _Context
    ) -> pb.GetCgroupResponse:
        """The counters of one cgroup."""
        node = self._agent.named(request.node, "node")
        with node.guard() as kernel:
            cgroup = kernel.cgroup(short(request.path, "path"))
            message = _message(kernel, cgroup)
            message.usage.stat.update(_stat(kernel, cgroup.path))
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
            cgroups = [_message(kernel, kernel.cgroup(path)) for path in paths]
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


def _message(kernel: Kernel, cgroup: Cgroup) -> pb.Cgroup:
    path = cgroup.path
    limits = pb.MemoryLimits(
        max_bytes=_limit(kernel, path, "memory.max"),
        high_bytes=_limit(kernel, path, "memory.high"),
        low_bytes=_limit(kernel, path, "memory.low") or 0,
        min_bytes=_limit(kernel, path, "memory.min") or 0,
    )
    usage = pb.MemoryUsage(
        current_bytes=cgroup.memcg.usage_bytes,
        peak_bytes=_limit(kernel, path, "memory.peak") or 0,
    )
    counts = {
        f"{name}_count": count for name, count in _table(kernel, path, "memory.events").items()
    }
    return pb.Cgroup(
        node=names.node_name(kernel.node),
        path=path,
        limits=limits,
        usage=usage,
        events=pb.MemoryEvents(**counts),
        pids=sorted(cgroup.pids),
        child_count=len(cgroup.children),
    )


def _limit(kernel: Kernel, path: str, file: str) -> int | None:
    text = _text(kernel, path, file).strip()
    return int(text) if text.isdigit() else None


def _stat(kernel: Kernel, path: str) -> dict[str, int]:
    return _table(kernel, path, "memory.stat")


def _table(kernel: Kernel, path: str, file: str) -> dict[str, int]:
    pairs = (line.split() for line in _text(kernel, path, file).splitlines())
    return {name: int(value) for name, value in pairs}


def _text(kernel: Kernel, path: str, file: str) -> str:
    """The text of a file; "" where this cgroup (the root) or this kernel has no such file."""
    try:
        return kernel.read_file(path, file)
    except KernelError as error:
        if error.errno is Errno.ENOENT:
            return ""
        raise
