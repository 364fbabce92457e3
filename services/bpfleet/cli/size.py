"""``bpfleet size``: what a map, an application or a host's listing costs under each kernel."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from bpfleet.abi.bpf import MapType
from bpfleet.api.limits import limits_of_inventory
from bpfleet.cli.inputs import Size, cpus_of_listings, read_listings, tell_kernels
from bpfleet.cli.limit import LIMIT_COLUMNS
from bpfleet.cli.listing import print_rows
from bpfleet.cli.output import console, print_json, print_sureness, print_table
from bpfleet.kernel.profile import KernelProfile, Use, sureness, used_by
from bpfleet.report.sizes import MapSize, TotalSize, size_of_inventory, size_of_map, total_of
from bpfleet.runtime.profiles import profile_from
from bpfleet.workload.catalogue import inventory_for
from bpfleet.workload.codec import to_data
from bpfleet.workload.errors import SpecError
from bpfleet.workload.quantity import format_bytes
from bpfleet.workload.spec import CPUS_MAX, Inventory, MapDeclaration, NodeShape

__all__ = ["command"]

_CPUS = 16
_PROFILES = used_by(Use.SIZE)
_TYPES = sorted(m.name.lower() for m in MapType if m is not MapType.UNSPEC)


@click.command("size")
@click.argument("map_type", metavar="[TYPE]", type=click.Choice(_TYPES), required=False)
@click.option("--key", default=4, show_default=True, help="Bytes of a key.")
@click.option("--value", default=8, show_default=True, help="Bytes of a value.")
@click.option("--entries", default=1024, show_default=True, help="max_entries.")
@click.option(
    "--flags", default="0", show_default=True, help="map_flags, such as 0x1 (no prealloc)."
)
@click.option("--app", help="An application of the catalogue instead of TYPE.")
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
    help=f"Possible CPUs [default: what --inventory tells, else {_CPUS}].",
)
@click.option(
    "--ram",
    type=Size(),
    default="64G",
    show_default=True,
    help="Node memory; some applications size their maps by it.",
)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    help=f"Kernel, repeatable [default: {', '.join(_PROFILES)}].",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    *,
    map_type: str | None,
    key: int,
    value: int,
    entries: int,
    flags: str,
    app: str | None,
    options: tuple[str, ...],
    inventories: tuple[Path, ...],
    cpus: int | None,
    ram: int,
    profiles: tuple[str, ...],
    as_json: bool,
) -> None:
    """What a map, an application or a real host's maps cost under each kernel.

    \b
    Examples:
      bpfleet size hash --key 8 --value 16 --entries 65536
      bpfleet size lpm_trie --key 20 --value 4 --entries 1048576 --flags 0x1 --cpus 64
      bpfleet size --app cilium --cpus 64 --ram 256G
      bpfleet size --inventory host.json --profile 5.10 --profile 6.12
    """
    if sum((map_type is not None, app is not None, bool(inventories))) != 1:
        raise click.UsageError("name a map TYPE, or --app, or --inventory: exactly one of them")
    tell_kernels(profiles)
    kernels = {name: profile_from(name) for name in profiles or _PROFILES}
    if map_type is not None:
        declared = _declared(map_type, key, value, entries, flags)
        _one_map(declared, kernels, cpus or _CPUS, as_json=as_json)
        return
    found: Sequence[Inventory]
    if app is not None:
        shape = NodeShape(possible_cpus=cpus or _CPUS, ram_bytes=ram)
        found = [inventory_for(app, shape, dict(_option(text) for text in options))]
    else:
        listings = read_listings(inventories)
        cpus = cpus_of_listings(listings, cpus)
        found = [listing.inventory for listing in listings]
        if cpus is None:
            click.echo(f"{_CPUS} CPUs are assumed; --cpus sets them", err=True)
    _inventories(
        found, kernels, NodeShape(possible_cpus=cpus or _CPUS, ram_bytes=ram), as_json=as_json
    )


def _declared(map_type: str, key: int, value: int, entries: int, flags: str) -> MapDeclaration:
    kind = MapType[map_type.upper()]
    holds_maps = kind in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
    inner = MapDeclaration(
        name="inner", map_type=MapType.ARRAY, key_size=4, value_size=8, max_entries=1
    )
    try:
        map_flags = int(flags, 0)
    except ValueError:
        raise SpecError("--flags", "", flags, "not a number", "write 1 or 0x1") from None
    try:
        return MapDeclaration(
            name="map",
            map_type=kind,
            key_size=key,
            value_size=value,
            max_entries=entries,
            map_flags=map_flags,
            inner=inner if holds_maps else None,
        )
    except SpecError as error:
        raise error.within(map_type) from None


def _option(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    try:
        return name, int(value)
    except ValueError:
        raise click.BadParameter(f"{text!r}: write NAME=N, such as pods=20") from None


def _one_map(
    declared: MapDeclaration, kernels: dict[str, KernelProfile], cpus: int, *, as_json: bool
) -> None:
    sizes = {name: size_of_map(declared, profile, cpus) for name, profile in kernels.items()}
    if as_json:
        print_json(
            {
                name: {**_data(size), "kernel": kernels[name].known_by}
                for name, size in sizes.items()
            }
        )
        return
    print_table(
        ("kernel", "precharge", "bpftool shows", "charged at creation", "not charged", "per element",
         "when full", "after a flush and a refill", "classes of allocation"),
        (_map_row(name, size) for name, size in sizes.items()),
    )  # fmt: skip
    print_sureness(sureness(kernels))


def _map_row(name: str, size: MapSize) -> tuple[str, ...]:
    if size.refusal:
        return (name, "", "", "", "", "", "", "", size.refusal)
    return (
        name,
        _bytes(size.precharge_bytes),
        f"{size.memlock_bytes:,}",
        f"{size.charged_bytes:,}",
        f"{size.escaped_bytes:,}",
        f"{size.element_bytes:,}",
        _bytes(size.full_bytes),
        _bytes(size.refilled_bytes),
        _classes(size),
    )


def _inventories(
    found: Sequence[Inventory],
    kernels: dict[str, KernelProfile],
    shape: NodeShape,
    *,
    as_json: bool,
) -> None:
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
    if as_json:
        print_json(
            {
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
            }
        )
        return
    out = console()
    names = ", ".join(inventory.title or inventory.name for inventory in found)
    out.print(f"{names}, {cpus} CPUs, heap {format_bytes(heap)}", markup=False, style="bold")
    _print_objects(sizes)
    out.print()
    print_table(
        ("total", "maps", "precharge", "bpftool shows", "charged at creation", "not charged", "when full",
         "refilled", "while loading", "classes"),
        (_total_row(name, total) for name, total in totals.items()),
    )  # fmt: skip
    out.print()
    print_rows(limits, LIMIT_COLUMNS, "table", data=to_data)
    print_sureness(sureness(kernels))


def _print_objects(sizes: dict[str, list[MapSize]]) -> None:
    """One line per object: what every kernel charges for it at creation."""
    first = next(iter(sizes.values()))
    rows = [
        (
            size.name or "(no name)",
            size.type_name,
            f"{size.count:,}",
            f"{size.max_entries:,}" if size.max_entries else "",
            *(_cell(found[index]) for found in sizes.values()),
        )
        for index, size in enumerate(first)
    ]
    print_table(("charged at creation", "type", "count", "entries", *sizes), rows, numbers_from=2)


def _cell(size: MapSize) -> str:
    return size.refusal.partition(":")[0] if size.refusal else _bytes(size.charged_bytes)


def _total_row(name: str, total: TotalSize) -> tuple[str, ...]:
    return (
        name,
        f"{total.maps:,}",
        _bytes(total.precharge_bytes),
        _bytes(total.memlock_bytes),
        _bytes(total.charged_bytes),
        _bytes(total.escaped_bytes),
        _bytes(total.full_bytes),
        _bytes(total.refilled_bytes),
        _range(total.verifying_bytes),
        _classes(total),
    )


def _classes(size: MapSize | TotalSize) -> str:
    return ", ".join(f"{name} {format_bytes(value)}" for name, value in size.charged.items())


def _bytes(value: int) -> str:
    return format_bytes(value) if value else "0"


def _range(bounds: tuple[int, int]) -> str:
    """What is charged while the largest program is verified; two numbers where its paths are not known."""
    least, most = bounds
    return _bytes(least) if least == most else f"{_bytes(least)} to {_bytes(most)}"


def _data(size: MapSize) -> dict[str, object]:
    return {**asdict(size), "charged_bytes": size.charged_bytes}
