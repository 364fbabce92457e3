"""The answer as one self-contained page: no script, no outside resource, light and dark."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from bpfleet.kernel.profile import sureness_line
from bpfleet.report.answer import (
    CALIBRATION_HEADS,
    ROW_HEADS,
    Answer,
    AnswerRow,
    calibration_cells,
    row_cells,
)

__all__ = ["answer_page"]

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1d2430; --paper: #fff; --line: #d5dae2; --soft: #5c6675; --bad: #b3261e;
  --warn: #8a5a00; --good: #1b6e3c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --paper: #14181f; --line: #333b47; --soft: #9aa4b2;
  --bad: #ff8a80; --warn: #f0c060; --good: #7fd6a0; } }
body { font: 14px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 100rem; padding: 0 1.5rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .5rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td { white-space: nowrap; } td:last-child { white-space: normal; min-width: 9rem; }
th.n, td.n { text-align: right; }
.calibrated td:nth-child(3), .off td:nth-child(3) { white-space: normal; min-width: 18rem; }
.calibrated td:nth-child(3) { color: var(--good); } .off td:nth-child(3) { color: var(--warn); }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
.bad td:nth-child(3) { color: var(--bad); font-weight: 600; } .warn td:nth-child(3) { color: var(--warn); }
.good td:nth-child(3) { color: var(--good); }
p, li { color: var(--soft); } code { font-size: .9em; }
"""
_ROW_NUMBERS: Final = frozenset({"limit", "room today", "room after"})
_CALIBRATION_NUMBERS: Final = frozenset(
    {"memlock", "kernel memory", "BPF", "told by name", "counted", "unexplained", "peak"}
)
_CLASSES: Final = {
    "fails anew": "bad",
    "fails as before": "bad",
    "may fail": "warn",
    "throttled": "warn",
}


def answer_page(answer: Answer, command: str) -> str:
    """The page. ``command`` is how to come to it again."""
    title = answer.title
    rows = ((_class(row), row_cells(row)) for row in answer.rows)
    worst_first = sorted(answer.calibrations, key=lambda each: each[1].reproduced)
    lines = (
        ("calibrated" if line.reproduced else "off", calibration_cells(host, line))
        for host, line in worst_first
    )
    reproduced = sum(line.reproduced for _, line in answer.calibrations)
    assumed = "".join(
        f"<li>{escape(kind)}: {escape(text)}</li>" for kind, text in answer.assumptions
    )
    reasons = "".join(
        f"<li>{escape(row.container)} under {escape(row.target)}: <code>{escape(row.why)}</code></li>"
        for row in answer.rows
        if row.why
    )
    return "\n".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            f"<p>{escape(answer.verdict)}</p>",
            f"<p>Different hosts that were emulated:"
            f" {answer.groups} of {answer.hosts}. Containers reproduced: {reproduced} of"
            f" {len(answer.calibrations)}.</p>",
            "<h2>What changes</h2>",
            _table(ROW_HEADS, rows, _ROW_NUMBERS),
            f"<h2>Why</h2><ul>{reasons}</ul>" if reasons else "",
            "<h2>Calibration: today's emulation beside what the captures saw</h2>",
            _table(CALIBRATION_HEADS, lines, _CALIBRATION_NUMBERS),
            f"<h2>Assumed</h2><ul>{assumed}</ul>" if assumed else "",
            f"<p>Kernels: {escape(sureness_line(answer.sureness))}.</p>",
            f"<p>bpfleet {escape(answer.version)}: <code>{escape(command)}</code></p></body></html>\n",
        )
    )


def _class(row: AnswerRow) -> str:
    good = "good" if row.reproduced == row.containers else "warn"
    return _CLASSES.get(row.change, good)


def _table(
    heads: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], numbers: frozenset[str]
) -> str:
    """A table; columns called as in ``numbers`` stand to the right."""
    marks = [' class="n"' if each in numbers else "" for each in heads]
    head = "".join(
        f"<th{mark}>{escape(each)}</th>" for mark, each in zip(marks, heads, strict=True)
    )
    body = "".join(
        f'<tr class="{name}">'
        + "".join(f"<td{mark}>{escape(cell)}</td>" for mark, cell in zip(marks, cells, strict=True))
        + "</tr>"
        for name, cells in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
