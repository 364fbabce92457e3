"""struct bpf_map_info and what /proc/PID/fdinfo adds to it [kernel/bpf/syscall.c]."""

from dataclasses import dataclass

from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.proc.file import File


@dataclass(frozen=True, slots=True)
class MapInfo:
    """struct bpf_map_info, and what the descriptor's fdinfo adds: ``memlock_bytes``, ``frozen``, access of the file."""

    id: int
    map_type: int
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int
    name: str
    map_extra: int
    memlock_bytes: int
    frozen: bool
    readable: bool
    writable: bool


def map_info(bpf_map: BpfMap, file: File) -> MapInfo:
    """What the descriptor of a map shows."""
    return MapInfo(
        bpf_map.id,
        int(bpf_map.map_type),
        bpf_map.key_size,
        bpf_map.value_size,
        bpf_map.max_entries,
        bpf_map.map_flags,
        bpf_map.name,
        bpf_map.attr.map_extra,
        bpf_map.memlock_bytes(),
        bpf_map.frozen,
        file.readable,
        file.writable,
    )
