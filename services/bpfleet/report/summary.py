"""A comparison as text: the table, the first divergence, and the same for Markdown and
spreadsheets.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from bpfleet.kernel.profile import sureness_line
from bpfleet.report.compare import Comparison, ModelTotals
from bpfleet.report.findings import findings
from bpfleet.report.results import Counters, Divergence, ModelAnswer
from bpfleet.workload.quantity import format_bytes

__all__ = [
    "ROWS",
    "Row",
    "counted",
    "counters_text",
    "divergence_lines",
    "table_cells",
    "to_csv",
    "to_markdown",
]


class Row(NamedTuple):
    """One line of the table: its label, its number per model, and whether that is bytes."""

    label: str
    value: Callable[[ModelTotals], int]
    is_bytes: bool = False
    meaning: str = ""

    def shown(self, totals: ModelTotals) -> str:
        """The cell as text."""
        value = self.value(totals)
        return format_bytes(value) if self.is_bytes else f"{value:,}"


ROWS: Final = (
    Row("nodes", lambda t: t.nodes),
    Row("replicas placed", lambda t: t.placed),
    Row("running", lambda t: t.running, meaning="at the end"),
    Row("crash-looping", lambda t: t.crash_looping, meaning="at the end"),
    Row("maps created", lambda t: t.maps_created, meaning="all starts together"),
    Row("programs loaded", lambda t: t.programs_loaded),
    Row("operations", lambda t: t.operations),
    Row("EPERM", lambda t: t.eperm, meaning="refused calls"),
    Row("ENOMEM", lambda t: t.enomem, meaning="refused calls"),
    Row("E2BIG", lambda t: t.e2big, meaning="refused calls"),
    Row("OOM kills", lambda t: t.oom_kills),
    Row(
        "estimated",
        lambda t: t.estimate_bytes,
        is_bytes=True,
        meaning="precharge of the rlimit era",
    ),
    Row(
        "charged",
        lambda t: t.charged_bytes,
        is_bytes=True,
        meaning="to users or cgroups",
    ),
    Row(
        "really used",
        lambda t: t.taken_bytes,
        is_bytes=True,
        meaning="whoever is charged",
    ),
)


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


def counted(number: int, word: str) -> str:
    """``1 replica``, ``2 replicas``."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


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


Cells = Sequence[tuple[str, Sequence[str]]]


def table_cells(comparison: Comparison) -> Cells:
    """The table as text: label and a cell per model."""
    return [(row.label, [row.shown(totals) for totals in comparison.totals]) for row in ROWS]


def to_markdown(comparison: Comparison, cells: Cells | None = None) -> str:
    """For a pull request: what matters, the table, the causes, and how to repeat the run.

    ``cells`` stand in for those of ``comparison`` where several seeds were run.
    """
    models = comparison.models
    lines = [f"### {comparison.title or comparison.scenario}", ""]
    lines += [f"- {sentence}" for sentence in findings(comparison)]
    lines += ["", "| | " + " | ".join(models) + " |", "|---|" + "---:|" * len(models)]
    lines += [
        f"| {label} | " + " | ".join(shown) + " |"
        for label, shown in cells or table_cells(comparison)
    ]
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
    seed = f"Scenario `{comparison.scenario}`, seed {comparison.seed}"
    if cells is not None:
        seed += ", the table over all seeds (mean ± half of the 95 % confidence interval)"
    lines += ["", f"{seed}, {_version(comparison)}. Kernels: {sureness_line(comparison.kernels)}."]
    return "\n".join(lines) + "\n"


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
