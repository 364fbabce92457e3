"""The operations a workload issues, as plain records: what to do, not how.

The same records drive an emulated kernel in this process, a node agent over gRPC and Locust. Keys
and values are derived from numbers here, so that a record stays small and a stream of them can be
repeated anywhere.
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from bpfleet.abi.bpf import F_NO_PREALLOC, MapType
from bpfleet.workload.spec import MapDeclaration

__all__ = [
    "ARRAY_TYPES",
    "BATCH_TYPES",
    "ELEMENT_TYPES",
    "PERCPU_TYPES",
    "TOUCH_BYTES",
    "OpKind",
    "Operation",
    "grows",
    "key_bytes",
    "key_count",
    "touch_parts",
    "value_bytes",
]


# A heap is touched in parts of this size: 64 GiB of page faults take a tenth of a second of the emulator.
TOUCH_BYTES: Final = 64 << 30


def touch_parts(size_bytes: int) -> Iterator[int]:
    """The sizes of the touches that fault ``size_bytes`` in."""
    for touched in range(0, size_bytes, TOUCH_BYTES):
        yield min(TOUCH_BYTES, size_bytes - touched)


class OpKind(IntEnum):
    """What one operation does."""

    LOOKUP = 0
    UPDATE = 1
    DELETE = 2
    CREATE = 3
    TOUCH = 4

    @property
    def call(self) -> str:
        """The system call or bpf(2) command it issues."""
        return _CALLS[self]


_CALLS: Final = (
    "MAP_LOOKUP_ELEM",
    "MAP_UPDATE_ELEM",
    "MAP_DELETE_ELEM",
    "MAP_CREATE",
    "page fault",
)


class Operation(NamedTuple):
    """One operation. ``target`` counts the maps of the application as declared, copies included.

    ``key`` is a number below ``key_count`` of the map; ``amount`` above 1 is one bpf(2) batch of
    that many keys, each the previous one's successor. CREATE makes one more map like its target and
    closes the oldest such map beyond the churn's ``extra_maps_max``. TOUCH faults ``amount`` bytes
    of anonymous memory in.
    """

    kind: OpKind
    target: int
    key: int = 0
    amount: int = 1


# Types whose elements user space looks up, updates and deletes by key.
_HASHES: Final = frozenset(
    {
        MapType.HASH,
        MapType.PERCPU_HASH,
        MapType.LRU_HASH,
        MapType.LRU_PERCPU_HASH,
        MapType.LPM_TRIE,
    }
)
PERCPU_TYPES: Final = frozenset(
    {MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH, MapType.PERCPU_ARRAY}
)
ARRAY_TYPES: Final = frozenset({MapType.ARRAY, MapType.PERCPU_ARRAY})
_LISTS: Final = frozenset({MapType.QUEUE, MapType.STACK})
ELEMENT_TYPES: Final = _HASHES | ARRAY_TYPES | _LISTS
BATCH_TYPES: Final = ELEMENT_TYPES - _LISTS

_LPM_PREFIX_BYTES: Final = 4


def key_count(declared: MapDeclaration, working_set: float = 1.0) -> int:
    """How many distinct keys churn draws from: the share ``working_set`` of the entries, at least
    1.
    """
    entries = max(1, int(declared.max_entries * working_set))
    if declared.map_type in ARRAY_TYPES or declared.map_type in _LISTS:
        return entries
    data_bytes = declared.key_size
    if declared.map_type is MapType.LPM_TRIE:
        data_bytes -= _LPM_PREFIX_BYTES
    return min(entries, 1 << (8 * min(max(data_bytes, 0), 8)))


def key_bytes(declared: MapDeclaration, key: int) -> bytes | None:
    """The bytes of key number ``key``: little-endian, zero-padded; full-length prefixes in tries;
    None in lists.
    """
    if declared.map_type in _LISTS:
        return None
    size = declared.key_size
    if declared.map_type is MapType.LPM_TRIE:
        data_bytes = max(size - _LPM_PREFIX_BYTES, 0)
        # The number is written at the end: the successor of a prefix is then its neighbour, as with
        # real subnets.
        data = (key & ((1 << (8 * data_bytes)) - 1)).to_bytes(data_bytes, "big")
        return (8 * data_bytes).to_bytes(_LPM_PREFIX_BYTES, "little") + data
    return (key & ((1 << (8 * size)) - 1)).to_bytes(size, "little")


def value_bytes(declared: MapDeclaration, possible_cpus: int) -> bytes:
    """A value as user space passes it: zeros, one rounded-up copy per possible CPU in per-CPU maps."""
    size = declared.value_size
    if declared.map_type in (
        MapType.PERCPU_HASH,
        MapType.LRU_PERCPU_HASH,
        MapType.PERCPU_ARRAY,
    ):
        size = (size + 7) // 8 * 8 * possible_cpus
    return bytes(size)


def grows(declared: MapDeclaration) -> bool:
    """Whether elements cost memory when they are inserted, not when the map is created."""
    if declared.map_type is MapType.LPM_TRIE:
        return True
    return declared.map_type in _HASHES and bool(declared.map_flags & F_NO_PREALLOC)
