"""RINGBUF [kernel/bpf/ringbuf.c], since 5.8; USER_RINGBUF, since 6.1.

At create: the struct, an array of page pointers (data pages appear twice in it), 3 pages and max_entries in pages. The
pages are charged to the creating task even with cgroup.memory=nobpf. Per element: nothing. Freed with the map.
Known gap: records are not modelled; user space maps the buffer and programs fill it.
"""

from bpfleet.abi.bpf import F_NUMA_NODE
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How, struct_how
from bpfleet.kernel.bpf.host import Host
from bpfleet.kernel.bpf.maps.array import check_flags
from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.bpf.refusals import refuse
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile

RINGBUF_META_PAGES = 3  # struct bpf_ringbuf, consumer and producer position
POINTER_BYTES = 8


class RingbufMap(BpfMap):
    """Elements are reached through mmap and programs only: every element command is refused with 524."""

    mappable = True

    @classmethod
    def check_alloc(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """ringbuf_map_alloc. Raises EINVAL."""
        check_flags(attr.map_flags, F_NUMA_NODE)
        size = attr.max_entries
        if attr.key_size or attr.value_size:
            raise refuse(Errno.EINVAL, "a ring buffer has key size 0 and value size 0")
        if size & (size - 1) or not size or size % host.profile.page_bytes:
            raise refuse(
                Errno.EINVAL, f"{size} bytes: a ring buffer needs a power of two of whole pages"
            )

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """Struct, pointer array, pages. The struct is allocated before the precharge."""
        attr, profile = creation.attr, creation.profile
        structs = profile.structs
        data_pages = attr.max_entries // profile.page_bytes
        pointers = (RINGBUF_META_PAGES + 2 * data_pages) * POINTER_BYTES
        header = max(structs.bpf_ringbuf, RINGBUF_META_PAGES * profile.page_bytes)
        units = (RINGBUF_META_PAGES + data_pages) * profile.page_units
        return CostPlan(
            structs.bpf_ringbuf_map + header + attr.max_entries,
            (
                Allocation("rb_map", struct_how(profile), structs.bpf_ringbuf_map),
                Allocation("pages", How.AREA, pointers),
                Allocation("data", How.PAGES, PAGE_SIZE, units),
            ),
            precharge_at=1,
        )

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """ringbuf_map_mem_usage: struct, all pages once, pointer array."""
        data_pages = attr.max_entries // profile.page_bytes
        pages = RINGBUF_META_PAGES + data_pages
        pointers = (RINGBUF_META_PAGES + 2 * data_pages) * POINTER_BYTES
        return profile.structs.bpf_ringbuf_map + pages * profile.page_bytes + pointers
