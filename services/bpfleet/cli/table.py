"""The layout of tables: nothing is torn, and numbers are never cut."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple

from rich.cells import cell_len, chop_cells, set_cell_size

from bpfleet.workload.quantity import format_bytes

__all__ = [
    "BYTES",
    "COUNT",
    "NUMBER",
    "TEXT",
    "Column",
    "Layout",
    "Unit",
    "lay_out",
    "output_width",
]

_GAP: Final = "  "
# Text keeps this many cells while columns can be left out; then it may become shorter.
_TEXT_CELLS: Final = 24
_TEXT_CELLS_MIN: Final = 12
# A number and its unit stay together.
_BREAK: Final = re.compile(r" (?!(?:[KMGTP]i)?B\b)")

# One row: a message or a record, whatever the view returns. Values are what JSON can hold.
Row = Any
Plain = Any


class Unit(Enum):
    """What the numbers of a column count."""

    TEXT = ""
    NUMBER = "number"  # an id: aligned as numbers, without separators
    COUNT = "count"
    BYTES = "bytes"


TEXT: Final = Unit.TEXT
NUMBER: Final = Unit.NUMBER
COUNT: Final = Unit.COUNT
BYTES: Final = Unit.BYTES


def _shown(unit: Unit, value: Plain) -> str:
    if value is None:
        return ""
    match unit:
        case Unit.BYTES:
            return format_bytes(value)
        case Unit.COUNT:
            return f"{value:,}"
        case _:
            return str(value)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its head, the value of a row, and the unit, by which people read that value.

    ``show`` replaces the unit's own way. Where the terminal is narrower than the table, text that ``shrinks`` is cut
    and text that ``folds`` goes on below, within its column; then columns with a ``priority`` are left out, the
    highest number first. ``wide`` shows a column with ``-o wide`` only.
    """

    head: str
    value: Callable[[Row], Plain]
    unit: Unit = TEXT
    show: Callable[[Plain], str] | None = None
    shrinks: bool = False
    folds: bool = False
    priority: int = 0
    wide: bool = False

    def cell(self, row: Row, *, in_bytes: bool = False) -> str:
        """The value of ``row`` as text; ``in_bytes`` writes sizes in full."""
        value = self.value(row)
        if in_bytes and self.unit is BYTES and value is not None:
            return f"{value:,}"
        return self.show(value) if self.show is not None else _shown(self.unit, value)

    @property
    def number(self) -> bool:
        """Whether it is aligned to the right and never cut."""
        return self.unit is not TEXT

    @property
    def key(self) -> str:
        """The head as a key of CSV: ``bpf_charged_bytes``."""
        words = self.head.lower().replace("-", " ").split()
        if self.unit is BYTES and "bytes" not in words:
            words.append("bytes")
        return "_".join(words)


class Layout(NamedTuple):
    """Lines of a table, with how many of them are its head, and the heads of columns that had no room.

    A table may come in several blocks, each with its first columns.
    """

    blocks: tuple[tuple[int, tuple[str, ...]], ...]
    left_out: tuple[str, ...]


def output_width() -> int | None:
    """Cells of the terminal; None where nothing is torn by a long line, because nobody's screen shows it."""
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        return None
    return shutil.get_terminal_size().columns


def lay_out(
    columns: Sequence[Column],
    cells: Sequence[Sequence[str]],
    *,
    width: int | None,
    headers: bool = True,
    keys: int = 1,
) -> Layout:
    """Places ``cells``, rows by columns, in at most ``width`` cells a line. A row of one cell is a heading.

    Heads fold first; then text shrinks or folds; then columns are left out; then what is left comes in blocks, each
    with the first ``keys`` columns. Only keys and a number that have no room side by side are wider.
    """
    shown = list(range(len(columns)))
    if width is None:
        return Layout((_block(columns, cells, shown, None, headers=headers),), ())
    full = [row for row in cells if len(row) == len(columns)]
    floors = [_least(c, [row[n] for row in full], headers) for n, c in enumerate(columns)]
    least = [
        min(floor, _TEXT_CELLS) if _gives(columns[n]) else floor for n, floor in enumerate(floors)
    ]
    while _sum(least[n] for n in shown) > width:
        droppable = [n for n in shown if columns[n].priority]
        if not droppable:
            break
        shown.remove(max(droppable, key=lambda n: (columns[n].priority, n)))
    left_out = tuple(c.head for n, c in enumerate(columns) if n not in shown)
    if _sum(least[n] for n in shown) > width:
        least = [
            min(floor, _TEXT_CELLS_MIN) if _gives(columns[n]) else floor
            for n, floor in enumerate(floors)
        ]
    groups = _groups(shown, least, width, keys)
    blocks = (
        _block(columns, cells, group, width, headers=headers, least=least) for group in groups
    )
    return Layout(tuple(blocks), left_out)


def _gives(column: Column) -> bool:
    return column.shrinks or column.folds


def _least(column: Column, cells: Sequence[str], headers: bool) -> int:
    """The width a column needs when its head is folded: words of a head stay whole."""
    words = column.head.split() if headers else []
    return max((cell_len(text) for text in (*cells, *words)), default=0)


def _sum(widths: Iterator[int] | Sequence[int]) -> int:
    each = list(widths)
    return sum(each) + len(_GAP) * max(0, len(each) - 1)


def _groups(shown: Sequence[int], least: Sequence[int], width: int, keys: int) -> list[list[int]]:
    """Columns by block: all in one where they fit, else each block begins with the keys."""
    groups = [list(shown[:keys])]
    for number in shown[keys:]:
        if _sum(least[n] for n in (*groups[-1], number)) > width and len(groups[-1]) > keys:
            groups.append(list(shown[:keys]))
        groups[-1].append(number)
    return groups


def _block(
    columns: Sequence[Column],
    cells: Sequence[Sequence[str]],
    group: Sequence[int],
    width: int | None,
    *,
    headers: bool,
    least: Sequence[int] = (),
) -> tuple[int, tuple[str, ...]]:
    heads = [columns[n].head for n in group] if headers else []
    rows = [[row[n] for n in group] for row in cells if len(row) == len(columns)]
    natural = [
        max((cell_len(line[place]) for line in ([heads, *rows] if headers else rows)), default=0)
        for place in range(len(group))
    ]
    widths = natural if width is None else _widths(natural, [least[n] for n in group], width)
    shapes = [columns[n] for n in group]
    head_lines = _lines(heads, widths, shapes, fold=True) if headers else []
    body: list[str] = []
    following = iter(rows)
    for row in cells:
        is_heading = len(row) != len(columns)
        body += list(row) if is_heading else _lines(next(following), widths, shapes, fold=False)
    return len(head_lines), (*head_lines, *body)


def _widths(natural: Sequence[int], least: Sequence[int], width: int) -> list[int]:
    """Widths between ``least`` and ``natural``; the widest gives first."""
    widths = list(natural)
    while _sum(widths) > width:
        giving = [n for n, each in enumerate(widths) if each > least[n]]
        if not giving:
            break
        widths[max(giving, key=lambda n: (widths[n], n))] -= 1
    return widths


def _lines(
    cells: Sequence[str], widths: Sequence[int], columns: Sequence[Column], *, fold: bool
) -> list[str]:
    """One row, over as many lines as its longest folded cell needs; heads stand at the bottom."""
    parts = [
        _folded(cell, width) if fold or column.folds else [_cut(cell, width)]
        for cell, width, column in zip(cells, widths, columns, strict=True)
    ]
    height = max(map(len, parts), default=0)
    lines = []
    for line in range(height):
        texts = []
        for part, width, column in zip(parts, widths, columns, strict=True):
            place = line - (height - len(part)) if fold else line
            text = part[place] if 0 <= place < len(part) else ""
            blanks = " " * (width - cell_len(text))
            texts.append(blanks + text if column.number else text + blanks)
        lines.append(_GAP.join(texts).rstrip())
    return lines


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def _folded(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` cells: broken between words, and within those that are too long."""
    if cell_len(text) <= width:
        return [text]  # as it is: rows below a heading are indented
    lines = [""]
    for word in _BREAK.split(text):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(joined) <= width:
            lines[-1] = joined
            continue
        first, *rest = chop_cells(word, max(1, width))
        lines[-1:] = [*filter(None, lines[-1:]), first, *rest]
    return lines
