"""The system calls of one message of ``ExecuteSyscalls``, in order, in slices that let other calls get their turn."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, final

import grpc

from bpfleet.abi.errno import Errno
from bpfleet.kernel import KernelError
from bpfleet.kernel.bpf.batch import BatchResult
from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.bpf.program import BpfProg
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task
from bpfleet.node_agent.agent import Agent
from bpfleet.node_agent.node import HostedNode
from bpfleet.rpc.convert import ReceiptSum, map_attr, not_negative, prog_attr, short, within
from bpfleet.rpc.errors import ApiError, ControlReason, invalid
from bpfleet.v1 import bpf_pb2
from bpfleet.v1 import bpf_service_pb2 as pb

__all__ = [
    "BATCH_ELEMENTS_MAX",
    "RESPONSE_BYTES_MAX",
    "Executor",
    "bpffs_path",
    "delete_arguments",
    "element_bytes",
    "fitting",
    "key_of",
    "lookup_arguments",
    "pin",
    "runs",
    "update_arguments",
]

BPFFS: Final = "/sys/fs/bpf"
SYSCALLS_MAX: Final = 4096
BATCH_ELEMENTS_MAX: Final = 8192
ELEMENTS_PER_MESSAGE_MAX: Final = 1 << 18
RESPONSE_BYTES_MAX: Final = 12 << 20
RUNS_MAX: Final = 100_000
SLICE_SECONDS: Final = 0.02
# An RPC needs several turns of the event loop; one turn between two slices would let others starve.
PAUSE_SECONDS: Final = 0.001

# The message of one operation; each function below knows its own type.
_Operation = Any
_Result = pb.SyscallResult
_Execute = Callable[[Kernel, Task, _Operation, _Result, int], None]


@final
class Executor:
    """Executes messages. A message is checked as a whole before its first call is made."""

    def __init__(self, agent: Agent) -> None:
        self._agent: Final = agent

    async def execute(self, request: pb.ExecuteSyscallsRequest) -> pb.ExecuteSyscallsResponse:
        """All calls of one message. Raises ``ApiError`` for a message that asks too much, or an unknown node."""
        node = self._agent.named(request.caller.node, "caller.node")
        calls = _checked(request.syscalls)
        response = pb.ExecuteSyscallsResponse(sequence=request.sequence)
        position, room = 0, RESPONSE_BYTES_MAX
        charges = ReceiptSum(node.wake())
        while position < len(calls):
            if position:
                await asyncio.sleep(PAUSE_SECONDS)
            with node.guard(calls=0) as kernel:
                deadline = time.monotonic() + SLICE_SECONDS
                while position < len(calls):
                    result = response.results.add()
                    room -= _execute(
                        node, kernel, request.caller.pid, calls[position], result, room
                    )
                    charges.add(created=result.HasField("fd"))
                    position += 1
                    if time.monotonic() >= deadline:
                        break
        if (receipt := charges.message()) is not None:
            response.receipt.CopyFrom(receipt)
        response.clock_ns = node.wake().now_ns
        return response


def _checked(calls: Sequence[pb.Syscall]) -> Sequence[pb.Syscall]:
    if len(calls) > SYSCALLS_MAX:
        raise invalid("syscalls", f"{len(calls)} of them; send at most {SYSCALLS_MAX}")
    elements = 0
    for position, call in enumerate(calls):
        name = call.WhichOneof("operation")
        if name is None:
            raise ApiError(
                grpc.StatusCode.INVALID_ARGUMENT,
                ControlReason.SYSCALL_UNSUPPORTED,
                f"syscalls[{position}]: no operation, or one this agent does not know",
            )
        if name.endswith("_batch"):
            count = getattr(call, name).element_count
            field = f"syscalls[{position}].{name}.element_count"
            elements += within(count, field, 0, BATCH_ELEMENTS_MAX)
    if elements > ELEMENTS_PER_MESSAGE_MAX:
        raise invalid(
            "syscalls", f"batches of {elements} elements; send at most {ELEMENTS_PER_MESSAGE_MAX}"
        )
    return calls


def _execute(
    node: HostedNode,
    kernel: Kernel,
    pid: int,
    call: pb.Syscall,
    result: _Result,
    room: int,
) -> int:
    """Makes one call; returns the bytes of its answer. ``room`` is what is left of the message."""
    if room <= 0:
        result.errno = Errno.EAGAIN
        result.reason = ControlReason.RESPONSE_TOO_LARGE
        return 0
    name = call.WhichOneof("operation")
    assert name is not None, "checked before the first call"
    elements = 1
    try:
        task = kernel.task(call.pid if call.HasField("pid") else pid)
        _OPERATIONS[name](kernel, task, getattr(call, name), result, room)
        elements += result.element_count
        if result.errno:
            node.verdicts[Errno(result.errno).name] += 1
    except KernelError as error:
        node.count_verdict(error)
        result.errno = error.errno
        result.reason = error.reason
    except ApiError as error:
        result.errno = Errno.EINVAL
        result.reason = error.reason
    kernel.advance(node.call_ns * elements)
    return len(result.value) + len(result.keys) + len(result.values)


# -- one function per operation --------------------------------------------------------------------------------------


def _lookup_element(
    kernel: Kernel, task: Task, op: pb.LookupElementOperation, result: _Result, room: int
) -> None:
    fitting(task, op.fd, 1, room)
    flags = not_negative(op.flags, "flags")
    result.value = kernel.bpf.map_lookup_elem(task, op.fd, key_of(op), flags)


def _lookup_and_delete_element(
    kernel: Kernel, task: Task, op: pb.LookupElementOperation, result: _Result, room: int
) -> None:
    fitting(task, op.fd, 1, room)
    flags = not_negative(op.flags, "flags")
    result.value = kernel.bpf.map_lookup_and_delete_elem(task, op.fd, key_of(op), flags)


def _update_element(
    kernel: Kernel, task: Task, op: pb.UpdateElementOperation, result: _Result, room: int
) -> None:
    mode = not_negative(op.mode, "mode")
    kernel.bpf.map_update_elem(task, op.fd, key_of(op), op.value, mode)


def _delete_element(
    kernel: Kernel, task: Task, op: pb.DeleteElementOperation, result: _Result, room: int
) -> None:
    kernel.bpf.map_delete_elem(task, op.fd, op.key)


def _get_next_key(
    kernel: Kernel, task: Task, op: pb.GetNextKeyOperation, result: _Result, room: int
) -> None:
    result.value = kernel.bpf.map_get_next_key(task, op.fd, key_of(op))


def _update_batch(
    kernel: Kernel, task: Task, op: pb.UpdateBatchOperation, result: _Result, room: int
) -> None:
    _tell(kernel.bpf.map_update_batch(task, *update_arguments(op)), result)


def _delete_batch(
    kernel: Kernel, task: Task, op: pb.DeleteBatchOperation, result: _Result, room: int
) -> None:
    _tell(kernel.bpf.map_delete_batch(task, *delete_arguments(op)), result)


def _lookup_batch(
    kernel: Kernel, task: Task, op: pb.LookupBatchOperation, result: _Result, room: int
) -> None:
    _tell(kernel.bpf.map_lookup_batch(task, *lookup_arguments(task, op, room)), result)


def _lookup_and_delete_batch(
    kernel: Kernel, task: Task, op: pb.LookupBatchOperation, result: _Result, room: int
) -> None:
    _tell(kernel.bpf.map_lookup_and_delete_batch(task, *lookup_arguments(task, op, room)), result)


def _create_map(
    kernel: Kernel, task: Task, op: bpf_pb2.MapSpec, result: _Result, room: int
) -> None:
    result.fd = kernel.bpf.map_create(task, map_attr(op))


def _load_program(
    kernel: Kernel, task: Task, op: bpf_pb2.ProgramSpec, result: _Result, room: int
) -> None:
    result.fd = kernel.bpf.prog_load(task, prog_attr(op))


def _close_file(
    kernel: Kernel, task: Task, op: pb.FileOperation, result: _Result, room: int
) -> None:
    kernel.close(task.pid, op.fd)


def _freeze_map(
    kernel: Kernel, task: Task, op: pb.FileOperation, result: _Result, room: int
) -> None:
    kernel.bpf.map_freeze(task, op.fd)


def _allocate_memory(
    kernel: Kernel, task: Task, op: pb.MemoryOperation, result: _Result, room: int
) -> None:
    kernel.touch(task.pid, not_negative(op.size_bytes, "size_bytes"))


def _release_memory(
    kernel: Kernel, task: Task, op: pb.MemoryOperation, result: _Result, room: int
) -> None:
    kernel.release(task.pid, not_negative(op.size_bytes, "size_bytes"))


def _pin_object(
    kernel: Kernel, task: Task, op: pb.PinOperation, result: _Result, room: int
) -> None:
    pin(kernel, task, bpffs_path(op.path), op.fd)


def _open_pinned_object(
    kernel: Kernel, task: Task, op: pb.PinOperation, result: _Result, room: int
) -> None:
    result.fd = kernel.bpf.obj_get(task, bpffs_path(op.path))


def _unpin_object(
    kernel: Kernel, task: Task, op: pb.PinOperation, result: _Result, room: int
) -> None:
    kernel.bpf.unlink(task, bpffs_path(op.path))


def _run_program(
    kernel: Kernel, task: Task, op: pb.RunProgramOperation, result: _Result, room: int
) -> None:
    repeat = runs(task, op.fd, op.repeat_count)
    kernel.bpf.prog_test_run(task, op.fd, repeat=repeat, in_interrupt=op.in_interrupt)


_OPERATIONS: Final[dict[str, _Execute]] = {
    "lookup_element": _lookup_element,
    "update_element": _update_element,
    "delete_element": _delete_element,
    "update_batch": _update_batch,
    "delete_batch": _delete_batch,
    "lookup_batch": _lookup_batch,
    "lookup_and_delete_batch": _lookup_and_delete_batch,
    "lookup_and_delete_element": _lookup_and_delete_element,
    "get_next_key": _get_next_key,
    "create_map": _create_map,
    "load_program": _load_program,
    "close_file": _close_file,
    "allocate_memory": _allocate_memory,
    "release_memory": _release_memory,
    "freeze_map": _freeze_map,
    "pin_object": _pin_object,
    "open_pinned_object": _open_pinned_object,
    "unpin_object": _unpin_object,
    "run_program": _run_program,
}


# -- what the messages of element calls hold, alone or in a stream ----------------------------------------------------


def key_of(op: _Operation) -> bytes | None:
    """The key; None where the caller passes no pointer."""
    return op.key if op.HasField("key") else None


def update_arguments(op: _Operation) -> tuple[int, bytes, bytes, int, int, int]:
    """What BPF_MAP_UPDATE_BATCH is given. Raises ``ApiError`` for negative flags."""
    mode, flags = not_negative(op.mode, "mode"), not_negative(op.flags, "flags")
    return op.fd, op.keys, op.values, op.element_count, mode, flags


def delete_arguments(op: _Operation) -> tuple[int, bytes, int, int, int]:
    """What BPF_MAP_DELETE_BATCH is given. Raises ``ApiError`` for negative flags."""
    return op.fd, op.keys, op.element_count, *_batch_flags(op)


def lookup_arguments(
    task: Task, op: _Operation, room: int
) -> tuple[int, bytes | None, int, int, int]:
    """What the batch lookups are given, with no more elements than fit into ``room`` bytes. Raises ``ApiError``."""
    in_batch = op.in_batch if op.HasField("in_batch") else None
    return op.fd, in_batch, fitting(task, op.fd, op.element_count, room), *_batch_flags(op)


def _batch_flags(op: _Operation) -> tuple[int, int]:
    return not_negative(op.element_flags, "element_flags"), not_negative(op.flags, "flags")


# -- the BPF file system ---------------------------------------------------------------------------------------------


def bpffs_path(path: str) -> str:
    """A path below the mount point, which clients may name or leave out. Raises ``ApiError`` for one too long."""
    return short(path, "path").removeprefix(BPFFS).lstrip("/")


def pin(kernel: Kernel, task: Task, path: str, fd: int) -> None:
    """BPF_OBJ_PIN, after mkdir -p of its directory, as loaders do."""
    directory = ""
    for name in path.split("/")[:-1]:
        directory = f"{directory}/{name}".lstrip("/")
        try:
            kernel.bpf.mkdir(task, directory)
        except KernelError as error:
            if error.errno is not Errno.EEXIST:
                raise
    kernel.bpf.obj_pin(task, path, fd)


# -- bounds ----------------------------------------------------------------------------------------------------------


def element_bytes(task: Task, fd: int) -> int:
    """Bytes of a key and a value as user space exchanges them; 0 where ``fd`` is no map (the kernel will say so)."""
    file = task.fds.get(fd)
    target = file.target if file is not None else None
    return target.key_size + target.user_value_size if isinstance(target, BpfMap) else 0


def fitting(task: Task, fd: int, count: int, room: int) -> int:
    """As many of ``count`` elements as fit into ``room`` bytes, one at least.

    Raises ``ApiError`` where one element alone is larger than any message.
    """
    each = element_bytes(task, fd)
    if each > RESPONSE_BYTES_MAX:
        raise ApiError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            ControlReason.RESPONSE_TOO_LARGE,
            f"fd: an element of this map has {each} bytes, more than a message holds",
        )
    return min(count, max(1, room // each)) if each else count


def runs(task: Task, fd: int, repeat_count: int) -> int:
    """How often a program is to run. Raises ``ApiError`` where all its operations would take too long."""
    file = task.fds.get(fd)
    target = file.target if file is not None else None
    operations = len(target.attr.ops) if isinstance(target, BpfProg) else 1
    return within(repeat_count or 1, "repeat_count", 1, RUNS_MAX // max(1, operations))


def _tell(done: BatchResult, result: _Result) -> None:
    result.element_count = done.count
    result.keys = done.keys
    result.values = done.values
    if done.out_batch is not None:
        result.out_batch = done.out_batch
    if done.error is not None:
        result.errno = done.error.errno
        result.reason = done.error.reason
