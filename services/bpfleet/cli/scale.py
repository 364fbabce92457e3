"""``bpfleet scale``: another number of agents in a running cluster."""

from dataclasses import asdict

import click

from bpfleet.cli.clusters import cluster_options, engine_for, print_changes, progress_lines
from bpfleet.cli.output import print_json
from bpfleet.launcher.cluster import READY_SECONDS, scale

__all__ = ["command"]


@click.command("scale")
@click.argument("agents", type=click.IntRange(1, 1000))
@click.option("--wait-seconds", default=READY_SECONDS, show_default=True, help="Until it is ready.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@cluster_options
def command(*, agents: int, name: str, local: bool, wait_seconds: float, as_json: bool) -> None:
    """Bring a running cluster to AGENTS node agents; the others stay as they are.

    \b
    Examples:
      bpfleet scale 12
      bpfleet scale 2 --local
    """
    with engine_for(local) as engine, progress_lines(as_json) as progress:
        changes = scale(engine, name, agents, progress, ready_seconds=wait_seconds)
    if as_json:
        print_json(asdict(changes))
    else:
        print_changes(changes)
