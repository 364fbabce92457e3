"""``bpfleet application``: the catalogue of real programs, with their maps and options."""

from collections.abc import Iterable
from typing import Any, Final

import click
from msgspec import Struct

from bpfleet.cli.completion import names
from bpfleet.cli.inputs import Size
from bpfleet.cli.listing import BYTES, COUNT, Column, data_options, listing
from bpfleet.cli.output import console, print_json, print_table
from bpfleet.workload.catalogue import applications, default_options, inventory_for
from bpfleet.workload.codec import to_data
from bpfleet.workload.quantity import format_bytes
from bpfleet.workload.spec import CPUS_MAX, NodeShape

__all__ = ["command"]

# JSON values of any type.
Plain = Any

_SHAPE: Final = NodeShape(possible_cpus=16, ram_bytes=64 << 30)


class _Entry(Struct, frozen=True, kw_only=True):
    """A line of the list: maps and programs on a node of 16 CPUs and 64 GiB."""

    name: str
    title: str
    maps: int
    programs: int
    user_memory_bytes: int
    options: dict[str, int]


@click.group("application")
def command() -> None:
    """Real programs whose maps are known: what every --application and --app takes.

    \b
    Examples:
      bpfleet application list
      bpfleet application show cilium --cpus 64
    """


@command.command("list")
@listing(
    Column("name", lambda e: e.name),
    Column("maps", lambda e: e.maps, COUNT),
    Column("programs", lambda e: e.programs, COUNT),
    Column("heap", lambda e: e.user_memory_bytes, BYTES),
    Column("title", lambda e: e.title, shrinks=True),
    Column("options", lambda e: ", ".join(f"{k}={v}" for k, v in e.options.items()), wide=True),
    data=to_data,
)
def list_applications() -> Iterable[_Entry]:
    """All of them, with the maps and programs they have on 16 CPUs and 64 GiB.

    \b
    Examples:
      bpfleet application list
      bpfleet application list -o wide
    """
    for name in applications():
        inventory = inventory_for(name, _SHAPE)
        yield _Entry(
            name=name,
            title=inventory.title,
            maps=inventory.map_count,
            programs=inventory.program_count,
            user_memory_bytes=inventory.user_memory_bytes,
            options=dict(default_options(name)),
        )


@command.command("show")
@click.argument("name", shell_complete=names(applications))
@click.option("--cpus", type=click.IntRange(1, CPUS_MAX), default=16, show_default=True)
@click.option("--ram", type=Size(), default="64G", show_default=True, help="Memory of the node.")
@data_options
def show(*, name: str, cpus: int, ram: int, as_json: bool) -> None:
    """Maps, programs, options and the source of the figures of NAME, on a node of this size.

    \b
    Examples:
      bpfleet application show falco
      bpfleet application show cilium --cpus 64 --ram 256G --json
    """
    inventory = inventory_for(name, NodeShape(possible_cpus=cpus, ram_bytes=ram))
    options = default_options(name)
    if as_json:
        print_json({"options": dict(options), "inventory": to_data(inventory)})
        return
    out = console()
    out.print(f"{name}: {inventory.title}", style="bold", markup=False)
    out.print(f"source: {inventory.source}", markup=False)
    out.print(f"heap: {format_bytes(inventory.user_memory_bytes)}", markup=False)
    for option, value in options.items():
        out.print(f"option: {option} = {value:,}", markup=False)
    out.print()
    print_table(
        ("map", "type", "count", "key", "value", "max entries"),
        (
            (
                m.name,
                m.type_name,
                f"{m.maps:,}",
                f"{m.key_size:,}",
                f"{m.value_size:,}",
                f"{m.max_entries:,}",
            )
            for m in inventory.maps
        ),
        numbers_from=2,
    )
    out.print()
    print_table(
        ("program", "type", "count", "instructions"),
        (
            (p.name, p.prog_type.name.lower(), f"{p.count:,}", f"{p.insn_cnt:,}")
            for p in inventory.programs
        ),
        numbers_from=2,
    )
