"""Restarts what dies on one node, with Kubernetes' crash-loop back-off, in virtual time."""

from collections import Counter
from typing import Final, final

from bpfleet.kernel import KernelError
from bpfleet.kernel.kernel import Kernel
from bpfleet.runtime.lifecycle import ALIVE, BackOff, News, after
from bpfleet.runtime.replica import ReplicaRun
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import Failure, ReplicaSpec, ReplicaStatus

__all__ = ["KUBELET_BACK_OFF", "Supervisor"]

_STARTED: Final = "ok"
_SECOND_NS: Final = 1_000_000_000
# The kubelet's figures: 10 s, doubled up to 5 minutes, forgotten after 10 minutes of running.
KUBELET_BACK_OFF: Final = BackOff(
    first=10 * _SECOND_NS, longest=300 * _SECOND_NS, reset=600 * _SECOND_NS
)


@final
class Supervisor:
    """One replica over all its attempts.

    ``begin`` makes the next attempt where one is due; the caller then starts it (all at once, or
    call by call) and reports back with ``settle``. Counters run over all attempts.
    """

    def __init__(
        self, kernel: Kernel, spec: ReplicaSpec, *, back_off: BackOff = KUBELET_BACK_OFF
    ) -> None:
        self.kernel: Final = kernel
        self.spec: Final = spec
        self.run: ReplicaRun | None = None
        self.starts = 0
        self.oom_kills = 0
        self.first_failure: Failure | None = None
        self.last_failure: Failure | None = None
        self.restart_at_ns: int | None = kernel.now_ns
        self.first_start = ""
        self.later_starts: Final[Counter[str]] = Counter()
        self.outcomes: Final[Counter[tuple[str, str, str]]] = Counter()
        self._phase = Phase.ASSIGNED
        self._back_off: Final = back_off
        self._started_ns = 0
        self._failures = 0
        self._generation = 0
        self._past = Counter[str]()

    @property
    def due(self) -> bool:
        """Whether an attempt should start now."""
        return self.restart_at_ns is not None and self.kernel.now_ns >= self.restart_at_ns

    def begin(self) -> ReplicaRun:
        """The next attempt, not yet started. Every rollout lives in a cgroup of its own, restarts
        share it.
        """
        cgroup = self.spec.cgroup_path
        if self._generation:
            cgroup = f"{cgroup}-r{self._generation}"
        self.run = ReplicaRun(self.kernel, self.spec, cgroup=cgroup)
        self.starts += 1
        self.restart_at_ns = None
        self._started_ns = self.kernel.now_ns
        if self._phase is Phase.BACK_OFF:
            self._hear(News.DUE)
        return self.run

    def start(self) -> None:
        """Starts the attempt that is due, if one is."""
        if self.due:
            self.begin().start()
            self.settle()

    def settle(self) -> bool:
        """Takes note of how the current attempt is doing; a dead one is scheduled to restart.

        Returns whether the attempt has started and lives.
        """
        run = self.run
        if run is None or self._phase not in ALIVE:
            return False
        lives = run.settle()
        if self._phase is Phase.ASSIGNED:
            self._note_start(run)
            if lives:
                self._hear(News.STARTED)
        if not lives:
            self._retire(run)
            self._fail(run.failure)
        return lives

    def rollout(self) -> None:
        """Ends the attempt and starts anew in a fresh cgroup, as a rolling update does. Pinned maps
        survive.

        The old cgroup goes; what pinned maps still cost moves to its parent.
        """
        old = self.run.cgroup if self.run is not None else None
        self.stop()
        if old is not None:
            self._remove(old)
        self._generation += 1
        self._failures = 0
        self._phase = Phase.ASSIGNED
        self.restart_at_ns = self.kernel.now_ns

    def stop(self) -> None:
        """Ends the attempt for good."""
        self.restart_at_ns = None
        if self.run is not None and self._phase is Phase.RUNNING:
            self.run.stop()
            self._retire(self.run)
        self._hear(News.STOP)
        self._hear(News.GONE)

    def refused(self) -> dict[str, int]:
        """Refused calls of all attempts, as ``"call errno reason"``; blanks in a call become ``_``."""
        counts = Counter(self.outcomes)
        if self.run is not None and self._phase is Phase.RUNNING:
            counts.update(self.run.outcomes)
        return {
            f"{call.replace(' ', '_')} {errno} {reason}": n
            for (call, errno, reason), n in sorted(counts.items())
        }

    def status(self) -> ReplicaStatus:
        """What the replica is doing."""
        run = self.run
        live = run if run is not None and self._phase is Phase.RUNNING else None
        return ReplicaStatus(
            name=self.spec.name,
            phase=self._phase,
            pid=live.task.pid if live is not None and live.task is not None else 0,
            starts=self.starts,
            exit_code=run.exit_code if run is not None else None,
            restart_at_ns=self.restart_at_ns,
            last_failure=self.last_failure,
            oom_kills=self.oom_kills,
            maps_created=self._past["maps"] + (live.maps_created if live else 0),
            programs_loaded=self._past["programs"] + (live.programs_loaded if live else 0),
            operations=self._past["operations"] + (live.operations if live else 0),
            outcomes=self.refused(),
        )

    def _note_start(self, run: ReplicaRun) -> None:
        ended = run.failure.errno if run.failure is not None else _STARTED
        if self.starts == 1:
            self.first_start = ended
        else:
            self.later_starts[ended] += 1

    def _fail(self, failure: Failure | None) -> None:
        assert failure is not None, (
            "an attempt that is over has failed: only stop() ends it otherwise"
        )
        self.first_failure = self.first_failure or failure
        self.last_failure = failure
        self.oom_kills += failure.oom_killed
        self._hear(News.FAILED)
        if self._phase is Phase.BACK_OFF:
            now = self.kernel.now_ns
            self._failures = self._back_off.failures(self._failures, now - self._started_ns)
            self.restart_at_ns = now + self._back_off.pause(self._failures)

    def _hear(self, news: News) -> None:
        self._phase = after(self._phase, news, self.spec.workload.restart_policy) or self._phase

    def _retire(self, run: ReplicaRun) -> None:
        """Keeps the counters of an attempt that is over."""
        self.outcomes.update(run.outcomes)
        self._past.update(
            maps=run.maps_created, programs=run.programs_loaded, operations=run.operations
        )

    def _remove(self, cgroup: str) -> None:
        try:
            self.kernel.rmdir(cgroup)
        except KernelError:
            # Somebody else's process moved in: the directory stays, as rmdir(1) would leave it.
            return
