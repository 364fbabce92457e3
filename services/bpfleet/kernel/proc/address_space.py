"""The user memory of one process: anonymous, file and shared pages with their page tables [mm/memory.c, mm/mmap.c]."""

from typing import Final, final

from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.current import Current
from bpfleet.kernel.mm.memcg import Memcg, ObjCgroup, Stat
from bpfleet.kernel.mm.memory import Account, AllocKind, Block, Memory, Owner
from bpfleet.kernel.mm.swapfile import SwapEntries, SwapSpace

PAGES_PER_TABLE: Final = 512
_ENTRY_BYTES: Final = 8  # of a page table


@final
class AddressSpace:
    """struct mm_struct, as far as it costs memory. Quantities are pages.

    Pages stay charged to the memcg that was current when they were faulted in, also after the process has moved.
    One mapping of each kind is modelled; it grows at its end and shrinks from there, so the newest pages go first.
    A started process has a page table with room for 256 more pages: one more comes with each further 512.
    """

    __slots__ = (
        "_memory",
        "_per_table",
        "_segments",
        "_swap",
        "_swapped",
        "_tables",
        "_vma",
        "anon_pages",
        "owner",
        "peak_pages",
        "peak_vm_pages",
        "pgtable_pages",
        "shmem_pages",
        "swap_pages",
    )

    def __init__(self, memory: Memory, owner: Owner, swap: SwapSpace | None = None) -> None:
        self._memory: Final = memory
        self._swap: Final = swap
        page = memory.profile.page_bytes
        self._per_table: Final = page // _ENTRY_BYTES * memory.profile.page_units
        self._swapped: SwapEntries | None = None  # until something goes out
        self.owner: Final = owner
        # Empty until the first fault: most processes of a fleet only hold descriptors.
        self._segments: Final[dict[AllocKind, list[Account]]] = {}
        self._tables: Final[list[Block]] = []  # runs of tables with one payer, oldest first
        self._vma: Final[dict[AllocKind, tuple[Block, ...]]] = {}
        self.anon_pages = 0  # resident anonymous pages
        self.shmem_pages = 0  # resident shared pages that this process brought in
        self.pgtable_pages = 0  # page tables beyond those every process starts with
        self.swap_pages = 0  # anonymous pages that are out
        self.peak_pages = 0  # the most that were resident at a time
        self.peak_vm_pages = 0  # the most that were mapped

    @property
    def _before(self) -> int:
        """Pages in the first table: where mmap puts an area is chance, this is the middle of it."""
        return self._per_table // 2

    @property
    def rss_pages(self) -> int:
        """Resident pages of all kinds."""
        return self.anon_pages + self.shmem_pages

    @property
    def total_vm(self) -> int:
        """Mapped pages: what is mapped is touched, and may be out."""
        return self.rss_pages + (0 if self._swapped is None else self._swapped.pages)

    @property
    def swapped(self) -> SwapEntries:
        """Its pages that are out."""
        if self._swapped is None:
            self._swapped = SwapEntries()
        return self._swapped

    # -- growing -------------------------------------------------------------------------------------------------

    def fault_in(
        self, kind: AllocKind, pages: int, memcg: Memcg, objcg: ObjCgroup | None, current: Current
    ) -> int:
        """Touches ``pages`` further pages, one fault each. Returns how many came.

        Fewer than asked for: `Memory.failure` says why; then the process has been killed, or nobody could be and the
        fault repeats for ever. Raises KernelError(ENOMEM) when the mapping itself cannot be allocated.
        """
        if not self._vma.get(kind):
            self._vma[kind] = self._map(objcg, current)
        payer = memcg.css_ref if memcg.parent is not None else None
        account = self._memory.account(self.owner, kind, payer)
        done = 0
        while done < pages:
            room = self._per_table - (self._before + self.total_vm) % self._per_table
            if room == self._per_table and not self._add_table(objcg, current):
                break
            got = self._memory.fault(account, min(room, pages - done), GFP.GFP_KERNEL, current)
            if not got:
                break
            self._grow(kind, account, got)
            done += got
            if current.dying:
                break
            if current.over_high_pages:  # back in user space between two faults
                self._memory.controller.throttle(current, GFP.GFP_KERNEL)
        if done:
            memcg.add_stat(Stat.PGFAULT, done)
        return done

    def _grow(self, kind: AllocKind, account: Account, pages: int) -> None:
        segments = self._segments.setdefault(kind, [])
        if account not in segments:
            segments.append(account)
        if self._swap is not None:
            self._swap.add(account, self)
        self._count(kind, pages)

    def _count(self, kind: AllocKind, pages: int) -> None:
        if kind == AllocKind.ANON:
            self.anon_pages += pages
        else:
            self.shmem_pages += pages
        self.peak_pages = max(self.peak_pages, self.rss_pages)
        self.peak_vm_pages = max(self.peak_vm_pages, self.total_vm)

    def _map(self, objcg: ObjCgroup | None, current: Current) -> tuple[Block, ...]:
        """mmap(2) of a new area: its structures. Raises KernelError(ENOMEM), leaving nothing."""
        memory = self._memory
        sizes = map(memory.cache_size, memory.profile.vma_slab_bytes)
        return memory.take_objects(sizes, GFP.GFP_KERNEL_ACCOUNT, objcg, current, self.owner)

    def _add_table(self, objcg: ObjCgroup | None, current: Current) -> bool:
        """A page table for the next 512 pages; False when the allocation fails (`Memory.failure` says why)."""
        memory = self._memory
        account = memory.account(self.owner, AllocKind.PAGE_TABLE, objcg)
        page = memory.profile.page_units
        if not memory.fault(account, page, GFP.GFP_PAGE_TABLE, current):
            return False
        newest = self._tables[-1] if self._tables else None
        if newest is not None and newest.account is account:
            newest.count += page
        else:
            self._tables.append(Block(account, memory.page_size(AllocKind.PAGE_TABLE), page))
        self.pgtable_pages += page
        return True

    # -- shrinking -----------------------------------------------------------------------------------------------

    def went_out(self, account: Account, pages: int) -> None:
        """So many pages of ``account`` are in swap space now; their page tables stay."""
        self._count(account.kind, -pages)
        if account.kind == AllocKind.ANON:
            self.swap_pages += pages

    def _mapped_pages(self, kind: AllocKind) -> int:
        """Pages of a kind, resident or out."""
        if kind == AllocKind.ANON:
            return self.anon_pages + self.swap_pages
        return self.total_vm - self.anon_pages - self.swap_pages

    def release(self, kind: AllocKind, pages: int, cpu: int) -> int:
        """Gives up to ``pages`` of the newest pages of a kind back, and page tables no longer needed. Returns pages.

        The oldest pages of an account are the ones that are out.
        """
        left = min(pages, self._mapped_pages(kind))
        released = left
        segments = self._segments.get(kind, [])
        page = self._memory.page_size(kind)
        while left:
            account = segments[-1]
            step = min(left, account.count)
            if step:
                self._memory.give(account, page, cpu, step)
                self._count(kind, -step)
                left -= step
            if account.count:
                continue
            if self._swap is not None:
                self._swap.forget(account)
                left -= self._discard(self._swap, account, left)
                if self.swapped.of(account):
                    continue
            segments.pop()
        tables = max(0, self._before + self.total_vm - 1) // self._per_table
        needed = tables * self._memory.profile.page_units
        self._free_tables(self.pgtable_pages - needed, cpu)
        return released

    def _discard(self, swap: SwapSpace, account: Account, pages: int) -> int:
        """Gives up to ``pages`` of an account back that are out. Returns how many."""
        freed = swap.discard(self, account, pages)
        if account.kind == AllocKind.ANON:
            self.swap_pages -= freed
        return freed

    def _free_tables(self, count: int, cpu: int) -> None:
        """Gives the newest page tables back: ``count`` pages of them."""
        size = self._memory.page_size(AllocKind.PAGE_TABLE)
        while count > 0:
            newest = self._tables[-1]
            step = min(count, newest.count)
            newest.count -= step
            self.pgtable_pages -= step
            count -= step
            if not newest.count:
                self._tables.pop()
            self._memory.give_singly(newest.account, size, cpu, step)

    def drop(self, cpu: int) -> None:
        """exit_mmap: gives everything back."""
        for kind in (AllocKind.SHMEM, AllocKind.ANON):
            self.release(kind, self.total_vm, cpu)
        self._free_tables(self.pgtable_pages, cpu)
        for blocks in self._vma.values():
            self._memory.free_blocks(blocks, cpu)
        self._vma.clear()
