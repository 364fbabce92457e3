"""``bpfleet map``: the BPF maps of a node, as bpftool would list them, with what they really cost."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import click

from bpfleet.abi.bpf import MapType
from bpfleet.cli.filling import fill_percent, percent
from bpfleet.cli.listing import BYTES, COUNT, NUMBER, Column, data_options, listing
from bpfleet.cli.map_attributes import FLAGS, MapTypeName, map_options
from bpfleet.cli.output import message_data, print_json, print_table, word
from bpfleet.cli.remote import agent
from bpfleet.cli.servers import agent_options
from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.v1 import bpf_pb2, process_service_pb2
from bpfleet.workload.quantity import format_bytes

__all__ = ["command"]


@click.group("map")
def command() -> None:
    """BPF maps of a node.

    \b
    Examples:
      bpfleet map list web-1
      bpfleet map show web-1 7
      bpfleet map create web-1 --pid 100 --type hash --key 8 --value 16 --entries 10K
    """


class _Listed(NamedTuple):
    """A map with the processes that have a descriptor of it."""

    info: bpf_pb2.MapInfo
    holders: Sequence[process_service_pb2.Process]

    def plain(self) -> dict[str, Any]:  # Any: JSON values
        """For JSON: the message, and who holds it."""
        holders = [
            {"pid": each.pid, "comm": each.comm, "cgroup": each.cgroup} for each in self.holders
        ]
        return {
            **message_data(self.info),
            "full_percent": fill_percent(self.info),
            "holders": holders,
        }


def _type(info: bpf_pb2.MapInfo) -> str:
    return word(bpf_pb2.MapType.Name(info.spec.map_type), "MAP_TYPE_", "_")


def _held_by(holders: Iterable[process_service_pb2.Process]) -> str:
    return ", ".join(f"{each.comm} ({each.pid})" for each in holders)


def _of_map(
    map_id: int, processes: Iterable[process_service_pb2.Process]
) -> list[process_service_pb2.Process]:
    return [each for each in processes if map_id in each.map_ids]


@command.command("list")
@click.argument("node")
@agent_options
@listing(
    Column("id", lambda m: m.info.map_id),
    Column("type", lambda m: _type(m.info)),
    Column("name", lambda m: m.info.spec.map_name, shrinks=True),
    Column("key", lambda m: m.info.spec.key_size_bytes, BYTES, priority=3),
    Column("value", lambda m: m.info.spec.value_size_bytes, BYTES, priority=2),
    Column("entries", lambda m: m.info.spec.max_entries, COUNT),
    Column("held", lambda m: m.info.element_count, COUNT, priority=1),
    Column("full", lambda m: fill_percent(m.info), NUMBER, percent),
    Column("memlock", lambda m: m.info.memlock_bytes, BYTES, wide=True),
    Column("estimate", lambda m: m.info.estimate_bytes, BYTES, wide=True),
    Column("charged", lambda m: m.info.charged_bytes, BYTES),
    Column("charged to", lambda m: m.info.charged_to or "nobody", shrinks=True),
    Column("pinned", lambda m: " ".join(sorted(m.info.pinned_paths)), wide=True),
    Column("held by", lambda m: _held_by(m.holders), wide=True),
    data=lambda m: m.plain(),
)
def list_maps(*, node: str, server: ChannelOptions) -> Iterable[_Listed]:
    """Every map: attributes, how full it is, what it is charged and to whom; with -o wide pins and holders.

    \b
    Examples:
      bpfleet map list web-1
      bpfleet map list web-1 -o wide --filter 'full>90'
    """
    with agent(server) as client:
        found = client.node(node)
        processes = [each for each in found.list_processes() if each.map_ids]
        return [_Listed(info, _of_map(info.map_id, processes)) for info in found.list_maps()]


@command.command("show")
@click.argument("node")
@click.argument("map_id", type=click.IntRange(1), metavar="ID")
@agent_options
@data_options
def show(*, node: str, map_id: int, server: ChannelOptions, as_json: bool) -> None:
    """One map: what it is, how full, what it costs, and who holds, pins and uses it.

    \b
    Examples:
      bpfleet map show web-1 7
      bpfleet map show web-1 7 --json
    """
    with agent(server) as client:
        found = client.node(node)
        info = next((each for each in found.list_maps() if each.map_id == map_id), None)
        if info is None:
            raise click.ClickException(
                f"{node} has no map {map_id}; 'bpfleet map list {node}' shows all"
            )
        holders = _of_map(map_id, found.list_processes())
        programs = [each for each in found.list_programs() if map_id in each.map_ids]
    if as_json:
        uses = [
            {"program_id": each.program_id, "program_name": each.program_name} for each in programs
        ]
        print_json({**_Listed(info, holders).plain(), "programs": uses})
        return
    full = fill_percent(info)
    share = "" if full is None else f", {percent(full)} full"
    rows = [
        ("type", _type(info)),
        ("key, value", f"{info.spec.key_size_bytes:,} B, {info.spec.value_size_bytes:,} B"),
        ("entries", f"{info.element_count:,} of {info.spec.max_entries:,}{share}"),
        ("flags", _flags_text(info.spec.map_flags) + (", frozen" if info.frozen else "")),
        ("charged", f"{format_bytes(info.charged_bytes)} to {info.charged_to or 'nobody'}"),
        ("memlock", f"{format_bytes(info.memlock_bytes)} ({info.memlock_bytes:,} bytes)"),
        ("estimate", f"{format_bytes(info.estimate_bytes)} by the rules of 5.10"),
        ("pinned", ", ".join(sorted(info.pinned_paths)) or "nowhere"),
        ("held by", ", ".join(f"{p.comm} ({p.pid}) in {p.cgroup}" for p in holders) or "nobody"),
        (
            "used by",
            ", ".join(f"{p.program_name or 'program'} ({p.program_id})" for p in programs)
            or "no program",
        ),
    ]
    if info.inner_map_ids:
        rows.append(("inner maps", ", ".join(map(str, info.inner_map_ids))))
    print_table((f"{map_id} {info.spec.map_name}".strip(), ""), rows, numbers_from=2)


def _flags_text(flags: int) -> str:
    """Flags by name."""
    return ", ".join(name for name, flag in FLAGS.items() if flags & flag) or "none"


@command.command("create")
@click.argument("node")
@agent_options
@click.option(
    "--pid",
    type=click.IntRange(1, (1 << 31) - 1),
    required=True,
    help="Process that creates it (bpfleet process list).",
)
@click.option(
    "--type", "map_type", type=MapTypeName(), required=True, help="hash, BPF_MAP_TYPE_HASH, ..."
)
@map_options
@click.option("--name", default="", help="Name, at most 15 characters.")
@data_options
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
