"""STRUCT_OPS: a kernel operations table written in BPF [kernel/bpf/bpf_struct_ops.c].

Profiles: all. Create: the map with the kernel's copy of the value, the user's copy, and pointer arrays for programs
(links from 6.0, symbols too from 6.12); up to 6.1 one executable page. One element, key 0. A registered map holds a
reference on itself until it is deleted. Freed from a work item.
Gaps: tcp_congestion_ops is the only table (value type id 1); its members are not resolved to programs: an all-zero
value fails validation with EINVAL, any other registers.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Final, final

from bpfleet.abi.bpf import F_LINK, F_VTYPE_BTF_OBJ_FD, Capability
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.bpf.maps.slot import slot_of, slot_out_of_range
from bpfleet.kernel.bpf.refusals import not_found, refuse, require_bpf
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.errors import Reason
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile

POINTER_BYTES: Final = 8
VALUE_HEADER_BYTES: Final = 64  # struct bpf_struct_ops_value, data in its own cache line
COST_SLIP_BYTES: Final = 4  # the cost adds sizeof(vt->size) where it means vt->size


@dataclass(frozen=True, slots=True)
class OpsTable:
    """A table the kernel offers. ``value_bytes`` includes the header."""

    name: str
    value_bytes: int
    members: int
    functions: int


OPS_TABLES: Final = {1: OpsTable("tcp_congestion_ops", 256, 18, 13)}


class StructOpsState(IntEnum):
    """enum bpf_struct_ops_state."""

    INIT = 0
    INUSE = 1
    TOBEFREE = 2
    READY = 3


@final
class StructOpsMap(BpfMap):
    """STRUCT_OPS."""

    capability = Capability.BPF
    supported: ClassVar[str] = "cost only"
    gap: ClassVar[str] = (
        "tcp_congestion_ops is the only table; its members are not resolved to programs"
    )

    @classmethod
    def check(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """bpf_struct_ops_map_alloc_check. Raises EINVAL."""
        allowed = F_LINK | F_VTYPE_BTF_OBJ_FD if host.profile.struct_ops_takes_link else 0
        if (
            attr.key_size != 4
            or attr.max_entries != 1
            or attr.map_flags & ~allowed
            or not attr.btf_vmlinux_value_type_id
        ):
            raise refuse(
                Errno.EINVAL,
                "struct_ops needs 4-byte keys, one entry and btf_vmlinux_value_type_id",
            )

    @classmethod
    def check_alloc(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """Start of bpf_struct_ops_map_alloc. Raises EPERM (up to 6.4), 524 for an unknown table, EINVAL."""
        require_bpf(host, task)
        if attr.map_flags & F_VTYPE_BTF_OBJ_FD:
            task.file(attr.value_type_btf_obj_fd)
            raise refuse(Errno.EINVAL, "value_type_btf_obj_fd is not the BTF of a module")
        parsed = host.vmlinux_btf_parsed or not host.profile.struct_ops_needs_parsed_btf
        table = OPS_TABLES.get(attr.btf_vmlinux_value_type_id)
        if table is None or not parsed:
            raise refuse(
                Errno.ENOTSUPP,
                f"no operations table has value type {attr.btf_vmlinux_value_type_id}",
                Reason.OPERATION_UNSUPPORTED,
            )
        if attr.value_size != table.value_bytes:
            raise refuse(Errno.EINVAL, f"the value of {table.name} has {table.value_bytes} bytes")

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """The map with the value, the user's copy, the pointer arrays, the image page.

        >>> from bpfleet.kernel.profile import PROFILES
        >>> attr = MapAttr(26, 4, 256, 1, btf_vmlinux_value_type_id=1)
        >>> StructOpsMap.plan(Creation(attr, PROFILES["5.10"], 2)).estimate_bytes
        724
        """
        attr, profile = creation.attr, creation.profile
        map_bytes, pointers = _sizes(attr, profile)
        allocations = [
            Allocation("bpf_struct_ops_map", How.AREA, map_bytes),
            Allocation("uvalue", How.AREA, attr.value_size),
            Allocation("links" if profile.struct_ops_has_links else "progs", How.AREA, pointers),
        ]
        if profile.struct_ops_has_ksyms:
            allocations.append(Allocation("ksyms", How.AREA, pointers))
        else:
            allocations.append(Allocation("image", How.KMALLOC_UNCHARGED, PAGE_SIZE))
        return CostPlan(map_bytes + COST_SLIP_BYTES + pointers, tuple(allocations))

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """bpf_struct_ops_map_mem_usage; an image page is always counted."""
        map_bytes, pointers = _sizes(attr, profile)
        arrays = 2 if profile.struct_ops_has_ksyms else 1
        return map_bytes + attr.value_size + arrays * pointers + PAGE_SIZE

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        self._state = StructOpsState.INIT
        self._value = bytes(attr.value_size)

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """The value with its state, zeros before registration. Raises ENOENT for another key."""
        if slot_of(key):
            raise not_found("key 0 is the only one")
        if self._state is StructOpsState.INIT:
            return bytes(self.value_size)
        holders = max(self.refs - self.user_refs, 0)
        return struct.pack("<II", holders, self._state) + self._value[8:]

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Registers the table. Raises EINVAL, E2BIG, EBUSY."""
        if flags:
            raise refuse(Errno.EINVAL, f"update flags {flags:#x} are unknown")
        if slot_of(key):
            raise slot_out_of_range(slot_of(key), 1)
        if any(value[:8]) or not any(value[VALUE_HEADER_BYTES:]):
            raise refuse(Errno.EINVAL, "state and reference count must be 0, functions must be set")
        if self._state is not StructOpsState.INIT:
            raise refuse(Errno.EBUSY, "the table is registered", Reason.OBJECT_BUSY)
        self._value = value
        if self.map_flags & F_LINK:
            self._state = StructOpsState.READY
            return
        self.get()
        self._state = StructOpsState.INUSE

    def delete(self, key: bytes, context: OpContext) -> None:
        """Unregisters the table. Raises ENOENT before registration, EINPROGRESS afterwards, EOPNOTSUPP for links."""
        if self.map_flags & F_LINK:
            raise refuse(
                Errno.EOPNOTSUPP, "a link unregisters this table", Reason.OPERATION_UNSUPPORTED
            )
        if self._state is StructOpsState.TOBEFREE:
            raise refuse(Errno.EINPROGRESS, "the table is being freed", Reason.OBJECT_BUSY)
        if self._state is not StructOpsState.INUSE:
            raise not_found("the table is not registered")
        self._state = StructOpsState.TOBEFREE
        self.put()

    def next_key(self, key: bytes | None) -> bytes:
        """Key 0, then ENOENT."""
        if key is not None and slot_of(key) == 0:
            raise not_found("key 0 is the only one")
        return bytes(4)


def _sizes(attr: MapAttr, profile: KernelProfile) -> tuple[int, int]:
    """Bytes of the map struct with its value, and of one pointer array."""
    table = OPS_TABLES.get(attr.btf_vmlinux_value_type_id, OPS_TABLES[1])
    pointers = table.functions if profile.struct_ops_has_ksyms else table.members
    map_bytes = profile.structs.bpf_struct_ops_map + attr.value_size - VALUE_HEADER_BYTES
    return map_bytes, POINTER_BYTES * pointers
