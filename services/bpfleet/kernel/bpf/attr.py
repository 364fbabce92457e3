"""union bpf_attr, the parts the emulated commands read. Integers are unsigned 32-bit unless noted."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

NUMA_NO_NODE: Final = 0xFFFFFFFF
MAP_EXTRA_OFFSET: Final = 64  # of map_extra in the MAP_CREATE attributes


class Address(IntEnum):
    """User pointers that matter by their address, not by what they point to."""

    GOOD = 0  # mapped and writable
    NULL = 1
    BAD = 2  # not mapped


UserBytes: TypeAlias = bytes | Address | None
"""Bytes user space points to. None is a NULL pointer, ``Address.BAD`` an unmapped one."""


@dataclass(frozen=True, slots=True)
class MapAttr:
    """Attributes of BPF_MAP_CREATE. Sizes are bytes; descriptors are those of the calling task.

    ``map_extra`` is unsigned 64-bit. ``inner_map_fd`` and ``btf_fd`` None mean the field is zero. ``memcg_fd`` names
    the cgroup that pays; only the what-if of a selectable memcg has the field.
    """

    map_type: int
    key_size: int = 0
    value_size: int = 0
    max_entries: int = 0
    map_flags: int = 0
    inner_map_fd: int | None = None
    numa_node: int = 0
    map_name: str = ""
    map_ifindex: int = 0
    btf_fd: int | None = None
    btf_key_type_id: int = 0
    btf_value_type_id: int = 0
    btf_vmlinux_value_type_id: int = 0
    map_extra: int = 0
    value_type_btf_obj_fd: int = 0
    map_token_fd: int = 0
    memcg_fd: int | None = None
    attr_size: int = 0  # bytes handed to bpf(2); 0 = exactly what the kernel knows
    attr_tail: int = 0  # value of the last of them, where no field above lies
