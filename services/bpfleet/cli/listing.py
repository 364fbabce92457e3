"""Listings: the same rows as a table, JSON, YAML, CSV or names, sorted and filtered, once or again and again."""

import csv
import io
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final

import click
import yaml
from rich.cells import cell_len, set_cell_size

from bpfleet.cli.output import message_data, print_json

__all__ = ["FORMATS", "WATCH_SECONDS", "Column", "listing", "print_rows", "watchable"]

FORMATS: Final = ("table", "wide", "json", "yaml", "csv", "name")
WATCH_SECONDS: Final = 2.0
_GAP: Final = "  "
_CELLS_MIN: Final = 12

# One row: a message or a record, whatever the view returns. Values are what JSON can hold.
Row = Any
Plain = Any


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its head, the value of a row, and how people read that value.

    ``number`` aligns to the right. ``wide`` shows it with ``-o wide`` only. ``shrinks``: its text is cut where the
    terminal is narrower than the table; numbers never are.
    """

    head: str
    value: Callable[[Row], Plain]
    show: Callable[[Plain], str] = str
    number: bool = False
    wide: bool = False
    shrinks: bool = False


def listing(
    *columns: Column,
    data: Callable[[Row], Plain] = message_data,
    name: Callable[[Row], str] | None = None,
) -> Callable[[Callable[..., Iterable[Row]]], Callable[..., None]]:
    """Makes a command of a view that returns rows: adds ``-o``, ``--json``, ``--no-headers``, ``--sort-by`` and
    ``--filter``. ``data`` is a row for JSON; ``name`` is what ``-o name`` prints, by default the first column.
    """
    heads = [column.head for column in columns]

    def decorate(view: Callable[..., Iterable[Row]]) -> Callable[..., None]:
        @click.option(
            "-o", "--output", "form", type=click.Choice(FORMATS), help="Form of the output."
        )
        @click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
        @click.option("--no-headers", is_flag=True, help="Leave out the head of the table.")
        @click.option(
            "--sort-by",
            type=click.Choice(heads),
            metavar="COLUMN",
            help=f"Sort by a column: {', '.join(heads)}.",
        )
        @click.option(
            "--filter",
            "wanted",
            multiple=True,
            metavar="COLUMN=TEXT",
            help="Rows whose column contains this text; repeatable, all must match.",
        )
        @wraps(view)
        # Any: the options of the command it wraps.
        def command(
            *,
            form: str | None,
            as_json: bool,
            no_headers: bool,
            sort_by: str | None,
            wanted: tuple[str, ...],
            **options: Any,
        ) -> None:
            chosen = form or ("json" if as_json else "table")
            tests = [_test(columns, text) for text in wanted]
            rows = [row for row in view(**options) if all(test(row) for test in tests)]
            if sort_by is not None:
                column = columns[heads.index(sort_by)]
                rows.sort(key=lambda row: _sort_key(column.value(row)))
            print_rows(rows, columns, chosen, data=data, name=name, headers=not no_headers)

        return command

    return decorate


def _test(columns: Sequence[Column], text: str) -> Callable[[Row], bool]:
    head, equals, part = text.partition("=")
    column = next((each for each in columns if each.head == head), None)
    if column is None or not equals:
        known = ", ".join(each.head for each in columns)
        raise click.BadParameter(
            f"{text!r}: write COLUMN=TEXT, COLUMN one of {known}", param_hint="--filter"
        )
    return lambda row: part.lower() in column.show(column.value(row)).lower()


def _sort_key(value: Plain) -> tuple[bool, Plain]:
    """Numbers by size and before texts, so that a column with both has an order."""
    return (True, str(value)) if isinstance(value, str) else (False, value)


def print_rows(
    rows: Sequence[Row],
    columns: Sequence[Column],
    form: str,
    *,
    data: Callable[[Row], Plain] = message_data,
    name: Callable[[Row], str] | None = None,
    headers: bool = True,
) -> None:
    """Prints rows in one of ``FORMATS``."""
    match form:
        case "json":
            print_json([data(row) for row in rows])
        case "yaml":
            texts = [data(row) for row in rows]
            click.echo(yaml.safe_dump(texts, sort_keys=False, allow_unicode=True), nl=False)
        case "csv":
            click.echo(_csv(rows, columns, headers=headers), nl=False)
        case "name":
            for row in rows:
                first = columns[0]
                click.echo(name(row) if name is not None else first.show(first.value(row)))
        case _:
            shown = [each for each in columns if form == "wide" or not each.wide]
            _print_table(rows, shown, fitted=form == "table", headers=headers)


def _csv(rows: Sequence[Row], columns: Sequence[Column], *, headers: bool) -> str:
    """Values as they are, without units and separators."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if headers:
        writer.writerow([column.head for column in columns])
    writer.writerows([column.value(row) for column in columns] for row in rows)
    return text.getvalue()


def _print_table(
    rows: Sequence[Row], columns: Sequence[Column], *, fitted: bool, headers: bool
) -> None:
    heads = [column.head for column in columns]
    cells = [[column.show(column.value(row)) for column in columns] for row in rows]
    lines = [heads, *cells] if headers else cells
    widths = [max((cell_len(line[n]) for line in lines), default=0) for n in range(len(columns))]
    if fitted and (width := _terminal_width()) is not None:
        _shrink(widths, columns, width)
    for number, line in enumerate(lines):
        text = _GAP.join(map(_padded, line, widths, columns)).rstrip()
        click.echo(click.style(text, bold=True) if headers and number == 0 else text)


def _terminal_width() -> int | None:
    """Cells of the terminal; None where nothing is torn by a long line, because nobody's screen shows it."""
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        return None
    return shutil.get_terminal_size().columns


def _shrink(widths: list[int], columns: Sequence[Column], width: int) -> None:
    """Takes from the columns that shrink, the widest first, until the table fits or they are short."""
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    while excess > 0:
        candidates = [
            n for n, each in enumerate(columns) if each.shrinks and widths[n] > _CELLS_MIN
        ]
        if not candidates:
            return
        widest = max(candidates, key=lambda n: widths[n])
        widths[widest] -= 1
        excess -= 1


def _padded(cell: str, width: int, column: Column) -> str:
    if cell_len(cell) > width:
        return set_cell_size(cell, width - 1) + "…"
    blanks = " " * (width - cell_len(cell))
    return blanks + cell if column.number else cell + blanks


def watchable(view: Callable[..., None]) -> Callable[..., None]:
    """Adds ``--watch`` to a command that prints what is: refreshes it every two seconds until interrupted."""

    @click.option("--watch", is_flag=True, help="Refresh every two seconds until interrupted.")
    @wraps(view)
    # Any: the options of the command it wraps.
    def again(*, watch: bool, **options: Any) -> None:
        view(**options)
        while watch:
            time.sleep(WATCH_SECONDS)
            click.clear()
            view(**options)

    return again
