"""``bpfleet ps``: what runs of a cluster, and how it is doing."""

from dataclasses import asdict

import click

from bpfleet.cli.clusters import cluster_options, engine_for
from bpfleet.cli.output import print_json, print_table
from bpfleet.launcher.cluster import ps
from bpfleet.launcher.engine import Instance

__all__ = ["command"]


@click.command("ps")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@cluster_options
def command(*, name: str, local: bool, as_json: bool) -> None:
    """List the containers (or processes) of a cluster.

    A container that the real OOM killer of this machine ended is marked as such; kills inside
    emulated nodes never are.

    \b
    Examples:
      bpfleet ps
      bpfleet ps --local --json
    """
    with engine_for(local) as engine:
        instances = ps(engine, name)
    if as_json:
        print_json([asdict(instance) for instance in instances])
        return
    columns = ("SERVICE", "ROLE", "STATE", "RESTARTS", "ADDRESS", "NOTE")
    print_table(columns, [_row(instance) for instance in instances], numbers_from=len(columns))


def _row(instance: Instance) -> tuple[str, ...]:
    return (
        instance.name,
        instance.role.value,
        instance.state.value,
        str(instance.restart_count),
        instance.address,
        _note(instance),
    )


def _note(instance: Instance) -> str:
    if instance.oom_killed:
        return "killed by the real OOM killer: raise --memory or lower --nodes-per-agent"
    if instance.exit_code is not None:
        return f"ended with status {instance.exit_code}"
    return instance.detail
