"""One attempt of one replica: what a real loader does at its start, then its churn.

The first refused call of the start ends the attempt, as loaders exit on it. Churn only counts
refusals: agents log them and go on. A kill by the OOM killer ends the attempt wherever it happens.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, final

from bpfleet.kernel import KernelError, TaskKilled
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task
from bpfleet.runtime.lifecycle import News, after
from bpfleet.runtime.loader import Loader
from bpfleet.runtime.maps import create_map
from bpfleet.workload.churn import ChurnStream
from bpfleet.workload.ops import Operation, OpKind
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import KILLED, Failure, ReplicaSpec

__all__ = ["EXIT_FAILED", "EXIT_KILLED", "Outcome", "ReplicaRun"]

EXIT_FAILED: Final = 1
EXIT_KILLED: Final = 137
# What the kernel notes as the end of a process its OOM killer chose.
OOM_EXIT_REASON: Final = "oom-killed"


class Outcome(NamedTuple):
    """One call of a replica: which, on which object, and the kernel's verdict (None: success)."""

    call: str
    object: str
    error: KernelError | None

    @property
    def verdict(self) -> str:
        """``ok``, the errno's name, or ``SIGKILL`` where the OOM killer took the caller."""
        if self.error is None:
            return "ok"
        return KILLED if isinstance(self.error, TaskKilled) else self.error.errno.name


@final
class ReplicaRun:
    """Drives one attempt. ``start_calls`` and ``perform`` go call by call, so that kernels can be
    compared.

    ``cgroup`` is made if it is not there and left behind, so that the next attempt finds what
    pinned maps still cost. ``outcomes`` counts every refused call by call and errno, ordinary ones
    included.
    """

    def __init__(self, kernel: Kernel, spec: ReplicaSpec, *, cgroup: str = "") -> None:
        self.kernel: Final = kernel
        self.spec: Final = spec
        self.cgroup: Final = cgroup or spec.cgroup_path
        self.stream: Final = ChurnStream(spec.inventory, spec.seed)
        self.phase = Phase.ASSIGNED
        self.failure: Failure | None = None
        self.exit_code: int | None = None
        self.operations = 0
        self.outcomes: Final[Counter[tuple[str, str, str]]] = Counter()
        self._loader: Final = Loader(
            kernel, spec, cgroup=self.cgroup, heap_bytes=self.stream.heap.start_bytes
        )
        self._extra: Final[dict[int, deque[int]]] = {}
        self._extra_created = 0
        self._operate: Final[dict[OpKind, Callable[[Operation], None]]] = {
            OpKind.LOOKUP: self._lookup,
            OpKind.UPDATE: self._update,
            OpKind.DELETE: self._delete,
            OpKind.CREATE: self._create,
            OpKind.TOUCH: self._touch,
        }

    @property
    def task(self) -> Task | None:
        """The process, once it was started."""
        return self._loader.task

    @property
    def maps_created(self) -> int:
        """Maps this attempt created, those of churn included."""
        return self._loader.maps_created + self._extra_created

    @property
    def programs_loaded(self) -> int:
        """Programs this attempt loaded."""
        return self._loader.programs_loaded

    # -- life

    def settle(self) -> bool:
        """Notices a kill from outside; whether the process lives and has finished its start."""
        task = self.task
        if self.phase is Phase.RUNNING and task is not None and not task.alive:
            error = TaskKilled(task.pid, f"process {task.pid} is gone: {task.exit_reason}")
            self._end(self._failure_of(Outcome("none", "", error)), EXIT_KILLED)
        return self.phase is Phase.RUNNING

    def start(self) -> None:
        """Carries out the whole start. Afterwards the phase is RUNNING, or FAILED with ``failure``
        set.
        """
        for _ in self.start_calls():
            pass

    def start_calls(self) -> Iterator[Outcome]:
        """The start, one call at a time; ends early after the call that was refused."""
        for call, name, run in self._loader.steps():
            outcome = self._attempt(call, name, run)
            if outcome.error is not None and self.phase is Phase.ASSIGNED:
                self._end(self._failure_of(outcome), EXIT_FAILED)
            yield outcome
            if self.phase is not Phase.ASSIGNED:
                return
        self._hear(News.STARTED)

    def step(self) -> int:
        """The churn of one step. Returns how many operations were issued; none once the process is
        gone.
        """
        return sum(1 for _ in self.step_calls())

    def step_calls(self) -> Iterator[Outcome | None]:
        """The churn of one step, one operation at a time, each answered as by ``perform``; ends early where the
        process is gone.
        """
        for operation in self.stream.step():
            if not self.settle():
                return
            yield self.perform(operation)

    def grow_heap(self) -> Outcome | None:
        """The heap growth of one step, where there is some. Answers as ``perform`` does."""
        grown_bytes = self.stream.heap.grow()
        if not grown_bytes or not self.settle():
            return None
        return self.perform(Operation(OpKind.TOUCH, 0, 0, grown_bytes))

    def perform(self, operation: Operation) -> Outcome | None:
        """Issues one operation. Returns None when it succeeded, else what was answered."""
        self.operations += 1
        try:
            self._operate[operation.kind](operation)
        except KernelError as error:
            return self._refused(self._outcome_of(operation, error))
        return None

    def stop(self) -> None:
        """Ends the process if it lives: descriptors and heap go, pinned objects and the cgroup
        stay.
        """
        if not self.settle() and self.phase is not Phase.ASSIGNED:
            return
        self._exit(0)
        self._hear(News.STOP)
        self._hear(News.GONE)

    # -- operations

    def _lookup(self, operation: Operation) -> None:
        self._loader.maps[operation.target].lookup(operation.key, operation.amount)

    def _update(self, operation: Operation) -> None:
        self._loader.maps[operation.target].update(operation.key, operation.amount)

    def _delete(self, operation: Operation) -> None:
        self._loader.maps[operation.target].delete(operation.key, operation.amount)

    def _touch(self, operation: Operation) -> None:
        self.kernel.touch(self._process.pid, operation.amount)

    def _create(self, operation: Operation) -> None:
        """One more map like the target; beyond the churn's ``extra_maps_max`` the oldest such map
        goes first.
        """
        declared = self._loader.maps[operation.target].declared
        held = self._extra.setdefault(operation.target, deque())
        while len(held) >= max(1, self.spec.inventory.churn.extra_maps_max):
            self.kernel.close(self._process.pid, held.popleft())
        held.append(create_map(self.kernel, self._process, declared))
        self._extra_created += 1

    @property
    def _process(self) -> Task:
        assert self.task is not None, "operations follow a start"
        return self.task

    # -- verdicts

    def _attempt(self, call: str, name: str, run: Callable[[], None]) -> Outcome:
        try:
            run()
        except KernelError as error:
            return self._refused(Outcome(call, name, error))
        return Outcome(call, name, None)

    def _refused(self, outcome: Outcome) -> Outcome:
        error = outcome.error
        assert error is not None, "only refused calls come here"
        if isinstance(error, TaskKilled):
            self._end(self._failure_of(outcome), EXIT_KILLED)
        else:
            self.outcomes[outcome.call, error.errno.name, str(error.reason)] += 1
        return outcome

    def _outcome_of(self, operation: Operation, error: KernelError) -> Outcome:
        if operation.kind is OpKind.TOUCH:
            return Outcome(operation.kind.call, "heap", error)
        return Outcome(
            operation.kind.call, self._loader.maps[operation.target].declared.name, error
        )

    def _failure_of(self, outcome: Outcome) -> Failure:
        error, task = outcome.error, self.task
        assert error is not None, "only refused calls fail"
        killed = isinstance(error, TaskKilled)
        return Failure(
            call=outcome.call,
            errno=KILLED if killed else error.errno.name,
            reason=str(error.reason),
            object=outcome.object,
            detail=error.detail,
            numbers=error.numbers,
            time_ns=self.kernel.now_ns,
            oom_killed=killed and task is not None and task.exit_reason == OOM_EXIT_REASON,
        )

    def _end(self, failure: Failure, status: int) -> None:
        self.failure = failure
        self._hear(News.FAILED)
        self._exit(status)

    def _hear(self, news: News) -> None:
        following = after(self.phase, news)
        assert following is not None, f"{news.name} means nothing to a run that is {self.phase}"
        self.phase = following

    def _exit(self, status: int) -> None:
        if self.task is not None and self.task.alive:
            self.kernel.exit(self.task.pid, status)
        self.exit_code = status
