"""``bpfleet charges``: who pays for BPF on this host, in a capture or on an emulated node."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import msgspec

from bpfleet.captures.charges import PayerRow, openmetrics, payer_rows
from bpfleet.captures.document import Document, read_document
from bpfleet.cli.capture import this_host
from bpfleet.cli.listing import BYTES, COUNT, Column, Rows, listing, watchable
from bpfleet.cli.servers import agent_options, document_of
from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.workload.quantity import format_bytes

__all__ = ["command"]


EXIT_FAILED: Final = 1


def _size(value: int | None) -> str:
    return "" if value is None else format_bytes(value) if value else "0"


_COLUMNS: Final = (
    Column("payer", lambda r: r.payer, shrinks=True),
    Column("what", lambda r: r.what, shrinks=True, priority=1),
    Column("maps", lambda r: r.maps, COUNT),
    Column("programs", lambda r: r.programs, COUNT, priority=2),
    Column("bpf", lambda r: r.bytes, BYTES, _size),
    Column("usage", lambda r: r.usage, BYTES, _size),
    Column("limit", lambda r: r.limit, BYTES, lambda v: "max" if v is None else format_bytes(v)),
    Column("not bpf", lambda r: r.other, BYTES, _size, wide=True),
    Column("known by", lambda r: r.how, priority=3),
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
@click.option("--objects", is_flag=True, help="List below each payer its maps and programs.")
@watchable
@listing(*_COLUMNS, data=msgspec.to_builtins, name=lambda r: r.payer)
def command(
    *,
    file: Path | None,
    node: str | None,
    server: ChannelOptions,
    metrics: bool,
    objects: bool,
) -> Rows:
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
    document = _document(file, node, server)
    if document is None:
        raise click.exceptions.Exit(EXIT_FAILED)
    rows = payer_rows(document)
    if metrics:
        click.echo(openmetrics(rows, document.host.name), nl=False)
        raise click.exceptions.Exit(0)
    return Rows(rows=rows, below=_below(rows, objects=objects))


def _document(file: Path | None, node: str | None, server: ChannelOptions) -> Document | None:
    if file is not None:
        return read_document(file.read_bytes(), str(file))
    if node is not None:
        return document_of(server, node)
    return this_host()


def _below(rows: Sequence[PayerRow], *, objects: bool) -> str:
    """The totals, and with ``objects`` what each payer pays for."""
    lines = []
    for row in rows if objects else ():
        lines.append(f"\n{row.payer}")
        for each in row.objects:
            name = each.name or "(no name)"
            lines.append(
                f"  {each.kind:8} {each.id:6} {each.type:18} {name:16} {_size(each.bytes):>10}"
            )
    maps, programs = sum(row.maps for row in rows), sum(row.programs for row in rows)
    total = format_bytes(sum(row.bytes for row in rows))
    lines.append(f"\n{maps:,} maps and {programs:,} programs, {total}, {len(rows):,} payers")
    return "\n".join(lines)
