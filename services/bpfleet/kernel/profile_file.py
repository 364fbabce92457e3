"""Kernel profiles as TOML text: a known kernel's behaviour with another host's sizes. Text in, text out, no files."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Final

from bpfleet.abi.bpf import MapType
from bpfleet.kernel.profile import (
    KernelProfile,
    Memlock,
    Provenance,
    StructSizes,
    profile_named,
)
from bpfleet.plain import toml_table

_STRUCTS: Final = frozenset(field.name for field in fields(StructSizes))
_NOT_FLAGS: Final = frozenset(
    {"name", "release", "provenance", "source", "model", "structs", "map_types", "payer"}
)
_FLAGS: Final = {
    field.name: field.type for field in fields(KernelProfile) if field.name not in _NOT_FLAGS
}
_SECTIONS: Final = frozenset({"name", "release", "base", "map_types", "structs", "flags"})

_NAME_MAX: Final = 64
_STRUCT_MAX: Final = 64 << 10
# Numbers beyond which no kernel was built: a profile may come from afar.
_FLAG_MAX: Final = 1 << 40
_MOST: Final = {
    "memcg_charge_batch": 1 << 10,
    "memcg_stock_slots": 1 << 6,
    "bpf_attr_bytes": 1 << 12,
    "bpf_attr_map_create_bytes": 1 << 12,
    "array_value_limit_bytes": (1 << 31) - 1,
    "nr_cpus": 8192,
}


def profile_from_toml(text: str) -> KernelProfile:
    """The profile a file describes: ``base`` names the kernel whose behaviour it takes, the rest overrides.

    Raises ``ValueError`` naming the field that is wrong.
    """
    data = toml_table(text)
    unknown = set(data) - _SECTIONS
    if unknown:
        raise ValueError(f"unknown field {min(unknown)!r}; known: {', '.join(sorted(_SECTIONS))}")
    base = profile_named(_text(data, "base"))
    changes: dict[str, Any] = {"name": _text(data, "name"), "release": _text(data, "release")}
    if "map_types" in data:
        changes["map_types"] = _map_types(data["map_types"])
    return replace(
        base,
        provenance=Provenance.NEAREST,
        source=f"a file, behaviour of {base.name}",
        structs=replace(base.structs, **_structs(data.get("structs", {}), base)),
        **changes,
        **_flags(data.get("flags", {}), base),
    )


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f'{name}: expected a text, as in {name} = "6.12"')
    if len(value) > _NAME_MAX or not value.isprintable():
        raise ValueError(
            f"{name}: {value[:_NAME_MAX]!r}: use at most {_NAME_MAX} printable characters"
        )
    return value


def _map_types(names: object) -> frozenset[MapType]:
    if not isinstance(names, list):
        raise ValueError("map_types: expected a list of names as bpftool prints them")
    found = set()
    for name in names:
        if str(name).upper() not in MapType.__members__:
            raise ValueError(f"map_types: {name!r} is not a map type")
        found.add(MapType[str(name).upper()])
    return frozenset(found)


def _structs(table: object, base: KernelProfile) -> dict[str, int]:
    if not isinstance(table, dict):
        raise ValueError("structs: expected a table of sizes in bytes")
    for name, size in table.items():
        if name not in _STRUCTS:
            raise ValueError(f"structs.{name}: this profile has no such struct")
        least = (
            0 if getattr(base.structs, name) == 0 else 1
        )  # no size where the kernel lacks the struct
        if isinstance(size, bool) or not isinstance(size, int) or not least <= size <= _STRUCT_MAX:
            raise ValueError(
                f"structs.{name}: {size!r} is not a size in bytes; use {least} to {_STRUCT_MAX}"
            )
    return table


def _flags(table: object, base: KernelProfile) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ValueError("flags: expected a table")
    changes: dict[str, Any] = {}
    for name, value in table.items():
        if name not in _FLAGS:
            raise ValueError(f"flags.{name}: no such flag")
        present = getattr(base, name)
        if name == "memlock":
            if value not in list(Memlock):
                raise ValueError(f"flags.memlock: {value!r}; known: {', '.join(Memlock)}")
            changes[name] = Memlock(value)
        elif type(present) in (bool, int) and type(value) is type(present):
            most = _MOST.get(name, _FLAG_MAX)
            if type(value) is int and not 1 <= value <= most:
                raise ValueError(f"flags.{name}: {value} is out of range; use 1 to {most}")
            changes[name] = value
        else:
            raise ValueError(f"flags.{name}: expected a value like {present!r}, got {value!r}")
    return changes


def profile_to_toml(
    profile: KernelProfile, base: KernelProfile, sources: Mapping[str, str], header: str
) -> str:
    """The file text of a profile as its difference from ``base``; ``sources`` says where a value comes from."""
    lines = [f"# {line}" for line in header.splitlines()]
    lines += [
        f'name = "{profile.name}"',
        f'release = "{profile.release}"',
        f'base = "{base.name}"  # behaviour not listed below',
    ]
    types = ", ".join(f'"{each.name.lower()}"' for each in sorted(profile.map_types))
    lines += [f"map_types = [{types}]", "", "[structs]  # sizeof, in bytes"]
    for each in fields(StructSizes):
        source = sources.get(each.name, f"profile {base.name}")
        lines.append(f"{each.name} = {getattr(profile.structs, each.name)}  # {source}")
    lines += ["", "[flags]"]
    for name in _FLAGS:
        value = getattr(profile, name)
        if name in sources or value != getattr(base, name):
            lines.append(f"{name} = {_literal(value)}  # {sources.get(name, 'set by hand')}")
    return "\n".join(lines) + "\n"


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) and not isinstance(value, Memlock) else f'"{value}"'
