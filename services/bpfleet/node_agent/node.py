"""One emulated node as the agent carries it: its kernel, whether it still runs, and who waits for its events."""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, final

import grpc

from bpfleet.fleet.reasons import ControlReason
from bpfleet.kernel import KernelError, KernelProfile
from bpfleet.kernel.events import EventKind
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.units import bytes_of
from bpfleet.node_agent.budget import Budget, measured_bytes
from bpfleet.node_agent.requests import AnswerLog
from bpfleet.node_agent.sleep import ROUNDS_NEW, ROUNDS_WOKEN, freeze, thaw
from bpfleet.rpc.errors import ApiError

__all__ = ["HostedNode", "NodeBoot"]

_BPF_OWNERS: Final = frozenset({"map", "prog", "btf"})
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBoot:
    """What a node is booted with: kernel, memory, swap, possible CPUs, seed."""

    profile: KernelProfile
    ram_bytes: int
    possible_cpus: int
    seed: int
    swap_bytes: int = 0
    profile_text: str = ""


@final
class HostedNode:
    """A kernel that calls reach through ``guard`` only.

    Invariant *stopped nodes stay stopped*: once ``crash_message`` is not empty, no call reaches the kernel again; its
    event log stays readable. A node stops because the emulator has a bug, because the kernel itself has panicked, or
    because somebody asked for it. While nobody calls, it may sleep: see sleep.py.
    """

    __slots__ = (
        "_broken",
        "_budget",
        "_changed",
        "_frozen",
        "_idle_rounds",
        "_kernel",
        "_last_known",
        "_patience",
        "answers",
        "call_ns",
        "dirty",
        "held_bytes",
        "node_id",
        "shape",
        "verdicts",
        "watches",
    )

    def __init__(
        self,
        node_id: str,
        shape: NodeBoot,
        *,
        call_ns: int,
        dirty: set[str],
        budget: Budget | None = None,
    ) -> None:
        self.node_id: Final = node_id
        self.shape: Final = shape
        self.call_ns: Final = call_ns
        self.dirty: Final = dirty
        self._kernel: Kernel | None = Kernel(
            shape.profile,
            node=node_id,
            ram_bytes=shape.ram_bytes,
            swap_bytes=shape.swap_bytes,
            possible_cpus=shape.possible_cpus,
            seed=shape.seed,
        )
        self.verdicts: Final[Counter[str]] = Counter()
        self.answers: Final = AnswerLog()
        self._budget: Final = budget
        # Of this machine's memory, by estimate: see budget.py.
        self.held_bytes = 0
        self.measure()
        self._frozen = b""
        self._idle_rounds = 0
        self._patience = ROUNDS_NEW
        # Used bytes, bytes charged by class and OOM kills of a sleeping node.
        self._last_known: tuple[int, Mapping[str, int], int] = (0, {}, 0)
        self._broken = ""
        self.watches = 0
        self._changed: asyncio.Event | None = None

    def wake(self) -> Kernel:
        """The node's kernel, awake. Holders that outlive a call must keep the node from sleeping."""
        self._idle_rounds = 0
        kernel = self._kernel
        if kernel is None:
            kernel = self._kernel = thaw(self._frozen, self.shape.profile)
            self._frozen = b""
            self._patience = ROUNDS_WOKEN
        return kernel

    @property
    def asleep(self) -> bool:
        """Whether the kernel is kept as bytes."""
        return self._kernel is None

    def tires(self) -> bool:
        """Counts a round without a call. True once, when there were enough: what cannot sleep then is left alone."""
        self._idle_rounds += 1
        return self._idle_rounds == self._patience and self._kernel is not None

    def fall_asleep(self) -> bool:
        """Keeps the kernel as bytes from now on; False where that cannot be."""
        kernel = self._kernel
        if kernel is None or self.watches or self.crash_message:
            return False
        self._last_known = (self.used_bytes, self.bpf_charged_by_class, self._oom_kills)
        self._frozen = freeze(kernel)
        if not self._frozen:
            return False
        self.measure()
        self._kernel = None
        return True

    def takes(self, more_bytes: int) -> None:
        """Counts real memory that a request may add. Raises ``ApiError`` (RESOURCE_EXHAUSTED) beyond the budget."""
        if self._budget is not None:
            self._budget.admit(self, more_bytes)

    def measure(self) -> None:
        """Counts what the node really holds; a sleeping one keeps what was counted last."""
        if self._kernel is None or self._budget is None:
            return
        held_bytes = measured_bytes(self._kernel)
        self._budget.held_bytes += held_bytes - self.held_bytes
        self.held_bytes = held_bytes

    def guard(self, *, calls: int = 1) -> "_Guard":
        """A context in which the kernel may be called; ``calls`` system calls of virtual time pass at its end.

        Raises ``ApiError`` (FAILED_PRECONDITION, NODE_CRASHED) where the node is stopped. A bug of the kernel inside
        stops the node and becomes an INTERNAL ``ApiError``.
        """
        if self.crash_message:
            raise ApiError(
                grpc.StatusCode.FAILED_PRECONDITION,
                ControlReason.NODE_CRASHED,
                f"node {self.node_id} is stopped: {self.crash_message}",
                node=self.node_id,
            )
        return _Guard(self, calls)

    def count_verdict(self, error: KernelError) -> None:
        """Counts a refusal of the kernel by errno name."""
        self.verdicts[error.errno.name] += 1

    @property
    def crash_message(self) -> str:
        """Why the node is stopped; empty while it runs."""
        return self._broken or (self._kernel.crashed if self._kernel is not None else "")

    def crash(self, message: str) -> None:
        """Stops the node for good and writes it in the log."""
        self._broken = message
        kernel = self.wake()
        kernel.events.append(kernel.now_ns, EventKind.NODE_CRASHED, {"reason": message})
        _log.error(
            "event=node_crashed node=%s seed=%d message=%r", self.node_id, self.shape.seed, message
        )
        self.touched()

    def switch_off(self) -> None:
        """Stops the node because it is deleted: calls that still hold it are refused."""
        if self._budget is not None:
            self._budget.held_bytes -= self.held_bytes
        self.held_bytes = 0
        self._broken = "it was deleted"

    def touched(self) -> None:
        """Marks the node for the next report and wakes those who watch its events."""
        self.dirty.add(self.node_id)
        self.notify()

    def notify(self) -> None:
        """Lets those who wait for ``next_change`` look again."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def next_change(self) -> asyncio.Event:
        """An event that is set at the next call that may have written to the log."""
        if self._changed is None:
            self._changed = asyncio.Event()
        return self._changed

    @property
    def used_bytes(self) -> int:
        """Memory of the node in use, charged or not."""
        return self._last_known[0] if self._kernel is None else self._kernel.ram.used_bytes

    @property
    def bpf_charged_bytes(self) -> int:
        """What is charged for maps, programs and BTF, under whichever model."""
        return sum(self.bpf_charged_by_class.values())

    @property
    def bpf_charged_by_class(self) -> Mapping[str, int]:
        """The same by class: the allocator's name under memcg, ``locked_vm`` for what RLIMIT_MEMLOCK counts."""
        kernel = self._kernel
        if kernel is None:
            return self._last_known[1]
        charged: Counter[str] = Counter()
        for account in kernel.memory.accounts.values():
            if account.owner.kind in _BPF_OWNERS and account.charged_bytes:
                charged[account.kind.name.lower()] += account.charged_bytes
        if kernel.profile.is_rlimit:
            pages = sum(each.charge.pages for each in kernel.bpf.maps())
            pages += sum(each.charge.pages for each in kernel.bpf.progs())
            charged["locked_vm"] = bytes_of(pages)
        return charged

    def all_verdicts(self) -> dict[str, int]:
        """Verdicts by errno name, and ``OOM_KILL`` with the processes killed."""
        kills = self._oom_kills
        found = dict(sorted(self.verdicts.items()))
        return {**found, "OOM_KILL": kills} if kills else found

    @property
    def _oom_kills(self) -> int:
        if self._kernel is None:
            return self._last_known[2]
        return self._kernel.events.total_by_kind.get(EventKind.OOM_KILL, 0)


@final
class _Guard:
    __slots__ = ("_calls", "_node")

    def __init__(self, node: HostedNode, calls: int) -> None:
        self._node: Final = node
        self._calls: Final = calls

    def __enter__(self) -> Kernel:
        return self._node.wake()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        node = self._node
        if isinstance(error, ApiError):
            return False  # a request that cannot be used is no call, so no time passes
        if isinstance(error, KernelError):
            node.count_verdict(error)
        elif isinstance(error, Exception):
            raise _broken(node, error) from error
        try:
            node.wake().advance(node.call_ns * self._calls)
        except Exception as bug:
            raise _broken(node, bug) from bug
        node.touched()
        return False


def _broken(node: HostedNode, bug: Exception) -> ApiError:
    """Stops the node: what the kernel raises besides verdicts is our bug, and its books can no longer be trusted."""
    _log.error("event=kernel_bug node=%s", node.node_id, exc_info=bug)
    node.crash(f"{type(bug).__name__}: {bug}")
    return ApiError(
        grpc.StatusCode.INTERNAL,
        ControlReason.NODE_CRASHED,
        f"an invariant of node {node.node_id} broke; the node is stopped, its event log remains",
        node=node.node_id,
    )
