"""What a comparison shows, in a few sentences that start with what matters most."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from bpfleet.report.causes import and_list
from bpfleet.report.compare import Comparison, ModelTotals
from bpfleet.report.fate import Fate, fate_of
from bpfleet.report.results import ReplicaResult
from bpfleet.workload.quantity import counted, format_bytes

__all__ = ["fates", "findings", "verdict"]

_WORDS: Final[Mapping[Fate, str]] = {
    Fate.EPERM: "cannot start because of EPERM",
    Fate.ENOMEM: "cannot start because of ENOMEM",
    Fate.E2BIG: "cannot start because of E2BIG",
    Fate.OOM: "are OOM-killed",
    Fate.REFUSED: "run on with updates refused",
    Fate.OTHER: "fail for another reason",
}


_SHORT: Final[Mapping[Fate, str]] = {
    Fate.OOM: "OOM-killed",
    Fate.EPERM: "EPERM",
    Fate.ENOMEM: "ENOMEM",
    Fate.E2BIG: "E2BIG",
    Fate.OTHER: "other failures",
    Fate.REFUSED: "updates refused",
}


def verdict(comparison: Comparison) -> str:
    """The answer in one sentence: how many replicas are in trouble under which model, and how that compares.

    ``Of 137 replicas on 24 nodes in trouble: 40 under 5.10 (38 EPERM, 2 E2BIG); none under 6.12.``
    """
    placed = comparison.totals[0].placed
    groups: dict[tuple[tuple[Fate, int], ...], list[str]] = {}
    for model, replicas in _by_model(comparison).items():
        counts = Counter(map(fate_of, replicas))
        key = tuple((fate, counts[fate]) for fate in _SHORT if counts[fate])
        groups.setdefault(key, []).append(model)
    parts = []
    for key, models in groups.items():
        number = sum(n for _, n in key)
        why = ", ".join(f"{n:,} {_SHORT[fate]}" for fate, n in key)
        shown = f"{number:,} under {and_list(models)}"
        parts.append(f"{shown} ({why})" if key else f"none under {and_list(models)}")
    nodes = counted(len(comparison.nodes), "node")
    return f"Of {counted(placed, 'replica')} on {nodes} in trouble: {'; '.join(parts)}."


def findings(comparison: Comparison) -> list[str]:
    """One sentence per kind of trouble over all models, and one on what is charged."""
    by_model = _by_model(comparison)
    sentences = [_trouble(by_model, fate, words) for fate, words in _WORDS.items()]
    return [*(s for s in sentences if s), *_charged(comparison.totals)]


def fates(comparison: Comparison) -> dict[str, dict[str, int]]:
    """Per model, how many replicas met which fate, the good one first."""
    order = [Fate.RUNS, Fate.REFUSED, Fate.EPERM, Fate.ENOMEM, Fate.E2BIG, Fate.OTHER, Fate.OOM]
    counted = {m: Counter(map(fate_of, found)) for m, found in _by_model(comparison).items()}
    return {
        model: {fate.value: counts[fate] for fate in order if counts[fate]}
        for model, counts in counted.items()
    }


def _trouble(by_model: Mapping[str, list[ReplicaResult]], fate: Fate, words: str) -> str:
    """``38 replicas cannot start because of EPERM under 5.10 (web 20, db 18), none under 6.12.``"""
    groups: dict[tuple[tuple[str, int], ...], list[str]] = {}
    for model, replicas in by_model.items():
        struck = Counter(r.workload for r in replicas if fate_of(r) is fate)
        key = tuple(sorted(struck.items(), key=lambda item: (-item[1], item[0])))
        groups.setdefault(key, []).append(model)
    none = groups.pop((), [])
    if not groups:
        return ""
    parts = [
        f"{sum(n for _, n in key)} under {and_list(models)} "
        f"({', '.join(f'{name} {n}' for name, n in key)})"
        for key, models in groups.items()
    ]
    if none:
        parts.append("none under any other" if len(none) > 2 else f"none under {and_list(none)}")
    return f"Replicas that {words}: {'; '.join(parts)}."


def _charged(totals: tuple[ModelTotals, ...]) -> Iterator[str]:
    shares: dict[int, list[str]] = {}
    for t in totals:
        if t.kind != "rlimit" and t.estimate_bytes:
            share = round(100 * t.charged_bytes / t.estimate_bytes)
            shares.setdefault(share, []).append(f"{t.model} ({format_bytes(t.charged_bytes)})")
    if shares:
        parts = [f"{share} % under {and_list(models)}" for share, models in shares.items()]
        yield (
            "Charged for the maps and programs that exist at the end, as a share of what the rlimit era "
            f"would precharge for them: {'; '.join(parts)}."
        )


def _by_model(comparison: Comparison) -> dict[str, list[ReplicaResult]]:
    return {
        model: [replica for node in comparison.nodes for replica in node.models[model].replicas]
        for model in comparison.models
    }
