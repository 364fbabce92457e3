"""Replicas that run on the nodes of this agent: started, churning, ended, stopped, in slices of a few milliseconds."""

import asyncio
import contextlib
import heapq
import time
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, final

from bpfleet.abi.errno import Errno
from bpfleet.fleet.commands import ReplicaNews
from bpfleet.kernel import KernelError
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.units import bytes_of
from bpfleet.node_agent.agent import Agent
from bpfleet.node_agent.node import HostedNode
from bpfleet.rpc.errors import ApiError
from bpfleet.rpc.replicas import news_record, status_message
from bpfleet.runtime import ReplicaRun
from bpfleet.runtime.lifecycle import ALIVE, News, after
from bpfleet.v1 import replica_pb2 as pb
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import KILLED, ReplicaSpec

__all__ = ["Attempt", "Key", "Listener", "Replicas"]

SLICE_SECONDS: Final = 0.01
_SECOND_NS: Final = 1_000_000_000
_STEP_NS_MIN: Final = 10_000_000
# Passes when a replica has ended: nobody may call the node for long, and what Linux frees late is to be gone by then.
_AFTERMATH_NS: Final = _SECOND_NS


class Key(NamedTuple):
    """A replica on a node: the same id on two nodes is two replicas."""

    replica: str
    node: str


@final
class Attempt:
    """One attempt of one replica on its node, and what of it is still to be done."""

    __slots__ = ("key", "node", "number", "reported", "run", "work")

    def __init__(self, key: Key, number: int, node: HostedNode, spec: ReplicaSpec) -> None:
        self.key: Final = key
        self.number: Final = number
        self.node: Final = node
        self.run: Final = ReplicaRun(node.wake(), spec)
        self.work: Iterator[None] = self._start()
        self.reported: Phase | None = None

    def settle(self) -> Phase:
        """The phase now: notices a kill from outside, and that the node is stopped."""
        if self.node.crash_message:
            return after(self.run.phase, News.FAILED) or self.run.phase
        self.run.settle()
        return self.run.phase

    def next_step(self) -> None:
        """Makes the operations of one more step the work to be done."""
        self.work = self._step()

    def _start(self) -> Iterator[None]:
        for outcome in self.run.start_calls():
            if outcome.error is not None:
                self.node.count_verdict(outcome.error)
            yield

    def _step(self) -> Iterator[None]:
        for outcome in self.run.step_calls():
            # Whoever is killed sees no errno.
            if outcome is not None and outcome.error is not None and outcome.verdict != KILLED:
                self.node.count_verdict(outcome.error)
            yield

    def end(self, kernel: Kernel) -> None:
        """Ends the process, whatever it was doing, and removes its cgroup unless somebody else lives there."""
        self.run.stop()
        _remove_cgroup(kernel, self.run.cgroup)


def _remove_cgroup(kernel: Kernel, path: str) -> None:
    try:
        kernel.rmdir(path)
    except KernelError as error:
        # Not made yet, or other processes live there: it stays as rmdir(1) would leave it.
        if error.errno not in (Errno.ENOENT, Errno.EBUSY):
            raise


# Attempt and whether it was taken, or else forgotten.
Listener = Callable[[Attempt, bool], None]


@final
class Replicas:
    """All replicas of one agent.

    Starts come first, in the order they were asked for. Each running replica takes one step of its churn per step of
    wall time where ``churn_share`` of a CPU is enough for all; else virtual time runs slower, which changes no result.
    ``changed`` holds those whose phase is to be reported; ``news`` is set when it gets a member. ``clock`` counts
    seconds; ``listener`` is told of every attempt that is taken (True) and that is over and forgotten (False).
    """

    def __init__(
        self,
        agent: Agent,
        *,
        churn_share: float,
        clock: Callable[[], float] = time.monotonic,
        listener: Listener = lambda attempt, taken: None,
    ) -> None:
        self._agent: Final = agent
        self._clock: Final = clock
        self._listener: Final = listener
        self._pause_factor: Final = (1 - churn_share) / churn_share
        self._attempts: Final[dict[Key, Attempt]] = {}
        self._keys: Final[list[Key]] = []
        self._starting: Final[deque[Attempt]] = deque()
        self._interrupted: Attempt | None = None
        # When, in which order of equals, and what.
        self._due: Final[list[tuple[float, int, Attempt]]] = []
        self._steps = 0
        self._on_node: Final[Counter[str]] = Counter()
        self._wanted: Final = asyncio.Event()
        self.changed: Final[set[Key]] = set()
        self.news: Final = asyncio.Event()

    @property
    def keys(self) -> list[Key]:
        """The keys of all replicas, sorted. Not to be changed."""
        return self._keys

    def on_node(self, node_id: str) -> int:
        """How many replicas a node carries."""
        return self._on_node[node_id]

    def find(self, key: Key) -> Attempt | None:
        """The replica, if it is there."""
        return self._attempts.get(key)

    def run(self, key: Key, number: int, spec: ReplicaSpec) -> Attempt:
        """Starts an attempt, in place of a lower one; the same or a lower one is left alone. Raises ``ApiError``."""
        known = self._attempts.get(key)
        if known is not None and known.number >= number:
            return known
        node = self._agent.find(key.node)
        with node.guard(calls=0):
            if known is not None:
                self._forget(known)
            attempt = Attempt(key, number, node, spec)
        self._attempts[key] = attempt
        insort(self._keys, key)
        self._on_node[key.node] += 1
        self._starting.append(attempt)
        self._wanted.set()
        self._listener(attempt, True)
        return attempt

    def stop(self, key: Key) -> pb.ReplicaStatus | None:
        """Ends and forgets a replica; returns what became of it, None where there is none."""
        attempt = self._attempts.get(key)
        if attempt is None:
            return None
        self._forget(attempt)
        return self.status(attempt)

    def stop_node(self, node_id: str) -> None:
        """Forgets the replicas of a node that is deleted."""
        for key in [key for key in self._keys if key.node == node_id]:
            self._forget(self._attempts[key])

    def _forget(self, attempt: Attempt) -> None:
        key = attempt.key
        if not attempt.node.crash_message:
            # A bug that shows in the end stops the node, which ends the replica as well.
            with contextlib.suppress(ApiError), attempt.node.guard(calls=0) as kernel:
                attempt.end(kernel)
                kernel.advance(_AFTERMATH_NS)
        del self._attempts[key]
        del self._keys[bisect_left(self._keys, key)]
        self._on_node[key.node] -= 1
        self.changed.discard(key)
        self._listener(attempt, False)

    # -- work --------------------------------------------------------------------------------------------------------

    async def pump(self) -> None:
        """Does the work, for ever, in slices of 10 ms between which calls get their turn."""
        while True:
            started = self._clock()
            if not self._slice(started + SLICE_SECONDS):
                await self._idle()
                continue
            # Starts are what somebody waits for; churn is not.
            spent = self._clock() - started
            await asyncio.sleep(0 if self._starting else spent * self._pause_factor)

    async def _idle(self) -> None:
        self._wanted.clear()
        wait = max(0.001, self._due[0][0] - self._clock()) if self._due else None
        # Not wait_for: in Python 3.11 it can swallow the cancellation that ends the pump.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._wanted.wait()

    def _slice(self, deadline: float) -> bool:
        """Works until ``deadline``; False where there was nothing to do."""
        worked = False
        while self._clock() < deadline:
            attempt = self._next()
            if attempt is None:
                return worked
            worked = True
            if self._carry_on(attempt, deadline):
                self._finished(attempt)
            else:
                self._interrupted = attempt
        return worked

    def _next(self) -> Attempt | None:
        attempt, self._interrupted = self._interrupted, None
        if attempt is not None and self._attempts.get(attempt.key) is attempt:
            return attempt
        while self._starting:
            attempt = self._starting.popleft()
            if self._attempts.get(attempt.key) is attempt:
                return attempt
        while self._due and self._due[0][0] <= self._clock():
            _, _, attempt = heapq.heappop(self._due)
            if self._attempts.get(attempt.key) is attempt:
                return attempt
        return None

    def _carry_on(self, attempt: Attempt, deadline: float) -> bool:
        """Works on an attempt; True where its present work is done, or its node is stopped."""
        if attempt.node.crash_message:
            return True
        try:
            with attempt.node.guard(calls=0) as kernel:
                for _ in attempt.work:
                    kernel.advance(attempt.node.call_ns)
                    if self._clock() >= deadline:
                        return False
        except ApiError:  # the guard has stopped the node and told the log
            return True
        return True

    def _finished(self, attempt: Attempt) -> None:
        """One start or step is done: schedules the next step, and tells of a change of phase."""
        alive = self._notice(attempt)
        step_ns = max(attempt.run.spec.inventory.churn.step_ns, _STEP_NS_MIN)
        # All replicas of the node share its clock: together they let one step pass.
        passed_ns = step_ns // max(1, self._on_node[attempt.key.node])
        try:
            with attempt.node.guard(calls=0) as kernel:
                kernel.advance(passed_ns if alive else _AFTERMATH_NS)
        except ApiError:
            self._notice(attempt)
            return
        if not alive or not self._notice(attempt):
            return
        if attempt.run.spec.inventory.churn.operations_per_step:
            attempt.next_step()
        due = self._clock() + step_ns / _SECOND_NS
        self._steps += 1
        heapq.heappush(self._due, (due, self._steps, attempt))

    def _notice(self, attempt: Attempt) -> bool:
        """Tells of a change of phase; whether there is anything left to do."""
        phase = attempt.settle()
        if phase is not attempt.reported:
            attempt.reported = phase
            self.changed.add(attempt.key)
            self.news.set()
        return phase in ALIVE

    # -- views -------------------------------------------------------------------------------------------------------

    def news_of(self, attempt: Attempt) -> ReplicaNews:
        """What a coordinator is told about an attempt."""
        return news_record(self.status(attempt))

    def status(self, attempt: Attempt) -> pb.ReplicaStatus:
        """What an attempt is doing."""
        phase = attempt.settle()
        return status_message(
            attempt.run,
            replica=attempt.key.replica,
            attempt=attempt.number,
            node=attempt.key.node,
            phase=phase,
            charged_bytes=charged_bytes(attempt),
            crash_message=attempt.node.crash_message,
        )


def charged_bytes(attempt: Attempt) -> int:
    """What is charged to the replica's cgroup; under the rlimit model what its user has locked."""
    kernel, run = attempt.node.wake(), attempt.run
    if kernel.profile.is_rlimit:
        return bytes_of(kernel.user(run.spec.workload.uid).locked_vm_pages)
    try:
        return kernel.cgroup(run.cgroup).memcg.usage_bytes
    except KernelError:
        return 0
