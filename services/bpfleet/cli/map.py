"""``bpfleet map``: the BPF maps of a node, as bpftool would list them, with what they really cost."""

from collections.abc import Iterable
from typing import Final

import click

from bpfleet.abi.bpf import MapType
from bpfleet.cli.listing import BYTES, COUNT, NUMBER, Column, listing
from bpfleet.cli.map_attributes import MapTypeName, map_options
from bpfleet.cli.output import message_data, print_json, word
from bpfleet.cli.remote import agent, agent_options
from bpfleet.rpc.channel import ChannelOptions
from bpfleet.v1 import bpf_pb2
from bpfleet.workload.quantity import format_bytes

__all__ = ["command"]


@click.group("map")
def command() -> None:
    """BPF maps of a node.

    \b
    Examples:
      bpfleet map list web-1
      bpfleet map create web-1 --pid 100 --type hash --key 8 --value 16 --entries 10K
    """


# Types whose elements are created and deleted one by one; an array has all of its from the start.
_FILLED: Final = frozenset(
    {
        MapType.HASH, MapType.PERCPU_HASH, MapType.LRU_HASH, MapType.LRU_PERCPU_HASH, MapType.LPM_TRIE,
        MapType.HASH_OF_MAPS, MapType.DEVMAP_HASH, MapType.SOCKHASH, MapType.QUEUE, MapType.STACK,
    }
)  # fmt: skip


def _full_percent(info: bpf_pb2.MapInfo) -> float | None:
    """The share of entries that are held; None where elements have no limit or are all there from the start."""
    entries = info.spec.max_entries
    if not entries or MapType(info.spec.map_type) not in _FILLED:
        return None
    return round(100 * info.element_count / entries, 1)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.3g} %"


@command.command("list")
@click.argument("node")
@agent_options
@listing(
    Column("id", lambda m: m.map_id),
    Column("type", lambda m: word(bpf_pb2.MapType.Name(m.spec.map_type), "MAP_TYPE_", "_")),
    Column("name", lambda m: m.spec.map_name, shrinks=True),
    Column("key", lambda m: m.spec.key_size_bytes, BYTES, priority=3),
    Column("value", lambda m: m.spec.value_size_bytes, BYTES, priority=2),
    Column("entries", lambda m: m.spec.max_entries, COUNT),
    Column("held", lambda m: m.element_count, COUNT, priority=1),
    Column("full", _full_percent, NUMBER, _percent),
    Column("memlock", lambda m: m.memlock_bytes, BYTES, wide=True),
    Column("estimate", lambda m: m.estimate_bytes, BYTES, wide=True),
    Column("charged", lambda m: m.charged_bytes, BYTES),
    Column("charged to", lambda m: m.charged_to or "nobody", shrinks=True),
    Column("pinned", lambda m: " ".join(sorted(m.pinned_paths)), wide=True),
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
@click.option(
    "--type", "map_type", type=MapTypeName(), required=True, help="hash, BPF_MAP_TYPE_HASH, ..."
)
@map_options
@click.option("--name", default="", help="Name, at most 15 characters.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(
    *,
    node: str,
    server: ChannelOptions,
    pid: int,
    map_type: MapType,
    key: int,
    value: int,
    entries: int,
    flags: int,
    name: str,
    as_json: bool,
) -> None:
    """Creates a map in a process and prints what it cost, or errno and the true reason.

    \b
    Examples:
      bpfleet map create web-1 --pid 100 --type hash --key 8 --value 16 --entries 10K
      bpfleet map create web-1 --pid 100 --type lpm_trie --key 8 --value 4 --flags no_prealloc --name routes
    """
    with agent(server) as client:
        made = client.node(node).process(pid).create_map(
            map_type,
            key_size=key,
            value_size=value,
            max_entries=entries,
            map_flags=flags,
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
