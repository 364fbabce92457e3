"""Up, scale, down: compares what is wished for with what is there and does the difference.

The engines start, restart and place containers; nothing here watches them afterwards. Every
function raises ``LaunchError``, and leaves behind nothing it started when it does.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from bpfleet.launcher import load
from bpfleet.launcher.engine import Engine, Instance, InstanceState
from bpfleet.launcher.errors import LaunchError
from bpfleet.launcher.spec import ClusterSpec, Role, Service

__all__ = ["Changes", "Progress", "down", "find", "ps", "scale", "shown", "up"]

READY_SECONDS: Final = 180.0
POLL_SECONDS: Final = 0.2
LOG_LINES_OF_A_FAILURE: Final = 12

Progress = Callable[[str, str], None]
"""Called with the name of a service and what is happening to it."""


@dataclass(slots=True)
class Changes:
    """What an ``up`` did, by service name."""

    kept: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether the cluster was as it should be."""
        return not (self.started or self.replaced or self.removed)


def up(
    engine: Engine,
    spec: ClusterSpec,
    progress: Progress = lambda name, what: None,
    *,
    ready_seconds: float = READY_SECONDS,
) -> Changes:
    """Make the cluster what ``spec`` says and wait until all of it is ready.

    What runs as it should is left alone. On any failure, Ctrl-C included, whatever this call
    started is removed again; a cluster that did not exist before leaves nothing at all.
    """
    services = engine.plan(spec)
    existing = {instance.name: instance for instance in engine.instances(spec.name)}
    if not existing and engine.composed(spec.name):
        raise LaunchError(
            f"docker compose runs a cluster named {spec.name!r}: choose another --name"
        )
    prepared = engine.prepare(spec.name)
    changes = Changes()
    try:
        _remove_surplus(engine, spec.name, services, existing, changes, progress)
        for stage in _stages(services):
            _start_stage(engine, spec.name, stage, existing, changes, progress)
            _wait_ready(engine, spec.name, stage, progress, ready_seconds)
        _wait_for_workers(engine, spec)
        engine.remember(spec.name, spec.as_text())
    except BaseException:
        _undo(engine, spec.name, changes, prepared and not existing, progress)
        raise
    return changes


def scale(
    engine: Engine,
    cluster: str,
    agents: int,
    progress: Progress = lambda name, what: None,
    *,
    ready_seconds: float = READY_SECONDS,
) -> Changes:
    """Change the number of agents of a running cluster; nothing else is touched.

    The load generator keeps running: it is told of the agents when it is started next.
    """
    existing = {i.name: i for i in ps(engine, cluster) if i.role is Role.AGENT}
    wished = replace(_spec_of(engine, cluster), agents=agents)
    services = [s for s in engine.plan(wished) if s.role is Role.AGENT]
    changes = Changes()
    try:
        _remove_surplus(engine, cluster, services, existing, changes, progress)
        _start_stage(engine, cluster, services, existing, changes, progress)
        _wait_ready(engine, cluster, services, progress, ready_seconds)
        engine.remember(cluster, wished.as_text())
    except BaseException:
        _undo(engine, cluster, changes, False, progress)
        raise
    return changes


def down(
    engine: Engine, cluster: str, progress: Progress = lambda name, what: None
) -> list[Instance]:
    """Remove every instance, the network and the data of a cluster. Says what was there."""
    instances = engine.instances(cluster)
    for instance in reversed(instances):
        progress(instance.name, "stopping")
        engine.remove(cluster, instance.name)
    engine.discard(cluster)
    return instances


def ps(engine: Engine, cluster: str) -> list[Instance]:
    """The instances of a cluster. Raises ``LaunchError`` where there is none, or Compose runs it."""
    instances = engine.instances(cluster)
    if not instances and engine.composed(cluster):
        raise LaunchError(
            f"docker compose runs {cluster!r}: 'bpfleet ps' shows it, 'docker compose' changes it"
        )
    if not instances:
        raise LaunchError(f"no cluster named {cluster!r} runs here: start one with 'bpfleet up'")
    return instances


def shown(engine: Engine, cluster: str) -> list[Instance]:
    """The same to look at: also where Docker Compose runs it. Raises ``LaunchError`` where there is none."""
    return engine.instances(cluster) or engine.composed(cluster) or ps(engine, cluster)


def _spec_of(engine: Engine, cluster: str) -> ClusterSpec:
    text = engine.recall(cluster)
    if text is None:
        raise LaunchError(f"cluster {cluster!r} never became ready: run 'bpfleet up' again")
    return ClusterSpec.from_text(text)


def find(instances: Sequence[Instance], name: str) -> Instance:
    """The instance of that name, or of that role and number (``agent-2``)."""
    for instance in instances:
        if name in (instance.name, f"{instance.role}-{instance.index}"):
            return instance
    known = ", ".join(f"{i.role}-{i.index}" for i in instances)
    raise LaunchError(f"no service named {name!r}: there are {known}")


def _stages(services: Sequence[Service]) -> list[list[Service]]:
    """Services of one role start together, roles in the order of the plan."""
    stages: list[list[Service]] = []
    for service in services:
        if not stages or stages[-1][0].role is not service.role:
            stages.append([])
        stages[-1].append(service)
    return stages


def _remove_surplus(
    engine: Engine,
    cluster: str,
    services: Sequence[Service],
    existing: dict[str, Instance],
    changes: Changes,
    progress: Progress,
) -> None:
    wanted = {service.name for service in services}
    for name in [name for name in existing if name not in wanted]:
        progress(name, "stopping")
        engine.remove(cluster, name)
        changes.removed.append(name)


def _start_stage(
    engine: Engine,
    cluster: str,
    stage: Sequence[Service],
    existing: dict[str, Instance],
    changes: Changes,
    progress: Progress,
) -> None:
    for service in stage:
        found = existing.get(service.name)
        if (
            found
            and found.digest == engine.digest(service)
            and found.state is not InstanceState.EXITED
        ):
            progress(service.name, "unchanged")
            changes.kept.append(service.name)
            continue
        if found:
            engine.remove(cluster, service.name)
        progress(service.name, "starting")
        (changes.replaced if found else changes.started).append(service.name)
        engine.start(cluster, service)


def _wait_ready(
    engine: Engine,
    cluster: str,
    stage: Sequence[Service],
    progress: Progress,
    ready_seconds: float,
) -> None:
    deadline = time.monotonic() + ready_seconds
    waiting = {service.name for service in stage}
    while waiting:
        for instance in engine.instances(cluster):
            if instance.name in waiting and instance.state is InstanceState.READY:
                progress(instance.name, "ready")
                waiting.discard(instance.name)
            elif instance.name in waiting and (
                instance.oom_killed or instance.state is InstanceState.EXITED
            ):
                raise LaunchError(_why_it_ended(engine, cluster, instance))
        if waiting and time.monotonic() > deadline:
            names = ", ".join(sorted(waiting))
            raise LaunchError(
                f"not ready after {ready_seconds:g} s: {names}; "
                + _last_words(engine, cluster, min(waiting))
            )
        if waiting:
            time.sleep(POLL_SECONDS)


def _wait_for_workers(engine: Engine, spec: ClusterSpec) -> None:
    """A load started before its workers are connected would be none."""
    for instance in engine.instances(spec.name):
        if instance.role is Role.LOAD_MASTER:
            load.wait_for_workers(instance.address, spec.workers)


def _why_it_ended(engine: Engine, cluster: str, instance: Instance) -> str:
    if instance.oom_killed:
        return (
            f"{instance.name} was killed by the real OOM killer of this machine, not an emulated "
            "one: give it more with --memory, or fewer nodes with --nodes-per-agent"
        )
    words = _last_words(engine, cluster, instance.name)
    return f"{instance.name} ended with status {instance.exit_code} before it was ready; {words}"


def _last_words(engine: Engine, cluster: str, name: str) -> str:
    lines = [line for line in engine.logs(cluster, name, LOG_LINES_OF_A_FAILURE) if line.strip()]
    return f"its last line: {lines[-1].strip()}" if lines else "it printed nothing"


def _undo(
    engine: Engine, cluster: str, changes: Changes, everything: bool, progress: Progress
) -> None:
    for name in reversed(changes.started + changes.replaced):
        progress(name, "removing")
        engine.remove(cluster, name)
    if everything:
        engine.discard(cluster)
