"""Kernel profiles as TOML text: a known kernel's behaviour with another host's sizes. Text in, text out, no files."""

import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Final

from bpfleet.abi.bpf import MapType
from bpfleet.kernel.profile import KernelProfile, Memlock, StructSizes, profile_named

_STRUCTS: Final = frozenset(field.name for field in fields(StructSizes))
_FLAGS: Final = {
    field.name: field.type
    for field in fields(KernelProfile)
    if field.name not in ("name", "release", "model", "structs", "map_types", "payer")
}
_SECTIONS: Final = frozenset({"name", "release", "base", "map_types", "structs", "flags"})


def profile_from_toml(text: str) -> KernelProfile:
    """The profile a file describes: ``base`` names the kernel whose behaviour it takes, the rest overrides.

    Raises ``ValueError`` naming the field that is wrong.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"not TOML: {error}") from error
    unknown = set(data) - _SECTIONS
    if unknown:
        raise ValueError(f"unknown field {min(unknown)!r}; known: {', '.join(sorted(_SECTIONS))}")
    base = profile_named(_text(data, "base"))
    changes: dict[str, Any] = {"name": _text(data, "name"), "release": _text(data, "release")}
    if "map_types" in data:
        changes["map_types"] = _map_types(data["map_types"])
    return replace(
        base,
        structs=replace(base.structs, **_structs(data.get("structs", {}))),
        **changes,
        **_flags(data.get("flags", {}), base),
    )


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f'{name}: expected a text, as in {name} = "6.12"')
    return value


def _map_types(names: object) -> frozenset[MapType]:
    if not isinstance(names, list):
        raise ValueError("map_types: expected a list of names as bpftool prints them")
    found = set()
    for name in names:
        if str(name).upper() not in MapType.__members__:
            raise ValueError(f"map_types: {name!r} is no map type")
        found.add(MapType[str(name).upper()])
    return frozenset(found)


def _structs(table: object) -> dict[str, int]:
    if not isinstance(table, dict):
        raise ValueError("structs: expected a table of sizes in bytes")
    for name, size in table.items():
        if name not in _STRUCTS:
            raise ValueError(f"structs.{name}: this profile has no such struct")
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 1 << 20:
            raise ValueError(f"structs.{name}: {size!r} is no size in bytes")
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
