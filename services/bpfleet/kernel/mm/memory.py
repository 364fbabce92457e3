"""Allocation with its charge: every byte the kernel hands out is in exactly one account until it is given back."""

from enum import IntEnum
from typing import Final, final

from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import KMALLOC_MAX_SIZE, PAGE_SIZE, PCPU_MIN_UNIT_SIZE
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memcontrol import Current, MemoryController, ObjCgroup, Stat
from bpfleet.kernel.mm.page_alloc import NodeMemory
from bpfleet.kernel.mm.percpu import percpu_bytes, percpu_charge_bytes
from bpfleet.kernel.mm.slab import KMALLOC_LARGEST_CLASS, kmalloc_bytes, kmalloc_charge_bytes
from bpfleet.kernel.mm.vmalloc import vmalloc_bytes
from bpfleet.kernel.profile import KernelProfile

KMALLOC_AREA_LIMIT: Final = PAGE_SIZE << 3


class AllocKind(IntEnum):
    """Which allocator an object comes from; decides how it is charged and which memory.stat field moves."""

    SLAB = 0
    SLAB_RECLAIMABLE = 1
    PERCPU = 2
    VMALLOC = 3
    PAGES = 4


@final
class Owner:
    """What an allocation belongs to: a map, a program, a file, ... Compared by identity."""

    __slots__ = ("ident", "kind", "name")

    def __init__(self, kind: str, ident: int, name: str = "") -> None:
        self.kind = kind
        self.ident = ident
        self.name = name

    def __repr__(self) -> str:
        return f"{self.kind} {self.ident}" + (f" {self.name}" if self.name else "")


@final
class AllocSize:
    """One size of object from one allocator. All quantities are bytes per object.

    ``requested`` is what the caller asked for, ``taken`` what it occupies in RAM, ``charge`` what an accounted one
    costs its payer.
    """

    __slots__ = ("charge", "kind", "requested", "taken")

    def __init__(self, kind: AllocKind, requested: int, taken: int, charge: int) -> None:
        self.kind: Final = kind
        self.requested: Final = requested
        self.taken: Final = taken
        self.charge: Final = charge


@final
class Account:
    """All live objects of one kind that one owner holds against one payer: a line of the ledger.

    ``objcg`` None means nobody is charged. Invariant *single owner*: objects are given back to the account they were
    taken from, so the uncharge cannot go astray.
    """

    __slots__ = ("charged_bytes", "count", "kind", "objcg", "owner", "taken_bytes")

    def __init__(self, owner: Owner, kind: AllocKind, objcg: ObjCgroup | None) -> None:
        self.owner: Final = owner
        self.kind: Final = kind
        self.objcg: Final = objcg
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


_STAT_OF_KIND: Final = {
    AllocKind.SLAB: Stat.SLAB_UNRECLAIMABLE,
    AllocKind.SLAB_RECLAIMABLE: Stat.SLAB_RECLAIMABLE,
    AllocKind.PERCPU: Stat.PERCPU,
}


@final
class Memory:
    """The allocators of one node. Sizes are bytes; every method that can fail raises KernelError(ENOMEM)."""

    def __init__(
        self,
        profile: KernelProfile,
        controller: MemoryController,
        node: NodeMemory,
        possible_cpus: int,
    ) -> None:
        self.profile: Final = profile
        self.controller: Final = controller
        self.node: Final = node
        self.possible_cpus: Final = possible_cpus
        self.accounts: Final[dict[tuple[Owner, AllocKind, ObjCgroup | None], Account]] = {}
        self.faults: Final[dict[AllocKind, int]] = {}
        self.charged_bytes_total = (
            0  # live charges of all accounts; receipts take differences of it
        )

    # -- sizes ---------------------------------------------------------------------------------------------------

    def slab_size(self, size_bytes: int, kind: AllocKind = AllocKind.SLAB) -> AllocSize:
        """A kmalloc object of ``size_bytes``."""
        return AllocSize(
            kind, size_bytes, kmalloc_bytes(size_bytes), kmalloc_charge_bytes(size_bytes)
        )

    def percpu_size(self, size_bytes: int) -> AllocSize:
        """A per-CPU object of ``size_bytes`` on each possible CPU."""
        cpus = self.possible_cpus
        charge = percpu_charge_bytes(
            size_bytes, cpus, objcg_vector=self.profile.percpu_charges_objcg_vector
        )
        return AllocSize(AllocKind.PERCPU, size_bytes, percpu_bytes(size_bytes, cpus), charge)

    def vmalloc_size(self, size_bytes: int) -> AllocSize:
        """A vmalloc area of ``size_bytes``."""
        pages_bytes = vmalloc_bytes(size_bytes)
        return AllocSize(AllocKind.VMALLOC, size_bytes, pages_bytes, pages_bytes)

    def page_size(self) -> AllocSize:
        """One page from the page allocator."""
        return AllocSize(AllocKind.PAGES, PAGE_SIZE, PAGE_SIZE, PAGE_SIZE)

    # -- taking and giving ---------------------------------------------------------------------------------------

    def account(self, owner: Owner, kind: AllocKind, objcg: ObjCgroup | None) -> Account:
        """The account of ``owner`` against ``objcg``, made on first use."""
        key = (owner, kind, objcg)
        found = self.accounts.get(key)
        if found is None:
            found = self.accounts[key] = Account(owner, kind, objcg)
        return found

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
        return self._block(owner, self.vmalloc_size(size_bytes), objcg, 1, gfp, current)

    def area(
        self, size_bytes: int, objcg: ObjCgroup | None, current: Current, owner: Owner
    ) -> Block:
        """bpf_map_area_alloc: kmalloc up to 32 KiB with a vmalloc fallback, vmalloc beyond [kernel/bpf/syscall.c]."""
        if size_bytes <= KMALLOC_AREA_LIMIT:
            try:
                quiet = GFP.GFP_USER | GFP.NORETRY | GFP.NOWARN
                return self.kmalloc(size_bytes, quiet, objcg, current, owner)
            except KernelError:
                pass
        gfp = GFP.GFP_KERNEL | GFP.RETRY_MAYFAIL | GFP.NOWARN
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
        if size_bytes > PCPU_MIN_UNIT_SIZE:
            raise _too_large("per-CPU allocation", size_bytes, PCPU_MIN_UNIT_SIZE)
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

    def free(self, block: Block, cpu: int = 0) -> None:
        """Gives all objects of a block back and uncharges whoever was charged."""
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
            self._maybe_fault(size.kind)
        taken = size.taken * count
        may_block = bool(gfp & GFP.DIRECT_RECLAIM)
        may_kill = may_block and not gfp & (GFP.NORETRY | GFP.RETRY_MAYFAIL)
        if not self.node.take(taken, may_reclaim=may_block, may_kill=may_kill):
            raise KernelError(
                Errno.ENOMEM,
                Reason.NODE_OUT_OF_MEMORY,
                f"{taken} bytes asked for, {self.node.free_bytes} of {self.node.ram_bytes} are free on the node",
                limit_bytes=self.node.ram_bytes,
                usage_bytes=self.node.used_bytes,
                requested_bytes=taken,
            )
        objcg = account.objcg
        if objcg is not None:
            try:
                self._charge(objcg, size, gfp, current, count)
            except KernelError:
                self.node.give(taken)
                raise
            charge = size.charge * count
            account.charged_bytes += charge
            self.charged_bytes_total += charge
        if (
            account.count == 0
        ):  # an emptied account left the ledger; whoever kept it may use it again
            self.accounts[(account.owner, account.kind, objcg)] = account
        account.count += count
        account.taken_bytes += taken

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
            del self.accounts[(account.owner, account.kind, objcg)]

    # -- charging by kind ----------------------------------------------------------------------------------------

    def _charge(
        self, objcg: ObjCgroup, size: AllocSize, gfp: int, current: Current, count: int
    ) -> None:
        """Charges ``count`` objects as their allocator does; on failure uncharges what went through and raises."""
        controller = self.controller
        if size.kind == AllocKind.VMALLOC:
            pages = size.charge // PAGE_SIZE * count
            done = controller.charge_kernel_pages(objcg, pages, gfp, current)
            if done < pages:
                controller.uncharge_kernel_pages(objcg, done, current.cpu)
                raise self._limit_error(objcg, size.charge * count)
            objcg.memcg.add_stat(Stat.VMALLOC_PAGES, pages)
        elif size.kind == AllocKind.PAGES:
            done = controller.charge_kernel_pages(objcg, count, gfp, current)
            if done < count:
                controller.uncharge_kernel_pages(objcg, done, current.cpu)
                raise self._limit_error(objcg, size.charge * count)
        elif size.requested > KMALLOC_LARGEST_CLASS and size.kind != AllocKind.PERCPU:
            assert count == 1, "large kmalloc objects are taken one at a time"
            controller.charge_kernel_block(objcg, size.charge // PAGE_SIZE, gfp, current)
            objcg.memcg.add_stat(_STAT_OF_KIND[size.kind], size.charge)
        else:
            done = controller.charge_bytes(objcg, size.charge, count, gfp, current)
            if done < count:
                if done:
                    controller.uncharge_bytes(objcg, size.charge * done, current.cpu)
                raise self._limit_error(objcg, size.charge * count)
            objcg.memcg.add_stat(_STAT_OF_KIND[size.kind], size.charge * count)

    def _uncharge(self, objcg: ObjCgroup, size: AllocSize, cpu: int, count: int) -> None:
        controller = self.controller
        charge = size.charge * count
        if size.kind == AllocKind.VMALLOC:
            objcg.memcg.add_stat(Stat.VMALLOC_PAGES, -(charge // PAGE_SIZE))
            controller.uncharge_kernel_pages(objcg, charge // PAGE_SIZE, cpu)
        elif size.kind == AllocKind.PAGES:
            controller.uncharge_kernel_pages(objcg, count, cpu)
        elif size.requested > KMALLOC_LARGEST_CLASS and size.kind != AllocKind.PERCPU:
            objcg.memcg.add_stat(_STAT_OF_KIND[size.kind], -charge)
            controller.uncharge_kernel_pages(objcg, charge // PAGE_SIZE, cpu)
        else:
            objcg.memcg.add_stat(_STAT_OF_KIND[size.kind], -charge)
            controller.uncharge_bytes(objcg, charge, cpu)

    def _limit_error(self, objcg: ObjCgroup, requested_bytes: int) -> KernelError:
        error = self.controller.last_failure
        assert error is not None, "a charge failed without a reason"
        return KernelError(
            error.errno,
            error.reason,
            error.detail,
            **{**error.numbers, "requested_bytes": requested_bytes},
        )

    # -- fault injection -----------------------------------------------------------------------------------------

    def fail_nth(self, kind: AllocKind, nth: int) -> None:
        """Makes the ``nth`` allocation of ``kind`` from now on fail with ENOMEM, once (1 = the next)."""
        self.faults[kind] = nth

    def _maybe_fault(self, kind: AllocKind) -> None:
        left = self.faults.get(kind)
        if left is None:
            return
        if left > 1:
            self.faults[kind] = left - 1
            return
        del self.faults[kind]
        raise KernelError(
            Errno.ENOMEM, Reason.FAULT_INJECTED, f"injected failure of one {kind.name} allocation"
        )


def _too_large(what: str, size_bytes: int, limit_bytes: int) -> KernelError:
    return KernelError(
        Errno.ENOMEM,
        Reason.ALLOCATION_TOO_LARGE,
        f"a {what} of {size_bytes} bytes is over {limit_bytes}",
        requested_bytes=size_bytes,
        limit_bytes=limit_bytes,
    )
