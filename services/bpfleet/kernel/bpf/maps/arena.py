"""ARENA: memory shared between programs and user space, up to 4 GiB [kernel/bpf/arena.c].

Profiles: from 6.9. Create: the struct and 4 GiB of kernel addresses, which cost nothing. Per page: one page at first
touch, charged to the map's creator, not to the task that touches it; pages stay until the map is freed, mapped or not.
Gaps: page tables of the kernel's mapping are not modelled; nothing reads or writes the memory.
"""

from typing import ClassVar, Final, final

from bpfleet.abi.bpf import F_MMAPABLE, F_NO_USER_CONV, F_SEGV_ON_FAULT, Capability
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How, struct_how
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.maps.base import BpfMap, KeyBtf
from bpfleet.kernel.bpf.refusals import refuse
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memory import Account
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile

RANGE_MAX_BYTES: Final = 4 << 30
FLAGS: Final = F_SEGV_ON_FAULT | F_MMAPABLE | F_NO_USER_CONV
FAULT_GFP: Final = GFP.GFP_KERNEL
RANGE_NODE_BYTES: Final = 64  # struct range_node
FIRST_NODE: Final = 1  # its place in the plan


@final
class ArenaMap(BpfMap):
    """ARENA. ``user_vm_start`` and ``user_vm_end`` are fixed by map_extra or by the first mmap."""

    capability = Capability.BPF
    takes_map_extra = True
    mappable = True
    key_btf = KeyBtf.UNCHECKED
    gap: ClassVar[str] = (
        "nothing reads or writes the pages; page tables of the kernel's mapping are not counted"
    )

    @classmethod
    def check_alloc(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """Start of arena_map_alloc. Raises EINVAL, E2BIG over 4 GiB, ERANGE across a 4 GiB boundary."""
        if attr.key_size or attr.value_size or attr.max_entries == 0:
            raise refuse(Errno.EINVAL, "an arena has no key, no value, and pages")
        if not attr.map_flags & F_MMAPABLE or attr.map_flags & ~FLAGS:
            raise refuse(Errno.EINVAL, f"flags {attr.map_flags:#x}: BPF_F_MMAPABLE must be there")
        page = host.profile.page_bytes
        if attr.map_extra % page:
            raise refuse(Errno.EINVAL, f"map_extra {attr.map_extra:#x} is not page-aligned")
        size = attr.max_entries * page
        if size > RANGE_MAX_BYTES:
            raise refuse(Errno.E2BIG, f"{size} bytes are over 4 GiB")
        if attr.map_extra >> 32 != (attr.map_extra + size - 1) >> 32:
            raise refuse(Errno.ERANGE, "the user range crosses a 4 GiB boundary")

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """The struct, from 7.0 the node of the free range, from 7.2 a page for faults; pages at first touch.

        >>> from bpfleet.kernel.profile import PROFILES
        >>> creation = Creation(MapAttr(33, max_entries=100, map_flags=1024), PROFILES["6.12"], 2)
        >>> ArenaMap.plan(creation).allocations[0].size_bytes
        336
        """
        profile = creation.profile
        made: tuple[Allocation, ...] = (
            Allocation("bpf_arena", struct_how(profile), profile.structs.bpf_arena),
        )
        if profile.arena_tracks_free_ranges:
            made += (Allocation("range_node", How.KMALLOC_ACCOUNT, RANGE_NODE_BYTES),)
        if profile.arena_has_scratch_page:
            made += (
                Allocation("scratch_page", How.PAGES, PAGE_SIZE, profile.page_units, FAULT_GFP),
            )
        return CostPlan(
            0,
            made,
            per_element=(Allocation("page", How.PAGES, PAGE_SIZE, profile.page_units, FAULT_GFP),),
        )

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """arena_map_mem_usage: 0, from 7.3 on its pages."""
        return entries * profile.page_bytes if profile.arena_usage_counts_pages else 0

    def entries(self) -> int:
        """Pages that are there."""
        return len(self._pages)

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        self.user_vm_start = attr.map_extra
        size = attr.max_entries * host.profile.page_bytes
        self.user_vm_end = attr.map_extra + size if attr.map_extra else 0
        self._pages: Final[dict[int, Account]] = {}
        self._size: Final = site.memory.whole_page_size()
        self._node_size: Final = site.memory.slab_size(RANGE_NODE_BYTES)
        self._nodes: Final[
            list[Account]
        ] = []  # of ranges beyond the first, which creation paid for

    def touch(self, first: int, count: int, context: OpContext) -> None:
        """Page faults of user space on ``count`` pages from page ``first`` on [arena_vm_fault].

        Raises EFAULT (the SIGSEGV of a fault that finds no memory, or of BPF_F_SEGV_ON_FAULT).
        """
        for page in range(first, first + count):
            if page in self._pages:
                continue
            if self.map_flags & F_SEGV_ON_FAULT or page >= self.max_entries:
                raise refuse(Errno.EFAULT, f"page {page} does not exist", Reason.BAD_ADDRESS)
            try:
                self._take_from_free(page, context)
                self._pages[page] = self.site.take_element(self._size, context, FAULT_GFP)
            except KernelError as error:
                raise KernelError(
                    Errno.EFAULT, error.reason, error.detail, **error.numbers
                ) from error

    def _take_from_free(self, page: int, context: OpContext) -> None:
        """A page leaves its free range, which shrinks, splits or goes [range_tree_clear]. Raises ENOMEM."""
        if not self.host.profile.arena_tracks_free_ranges:
            return
        before = page > 0 and page - 1 not in self._pages
        after = page + 1 < self.max_entries and page + 1 not in self._pages
        if before and after:
            self._nodes.append(self.site.take_element(self._node_size, context, FAULT_GFP))
        elif not before and not after:
            if self._nodes:
                self.site.give_element(self._nodes.pop(), self._node_size, context.cpu)
            else:
                self.site.memory.free(self.site.blocks[FIRST_NODE], context.cpu)

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """Raises EINVAL."""
        raise refuse(Errno.EINVAL, "an arena has no elements", Reason.OPERATION_UNSUPPORTED)

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Raises EOPNOTSUPP."""
        raise _no_elements()

    def delete(self, key: bytes, context: OpContext) -> None:
        """Raises EOPNOTSUPP."""
        raise _no_elements()

    def next_key(self, key: bytes | None) -> bytes:
        """Raises EOPNOTSUPP."""
        raise _no_elements()

    def free(self, cpu: int) -> None:
        """Frees every page and what is left of the free ranges."""
        for node in self._nodes:
            self.site.give_element(node, self._node_size, cpu)
        self._nodes.clear()
        for account in self._pages.values():
            self.site.give_element(account, self._size, cpu)
        self._pages.clear()


def _no_elements() -> KernelError:
    return refuse(Errno.EOPNOTSUPP, "an arena has no elements", Reason.OPERATION_UNSUPPORTED)
