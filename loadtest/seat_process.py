"""A seat as it is on its node: a cgroup, a process, and the stream its system calls go through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bpfleet.abi.errno import Errno
from bpfleet.client.bpf import AgentClient, Process, SyscallStream
from bpfleet.client.session import Verdict
from bpfleet.v1.bpf_service_pb2 import Syscall
from bpfleet.workload.seeding import seed_for
from loadtest.calls import Reply, name_of, reply_of, unpin
from loadtest.outcomes import OK, OOM_KILLED, CallOutcome
from loadtest.seats import Seat

__all__ = ["CAPABILITIES", "SeatProcess", "outcomes_of", "uid_of"]

# What an agent that loads BPF programs is given; not CAP_SYS_RESOURCE, so that limits bind it.
CAPABILITIES: Final = ("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON", "CAP_SYS_ADMIN")
_UID_BASE: Final = 10_000
_UIDS: Final = 1 << 30


class SeatProcess:
    """Carries out the calls of a script on the node of a seat.

    ``limit_bytes`` None leaves memory.max alone, ``memlock_bytes`` None the node's default of RLIMIT_MEMLOCK, which
    RLIM_INFINITY lifts. Every method raises ``CallError`` where the cluster fails.
    """

    def __init__(
        self, client: AgentClient, seat: Seat, *, limit_bytes: int | None, memlock_bytes: int | None
    ) -> None:
        self._node: Final = client.node(seat.node.name)
        self._seat: Final = seat
        self._cgroup: Final = f"/load-{seat.name}"
        self._memlock_bytes: Final = memlock_bytes
        self._make_cgroup(limit_bytes)
        self._process = self._spawn()
        self._client: Final = client
        self._stream = SyscallStream(client)
        self._pins: Final[set[str]] = set()

    def execute(self, calls: Sequence[Syscall]) -> list[Reply]:
        """One message. A process that is gone answers CALLER_KILLED from that call on."""
        # Noted before they are made: the answer may never be read where the test ends meanwhile.
        self._pins.update(call.pin_object.path for call in calls if call.HasField("pin_object"))
        answer = self._stream.execute(self._process.caller, calls)
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
        with SyscallStream(self._client) as stream:
            stream.execute(self._process.caller, [unpin(path) for path in sorted(self._pins)])
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


def uid_of(seat: Seat) -> int:
    """A user of its own: users under RLIMIT_MEMLOCK share nothing with each other."""
    return _UID_BASE + seed_for(0, seat.name) % _UIDS


def outcomes_of(
    model: str, calls: Sequence[Syscall], replies: Sequence[Reply]
) -> tuple[list[tuple[CallOutcome, int]], bool]:
    """What came of each call with the elements it moved, and whether the process is gone.

    What follows its death did not happen.
    """
    counted: list[tuple[CallOutcome, int]] = []
    for call, reply in zip(calls, replies, strict=True):
        if reply.errno == Errno.ESRCH:
            return counted, True
        errno = Errno(reply.errno).name if reply.errno else OK
        outcome = CallOutcome(model, name_of(call), errno, reply.reason)
        counted.append((outcome, _elements(call, reply)))
        if reply.reason == OOM_KILLED:
            return counted, True
    return counted, False


_ONE_ELEMENT: Final = frozenset(
    {"lookup_element", "update_element", "delete_element", "lookup_and_delete_element"}
)


def _elements(call: Syscall, reply: Reply) -> int:
    """Map elements a call moved."""
    if call.WhichOneof("operation") in _ONE_ELEMENT:
        return 0 if reply.errno else 1
    return reply.elements
