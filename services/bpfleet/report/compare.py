"""The comparison: one scenario, one seed, several models; the same fleet, the same operations."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from bpfleet.kernel.profile import KernelProfile, compared_models
from bpfleet.report.fate import Fate, fate_of
from bpfleet.report.lockstep import run_node
from bpfleet.report.models import kernels_of, known_by, model_kind, profiles_on
from bpfleet.report.placing import NodePlan, Placement, place
from bpfleet.report.results import SUCCESS, Divergence, ModelOnNode, NodeResult
from bpfleet.report.resume import ResultFolder
from bpfleet.report.workers import Mapper, workers
from bpfleet.version import __version__
from bpfleet.workload.phase import Phase
from bpfleet.workload.scenario import Scenario

__all__ = [
    "DEFAULT_MODELS",
    "Cause",
    "Comparison",
    "ModelTotals",
    "compare",
    "merged",
    "run_nodes",
]

DEFAULT_MODELS: Final = compared_models()

Progress = Callable[[NodeResult], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTotals:
    """One column of the table: what happened over the whole fleet under one model. Bytes are those
    at the end.

    ``in_trouble`` replicas were killed, failed or had updates refused. ``enomem`` leaves out
    ``refused_updates``, which running replicas survive. A restart follows a failure, a kill or a rollout.
    """

    model: str
    kind: str
    nodes: int
    placed: int
    running: int
    crash_looping: int
    failed: int
    in_trouble: int
    oom_killed: int
    first_starts_failed: int
    restarts: int
    restarts_failed: int
    maps_created: int
    programs_loaded: int
    operations: int
    refused: Mapping[str, int]
    eperm: int
    enomem: int
    e2big: int
    refused_updates: int
    oom_kills: int
    estimate_bytes: int
    charged_bytes: int
    taken_bytes: int
    peak_charged_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Divergences of one cause over the fleet, and the first of them."""

    cause: str
    count: int
    nodes: int
    workloads: tuple[str, ...]
    first: Divergence


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All a report needs. ``unplaced`` pairs replicas that fit on no node with the reasons, ``kernels`` models
    with how sure what is said of them is.
    """

    version: str
    scenario: str
    title: str
    seed: int
    steps: int
    step_ns: int
    models: tuple[str, ...]
    kernels: dict[str, str]
    totals: tuple[ModelTotals, ...]
    first_divergence: Divergence | None
    causes: tuple[Cause, ...]
    unplaced: tuple[tuple[str, str], ...]
    nodes: tuple[NodeResult, ...] = field(repr=False)


def compare(
    scenario: Scenario,
    models: Sequence[str] = DEFAULT_MODELS,
    *,
    jobs: int = 1,
    on_node: Progress | None = None,
    kept: ResultFolder | None = None,
) -> Comparison:
    """Runs ``scenario`` under every model of ``models`` (profile names, or ``own``: the kernels its pools say).

    ``jobs`` worker processes share the nodes; the result does not depend on their number.
    ``on_node`` is called after each node, in order. ``kept`` holds results of an earlier,
    interrupted run and takes up new ones. Raises ``ValueError`` for an unknown or repeated model or
    a bad ``jobs``.
    """
    profiles = kernels_of(scenario, models)
    placement = place(scenario)
    results: list[NodeResult] = []
    with workers(jobs) as each:
        for result in _results(scenario, tuple(models), placement, kept, each):
            results.append(result)
            if on_node is not None:
                on_node(result)
    return _comparison(scenario, profiles, placement, results)


def run_nodes(
    scenario: Scenario,
    models: Sequence[str],
    nodes: Sequence[NodePlan],
    *,
    jobs: int = 1,
    on_node: Progress | None = None,
) -> list[NodeResult]:
    """Runs some nodes of a placement, in their order: one shard of a comparison."""
    results = []
    with workers(jobs) as each:
        for result in each(partial(_run, scenario, tuple(models)), nodes):
            results.append(result)
            if on_node is not None:
                on_node(result)
    return results


def merged(
    scenario: Scenario, models: Sequence[str], placement: Placement, results: Iterable[NodeResult]
) -> Comparison:
    """The comparison that ``compare`` would have given, of the results of all nodes in their order."""
    return _comparison(scenario, kernels_of(scenario, models), placement, list(results))


def _results(
    scenario: Scenario,
    models: tuple[str, ...],
    placement: Placement,
    kept: ResultFolder | None,
    each: Mapper,
) -> Iterator[NodeResult]:
    """The results in the nodes' order; those that were kept are not run again."""
    found = {plan.index: kept.load(plan.node.name) if kept else None for plan in placement.nodes}
    missing = [plan for plan in placement.nodes if found[plan.index] is None]
    fresh = iter(each(partial(_run, scenario, models), missing))
    for plan in placement.nodes:
        result = found[plan.index]
        if result is None:
            result = next(fresh)
            if kept is not None:
                kept.save(result)
        yield result


def _run(scenario: Scenario, models: tuple[str, ...], plan: NodePlan) -> NodeResult:
    return run_node(scenario, plan, profiles_on(models, plan.node.kernel))


def _comparison(
    scenario: Scenario,
    profiles: Mapping[str, Mapping[str, KernelProfile]],
    placement: Placement,
    results: Sequence[NodeResult],
) -> Comparison:
    divergences = sorted((d for r in results for d in r.divergences), key=lambda d: d.position)
    return Comparison(
        version=__version__,
        scenario=scenario.name,
        title=scenario.title,
        seed=scenario.seed,
        steps=scenario.steps,
        step_ns=scenario.step_ns,
        models=tuple(profiles),
        kernels={model: known_by(found) for model, found in profiles.items()},
        totals=tuple(
            _totals(model, model_kind(found), placement, [r.models[model] for r in results])
            for model, found in profiles.items()
        ),
        first_divergence=divergences[0] if divergences else None,
        causes=_by_cause(divergences),
        unplaced=placement.unplaced,
        nodes=tuple(results),
    )


def _totals(
    model: str, kind: str, placement: Placement, nodes: Sequence[ModelOnNode]
) -> ModelTotals:
    refused: Counter[str] = Counter()
    for node in nodes:
        refused.update(node.refused)
    replicas = [replica for node in nodes for replica in node.replicas]
    later = [Counter(replica.later_starts) for replica in replicas]
    refused_updates = sum(replica.refused_updates for replica in replicas)
    steps = zip(*(node.samples for node in nodes), strict=True)
    return ModelTotals(
        model=model,
        kind=kind,
        nodes=len(nodes),
        placed=placement.replicas,
        running=sum(node.phase_count(Phase.RUNNING) for node in nodes),
        crash_looping=sum(node.phase_count(Phase.BACK_OFF) for node in nodes),
        failed=sum(node.phase_count(Phase.FAILED) for node in nodes),
        in_trouble=sum(fate_of(replica) is not Fate.RUNS for replica in replicas),
        oom_killed=sum(bool(replica.oom_kills) for replica in replicas),
        first_starts_failed=sum(replica.first_start not in ("", SUCCESS) for replica in replicas),
        restarts=sum(starts.total() for starts in later),
        restarts_failed=sum(starts.total() - starts[SUCCESS] for starts in later),
        maps_created=sum(replica.maps_created for replica in replicas),
        programs_loaded=sum(replica.programs_loaded for replica in replicas),
        operations=sum(replica.operations for replica in replicas),
        refused=dict(sorted(refused.items())),
        eperm=sum(node.count("EPERM") for node in nodes),
        enomem=sum(node.count("ENOMEM") for node in nodes) - refused_updates,
        e2big=sum(node.count("E2BIG") for node in nodes),
        refused_updates=refused_updates,
        oom_kills=sum(node.oom_kill_count for node in nodes),
        estimate_bytes=sum(node.estimate_bytes for node in nodes),
        charged_bytes=sum(node.charged_bytes for node in nodes),
        taken_bytes=sum(node.taken_bytes for node in nodes),
        peak_charged_bytes=max(
            (sum(sample.charged_bytes for sample in step) for step in steps), default=0
        ),
    )


def _by_cause(divergences: Sequence[Divergence]) -> tuple[Cause, ...]:
    """Most frequent first; equally frequent ones in the order they appeared."""
    groups: dict[str, list[Divergence]] = {}
    for divergence in divergences:
        groups.setdefault(divergence.cause, []).append(divergence)
    causes = [
        Cause(
            cause=cause,
            count=len(found),
            nodes=len({d.node for d in found}),
            workloads=tuple(sorted({d.workload for d in found})),
            first=found[0],
        )
        for cause, found in groups.items()
    ]
    return tuple(sorted(causes, key=lambda c: (-c.count, c.first.position)))
