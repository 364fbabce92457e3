"""What commands print: tables for people, JSON for programs, files written whole or not at all."""

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.cells import cell_len
from rich.console import Console

from bpfleet.kernel.profile import sureness_line

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = [
    "console",
    "message_data",
    "print_json",
    "print_sureness",
    "print_table",
    "word",
    "write_file",
]

# Values that JSON can hold.
Plain = Any


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that does not colour or move where output is not a terminal."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=width)


def print_json(value: Plain) -> None:
    """One JSON document, keys as given, a newline at the end."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def message_data(message: "Message") -> Plain:
    """A protobuf message for JSON: field names as in the proto, empty fields included."""
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers_from: int = 1,
    numbers_to: int | None = None,
) -> None:
    """A plain table; columns from number ``numbers_from`` on, up to ``numbers_to``, are right-aligned.

    A row of one cell is a heading over the whole width. Tables take the width they need: a cut number is worse than a
    wrapped line.
    """
    cells = [tuple(columns), *map(tuple, rows)]
    full = [row for row in cells if len(row) > 1]
    widths = [max(map(cell_len, column)) for column in zip(*full, strict=True)]
    lines = []
    for row in cells:
        padded = []
        for index, (cell, width) in enumerate(zip(row, widths, strict=len(row) > 1)):
            blanks = " " * (width - cell_len(cell))
            number = index >= numbers_from and (numbers_to is None or index < numbers_to)
            padded.append(blanks + cell if number else cell + blanks)
        lines.append("  ".join(padded).rstrip())
    click.echo("\n".join([click.style(lines[0], bold=True), *lines[1:]]))


def print_sureness(known: Mapping[str, str]) -> None:
    """How sure the numbers above are, kernel by kernel."""
    console().print(sureness_line(known), markup=False, style="dim")


def write_file(path: Path, text: str) -> None:
    """Writes ``text`` beside ``path`` first, then renames it: a reader never sees half a report.

    Raises ``OSError``, then ``path`` is as it was.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def word(name: str, prefix: str, joint: str = "-") -> str:
    """An enum member's name as tables show it: without its prefix, in lower case, words joined by ``joint``."""
    return name.removeprefix(prefix).lower().replace("_", joint)
