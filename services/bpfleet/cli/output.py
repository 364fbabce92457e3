"""What commands print: tables for people, JSON for programs, files written whole or not at all."""

import base64
import json
import math
import os
import tempfile
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import yaml
from rich.cells import cell_len
from rich.console import Console

from bpfleet.cli.table import COUNT, TEXT, Column, Layout, lay_out, output_width
from bpfleet.kernel.profile import sureness_line

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = [
    "choose_yaml",
    "console",
    "layout_text",
    "message_data",
    "print_json",
    "print_layout",
    "print_sureness",
    "print_table",
    "say",
    "sureness_text",
    "word",
    "wrapped",
    "write_file",
]

# Values that JSON can hold.
Plain = Any
_YAML: Final = "bpfleet.yaml"


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that breaks lines between words on a terminal; elsewhere it does not break, colour or move."""
    wraps = output_width() is not None
    return Console(stderr=stderr, highlight=False, soft_wrap=not wraps, width=width)


def choose_yaml(context: click.Context) -> None:
    """Has ``print_json`` print YAML in this run."""
    context.find_root().meta[_YAML] = True


def print_json(value: Plain) -> None:
    """One JSON document, keys as given, a newline at the end; YAML where ``choose_yaml`` was called."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    context = click.get_current_context(silent=True)
    if context is not None and context.find_root().meta.get(_YAML):
        # By way of JSON: words of enumerations are words there too.
        plain = json.loads(text)
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).rstrip("\n")
    click.echo(text)


def message_data(message: "Message") -> Plain:
    """A protobuf message for JSON: field names as in the proto, empty fields included, integers as numbers.

    protobuf's own JSON writes 64 bits as text; every reader of ours keeps them.
    """
    if message.DESCRIPTOR.full_name.startswith("google.protobuf."):
        from google.protobuf.json_format import MessageToDict

        return MessageToDict(message)
    return {
        field.name: _field_data(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


# Any: values of every field type.
def _field_data(field: Any, value: Any) -> Plain:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        of_value = field.message_type.fields_by_name["value"]
        return {_key(key): _one(of_value, each) for key, each in sorted(value.items())}
    return [_one(field, each) for each in value] if field.is_repeated else _one(field, value)


def _key(key: object) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _one(field: Any, value: Any) -> Plain:  # Any: as above
    if field.message_type is not None:
        return message_data(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers_from: int = 1,
    texts: Collection[str] = (),
    keys: int = 1,
    notes: str | None = None,
) -> None:
    """A table of texts. Columns from number ``numbers_from`` on are right-aligned numbers, but for ``texts``; the
    others fold where the terminal is narrow, and what does not fit side by side comes in blocks, each with the first
    ``keys`` columns. ``notes`` is the head of a last column that stands below the table where it would have to fold.
    """
    width = output_width()
    cells = [list(row) for row in rows]
    numbers = [n >= numbers_from and head not in texts for n, head in enumerate(columns)]
    shapes = [
        Column(head, itemgetter(n), COUNT if number else TEXT, folds=not number)
        for n, (head, number) in enumerate(zip(columns, numbers, strict=True))
    ]
    layout = lay_out(shapes, cells, width=width, keys=keys)
    if notes is not None and width is not None and not _is_whole(layout, cells):
        aside = "; ".join(
            f"{row[0].strip()}: {row[-1]}" for row in cells if len(row) > 1 and row[-1]
        )
        narrow = [row if len(row) == 1 else row[:-1] for row in cells]
        print_layout(lay_out(shapes[:-1], narrow, width=width, keys=keys))
        say(f"{notes}: {aside}")
    else:
        print_layout(layout)


def _is_whole(layout: Layout, cells: Sequence[Sequence[str]]) -> bool:
    """Whether every row is one line of one block."""
    (heads, lines), *others = layout.blocks
    return not others and heads == 1 and len(lines) == 1 + len(cells)


def layout_text(layout: Layout) -> str:
    """The blocks of a table, heads in bold, an empty line between blocks."""
    blocks = (
        "\n".join(
            click.style(line, bold=True) if place < heads else line
            for place, line in enumerate(lines)
        )
        for heads, lines in layout.blocks
    )
    return "\n\n".join(blocks)


def print_layout(layout: Layout) -> None:
    """Prints a table; nothing where it has no line."""
    if any(lines for _, lines in layout.blocks):
        click.echo(layout_text(layout))


def say(text: str) -> None:
    """Prints prose; on a terminal lines are broken between words, under their own beginning."""
    click.echo(wrapped(text, output_width()))


def wrapped(text: str, width: int | None) -> str:
    """``text`` with those lines broken that are wider than ``width``."""
    if width is None:
        return text
    return "\n".join(_broken(line, width) for line in text.split("\n"))


def _broken(line: str, width: int) -> str:
    if cell_len(click.unstyle(line)) <= width:
        return line
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(
        line.strip(),
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  " if indent else "",
        break_long_words=False,
        break_on_hyphens=False,
    )


def print_sureness(known: Mapping[str, str]) -> None:
    """How sure the numbers above are, kernel by kernel."""
    console().print(sureness_line(known), markup=False, style="dim")


def sureness_text(known: Mapping[str, str]) -> str:
    """The same, for what stands below a listing."""
    return click.style(wrapped(sureness_line(known), output_width()), dim=True)


def write_file(path: Path, text: str) -> None:
    """Writes ``text`` beside ``path`` first, then renames it: a reader never sees half a report.

    Raises ``OSError`` that names ``path``, which then is as it was.
    """
    try:
        _write_whole(path, text)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None


def _write_whole(path: Path, text: str) -> None:
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
