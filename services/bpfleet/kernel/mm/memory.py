"""Allocation with its charge: every byte the kernel hands out is in exactly one account until it is given back."""

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Final, final

from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import KMALLOC_MAX_SIZE, PAGE_SIZE
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.current import Current
from bpfleet.kernel.mm.faults import InjectedFaults
from bpfleet.kernel.mm.memcg import ObjCgroup, Stat
from bpfleet.kernel.mm.memcontrol import MemoryController
from bpfleet.kernel.mm.page_alloc import NodeMemory
from bpfleet.kernel.mm.populated import PopulatedPages
from bpfleet.kernel.mm.sizes import (
    OBJCG_POINTER_BYTES,
    kmalloc_bytes,
    kmalloc_charge_bytes,
    pcpu_unit_min_bytes,
    percpu_bytes,
    percpu_charge_bytes,
    vmalloc_bytes,
)
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.units import bytes_of

AREA_LIMIT_ORDER: Final = 3  # PAGE_ALLOC_COSTLY_ORDER


class AllocKind(IntEnum):
    """Which allocator an object comes from; decides how it is charged and which memory.stat field moves."""

    SLAB = 0
    SLAB_RECLAIMABLE = 1
    PERCPU = 2
    VMALLOC = 3
    PAGES = 4
    PAGE_TABLE = 5
    ANON = 6
    FILE = 7
    SHMEM = 8
    STACK = 9  # of a task in the kernel


_STATS_OF_KIND: Final[dict[AllocKind, tuple[Stat, ...]]] = {
    AllocKind.SLAB: (Stat.SLAB_UNRECLAIMABLE,),
    AllocKind.SLAB_RECLAIMABLE: (Stat.SLAB_RECLAIMABLE,),
    AllocKind.PERCPU: (Stat.PERCPU,),
    AllocKind.VMALLOC: (Stat.VMALLOC_PAGES,),
    AllocKind.PAGES: (),
    AllocKind.PAGE_TABLE: (Stat.PGTABLE_PAGES,),
    AllocKind.ANON: (Stat.ANON_PAGES,),
    AllocKind.FILE: (Stat.FILE_PAGES,),
    AllocKind.SHMEM: (Stat.FILE_PAGES, Stat.SHMEM_PAGES),
    AllocKind.STACK: (Stat.KERNEL_STACK_PAGES,),
}
_PAGE_KINDS: Final = frozenset(
    {
        AllocKind.VMALLOC,
        AllocKind.PAGES,
        AllocKind.PAGE_TABLE,
        AllocKind.ANON,
        AllocKind.FILE,
        AllocKind.SHMEM,
        AllocKind.STACK,
    }
)
_USER_KINDS: Final = frozenset({AllocKind.ANON, AllocKind.FILE, AllocKind.SHMEM})


@final
class Owner:
    """What an allocation belongs to: a map, a program, a file, ... Compared by identity.

    ``accounts`` is the first of its accounts on the ledger; each knows the next.
    """

    __slots__ = ("accounts", "ident", "kind", "name")

    def __init__(self, kind: str, ident: int, name: str = "") -> None:
        self.kind = kind
        self.ident = ident
        self.name = name
        self.accounts: Account | None = None

    def lines(self) -> "list[Account]":
        """Its accounts on the ledger, the newest first."""
        found: list[Account] = []
        account = self.accounts
        while account is not None:
            found.append(account)
            account = account.next
        return found

    def __repr__(self) -> str:
        return f"{self.kind} {self.ident}" + (f" {self.name}" if self.name else "")


@final
class AllocSize:
    """One size of object from one allocator. All quantities are bytes per object.

    ``requested`` is what the caller asked for, ``taken`` what it occupies in RAM, ``charge`` what an accounted one
    costs its payer.
    """

    __slots__ = ("charge", "is_page_charged", "kind", "requested", "taken")

    def __init__(self, kind: AllocKind, requested: int, taken: int, charge: int) -> None:
        self.kind: Final = kind
        self.requested: Final = requested
        self.taken: Final = taken
        self.charge: Final = charge
        # By whole pages: everything but per-CPU objects and those of slab caches, which have an objcg pointer each.
        self.is_page_charged: Final = kind in _PAGE_KINDS or (
            kind != AllocKind.PERCPU and charge == taken
        )


@final
class Account:
    """All live objects of one kind that one owner holds against one payer: a line of the ledger.

    ``objcg`` None means nobody is charged. Invariant *single owner*: objects are given back to the account they were
    taken from, so the uncharge cannot go astray.
    """

    __slots__ = ("charged_bytes", "count", "kind", "next", "objcg", "owner", "taken_bytes")

    def __init__(self, owner: Owner, kind: AllocKind, objcg: ObjCgroup | None) -> None:
        self.owner: Final = owner
        self.kind: Final = kind
        self.objcg = objcg
        self.next: Account | None = None
        self.count = 0
        self.charged_bytes = 0
        self.taken_bytes = 0


@final
class Block:
    """Objects of one size taken together; remembers its account so that freeing it needs nothing else."""

    __slots__ = ("account", "count", "size")

    def __init__(self, account: Account, size: AllocSize, count: int) -> None:
        self.account: Final = account
        self.size: Final = size
        self.count = count

    @property
    def charged_bytes(self) -> int:
        """Bytes its payer is charged for it."""
        return self.size.charge * self.count if self.account.objcg is not None else 0


@final
class Memory:
    """The allocators of one node. Sizes are bytes; every method that can fail raises KernelError(ENOMEM)."""

    fault_struck: Callable[
        [AllocKind], None
    ]  # hears of each injected failure; the kernel wires it in

    def __init__(
        self,
        profile: KernelProfile,
        controller: MemoryController,
        node: NodeMemory,
        possible_cpus: int,
        seed: int = 0,
    ) -> None:
        self.profile: Final = profile
        self.controller: Final = controller
        self.node: Final = node
        self.possible_cpus: Final = possible_cpus
        # The ledger in the order of its lines: a dictionary serves as an ordered set.
        self.accounts: Final[dict[Account, Account]] = {}
        self.faults: Final = InjectedFaults(seed)
        self.populated: Final = PopulatedPages(profile.percpu_populated_bytes)
        # Live charges of all accounts; receipts take differences of it.
        self.charged_bytes_total = 0
        self._last_failure: KernelError | None = None

    # -- sizes ---------------------------------------------------------------------------------------------------

    def slab_size(self, size_bytes: int, kind: AllocKind = AllocKind.SLAB) -> AllocSize:
        """A kmalloc object of ``size_bytes``."""
        profile = self.profile
        return _slab_size(size_bytes, kind, profile.page_bytes, profile.kmalloc_min_bytes)

    def cache_size(self, size_bytes: int, kind: AllocKind = AllocKind.SLAB) -> AllocSize:
        """An object of a named cache: exactly ``size_bytes``, charged with one objcg pointer."""
        return _cache_size(size_bytes, kind)

    def percpu_size(self, size_bytes: int) -> AllocSize:
        """A per-CPU object of ``size_bytes`` on each possible CPU."""
        return _percpu_size(
            size_bytes, self.possible_cpus, self.profile.percpu_charges_objcg_vector
        )

    def vmalloc_size(self, size_bytes: int) -> AllocSize:
        """A vmalloc area of ``size_bytes``."""
        return _vmalloc_size(size_bytes, self.profile.page_bytes)

    def page_size(self, kind: AllocKind = AllocKind.PAGES) -> AllocSize:
        """4 KiB from the page allocator: the unit in which pages are counted, of which a page is ``page_units``."""
        return _page_size(kind)

    def whole_page_size(self) -> AllocSize:
        """A page of this kernel, as one object."""
        page = self.profile.page_bytes
        return AllocSize(AllocKind.PAGES, page, page, page)

    # -- taking and giving ---------------------------------------------------------------------------------------

    def account(self, owner: Owner, kind: AllocKind, objcg: ObjCgroup | None) -> Account:
        """The account of ``owner`` against ``objcg``, made on first use."""
        found = owner.accounts
        while found is not None:
            if found.objcg is objcg and found.kind is kind:
                return found
            found = found.next
        made = Account(owner, kind, objcg)
        self._join(made)
        return made

    def _join(self, account: Account) -> None:
        """Puts an account on the ledger."""
        owner = account.owner
        account.next = owner.accounts
        owner.accounts = self.accounts[account] = account

    def _part(self, account: Account) -> None:
        """Takes an account off the ledger."""
        del self.accounts[account]
        owner = account.owner
        before, found = None, owner.accounts
        while found is not account:
            assert found is not None, (owner, account.kind)
            before, found = found, found.next
        if before is None:
            owner.accounts = account.next
        else:
            before.next = account.next
        account.next = None

    def kmalloc(
        self, size_bytes: int, gfp: int, objcg: ObjCgroup | None, current: Current, owner: Owner
    ) -> Block:
        """Allocates one slab object. ENOMEM at once above KMALLOC_MAX_SIZE."""
        if size_bytes > KMALLOC_MAX_SIZE:
            raise _too_large("kmalloc", size_bytes, KMALLOC_MAX_SIZE)
        return self._block(owner, self.slab_size(size_bytes), objcg, 1, gfp, current)

    def vmalloc(
        self, size_bytes: int, gfp: int, objcg: ObjCgroup | None, current: Current, owner: Owner
    ) -> Block:
        """Allocates an area of whole pages, charged page by page. More than the node's RAM fails at once."""
        if size_bytes > self.node.ram_bytes:
            raise _too_large("vmalloc", size_bytes, self.node.ram_bytes)
        page_gfp = gfp | GFP.HIGHMEM | GFP.NOWARN  # __vmalloc_area_node asks for its pages so
        return self._block(owner, self.vmalloc_size(size_bytes), objcg, 1, page_gfp, current)

    def area(
        self, size_bytes: int, objcg: ObjCgroup | None, current: Current, owner: Owner
    ) -> Block:
        """bpf_map_area_alloc: kmalloc up to 32 KiB with a vmalloc fallback, vmalloc beyond [kernel/bpf/syscall.c]."""
        if size_bytes <= self.profile.page_bytes << AREA_LIMIT_ORDER:
            try:
                quiet = GFP.GFP_USER | GFP.NORETRY | GFP.NOWARN
                return self.kmalloc(size_bytes, quiet, objcg, current, owner)
            except KernelError:
                pass
        gfp = GFP.GFP_KERNEL | GFP.RETRY_MAYFAIL | GFP.NOWARN
        return self.vmalloc(size_bytes, gfp, objcg, current, owner)

    def kvmalloc(
        self, size_bytes: int, gfp: int, objcg: ObjCgroup | None, current: Current, owner: Owner
    ) -> Block:
        """A slab object or contiguous pages; beyond a page, an area when that allocation fails [mm/util.c]."""
        if size_bytes <= self.profile.page_bytes:
            return self.kmalloc(size_bytes, gfp, objcg, current, owner)
        try:
            quiet = gfp | GFP.NORETRY | GFP.NOWARN
            return self.kmalloc(size_bytes, quiet, objcg, current, owner)
        except KernelError:
            return self.vmalloc(size_bytes, gfp, objcg, current, owner)

    def alloc_percpu(
        self,
        size_bytes: int,
        count: int,
        gfp: int,
        objcg: ObjCgroup | None,
        current: Current,
        owner: Owner,
    ) -> Block:
        """Allocates ``count`` per-CPU objects one after the other; all or none."""
        limit = pcpu_unit_min_bytes(self.profile.page_bytes)
        if size_bytes > limit:
            raise _too_large("per-CPU allocation", size_bytes, limit)
        return self._block(owner, self.percpu_size(size_bytes), objcg, count, gfp, current)

    def alloc_pages(
        self, pages: int, gfp: int, objcg: ObjCgroup | None, current: Current, owner: Owner
    ) -> Block:
        """Allocates ``pages`` single pages; all or none."""
        return self._block(owner, self.page_size(), objcg, pages, gfp, current)

    def _block(
        self,
        owner: Owner,
        size: AllocSize,
        objcg: ObjCgroup | None,
        count: int,
        gfp: int,
        current: Current,
    ) -> Block:
        return self.take_block(self.account(owner, size.kind, objcg), size, gfp, current, count)

    def take_block(
        self, account: Account, size: AllocSize, gfp: int, current: Current, count: int = 1
    ) -> Block:
        """`take`, remembered in a Block."""
        self.take(account, size, gfp, current, count)
        return Block(account, size, count)

    def free_blocks(self, blocks: Sequence[Block], cpu: int) -> None:
        """Gives blocks back, the last one taken first."""
        for block in reversed(blocks):
            self.free(block, cpu)

    def take_objects(
        self,
        sizes: Iterable[AllocSize],
        gfp: int,
        objcg: ObjCgroup | None,
        current: Current,
        owner: Owner,
    ) -> tuple[Block, ...]:
        """One object of each size; all or none. Raises KernelError(ENOMEM)."""
        return self.take_blocks(((size, 1) for size in sizes), gfp, objcg, current, owner)

    def take_blocks(
        self,
        objects: Iterable[tuple[AllocSize, int]],
        gfp: int,
        objcg: ObjCgroup | None,
        current: Current,
        owner: Owner,
    ) -> tuple[Block, ...]:
        """So many objects of each size; all or none. Raises KernelError(ENOMEM)."""
        blocks: list[Block] = []
        try:
            for size, count in objects:
                account = self.account(owner, size.kind, objcg)
                blocks.append(self.take_block(account, size, gfp, current, count))
        except KernelError:
            self.free_blocks(blocks, current.cpu)
            raise
        return tuple(blocks)

    def free(self, block: Block, cpu: int = 0) -> None:
        """Gives all objects of a block back and uncharges its payer."""
        count = block.count
        block.count = 0
        if count:
            self.give(block.account, block.size, cpu, count)

    def take(
        self, account: Account, size: AllocSize, gfp: int, current: Current, count: int = 1
    ) -> None:
        """Takes ``count`` objects into ``account``: RAM first, then the charge. All or none.

        Raises KernelError(ENOMEM): NODE_OUT_OF_MEMORY, MEMCG_LIMIT_EXCEEDED or FAULT_INJECTED.
        """
        if self.faults:
            self._maybe_fault(account, size.kind)
        if size.kind in _PAGE_KINDS:
            pages = size.charge // PAGE_SIZE * count
            done = self._take_pages(account, size.kind, pages, gfp, current)
            if done < pages:
                self._return_pages(account, size.kind, done, current.cpu)
                raise _refusal(self._last_failure, size.charge * count)
        else:
            self._take_objects(account, size, gfp, current, count)
        self._enter(account, count, size.taken * count, size.charge * count)

    def fault(self, account: Account, pages: int, gfp: int, current: Current) -> int:
        """Takes up to ``pages`` single pages, one by one. Returns how many came; 0: `failure` says why.

        User pages that come before one that has to wait at a limit are handed out first, so that they count when the
        OOM killer looks: ask again for the rest. Raises KernelError only for an injected fault.
        """
        if self.faults:
            self._maybe_fault(account, account.kind)
        done = self._take_pages(account, account.kind, pages, gfp, current)
        if done:
            self._enter(account, done, bytes_of(done), bytes_of(done))
        else:
            self._forget_if_empty(account)
        return done

    def failure(self) -> KernelError:
        """Why the latest `fault` brought fewer pages than asked for."""
        assert self._last_failure is not None, "nothing failed"
        return self._last_failure

    def _enter(self, account: Account, count: int, taken_bytes: int, charge_bytes: int) -> None:
        """Records objects just taken. An emptied account left the ledger; a holder may use it again."""
        objcg = account.objcg
        if account.count == 0:
            if account not in self.accounts:
                self._join(account)
            if objcg is not None:
                objcg.accounts += 1
        account.count += count
        account.taken_bytes += taken_bytes
        if objcg is not None:
            account.charged_bytes += charge_bytes
            self.charged_bytes_total += charge_bytes

    def give(self, account: Account, size: AllocSize, cpu: int = 0, count: int = 1) -> None:
        """Gives ``count`` objects of ``account`` back."""
        assert account.count >= count, (account.owner, account.kind, account.count, count)
        account.count -= count
        account.taken_bytes -= size.taken * count
        self.node.give(size.taken * count)
        objcg = account.objcg
        if objcg is not None:
            charge = size.charge * count
            account.charged_bytes -= charge
            self.charged_bytes_total -= charge
            self._uncharge(objcg, size, cpu, count)
        if account.count == 0:
            self._leave(account)

    def give_singly(self, account: Account, size: AllocSize, cpu: int, count: int) -> None:
        """Gives ``count`` units of kernel pages back, page after page but in constant time.

        Each goes into the CPU's stock, which returns all it holds once it is over a batch. So batch + 1 pages leave the
        stock as it was, as soon as the first of them have made room for this payer.
        """
        page = self.profile.page_units
        cycle = self.controller.batch_pages + page
        first = min(count, cycle)
        whole = max(0, count // cycle - 1) * cycle
        for _ in range(0, first, page):
            self.give(account, size, cpu, page)
        if whole:
            self._give_cycles(account, size, whole)
        for _ in range(0, count - first - whole, page):
            self.give(account, size, cpu, page)

    def _give_cycles(self, account: Account, size: AllocSize, pages: int) -> None:
        """Pages that go through a stock without changing it."""
        account.count -= pages
        account.taken_bytes -= size.taken * pages
        self.node.give(size.taken * pages)
        objcg = account.objcg
        if objcg is not None:
            account.charged_bytes -= size.charge * pages
            self.charged_bytes_total -= size.charge * pages
            for stat in _STATS_OF_KIND[size.kind]:
                objcg.memcg.add_stat(stat, -pages)
            objcg.memcg.add_stat(Stat.KERNEL_PAGES, -pages)
            self.controller.uncharge_direct(objcg.memcg, pages)
        if account.count == 0:
            self._leave(account)

    def hand_over(self, account: Account, owner: Owner, size: AllocSize, count: int = 1) -> Account:
        """Gives ``count`` objects another owner; who pays stays. Returns the account that must get them back."""
        target = self.account(owner, account.kind, account.objcg)
        charge = size.charge * count if account.objcg is not None else 0
        self._enter(target, count, size.taken * count, charge)
        self.charged_bytes_total -= charge
        account.count -= count
        account.taken_bytes -= size.taken * count
        account.charged_bytes -= charge
        if account.count == 0:
            self._leave(account)
        return target

    def _leave(self, account: Account) -> None:
        """Takes an emptied account off the ledger, and lets go of a removed cgroup it was the last to hold."""
        objcg = account.objcg
        self._part(account)
        if objcg is None:
            return
        objcg.accounts -= 1
        if objcg.accounts:
            return
        if objcg.detached:
            self.controller.retire(objcg)
        elif not objcg.memcg.online:
            self.controller.release_if_unused(objcg.memcg)

    def recharge(self, owner: Owner, payer: ObjCgroup, current: Current) -> None:
        """Moves every charge of ``owner`` to ``payer``: charges it first, then uncharges the previous payers.

        Raises KernelError(ENOMEM) where it does not fit, and then nothing has moved. What nobody pays for stays unpaid.
        """
        moving = [
            account
            for account in self.accounts.values()
            if account.owner is owner and account.objcg not in (None, payer) and account.count
        ]
        done = 0
        try:
            for account in moving:
                self._charge_account(payer, account, current)
                done += 1
        except KernelError:
            for account in moving[:done]:
                self._uncharge_account(payer, account, current.cpu)
            raise
        for account in moving:
            assert account.objcg is not None
            old = account.objcg
            self._uncharge_account(old, account, current.cpu)
            self._leave(account)
            account.objcg = payer
            self._join(account)
            payer.accounts += 1

    def _charge_account(self, objcg: ObjCgroup, account: Account, current: Current) -> None:
        """Charges all an account holds to ``objcg``. Raises KernelError(ENOMEM), then nothing of it is charged."""
        gfp = GFP.GFP_KERNEL_ACCOUNT | GFP.RETRY_MAYFAIL
        charge = account.charged_bytes
        if account.kind in _PAGE_KINDS:
            pages = charge // PAGE_SIZE
            done = self._charge_pages(objcg, account.kind, pages, gfp, current)
            if done < pages:
                self._uncharge_pages(objcg, account.kind, done, current.cpu)
                raise _refusal(self.controller.last_failure, charge)
        elif charge:
            if not self.controller.charge_bytes(objcg, charge, 1, gfp, current):
                raise _refusal(self.controller.last_failure, charge)
            for stat in _STATS_OF_KIND[account.kind]:
                objcg.memcg.add_stat(stat, charge)

    def _uncharge_account(self, objcg: ObjCgroup, account: Account, cpu: int) -> None:
        charge = account.charged_bytes
        if account.kind in _PAGE_KINDS:
            self._uncharge_pages(objcg, account.kind, charge // PAGE_SIZE, cpu)
            return
        for stat in _STATS_OF_KIND[account.kind]:
            objcg.memcg.add_stat(stat, -charge)
        self.controller.uncharge_bytes(objcg, charge, cpu)

    # -- pages: each is taken from RAM, then charged ---------------------------------------------------------------

    def _take_pages(
        self, account: Account, kind: AllocKind, pages: int, gfp: int, current: Current
    ) -> int:
        """Takes and charges pages until the first failure, whose reason it keeps. Returns how many.

        Of user pages fewer may come without a failure, but at least one.
        """
        node, objcg, page = self.node, account.objcg, self.profile.page_units
        done = 0
        while done < pages:
            step = min(pages - done, max(node.free_pages // page * page, page))
            if done and kind in _USER_KINDS:
                return done
            if not node.take(bytes_of(step), gfp, current):
                self._last_failure = self._out_of_ram(bytes_of(pages - done))
                return done
            got = step if objcg is None else self._charge_pages(objcg, kind, step, gfp, current)
            done += got
            if got < step:
                node.give(bytes_of(step - got))
                self._last_failure = self.controller.last_failure or self._last_failure
                return done
        return done

    def _charge_pages(
        self, objcg: ObjCgroup, kind: AllocKind, pages: int, gfp: int, current: Current
    ) -> int:
        controller, memcg = self.controller, objcg.memcg
        if kind in _USER_KINDS:
            done = controller.charge_user_pages(memcg, pages, gfp, current)
        else:
            vmalloc = kind == AllocKind.VMALLOC
            done = controller.charge_kernel_pages(objcg, pages, gfp, current, vmalloc=vmalloc)
        for stat in _STATS_OF_KIND[kind]:
            memcg.add_stat(stat, done)
        return done

    def _return_pages(self, account: Account, kind: AllocKind, pages: int, cpu: int) -> None:
        """Undoes `_take_pages` for an allocation that came only in part."""
        if pages:
            self.node.give(bytes_of(pages))
            if account.objcg is not None:
                self._uncharge_pages(account.objcg, kind, pages, cpu)
        self._forget_if_empty(account)

    def _uncharge_pages(self, objcg: ObjCgroup, kind: AllocKind, pages: int, cpu: int) -> None:
        for stat in _STATS_OF_KIND[kind]:
            objcg.memcg.add_stat(stat, -pages)
        if kind in _USER_KINDS:
            self.controller.uncharge_direct(objcg.memcg, pages)
        else:
            self.controller.uncharge_kernel_pages(objcg, pages, cpu)

    # -- objects: charged by bytes, or in one piece when they are larger than a slab -------------------------------

    def _take_objects(
        self, account: Account, size: AllocSize, gfp: int, current: Current, count: int
    ) -> None:
        if not self.node.take(size.taken * count, gfp, current):
            self._forget_if_empty(account)
            raise self._out_of_ram(size.taken * count)
        objcg = account.objcg
        if objcg is None:
            return
        try:
            self._charge_objects(objcg, size, gfp, current, count)
        except KernelError:
            self.node.give(size.taken * count)
            self._forget_if_empty(account)
            raise

    def _charge_objects(
        self, objcg: ObjCgroup, size: AllocSize, gfp: int, current: Current, count: int
    ) -> None:
        """Charges ``count`` objects one after the other; on failure uncharges what went through and raises."""
        controller = self.controller
        if size.is_page_charged:
            assert count == 1, "large kmalloc objects are taken one at a time"
            controller.charge_kernel_block(objcg, size.charge // PAGE_SIZE, gfp, current)
        else:
            done = controller.charge_bytes(objcg, size.charge, count, gfp, current)
            if done < count:
                if done:
                    controller.uncharge_bytes(objcg, size.charge * done, current.cpu)
                raise _refusal(controller.last_failure, size.charge * count)
        for stat in _STATS_OF_KIND[size.kind]:
            objcg.memcg.add_stat(stat, size.charge * count)

    def _uncharge(self, objcg: ObjCgroup, size: AllocSize, cpu: int, count: int) -> None:
        charge = size.charge * count
        if size.kind in _PAGE_KINDS:
            self._uncharge_pages(objcg, size.kind, charge // PAGE_SIZE, cpu)
            return
        for stat in _STATS_OF_KIND[size.kind]:
            objcg.memcg.add_stat(stat, -charge)
        if size.is_page_charged:
            self.controller.uncharge_kernel_pages(objcg, charge // PAGE_SIZE, cpu)
        else:
            self.controller.uncharge_bytes(objcg, charge, cpu)

    def _forget_if_empty(self, account: Account) -> None:
        if not account.count and account in self.accounts:
            self._part(account)

    # -- reasons -------------------------------------------------------------------------------------------------

    def _out_of_ram(self, requested_bytes: int) -> KernelError:
        node = self.node
        return KernelError(
            Errno.ENOMEM,
            Reason.NODE_OUT_OF_MEMORY,
            f"{requested_bytes} bytes asked for, {node.free_bytes} of {node.ram_bytes} are free on the node",
            limit_bytes=node.ram_bytes,
            usage_bytes=node.used_bytes,
            requested_bytes=requested_bytes,
        )

    def _maybe_fault(self, account: Account, kind: AllocKind) -> None:
        """Raises KernelError(ENOMEM) for an allocation that is to fail."""
        if not self.faults.strikes(kind, charged=account.objcg is not None):
            return
        self._forget_if_empty(account)
        self.fault_struck(kind)
        raise KernelError(
            Errno.ENOMEM, Reason.FAULT_INJECTED, f"injected failure of one {kind.name} allocation"
        )


def _refusal(cause: KernelError | None, requested_bytes: int) -> KernelError:
    """Why a request failed, with the size of the whole of it rather than of the page that did not fit."""
    assert cause is not None, "nothing failed"
    return KernelError(
        cause.errno,
        cause.reason,
        cause.detail,
        **{**cause.numbers, "requested_bytes": requested_bytes},
    )


# -- sizes: the same few objects serve all maps of all nodes -----------------------------------------------------------

_SIZES_KEPT: Final = 4096


@lru_cache(_SIZES_KEPT)
def _slab_size(size_bytes: int, kind: AllocKind, page_bytes: int, min_bytes: int) -> AllocSize:
    taken = kmalloc_bytes(size_bytes, page_bytes, min_bytes)
    return AllocSize(
        kind, size_bytes, taken, kmalloc_charge_bytes(size_bytes, page_bytes, min_bytes)
    )


@lru_cache(_SIZES_KEPT)
def _cache_size(size_bytes: int, kind: AllocKind) -> AllocSize:
    return AllocSize(kind, size_bytes, size_bytes, size_bytes + OBJCG_POINTER_BYTES)


@lru_cache(_SIZES_KEPT)
def _percpu_size(size_bytes: int, cpus: int, objcg_vector: bool) -> AllocSize:
    charge = percpu_charge_bytes(size_bytes, cpus, objcg_vector=objcg_vector)
    return AllocSize(AllocKind.PERCPU, size_bytes, percpu_bytes(size_bytes, cpus), charge)


@lru_cache(_SIZES_KEPT)
def _vmalloc_size(size_bytes: int, page_bytes: int) -> AllocSize:
    pages_bytes = vmalloc_bytes(size_bytes, page_bytes)
    return AllocSize(AllocKind.VMALLOC, size_bytes, pages_bytes, pages_bytes)


@lru_cache(_SIZES_KEPT)
def _page_size(kind: AllocKind) -> AllocSize:
    return AllocSize(kind, PAGE_SIZE, PAGE_SIZE, PAGE_SIZE)


def _too_large(what: str, size_bytes: int, limit_bytes: int) -> KernelError:
    return KernelError(
        Errno.ENOMEM,
        Reason.ALLOCATION_TOO_LARGE,
        f"a {what} of {size_bytes} bytes is over {limit_bytes}",
        requested_bytes=size_bytes,
        limit_bytes=limit_bytes,
    )
