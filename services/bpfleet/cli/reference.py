"""The commands as data; man pages and the page of commands from it: ``python -m bpfleet.cli.reference FOLDER``."""

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import click

from bpfleet.cli.main import cli
from bpfleet.version import __version__

__all__ = ["Option", "Page", "commands_markdown", "man_page", "pages", "variables"]

# Commands of Locust and servers, whose options other pages have.
_ELSEWHERE: Final = {
    "agent": "docs/settings.md has its options and variables.",
    "coordinator": "docs/settings.md has its options and variables.",
}


# Options that many commands have, told once: by a sentence, or with the one that has it.
_SHARED: Final = {
    "-h": "",
    "--help": "",
    "-o": "",
    "--json": "",
    "--no-headers": "[options of a listing](#forms-of-output)",
    "--bytes": "",
    "--reverse": "",
    "--filter": "",
    "--token-file": "[options of servers](#environment)",
    "--tls-ca": "",
    "--tls-cert": "",
    "--tls-key": "",
}


class Option(NamedTuple):
    """One option or argument: how it is written, what it does, its default and its variable."""

    names: str
    help: str
    default: str
    variable: str


class Page(NamedTuple):
    """One command: ``bpfleet fleet nodes``, its usage, its text by paragraphs, its options, its subcommands."""

    name: str
    summary: str
    usage: str
    paragraphs: tuple[str, ...]
    options: tuple[Option, ...]
    commands: tuple[str, ...]


def pages() -> Iterator[Page]:
    """Every command, groups before their commands."""
    root = click.Context(cli, info_name="bpfleet")
    yield from _walk(cli, root)


def _walk(command: click.Command, context: click.Context) -> Iterator[Page]:
    group = command if isinstance(command, click.Group) else None
    names = group.list_commands(context) if group is not None else []
    yield Page(
        name=context.command_path,
        summary=command.get_short_help_str(200),
        usage=" ".join(command.collect_usage_pieces(context)),
        paragraphs=tuple(_paragraphs(command)),
        options=tuple(_options(command, context)),
        commands=tuple(names),
    )
    for name in names:
        assert group is not None, name
        found = group.get_command(context, name)
        assert found is not None, name
        yield from _walk(found, click.Context(found, parent=context, info_name=name))


def _paragraphs(command: click.Command) -> Iterator[str]:
    """The text of the help; examples keep their lines."""
    texts = [command.help or "", getattr(command, "epilog", None) or ""]
    for text in texts:
        for part in re.split(r"\n\s*\n", inspect.cleandoc(text)):
            if part.strip("\b\n "):
                yield part.strip("\n")


def _options(command: click.Command, context: click.Context) -> Iterator[Option]:
    for parameter in command.get_params(context):
        if not isinstance(parameter, click.Option) or parameter.hidden:
            continue
        record = parameter.get_help_record(context)
        if record is None:
            continue
        text = parameter.help or ""
        variable = parameter.envvar if isinstance(parameter.envvar, str) else ""
        yield Option(record[0], text, _default(parameter), variable)


def _default(option: click.Option) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    shown = option.show_default and isinstance(option.default, (str, int, float))
    return str(option.default) if shown and not option.is_flag else ""


def variables() -> dict[str, str]:
    """What the environment may say to the command line, without the servers: the variable, and its option."""
    found: dict[str, str] = {}
    for page in pages():
        if page.name.split()[1:2] not in [[name] for name in _ELSEWHERE]:
            for option in page.options:
                if option.variable:
                    found.setdefault(
                        option.variable, f"`{option.names.split()[0]}`: {_without_variable(option)}"
                    )
    return found


def _is_shared(option: Option) -> bool:
    """A listing's -o has a choice, that of other commands a file."""
    flag = option.names.split(",")[0].split()[0]
    return flag in _SHARED and not (flag == "-o" and "FILE" in option.names)


def _without_variable(option: Option) -> str:
    return option.help.replace(f"[env: {option.variable}]", "").strip()


# -- docs/cli.md -------------------------------------------------------------------------------------------------------


def commands_markdown() -> str:
    """Every command with its text and options."""
    return "\n".join(_section(page) for page in pages() if page.name != "bpfleet")


def _section(page: Page) -> str:
    lines = [f"{'#' * min(4, 1 + len(page.name.split()))} {page.name}", ""]
    for part in page.paragraphs:
        if part.startswith("\b"):
            lines += ["```", *part.strip("\b\n").splitlines(), "```", ""]
        else:
            lines += [" ".join(part.split()), ""]
    name = page.name.split()[1]
    if name in _ELSEWHERE:
        return "\n".join([*lines, _ELSEWHERE[name], ""])
    lines += [f"`{page.name} {page.usage}`", ""]
    options = [each for each in page.options if not _is_shared(each)]
    shared = [text for flag, text in _SHARED.items() if any(flag in o.names for o in page.options)]
    if shared:
        lines += [f"Also {' and '.join(dict.fromkeys(filter(None, shared)))}.", ""]
    if options:
        lines += ["| option | what it does |", "|---|---|"]
        for option in options:
            names = option.names.replace("|", "\\|")
            default = f" [{option.default}]" if option.default else ""
            lines.append(f"| `{names}` | {option.help.replace('|', chr(92) + '|')}{default} |")
        lines.append("")
    return "\n".join(lines)


# -- man pages ---------------------------------------------------------------------------------------------------------


def man_page(page: Page) -> str:
    """The page in roff, section 1."""
    title = page.name.replace(" ", "-").upper()
    lines = [
        f'.TH "{title}" "1" "" "bpfleet {__version__}" "bpfleet"',
        ".SH NAME",
        f"{_roff(page.name.replace(' ', '-'))} \\- {_roff(page.summary.rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {_roff(page.name)}",
        _roff(page.usage),
        ".SH DESCRIPTION",
    ]
    for part in page.paragraphs:
        if part.startswith("\b"):
            lines += [".PP", ".nf", *map(_roff, part.strip("\b\n").splitlines()), ".fi"]
        else:
            lines += [".PP", _roff(" ".join(part.split()))]
    if page.options:
        lines.append(".SH OPTIONS")
    for option in page.options:
        notes = [f"Default: {option.default}."] if option.default else []
        notes += [f"Environment: {option.variable}."] if option.variable else []
        lines += [".TP", f"\\fB{_roff(option.names)}\\fR", _roff(" ".join([option.help, *notes]))]
    see = [f"{page.name.replace(' ', '-')}-{name}" for name in page.commands]
    parent = page.name.rpartition(" ")[0].replace(" ", "-")
    if see or parent:
        lines += [
            ".SH SEE ALSO",
            ", ".join(f"\\fB{_roff(each)}\\fR(1)" for each in ([parent] if parent else []) + see),
        ]
    lines += [
        ".SH EXIT STATUS",
        "0 done; 1 failed, or a difference was found; 2 bad input; 130 interrupted; 143 terminated.",
    ]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def main(arguments: Sequence[str]) -> int:
    """Writes one man page a command into the folder."""
    if len(arguments) != 1:
        print("usage: python -m bpfleet.cli.reference FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for page in pages():
        (folder / f"{page.name.replace(' ', '-')}.1").write_text(man_page(page), "utf-8")
        count += 1
    print(f"{count} man pages in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
