"""Records to plain data (JSON, TOML) and back; the only reader of declarations, so all say errors alike.

msgspec checks types and builds the records. Before it come the spellings that people write in files: sizes
with units, map and program types by bpftool's names, capabilities by theirs.
"""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from enum import Enum, IntEnum
from functools import cache
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct, inspect

from bpfleet.near import advice
from bpfleet.workload.errors import SpecError
from bpfleet.workload.quantity import parse_limit

__all__ = ["Record", "from_data", "to_data"]

T = TypeVar("T")
# One declared value of any type: what TOML and JSON readers return.
Plain = Any
# Turns what stands in a file into what msgspec reads; the path is for errors.
_Reader = Callable[[Plain, str], Plain]

_DEPTH_MAX: Final = 16
_PLACED: Final = re.compile(r"(?P<problem>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?", re.DOTALL)
_EXPECTED: Final = re.compile(r"Expected `(?P<wanted>[^`]*)`.*", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(?P<name>[^`]*)`")
_STEP: Final = re.compile(r"[^.\[\]]+|\[[^\]]*\]")
# What was wanted, the way people say it, and what to do.
_SENTENCES: Final[Mapping[str, tuple[str, str]]] = {
    "int": ("not a whole number", "write an integer"),
    "float": ("not a number", "write one, such as 0.5"),
    "str": ("not text", "write it in quotes"),
    "bool": ("neither true nor false", "write true or false"),
    "array": ("not a list", "write [ ... ]"),
    "object": ("not a table", "give fields by name"),
}


class Record(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Base of what is declared in files or kept in them: immutable, and a field it does not have is an error."""


def to_data(record: object) -> Plain:
    """``record`` as dictionaries, lists, numbers and strings; fields that hold their default may be left out."""
    return msgspec.to_builtins(record)


def from_data(kind: type[T], data: Plain, source: str) -> T:
    """The record that ``data`` describes. Raises ``SpecError`` naming ``source`` and the field.

    Sizes (fields ending in ``_bytes``) may be strings with units, enumerations are given by name,
    and a field the record does not have is an error: a typing mistake must not be ignored.
    """
    try:
        # A class is hashable, whatever the type checker says of type[T].
        return msgspec.convert(_reader_of(kind)(data, ""), kind)  # type: ignore[arg-type]
    except SpecError as error:
        raise error.within(source) from None
    except msgspec.ValidationError as error:
        raise _spec_error(error, data, source) from None


# -- spellings


@cache
def _reader_of(kind: Hashable) -> _Reader:
    """What reads a value of ``kind``, a record or a collection of records."""
    return _reader(inspect.type_info(kind), "")


def _reader(info: inspect.Type, name: str) -> _Reader:
    """What reads a value of this type that stands under ``name``."""
    match info:
        case inspect.StructType():
            # Looked up when it is needed: a record may hold its like.
            return lambda raw, path: _table(_fields(info.cls), raw, path)
        case inspect.VarTupleType() | inspect.ListType() | inspect.FrozenSetType():
            item = _reader(info.item_type, name)
            return lambda raw, path: _items(item, raw, path)
        case inspect.DictType():
            value = _reader(info.value_type, name)
            return lambda raw, path: _mapping(value, raw, path)
        case inspect.UnionType():
            return _union_reader(info, name)
        case inspect.EnumType():
            kind = info.cls
            return lambda raw, path: _member(kind, raw, path)
        case inspect.IntType() if name.endswith("_bytes"):
            return _size
        case _:
            return _as_it_is


@cache
def _fields(kind: type[Struct]) -> Mapping[str, _Reader]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType), f"{kind} is a record"
    return {field.encode_name: _reader(field.type, field.encode_name) for field in info.fields}


def _union_reader(info: inspect.UnionType, name: str) -> _Reader:
    """``X | None``, or a union of scalars, which holds whatever of them it was given."""
    choices = [part for part in info.types if not isinstance(part, inspect.NoneType)]
    if len(choices) > 1:
        return _as_it_is
    read = _reader(choices[0], name)
    return lambda raw, path: None if raw is None else read(raw, path)


def _table(fields: Mapping[str, _Reader], raw: Plain, path: str) -> Plain:
    if not isinstance(raw, Mapping):
        raise SpecError("", path, raw, *_SENTENCES["object"])
    if path.count(".") > _DEPTH_MAX:
        raise SpecError("", path, None, "nested too deeply", "flatten it")
    for name in raw:
        if name not in fields:
            where = _join(path, str(name))
            raise SpecError("", where, None, "unknown field", advice(name, sorted(fields)))
    return {name: fields[name](value, _join(path, name)) for name, value in raw.items()}


def _items(read: _Reader, raw: Plain, path: str) -> list[Plain]:
    if isinstance(raw, str) or not isinstance(raw, Sequence):
        raise SpecError("", path, raw, *_SENTENCES["array"])
    return [read(item, f"{path}[{index}]") for index, item in enumerate(raw)]


def _mapping(read: _Reader, raw: Plain, path: str) -> dict[str, Plain]:
    if not isinstance(raw, Mapping):
        raise SpecError("", path, raw, "not a table", "give keys and values")
    return {str(key): read(value, _join(path, str(key))) for key, value in raw.items()}


def _member(kind: type[Enum], raw: Plain, path: str) -> Plain:
    """The value of an enumeration's member, which a file gives by name."""
    by_name = issubclass(kind, IntEnum)
    for member in kind:
        if raw == member.value or (by_name and raw == member.name.lower()):
            return member.value
    known = [m.name.lower() if by_name else str(m.value) for m in kind]
    raise SpecError("", path, raw, "unknown", advice(raw, known))


def _size(raw: Plain, path: str) -> Plain:
    if not isinstance(raw, str):
        return raw
    try:
        return parse_limit(raw)
    except ValueError as error:
        problem, _, remedy = str(error).partition("; ")
        raise SpecError("", path, raw, problem, remedy) from None


def _as_it_is(raw: Plain, path: str) -> Plain:
    return raw


# -- errors


def _spec_error(error: msgspec.ValidationError, data: Plain, source: str) -> SpecError:
    """msgspec's error in the words of this package, with the value that was found."""
    placed = _PLACED.fullmatch(str(error))
    assert placed is not None, "the pattern matches every text"
    path = placed["path"] or ""
    if isinstance(error.__cause__, SpecError):
        found = error.__cause__
        return (found.under(path) if path else found).within(source)
    problem = placed["problem"]
    if missing := _MISSING.fullmatch(problem):
        return SpecError(source, _join(path, missing["name"]), None, "missing", "add it")
    if expected := _EXPECTED.fullmatch(problem):
        wanted = expected["wanted"].split(" | ")
        sentence = _SENTENCES.get(wanted[0], (f"not {wanted[0]}", "correct it"))
        if len([name for name in wanted if name != "null"]) > 1:
            sentence = ("neither text nor a number", "write one of them")
        return SpecError(source, path, _at(data, path), *sentence)
    return SpecError(source, path, _at(data, path), problem[:1].lower() + problem[1:], "correct it")


def _at(data: Plain, path: str) -> Plain:
    """What stands at ``path``; None where the path does not say which entry it is."""
    for step in _STEP.findall(path):
        if step == "[...]":
            return None
        data = data[int(step[1:-1])] if step.startswith("[") else data[step]
    return data


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
