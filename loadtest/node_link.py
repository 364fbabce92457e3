"""One user's place on an emulated node: its cgroup, its process, and the stream its system calls go
through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from bpfleet.abi.errno import Errno
from bpfleet.client.bpf import AgentClient, Process, SyscallStream
from bpfleet.client.session import Verdict
from bpfleet.v1 import bpf_pb2, bpf_service_pb2
from bpfleet.workload.seeding import seed_for
from loadtest.outcomes import OK, OOM_KILLED, Outcome
from loadtest.scripts import Call, Do, Reply
from loadtest.seats import Seat

__all__ = [
    "CAPABILITIES",
    "NodeLink",
    "memlock_of",
    "message_of",
    "outcomes_of",
    "reply_of",
    "uid_of",
]

# What an agent that loads BPF programs is given; not CAP_SYS_RESOURCE, so that limits bind it.
CAPABILITIES: Final = ("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON", "CAP_SYS_ADMIN")
_UID_BASE: Final = 10_000
_UIDS: Final = 1 << 30


class NodeLink:
    """Carries out the calls of a script on the node of a seat.

    ``limit_bytes`` None leaves memory.max alone; ``memlock_bytes`` None lifts RLIMIT_MEMLOCK, -1
    leaves the kernel's default. Every method raises ``CallError`` where the cluster fails.
    """

    def __init__(
        self, client: AgentClient, seat: Seat, *, limit_bytes: int | None, memlock_bytes: int | None
    ) -> None:
        self._node: Final = client.node(seat.place.node)
        self._seat: Final = seat
        self._cgroup: Final = f"/load-{seat.name}"
        self._memlock_bytes: Final = memlock_of(memlock_bytes)
        self._make_cgroup(limit_bytes)
        self._process = self._spawn()
        self._client: Final = client
        self._stream = SyscallStream(client)
        self._pins: Final[set[str]] = set()

    def execute(self, calls: Sequence[Call]) -> list[Reply]:
        """One message. A process that is gone answers CALLER_KILLED from that call on."""
        # Noted before they are made: the answer may never be read where the test ends meanwhile.
        self._pins.update(call.path for call in calls if call.do is Do.PIN)
        answer = self._stream.execute(self._process.caller, [message_of(call) for call in calls])
        return [reply_of(result) for result in answer.results]

    def restart(self) -> None:
        """The process ends, if it lives, and another takes its place in the same cgroup."""
        self._end()
        self._process = self._spawn()

    def close(self) -> None:
        """Ends stream and process, takes pins away, and the cgroup."""
        self._stream.close()
        self._unpin()
        self._end()
        try:
            self._node.cgroup(self._cgroup).delete()
        except Verdict:
            return

    def _unpin(self) -> None:
        """On a stream of its own: the other may have a message in flight."""
        if not self._pins:
            return
        calls = [
            bpf_service_pb2.Syscall(unpin_object=bpf_service_pb2.PinOperation(path=path))
            for path in sorted(self._pins)
        ]
        with SyscallStream(self._client) as stream:
            stream.execute(self._process.caller, calls)
        self._pins.clear()

    def _make_cgroup(self, limit_bytes: int | None) -> None:
        """A cgroup that an earlier user of the seat left is used again."""
        files = {} if limit_bytes is None else {"memory.max": str(limit_bytes)}
        try:
            self._node.create_cgroup(self._cgroup, files)
        except Verdict as verdict:
            if verdict.errno is not Errno.EEXIST:
                raise

    def _spawn(self) -> Process:
        return self._node.create_process(
            uid=uid_of(self._seat),
            cgroup=self._cgroup,
            memlock_bytes=self._memlock_bytes,
            capabilities=CAPABILITIES,
            comm=self._seat.kind[:15],
        )

    def _end(self) -> None:
        try:
            self._process.kill()
        except Verdict:
            return


# Far above any charge an emulated node can hold, far below the end of a 64-bit number.
_LIFTED: Final = 1 << 60


def uid_of(seat: Seat) -> int:
    """A user of its own: users under RLIMIT_MEMLOCK share nothing with each other."""
    return _UID_BASE + seed_for(0, seat.name) % _UIDS


def memlock_of(setting_bytes: int | None) -> int | None:
    """RLIMIT_MEMLOCK for a setting (None: lifted, -1: left alone); None leaves the kernel's default."""
    if setting_bytes is None:
        return _LIFTED
    return None if setting_bytes < 0 else setting_bytes


def outcomes_of(
    model: str, calls: Sequence[Call], replies: Sequence[Reply]
) -> tuple[list[tuple[Outcome, int]], bool]:
    """What came of each call with the elements it moved, and whether the process is gone.

    What follows its death did not happen.
    """
    counted: list[tuple[Outcome, int]] = []
    for call, reply in zip(calls, replies, strict=True):
        if reply.errno == Errno.ESRCH:
            return counted, True
        errno = Errno(reply.errno).name if reply.errno else OK
        counted.append((Outcome(model, call.do.value, errno, reply.reason), _elements(call, reply)))
        if reply.reason == OOM_KILLED:
            return counted, True
    return counted, False


_ONE_ELEMENT: Final = frozenset({Do.LOOKUP, Do.UPDATE, Do.DELETE, Do.POP})


def _elements(call: Call, reply: Reply) -> int:
    """Map elements a call moved."""
    if call.do in _ONE_ELEMENT:
        return 0 if reply.errno else 1
    return reply.elements


def message_of(call: Call) -> bpf_service_pb2.Syscall:
    """A call as the agent takes it."""
    return _MADE[call.do](call)


def reply_of(result: bpf_service_pb2.SyscallResult) -> Reply:
    """The agent's answer to a call."""
    fd = result.fd if result.HasField("fd") else -1
    return Reply(result.errno, result.reason, fd, result.element_count)


def _create(call: Call) -> bpf_service_pb2.Syscall:
    declared = call.declared
    assert declared is not None, "a creation says what is created"
    spec = bpf_pb2.MapSpec(
        map_type=bpf_pb2.MapType.ValueType(declared.map_type),
        key_size_bytes=declared.key_size,
        value_size_bytes=declared.value_size,
        max_entries=declared.max_entries,
        map_flags=declared.map_flags,
        map_name=declared.name,
        map_extra=declared.map_extra,
        inner_map_fd=call.fd if call.fd >= 0 else None,
    )
    return bpf_service_pb2.Syscall(create_map=spec)


def _load(call: Call) -> bpf_service_pb2.Syscall:
    program = call.program
    assert program is not None, "a load says what is loaded"
    spec = bpf_pb2.ProgramSpec(
        program_type=bpf_pb2.ProgramType.ValueType(program.prog_type),
        instruction_count=program.insn_cnt,
        program_name=program.name,
        map_fds=call.fds,
    )
    return bpf_service_pb2.Syscall(load_program=spec)


def _element(call: Call) -> bpf_service_pb2.LookupElementOperation:
    return bpf_service_pb2.LookupElementOperation(fd=call.fd, key=call.key)


def _update(call: Call) -> bpf_service_pb2.Syscall:
    operation = bpf_service_pb2.UpdateElementOperation(fd=call.fd, key=call.key, value=call.value)
    return bpf_service_pb2.Syscall(update_element=operation)


def _delete(call: Call) -> bpf_service_pb2.Syscall:
    operation = bpf_service_pb2.DeleteElementOperation(fd=call.fd, key=call.key or b"")
    return bpf_service_pb2.Syscall(delete_element=operation)


def _update_batch(call: Call) -> bpf_service_pb2.Syscall:
    operation = bpf_service_pb2.UpdateBatchOperation(
        fd=call.fd, keys=call.key or b"", values=call.value, element_count=call.count
    )
    return bpf_service_pb2.Syscall(update_batch=operation)


def _delete_batch(call: Call) -> bpf_service_pb2.Syscall:
    operation = bpf_service_pb2.DeleteBatchOperation(
        fd=call.fd, keys=call.key or b"", element_count=call.count
    )
    return bpf_service_pb2.Syscall(delete_batch=operation)


def _lookup_batch(call: Call) -> bpf_service_pb2.Syscall:
    operation = bpf_service_pb2.LookupBatchOperation(fd=call.fd, element_count=call.count)
    return bpf_service_pb2.Syscall(lookup_batch=operation)


def _pin(call: Call) -> bpf_service_pb2.PinOperation:
    return bpf_service_pb2.PinOperation(path=call.path, fd=call.fd)


def _file(call: Call) -> bpf_service_pb2.FileOperation:
    return bpf_service_pb2.FileOperation(fd=call.fd)


def _touch(call: Call) -> bpf_service_pb2.Syscall:
    operation = bpf_service_pb2.MemoryOperation(size_bytes=call.count)
    return bpf_service_pb2.Syscall(allocate_memory=operation)


_MADE: Final[dict[Do, Callable[[Call], bpf_service_pb2.Syscall]]] = {
    Do.MAP_CREATE: _create,
    Do.PROG_LOAD: _load,
    Do.LOOKUP: lambda call: bpf_service_pb2.Syscall(lookup_element=_element(call)),
    Do.POP: lambda call: bpf_service_pb2.Syscall(lookup_and_delete_element=_element(call)),
    Do.UPDATE: _update,
    Do.DELETE: _delete,
    Do.UPDATE_BATCH: _update_batch,
    Do.DELETE_BATCH: _delete_batch,
    Do.LOOKUP_BATCH: _lookup_batch,
    Do.FREEZE: lambda call: bpf_service_pb2.Syscall(freeze_map=_file(call)),
    Do.CLOSE: lambda call: bpf_service_pb2.Syscall(close_file=_file(call)),
    Do.PIN: lambda call: bpf_service_pb2.Syscall(pin_object=_pin(call)),
    Do.OPEN_PINNED: lambda call: bpf_service_pb2.Syscall(open_pinned_object=_pin(call)),
    Do.TOUCH: _touch,
}
