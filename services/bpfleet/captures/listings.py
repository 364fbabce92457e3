"""What bpftool and fdinfo print on a real host, as an inventory.

Read are ``bpftool map show`` and ``prog show`` as JSON (``-j``, ``-p``) and as plain text, with or without ``-f``, one
object or many, both listings in one text, an object ``{"maps": [...], "programs": [...]}``, and the lines of
``/proc/PID/fdinfo/FD``. Errors that bpftool prints in between, objects that vanished while it listed and types we do
not know are left out, with one warning each. Inner maps are in no listing: a small array stands in for them. Other
input raises ``SpecError`` naming file, field and value.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec.structs import replace

from bpfleet.abi.bpf import (
    BPF_OBJ_NAME_LEN,
    F_NO_USER_CONV,
    MapType,
    ProgType,
    creation_flags,
)
from bpfleet.abi.limits import U32_MAX
from bpfleet.workload.errors import SpecError
from bpfleet.workload.spec import (
    INSNS_MAX,
    MAPS_PER_INVENTORY_MAX,
    Churn,
    Complexity,
    Inventory,
    MapDeclaration,
    ProgramDeclaration,
)

__all__ = ["TEXT_LENGTH_MAX", "Listing", "SeenMap", "listing_name", "read_listing"]

# One JSON value of any type.
Plain = Any

TEXT_LENGTH_MAX: Final = 64 << 20

_KNOWN_FLAGS: Final = (F_NO_USER_CONV << 1) - 1
_INSN_BYTES: Final = 8
# struct bpf_prog up to its instructions; fdinfo tells a program's pages, not its length.
_PROG_HEADER_BYTES: Final = 72
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
_FORMS: Final = "use the output of bpftool map show, with -j or without"


@dataclass(frozen=True, slots=True)
class SeenMap:
    """One map of a listing: as it can be made again, and what the kernel showed as its memory, if it did."""

    declared: MapDeclaration
    memlock_bytes: int | None


@dataclass(frozen=True, slots=True)
class Listing:
    """A listing read. ``seen`` are its maps one by one, ``warnings`` what was left out or assumed."""

    inventory: Inventory
    seen: tuple[SeenMap, ...]
    warnings: tuple[str, ...]


@dataclass(slots=True)
class _Notes:
    """What is to be warned of, each kind once."""

    left_out: Counter[str] = field(default_factory=Counter)
    left_out_bytes: int = 0
    flags: int = 0
    said: list[str] = field(default_factory=list)
    vanished: int = 0
    others: Counter[str] = field(default_factory=Counter)

    def unknown(self, what: str, entry: Mapping[str, Plain]) -> None:
        self.left_out[what] += 1
        memlock = entry.get("bytes_memlock", 0)
        self.left_out_bytes += memlock if isinstance(memlock, int) else 0

    def unknown_flags(self, flags: int) -> None:
        self.flags |= flags

    def error(self, text: str) -> None:
        if re.search(r"no such file|can't get .* by id|\bENOENT\b", text, re.IGNORECASE):
            self.vanished += 1
        elif text not in self.said:
            self.said.append(text)

    def lines(self, source: str) -> tuple[str, ...]:
        lines = []
        if self.left_out:
            kinds = ", ".join(
                f"{count} of type {kind}" for kind, count in sorted(self.left_out.items())
            )
            lines.append(
                f"left out, not known here: {kinds}, memlock {self.left_out_bytes:,} bytes"
            )
        if self.flags:
            lines.append(f"flags {self.flags:#x} are not known here: maps are taken without them")
        if self.vanished:
            lines.append(f"{self.vanished} objects were gone before bpftool could read them")
        lines += [f"the listing holds the error: {text}" for text in self.said]
        if self.others:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.others.items()))
            lines.append(f"passed over: {kinds}")
        return tuple(f"{source}: {line}" for line in lines)


def listing_name(stem: str) -> str:
    """A workload's name from a file's.

    >>> listing_name("Host_1 maps")
    'host-1-maps'
    """
    kept = [c if c.isascii() and c.isalnum() else "-" for c in stem.lower()]
    return "".join(kept).strip("-")[:50].strip("-") or "host"


def read_listing(
    text: str, source: str, *, name: str, user_memory_bytes: int = 0, churn: Churn | None = None
) -> Listing:
    """The inventory a listing describes; ``source`` is the file's name for messages."""
    notes = _Notes()
    maps, programs = _objects_in(text, source, notes)
    declared: list[MapDeclaration] = []
    seen: list[SeenMap] = []
    names: dict[int, str] = {}
    for path, entry in maps:
        kind = _map_type(entry, source, path)
        if kind is None:
            notes.unknown(str(entry["type"]), entry)
            continue
        made = _map(entry, kind, notes, source, path)
        declared.append(made)
        names[_number(entry, "id", source, path, high=U32_MAX, missing=0)] = made.name
        memlock = _number(entry, "bytes_memlock", source, path, high=1 << 62, missing=0)
        seen.append(SeenMap(made, memlock if "bytes_memlock" in entry else None))
    loaded = list(_programs(programs, names, notes, source))
    if not declared and not loaded:
        raise SpecError(source, "", None, _nothing(notes, source), _FORMS)
    try:
        inventory = Inventory(
            name=name,
            title=f"maps listed in {source}",
            source=f"bpftool listing {source}",
            maps=_distinct(declared),
            programs=tuple(loaded),
            user_memory_bytes=user_memory_bytes,
            churn=churn or Churn(),
        )
    except SpecError as error:
        raise error.within(source) from None
    return Listing(inventory, tuple(seen), notes.lines(source))


def _nothing(notes: _Notes, source: str) -> str:
    if notes.said:
        return f"bpftool failed: {notes.said[0]}; run it as root"
    lines = notes.lines(source)
    return "lists no map" + (f" ({lines[0].removeprefix(source + ': ')})" if lines else "")


def _programs(
    entries: Iterable[tuple[str, Mapping[str, Plain]]],
    names: Mapping[int, str],
    notes: _Notes,
    source: str,
) -> Iterator[ProgramDeclaration]:
    for path, entry in entries:
        kind = entry.get("type")
        if isinstance(kind, int) and not isinstance(kind, bool) and kind in set(ProgType):
            kind = ProgType(kind).name.lower()
        if kind is None or isinstance(kind, bool) or not isinstance(kind, int | str):
            raise SpecError(
                source, f"{path}.type", kind, "unknown program type", "remove the entry"
            )
        if kind not in _PROG_TYPES or kind == "unspec":
            notes.unknown(f"{kind} (program)", entry)
        else:
            yield _program(entry, str(kind), names, source, path)


# -- forms of input

_Found = tuple[list[tuple[str, Mapping[str, Plain]]], list[tuple[str, Mapping[str, Plain]]]]


def _objects_in(text: str, source: str, notes: _Notes) -> _Found:
    """Entries of maps and of programs, each with its place for messages."""
    if len(text) > TEXT_LENGTH_MAX:
        raise SpecError(source, "", None, "larger than 64 MiB", "split it into several files")
    text = text.removeprefix("\ufeff")
    maps: list[tuple[str, Mapping[str, Plain]]] = []
    programs: list[tuple[str, Mapping[str, Plain]]] = []
    if _FDINFO.search(text):
        entries: Iterable[Mapping[str, Plain]] = _fdinfo(text)
    elif _PLAIN_HEAD.search(text):
        entries = _plain(text, notes)
    else:
        _from_json(_values(text, source, notes), source, notes, maps, programs)
        entries = ()
    for entry in entries:
        number = f"[{len(maps) + len(programs)}]"
        (programs if "bytes_xlated" in entry else maps).append((number, entry))
    for found in (maps, programs):
        if len(found) > MAPS_PER_INVENTORY_MAX:
            raise SpecError(
                source, "", len(found), "too many entries", f"use at most {MAPS_PER_INVENTORY_MAX}"
            )
    return maps, programs


def _values(text: str, source: str, notes: _Notes) -> list[Plain]:
    """The JSON values of a text, one after the other, with or without commas; lines between them are kept as errors."""
    values: list[Plain] = []
    decoder, at = json.JSONDecoder(), 0
    while (at := _skipped(text, at)) < len(text):
        if text[at] not in "[{" and values:
            end = text.find("\n", at)
            end = len(text) if end < 0 else end
            notes.error(text[at:end].strip())
            at = end
            continue
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            line_end = text.find("\n", at)
            if text[at] not in "[{" and line_end > 0 and _skipped(text, line_end) < len(text):
                notes.error(text[at:line_end].strip())  # a warning or a prompt before the listing
                at = line_end
                continue
            place = f"line {error.lineno} column {error.colno}"
            raise SpecError(source, place, None, f"not JSON ({error.msg})", _FORMS) from None
        except RecursionError:
            raise SpecError(source, "", None, "nested too deeply", "use bpftool's output") from None
        except ValueError:
            text = "a number of thousands of digits"
            raise SpecError(source, "", None, text, "use bpftool's output") from None
        values.append(value)
    if not values:
        raise SpecError(source, "line 1 column 1", None, "not JSON (empty)", _FORMS)
    return values


def _skipped(text: str, at: int) -> int:
    while at < len(text) and (text[at].isspace() or text[at] == ","):
        at += 1
    return at


def _from_json(
    values: Sequence[Plain],
    source: str,
    notes: _Notes,
    maps: list[tuple[str, Mapping[str, Plain]]],
    programs: list[tuple[str, Mapping[str, Plain]]],
) -> None:
    for value in values:
        if isinstance(value, Mapping) and value.keys() & {"maps", "programs", "progs"}:
            for key, into in (("maps", maps), ("programs", programs), ("progs", programs)):
                for place, entry in _objects(value.get(key, []), source, key, notes):
                    into.append((place, entry))
            continue
        listed = [value] if isinstance(value, Mapping) else value
        for place, entry in _objects(listed, source, "", notes):
            if _is_program(entry):
                programs.append((place, entry))
            elif (other := _other_kind(entry)) is not None:
                notes.others[other] += 1
            else:
                maps.append((place, entry))


def _is_program(entry: Mapping[str, Plain]) -> bool:
    return bool(entry.keys() & {"bytes_xlated", "tag", "jited", "bytes_jited"})


def _other_kind(entry: Mapping[str, Plain]) -> str | None:
    """What an entry is that is neither map nor program: bpftool lists links and BTF objects alike."""
    if entry.keys() & {"bytes_key", "bytes_value", "max_entries"}:
        return None
    if entry.keys() & {"prog_id", "attach_type", "target_name", "cgroup_id"}:
        return "links"
    return "BTF objects" if "size" in entry else None


def _objects(
    data: Plain, source: str, path: str, notes: _Notes
) -> Iterator[tuple[str, Mapping[str, Plain]]]:
    if not isinstance(data, list):
        raise SpecError(source, path, data, "not a list of objects", "use bpftool's -j output")
    for index, entry in enumerate(data):
        if not isinstance(entry, Mapping):
            remedy = (
                "give each listing as a file of its own" if isinstance(entry, list) else "remove it"
            )
            raise SpecError(source, f"{path}[{index}]", entry, "not an object", remedy)
        if "error" in entry:
            notes.error(str(entry["error"])[:200])
        else:
            yield f"{path}[{index}]", entry


# -- plain text of bpftool

_PLAIN_HEAD: Final = re.compile(
    r"^\s*(\d+): (?:type )?(\w+)(?:  name (.*?))?(?:  flags (0x[0-9a-f]+)|  tag [0-9a-f]+.*)\s*$",
    re.MULTILINE,
)
_ANY_HEAD: Final = re.compile(r"^\s*\d+: \S")
_PLAIN_NUMBERS: Final = {
    "bytes_key": re.compile(r"\bkey (\d+)B"),
    "bytes_value": re.compile(r"\bvalue (\d+)B"),
    "max_entries": re.compile(r"\bmax_entries (\d+)"),
    "bytes_memlock": re.compile(r"\bmemlock (\d+)B"),
    "bytes_xlated": re.compile(r"\bxlated (\d+)B"),
}
_PLAIN_PIN: Final = re.compile(r"^\s*pinned (\S.*)$")
_PLAIN_MAPS: Final = re.compile(r"\bmap_ids ([\d,]+)")
_PLAIN_FROZEN: Final = re.compile(r"(?:^|\s)frozen(?:\s|$)")


def _plain(text: str, notes: _Notes) -> Iterator[Mapping[str, Plain]]:
    """Entries of plain text, as bpftool's JSON would have them."""
    entry: dict[str, Plain] | None = None
    for line in text.splitlines():
        head = _PLAIN_HEAD.match(line)
        if head is not None or _ANY_HEAD.match(line):
            if entry is not None:
                yield entry
            entry = _plain_entry(head) if head is not None else None
            if head is None:
                notes.others["links"] += 1
        elif entry is not None:
            _plain_line(line, entry)
        if "error:" in line.lower():
            notes.error(line.strip())
    if entry is not None:
        yield entry


def _plain_entry(head: re.Match[str]) -> dict[str, Plain]:
    number, kind, name, flags = head.groups()
    entry: dict[str, Plain] = {"id": int(number), "type": int(kind) if kind.isdecimal() else kind}
    if name and name != "<unnamed>":
        entry["name"] = name.strip()
    if flags is None:
        entry["bytes_xlated"] = 0
    else:
        entry["flags"] = int(flags, 16)
    return entry


def _plain_line(line: str, entry: dict[str, Plain]) -> None:
    pin = _PLAIN_PIN.match(line)
    if pin is not None:
        entry.setdefault("pinned", []).append(pin[1].strip())
        return
    for name, pattern in _PLAIN_NUMBERS.items():
        found = pattern.search(line)
        if found is not None:
            entry[name] = int(found[1])
    if used := _PLAIN_MAPS.search(line):
        entry["map_ids"] = [int(number) for number in used[1].split(",") if number]
    if "bytes_xlated" not in entry and _PLAIN_FROZEN.search(line):
        entry["frozen"] = 1


# -- fdinfo

_FDINFO: Final = re.compile(r"^(?:\S+:)?(?:map|prog)_type:\s*\d+\s*$", re.MULTILINE)
_FDINFO_LINE: Final = re.compile(r"^(?:\S+:)?(\w+):\s*(0x[0-9a-fA-F]+|\d+)\s*$")
_FDINFO_MAP: Final = {
    "map_type": "type",
    "key_size": "bytes_key",
    "value_size": "bytes_value",
    "max_entries": "max_entries",
    "map_flags": "flags",
    "map_extra": "map_extra",
    "memlock": "bytes_memlock",
    "map_id": "id",
    "frozen": "frozen",
}


def _fdinfo(listing: str) -> Iterator[Mapping[str, Plain]]:
    """Entries of fdinfo texts one after the other. A descriptor that is open twice counts once, by its id."""
    entry: dict[str, Plain] = {}
    known: set[tuple[bool, int]] = set()
    for line in [*listing.splitlines(), "map_type: 0"]:
        found = _FDINFO_LINE.match(line)
        if found is None:
            continue
        name, text = found[1], found[2]
        value = int(text, 16 if text.startswith("0x") else 10)
        if name in ("map_type", "prog_type"):
            number = (entry.get("program", False), entry.get("id", 0))
            if entry and (number not in known or not number[1]):
                known.add(number)
                yield _of_fdinfo(entry)
            entry = {"program": name == "prog_type", "type": value}
        elif name == "prog_id":
            entry["id"] = value
        elif name in _FDINFO_MAP:
            entry[_FDINFO_MAP[name]] = value


def _of_fdinfo(entry: dict[str, Plain]) -> Mapping[str, Plain]:
    plain = {name: value for name, value in entry.items() if name != "program"}
    if entry["program"]:
        image = entry.get("bytes_memlock", 0) - _PROG_HEADER_BYTES
        return {**plain, "bytes_xlated": max(0, image)}
    return plain


# -- entries


def _map(
    entry: Mapping[str, Plain], kind: MapType, notes: "_Notes", source: str, path: str
) -> MapDeclaration:
    size = {
        name: _number(entry, name, source, path, high=U32_MAX)
        for name in ("bytes_key", "bytes_value", "max_entries")
    }
    flags = _number(entry, "flags", source, path, high=U32_MAX, missing=0)
    if flags & ~_KNOWN_FLAGS:
        notes.unknown_flags(flags & ~_KNOWN_FLAGS)
    holds_maps = kind in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
    try:
        return MapDeclaration(
            name=_name(entry, source, path),
            map_type=kind,
            key_size=size["bytes_key"],
            value_size=size["bytes_value"],
            max_entries=size["max_entries"],
            map_flags=creation_flags(kind, flags & _KNOWN_FLAGS),
            inner=_INNER if holds_maps else None,
            inner_count=_number(entry, "inner_maps", source, path, high=U32_MAX, missing=0)
            if holds_maps
            else 0,
            map_extra=_number(entry, "map_extra", source, path, high=(1 << 64) - 1, missing=0),
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


def _map_type(entry: Mapping[str, Plain], source: str, path: str) -> MapType | None:
    """The type of a map; None for one that Linux may have and we do not know."""
    value = entry.get("type")
    if value is None:
        raise SpecError(source, f"{path}.type", None, "missing", "use bpftool's -j output")
    if isinstance(value, bool) or not isinstance(value, int | str) or value in (0, "unspec"):
        raise SpecError(source, f"{path}.type", value, "unknown map type", "remove the entry")
    if isinstance(value, int):
        return MapType(value) if value in set(MapType) else None
    return MapType.__members__.get(value.upper())


def _program(
    entry: Mapping[str, Plain], kind: str, names: Mapping[int, str], source: str, path: str
) -> ProgramDeclaration:
    bytes_xlated = _number(entry, "bytes_xlated", source, path, high=U32_MAX, missing=0)
    verified = _number(entry, "verified_insns", source, path, high=U32_MAX, missing=0)
    used = [i for i in _list(entry, "map_ids", source, path) if isinstance(i, int)]
    try:
        return ProgramDeclaration(
            # bpftool prints functions' full names, from BTF; the kernel keeps the first 15 characters.
            name=_name(entry, source, path)[: BPF_OBJ_NAME_LEN - 1],
            prog_type=_PROG_TYPES[kind],
            insn_cnt=min(max(1, bytes_xlated // _INSN_BYTES), INSNS_MAX),
            map_names=tuple(names[i] for i in used if i in names),
            pinned=bool(entry.get("pinned")),
            complexity=Complexity(verified_insns=min(verified, INSNS_MAX)),
        )
    except SpecError as error:
        raise _as_listed(error, _PROGRAM_FIELDS).under(path).within(source) from None


def _list(entry: Mapping[str, Plain], name: str, source: str, path: str) -> list[Plain]:
    value = entry.get(name, [])
    if not isinstance(value, list):
        raise SpecError(source, f"{path}.{name}", value, "not a list", "write [ ... ]")
    return value


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
