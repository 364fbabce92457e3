"""Replicas that run on the nodes of this agent: started, churning, ended, stopped, in slices of a few milliseconds."""

import asyncio
import contextlib
import heapq
import time
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Iterator
from typing import Final, NamedTuple, final

from bpfleet.abi.errno import Errno
from bpfleet.kernel import KernelError
from bpfleet.kernel.kernel import Kernel
from bpfleet.node_agent.agent import Agent
from bpfleet.node_agent.node import HostedNode
from bpfleet.rpc.errors import ApiError
from bpfleet.runtime import ReplicaRun
from bpfleet.v1 import registry_service_pb2 as registry_pb
from bpfleet.v1 import runtime_service_pb2 as pb
from bpfleet.workload.spec import Phase, ReplicaSpec

__all__ = ["Key", "Replica", "Replicas"]

SLICE_SECONDS: Final = 0.01
_SECOND_NS: Final = 1_000_000_000
_STEP_NS_MIN: Final = 10_000_000
# Passes when a replica has ended: nobody may call the node for long, and what Linux frees late is to be gone by then.
_AFTERMATH_NS: Final = _SECOND_NS
_STATES: Final = {
    Phase.PENDING: registry_pb.REPLICA_STATE_STARTING,
    Phase.RUNNING: registry_pb.REPLICA_STATE_RUNNING,
    Phase.CRASH_LOOP: registry_pb.REPLICA_STATE_FAILED,
    Phase.FAILED: registry_pb.REPLICA_STATE_FAILED,
    Phase.STOPPED: registry_pb.REPLICA_STATE_STOPPED,
}


class Key(NamedTuple):
    """A replica on a node: the same id on two nodes is two replicas."""

    replica: str
    node: str


@final
class Replica:
    """One attempt of one replica, and what of it is still to be done."""

    __slots__ = ("attempt", "key", "node", "reported", "run", "work")

    def __init__(self, key: Key, attempt: int, node: HostedNode, spec: ReplicaSpec) -> None:
        self.key: Final = key
        self.attempt: Final = attempt
        self.node: Final = node
        self.run: Final = ReplicaRun(node.kernel, spec)
        self.work: Iterator[None] = self._start()
        self.reported = registry_pb.REPLICA_STATE_UNSPECIFIED

    @property
    def state(self) -> registry_pb.ReplicaState.ValueType:
        """What the replica is doing; notices a kill from outside, and that its node is stopped."""
        if self.node.crash_message:
            return registry_pb.REPLICA_STATE_FAILED
        self.run.running  # noqa: B018  # looks whether the process was killed
        return _STATES[self.run.phase]

    @property
    def alive(self) -> bool:
        """Whether there is anything left to do for it."""
        return self.state in (
            registry_pb.REPLICA_STATE_STARTING,
            registry_pb.REPLICA_STATE_RUNNING,
        )

    def next_step(self) -> None:
        """Makes the operations of one more step the work to be done."""
        self.work = self._step()

    def _start(self) -> Iterator[None]:
        for outcome in self.run.start_calls():
            if outcome.error is not None:
                self.node.count_verdict(outcome.error)
            yield

    def _step(self) -> Iterator[None]:
        run, node = self.run, self.node
        before = Counter(run.outcomes)
        for operation in run.stream.step():
            if not run.running:
                break
            run.perform(operation)
            yield
        for (_, errno, _), count in (run.outcomes - before).items():
            node.verdicts[errno] += count

    def end(self) -> None:
        """Ends the process, whatever it was doing, and removes its cgroup unless somebody else lives there."""
        kernel, run = self.node.kernel, self.run
        if run.phase is Phase.RUNNING:
            run.stop()
        elif run.task is not None and run.task.alive:
            kernel.exit(run.task.pid)
        _remove_cgroup(kernel, run.cgroup)


def _remove_cgroup(kernel: Kernel, path: str) -> None:
    try:
        kernel.rmdir(path)
    except KernelError as error:
        # Not made yet, or other processes live there: it stays as rmdir(1) would leave it.
        if error.errno not in (Errno.ENOENT, Errno.EBUSY):
            raise


@final
class Replicas:
    """All replicas of one agent.

    Starts come first, in the order they were asked for. Each running replica takes one step of its churn per step of
    wall time where ``churn_share`` of a CPU is enough for all; else virtual time runs slower, which changes no result.
    ``changed`` holds those whose state is to be reported; ``news`` is set when it gets a member.
    """

    def __init__(self, agent: Agent, *, churn_share: float) -> None:
        self._agent: Final = agent
        self._pause_factor: Final = (1 - churn_share) / churn_share
        self._replicas: Final[dict[Key, Replica]] = {}
        self._keys: Final[list[Key]] = []
        self._starting: Final[deque[Replica]] = deque()
        self._interrupted: Replica | None = None
        self._due: Final[list[tuple[float, Key, Replica]]] = []
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

    def find(self, key: Key) -> Replica | None:
        """The replica, if it is there."""
        return self._replicas.get(key)

    def run(self, key: Key, attempt: int, spec: ReplicaSpec) -> Replica:
        """Starts an attempt, in place of a lower one; the same or a lower one is left alone. Raises ``ApiError``."""
        known = self._replicas.get(key)
        if known is not None and known.attempt >= attempt:
            return known
        node = self._agent.find(key.node)
        with node.guard(calls=0):
            if known is not None:
                self._forget(known)
            replica = Replica(key, attempt, node, spec)
        self._replicas[key] = replica
        insort(self._keys, key)
        self._on_node[key.node] += 1
        self._starting.append(replica)
        self._wanted.set()
        return replica

    def stop(self, key: Key) -> Replica | None:
        """Ends and forgets a replica; returns it as it was, None where there is none."""
        replica = self._replicas.get(key)
        if replica is not None:
            self._forget(replica)
        return replica

    def stop_node(self, node_id: str) -> None:
        """Forgets the replicas of a node that is deleted."""
        for key in [key for key in self._keys if key.node == node_id]:
            self._forget(self._replicas[key])

    def _forget(self, replica: Replica) -> None:
        key = replica.key
        if not replica.node.crash_message:
            # A bug that shows in the end stops the node, which ends the replica as well.
            with contextlib.suppress(ApiError), replica.node.guard(calls=0) as kernel:
                replica.end()
                kernel.advance(_AFTERMATH_NS)
        del self._replicas[key]
        del self._keys[bisect_left(self._keys, key)]
        self._on_node[key.node] -= 1
        self.changed.discard(key)

    # -- work --------------------------------------------------------------------------------------------------------

    async def pump(self) -> None:
        """Does the work, for ever, in slices of 10 ms between which calls get their turn."""
        while True:
            started = time.monotonic()
            if not self._slice(started + SLICE_SECONDS):
                await self._idle()
                continue
            # Starts are what somebody waits for; churn is not.
            spent = time.monotonic() - started
            await asyncio.sleep(0 if self._starting else spent * self._pause_factor)

    async def _idle(self) -> None:
        self._wanted.clear()
        wait = max(0.001, self._due[0][0] - time.monotonic()) if self._due else None
        # Not wait_for: in Python 3.11 it can swallow the cancellation that ends the pump.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._wanted.wait()

    def _slice(self, deadline: float) -> bool:
        """Works until ``deadline``; False where there was nothing to do."""
        worked = False
        while time.monotonic() < deadline:
            replica = self._next()
            if replica is None:
                return worked
            worked = True
            if self._carry_on(replica, deadline):
                self._finished(replica)
            else:
                self._interrupted = replica
        return worked

    def _next(self) -> Replica | None:
        replica, self._interrupted = self._interrupted, None
        if replica is not None and self._replicas.get(replica.key) is replica:
            return replica
        while self._starting:
            replica = self._starting.popleft()
            if self._replicas.get(replica.key) is replica:
                return replica
        while self._due and self._due[0][0] <= time.monotonic():
            _, key, replica = heapq.heappop(self._due)
            if self._replicas.get(key) is replica:
                return replica
        return None

    def _carry_on(self, replica: Replica, deadline: float) -> bool:
        """Works on a replica; True where its present work is done, or its node is stopped."""
        if replica.node.crash_message:
            return True
        try:
            with replica.node.guard(calls=0) as kernel:
                for _ in replica.work:
                    kernel.advance(replica.node.call_ns)
                    if time.monotonic() >= deadline:
                        return False
        except ApiError:  # the guard has stopped the node and told the log
            return True
        return True

    def _finished(self, replica: Replica) -> None:
        """One start or step is done: schedules the next step, and tells of a change of state."""
        self._notice(replica)
        step_ns = max(replica.run.spec.inventory.churn.step_ns, _STEP_NS_MIN)
        # All replicas of the node share its clock: together they let one step pass.
        passed_ns = step_ns // max(1, self._on_node[replica.key.node])
        try:
            with replica.node.guard(calls=0) as kernel:
                kernel.advance(passed_ns if replica.alive else _AFTERMATH_NS)
        except ApiError:
            self._notice(replica)
            return
        if not replica.alive:
            return
        if replica.run.spec.inventory.churn.operations_per_step:
            replica.next_step()
        due = time.monotonic() + step_ns / _SECOND_NS
        heapq.heappush(self._due, (due, replica.key, replica))

    def _notice(self, replica: Replica) -> None:
        if replica.state != replica.reported:
            replica.reported = replica.state
            self.changed.add(replica.key)
            self.news.set()

    # -- views -------------------------------------------------------------------------------------------------------

    def status(self, replica: Replica) -> pb.ReplicaStatus:
        """What a replica is doing."""
        run = replica.run
        state = replica.state  # first: this notices a kill, which is the failure told below
        failure = run.failure
        message = pb.ReplicaStatus(
            replica=replica.key.replica,
            attempt=replica.attempt,
            node=replica.key.node,
            workload=run.spec.workload.name,
            state=state,
            pid=run.task.pid if run.task is not None else 0,
            cgroup=run.cgroup,
            charged_bytes=charged_bytes(replica),
            rss_bytes=run.task.rss_bytes if run.task is not None and run.task.alive else 0,
            map_count=run.maps_created,
            program_count=run.programs_loaded,
            operation_count=run.operations,
        )
        for (_, errno, _), count in run.outcomes.items():
            message.outcomes[errno] += count
        if failure is not None:
            message.reason = "OOM_KILLED" if failure.oom_killed else failure.reason
            message.errno = 0 if failure.killed else Errno[failure.errno]
            message.call = failure.call
            message.object = failure.object
            message.message = _sentence(message, failure.detail)
        elif replica.node.crash_message:
            message.reason = "NODE_CRASHED"
            message.message = replica.node.crash_message
        return message


def _sentence(status: pb.ReplicaStatus, detail: str) -> str:
    errno = f" {Errno(status.errno).name}" if status.errno else ""
    about = f" of {status.object}" if status.object else ""
    return f"{status.call}{about}:{errno} {status.reason}: {detail}"


def charged_bytes(replica: Replica) -> int:
    """What is charged to the replica's cgroup; under the rlimit model what its user has locked."""
    kernel, run = replica.node.kernel, replica.run
    if kernel.profile.is_rlimit:
        return kernel.user(run.spec.workload.uid).locked_vm_pages * 4096
    try:
        return kernel.cgroup(run.cgroup).memcg.usage_bytes
    except KernelError:
        return 0
