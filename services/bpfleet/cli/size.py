"""``bpfleet size``: what a map, an application or a host's listing costs under each kernel."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bpfleet.abi.bpf import MapType
from bpfleet.cli.completion import names
from bpfleet.cli.inputs import (
    Size,
    application_options,
    cpus_of_listings,
    kernels_option,
    read_listings,
)
from bpfleet.cli.listing import BYTES, COUNT, NUMBER, TEXT, Column, Rows, listing, rows_text
from bpfleet.cli.map_attributes import MapTypeName, map_options
from bpfleet.cli.output import sureness_text
from bpfleet.kernel.profile import KernelProfile, Use, sureness, used_by
from bpfleet.progress import waiting
from bpfleet.report.sizes import MapSize, TotalSize, size_of_inventory, size_of_map, total_of
from bpfleet.runtime.profiles import profile_from
from bpfleet.workload.catalogue import applications, inventory_for
from bpfleet.workload.codec import to_data
from bpfleet.workload.errors import SpecError
from bpfleet.workload.quantity import format_bytes
from bpfleet.workload.spec import CPUS_MAX, Inventory, MapDeclaration, NodeShape

if TYPE_CHECKING:
    pass

__all__ = ["command"]

_CPUS = 16
_PROFILES = used_by(Use.SIZE)
EXIT_REFUSED: Final = 1


@click.command("size")
@click.argument("map_type", metavar="[TYPE]", type=MapTypeName(), required=False)
@map_options
@click.option(
    "--app",
    shell_complete=names(applications),
    help="An application of the catalogue instead of TYPE.",
)
@click.option("--option", "options", multiple=True, metavar="NAME=N", help="Option of the --app.")
@click.option(
    "--inventory",
    "inventories",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Output of `bpftool -j map show` instead of TYPE.",
)
@click.option(
    "--cpus",
    type=click.IntRange(1, CPUS_MAX),
    help=f"Possible CPUs [default: from --inventory, else {_CPUS}].",
)
@click.option(
    "--ram",
    type=Size(),
    default="64G",
    show_default=True,
    help="Node memory; some applications size their maps by it.",
)
@kernels_option(f"[default: {', '.join(_PROFILES)}]")
@listing()
def command(
    *,
    map_type: MapType | None,
    key: int,
    value: int,
    entries: int,
    flags: int,
    app: str | None,
    options: tuple[str, ...],
    inventories: tuple[Path, ...],
    cpus: int | None,
    ram: int,
    kernels: tuple[str, ...],
) -> Rows:
    """What a map, an application or a real host's maps cost under each kernel.

    \b
    Examples:
      bpfleet size hash --key 8 --value 16 --entries 64K
      bpfleet size lpm_trie --key 20 --value 4 --entries 1M --flags no_prealloc --cpus 64
      bpfleet size --app cilium --cpus 64 --ram 256G
      bpfleet size --inventory host.json --kernel 5.10,6.12
    """
    if sum((map_type is not None, app is not None, bool(inventories))) != 1:
        raise click.UsageError("name a map TYPE, or --app, or --inventory: exactly one of them")
    profiles = {name: profile_from(name) for name in kernels or _PROFILES}
    if map_type is not None:
        declared = _declared(map_type, key, value, entries, flags)
        return _one_map(declared, profiles, cpus or _CPUS)
    found: Sequence[Inventory]
    if app is not None:
        shape = NodeShape(possible_cpus=cpus or _CPUS, ram_bytes=ram)
        found = [inventory_for(app, shape, application_options(options))]
    else:
        listings = read_listings(inventories)
        cpus = cpus_of_listings(listings, cpus)
        found = [listing.inventory for listing in listings]
        if cpus is None:
            click.echo(f"{_CPUS} CPUs are assumed; --cpus sets them", err=True)
    shape = NodeShape(possible_cpus=cpus or _CPUS, ram_bytes=ram)
    with waiting("sizes and limits"):
        return _inventories(found, profiles, shape)


def _declared(kind: MapType, key: int, value: int, entries: int, flags: int) -> MapDeclaration:
    holds_maps = kind in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
    inner = MapDeclaration(
        name="inner", map_type=MapType.ARRAY, key_size=4, value_size=8, max_entries=1
    )
    try:
        return MapDeclaration(
            name="map",
            map_type=kind,
            key_size=key,
            value_size=value,
            max_entries=entries,
            map_flags=flags,
            inner=inner if holds_maps else None,
        )
    except SpecError as error:
        raise error.within(kind.name.lower()) from None


# The size of one map, or the total of an inventory, under one kernel.
_Sized = tuple[str, MapSize | TotalSize]


def _column(head: str, value: Callable[[Any], int], *, priority: int = 0) -> Column:
    """A quantity in bytes; empty where the kernel refuses the map."""
    return Column(
        head,
        lambda row: None if _refusal(row[1]) else value(row[1]),
        BYTES,
        lambda size: "" if size is None else format_bytes(size),
        priority=priority,
    )


def _refusal(size: MapSize | TotalSize) -> str:
    return size.refusal if isinstance(size, MapSize) else ""


_KERNEL: Final = Column("kernel", lambda row: row[0])
_QUANTITIES: Final = (
    _column("estimate", lambda size: size.estimate_bytes),
    _column("memlock", lambda size: size.memlock_bytes),
    _column("charged", lambda size: size.charged_bytes),
    _column("uncharged", lambda size: size.uncharged_bytes),
)
_LATER: Final = (
    _column("when full", lambda size: size.full_bytes),
    _column("refilled", lambda size: size.refilled_bytes),
)
_CLASSES: Final = Column(
    "classes of allocation",
    lambda row: _refusal(row[1]) or _classes(row[1]),
    folds=True,
    priority=2,
)
_MAP_COLUMNS: Final = (
    _KERNEL,
    *_QUANTITIES,
    _column("per element", lambda size: size.element_bytes),
    *_LATER,
    _CLASSES,
)
_TOTAL_COLUMNS: Final = (
    _KERNEL,
    Column("maps", lambda row: row[1].maps, COUNT),
    *_QUANTITIES,
    *_LATER,
    Column(
        "while loading",
        lambda row: list(row[1].verifying_bytes),
        TEXT,
        lambda v: _range(v),
        priority=1,
    ),
    _CLASSES,
)
_MEANINGS: Final = (
    "estimate: what 5.10 precharges to the user; memlock: what bpftool shows; charged, uncharged: used at creation,"
    " by somebody and by nobody; refilled: full, flushed and full again"
)


def _one_map(declared: MapDeclaration, kernels: dict[str, KernelProfile], cpus: int) -> Rows:
    sizes = {name: size_of_map(declared, profile, cpus) for name, profile in kernels.items()}
    refused = any(size.refusal for size in sizes.values())
    return Rows(
        rows=list(sizes.items()),
        # What is refused has no classes but a reason there.
        columns=(*_MAP_COLUMNS[:-1], replace(_CLASSES, priority=0)) if refused else _MAP_COLUMNS,
        document={
            name: {**_data(size), "kernel": kernels[name].known_by} for name, size in sizes.items()
        },
        below=f"{_MEANINGS}\n{sureness_text(sureness(kernels))}",
        status=EXIT_REFUSED if all(size.refusal for size in sizes.values()) else 0,
    )


def _inventories(
    found: Sequence[Inventory], kernels: dict[str, KernelProfile], shape: NodeShape
) -> Rows:
    # Imported here: what one map costs needs neither.
    from bpfleet.api.limits import limits_of_inventory
    from bpfleet.cli.limit import LIMIT_COLUMNS

    cpus = shape.possible_cpus
    limits = [
        row
        for inventory in found
        for name in kernels
        for row in limits_of_inventory(inventory, name, shape)
    ]
    sizes = {
        name: [s for inventory in found for s in size_of_inventory(inventory, profile, cpus)]
        for name, profile in kernels.items()
    }
    totals = {name: total_of(found_sizes) for name, found_sizes in sizes.items()}
    heap = sum(inventory.user_memory_bytes for inventory in found)
    names = ", ".join(inventory.title or inventory.name for inventory in found)
    title = click.style(f"{names}, {cpus} CPUs, heap {format_bytes(heap)}", bold=True)
    return Rows(
        rows=list(totals.items()),
        columns=_TOTAL_COLUMNS,
        document={
            "cpus": cpus,
            "user_memory_bytes": heap,
            "kernels": {
                name: {
                    "kernel": kernels[name].known_by,
                    "total": {**asdict(total), "charged_bytes": total.charged_bytes},
                    "objects": [_data(size) for size in sizes[name]],
                }
                for name, total in totals.items()
            },
            "limits": to_data(limits),
        },
        above=lambda width: f"{title}\n\n{_objects(sizes, width)}\n",
        below=lambda width: (
            f"{_MEANINGS}\n\n{rows_text(limits, LIMIT_COLUMNS, width)}\n{sureness_text(sureness(kernels))}"
        ),
    )


def _objects(sizes: dict[str, list[MapSize]], width: int | None) -> str:
    """A table with a line per object: what every kernel charges for it at creation."""
    first = next(iter(sizes.values()))
    columns = (
        Column("charged at creation", lambda n: first[n].name or "(no name)", shrinks=True),
        Column("type", lambda n: first[n].type_name, priority=1),
        Column("count", lambda n: first[n].count, COUNT, priority=2),
        Column("entries", lambda n: first[n].max_entries, COUNT, lambda v: f"{v:,}" if v else ""),
        *(Column(name, partial(_cell, found), NUMBER) for name, found in sizes.items()),
    )
    return rows_text(range(len(first)), columns, width)


def _cell(found: Sequence[MapSize], number: int) -> str:
    size = found[number]
    return size.refusal.partition(":")[0] if size.refusal else format_bytes(size.charged_bytes)


def _classes(size: MapSize | TotalSize) -> str:
    return ", ".join(f"{name} {format_bytes(value)}" for name, value in size.charged.items())


def _range(bounds: Sequence[int]) -> str:
    """What is charged while the largest program is verified; two numbers where its paths are not known."""
    least, most = map(format_bytes, bounds)
    return least if least == most else f"{least} to {most}"


def _data(size: MapSize) -> dict[str, object]:
    return {**asdict(size), "charged_bytes": size.charged_bytes}
