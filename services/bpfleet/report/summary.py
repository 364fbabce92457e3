"""A comparison as text: the table, the first divergence, and the same for Markdown and
spreadsheets.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from bpfleet.kernel.profile import sureness_line
from bpfleet.report.compare import Comparison, ModelTotals
from bpfleet.report.findings import findings, verdict
from bpfleet.report.limit_rows import LimitRow
from bpfleet.report.results import Counters, Divergence, ModelAnswer
from bpfleet.workload.quantity import counted, format_bytes

__all__ = [
    "ROWS",
    "Cells",
    "Row",
    "counters_text",
    "divergence_lines",
    "headings",
    "rows_data",
    "table_cells",
    "table_lines",
    "to_csv",
    "to_markdown",
]


# JSON values of any type.
Plain = Any


class Row(NamedTuple):
    """One line of the table: its label, its number per model in ``unit`` (empty: a count), the heading it
    stands under, and what is counted, when and of what.
    """

    section: str
    label: str
    value: Callable[[ModelTotals], int]
    note: str
    unit: str = ""

    @property
    def is_bytes(self) -> bool:
        """Whether the number is one of bytes."""
        return self.unit == _BYTES

    def shown(self, totals: ModelTotals) -> str:
        """The cell as text."""
        value = self.value(totals)
        return format_bytes(value) if self.is_bytes else f"{value:,}"


_BYTES: Final = "bytes"
_REPLICAS: Final = "replicas"
_STARTS: Final = "starts"
_CALLS: Final = "calls"
_MEMORY: Final = "BPF memory"

ROWS: Final = (
    Row(_REPLICAS, "placed", lambda t: t.placed, "the same nodes for all models"),
    Row(_REPLICAS, "in trouble", lambda t: t.in_trouble, "killed, failed or updates refused"),
    Row(_REPLICAS, "running", lambda t: t.running, "at the end, killed before or not"),
    Row(_REPLICAS, "crash-looping", lambda t: t.crash_looping, "at the end, waiting to restart"),
    Row(_REPLICAS, "OOM-killed", lambda t: t.oom_killed, "once or more"),
    Row(_STARTS, "first ones failed", lambda t: t.first_starts_failed, "of the replicas placed"),
    Row(_STARTS, "restarts", lambda t: t.restarts, "after a failure, kill or rollout"),
    Row(_STARTS, "restarts failed", lambda t: t.restarts_failed, "of these"),
    Row(_STARTS, "maps created", lambda t: t.maps_created, "by all starts together"),
    Row(_STARTS, "programs loaded", lambda t: t.programs_loaded, "by all starts together"),
    Row(_CALLS, "operations", lambda t: t.operations, "on maps, while running"),
    Row(_CALLS, "updates refused", lambda t: t.refused_updates, "with ENOMEM, while running"),
    Row(_CALLS, "EPERM", lambda t: t.eperm, "all refused calls"),
    Row(_CALLS, "ENOMEM", lambda t: t.enomem, "refused calls but for updates"),
    Row(_CALLS, "E2BIG", lambda t: t.e2big, "all refused calls"),
    Row(_CALLS, "OOM kills", lambda t: t.oom_kills, "a replica may have several"),
    Row(_MEMORY, "estimate", lambda t: t.estimate_bytes, "what 5.10 would precharge", _BYTES),
    Row(_MEMORY, "charged", lambda t: t.charged_bytes, "to users or cgroups", _BYTES),
    Row(_MEMORY, "really used", lambda t: t.taken_bytes, "whoever is charged", _BYTES),
)


def headings(comparison: Comparison) -> dict[str, str]:
    """What each section of the table counts, by its name."""
    seconds = f"{comparison.steps * comparison.step_ns / 1e9:g} s"
    return {
        _REPLICAS: f"on {counted(len(comparison.nodes), 'node')}, {seconds}",
        _STARTS: f"starts, all {seconds}",
        _CALLS: f"calls, all {seconds}",
        _MEMORY: "BPF memory at the end",
    }


def rows_data(comparison: Comparison) -> list[dict[str, Plain]]:
    """The table for programs and for the page: every row with its note and its number per model."""
    heads = headings(comparison)
    return [
        {
            "section": heads[row.section],
            "label": row.label,
            "note": row.note,
            "unit": row.unit,
            "values": [row.value(totals) for totals in comparison.totals],
        }
        for row in ROWS
    ]


def divergence_lines(divergence: Divergence) -> list[str]:
    """A divergence in words: where, what, and every model's answer with its counter and limit."""
    step = "start" if divergence.step == 0 else f"step {divergence.step}"
    lines = [
        f"{divergence.node}, {divergence.replica} ({divergence.application}), {step}: "
        f"{divergence.call} {divergence.object}".rstrip()
    ]
    lines += [f"  {model}: {_answer(verdict)}" for model, verdict in divergence.verdicts.items()]
    lines.append(f"  cause: {divergence.cause}")
    return lines


def _answer(verdict: ModelAnswer) -> str:
    text = verdict.errno
    if verdict.reason:
        text += f" ({verdict.reason})"
    requested = verdict.numbers.get("requested_bytes")
    if isinstance(requested, int):
        text += f", asking for {format_bytes(requested)}"
    if verdict.counters is not None:
        text += f"; {counters_text(verdict.counters)}"
    return text


def counters_text(counters: Counters) -> str:
    """The counters the model moves, with their limits."""
    usage = f"{counters.cgroup} uses {format_bytes(counters.usage_bytes)}"
    if counters.limit_bytes is not None:
        usage += f" of {format_bytes(counters.limit_bytes)}"
    if counters.model != _RLIMIT:
        return usage
    locked = f"uid {counters.uid} locks {format_bytes(counters.locked_bytes)}"
    if counters.memlock_bytes is not None:
        locked += f" of {format_bytes(counters.memlock_bytes)}"
    return f"{locked}, {usage}"


_RLIMIT: Final = "rlimit"


Cells = Sequence[tuple[Row, Sequence[str]]]


def table_cells(comparison: Comparison) -> Cells:
    """The table as text: a cell per model for every row."""
    return [(row, [row.shown(totals) for totals in comparison.totals]) for row in ROWS]


def table_lines(comparison: Comparison, cells: Cells) -> list[tuple[str, ...]]:
    """The table to print: headings of sections, below them the rows, each with its note at the end."""
    heads, blanks = headings(comparison), [""] * (len(comparison.models) + 1)
    lines: list[tuple[str, ...]] = []
    section = ""
    for row, shown in cells:
        if row.section != section:
            section = row.section
            lines.append((heads[section], *blanks))
        lines.append((f"  {row.label}", *shown, row.note))
    return lines


def to_markdown(
    comparison: Comparison, cells: Cells | None = None, limits: Sequence[LimitRow] = ()
) -> str:
    """For a pull request: what matters, the table, the causes, limits, and how to repeat the run.

    ``cells`` stand in for those of ``comparison`` where several seeds were run.
    """
    models = comparison.models
    lines = [f"### {comparison.title or comparison.scenario}", "", verdict(comparison), ""]
    lines += [f"- {sentence}" for sentence in findings(comparison)]
    lines += ["", "| | " + " | ".join(models) + " | |", "|---|" + "---:|" * len(models) + "---|"]
    section = ""
    for row, shown in cells or table_cells(comparison):
        if row.section != section:
            section = row.section
            lines.append(f"| **{headings(comparison)[section]}** |" + " |" * (len(models) + 1))
        lines.append(f"| {row.label} | " + " | ".join(shown) + f" | {row.note} |")
    if comparison.causes:
        lines += ["", "| divergences | nodes | workloads | cause |", "|---:|---:|---|---|"]
        lines += [
            f"| {c.count} | {c.nodes} | {', '.join(c.workloads)} | {c.cause} |"
            for c in comparison.causes
        ]
    if comparison.first_divergence is not None:
        lines += ["", "First divergence:", "", "```"]
        lines += divergence_lines(comparison.first_divergence)
        lines += ["```"]
    if limits:
        lines += ["", f"Limits under {limits[0].kernel}:", ""]
        lines += [
            "| workload | nodes | now | least | recommended | decided by |",
            "|---|---|---:|---:|---:|---|",
        ]
        lines += [
            f"| {row.name} | {row.host} | {_limit(row.now_bytes, 'max')} | {_limit(row.least_bytes, 'none')} "
            f"| {format_bytes(row.recommended_bytes)} | {row.decided_by} |"
            for row in limits
        ]
    seed = f"Scenario `{comparison.scenario}`, seed {comparison.seed}"
    if cells is not None:
        seed += ", the table over all seeds (mean ± half of the 95 % confidence interval)"
    lines += ["", f"{seed}, {_version(comparison)}. Kernels: {sureness_line(comparison.kernels)}."]
    return "\n".join(lines) + "\n"


def _limit(value: int | None, absent: str) -> str:
    return absent if value is None else format_bytes(value)


def to_csv(results: Sequence[Comparison]) -> str:
    """One line per seed, model and replica, bytes as whole numbers."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for comparison in results:
        writer.writerows(_csv_rows(comparison))
    return out.getvalue()


def _csv_rows(comparison: Comparison) -> Iterator[Sequence[object]]:
    for node in comparison.nodes:
        for model, result in node.models.items():
            for replica in result.replicas:
                yield (
                    comparison.seed,
                    model,
                    node.node,
                    node.group,
                    node.possible_cpus,
                    node.ram_bytes,
                    replica.workload,
                    replica.name,
                    replica.application,
                    replica.phase.value,
                    replica.starts,
                    replica.oom_kills,
                    replica.first_errno,
                    replica.maps_created,
                    replica.programs_loaded,
                    replica.operations,
                    replica.estimate_bytes,
                    replica.charged_bytes,
                    replica.usage_bytes,
                    replica.peak_bytes,
                    "" if replica.limit_bytes is None else replica.limit_bytes,
                    replica.failure,
                )


_CSV_COLUMNS: Final = (
    "seed",
    "model",
    "node",
    "group",
    "possible_cpus",
    "ram_bytes",
    "workload",
    "replica",
    "application",
    "phase",
    "starts",
    "oom_kills",
    "first_errno",
    "maps_created",
    "programs_loaded",
    "operations",
    "estimate_bytes",
    "charged_bytes",
    "usage_bytes",
    "peak_bytes",
    "limit_bytes",
    "failure",
)


def _version(comparison: Comparison) -> str:
    return f"bpfleet {comparison.version}"
