"""``bpfleet down``: nothing of a cluster is left."""

import click

from bpfleet.cli.clusters import cluster_options, engine_for, progress_lines
from bpfleet.cli.output import print_json
from bpfleet.launcher.cluster import down

__all__ = ["command"]


@click.command("down")
@click.option("--json", "as_json", is_flag=True, help="Print the names that were removed as JSON.")
@cluster_options
def command(*, name: str, local: bool, as_json: bool) -> None:
    """Stop a cluster and remove its containers, its network and its data.

    Fine where nothing runs.

    \b
    Examples:
      bpfleet down
      bpfleet down --local
    """
    with engine_for(local) as engine, progress_lines(as_json) as progress:
        removed = [instance.name for instance in down(engine, name, progress)]
    if as_json:
        print_json(removed)
    else:
        click.echo(f"{len(removed)} removed" if removed else "nothing was there")
