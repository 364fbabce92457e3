"""How full a map is, for people who watch one fill."""

from typing import Final

from bpfleet.abi.bpf import MapType
from bpfleet.v1 import bpf_pb2

__all__ = ["fill_percent", "percent"]

# Types whose elements are created and deleted one by one; an array has all of its from the start.
_FILLED: Final = frozenset(
    {
        MapType.HASH, MapType.PERCPU_HASH, MapType.LRU_HASH, MapType.LRU_PERCPU_HASH, MapType.LPM_TRIE,
        MapType.HASH_OF_MAPS, MapType.DEVMAP_HASH, MapType.SOCKHASH, MapType.QUEUE, MapType.STACK,
    }
)  # fmt: skip


def fill_percent(info: bpf_pb2.MapInfo) -> float | None:
    """The share of entries that are held; None where elements have no limit or are all there from the start."""
    entries = info.spec.max_entries
    if not entries or MapType(info.spec.map_type) not in _FILLED:
        return None
    return round(100 * info.element_count / entries, 1)


def percent(value: float | None) -> str:
    """A share as tables show it; empty where there is none."""
    return "" if value is None else f"{value:.3g} %"
