"""The upgrade question: what changes for every workload when its hosts go from one kernel to
another.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from msgspec.structs import replace

from bpfleet.report.compare import Comparison
from bpfleet.report.fate import Fate, fate_of
from bpfleet.report.limits import LimitAdvice
from bpfleet.report.models import OWN
from bpfleet.report.results import SUCCESS, ReplicaResult
from bpfleet.workload.codec import to_data
from bpfleet.workload.quantity import counted, format_bytes
from bpfleet.workload.scenario import EventAction, Scenario, ScenarioEvent

__all__ = [
    "ROLLOUT_NOTE",
    "UpgradeChange",
    "UpgradeLine",
    "arrow",
    "upgrade_data",
    "upgrade_lines",
    "upgrade_markdown",
    "upgrade_verdict",
    "with_rollouts",
]


# JSON values of any type.
Plain = Any


class UpgradeChange(StrEnum):
    """What the upgrade means for one workload, the worst first."""

    NEW_OOM = "newly OOM-killed"
    NEW_ENOMEM = "newly fails with ENOMEM"
    NEW_REFUSALS = "newly has updates refused with ENOMEM"
    NEW_OTHER = "newly fails"
    NEW_RESTARTS = "restarts newly fail"
    STILL_FAILS = "fails before and after"
    FIXED = "stops failing"
    FIXED_RESTARTS = "restarts stop failing"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeLine:
    """One workload on one node group before and after. ``raise_to_bytes`` is set where the new
    kernel needs more memory.

    ``first_starts`` and ``restarts`` count how starts ended, as ``before → after``.
    """

    workload: str
    application: str
    group: str
    replicas: int
    before: Fate
    after: Fate
    change: UpgradeChange
    first_start: tuple[str, str]
    restart: tuple[str, str]
    limit_bytes: int | None
    raise_to_bytes: int | None


def with_rollouts(scenario: Scenario) -> Scenario:
    """``scenario`` with one rolling restart of every workload at two thirds, to tell restarts from
    first starts.
    """
    step = max(1, scenario.steps * 2 // 3)
    events = tuple(
        ScenarioEvent(step=step, workload=w.name, action=EventAction.RESTART)
        for w in scenario.workloads
    )
    return replace(scenario, events=events)


ROLLOUT_NOTE: Final = (
    "Every workload is restarted once by a rollout after two thirds of the time; a comparison without --from and --to "
    "restarts only what its scenario says, so its numbers are others."
)


def upgrade_verdict(comparison: Comparison, before: str, after: str) -> str:
    """The answer in one sentence: how many replicas are in trouble before and after, and what is new.

    ``Of 137 replicas 40 are in trouble under 5.10, 37 would be under 6.12: 28 newly OOM-killed, ….``
    """
    pairs = [
        (fate_of(old), fate_of(new))
        for node in comparison.nodes
        for old, new in zip(node.models[before].replicas, node.models[after].replicas, strict=True)
    ]
    changes = Counter(_change(old, new) for old, new in pairs)
    told = [f"{changes[c]:,} {words}" for c, words in _PLURAL.items() if changes[c]]
    now = sum(old is not Fate.RUNS for old, _ in pairs)
    then = sum(new is not Fate.RUNS for _, new in pairs)
    today = "their nodes' own kernels" if before == OWN else before
    return (
        f"Of {counted(len(pairs), 'replica')} {now:,} are in trouble under {today}, {then:,} would be under {after}: "
        f"{', '.join(told) or 'nothing changes'}."
    )


_PLURAL: Final[Mapping[UpgradeChange, str]] = {
    UpgradeChange.NEW_OOM: "newly OOM-killed",
    UpgradeChange.NEW_ENOMEM: "newly fail with ENOMEM",
    UpgradeChange.NEW_REFUSALS: "newly have updates refused",
    UpgradeChange.NEW_OTHER: "newly fail",
    UpgradeChange.FIXED: "stop failing",
}


def upgrade_lines(
    comparison: Comparison, before: str, after: str, advice: Sequence[LimitAdvice]
) -> list[UpgradeLine]:
    """One line per workload and node group, the worst changes first."""
    advised = {(a.workload, a.group): a for a in advice}
    grouped: dict[tuple[str, str], list[tuple[ReplicaResult, ReplicaResult]]] = {}
    for node in comparison.nodes:
        pairs = zip(node.models[before].replicas, node.models[after].replicas, strict=True)
        for old, new in pairs:
            grouped.setdefault((old.workload, node.group), []).append((old, new))
    lines = [_line(key, pairs, advised) for key, pairs in grouped.items()]
    order = list(UpgradeChange)
    return sorted(lines, key=lambda line: (order.index(line.change), line.workload, line.group))


def _line(
    key: tuple[str, str],
    pairs: Sequence[tuple[ReplicaResult, ReplicaResult]],
    advised: Mapping[tuple[str, str], LimitAdvice],
) -> UpgradeLine:
    old = [pair[0] for pair in pairs]
    new = [pair[1] for pair in pairs]
    before, after = _worst(old), _worst(new)
    change = _change(before, after)
    if change is UpgradeChange.UNCHANGED:
        change = _restarts_change(_failed_restarts(old), _failed_restarts(new))
    limit = new[0].limit_bytes
    return UpgradeLine(
        workload=key[0],
        application=new[0].application,
        group=key[1],
        replicas=len(pairs),
        before=before,
        after=after,
        change=change,
        first_start=(_starts(r.first_start for r in old), _starts(r.first_start for r in new)),
        restart=(_restarts(old), _restarts(new)),
        limit_bytes=limit,
        raise_to_bytes=_raise_to(after, limit, advised.get(key)),
    )


def _raise_to(after: Fate, limit_bytes: int | None, advice: LimitAdvice | None) -> int | None:
    starved = after in (Fate.OOM, Fate.ENOMEM, Fate.REFUSED)
    if not starved or limit_bytes is None or advice is None:
        return None
    return max(advice.recommended_bytes, advice.least_bytes or 0)


_WORST_FIRST: Final = (
    Fate.OOM,
    Fate.ENOMEM,
    Fate.EPERM,
    Fate.E2BIG,
    Fate.OTHER,
    Fate.REFUSED,
    Fate.RUNS,
)


def _worst(replicas: Sequence[ReplicaResult]) -> Fate:
    return min((fate_of(replica) for replica in replicas), key=_WORST_FIRST.index)


def _change(before: Fate, after: Fate) -> UpgradeChange:
    if before is after:
        return UpgradeChange.UNCHANGED if after is Fate.RUNS else UpgradeChange.STILL_FAILS
    if after is Fate.RUNS:
        return UpgradeChange.FIXED
    return {
        Fate.OOM: UpgradeChange.NEW_OOM,
        Fate.ENOMEM: UpgradeChange.NEW_ENOMEM,
        Fate.REFUSED: UpgradeChange.NEW_REFUSALS,
    }.get(after, UpgradeChange.NEW_OTHER)


def _restarts_change(before: int, after: int) -> UpgradeChange:
    """Of a workload that runs before and after: whether its restarts came through at once."""
    if bool(before) is bool(after):
        return UpgradeChange.UNCHANGED
    return UpgradeChange.NEW_RESTARTS if after else UpgradeChange.FIXED_RESTARTS


def _failed_restarts(replicas: Sequence[ReplicaResult]) -> int:
    return sum(n for r in replicas for end, n in r.later_starts.items() if end != SUCCESS)


def _starts(ends: Iterable[str]) -> str:
    counts = Counter(end or "never" for end in ends)
    return ", ".join(
        end if n == counts.total() else f"{n} {end}" for end, n in counts.most_common()
    )


def _restarts(replicas: Sequence[ReplicaResult]) -> str:
    counts: Counter[str] = Counter()
    for replica in replicas:
        counts.update(replica.later_starts)
    if not counts:
        return "none"
    return ", ".join(f"{n} {end}" for end, n in counts.most_common())


def upgrade_data(comparison: Comparison, lines: Sequence[UpgradeLine]) -> dict[str, Plain]:
    """The answer for the page and for programs. ``comparison`` is of the kernel before and the one after."""
    kernels = comparison.kernels
    before, after = kernels
    return {
        "verdict": upgrade_verdict(comparison, before, after),
        "note": ROLLOUT_NOTE,
        "from": before,
        "to": after,
        "kernels": dict(kernels),
        "workloads": to_data(list(lines)),
    }


def upgrade_markdown(comparison: Comparison, lines: Sequence[UpgradeLine]) -> str:
    """The answer for a pull request."""
    before, after = comparison.models
    rows = [
        f"### From {before} to {after}",
        "",
        upgrade_verdict(comparison, before, after),
        ROLLOUT_NOTE,
        "",
        "| workload | nodes | replicas | change | first start | restart | memory.max | raise to |",
        "|---|---|---:|---|---|---|---:|---:|",
    ]
    rows += [
        f"| {x.workload} | {x.group} | {x.replicas} | {x.change.value} | {arrow(x.first_start)} | {arrow(x.restart)} "
        f"| {'max' if x.limit_bytes is None else format_bytes(x.limit_bytes)} "
        f"| {'' if x.raise_to_bytes is None else format_bytes(x.raise_to_bytes)} |"
        for x in lines
    ]
    return "\n".join(rows) + "\n"


def arrow(pair: tuple[str, str]) -> str:
    """``before → after``, or the one word where nothing changed."""
    return pair[0] if pair[0] == pair[1] else f"{pair[0]} → {pair[1]}"
