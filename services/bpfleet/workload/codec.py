"""Records to plain data (JSON, TOML) and back; the only reader of declarations, so all say errors
alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum, IntEnum, StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from bpfleet.workload.errors import SpecError
from bpfleet.workload.quantity import parse_limit

__all__ = ["from_data", "to_data"]

Record = TypeVar("Record")
# One declared value of any type: what TOML and JSON readers return.
Plain = Any

_DEPTH_MAX: Final = 16


def to_data(record: object) -> Plain:
    """``record`` as dictionaries, lists, numbers and strings; fields that hold their default are
    left out.
    """
    if is_dataclass(record) and not isinstance(record, type):
        present = ((f.name, getattr(record, f.name)) for f in fields(record) if _differs(f, record))
        return {name: to_data(value) for name, value in present}
    if isinstance(record, StrEnum):
        return record.value
    if isinstance(record, IntEnum):
        return record.name.lower()
    if isinstance(record, Mapping):
        return {str(key): to_data(value) for key, value in record.items()}
    if isinstance(record, frozenset):
        return sorted(to_data(value) for value in record)
    if isinstance(record, (list, tuple)):
        return [to_data(value) for value in record]
    return record


def from_data(kind: type[Record], data: Plain, source: str) -> Record:
    """The record that ``data`` describes. Raises ``SpecError`` naming ``source`` and the field.

    Sizes (fields ending in ``_bytes``) may be strings with units, enumerations are given by name,
    and a field the record does not have is an error: a typing mistake must not be ignored.
    """
    return _record(kind, data, source, "", depth=0)


def _record(kind: type[Record], data: Plain, source: str, path: str, *, depth: int) -> Record:
    if not isinstance(data, Mapping):
        raise SpecError(source, path, data, "not a table", "give fields by name")
    if depth > _DEPTH_MAX:
        raise SpecError(source, path, None, "nested too deeply", "flatten it")
    hints: dict[str, Plain] = _hints(kind)  # type: ignore[arg-type]  # a class is hashable
    _refuse_unknown(hints, data, source, path)
    values = {
        name: _value(hints[name], raw, source, _join(path, name), depth=depth + 1)
        for name, raw in data.items()
    }
    _require(kind, values, source, path)
    try:
        return kind(**values)
    except SpecError as error:
        raise (error.under(path) if path else error).within(source) from None


def _refuse_unknown(
    hints: Mapping[str, object], data: Mapping[str, Plain], source: str, path: str
) -> None:
    for name in data:
        if name not in hints:
            known = ", ".join(sorted(hints))
            raise SpecError(source, _join(path, str(name)), None, "unknown field", f"use {known}")


def _require(kind: type[object], values: Mapping[str, object], source: str, path: str) -> None:
    for entry in fields(kind):  # type: ignore[arg-type]  # callers pass record classes only
        optional = entry.default is not MISSING or entry.default_factory is not MISSING
        if entry.name not in values and not optional:
            raise SpecError(source, _join(path, entry.name), None, "missing", "add it")


def _value(hint: Plain, raw: Plain, source: str, path: str, *, depth: int) -> Plain:
    origin: Plain = get_origin(hint)
    if origin in (UnionType, Union):
        return _union(hint, raw, source, path, depth=depth)
    if origin is tuple:
        return tuple(_items(get_args(hint)[0], raw, source, path, depth=depth))
    if origin is frozenset:
        return frozenset(_items(get_args(hint)[0], raw, source, path, depth=depth))
    if origin is not None:
        return _mapping(hint, raw, source, path, depth=depth)
    if isinstance(hint, type) and is_dataclass(hint):
        return _record(hint, raw, source, path, depth=depth)
    if issubclass(hint, Enum):
        return _member(hint, raw, source, path)
    return _SCALARS[hint](raw, source, path)


def _union(hint: Plain, raw: Plain, source: str, path: str, *, depth: int) -> Plain:
    """``X | None``, or a union of scalars, which holds whatever of them it was given."""
    if raw is None and NoneType in get_args(hint):
        return None
    choices = [part for part in get_args(hint) if part is not NoneType]
    if len(choices) > 1 and not any(type(raw) is choice for choice in choices):
        raise SpecError(source, path, raw, "neither text nor a number", "write one of them")
    chosen = choices[0] if len(choices) == 1 else type(raw)
    return _value(chosen, raw, source, path, depth=depth)


def _items(hint: Plain, raw: Plain, source: str, path: str, *, depth: int) -> list[Plain]:
    if isinstance(raw, str) or not isinstance(raw, Sequence):
        raise SpecError(source, path, raw, "not a list", "write [ ... ]")
    return [
        _value(hint, item, source, f"{path}[{index}]", depth=depth)
        for index, item in enumerate(raw)
    ]


def _mapping(hint: Plain, raw: Plain, source: str, path: str, *, depth: int) -> dict[str, Plain]:
    if not isinstance(raw, Mapping):
        raise SpecError(source, path, raw, "not a table", "give keys and values")
    values = get_args(hint)[1]
    return {
        str(key): _value(values, value, source, _join(path, str(key)), depth=depth)
        for key, value in raw.items()
    }


def _member(kind: type[Enum], raw: Plain, source: str, path: str) -> Enum:
    for member in kind:
        names = (member.value,) if issubclass(kind, StrEnum) else (member.name.lower(),)
        if raw is member or (isinstance(raw, str) and raw in names):
            return member
    known = ", ".join(str(m.value) if isinstance(m, StrEnum) else m.name.lower() for m in kind)
    raise SpecError(source, path, raw, "unknown", f"use one of {known}")


def _whole(raw: Plain, source: str, path: str) -> int:
    if isinstance(raw, str) and path.endswith("_bytes"):
        try:
            return parse_limit(raw)
        except ValueError as error:
            raise SpecError(source, path, raw, *_sentence(error)) from None
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise SpecError(source, path, raw, "not a whole number", "write an integer")
    return raw


def _number(raw: Plain, source: str, path: str) -> float:
    if isinstance(raw, bool) or not isinstance(raw, (int, float)):
        raise SpecError(source, path, raw, "not a number", "write one, such as 0.5")
    return float(raw)


def _text(raw: Plain, source: str, path: str) -> str:
    if not isinstance(raw, str):
        raise SpecError(source, path, raw, "not text", "write it in quotes")
    return raw


def _truth(raw: Plain, source: str, path: str) -> bool:
    if not isinstance(raw, bool):
        raise SpecError(source, path, raw, "neither true nor false", "write true or false")
    return raw


_SCALARS: Final[dict[type, Callable[[Plain, str, str], Plain]]] = {
    int: _whole,
    float: _number,
    str: _text,
    bool: _truth,
}


def _sentence(error: ValueError) -> tuple[str, str]:
    problem, _, remedy = str(error).partition("; ")
    return problem, remedy


def _differs(entry: Field[Plain], record: object) -> bool:
    value = getattr(record, entry.name)
    if entry.default is not MISSING:
        return bool(value != entry.default)
    if entry.default_factory is not MISSING:
        return bool(value != entry.default_factory())
    return True


@cache
def _hints(kind: Plain) -> dict[str, Plain]:
    return get_type_hints(kind)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
