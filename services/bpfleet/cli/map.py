"""``bpfleet map``: the BPF maps of a node, as bpftool would list them, with what they really cost."""

from collections.abc import Iterable

import click

from bpfleet.abi.bpf import MapType
from bpfleet.abi.limits import U32_MAX
from bpfleet.cli.listing import Column, listing
from bpfleet.cli.output import message_data, print_json, word
from bpfleet.cli.remote import agent, agent_options
from bpfleet.rpc.channel import ChannelOptions
from bpfleet.v1 import bpf_pb2
from bpfleet.workload.quantity import format_bytes

__all__ = ["command"]

_U32 = click.IntRange(0, U32_MAX)
_TYPES = sorted(m.name.lower() for m in MapType if m is not MapType.UNSPEC)


@click.group("map")
def command() -> None:
    """BPF maps of a node.

    \b
    Examples:
      bpfleet map list web-1
      bpfleet map create web-1 --pid 100 --type hash --key 8 --value 16 --entries 10240
    """


@command.command("list")
@click.argument("node")
@agent_options
@listing(
    Column("id", lambda m: m.map_id),
    Column("type", lambda m: word(bpf_pb2.MapType.Name(m.spec.map_type), "MAP_TYPE_", "_")),
    Column("name", lambda m: m.spec.map_name, shrinks=True),
    Column("key", lambda m: m.spec.key_size_bytes, number=True),
    Column("value", lambda m: m.spec.value_size_bytes, number=True),
    Column("entries", lambda m: m.spec.max_entries, "{:,}".format, number=True),
    Column("held", lambda m: m.element_count, "{:,}".format, number=True),
    Column("memlock", lambda m: m.memlock_bytes, format_bytes, number=True, wide=True),
    Column("estimate", lambda m: m.estimate_bytes, format_bytes, number=True, wide=True),
    Column("charged", lambda m: m.charged_bytes, format_bytes, number=True),
    Column("charged to", lambda m: m.charged_to or "nobody", shrinks=True),
)
def list_maps(*, node: str, server: ChannelOptions) -> Iterable[bpf_pb2.MapInfo]:
    """Every map: attributes, what bpftool prints as memlock, the estimate and the true charge.

    \b
    Examples:
      bpfleet map list web-1
      bpfleet map list web-1 --json
    """
    with agent(server) as client:
        return list(client.node(node).list_maps())


@command.command("create")
@click.argument("node")
@agent_options
@click.option(
    "--pid",
    type=click.IntRange(1, (1 << 31) - 1),
    required=True,
    help="Process that creates it: see bpfleet process.",
)
@click.option("--type", "type_name", type=click.Choice(_TYPES), required=True)
@click.option("--key", type=_U32, default=4, show_default=True, help="Bytes of a key.")
@click.option("--value", type=_U32, default=8, show_default=True, help="Bytes of a value.")
@click.option("--entries", type=_U32, default=1024, show_default=True, help="max_entries.")
@click.option("--flags", default="0", show_default=True, help="map_flags, such as 0x1.")
@click.option("--name", default="", help="Name, at most 15 characters.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(
    *,
    node: str,
    server: ChannelOptions,
    pid: int,
    type_name: str,
    key: int,
    value: int,
    entries: int,
    flags: str,
    name: str,
    as_json: bool,
) -> None:
    """Creates a map in a process and prints what it cost, or errno and the true reason.

    \b
    Examples:
      bpfleet map create web-1 --pid 100 --type hash --key 8 --value 16 --entries 10240
      bpfleet map create web-1 --pid 100 --type lpm_trie --key 8 --value 4 --flags 1 --name routes
    """
    with agent(server) as client:
        made = client.node(node).process(pid).create_map(
            MapType[type_name.upper()],
            key_size=key,
            value_size=value,
            max_entries=entries,
            map_flags=_number(flags),
            name=name,
        )  # fmt: skip
    receipt = made.receipt
    if as_json:
        print_json({"fd": made.fd, "map_id": made.map_id, "receipt": message_data(receipt)})
        return
    click.echo(
        f"map {made.map_id}, fd {made.fd}: estimate {format_bytes(receipt.estimate_bytes)}, "
        f"charged {format_bytes(receipt.charged_bytes)} to {receipt.charged_to or 'nobody'}"
    )


def _number(text: str) -> int:
    try:
        return _U32.convert(int(text, 0), None, None)
    except ValueError:
        raise click.BadParameter(f"{text!r}: not a number; write 1 or 0x1") from None
