"""A chaos run: faults by schedule, a witness that keeps writing, then the checks."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from bpfleet.launcher import load
from bpfleet.launcher.chaos.checks import Acknowledged, Check, check_all
from bpfleet.launcher.chaos.plan import Action, ChaosPlan, FaultKind, schedule
from bpfleet.launcher.chaos.witness import Witness
from bpfleet.launcher.cluster import Progress, ps
from bpfleet.launcher.engine import Engine, Instance, InstanceState
from bpfleet.launcher.errors import LaunchError
from bpfleet.launcher.spec import ClusterSpec, Role, Service
from bpfleet.launcher.survey import Survey, leading

__all__ = ["ChaosReport", "run_chaos"]

_POLL_SECONDS: Final = 0.1
_SURVEY_SECONDS: Final = 2.0
_WITNESS_PAUSE_SECONDS: Final = 0.25
# What a full Redis holds at most; far below what an empty one needs.
_FULL_BYTES: Final = "1mb"


@dataclass(slots=True)
class ChaosReport:
    """What was done, what it did to real processes, and whether everything holds."""

    plan: str
    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)
    real_oom_kills: list[str] = field(default_factory=list)
    told: Acknowledged = field(default_factory=Acknowledged)
    settled_seconds: float = 0.0
    checks: list[Check] = field(default_factory=list)
    load: list[dict[str, Any]] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every property holds."""
        return all(check.holds for check in self.checks)


def run_chaos(
    engine: Engine,
    cluster: str,
    plan: ChaosPlan,
    progress: Progress = lambda name, what: None,
    *,
    load_users: int = 0,
) -> ChaosReport:
    """Carry out a plan on a running cluster and check it afterwards.

    ``load_users`` Locust users keep going in the meantime. Whatever happens, every lasting fault is undone. Raises
    ``LaunchError`` where the cluster is not there, not ready, or without a service the plan strikes.
    """
    instances = ps(engine, cluster)
    if unwell := [each.name for each in instances if each.state is not InstanceState.READY]:
        raise LaunchError(f"not ready before the chaos run: {', '.join(unwell)}")
    spec = ClusterSpec.from_text(engine.recall(cluster) or "")
    services = {service.name: service for service in engine.plan(spec)}
    reached = [each.address for each in instances if each.role is Role.COORDINATOR]
    report = ChaosReport(plan.name, plan.seed)
    witness = Witness(reached, plan.seed, pause_seconds=_WITNESS_PAUSE_SECONDS)
    run = _ChaosRun(engine, cluster, services, reached, report, progress)
    actions = schedule(plan, _targets(instances))
    page = _page(instances) if load_users else ""
    if page:
        load.start(page, load_users)
    witness.start()
    try:
        run.carry_out(actions, plan.duration_seconds)
    finally:
        run.undo_all()
        report.told = witness.stop()
        if page:
            load.stop(page)
    if page:
        report.load = load.outcomes(page)
    run.settle(plan.settle_seconds)
    witness.clean_up()
    return report


def _page(instances: list[Instance]) -> str:
    for instance in instances:
        if instance.role is Role.LOAD_MASTER:
            return instance.address
    raise LaunchError("this cluster has no load generator: 'bpfleet up --workers 1' adds one")


def _targets(instances: list[Instance]) -> dict[Role, list[str]]:
    return {role: [each.name for each in instances if each.role is role] for role in Role}


class _ChaosRun:
    """One run: what is under way, and how to undo it."""

    def __init__(
        self,
        engine: Engine,
        cluster: str,
        services: dict[str, Service],
        coordinators: list[str],
        report: ChaosReport,
        progress: Progress,
    ) -> None:
        self._engine = engine
        self._cluster = cluster
        self._services = services
        self._coordinators = coordinators
        self._report = report
        self._progress = progress
        self._under_way: list[tuple[float, str, Callable[[], None]]] = []

    def carry_out(self, actions: tuple[Action, ...], duration_seconds: float) -> None:
        """Every action at its time; returns when the time is over."""
        began = time.monotonic()
        due = list(actions)
        while (elapsed := time.monotonic() - began) < duration_seconds:
            while due and due[0].at_seconds <= elapsed:
                self._strike(due.pop(0))
            self._undo_until(elapsed)
            self._note_oom_kills()
            time.sleep(_POLL_SECONDS)

    def undo_all(self) -> None:
        """Everything goes on, is reconnected, is let go."""
        self._undo_until(float("inf"))
        for instance in self._engine.instances(self._cluster):
            if instance.state in (InstanceState.EXITED, InstanceState.PAUSED):
                self._engine.resume(self._cluster, instance.name)

    def settle(self, settle_seconds: float) -> None:
        """Look until everything holds or the time is over; the last look is what is reported."""
        began = time.monotonic()
        while True:
            self._report.checks = self._look()
            self._report.settled_seconds = time.monotonic() - began
            if self._report.clean or self._report.settled_seconds > settle_seconds:
                return
            time.sleep(_SURVEY_SECONDS)

    def _look(self) -> list[Check]:
        agent = next(s for s in self._services.values() if s.role is Role.AGENT)
        module = ("bpfleet.launcher.survey", agent.environment["BPFLEET_COORDINATOR"])
        try:
            survey = Survey.from_text(self._engine.run_module(self._cluster, agent, module))
        except LaunchError as error:
            return [Check("survey", False, str(error))]
        return check_all(survey, self._report.told)

    def _strike(self, action: Action) -> None:
        target = action.target or self._leader()
        if not target:
            self._report.skipped.append(f"{action.kind} at {action.at_seconds:g} s: nobody led")
            return
        try:
            undo = self._do(action, target)
        except LaunchError as error:
            self._report.skipped.append(f"{action.kind} of {target}: {error}")
            return
        self._progress(target, action.kind.value)
        self._report.faults[action.kind.value] += 1
        if undo is not None:
            self._under_way.append((action.until_seconds, target, undo))

    def _do(self, action: Action, target: str) -> Callable[[], None] | None:
        """Carry out one fault; returns how to undo it."""
        engine, cluster, kind = self._engine, self._cluster, action.kind
        if kind is FaultKind.STOP:
            engine.stop(cluster, target)
        elif kind is FaultKind.PAUSE:
            engine.pause(cluster, target)
        elif kind is FaultKind.DISCONNECT:
            engine.disconnect(cluster, target)
            return lambda: engine.reconnect(cluster, target)
        elif kind is FaultKind.SLOW_REDIS:
            # The server holds every client back, the one that could end it too: so for a set time.
            milliseconds = round((action.until_seconds - action.at_seconds) * 1000)
            self._redis("client", "pause", str(milliseconds), "all")
            return None
        elif kind is FaultKind.FILL_REDIS:
            self._redis("config", "set", "maxmemory", _FULL_BYTES)
            return lambda: self._redis("config", "set", "maxmemory", "0")
        elif kind is FaultKind.RESTART:
            engine.stop(cluster, target)
            engine.resume(cluster, target)
            return None
        else:
            engine.kill(cluster, target)
        return lambda: engine.resume(cluster, target)

    def _redis(self, *arguments: str) -> None:
        self._engine.redis_command(self._cluster, arguments)

    def _leader(self) -> str:
        for address in leading(self._coordinators):
            for instance in self._engine.instances(self._cluster):
                if instance.address == address:
                    return instance.name
        return ""

    def _undo_until(self, elapsed: float) -> None:
        over = [each for each in self._under_way if each[0] <= elapsed]
        self._under_way = [each for each in self._under_way if each[0] > elapsed]
        for _, target, undo in over:
            undo()
            self._progress(target, "let go")

    def _note_oom_kills(self) -> None:
        for instance in self._engine.instances(self._cluster):
            if instance.oom_killed and instance.name not in self._report.real_oom_kills:
                self._report.real_oom_kills.append(instance.name)
