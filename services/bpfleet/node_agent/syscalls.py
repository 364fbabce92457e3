"""The system calls of one message of ``ExecuteSyscalls``, in order, in slices that let other calls get their turn."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, final

import grpc

from bpfleet.abi.errno import Errno
from bpfleet.fleet.reasons import ControlReason
from bpfleet.kernel import KernelError
from bpfleet.kernel.bpf.batch import BatchResult
from bpfleet.kernel.bpf.command import Cost, Created, cost_on
from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.bpf.program import BpfProg, prog_of
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task
from bpfleet.node_agent.agent import Agent
from bpfleet.node_agent.budget import ELEMENT_BYTES, OBJECT_BYTES
from bpfleet.node_agent.node import HostedNode
from bpfleet.rpc.convert import ReceiptSum, map_attr, not_negative, prog_attr, short, within
from bpfleet.rpc.errors import ApiError, invalid
from bpfleet.v1 import bpf_service_pb2 as pb
from bpfleet.verbs import table
from bpfleet.verbs.verb import Verb
from bpfleet.workload.ops import TOUCH_BYTES

__all__ = [
    "BATCH_ELEMENTS_MAX",
    "SIZE_BYTES_MAX",
    "Executor",
    "make",
    "may_take",
    "served_arms",
]

BPFFS: Final = "/sys/fs/bpf"
SYSCALLS_MAX: Final = 4096
BATCH_ELEMENTS_MAX: Final = 8192
ELEMENTS_PER_MESSAGE_MAX: Final = 1 << 18
RESPONSE_BYTES_MAX: Final = 12 << 20
# Operations of one run of a program, and the bytes of values they may move: both take the event loop for a while.
RUNS_MAX: Final = 20_000
RUN_BYTES_MAX: Final = 64 << 20
PATH_PARTS_MAX: Final = 32
# More than any machine has; sums of such sizes stay within the numbers of the messages.
SIZE_BYTES_MAX: Final = 1 << 50
SLICE_SECONDS: Final = 0.02
# An RPC needs several turns of the event loop; one turn between two slices would let others starve.
PAUSE_SECONDS: Final = 0.001

# The message of one operation; each function below knows its own type.
_Operation = Any
_Result = pb.SyscallResult


@final
class Executor:
    """Executes messages. A message is checked as a whole before its first call is made."""

    def __init__(self, agent: Agent) -> None:
        self._agent: Final = agent

    async def execute(self, request: pb.ExecuteSyscallsRequest) -> pb.ExecuteSyscallsResponse:
        """All calls of one message. Raises ``ApiError`` for a message that asks too much, or an unknown node."""
        node = self._agent.named(request.caller.node, "caller.node")
        calls = _checked(request.syscalls)
        node.takes(request.ByteSize())
        response = pb.ExecuteSyscallsResponse(sequence=request.sequence)
        position, room = 0, RESPONSE_BYTES_MAX
        costs = ReceiptSum()
        while position < len(calls):
            if position:
                await asyncio.sleep(PAUSE_SECONDS)
            with node.guard(calls=0) as kernel:
                deadline = time.monotonic() + SLICE_SECONDS
                while position < len(calls):
                    result = response.results.add()
                    room -= _execute(
                        node, kernel, request.caller.pid, calls[position], result, room, costs
                    )
                    position += 1
                    if time.monotonic() >= deadline:
                        break
        if (receipt := costs.message(node.wake())) is not None:
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
    costs: ReceiptSum,
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
        method, on_bpf, made, tell = _SERVED[name]
        part = kernel.bpf if on_bpf else kernel
        if (takes := may_take(name, task, getattr(call, name))) > 0:
            node.takes(takes)
        done, cost = made(method, part, task, getattr(call, name), room)
        if tell is not None:
            tell(done, result)
        if cost is not None:
            costs.add(cost)
        elements += result.element_count
        if result.errno:
            node.verdicts[Errno(result.errno).name] += 1
    except KernelError as error:
        node.count_verdict(error)
        result.errno = error.errno
        result.reason = error.reason
    except ApiError as error:
        exhausted = error.reason == ControlReason.REAL_MEMORY_EXHAUSTED
        result.errno = Errno.EAGAIN if exhausted else Errno.EINVAL
        result.reason = error.reason
    kernel.advance(node.call_ns * elements)
    return len(result.value) + len(result.keys) + len(result.values)


# -- what verbs are given, and what they answer, by their messages ----------------------------------------------------

# A unary request and the operation of a stream name their fields alike, so one function serves both. It makes the call,
# ``method`` of ``part``, with what the message says, and returns its answer, and its cost where it is about a map or a
# program. ``room`` is what an answer may hold.
_Method = Callable[..., Any]
_Outcome = tuple[Any, Cost | None]
_Made = Callable[[_Method, Any, Task, _Operation, int], _Outcome]


def _lookup(method: _Method, bpf: Any, task: Task, op: _Operation, room: int) -> _Outcome:
    fitting(task, op.fd, 1, room)
    flags = op.flags
    if flags < 0:
        not_negative(flags, "flags")
    return method(bpf, task, op.fd, op.key if op.HasField("key") else None, flags), None


def _take(method: _Method, bpf: Any, task: Task, op: _Operation, room: int) -> _Outcome:
    taken, _ = _lookup(method, bpf, task, op, room)
    return taken.value, cost_on(task, op.fd, taken.charged_bytes)


def _update(method: _Method, bpf: Any, task: Task, op: _Operation, room: int) -> _Outcome:
    fd, mode = op.fd, op.mode
    if mode < 0:
        not_negative(mode, "mode")
    charged_bytes = method(bpf, task, fd, op.key if op.HasField("key") else None, op.value, mode)
    return None, cost_on(task, fd, charged_bytes)


def _delete(method: _Method, bpf: Any, task: Task, op: _Operation, room: int) -> _Outcome:
    fd = op.fd
    return None, cost_on(task, fd, method(bpf, task, fd, op.key))


def _next_key(method: _Method, bpf: Any, task: Task, op: _Operation, room: int) -> _Outcome:
    return method(bpf, task, op.fd, op.key if op.HasField("key") else None), None


def _update_batch(method: _Method, bpf: Any, task: Task, op: _Operation, room: int) -> _Outcome:
    mode, flags = not_negative(op.mode, "mode"), not_negative(op.flags, "flags")
    done = method(bpf, task, op.fd, op.keys, op.values, op.element_count, mode, flags)
    return done, cost_on(task, op.fd, done.charged_bytes)


def _delete_batch(method: _Method, bpf: Any, task: Task, op: _Operation, room: int) -> _Outcome:
    done = method(bpf, task, op.fd, op.keys, op.element_count, *_batch_flags(op))
    return done, cost_on(task, op.fd, done.charged_bytes)


def _lookup_batch(method: _Method, bpf: Any, task: Task, op: _Operation, room: int) -> _Outcome:
    in_batch = op.in_batch if op.HasField("in_batch") else None
    count = fitting(task, op.fd, op.element_count, room)
    return method(bpf, task, op.fd, in_batch, count, *_batch_flags(op)), None


def _take_batch(method: _Method, bpf: Any, task: Task, op: _Operation, room: int) -> _Outcome:
    done, _ = _lookup_batch(method, bpf, task, op, room)
    return done, cost_on(task, op.fd, done.charged_bytes)


def _batch_flags(op: _Operation) -> tuple[int, int]:
    return not_negative(op.element_flags, "element_flags"), not_negative(op.flags, "flags")


def _create_map(method: _Method, bpf: Any, task: Task, op: _Operation, room: int) -> _Outcome:
    made = method(bpf, task, map_attr(op))
    return made, made.cost


def _load_program(method: _Method, bpf: Any, task: Task, op: _Operation, room: int) -> _Outcome:
    made = method(bpf, task, prog_attr(op))
    return made, made.cost


def _run_program(method: _Method, bpf: Any, task: Task, op: _Operation, room: int) -> _Outcome:
    """The payer is that of the program's first map."""
    repeat = runs(task, op.fd, op.repeat_count)
    done = method(bpf, task, op.fd, repeat=repeat, in_interrupt=op.in_interrupt)
    prog = prog_of(task, op.fd)
    maps = (held for held in prog.maps if isinstance(held, BpfMap))
    return done, Cost(task, next(maps, prog), done.charged_bytes)


def _map_by_id(method: _Method, bpf: Any, task: Task, op: _Operation, room: int) -> _Outcome:
    return method(bpf, task, within(op.map_id, "map_id", 0, 2**31 - 1)), None


def _program_by_id(method: _Method, bpf: Any, task: Task, op: _Operation, room: int) -> _Outcome:
    return method(bpf, task, not_negative(op.program_id, "program_id")), None


def _descriptor(method: _Method, bpf: Any, task: Task, op: _Operation, room: int) -> _Outcome:
    return method(bpf, task, op.fd), None


def _close(method: _Method, kernel: Any, task: Task, op: _Operation, room: int) -> _Outcome:
    cost = cost_on(task, op.fd, 0)  # afterwards nobody knows what the descriptor was of
    charged_bytes = method(kernel, task.pid, op.fd)
    return charged_bytes, cost and cost._replace(charged_bytes=charged_bytes)


def _touch(method: _Method, kernel: Any, task: Task, op: _Operation, room: int) -> _Outcome:
    return method(kernel, task.pid, within(op.size_bytes, "size_bytes", 0, TOUCH_BYTES)), None


def _release(method: _Method, kernel: Any, task: Task, op: _Operation, room: int) -> _Outcome:
    return method(kernel, task.pid, within(op.size_bytes, "size_bytes", 0, SIZE_BYTES_MAX)), None


def _pin(method: _Method, bpf: Any, task: Task, op: _Operation, room: int) -> _Outcome:
    """After mkdir -p of the pin's directory, as loaders do; a client of this service has no mkdir for that."""
    path = _bpffs_path(op.path)
    if path.count("/") > PATH_PARTS_MAX:
        raise invalid("path", f"more than {PATH_PARTS_MAX} directories deep")
    directory = ""
    for name in path.split("/")[:-1]:
        directory = f"{directory}/{name}".lstrip("/")
        try:
            bpf.mkdir(task, directory)
        except KernelError as error:
            if error.errno is not Errno.EEXIST:
                raise
    return method(bpf, task, path, op.fd), None


def _path(method: _Method, bpf: Any, task: Task, op: _Operation, room: int) -> _Outcome:
    return method(bpf, task, _bpffs_path(op.path)), None


def _bpffs_path(path: str) -> str:
    """A path below the mount point, which clients may name or leave out. Raises ``ApiError`` for one too long."""
    return short(path, "path").removeprefix(BPFFS).lstrip("/")


_MADE: Final[dict[Verb[Any, ..., Any], _Made]] = {
    table.MAP_CREATE: _create_map,
    table.MAP_GET_FD_BY_ID: _map_by_id,
    table.OBJ_GET_INFO_BY_FD: _descriptor,
    table.MAP_FREEZE: _descriptor,
    table.MAP_LOOKUP_ELEM: _lookup,
    table.MAP_LOOKUP_AND_DELETE_ELEM: _take,
    table.MAP_UPDATE_ELEM: _update,
    table.MAP_DELETE_ELEM: _delete,
    table.MAP_GET_NEXT_KEY: _next_key,
    table.MAP_LOOKUP_BATCH: _lookup_batch,
    table.MAP_LOOKUP_AND_DELETE_BATCH: _take_batch,
    table.MAP_UPDATE_BATCH: _update_batch,
    table.MAP_DELETE_BATCH: _delete_batch,
    table.PROG_LOAD: _load_program,
    table.PROG_GET_FD_BY_ID: _program_by_id,
    table.PROG_TEST_RUN: _run_program,
    table.OBJ_PIN: _pin,
    table.OBJ_GET: _path,
    table.UNLINK: _path,
    table.CLOSE: _close,
    table.TOUCH: _touch,
    table.RELEASE: _release,
}


def make(
    verb: Verb[Any, ..., Any], kernel: Kernel, task: Task, op: _Operation
) -> tuple[Any, Cost | None]:
    """One call with what a unary request gives to it: its answer and its cost, as above.

    Raises ``ApiError`` for a field out of bounds.
    """
    method, on_bpf, made, _ = _ROWS[verb]
    return made(method, kernel.bpf if on_bpf else kernel, task, op, RESPONSE_BYTES_MAX)


def _tell_made(made: Created, result: _Result) -> None:
    result.fd = made.fd


def _tell_fd(fd: int, result: _Result) -> None:
    result.fd = fd


def _tell_value(value: bytes, result: _Result) -> None:
    result.value = value


def _tell_batch(done: BatchResult, result: _Result) -> None:
    result.element_count = done.count
    result.keys = done.keys
    result.values = done.values
    if done.out_batch is not None:
        result.out_batch = done.out_batch
    if done.error is not None:
        result.errno = done.error.errno
        result.reason = done.error.reason


# What is not listed answers nothing but its errno.
_TELL: Final[dict[Verb[Any, ..., Any], Callable[[Any, _Result], None]]] = {
    table.MAP_CREATE: _tell_made,
    table.PROG_LOAD: _tell_made,
    table.OBJ_GET: _tell_fd,
    table.MAP_LOOKUP_ELEM: _tell_value,
    table.MAP_LOOKUP_AND_DELETE_ELEM: _tell_value,
    table.MAP_GET_NEXT_KEY: _tell_value,
    table.MAP_LOOKUP_BATCH: _tell_batch,
    table.MAP_LOOKUP_AND_DELETE_BATCH: _tell_batch,
    table.MAP_UPDATE_BATCH: _tell_batch,
    table.MAP_DELETE_BATCH: _tell_batch,
}


# A row as it is served: method, whether of bpf(2), what makes the call, what tells its answer. A plain tuple, since it
# is unpacked for every call.
_Row = tuple[_Method, bool, _Made, Callable[[Any, _Result], None] | None]
_ROWS: Final[dict[Verb[Any, ..., Any], _Row]] = {
    verb: (verb.method, verb.part is table.BPF, made, _TELL.get(verb))
    for verb, made in _MADE.items()
}
_SERVED: Final = {arm: _ROWS[verb] for arm, verb in table.BY_ARM.items()}


def served_arms() -> frozenset[str]:
    """The fields of a ``Syscall`` that are served."""
    return frozenset(_SERVED)


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
    if not isinstance(target, BpfProg):
        return within(repeat_count or 1, "repeat_count", 1, RUNS_MAX)
    most = RUNS_MAX // max(1, len(target.attr.ops))
    moved = sum(each.user_value_size for each in _maps_of_operations(target))
    return within(
        repeat_count or 1, "repeat_count", 1, max(1, min(most, RUN_BYTES_MAX // max(1, moved)))
    )


def _maps_of_operations(prog: BpfProg) -> list[BpfMap]:
    found = [prog.maps[op.map] for op in prog.attr.ops if op.map < len(prog.maps)]
    return [each for each in found if isinstance(each, BpfMap)]


# -- real memory -----------------------------------------------------------------------------------------------------


def may_take(verb_arm: str, task: Task, op: _Operation) -> int:
    """The most real memory that a call may add beyond the bytes of its message; 0 for one that adds nothing."""
    if verb_arm == "run_program":
        return _run_takes(task, op)
    if verb_arm == "pin_object":
        path: str = op.path
        return path.count("/") * (len(path) + ELEMENT_BYTES) + OBJECT_BYTES
    if verb_arm in ("update_element", "update_batch"):
        count: int = getattr(op, "element_count", 1)
        return ELEMENT_BYTES * max(1, count)
    return OBJECT_BYTES if verb_arm in ("create_map", "load_program") else 0


def _run_takes(task: Task, op: _Operation) -> int:
    file = task.fds.get(op.fd)
    prog = file.target if file is not None else None
    if not isinstance(prog, BpfProg):
        return 0
    takes = 0
    for each in prog.attr.ops:
        target = prog.maps[each.map] if each.map < len(prog.maps) else None
        if each.op == "update" and isinstance(target, BpfMap):
            elements = min(op.repeat_count or 1, target.max_entries) if each.key is None else 1
            takes += elements * (target.key_size + target.user_value_size + ELEMENT_BYTES)
    return takes
