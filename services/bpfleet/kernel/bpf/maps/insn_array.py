"""INSN_ARRAY: where a program's instructions went, for jump tables [kernel/bpf/bpf_insn_array.c], since 6.19.

At create: one area holding the struct, and per entry a value and the address of machine code. Per element: nothing.
Freed with the map. No flags; no BTF fits, because the value of 16 bytes must be an integer of 8.
Known gap: the class names it.
"""

from struct import Struct
from typing import ClassVar, Final, final

from bpfleet.abi.bpf import BPF_NOEXIST, F_RDONLY_PROG, Capability
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.maps.base import BpfMap, KeyBtf
from bpfleet.kernel.bpf.maps.slot import empty_slot, next_slot, slot_of, slot_out_of_range
from bpfleet.kernel.bpf.refusals import key_exists, refuse
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile

_VALUE: Final = Struct("=4I")  # orig_off, xlated_off, jitted_off and padding
_HEADER_BYTES: Final = 16  # behind struct bpf_map: used, and the pointer to the addresses
_ADDRESS_BYTES: Final = 8


@final
class InsnArrayMap(BpfMap):
    """Offsets of instructions by index. Before loading, user space says those in the program as given."""

    capability = Capability.BPF
    key_btf = KeyBtf.NONE_FITS
    supported: ClassVar[str] = "cost only"
    gap: ClassVar[str] = (
        "loading a program neither checks the map nor tells in it where instructions went"
    )

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        self.map_flags |= F_RDONLY_PROG
        self._offsets: Final[dict[int, int]] = {}

    def stored(self) -> int:
        """Values kept."""
        return len(self._offsets)

    @classmethod
    def check(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """insn_array_alloc_check. Raises EINVAL."""
        if attr.max_entries == 0 or attr.key_size != 4 or attr.value_size != _VALUE.size:
            raise refuse(
                Errno.EINVAL,
                f"an instruction array needs entries, a 4-byte key and values of {_VALUE.size} bytes",
            )
        if attr.map_flags:
            raise refuse(Errno.EINVAL, f"map flags {attr.map_flags:#x}: this type takes none")

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """One area.

        >>> from bpfleet.kernel.profile import PROFILES
        >>> InsnArrayMap.plan(Creation(MapAttr(34, 4, 16, 64), PROFILES["6.19"], 2)).allocations[0].size_bytes
        1840
        """
        size = _area_bytes(creation.attr, creation.profile)
        return CostPlan(0, (Allocation("insn_array", How.AREA, size),))

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """insn_array_mem_usage: the area."""
        return _area_bytes(attr, profile)

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """ENOENT beyond the end, otherwise always found."""
        index = slot_of(key)
        if index >= self.max_entries:
            raise empty_slot(index)
        return _VALUE.pack(self._offsets.get(index, 0), 0, 0, 0)

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Raises E2BIG beyond the end, EEXIST for BPF_NOEXIST, EINVAL for offsets that are the kernel's to set."""
        index = slot_of(key)
        if index >= self.max_entries:
            raise slot_out_of_range(index, self.max_entries)
        if flags & BPF_NOEXIST:
            raise key_exists()
        given, translated, jitted, _ = _VALUE.unpack(value)
        if translated or jitted:
            raise refuse(Errno.EINVAL, "only the kernel sets xlated_off and jitted_off")
        self._offsets[index] = given

    def delete(self, key: bytes, context: OpContext) -> None:
        """Always EINVAL."""
        raise refuse(Errno.EINVAL, "elements of an instruction array cannot be removed")

    def next_key(self, key: bytes | None) -> bytes:
        """As of an array."""
        return next_slot(key, self.max_entries)


def _area_bytes(attr: MapAttr, profile: KernelProfile) -> int:
    """insn_array_alloc_size."""
    entries = attr.max_entries * (_VALUE.size + _ADDRESS_BYTES)
    return profile.structs.bpf_map + _HEADER_BYTES + entries
