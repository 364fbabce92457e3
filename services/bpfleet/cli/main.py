"""The ``bpfleet`` command: finds the subcommand, turns bad input into one line and exit status 2."""

import errno
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Final

import click
from click.shell_completion import CompletionItem

from bpfleet.cli.settings import choose_context
from bpfleet.endings import EXIT_TERMINATED, Terminated, terminable
from bpfleet.near import advice, nearest, unknown
from bpfleet.report.workers import WorkerLost
from bpfleet.version import __version__
from bpfleet.workload.errors import SpecError

__all__ = ["cli", "main"]

# Packages that a plain installation lacks, by the extra that brings them.
_EXTRAS: Final = {
    **dict.fromkeys(
        ("aiohttp", "google", "grpc", "grpc_health", "grpc_reflection", "grpc_status"), "fleet"
    ),
    **dict.fromkeys(("prometheus_client", "redis"), "fleet"),
    "docker": "docker",
    **dict.fromkeys(("gevent", "locust"), "load"),
}
EXIT_FAILED: Final = 1
EXIT_BAD_INPUT: Final = 2
EXIT_INTERRUPTED: Final = 130
# What is no mistake of the user's.
_DISK_FAILS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG})

# Module and, where it is not `command`, the name in it. Subcommands are imported when they are used:
# `bpfleet compare` needs no gRPC, and --help is quick.
_COMMANDS: Final = {
    "capture": ("bpfleet.cli.capture", "What runs BPF on this host, as one document."),
    "charges": ("bpfleet.cli.charges", "Who pays for BPF, here, in a capture or on a node."),
    "compare": ("bpfleet.cli.compare", "The same fleet under several accounting models."),
    "size": ("bpfleet.cli.size", "What maps and applications cost under each kernel."),
    "scenario": ("bpfleet.cli.scenario", "Files that describe a fleet and what runs on it."),
    "application": ("bpfleet.cli.application", "Real programs whose maps are known."),
    "limit": ("bpfleet.cli.limit", "The memory.max and RLIMIT_MEMLOCK to set, ready to paste."),
    "node": ("bpfleet.cli.node", "The emulated nodes of one agent."),
    "top": ("bpfleet.cli.top", "Nodes, cgroups and maps by what they use, refreshed."),
    "process": ("bpfleet.cli.process", "Processes of a node."),
    "map": ("bpfleet.cli.map", "BPF maps of a node."),
    "cgroup": ("bpfleet.cli.cgroup", "The cgroup v2 tree of a node."),
    "profile": ("bpfleet.cli.profile", "Kernel profiles, and capturing one from a host."),
    "oracle": ("bpfleet.cli.oracle", "The emulator against recordings of real kernels."),
    "fleet": ("bpfleet.cli.fleet", "Workloads and nodes of a coordinator."),
    "up": ("bpfleet.cli.up", "Start a whole cluster on a Docker Engine, or as processes."),
    "scale": ("bpfleet.cli.cluster:scale", "Change the number of agents of a running cluster."),
    "ps": ("bpfleet.cli.cluster:ps", "The parts of a cluster and how they are."),
    "logs": ("bpfleet.cli.cluster:logs", "Logs of a cluster's parts."),
    "down": ("bpfleet.cli.cluster:down", "Stop a cluster and remove what it left."),
    "chaos": ("bpfleet.cli.chaos", "Break a running cluster by schedule and check it."),
    "agent": (
        "bpfleet.node_agent.__main__:main",
        "Run a node agent: emulated nodes behind one gRPC port.",
    ),
    "coordinator": ("bpfleet.coordinator.__main__:main", "Run a coordinator of the fleet."),
    "incident": ("bpfleet.cli.incident", "Real incidents, replayed under each model."),
    "explain": ("bpfleet.cli.explain", "What an error message or errno means."),
    "sim": ("bpfleet.sim.__main__:main", "Simulated fleets, badly treated, under many seeds."),
    "config": ("bpfleet.cli.config", "The configuration file: servers and habits by context."),
    "completion": ("bpfleet.cli.completion", "Completion for bash, zsh and fish."),
    "load": ("bpfleet.cli.load", "Run the load test: Locust with bpfleet's users."),
}


class _LazyGroup(click.Group):
    """A group whose commands live in one module each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name or "command")
        assert isinstance(command, click.Command), cmd_name
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """From the table above, as in the help."""
        found = [
            CompletionItem(name, help=text)
            for name, (_, text) in _COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands from the table above: asking each module would import them all."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--context",
    "named",
    metavar="NAME",
    envvar="BPFLEET_CONTEXT",
    help="Context of the configuration file (bpfleet config view).",
)
@click.version_option(__version__, prog_name="bpfleet")
@click.pass_context
def cli(context: click.Context, *, named: str | None) -> None:
    """Emulates a fleet of Linux hosts to show what a BPF memory-accounting model does to it.

    \b
    Examples:
      bpfleet compare
      bpfleet compare --kernel 5.10,6.12 --report report.html
    """
    if named is not None:
        choose_context(context, named)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Exit status: 0 done, 1 failed, 2 bad input, 130 interrupted, 143 terminated."""
    with terminable():
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        outcome = cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="bpfleet",
            standalone_mode=False,
        )
        # What a full disk or a closed pipe does not take is found out here, not at the exit.
        sys.stdout.flush()
        return outcome if isinstance(outcome, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        _show(error)
        return error.exit_code
    except (SpecError, ValueError) as error:
        return _bad_input(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        click.echo(
            f"bpfleet: this needs {package}, which is not installed: pip install 'bpfleet[{_EXTRAS[package]}]'",
            err=True,
        )
        return EXIT_FAILED
    except WorkerLost as error:
        click.echo(f"bpfleet: {error}", err=True)
        return EXIT_FAILED
    except BrokenPipeError:
        # The reader (head, less) has seen enough; a flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        _bad_input(f"{error.filename or 'standard output'}: {error.strerror or error}")
        return EXIT_FAILED if error.errno in _DISK_FAILS else EXIT_BAD_INPUT
    except (click.Abort, KeyboardInterrupt) as error:
        # click turns the one into the other.
        terminated = isinstance(error, Terminated) or isinstance(error.__cause__, Terminated)
        click.echo("terminated" if terminated else "interrupted", err=True)
        return EXIT_TERMINATED if terminated else EXIT_INTERRUPTED


def _show(error: click.ClickException) -> None:
    """One line on standard error; the help of a group that was called without a command."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    message = " ".join(_in_words(error).split())
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        stop = "" if message.endswith((".", "?", "!")) else "."
        message += f"{stop} See: {context.command_path} --help"
    click.echo(f"bpfleet: {message}", err=True)


# What options were called elsewhere, and are often tried.
_OTHER_NAMES: Final = {
    "--model": "--kernel",
    "--models": "--kernel",
    "--profile": "--kernel",
    "--profiles": "--kernel",
    "--kernels": "--kernel",
    "--node-ram": "--ram",
    "--node-cpus": "--cpus",
    "--ram": "--node-ram",
    "--cpus": "--node-cpus",
    "--format": "--output",
}


def _in_words(error: click.ClickException) -> str:
    """What is wrong; for a mistyped option or command also which one may be meant."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if isinstance(error, click.NoSuchOption) and context is not None:
        return _no_such_option(error.option_name, context.command)
    # click has a type for this from 8.4 on only.
    command = getattr(error, "command_name", None)
    if (
        isinstance(command, str)
        and context is not None
        and isinstance(context.command, click.Group)
    ):
        known = context.command.list_commands(context)
        return unknown("command", command, known, more="--help lists all")
    if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter):
        return f"{_where(error)}{_bad_value(error)}"
    return error.format_message()


def _where(error: click.BadParameter) -> str:
    """The option by its longest name, or the argument as the usage has it."""
    if error.param_hint is not None:
        hint = error.param_hint if isinstance(error.param_hint, str) else error.param_hint[-1]
        return f"{hint}: "
    if error.param is None:
        return ""
    if isinstance(error.param, click.Option):
        return f"{max(error.param.opts, key=len)}: "
    return f"{error.param.human_readable_name.strip('[].{}').upper()}: "


_RANGE: Final = re.compile(r"(?P<value>\S+) is not in the range (?P<low>\S+?)<=x<=(?P<high>\S+?)\.")
_AT_LEAST: Final = re.compile(r"(?P<value>\S+) is not in the range x>=(?P<low>\S+?)\.")


def _bad_value(error: click.BadParameter) -> str:
    """What click says of a value, in the words of all our other errors."""
    text = error.message
    found = _RANGE.fullmatch(text) or _AT_LEAST.fullmatch(text)
    if found is not None:
        low, high = found.group("low"), found.groupdict().get("high")
        allowed = f"{low} to {high}" if high else f"{low} or more"
        return f"{found.group('value')} is out of range; use {allowed}"
    kind = error.param.type if error.param is not None else None
    word = _NO_NUMBER.fullmatch(text)
    if word is not None:
        return f"{word[1]}: not a {'whole ' if word[2] == 'integer' else ''}number"
    choice = _NO_CHOICE.fullmatch(text)
    if choice is not None and isinstance(kind, click.Choice):
        return f"{choice[1]!r}: {advice(choice[1], map(str, kind.choices))}"
    file = _NO_FILE.fullmatch(text)
    if file is not None:
        return f"{file[1]}: {_FILES[file[2]]}"
    return text


_NO_NUMBER: Final = re.compile(r"('.*') is not a valid (integer|float)(?: range)?\.", re.DOTALL)
_NO_CHOICE: Final = re.compile(r"'(.*?)' is not one of .*", re.DOTALL)
_NO_FILE: Final = re.compile(
    r"(?:File|Directory|Path) '(.*)' (does not exist|is a directory|is a file|is not readable)\.",
    re.DOTALL,
)
_FILES: Final = {
    "does not exist": "no such file",
    "is a directory": "a folder, not a file",
    "is a file": "a file, not a folder",
    "is not readable": "may not be read",
}


def _no_such_option(name: str, command: click.Command) -> str:
    known = [
        flag for each in command.params if isinstance(each, click.Option) for flag in each.opts
    ]
    other = _OTHER_NAMES.get(name)
    near = other if other in known else nearest(name, known)
    return f"no such option {name}" + (f"; did you mean {near}?" if near else "")


def _bad_input(message: str) -> int:
    click.echo(f"bpfleet: {message}", err=True)
    return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
