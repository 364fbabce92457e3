"""``bpfleet logs``: what a service printed."""

import click

from bpfleet.cli.clusters import cluster_options, engine_for
from bpfleet.cli.output import print_json
from bpfleet.launcher.cluster import find, ps

__all__ = ["command"]


@click.command("logs")
@click.argument("service")
@click.option(
    "--lines", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of lines.")
@cluster_options
def command(*, service: str, lines: int, name: str, local: bool, as_json: bool) -> None:
    """Print the last lines of SERVICE, by full name or as role and number.

    \b
    Examples:
      bpfleet logs agent-0
      bpfleet logs coordinator-0 --lines 20
    """
    with engine_for(local) as engine:
        found = find(ps(engine, name), service)
        printed = list(engine.logs(name, found.name, lines))
    if as_json:
        print_json(printed)
        return
    for line in printed:
        click.echo(line)
