"""STACK_TRACE [kernel/bpf/stackmap.c], since 4.6. All profiles.

At create: an area with the struct and a pointer per bucket (5.11 - 5.17: plus the old estimate once more), then all
elements. Per element: nothing. Freed with the map. Only programs put stacks in (`record`). Known gap: build ids.
"""

from typing import Final

from bpfleet.abi.bpf import F_NUMA_NODE, F_RDONLY, F_STACK_BUILD_ID, F_WRONLY, Capability
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.jhash import jhash
from bpfleet.kernel.bpf.maps.base import BpfMap, KeyBtf
from bpfleet.kernel.bpf.maps.slot import empty_slot, slot_of, slot_out_of_range
from bpfleet.kernel.bpf.refusals import key_exists, map_full, not_found, refuse, require_bpf
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.units import roundup_pow_of_two

POINTER_BYTES: Final = 8
BUILD_ID_BYTES: Final = 32
MAX_ENTRIES: Final = 1 << 31


class StackTraceMap(BpfMap):
    """Stacks by the bucket their hash falls into."""

    capability = Capability.BPF
    key_btf = KeyBtf.REFUSED

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        self._buckets: Final = roundup_pow_of_two(attr.max_entries)
        self._stacks: Final[dict[int, bytes]] = {}

    def stored(self) -> int:
        """Values kept."""
        return len(self._stacks)

    @classmethod
    def check_alloc(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """stack_map_alloc. Raises EPERM, EINVAL, E2BIG."""
        require_bpf(host, task)
        flags, value = attr.map_flags, attr.value_size
        unknown = flags & ~(F_NUMA_NODE | F_RDONLY | F_WRONLY | F_STACK_BUILD_ID)
        if unknown:
            raise refuse(Errno.EINVAL, f"map flags {unknown:#x} are not valid for this type")
        if attr.max_entries == 0 or attr.key_size != 4 or value < 8 or value % 8:
            raise refuse(
                Errno.EINVAL, "a stack map needs entries, a 4-byte key and values of whole words"
            )
        frame = BUILD_ID_BYTES if flags & F_STACK_BUILD_ID else 8
        if value % frame or value // frame > host.perf_event_max_stack:
            raise refuse(
                Errno.EINVAL,
                f"a value of {value} bytes is not 1..{host.perf_event_max_stack} frames of {frame}",
            )
        if host.profile.stack_map_entries_checked and attr.max_entries > MAX_ENTRIES:
            raise refuse(Errno.E2BIG, f"{attr.max_entries} entries are over {MAX_ENTRIES}")

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """Table, then elements."""
        attr, profile = creation.attr, creation.profile
        buckets, structs = roundup_pow_of_two(attr.max_entries), profile.structs
        element = structs.stack_map_bucket + attr.value_size
        table = structs.bpf_stack_map + POINTER_BYTES * buckets
        elements = element * attr.max_entries
        taken = table + element * buckets if profile.stack_map_over_allocates else table
        return CostPlan(
            table + elements,
            (
                Allocation("smap", How.AREA, taken),
                Allocation("elements", How.AREA, elements),
                Allocation("freelist", How.PERCPU_UNCHARGED, structs.pcpu_freelist_head),
            ),
        )

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """stack_map_mem_usage."""
        structs, buckets = profile.structs, roundup_pow_of_two(attr.max_entries)
        element = structs.stack_map_bucket + attr.value_size
        return structs.bpf_stack_map + POINTER_BYTES * buckets + element * attr.max_entries

    def record(self, stack: bytes) -> int:
        """Stores a stack as bpf_get_stackid does; returns its id. Raises EEXIST on a collision, ENOMEM when full."""
        ident = jhash(stack, 0) & (self._buckets - 1)
        value = stack.ljust(self.value_size, b"\0")
        old = self._stacks.get(ident)
        if old == value:
            return ident
        if old is not None:
            raise key_exists()
        if len(self._stacks) >= self.max_entries:
            raise map_full(Errno.ENOMEM, self.max_entries)
        self._stacks[ident] = value
        return ident

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """Raises ENOENT for an empty or impossible id."""
        ident = slot_of(key)
        value = self._stacks.get(ident)
        if value is None:
            raise empty_slot(ident)
        return value

    @classmethod
    def has_lookup_and_delete(cls, profile: KernelProfile) -> bool:
        """Since 6.18."""
        return profile.stack_trace_lookup_and_delete

    def lookup_and_delete(self, key: bytes, flags: int, context: OpContext) -> bytes:
        """Raises ENOENT for an empty or impossible id."""
        value = self.lookup(key, context)
        del self._stacks[slot_of(key)]
        return value

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Always EINVAL: only programs store stacks."""
        raise refuse(Errno.EINVAL, "only programs store stacks")

    def delete(self, key: bytes, context: OpContext) -> None:
        """Raises E2BIG for an impossible id, ENOENT for an empty one."""
        ident = slot_of(key)
        if ident >= self._buckets:
            raise slot_out_of_range(ident, self._buckets)
        if self._stacks.pop(ident, None) is None:
            raise empty_slot(ident)

    def next_key(self, key: bytes | None) -> bytes:
        """The next used id; from the start for None or an id that is not used. Raises ENOENT at the end."""
        start = -1
        if key is not None and slot_of(key) in self._stacks:
            start = slot_of(key)
        following = min((ident for ident in self._stacks if ident > start), default=None)
        if following is None:
            raise not_found("that was the last stack")
        return following.to_bytes(4, "little")
