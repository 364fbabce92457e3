"""ProcessService: who the processes of each node are, what they may lock, the memory they use."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from grpc import aio

from bpfleet.kernel import KernelError
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task
from bpfleet.node_agent.agent import Agent, calling
from bpfleet.node_agent.budget import OBJECT_BYTES
from bpfleet.node_agent.node import HostedNode
from bpfleet.node_agent.syscalls import PAUSE_SECONDS, SIZE_BYTES_MAX, make
from bpfleet.rpc import names
from bpfleet.rpc.convert import (
    capabilities_record,
    not_negative,
    process_message,
    receipt_message,
    short,
    within,
)
from bpfleet.rpc.errors import invalid
from bpfleet.rpc.paging import page_by_key
from bpfleet.rpc.rlimits import resource_limit_record
from bpfleet.v1 import process_service_pb2 as pb
from bpfleet.v1 import process_service_pb2_grpc as pb_grpc
from bpfleet.verbs import table as verbs
from bpfleet.workload.ops import TOUCH_BYTES

__all__ = ["ProcessServicer"]

# gRPC's contexts are generic over messages that no method of ours touches.
_Context = aio.ServicerContext[Any, Any]


class ProcessServicer(pb_grpc.ProcessServiceServicer):
    """Parses, makes one call of the kernel, formats."""

    def __init__(self, agent: Agent) -> None:
        self._agent: Final = agent

    async def CreateProcess(
        self, request: pb.CreateProcessRequest, context: _Context
    ) -> pb.CreateProcessResponse:
        """fork(2), with what a service manager sets before execve(2)."""
        node = self._agent.named(request.node, "node")
        if kept := node.answers.find(request.request_id, request, pb.CreateProcessResponse):
            return kept
        not_negative(request.credentials.uid, "credentials.uid")
        within(request.oom_score_adj, "oom_score_adj", -1000, 1000)
        within(request.cpu, "cpu", 0, node.shape.possible_cpus - 1)
        default = (node.shape.profile.default_memlock_bytes,) * 2
        memlock = resource_limit_record(request.memlock, default)
        capabilities = capabilities_record(request.credentials)
        with node.guard() as kernel:
            node.takes(OBJECT_BYTES + request.ByteSize())
            task = verbs.SPAWN(
                kernel,
                uid=request.credentials.uid,
                caps=capabilities,
                memlock=memlock,
                cgroup=short(request.cgroup, "cgroup") or "/",
                oom_score_adj=request.oom_score_adj,
                comm=short(request.comm, "comm")[:15] or "process",
                cpu=request.cpu,
            )
            answer = pb.CreateProcessResponse(process=process_message(node.node_id, task))
            return node.answers.keep(request.request_id, request, answer)

    async def GetProcess(
        self, request: pb.GetProcessRequest, context: _Context
    ) -> pb.GetProcessResponse:
        """One process that lives."""
        node, pid = self._named(request.name)
        with node.guard() as kernel:
            return pb.GetProcessResponse(process=process_message(node.node_id, kernel.task(pid)))

    async def ListProcesses(
        self, request: pb.ListProcessesRequest, context: _Context
    ) -> pb.ListProcessesResponse:
        """One page of the processes that live, by id."""
        node = self._agent.named(request.node, "node")
        with node.guard() as kernel:
            tasks, token = page_by_key(
                sorted(kernel.tasks(), key=_pid),
                key=_pid,
                requested_size=request.page_size,
                token=request.page_token,
            )
            processes = [process_message(node.node_id, task) for task in tasks]
            return pb.ListProcessesResponse(processes=processes, next_page_token=token)

    async def KillProcess(
        self, request: pb.KillProcessRequest, context: _Context
    ) -> pb.KillProcessResponse:
        """kill(2) with SIGKILL."""
        node, pid = self._named(request.name)
        with node.guard() as kernel:
            task = kernel.task(pid)
            verbs.KILL(kernel, pid)
            return pb.KillProcessResponse(process=process_message(node.node_id, task))

    async def SetResourceLimit(
        self, request: pb.SetResourceLimitRequest, context: _Context
    ) -> pb.SetResourceLimitResponse:
        """prlimit(2) of RLIMIT_MEMLOCK."""
        node = self._agent.named(request.caller.node, "caller.node")
        with node.guard() as kernel:
            task = calling(node, request.caller)
            now = (task.memlock_soft_bytes, task.memlock_hard_bytes)
            soft, hard = resource_limit_record(request.memlock, now)
            verbs.PRLIMIT(kernel, task.pid, "memlock", soft, hard)
            return pb.SetResourceLimitResponse(process=process_message(node.node_id, task))

    async def OpenFile(self, request: pb.OpenFileRequest, context: _Context) -> pb.OpenFileResponse:
        """Opens a socket, a cgroup, a process, a file or a perf event."""
        node = self._agent.named(request.caller.node, "caller.node")
        target = request.WhichOneof("target")
        if target is None:
            raise invalid("target", "missing; give one of its fields")
        with node.guard() as kernel:
            task = calling(node, request.caller)
            return pb.OpenFileResponse(fd=_OPENERS[target](kernel, task, request))

    async def CloseFile(
        self, request: pb.CloseFileRequest, context: _Context
    ) -> pb.CloseFileResponse:
        """close(2)."""
        node = self._agent.named(request.caller.node, "caller.node")
        with node.guard() as kernel:
            _, cost = make(verbs.CLOSE, kernel, calling(node, request.caller), request)
            return pb.CloseFileResponse(receipt=receipt_message(kernel, cost))

    async def AllocateMemory(
        self, request: pb.AllocateMemoryRequest, context: _Context
    ) -> pb.AllocateMemoryResponse:
        """Page faults on anonymous memory."""
        node = self._agent.named(request.caller.node, "caller.node")
        left = within(request.size_bytes, "size_bytes", 0, SIZE_BYTES_MAX)
        while left > TOUCH_BYTES:
            with node.guard(calls=0) as kernel:
                verbs.TOUCH(kernel, calling(node, request.caller).pid, TOUCH_BYTES)
            left -= TOUCH_BYTES
            await asyncio.sleep(PAUSE_SECONDS)
        with node.guard() as kernel:
            task = calling(node, request.caller)
            verbs.TOUCH(kernel, task.pid, left)
            return pb.AllocateMemoryResponse(process=process_message(node.node_id, task))

    async def ReleaseMemory(
        self, request: pb.ReleaseMemoryRequest, context: _Context
    ) -> pb.ReleaseMemoryResponse:
        """munmap(2) of anonymous memory."""
        node = self._agent.named(request.caller.node, "caller.node")
        with node.guard() as kernel:
            task = calling(node, request.caller)
            make(verbs.RELEASE, kernel, task, request)
            return pb.ReleaseMemoryResponse(process=process_message(node.node_id, task))

    async def LockMemory(
        self, request: pb.LockMemoryRequest, context: _Context
    ) -> pb.LockMemoryResponse:
        """mlock(2), SHM_LOCK, or buffers of an io_uring."""
        node = self._agent.named(request.caller.node, "caller.node")
        within(request.size_bytes, "size_bytes", 0, SIZE_BYTES_MAX)
        lock = _LOCKS.get(request.kind)
        if lock is None:
            raise invalid("kind", f"{request.kind} is unknown")
        with node.guard() as kernel:
            task = calling(node, request.caller)
            fd = lock(kernel, task, request.size_bytes)
            return pb.LockMemoryResponse(process=process_message(node.node_id, task), fd=fd)

    async def UnlockMemory(
        self, request: pb.UnlockMemoryRequest, context: _Context
    ) -> pb.UnlockMemoryResponse:
        """munlock(2)."""
        node = self._agent.named(request.caller.node, "caller.node")
        within(request.size_bytes, "size_bytes", 0, SIZE_BYTES_MAX)
        with node.guard() as kernel:
            task = calling(node, request.caller)
            verbs.MUNLOCK(kernel, task, request.size_bytes)
            return pb.UnlockMemoryResponse(process=process_message(node.node_id, task))

    async def ReadProcFile(
        self, request: pb.ReadProcFileRequest, context: _Context
    ) -> pb.ReadProcFileResponse:
        """The exact text of a file in /proc."""
        node = self._agent.named(request.node, "node")
        with node.guard() as kernel:
            text = verbs.READ_PROC(kernel, request.pid or None, short(request.file, "file"))
            return pb.ReadProcFileResponse(content=text)

    def _named(self, name: str) -> tuple[HostedNode, int]:
        found = names.process_id(name)
        return self._agent.find(found.node), found.pid


def _mlock(kernel: Kernel, task: Task, size_bytes: int) -> None:
    verbs.MLOCK(kernel, task, size_bytes)


def _shm_lock(kernel: Kernel, task: Task, size_bytes: int) -> None:
    verbs.SHM_LOCK(kernel, task, size_bytes)


def _register_buffers(kernel: Kernel, task: Task, size_bytes: int) -> int:
    """A ring for these buffers alone; it is closed again where they are over the limit."""
    fd = verbs.IO_URING_SETUP(kernel, task, 1)
    try:
        verbs.IO_URING_REGISTER(kernel, task, fd, size_bytes)
    except KernelError:
        verbs.CLOSE(kernel, task.pid, fd)
        raise
    return fd


_LOCKS: Final[dict[int, Callable[[Kernel, Task, int], int | None]]] = {
    pb.LOCK_KIND_UNSPECIFIED: _mlock,
    pb.LOCK_KIND_SHM: _shm_lock,
    pb.LOCK_KIND_IO_URING: _register_buffers,
}


def _open_cgroup(kernel: Kernel, task: Task, request: pb.OpenFileRequest) -> int:
    return verbs.OPEN_CGROUP(kernel, task, kernel.cgroup(short(request.cgroup, "cgroup")))


_OPENERS: Final[dict[str, Callable[[Kernel, Task, pb.OpenFileRequest], int]]] = {
    "socket_kind": lambda k, task, r: verbs.SOCKET(k, task, short(r.socket_kind, "socket_kind")),
    "cgroup": _open_cgroup,
    "pid": lambda k, task, r: verbs.PIDFD_OPEN(k, task, k.task(r.pid)),
    "path": lambda k, task, r: verbs.OPEN(k, task, short(r.path, "path")),
    "perf_event": lambda k, task, r: verbs.PERF_EVENT_OPEN(k, task),
}


def _pid(task: Task) -> int:
    return task.pid
