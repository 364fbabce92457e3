"""What the cluster commands share: which engine, which cluster, progress, errors in one line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import click

from bpfleet.cli.output import console
from bpfleet.launcher.cluster import Changes, Progress
from bpfleet.launcher.engine import Engine
from bpfleet.launcher.errors import LaunchError

__all__ = ["cluster_options", "engine_for", "print_changes", "progress_lines"]

_Command = TypeVar("_Command", bound=Callable[..., object])


def cluster_options(command: _Command) -> _Command:
    """Adds ``--name`` and ``--local``."""
    local = click.option(
        "--local", is_flag=True, help="Processes of this machine instead of containers."
    )
    name = click.option("--name", default="bpfleet", show_default=True, help="Name of the cluster.")
    return name(local(command))


@contextmanager
def engine_for(local: bool) -> Iterator[Engine]:
    """The engine a command works with. A refusal becomes one line and exit status 1."""
    try:
        if local:
            from bpfleet.launcher.process import ProcessEngine

            yield ProcessEngine()
        else:
            from bpfleet.launcher.docker import DockerEngine

            engine = DockerEngine()
            try:
                yield engine
            finally:
                engine.close()
    except LaunchError as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def progress_lines(quiet: bool) -> Iterator[Progress]:
    """Says what happens to which service: one line each, a spinner on a terminal."""
    out = console(stderr=True)
    if quiet:
        yield lambda name, what: None
        return
    with out.status("") as status:

        def report(name: str, what: str) -> None:
            status.update(f"{name}: {what}")
            if what != "starting":
                out.print(f"{name}: {what}")

        yield report


def print_changes(changes: Changes) -> None:
    """One sentence."""
    if changes.is_empty:
        click.echo("nothing to change")
        return
    parts = (
        ("started", changes.started),
        ("replaced", changes.replaced),
        ("removed", changes.removed),
        ("unchanged", changes.kept),
    )
    click.echo(", ".join(f"{len(names)} {what}" for what, names in parts if names))
