"""``bpfleet charges``: who pays for BPF on this host, in a capture or on an emulated node."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import msgspec

from bpfleet.captures.charges import PayerRow, openmetrics, payer_rows
from bpfleet.captures.document import Document, read_document
from bpfleet.cli.capture import this_host
from bpfleet.cli.emulated import capture_node
from bpfleet.cli.listing import WATCH_SECONDS, Column, print_rows
from bpfleet.cli.output import print_json
from bpfleet.cli.remote import agent, agent_options
from bpfleet.rpc.channel import ChannelOptions
from bpfleet.workload.quantity import format_bytes

__all__ = ["command"]


def _size(value: int | None) -> str:
    return "" if value is None else format_bytes(value) if value else "0"


_COLUMNS: Final = (
    Column("payer", lambda r: r.payer, shrinks=True),
    Column("what", lambda r: r.what, shrinks=True),
    Column("maps", lambda r: r.maps, "{:,}".format, number=True),
    Column("programs", lambda r: r.programs, "{:,}".format, number=True),
    Column("bpf", lambda r: r.bytes, _size, number=True),
    Column("usage", lambda r: r.usage, _size, number=True),
    Column(
        "limit", lambda r: r.limit, lambda v: "max" if v is None else format_bytes(v), number=True
    ),
    Column("not bpf", lambda r: r.other, _size, number=True, wide=True),
    Column("known by", lambda r: r.how),
)


@click.command("charges")
@click.argument(
    "file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--node", help="An emulated node instead of this host.")
@agent_options
@click.option(
    "--openmetrics", "metrics", is_flag=True, help="Print for node_exporter's textfile collector."
)
@click.option("--watch", is_flag=True, help="Refresh every two seconds until interrupted.")
@click.option("--objects", is_flag=True, help="List the maps and programs of each payer below it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    *,
    file: Path | None,
    node: str | None,
    server: ChannelOptions,
    metrics: bool,
    watch: bool,
    objects: bool,
    as_json: bool,
) -> int:
    """Who pays for BPF: each cgroup with its unit, container or pod, and each user, largest first.

    Asks this host, as root, unless a capture or an emulated node is given. Payers are read from the kernel by a BPF
    iterator; where that cannot be they are deduced from who holds the object, and marked so.

    \b
    Examples:
      bpfleet charges
      bpfleet charges host.json --objects
      bpfleet charges --openmetrics > /var/lib/node_exporter/bpf.prom
    """
    if file is not None and node is not None:
        raise click.UsageError("give a capture or --node, not both")
    while True:
        document = _document(file, node, server)
        if document is None:
            return 1
        rows = payer_rows(document)
        if watch:
            click.clear()
        if metrics:
            click.echo(openmetrics(rows, document.host.name), nl=False)
        elif as_json:
            print_json([msgspec.to_builtins(row) for row in rows])
        else:
            _print(rows, objects=objects)
        if not watch:
            return 0
        time.sleep(WATCH_SECONDS)


def _document(file: Path | None, node: str | None, server: ChannelOptions) -> Document | None:
    if file is not None:
        return read_document(file.read_bytes(), str(file))
    if node is not None:
        with agent(server) as client:
            return capture_node(client.node(node))
    return this_host()


def _print(rows: Sequence[PayerRow], *, objects: bool) -> None:
    print_rows(rows, _COLUMNS, "table")
    for row in rows if objects else ():
        click.echo(f"\n{row.payer}")
        for each in row.objects:
            name = each.name or "(no name)"
            click.echo(
                f"  {each.kind:8} {each.id:6} {each.type:18} {name:16} {_size(each.bytes):>10}"
            )
    maps, programs = sum(row.maps for row in rows), sum(row.programs for row in rows)
    total = format_bytes(sum(row.bytes for row in rows))
    click.echo(f"\n{maps:,} maps and {programs:,} programs, {total}, {len(rows)} payers")
