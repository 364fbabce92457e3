"""QUEUE and STACK [kernel/bpf/queue_stack_maps.c], since 4.20. All profiles.

At create: one area with the struct and max_entries + 1 values, not rounded. Per element: nothing. Freed with the map.
Known gap: EBUSY from NMI context, which no operation here runs in.
"""

from collections import deque
from typing import Final

from bpfleet.abi.bpf import BPF_EXIST, BPF_NOEXIST, F_NUMA_NODE, Capability, MapType
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import KMALLOC_MAX_SIZE, U32_MAX
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.maps.array import ACCESS_MASK, check_flags, too_big
from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.bpf.refusals import map_full, not_found, refuse, require_bpf
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile


class QueueStackMap(BpfMap):
    """Values without keys: a queue gives the oldest, a stack the newest."""

    capability = Capability.BPF

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        self._values: Final[deque[bytes]] = deque()
        self._newest_first: Final = self.map_type is MapType.STACK

    def stored(self) -> int:
        """Values kept."""
        return len(self._values)

    @classmethod
    def check(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """queue_stack_map_alloc_check. Raises EPERM, EINVAL, E2BIG."""
        require_bpf(host, task)
        if attr.max_entries == 0 or attr.key_size != 0 or attr.value_size == 0:
            raise refuse(Errno.EINVAL, "a queue or stack needs entries, a value and key size 0")
        check_flags(attr.map_flags, F_NUMA_NODE | ACCESS_MASK)
        if attr.value_size > KMALLOC_MAX_SIZE:
            raise too_big(attr.value_size, KMALLOC_MAX_SIZE)

    @classmethod
    def check_alloc(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """Start of queue_stack_map_alloc. Raises E2BIG (from 7.3) for an area over 4 GiB, which then is ENOMEM."""
        size = cls.mem_usage(attr, host.profile, host.possible_cpus, 0)
        if host.profile.queue_size_checked and size > U32_MAX:
            raise too_big(size, U32_MAX)

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """One area; one value more than max_entries distinguishes full from empty."""
        attr, profile = creation.attr, creation.profile
        size = cls.mem_usage(attr, profile, creation.possible_cpus, 0)
        return CostPlan(size, (Allocation("queue_stack", How.AREA, size),))

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """queue_stack_map_mem_usage: the area."""
        return profile.structs.bpf_queue_stack + (attr.max_entries + 1) * attr.value_size

    @classmethod
    def has_lookup_and_delete(cls, profile: KernelProfile) -> bool:
        """Popping exists as long as the types do."""
        return True

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """Peeks. Raises ENOENT when empty."""
        if not self._values:
            raise not_found("the map is empty")
        return self._values[-1 if self._newest_first else 0]

    def lookup_and_delete(self, key: bytes, flags: int, context: OpContext) -> bytes:
        """Pops. Raises ENOENT when empty."""
        if not self._values:
            raise not_found("the map is empty")
        return self._values.pop() if self._newest_first else self._values.popleft()

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Pushes; on a full map E2BIG, or with BPF_EXIST the oldest value is dropped."""
        if flags & BPF_NOEXIST or flags > BPF_EXIST:
            raise refuse(Errno.EINVAL, f"push takes BPF_ANY or BPF_EXIST, not {flags:#x}")
        if len(self._values) >= self.max_entries:
            if not flags & BPF_EXIST:
                raise map_full(Errno.E2BIG, self.max_entries)
            self._values.popleft()
        self._values.append(value)

    def delete(self, key: bytes, context: OpContext) -> None:
        """Always EINVAL."""
        raise refuse(Errno.EINVAL, "a queue or stack has no keys to delete")

    def next_key(self, key: bytes | None) -> bytes:
        """Always EINVAL."""
        raise refuse(Errno.EINVAL, "a queue or stack has no keys")
