"""A reader of BTF as in /sys/kernel/btf/vmlinux: struct sizes, members, enumerators [include/uapi/linux/btf.h]."""

import struct
from dataclasses import dataclass, field, replace
from typing import Final

MAGIC: Final = 0xEB9F
_KIND_INT, _KIND_PTR, _KIND_ARRAY, _KIND_STRUCT, _KIND_UNION, _KIND_ENUM = 1, 2, 3, 4, 5, 6
_KIND_FUNC: Final = 12
_KIND_ENUM64: Final = 19
# Bytes after the 12-byte type header: fixed, and per unit of vlen.
_TAIL: Final = {
    _KIND_INT: (4, 0),
    _KIND_ARRAY: (12, 0),
    _KIND_STRUCT: (0, 12),
    _KIND_UNION: (0, 12),
    _KIND_ENUM: (0, 8),
    13: (0, 8),  # FUNC_PROTO
    14: (4, 0),  # VAR
    15: (0, 12),  # DATASEC
    17: (4, 0),  # DECL_TAG
    _KIND_ENUM64: (0, 12),
}
_LAST_KIND: Final = 19


class BtfError(ValueError):
    """The bytes are not BTF this reader understands."""


@dataclass(slots=True)
class Struct:
    """One struct or union by name. ``members`` maps a member's name to the length of its array, 0 when it is none."""

    size_bytes: int
    members: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Vmlinux:
    """What was read: structs by name, the enumerators of all enums, and the functions of the kernel."""

    structs: dict[str, Struct]
    enumerators: dict[str, int]
    functions: frozenset[str] = frozenset()

    def has_member(self, struct_name: str, member: str) -> bool:
        """Whether the struct is there and has the member."""
        found = self.structs.get(struct_name)
        return found is not None and member in found.members


def read_btf(data: bytes) -> Vmlinux:
    """Reads a little-endian BTF blob. Raises BtfError naming what is wrong."""
    if len(data) < 24:
        raise BtfError(f"{len(data)} bytes are too few for BTF")
    magic, version, _flags, header_bytes, type_at, type_bytes, text_at, text_bytes = (
        struct.unpack_from("<HBBIIIII", data)
    )
    if magic != MAGIC:
        raise BtfError(f"magic {magic:#06x} is not {MAGIC:#06x}: not little-endian BTF")
    if version != 1:
        raise BtfError(f"BTF version {version} is not 1")
    if header_bytes + text_at + text_bytes > len(data):
        raise BtfError("the sections reach beyond the end: the file is cut")
    text = data[header_bytes + text_at : header_bytes + text_at + text_bytes]
    types = data[header_bytes + type_at : header_bytes + type_at + type_bytes]
    return _walk(types, text)


def _walk(types: bytes, text: bytes) -> Vmlinux:
    result = Vmlinux({}, {})
    functions: set[str] = set()
    arrays: dict[int, int] = {}
    structs: list[tuple[str, int, int, int]] = []
    at, type_id, end = 0, 1, len(types)
    unpack = struct.Struct("<III").unpack_from
    while at + 12 <= end:
        name_at, info, size = unpack(types, at)
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        if kind == 0 or kind > _LAST_KIND:
            raise BtfError(f"type {type_id} is of unknown kind {kind}")
        at += 12
        fixed, each = _TAIL.get(kind, (0, 0))
        if kind == _KIND_ARRAY:
            arrays[type_id] = struct.unpack_from("<I", types, at + 8)[0]
        elif kind in (_KIND_STRUCT, _KIND_UNION) and name_at:
            structs.append((_name(text, name_at), size, at, count))
        elif kind in (_KIND_ENUM, _KIND_ENUM64):
            for index in range(count):
                text_at, value = struct.unpack_from("<II", types, at + index * each)
                result.enumerators.setdefault(_name(text, text_at), value)
        elif kind == _KIND_FUNC:
            functions.add(_name(text, name_at))
        at += fixed + each * count
        type_id += 1
    for name, size, members_at, count in structs:
        result.structs.setdefault(
            name, Struct(size, _members(types, text, members_at, count, arrays))
        )
    return replace(result, functions=frozenset(functions))


def _members(
    types: bytes, text: bytes, at: int, count: int, arrays: dict[int, int]
) -> dict[str, int]:
    found = {}
    for index in range(count):
        name_at, type_id = struct.unpack_from("<II", types, at + index * 12)
        found[_name(text, name_at)] = arrays.get(type_id, 0)
    return found


def _name(text: bytes, at: int) -> str:
    return text[at : text.index(b"\0", at)].decode("ascii", "replace")
