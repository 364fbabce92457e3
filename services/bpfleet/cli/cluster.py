"""``bpfleet ps``, ``logs``, ``scale`` and ``down``: a running cluster."""

from collections.abc import Iterable
from dataclasses import asdict

import click

from bpfleet.cli.clusters import cluster_options, engine_for, print_changes, progress_lines
from bpfleet.cli.listing import COUNT, Column, data_options, listing
from bpfleet.cli.output import print_json
from bpfleet.launcher import cluster
from bpfleet.launcher.cluster import READY_SECONDS
from bpfleet.launcher.engine import Instance

__all__ = ["down", "logs", "ps", "scale"]


def _note(instance: Instance) -> str:
    if instance.oom_killed:
        return "killed by the real OOM killer: raise --memory or lower --nodes-per-agent"
    if instance.exit_code is not None:
        return f"ended with status {instance.exit_code}"
    return instance.detail


@click.command("ps")
@cluster_options
@listing(
    Column("service", lambda i: i.name),
    Column("role", lambda i: i.role.value),
    Column("state", lambda i: i.state.value),
    Column("restarts", lambda i: i.restart_count, COUNT),
    Column("address", lambda i: i.address),
    Column("note", _note, shrinks=True),
    data=asdict,
)
def ps(*, name: str, local: bool) -> Iterable[Instance]:
    """List the containers (or processes) of a cluster.

    What Docker Compose runs under that name is shown, too; it is changed with `docker compose`.
    A container that the real OOM killer of this machine ended is marked as such; kills inside
    emulated nodes never are.

    \b
    Examples:
      bpfleet ps
      bpfleet ps --local --json
    """
    with engine_for(local) as engine:
        return cluster.shown(engine, name)


@click.command("logs")
@click.argument("service")
@click.option(
    "--lines",
    type=click.IntRange(1, 100_000),
    default=100,
    show_default=True,
    help="Maximum number of lines.",
)
@data_options
@cluster_options
def logs(*, service: str, lines: int, name: str, local: bool, as_json: bool) -> None:
    """Print the last lines of SERVICE, by full name or as role and number.

    \b
    Examples:
      bpfleet logs agent-0
      bpfleet logs coordinator-0 --lines 20
    """
    with engine_for(local) as engine:
        found = cluster.find(cluster.shown(engine, name), service)
        printed = list(engine.logs(name, found.name, lines))
    if as_json:
        print_json(printed)
        return
    for line in printed:
        click.echo(line)


@click.command("scale")
@click.argument("agents", type=click.IntRange(1, 1000))
@click.option(
    "--wait-seconds",
    default=READY_SECONDS,
    show_default=True,
    help="Seconds to wait until it is ready.",
)
@data_options
@cluster_options
def scale(*, agents: int, name: str, local: bool, wait_seconds: float, as_json: bool) -> None:
    """Bring a running cluster to AGENTS node agents; the others stay as they are.

    \b
    Examples:
      bpfleet scale 12
      bpfleet scale 2 --local
    """
    with engine_for(local) as engine, progress_lines(as_json) as progress:
        changes = cluster.scale(engine, name, agents, progress, ready_seconds=wait_seconds)
    if as_json:
        print_json(asdict(changes))
    else:
        print_changes(changes)


@click.command("down")
@data_options
@cluster_options
def down(*, name: str, local: bool, as_json: bool) -> None:
    """Stop a cluster and remove its containers, its network and its data.

    Does nothing where no cluster runs.

    \b
    Examples:
      bpfleet down
      bpfleet down --local
    """
    with engine_for(local) as engine, progress_lines(as_json) as progress:
        removed = [instance.name for instance in cluster.down(engine, name, progress)]
    if as_json:
        print_json(removed)
    else:
        click.echo(f"{len(removed)} removed" if removed else "nothing to remove")
