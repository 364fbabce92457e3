"""One node under several models at once, call by call.

The same replicas start and the same operations are issued, in the same order, on one kernel per
model. While the answers of all models agree, nothing is kept; the first call they do not answer
alike is recorded with the counters of each side at that moment. After that the models go on, each
with its own history.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, final

from bpfleet.kernel import KernelProfile
from bpfleet.kernel.kernel import Kernel
from bpfleet.report.causes import cause_of
from bpfleet.report.observe import ModelObserver, counters_at, counters_of
from bpfleet.report.placing import NodePlan
from bpfleet.report.results import ABSENT, KILLED, SUCCESS, Divergence, ModelAnswer, NodeResult
from bpfleet.runtime import Outcome, ReplicaRun, Supervisor
from bpfleet.workload.churn import ChurnStream
from bpfleet.workload.ops import Operation
from bpfleet.workload.resolve import resolve
from bpfleet.workload.scenario import EventAction, Scenario
from bpfleet.workload.seeding import seed_for
from bpfleet.workload.spec import ReplicaSpec

__all__ = ["run_node"]


def run_node(
    scenario: Scenario, plan: NodePlan, profiles: Mapping[str, KernelProfile]
) -> NodeResult:
    """Runs the scenario's steps on one node under every profile."""
    return _Node(scenario, plan, profiles).run()


@final
class _Lane:
    """One model on this node: its kernel, and a supervisor per replica in placement order."""

    def __init__(
        self,
        model: str,
        profile: KernelProfile,
        plan: NodePlan,
        specs: Sequence[ReplicaSpec],
        seed: int,
    ) -> None:
        shape = plan.node.shape
        self.model: Final = model
        self.kernel: Final = Kernel(
            profile,
            node=plan.node.name,
            ram_bytes=shape.ram_bytes,
            swap_bytes=plan.node.swap_bytes,
            possible_cpus=shape.possible_cpus,
            seed=seed,
        )
        self.replicas: Final = [Supervisor(self.kernel, spec) for spec in specs]
        self.observer: Final = ModelObserver(self.kernel, self.replicas)


@final
class _Node:
    def __init__(
        self, scenario: Scenario, plan: NodePlan, profiles: Mapping[str, KernelProfile]
    ) -> None:
        node = plan.node
        self._scenario: Final = scenario
        self._plan: Final = plan
        self._specs: Final = [
            resolve(a.workload, a.serial, node.name, node.shape, seed=scenario.seed)
            for a in plan.assignments
        ]
        seed = seed_for(scenario.seed, node.name, "kernel")
        self._lanes: Final = [
            _Lane(model, profile, plan, self._specs, seed) for model, profile in profiles.items()
        ]
        self._streams: Final = [ChurnStream(s.inventory, s.seed) for s in self._specs]
        self._divergences: Final[dict[int, Divergence]] = {}
        self._step = 0
        self._call = 0

    def run(self) -> NodeResult:
        for step in range(self._scenario.steps + 1):
            self._step, self._call = step, 0
            self._carry_out_events()
            for index in range(len(self._specs)):
                self._start_due(index)
                if self._step:
                    self._churn(index)
            for lane in self._lanes:
                # Sampled when the step is over: what failed starts left behind has been freed by
                # then.
                lane.kernel.advance(self._scenario.step_ns)
                lane.observer.sample(step)
        return self._result()

    # -- the run

    def _carry_out_events(self) -> None:
        for event in self._scenario.events:
            if event.step != self._step:
                continue
            for lane in self._lanes:
                for replica in lane.replicas:
                    if replica.spec.workload.name == event.workload:
                        _carry_out(event.action, replica)

    def _start_due(self, index: int) -> None:
        """Starts replica ``index`` under every model where an attempt is due."""
        due = [lane for lane in self._lanes if lane.replicas[index].due]
        if not due:
            return
        starting = {lane.model: lane.replicas[index].begin().start_calls() for lane in due}
        if len(due) < len(self._lanes):
            # Only some models restart it: they diverged before, so nothing is left to compare.
            for calls in starting.values():
                _exhaust(calls)
        else:
            self._start_together(index, starting)
        for lane in due:
            lane.replicas[index].settle()

    def _start_together(self, index: int, starting: Mapping[str, Iterator[Outcome]]) -> None:
        while True:
            outcomes = {model: next(calls, None) for model, calls in starting.items()}
            if all(outcome is None for outcome in outcomes.values()):
                return
            self._call += 1
            self._compare(index, outcomes, absent=None)

    def _churn(self, index: int) -> None:
        """One step of replica ``index``: heap growth, then the shared operations."""
        live = self._live(index)
        if live:
            self._compare_all(index, live, {m: run.grow_heap() for m, run in live.items()})
        for operation in self._streams[index].map_operations():
            live = self._live(index)
            if not live:
                # The stream has to be drawn to its end all the same: the next step continues it.
                continue
            self._issue(index, live, operation)

    def _live(self, index: int) -> dict[str, ReplicaRun]:
        live: dict[str, ReplicaRun] = {}
        for lane in self._lanes:
            replica = lane.replicas[index]
            if replica.settle() and replica.run is not None:
                live[lane.model] = replica.run
        return live

    def _issue(self, index: int, live: Mapping[str, ReplicaRun], operation: Operation) -> None:
        answers = {model: run.perform(operation) for model, run in live.items()}
        self._compare_all(index, live, answers)

    def _compare_all(
        self,
        index: int,
        live: Mapping[str, ReplicaRun],
        answers: Mapping[str, Outcome | None],
    ) -> None:
        """None stands for success here; models where the replica is gone count as not running."""
        self._call += 1
        if index in self._divergences:
            return
        if len(live) == len(self._lanes) and all(answer is None for answer in answers.values()):
            return
        self._compare(index, answers, absent=set(answers))

    # -- divergence

    def _compare(
        self, index: int, outcomes: Mapping[str, Outcome | None], *, absent: set[str] | None
    ) -> None:
        """Records the first call at which the answers differ.

        ``absent`` None: a missing outcome means the start was over already. Else models outside
        ``absent`` are not running, and a missing outcome is a success.
        """
        if index in self._divergences:
            return
        errnos = {lane.model: self._errno(lane, index, outcomes, absent) for lane in self._lanes}
        if len(set(errnos.values())) == 1:
            return
        known = next((o for o in outcomes.values() if o is not None), None)
        spec = self._specs[index]
        verdicts = {
            lane.model: self._verdict(lane, index, errnos[lane.model], outcomes.get(lane.model))
            for lane in self._lanes
        }
        self._divergences[index] = Divergence(
            node=self._plan.node.name,
            workload=spec.workload.name,
            replica=spec.name,
            application=spec.inventory.name,
            step=self._step,
            attempt=max(lane.replicas[index].starts for lane in self._lanes),
            call=known.call if known is not None else "none",
            object=known.object if known is not None else "",
            verdicts=verdicts,
            cause=cause_of(verdicts),
            position=(self._step, self._plan.index, index, self._call),
        )

    def _errno(
        self,
        lane: _Lane,
        index: int,
        outcomes: Mapping[str, Outcome | None],
        absent: set[str] | None,
    ) -> str:
        answered = absent is None or lane.model in absent
        outcome = outcomes.get(lane.model)
        if outcome is not None:
            return outcome.verdict
        if answered and absent is not None:
            return SUCCESS
        failure = lane.replicas[index].last_failure
        return KILLED if failure is not None and failure.oom_killed else ABSENT

    def _verdict(self, lane: _Lane, index: int, errno: str, outcome: Outcome | None) -> ModelAnswer:
        replica = lane.replicas[index]
        error = outcome.error if outcome is not None else None
        now = counters_of(lane.kernel, replica.spec, replica.run)
        counters = counters_at(now, error, lane.kernel)
        if error is None:
            failure = replica.last_failure if errno == KILLED else None
            detail = failure.detail if failure is not None else ""
            return ModelAnswer(errno=errno, detail=detail, counters=counters)
        return ModelAnswer(
            errno=errno,
            reason=str(error.reason),
            detail=error.detail,
            numbers=dict(error.numbers),
            counters=counters,
        )

    def _result(self) -> NodeResult:
        node = self._plan.node
        found = sorted(self._divergences.values(), key=lambda d: d.position)
        return NodeResult(
            node=node.name,
            group=node.group,
            possible_cpus=node.shape.possible_cpus,
            ram_bytes=node.shape.ram_bytes,
            models={lane.model: lane.observer.result(lane.model) for lane in self._lanes},
            divergences=tuple(found),
        )


def _carry_out(action: EventAction, replica: Supervisor) -> None:
    if action is EventAction.STOP:
        replica.stop()
    else:
        replica.rollout()


def _exhaust(calls: Iterator[Outcome]) -> None:
    for _ in calls:
        pass
