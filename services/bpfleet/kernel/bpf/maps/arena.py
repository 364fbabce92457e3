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
        if attr.map_extra % PAGE_SIZE:
            raise refuse(Errno.EINVAL, f"map_extra {attr.map_extra:#x} is not page-aligned")
        size = attr.max_entries * PAGE_SIZE
        if size > RANGE_MAX_BYTES:
            raise refuse(Errno.E2BIG, f"{size} bytes are over 4 GiB")
        if attr.map_extra >> 32 != (attr.map_extra + size - 1) >> 32:
            raise refuse(Errno.ERANGE, "the user range crosses a 4 GiB boundary")

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """The struct; pages at first touch.

        >>> from bpfleet.kernel.profile import PROFILES
        >>> creation = Creation(MapAttr(33, max_entries=100, map_flags=1024), PROFILES["6.12"], 2)
        >>> ArenaMap.plan(creation).allocations[0].size_bytes
        336
        """
        profile = creation.profile
        return CostPlan(
            0,
            (Allocation("bpf_arena", struct_how(profile), profile.structs.bpf_arena),),
            per_element=(Allocation("page", How.PAGES, PAGE_SIZE, gfp=FAULT_GFP),),
        )

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """arena_map_mem_usage: 0, always."""
        return 0

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        self.user_vm_start = attr.map_extra
        self.user_vm_end = attr.map_extra + attr.max_entries * PAGE_SIZE if attr.map_extra else 0
        self._pages: Final[dict[int, Account]] = {}
        self._size: Final = site.memory.page_size()

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
                self._pages[page] = self.site.take_element(self._size, context, FAULT_GFP)
            except KernelError as error:
                raise KernelError(
                    Errno.EFAULT, error.reason, error.detail, **error.numbers
                ) from error

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
        """Frees every page."""
        for account in self._pages.values():
            self.site.give_element(account, self._size, cpu)
        self._pages.clear()


def _no_elements() -> KernelError:
    return refuse(Errno.EOPNOTSUPP, "an arena has no elements", Reason.OPERATION_UNSUPPORTED)
