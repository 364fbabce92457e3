"""Listings: the same rows as a table, JSON, YAML, CSV or names, sorted and filtered, once or again and again."""

import csv
import io
import operator
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final

import click

from bpfleet.cli.output import (
    choose_yaml,
    layout_text,
    message_data,
    print_json,
    print_layout,
    wrapped,
)
from bpfleet.cli.settings import setting
from bpfleet.cli.table import BYTES, COUNT, NUMBER, TEXT, Column, Unit, lay_out, output_width
from bpfleet.near import unknown
from bpfleet.workload.quantity import parse_limit

__all__ = [
    "BYTES",
    "COUNT",
    "FORMATS",
    "NUMBER",
    "TEXT",
    "WATCH_SECONDS",
    "Column",
    "Rows",
    "Unit",
    "data_options",
    "listing",
    "print_rows",
    "refreshing",
    "rows_text",
    "watchable",
]

FORMATS: Final = ("table", "wide", "json", "yaml", "csv", "name")
_DETAIL_FORMS: Final = ("table", "json", "yaml")
WATCH_SECONDS: Final = 2.0
# The head, the line below, and the cursor.
_LINES_AROUND: Final = 4
_FILTER: Final = re.compile(r"([^=<>]+)(>=|<=|=|<|>)(.*)", re.DOTALL)
_COMPARED: Final[dict[str, Callable[[Any, Any], bool]]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}

_NO_FORMS: Final[Mapping[str, Callable[[Sequence[Any]], str]]] = {}

# One row: a message or a record, whatever the view returns. Values are what JSON can hold.
Row = Any
Plain = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a view returns that has more to say than rows.

    ``document`` is the whole for JSON and YAML, ``above`` and ``below``, which may depend on the width, stand
    around the table. ``columns`` replace those of the listing where they depend on what was asked. ``status`` is that
    of the command.
    """

    rows: Sequence[Row]
    document: Plain = None
    above: str | Callable[[int | None], str] = ""
    below: str | Callable[[int | None], str] = ""
    columns: Sequence[Column] = ()
    status: int = 0


def listing(
    *columns: Column,
    data: Callable[[Row], Plain] = message_data,
    name: Callable[[Row], str] | None = None,
    forms: Mapping[str, Callable[[Sequence[Row]], str]] = _NO_FORMS,
    screenful: bool = False,
    largest_first: bool = False,
) -> Callable[[Callable[..., Iterable[Row] | Rows]], Callable[..., int]]:
    """Makes a command of a view that returns rows: adds ``-o``, ``--json``, ``--no-headers``, ``--bytes``,
    ``--sort-by``, ``--reverse`` and ``--filter``. ``data`` is a row for JSON; ``name`` is what ``-o name`` prints, by
    default the first column. ``forms`` are more texts that ``-o`` can print. ``screenful`` prints no more
    rows than a terminal has lines; ``largest_first`` turns the order of ``--sort-by`` round.
    """
    heads = ", ".join(_spelled(column.head) for column in columns)

    def decorate(view: Callable[..., Iterable[Row] | Rows]) -> Callable[..., int]:
        @click.option(
            "-o",
            "--output",
            "form",
            type=click.Choice((*FORMATS, *forms)),
            help="Form of the output [default: table, or what the configuration file says].",
        )
        @click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
        @click.option("--no-headers", is_flag=True, help="Leave out the head of the table.")
        @click.option(
            "--bytes", "in_bytes", is_flag=True, help="Print sizes in bytes, without units."
        )
        @click.option(
            "--sort-by",
            metavar="COLUMN",
            help=f"Sort by a column: {heads}." if columns else "Sort by a column.",
        )
        @click.option("--reverse", is_flag=True, help="Reverse the order of rows.")
        @click.option(
            "--filter",
            "wanted",
            multiple=True,
            metavar="COLUMN=TEXT",
            help="Keep rows whose column contains this text, or whose number matches (COLUMN>100M); repeatable.",
        )
        @click.option(
            "--rows", "rows_max", type=click.IntRange(1), help="Print at most this many rows."
        )
        @wraps(view)
        # Any: the options of the command it wraps.
        def command(
            *,
            form: str | None,
            as_json: bool,
            no_headers: bool,
            in_bytes: bool,
            sort_by: str | None,
            reverse: bool,
            wanted: tuple[str, ...],
            rows_max: int | None,
            **options: Any,
        ) -> int:
            if columns:
                # Before the view, which may take long.
                for text in wanted:
                    _test(columns, text)
                if sort_by is not None:
                    _column(columns, sort_by, "--sort-by")
            found = view(**options)
            whole = found if isinstance(found, Rows) else Rows(rows=list(found))
            shown = whole.columns or columns
            tests = [_test(shown, text) for text in wanted]
            rows = [row for row in whole.rows if all(test(row) for test in tests)]
            if sort_by is not None:
                column = _column(shown, sort_by, "--sort-by")
                rows.sort(key=lambda row: _sort_key(column.value(row)), reverse=largest_first)
            if reverse:
                rows.reverse()
            if rows_max is not None:
                rows = rows[:rows_max]
            elif screenful and sys.stdout.isatty():
                rows = rows[: max(1, shutil.get_terminal_size().lines - _LINES_AROUND)]
            chosen = form or ("json" if as_json else setting("output") or "table")
            if chosen in forms:
                click.echo(forms[chosen](rows), nl=False)
                return whole.status
            print_rows(
                rows,
                shown,
                chosen,
                data=data,
                name=name,
                headers=not no_headers,
                in_bytes=in_bytes,
                whole=whole,
            )
            return whole.status

        return command

    return decorate


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``-o table|json|yaml`` and ``--json`` to a command that takes ``as_json`` and prints no list of rows."""

    @click.option(
        "-o", "--output", "form", type=click.Choice(_DETAIL_FORMS), help="Form of the output."
    )
    @click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
    @wraps(command)
    # Any: the options of the command it wraps, and what that returns.
    def choosing(*, form: str | None, as_json: bool, **options: Any) -> Any:
        chosen = form or ("json" if as_json else setting("output"))
        if chosen == "yaml":
            choose_yaml(click.get_current_context())
        return command(as_json=chosen in ("json", "yaml"), **options)

    return choosing


def _spelled(head: str) -> str:
    """A head as options take it, without blanks."""
    return head.lower().replace(" ", "-").replace("_", "-")


def _column(columns: Sequence[Column], head: str, option: str) -> Column:
    names = {_spelled(each.head): each for each in columns}
    found = names.get(_spelled(head.strip()))
    if found is None:
        raise click.BadParameter(unknown("column", head.strip(), names), param_hint=option)
    return found


def _test(columns: Sequence[Column], text: str) -> Callable[[Row], bool]:
    parts = _FILTER.fullmatch(text)
    if parts is None:
        known = ", ".join(_spelled(each.head) for each in columns)
        raise click.BadParameter(
            f"{text!r}: write COLUMN=TEXT, COLUMN one of {known}", param_hint="--filter"
        )
    head, sign, wanted = parts.groups()
    column = _column(columns, head, "--filter")
    if sign == "=":
        return lambda row: wanted.lower() in column.cell(row).lower()
    if not column.number:
        raise click.BadParameter(
            f"{text!r}: {column.head} holds text; write {_spelled(column.head)}=TEXT",
            param_hint="--filter",
        )
    try:
        bound = parse_limit(wanted)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}", param_hint="--filter") from None
    compared = _COMPARED[sign]
    return lambda row: column.value(row) is not None and compared(column.value(row), bound)


def _sort_key(value: Plain) -> tuple[int, Plain]:
    """Nothing first, then numbers by size, then texts, so that a column with all of them has an order."""
    if value is None:
        return (0, 0)
    return (2, str(value)) if isinstance(value, str) else (1, value)


def print_rows(
    rows: Sequence[Row],
    columns: Sequence[Column],
    form: str,
    *,
    data: Callable[[Row], Plain] = message_data,
    name: Callable[[Row], str] | None = None,
    headers: bool = True,
    in_bytes: bool = False,
    whole: Rows | None = None,
) -> None:
    """Prints rows in one of ``FORMATS``."""
    match form:
        case "json" | "yaml":
            if form == "yaml":
                choose_yaml(click.get_current_context())
            document = whole.document if whole is not None else None
            print_json([data(row) for row in rows] if document is None else document)
        case "csv":
            click.echo(_csv(rows, columns, headers=headers), nl=False)
        case "name":
            for row in rows:
                click.echo(name(row) if name is not None else columns[0].cell(row))
        case _:
            wide = form == "wide"
            width = None if wide else output_width()
            if whole is not None:
                _print_around(whole.above, width)
            shown = [each for each in columns if wide or not each.wide]
            cells = [[each.cell(row, in_bytes=in_bytes) for each in shown] for row in rows]
            layout = lay_out(shown, cells, width=width, headers=headers)
            print_layout(layout)
            if layout.left_out:
                click.echo(f"no room for {', '.join(layout.left_out)}; -o wide shows all", err=True)
            if whole is not None:
                _print_around(whole.below, width)


def _print_around(text: str | Callable[[int | None], str], width: int | None) -> None:
    told = text(width) if callable(text) else text
    if told:
        click.echo(wrapped(told, width))


def rows_text(rows: Sequence[Row], columns: Sequence[Column], width: int | None) -> str:
    """A table within the text around another one."""
    shown = [each for each in columns if not each.wide]
    cells = [[each.cell(row) for each in shown] for row in rows]
    return layout_text(lay_out(shown, cells, width=width))


def _csv(rows: Sequence[Row], columns: Sequence[Column], *, headers: bool) -> str:
    """Values as they are, without units and separators."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if headers:
        writer.writerow([column.key for column in columns])
    writer.writerows([column.value(row) for column in columns] for row in rows)
    return text.getvalue()


def refreshing(view: Callable[..., Any]) -> Callable[..., None]:
    """Makes a command print again and again what is, as top does; ``--once`` ends it after the first time."""

    @click.option("--once", is_flag=True, help="Print once and exit.")
    @click.option(
        "--interval",
        type=click.FloatRange(0.1, 3600),
        default=WATCH_SECONDS,
        show_default=True,
        help="Seconds between two refreshes.",
    )
    @wraps(view)
    # Any: the options of the command it wraps.
    def again(*, once: bool, interval: float, **options: Any) -> None:
        if not once:
            click.clear()
        view(**options)
        while not once:
            time.sleep(interval)
            click.clear()
            view(**options)

    return again


def watchable(view: Callable[..., Any]) -> Callable[..., None]:
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
