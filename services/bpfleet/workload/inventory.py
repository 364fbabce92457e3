"""What ``bpftool -j map show`` printed on a real host, as an inventory.

Accepts one listing (an array), one object (``map show id N``) or an object ``{"maps": [...],
"programs": [...]}`` with both listings. Everything a map needs to be created again is in there
except the inner maps of maps-in-maps, which bpftool does not print: a small array stands in for
them. Wrong input raises ``SpecError`` naming file, field and value.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from bpfleet.abi.bpf import (
    BPF_OBJ_NAME_LEN,
    F_INNER_MAP,
    F_NO_USER_CONV,
    F_RDONLY_PROG,
    F_WRONLY_PROG,
    MapType,
    ProgType,
)
from bpfleet.abi.limits import U32_MAX
from bpfleet.workload.errors import SpecError
from bpfleet.workload.spec import (
    MAPS_PER_INVENTORY_MAX,
    Churn,
    Inventory,
    MapDeclaration,
    ProgramDeclaration,
)

__all__ = ["TEXT_LENGTH_MAX", "inventory_from_bpftool"]

# One JSON value of any type.
Plain = Any

TEXT_LENGTH_MAX: Final = 64 << 20

_KNOWN_FLAGS: Final = (F_NO_USER_CONV << 1) - 1
_INSN_BYTES: Final = 8
_MAP_FIELDS: Final = {
    "key_size": "bytes_key",
    "value_size": "bytes_value",
    "map_flags": "flags",
    "inner_count": "inner_maps",
    "fill_entries": "entries",
}
_PROGRAM_FIELDS: Final = {"insn_cnt": "bytes_xlated"}
_INNER: Final = MapDeclaration(
    name="inner", map_type=MapType.ARRAY, key_size=4, value_size=8, max_entries=1
)
_PROG_TYPES: Final = {member.name.lower(): member for member in ProgType}


def inventory_from_bpftool(
    text: str, source: str, *, name: str, user_memory_bytes: int = 0, churn: Churn | None = None
) -> Inventory:
    """The inventory a bpftool listing describes; ``source`` is the file's name for messages."""
    maps, programs = _listings(_parse(text, source), source)
    declared = tuple(_map(entry, source, f"[{i}]") for i, entry in enumerate(maps))
    names = {_id(e, source, i): d.name for i, (e, d) in enumerate(zip(maps, declared, strict=True))}
    loaded = tuple(
        _program(entry, names, source, f"programs[{i}]") for i, entry in enumerate(programs)
    )
    if not declared and not loaded:
        raise SpecError(source, "", None, "lists no map", "use the output of bpftool -j map show")
    try:
        return Inventory(
            name=name,
            title=f"maps listed in {source}",
            source=f"bpftool listing {source}",
            maps=_distinct(declared),
            programs=loaded,
            user_memory_bytes=user_memory_bytes,
            churn=churn or Churn(),
        )
    except SpecError as error:
        raise error.within(source) from None


def _parse(text: str, source: str) -> Plain:
    if len(text) > TEXT_LENGTH_MAX:
        raise SpecError(source, "", None, "larger than 64 MiB", "split it into several files")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise SpecError(
            source, place, None, f"not JSON ({error.msg})", "use the output of bpftool -j map show"
        ) from None
    except RecursionError:
        raise SpecError(source, "", None, "nested too deeply", "use bpftool's output") from None


def _listings(
    data: Plain, source: str
) -> tuple[Sequence[Mapping[str, Plain]], Sequence[Mapping[str, Plain]]]:
    if isinstance(data, Mapping) and ("maps" in data or "programs" in data):
        return (
            _objects(data.get("maps", []), source, "maps"),
            _objects(data.get("programs", []), source, "programs"),
        )
    return _objects([data] if isinstance(data, Mapping) else data, source, ""), ()


def _objects(data: Plain, source: str, path: str) -> list[Mapping[str, Plain]]:
    if not isinstance(data, list):
        raise SpecError(source, path, data, "not a list of objects", "use bpftool's -j output")
    if len(data) > MAPS_PER_INVENTORY_MAX:
        raise SpecError(
            source, path, len(data), "too many entries", f"use at most {MAPS_PER_INVENTORY_MAX}"
        )
    for index, entry in enumerate(data):
        if not isinstance(entry, Mapping):
            raise SpecError(source, f"{path}[{index}]", entry, "not an object", "remove it")
        if "error" in entry:
            raise SpecError(
                source, f"{path}[{index}].error", entry["error"], "bpftool failed", "run it as root"
            )
    return data


def _map(entry: Mapping[str, Plain], source: str, path: str) -> MapDeclaration:
    kind = _map_type(entry, source, path)
    size = {
        name: _number(entry, name, source, path, high=U32_MAX)
        for name in ("bytes_key", "bytes_value", "max_entries")
    }
    flags = _number(entry, "flags", source, path, high=U32_MAX, missing=0)
    if flags & ~_KNOWN_FLAGS:
        raise SpecError(
            source, f"{path}.flags", flags, "unknown flag bits", f"use bits up to {_KNOWN_FLAGS:#x}"
        )
    holds_maps = kind in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
    try:
        return MapDeclaration(
            name=_name(entry, source, path),
            map_type=kind,
            key_size=size["bytes_key"],
            value_size=size["bytes_value"],
            max_entries=size["max_entries"],
            map_flags=_creatable(kind, flags),
            inner=_INNER if holds_maps else None,
            inner_count=_number(entry, "inner_maps", source, path, high=U32_MAX, missing=0)
            if holds_maps
            else 0,
            fill_entries=_number(entry, "entries", source, path, high=U32_MAX, missing=0),
            pinned=bool(entry.get("pinned")),
            frozen=bool(entry.get("frozen")),
            churn_weight=0 if entry.get("frozen") else 1,
        )
    except SpecError as error:
        raise _as_listed(error, _MAP_FIELDS).under(path).within(source) from None


def _as_listed(error: SpecError, names: Mapping[str, str]) -> SpecError:
    """The same error about the field as the listing calls it."""
    field = names.get(error.field, error.field)
    return SpecError(error.source, field, error.value, error.problem, error.remedy)


def _creatable(kind: MapType, flags: int) -> int:
    """The flags a creator passes: devmaps get RDONLY_PROG from the kernel, which refuses it as
    input.
    """
    if kind in (MapType.DEVMAP, MapType.DEVMAP_HASH):
        return flags & ~F_RDONLY_PROG
    if kind is not MapType.ARRAY:
        return flags & ~F_INNER_MAP
    both = F_RDONLY_PROG | F_WRONLY_PROG
    return flags & ~F_WRONLY_PROG if flags & both == both else flags


def _map_type(entry: Mapping[str, Plain], source: str, path: str) -> MapType:
    value = entry.get("type")
    if value is None:
        raise SpecError(source, f"{path}.type", None, "missing", "use bpftool's -j output")
    if isinstance(value, int) and not isinstance(value, bool) and value in set(MapType):
        kind = MapType(value)
    elif isinstance(value, str) and value.upper() in MapType.__members__:
        kind = MapType[value.upper()]
    else:
        kind = MapType.UNSPEC
    if kind is MapType.UNSPEC:
        known = ", ".join(m.name.lower() for m in MapType if m is not MapType.UNSPEC)
        raise SpecError(
            source,
            f"{path}.type",
            value,
            "unknown map type",
            f"use one of {known}, or remove the entry",
        )
    return kind


def _program(
    entry: Mapping[str, Plain], names: Mapping[int, str], source: str, path: str
) -> ProgramDeclaration:
    kind = entry.get("type")
    if not isinstance(kind, str) or kind not in _PROG_TYPES or kind == "unspec":
        known = ", ".join(sorted(_PROG_TYPES.keys() - {"unspec"}))
        raise SpecError(source, f"{path}.type", kind, "unknown program type", f"use one of {known}")
    bytes_xlated = _number(entry, "bytes_xlated", source, path, high=U32_MAX)
    used = [i for i in _list(entry, "map_ids", source, path) if isinstance(i, int)]
    try:
        return ProgramDeclaration(
            # bpftool prints functions' full names, from BTF; the kernel keeps the first 15 characters.
            name=_name(entry, source, path)[: BPF_OBJ_NAME_LEN - 1],
            prog_type=_PROG_TYPES[kind],
            insn_cnt=max(1, bytes_xlated // _INSN_BYTES),
            map_names=tuple(names[i] for i in used if i in names),
            pinned=bool(entry.get("pinned")),
        )
    except SpecError as error:
        raise _as_listed(error, _PROGRAM_FIELDS).under(path).within(source) from None


def _list(entry: Mapping[str, Plain], name: str, source: str, path: str) -> list[Plain]:
    value = entry.get(name, [])
    if not isinstance(value, list):
        raise SpecError(source, f"{path}.{name}", value, "not a list", "write [ ... ]")
    return value


def _id(entry: Mapping[str, Plain], source: str, index: int) -> int:
    return _number(entry, "id", source, f"[{index}]", high=U32_MAX, missing=0)


def _name(entry: Mapping[str, Plain], source: str, path: str) -> str:
    value = entry.get("name", "")
    if not isinstance(value, str):
        raise SpecError(source, f"{path}.name", value, "not text", "write it in quotes")
    return value


def _number(
    entry: Mapping[str, Plain],
    name: str,
    source: str,
    path: str,
    *,
    high: int,
    missing: int | None = None,
) -> int:
    value = entry.get(name, missing)
    where = f"{path}.{name}"
    if value is None:
        raise SpecError(source, where, None, "missing", "use bpftool's -j output")
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpecError(source, where, value, "not a whole number", "write an integer")
    if not 0 <= value <= high:
        raise SpecError(source, where, value, "out of range", f"use 0 to {high}")
    return value


def _distinct(maps: Iterable[MapDeclaration]) -> tuple[MapDeclaration, ...]:
    """Equal maps folded into one declaration with a count: real hosts hold thousands of equal maps."""
    counts = Counter(maps)
    return tuple(replace(declared, count=count) for declared, count in counts.items())
