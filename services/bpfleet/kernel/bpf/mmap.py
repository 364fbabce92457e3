"""mmap(2) of maps: arrays with BPF_F_MMAPABLE, ring buffers, arenas [kernel/bpf/syscall.c, bpf_map_mmap].

A mapping holds the map's open file, so the map lives until it is unmapped. Mapping charges the process its VMA;
touching an arena's pages charges them, and page tables to the process that touches them.
"""

from typing import Final, final

from bpfleet.abi.bpf import F_MMAPABLE, F_RDONLY_PROG, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.host import OpContext
from bpfleet.kernel.bpf.maps.arena import RANGE_MAX_BYTES, ArenaMap
from bpfleet.kernel.bpf.maps.base import BpfMap, unsupported
from bpfleet.kernel.bpf.refusals import refuse
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memory import Block, Memory, Owner
from bpfleet.kernel.proc.file import File
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.units import round_up, round_up_8

PROT_READ: Final = 1
PROT_WRITE: Final = 2
FIRST_ADDRESS: Final = 1 << 32
PTE_BYTES: Final = 8
RINGBUF_META_PAGES: Final = 3
RINGBUF_FIRST_PAGE: Final = 1  # RINGBUF_PGOFF: user space sees the area from the consumer page on


@final
class Mapping:
    """One VMA, made of ``blocks``. ``tables`` are the user page tables that its touched pages needed, by 2 MiB."""

    __slots__ = ("address", "blocks", "file", "length", "map", "tables", "writable")

    def __init__(
        self,
        bpf_map: BpfMap,
        file: File,
        address: int,
        length: int,
        writable: bool,
        blocks: tuple[Block, ...],
    ) -> None:
        self.map: Final = bpf_map
        self.file: Final = file
        self.address: Final = address
        self.length: Final = length
        self.writable: Final = writable
        self.blocks: Final = blocks
        self.tables: Final[dict[int, Block]] = {}


@final
class Mappings:
    """The mappings of all tasks of a node."""

    def __init__(self, memory: Memory) -> None:
        self._memory: Final = memory
        self._mappings: Final[dict[Task, dict[int, Mapping]]] = {}
        self._next_address = FIRST_ADDRESS

    def mmap(
        self,
        task: Task,
        fd: int,
        length: int,
        *,
        prot: int = PROT_READ,
        offset: int = 0,
        address: int = 0,
        shared: bool = True,
    ) -> int:
        """Maps ``length`` bytes of a map; returns the address.

        Raises EBADF, EINVAL, EACCES (the descriptor, or BPF_F_RDONLY_PROG), EPERM (frozen; a ring buffer's pages),
        E2BIG, EBUSY (another range of an arena), ENODEV (no map), 524 (a type without mmap).
        """
        page_bytes = self._memory.profile.page_bytes
        if length <= 0 or offset % page_bytes:
            raise refuse(Errno.EINVAL, "length must be positive, the offset a multiple of a page")
        file = task.file(fd)
        length = round_up(length, page_bytes)
        writable = bool(prot & PROT_WRITE)
        _check_file(file, writable=writable, shared=shared)
        bpf_map = file.target
        if not isinstance(bpf_map, BpfMap) or not self._memory.profile.has_mmap:
            raise refuse(
                Errno.ENODEV, f"descriptor {fd} cannot be mapped", Reason.BAD_FILE_DESCRIPTOR
            )
        if isinstance(bpf_map, ArenaMap):
            _check_range(bpf_map, length, offset, address)
        _check_map(bpf_map, writable=writable, shared=shared and file.writable)
        blocks = self._vm_area(task)
        start = address or self._free_range(length)
        try:
            _check_type(bpf_map, length, offset, start, writable=writable)
        except KernelError:
            self._memory.free_blocks(blocks, task.cpu)
            raise
        if writable:
            bpf_map.write_mappings += 1
        file.refs += 1
        mapping = Mapping(bpf_map, file, start, length, writable, blocks)
        self._mappings.setdefault(task, {})[start] = mapping
        return start

    def munmap(self, task: Task, address: int) -> None:
        """Removes the mapping at ``address``, whole; nothing there is fine, as in Linux."""
        mapping = self._mappings.get(task, {}).pop(address, None)
        if mapping is not None:
            self._drop(mapping, task.cpu)
            if not self._mappings[task]:
                del self._mappings[task]

    def touch(self, task: Task, address: int, first_page: int, pages: int) -> None:
        """Page faults on an arena's mapping. Raises EFAULT (the process would get SIGSEGV), ENOMEM for page tables."""
        mapping = self._mappings.get(task, {}).get(address)
        page_bytes = self._memory.profile.page_bytes
        if mapping is None or not isinstance(mapping.map, ArenaMap):
            raise refuse(Errno.EFAULT, f"no arena is mapped at {address:#x}", Reason.BAD_ADDRESS)
        if (
            first_page < 0
            or pages < 0
            or pages * page_bytes > mapping.length - first_page * page_bytes
        ):
            raise refuse(Errno.EFAULT, "the pages are outside the mapping", Reason.BAD_ADDRESS)
        for page in range(first_page, first_page + pages):
            self._page_table(task, mapping, page)
            mapping.map.touch(page, 1, OpContext(task))

    def of(self, task: Task) -> list[Mapping]:
        """The mappings of a task, by address."""
        found = self._mappings.get(task, {})
        return [found[address] for address in sorted(found)]

    def release_task(self, task: Task) -> None:
        """The task's address space is gone [exit_mmap]."""
        for mapping in self._mappings.pop(task, {}).values():
            self._drop(mapping, task.cpu)

    def _page_table(self, task: Task, mapping: Mapping, page: int) -> None:
        profile = self._memory.profile
        table = page * PTE_BYTES // profile.page_bytes
        if table not in mapping.tables:
            owner = Owner("mm", task.pid)
            mapping.tables[table] = self._memory.alloc_pages(
                profile.page_units, GFP.GFP_KERNEL, task.objcg, task, owner
            )

    def _vm_area(self, task: Task) -> tuple[Block, ...]:
        """vm_area_alloc for a file. Raises ENOMEM, leaving nothing."""
        memory = self._memory
        sizes = map(memory.cache_size, memory.profile.file_vma_slab_bytes)
        owner = Owner("mm", task.pid)
        return memory.take_objects(sizes, GFP.GFP_KERNEL_ACCOUNT, task.objcg, task, owner)

    def _free_range(self, length: int) -> int:
        """An address whose range does not cross 4 GiB, as arenas need."""
        start = self._next_address
        if start >> 32 != (start + length - 1) >> 32:
            start = round_up(start, RANGE_MAX_BYTES)
        self._next_address = start + length
        return start

    def _drop(self, mapping: Mapping, cpu: int) -> None:
        self._memory.free_blocks((*mapping.blocks, *mapping.tables.values()), cpu)
        if mapping.writable:
            mapping.map.write_mappings -= 1
        mapping.file.put(self._memory, cpu)


def _check_file(file: File, *, writable: bool, shared: bool) -> None:
    """do_mmap: a mapping needs a readable file, a shared writable one a writable file. Raises EACCES."""
    if not file.readable or (writable and shared and not file.writable):
        raise KernelError(
            Errno.EACCES, Reason.MAP_ACCESS_MODE, "the descriptor was not opened for this access"
        )


def _check_range(arena: ArenaMap, length: int, offset: int, address: int) -> None:
    """arena_get_unmapped_area, before anything else. Raises EINVAL, E2BIG."""
    if offset:
        raise refuse(Errno.EINVAL, "an arena is mapped from its start")
    if length > RANGE_MAX_BYTES:
        raise refuse(Errno.E2BIG, f"{length} bytes are over 4 GiB")
    if arena.user_vm_start:
        size = arena.user_vm_end - arena.user_vm_start
        if length > size:
            raise refuse(Errno.E2BIG, f"the arena's user range has {size} bytes")
        if length != size or address != arena.user_vm_start:
            raise refuse(Errno.EINVAL, f"the arena is mapped at {arena.user_vm_start:#x}, whole")


def _check_map(bpf_map: BpfMap, *, writable: bool, shared: bool) -> None:
    """bpf_map_mmap. A read-only file cannot be mapped shared, which shows as EINVAL."""
    if not bpf_map.mappable or bpf_map.has_spin_lock:
        raise unsupported(bpf_map, "mmap")
    if not shared:
        raise refuse(Errno.EINVAL, "a map is mapped shared, through a writable descriptor")
    if writable and bpf_map.frozen:
        raise KernelError(Errno.EPERM, Reason.MAP_FROZEN, f"map {bpf_map.id} is frozen")
    if writable and bpf_map.map_flags & F_RDONLY_PROG:
        raise KernelError(Errno.EACCES, Reason.MAP_ACCESS_MODE, "the map is BPF_F_RDONLY_PROG")


def _check_type(bpf_map: BpfMap, length: int, offset: int, address: int, *, writable: bool) -> None:
    """ops->map_mmap of each type."""
    if isinstance(bpf_map, ArenaMap):
        if bpf_map.user_vm_start and bpf_map.user_vm_start != address:
            raise refuse(Errno.EBUSY, "the arena is mapped elsewhere", Reason.OBJECT_BUSY)
        if bpf_map.user_vm_end and bpf_map.user_vm_end != address + length:
            raise refuse(Errno.EBUSY, "the arena is mapped with another length", Reason.OBJECT_BUSY)
        bpf_map.user_vm_start, bpf_map.user_vm_end = address, address + length
    elif bpf_map.map_type is MapType.ARRAY:
        page = bpf_map.host.profile.page_bytes
        values = round_up(bpf_map.max_entries * round_up_8(bpf_map.value_size), page)
        if not bpf_map.map_flags & F_MMAPABLE or offset + length > values:
            raise refuse(Errno.EINVAL, f"only the {values} bytes of a mmapable array can be mapped")
    else:
        _check_ringbuf(bpf_map, length, offset, writable=writable)


def _check_ringbuf(bpf_map: BpfMap, length: int, offset: int, *, writable: bool) -> None:
    """User space may write the consumer page of a RINGBUF, all but it of a USER_RINGBUF. Raises EPERM, EINVAL."""
    page = bpf_map.host.profile.page_bytes
    if writable:
        consumer = offset == 0 and length == page
        refused = offset == 0 if bpf_map.map_type is MapType.USER_RINGBUF else not consumer
        if refused:
            raise KernelError(
                Errno.EPERM, Reason.MAP_ACCESS_MODE, "these pages of a ring buffer are read-only"
            )
    area_pages = RINGBUF_META_PAGES + 2 * (bpf_map.max_entries // page)
    if RINGBUF_FIRST_PAGE + (offset + length) // page > area_pages:
        raise refuse(Errno.EINVAL, f"the ring buffer has {area_pages} pages")
