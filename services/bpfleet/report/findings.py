"""What a comparison shows, in a few sentences that start with what matters most."""

from collections import Counter
from collections.abc import Iterator

from bpfleet.report.compare import Comparison, ModelTotals
from bpfleet.report.results import ReplicaResult
from bpfleet.workload.quantity import format_bytes
from bpfleet.workload.spec import Phase

__all__ = ["findings"]


def findings(comparison: Comparison) -> list[str]:
    """Sentences for the head of a report: refusals, kills, bytes, and what no model changes."""
    return [
        *_refusals(comparison, "EPERM", "crash-loop on EPERM"),
        *_refusals(comparison, "ENOMEM", "crash-loop on ENOMEM"),
        *_refusals(comparison, "E2BIG", "crash-loop on E2BIG"),
        *_kills(comparison),
        *_bytes(comparison.totals),
    ]


def _refusals(comparison: Comparison, errno: str, words: str) -> Iterator[str]:
    """Who fails under which models with ``errno``, models of equal counts named together."""
    counts: dict[str, Counter[str]] = {}
    for model, replicas in _by_model(comparison).items():
        failing = [r for r in replicas if r.phase is Phase.CRASH_LOOP and r.first_errno == errno]
        counts[model] = Counter(r.workload for r in failing)
    if not any(counts.values()):
        return
    for models, workloads in _grouped(counts):
        if workloads:
            yield f"Under {models} {_listed(workloads)} {words}."
        else:
            yield f"Under {models} nothing fails with {errno}."


def _kills(comparison: Comparison) -> Iterator[str]:
    counts: dict[str, Counter[str]] = {}
    for model, replicas in _by_model(comparison).items():
        total: Counter[str] = Counter()
        for replica in replicas:
            total[replica.workload] += replica.oom_kills
        counts[model] = +total
    for models, workloads in _grouped(counts):
        if workloads:
            kills = ", ".join(f"{name} ({n})" for name, n in workloads.most_common())
            yield f"Under {models} the OOM killer strikes {sum(workloads.values())} times: {kills}."


def _bytes(totals: tuple[ModelTotals, ...]) -> Iterator[str]:
    for total in totals:
        if total.kind == "memcg" and total.estimate_bytes:
            share = 100 * total.charged_bytes / total.estimate_bytes
            yield (
                f"Under {total.model} the maps that exist at the end are charged "
                f"{format_bytes(total.charged_bytes)}, {share:.0f} % of what the rlimit era would "
                f"precharge for them."
            )


def _by_model(comparison: Comparison) -> dict[str, list[ReplicaResult]]:
    return {
        model: [replica for node in comparison.nodes for replica in node.models[model].replicas]
        for model in comparison.models
    }


def _grouped(counts: dict[str, Counter[str]]) -> list[tuple[str, Counter[str]]]:
    """Models with equal counts together, in order of first appearance."""
    groups: dict[tuple[tuple[str, int], ...], list[str]] = {}
    for model, counter in counts.items():
        groups.setdefault(tuple(sorted(counter.items())), []).append(model)
    return [(_joined(models), Counter(dict(key))) for key, models in groups.items()]


def _listed(workloads: Counter[str]) -> str:
    names = [f"{n} of {name}" for name, n in workloads.most_common()]
    return _joined(names)


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
