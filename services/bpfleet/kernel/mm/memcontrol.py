"""The memory cgroup controller: stocks, byte charges, the slow path and its events [mm/memcontrol.c].

A charge tries, in this order: the CPU's stock, the counters with a whole batch, the counters with the exact amount,
then the slow path (reclaim, draining, retries, the OOM killer, force or ENOMEM). What the slow path does depends on
the allocation flags and on flags of the profile; `charge` is written in the kernel's order.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Final, Protocol, final

from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.page_counter import PAGE_COUNTER_MAX, PageCounter
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.units import bytes_of

MAX_RECLAIM_RETRIES: Final = 16
PAGE_ALLOC_COSTLY_ORDER: Final = 3


class MemcgEvent(IntEnum):
    """Keys of memory.events, in the file's order."""

    LOW = 0
    HIGH = 1
    MAX = 2
    OOM = 3
    OOM_KILL = 4
    OOM_GROUP_KILL = 5


class Stat(IntEnum):
    """memory.stat quantities kept per memcg. Slab and percpu are bytes, the others pages."""

    KERNEL_PAGES = 0
    SLAB_RECLAIMABLE = 1
    SLAB_UNRECLAIMABLE = 2
    PERCPU = 3
    VMALLOC_PAGES = 4
    ANON_PAGES = 5
    FILE_PAGES = 6
    SHMEM_PAGES = 7
    SOCK_PAGES = 8
    PGTABLE_PAGES = 9
    KERNEL_STACK = 10


class Current(Protocol):
    """What the controller needs to know of the running task (or of interrupt context)."""

    @property
    def pid(self) -> int: ...
    @property
    def cpu(self) -> int: ...
    @property
    def dying(self) -> bool: ...
    @property
    def objcg(self) -> "ObjCgroup | None": ...


@final
class ObjCgroup:
    """Stands for a memcg in object charges; re-pointed to the parent when the cgroup is removed.

    ``nr_charged_bytes`` are already paid bytes (< one page after a refill) parked outside the CPU's byte stock.
    """

    __slots__ = ("memcg", "nr_charged_bytes")

    def __init__(self, memcg: "Memcg") -> None:
        self.memcg = memcg
        self.nr_charged_bytes = 0


@final
class Memcg:
    """One memory cgroup. The root (``parent`` None) is never charged.

    ``stat`` is hierarchical: each change is added to all ancestors at once, so a read needs no flush.
    """

    __slots__ = (
        "children",
        "events",
        "events_local",
        "memory",
        "objcg",
        "online",
        "oom_group",
        "parent",
        "path",
        "stat",
        "swap_max_pages",
    )

    def __init__(self, path: str, parent: "Memcg | None") -> None:
        self.path = path
        self.parent: Memcg | None = parent
        # The root's counter exists but is never charged, so the chain of counters ends below it.
        above = parent.memory if parent is not None and parent.parent is not None else None
        self.memory: Final[PageCounter] = PageCounter(above)
        self.objcg: Final = ObjCgroup(self)
        self.children: Final[list[Memcg]] = []
        self.events: Final = [0] * len(MemcgEvent)
        self.events_local: Final = [0] * len(MemcgEvent)
        self.stat: Final = [0] * len(Stat)
        self.oom_group = False
        self.online = True
        self.swap_max_pages = PAGE_COUNTER_MAX
        if parent is not None:
            parent.children.append(self)

    @property
    def is_root(self) -> bool:
        """Whether this is the root memcg, which is not limited and not charged."""
        return self.parent is None

    @property
    def usage_bytes(self) -> int:
        """memory.current: charged pages and the CPUs' stocks, in bytes."""
        return bytes_of(self.memory.usage)

    @property
    def limit_bytes(self) -> int | None:
        """memory.max in bytes, or None for ``max``."""
        return None if self.memory.max >= PAGE_COUNTER_MAX else bytes_of(self.memory.max)

    def add_stat(self, stat: int, delta: int) -> None:
        """Adds ``delta`` to a statistic here and on every ancestor."""
        memcg: Memcg | None = self
        while memcg is not None:
            memcg.stat[stat] += delta
            memcg = memcg.parent

    def raise_event(self, event: int, count: int = 1) -> None:
        """Counts an event: locally here, hierarchically here and on every ancestor but the root."""
        self.events_local[event] += count
        memcg: Memcg | None = self
        while memcg is not None and memcg.parent is not None:
            memcg.events[event] += count
            memcg = memcg.parent


@final
class _CpuStock:
    """What one CPU holds ready: whole pages of a few memcgs, and bytes of one objcg [struct memcg_stock_pcp]."""

    __slots__ = ("byte_objcg", "bytes", "memcgs", "pages")

    def __init__(self) -> None:
        self.memcgs: list[Memcg] = []
        self.pages: list[int] = []
        self.byte_objcg: ObjCgroup | None = None
        self.bytes = 0


@final
class MemoryController:
    """Charges pages and bytes to memcgs of one node.

    ``reclaim(memcg, pages, gfp)`` returns pages freed below ``memcg``; ``oom(memcg, order, current)`` returns True when
    memory can be expected back (a task was killed or is dying), False when there is nobody to kill. Both are wired in
    by the kernel so that this file knows neither tasks nor the page cache.

    Invariant *charge conservation*: a memcg's usage = pages of its live charges and of those below + stocked pages.
    """

    def __init__(self, profile: KernelProfile, cpus: int) -> None:
        self.profile: Final = profile
        self.root: Final = Memcg("/", None)
        self.batch_pages: Final = profile.memcg_charge_batch
        self.reclaim: Callable[[Memcg, int, int], int] = lambda memcg, pages, gfp: 0
        self.oom: Callable[[Memcg, int, Current], bool] = lambda memcg, order, current: False
        self.over_high: Callable[[Memcg, int, int, Current], None] | None = None
        self.last_failure: KernelError | None = (
            None  # why the latest charge failed, for callers that undo first
        )
        self._cpus: Final = [_CpuStock() for _ in range(cpus)]

    # -- whole pages ---------------------------------------------------------------------------------------------

    def charge_pages(self, memcg: Memcg, pages: int, gfp: int, current: Current) -> None:
        """Charges ``pages`` in one piece (order = log2 of it). Raises KernelError(ENOMEM) where Linux does.

        Mirrors try_charge (5.11) and try_charge_memcg (5.14+).
        """
        if memcg.parent is None:
            return
        stock = self._cpus[current.cpu]
        if self._consume(stock, memcg, pages):
            return
        batch = max(self.batch_pages, pages)
        over = memcg.memory.try_charge(batch)
        if over is not None and batch > pages:
            batch = pages
            over = memcg.memory.try_charge(pages)
        if over is not None:
            self._charge_slow(stock, memcg, pages, over, gfp, current)
        elif batch > pages:
            self._refill(stock, memcg, batch - pages)
        if self.over_high is not None:
            self.over_high(memcg, batch, gfp, current)

    def charge_single_pages(self, memcg: Memcg, pages: int, gfp: int, current: Current) -> int:
        """Charges ``pages`` one by one, as vmalloc does. Returns how many succeeded before the first failure."""
        if memcg.parent is None:
            return pages
        stock = self._cpus[current.cpu]
        done = 0
        while done < pages:
            taken = self._consume_up_to(stock, memcg, pages - done)
            if taken:
                done += taken
                continue
            try:
                self.charge_pages(memcg, 1, gfp, current)
            except KernelError:
                return done
            done += 1
        return done

    def uncharge_pages(self, memcg: Memcg, pages: int, cpu: int) -> None:
        """Gives ``pages`` back, through the CPU's stock."""
        if memcg.parent is not None and pages:
            self._refill(self._cpus[cpu], memcg, pages)

    def _charge_slow(
        self,
        stock: _CpuStock,
        memcg: Memcg,
        pages: int,
        over: PageCounter,
        gfp: int,
        current: Current,
    ) -> None:
        profile = self.profile
        if profile.atomic_forces_early and gfp & GFP.ATOMIC_BIT:
            memcg.memory.charge(pages)
            return
        if profile.dying_task_forces and current.dying:
            memcg.memory.charge(pages)
            return
        retries = MAX_RECLAIM_RETRIES
        drained = False
        max_event = False
        killed = False
        while gfp & GFP.DIRECT_RECLAIM:
            limited = self._memcg_of(memcg, over)
            limited.raise_event(MemcgEvent.MAX)
            max_event = True
            freed = self.reclaim(limited, pages, gfp)
            again = limited.memory.margin() >= pages
            if not again and not drained:
                self.drain_stocks()
                drained = again = True
            elif not again:
                if gfp & GFP.NORETRY:
                    break
                if freed and pages <= 1 << PAGE_ALLOC_COSTLY_ORDER:
                    again = True
                elif retries:
                    retries -= 1
                    again = True
                elif gfp & GFP.RETRY_MAYFAIL or (killed and current.dying):
                    break
                else:
                    verdict = self._oom(limited, pages, current)
                    if verdict is None:
                        break
                    if not verdict:
                        if profile.oom_without_victim_forces:
                            memcg.memory.charge(pages)
                            return
                        break
                    killed = again = True
                    retries = MAX_RECLAIM_RETRIES
            assert again
            if self._consume(stock, memcg, pages):
                return
            blocked = memcg.memory.try_charge(pages)
            if blocked is None:
                return
            over = blocked
        if gfp & GFP.NOFAIL or (profile.high_forces and gfp & GFP.HIGH):
            if profile.forced_charge_raises_max and not max_event:
                self._memcg_of(memcg, over).raise_event(MemcgEvent.MAX)
            memcg.memory.charge(pages)
            return
        limited = self._memcg_of(memcg, over)
        self.last_failure = KernelError(
            Errno.ENOMEM,
            Reason.MEMCG_LIMIT_EXCEEDED,
            f"memory.max of {limited.path} is {bytes_of(limited.memory.max)} bytes,"
            f" {bytes_of(limited.memory.usage)} are in use and {bytes_of(pages)} more were asked for",
            cgroup=limited.path,
            charged_cgroup=memcg.path,
            limit_bytes=bytes_of(limited.memory.max),
            usage_bytes=bytes_of(limited.memory.usage),
            requested_bytes=bytes_of(pages),
        )
        raise self.last_failure

    def _oom(self, limited: Memcg, pages: int, current: Current) -> bool | None:
        """True: retry. False: nobody to kill. None: too large an order, no event [mem_cgroup_oom]."""
        order = (pages - 1).bit_length()
        if order > PAGE_ALLOC_COSTLY_ORDER:
            return None
        limited.raise_event(MemcgEvent.OOM)
        return self.oom(limited, order, current)

    def _memcg_of(self, memcg: Memcg, counter: PageCounter) -> Memcg:
        found: Memcg | None = memcg
        while found is not None:
            if found.memory is counter:
                return found
            found = found.parent
        raise AssertionError(f"no ancestor of {memcg.path} has that counter")

    # -- per-CPU page stock --------------------------------------------------------------------------------------

    def _consume(self, stock: _CpuStock, memcg: Memcg, pages: int) -> bool:
        if pages > self.batch_pages:
            return False
        for slot, cached in enumerate(stock.memcgs):
            if cached is memcg and stock.pages[slot] >= pages:
                stock.pages[slot] -= pages
                return True
        return False

    def _consume_up_to(self, stock: _CpuStock, memcg: Memcg, pages: int) -> int:
        for slot, cached in enumerate(stock.memcgs):
            if cached is memcg:
                taken = min(stock.pages[slot], pages)
                stock.pages[slot] -= taken
                return taken
        return 0

    def _refill(self, stock: _CpuStock, memcg: Memcg, pages: int) -> None:
        batch = self.batch_pages
        if self.profile.stock_bypassed_over_batch and pages > batch:
            memcg.memory.uncharge(pages)
            return
        for slot, cached in enumerate(stock.memcgs):
            if cached is memcg:
                stock.pages[slot] += pages
                break
        else:
            if len(stock.memcgs) >= self.profile.memcg_stock_slots:
                # 6.16 evicts a random slot; the oldest is as good a choice and repeatable.
                self._return_slot(stock, 0)
            stock.memcgs.append(memcg)
            stock.pages.append(pages)
            slot = len(stock.memcgs) - 1
        if stock.pages[slot] > batch:
            self._return_slot(stock, slot)

    def _return_slot(self, stock: _CpuStock, slot: int) -> None:
        memcg = stock.memcgs.pop(slot)
        pages = stock.pages.pop(slot)
        if pages:
            memcg.memory.uncharge(pages)

    def drain_stocks(self) -> None:
        """Returns every CPU's stocked pages and bytes to the counters [drain_all_stock]."""
        for stock in self._cpus:
            self._flush_bytes(stock)
            while stock.memcgs:
                self._return_slot(stock, 0)

    def stocked_pages(self, memcg: Memcg) -> int:
        """Pages of ``memcg`` itself that CPUs hold in stock."""
        return sum(
            stock.pages[slot]
            for stock in self._cpus
            for slot, cached in enumerate(stock.memcgs)
            if cached is memcg
        )

    def stocked_bytes(self, objcg: ObjCgroup) -> int:
        """Already paid bytes of ``objcg``: in CPU byte stocks and parked on the objcg."""
        return objcg.nr_charged_bytes + sum(
            stock.bytes for stock in self._cpus if stock.byte_objcg is objcg
        )

    # -- bytes of an objcg ---------------------------------------------------------------------------------------

    def charge_bytes(
        self, objcg: ObjCgroup, size_bytes: int, count: int, gfp: int, current: Current
    ) -> int:
        """Charges ``count`` objects of ``size_bytes`` one after the other [obj_cgroup_charge].

        Returns how many succeeded before the first failure.
        """
        memcg = objcg.memcg
        if memcg.parent is None:
            return count
        stock = self._cpus[current.cpu]
        done = 0
        pages = (size_bytes + PAGE_SIZE - 1) // PAGE_SIZE
        remainder = pages * PAGE_SIZE - size_bytes
        while done < count:
            if stock.byte_objcg is objcg and stock.bytes >= size_bytes:
                taken = min(count - done, stock.bytes // size_bytes)
                stock.bytes -= taken * size_bytes
                done += taken
                continue
            try:
                self.charge_pages(memcg, pages, gfp, current)
            except KernelError:
                return done
            memcg.add_stat(Stat.KERNEL_PAGES, pages)
            if remainder:
                self._refill_bytes(stock, objcg, remainder, allow_uncharge=False)
            done += 1
        return done

    def uncharge_bytes(self, objcg: ObjCgroup, size_bytes: int, cpu: int) -> None:
        """Gives bytes back through the CPU's byte stock [obj_cgroup_uncharge]."""
        if objcg.memcg.parent is not None:
            self._refill_bytes(self._cpus[cpu], objcg, size_bytes, allow_uncharge=True)

    def _refill_bytes(
        self, stock: _CpuStock, objcg: ObjCgroup, size_bytes: int, *, allow_uncharge: bool
    ) -> None:
        if stock.byte_objcg is not objcg:
            self._flush_bytes(stock)
            stock.byte_objcg = objcg
            stock.bytes = objcg.nr_charged_bytes
            objcg.nr_charged_bytes = 0
            allow_uncharge = True
        stock.bytes += size_bytes
        if not self.profile.byte_stock_keeps_uncharged:
            allow_uncharge = True
        if allow_uncharge and stock.bytes > PAGE_SIZE:
            pages = stock.bytes // PAGE_SIZE
            stock.bytes %= PAGE_SIZE
            self._uncharge_kernel_pages(stock, objcg.memcg, pages)

    def _flush_bytes(self, stock: _CpuStock) -> None:
        objcg = stock.byte_objcg
        if objcg is None:
            return
        pages = stock.bytes // PAGE_SIZE
        if pages:
            self._uncharge_kernel_pages(stock, objcg.memcg, pages)
        objcg.nr_charged_bytes += stock.bytes % PAGE_SIZE
        stock.bytes = 0
        stock.byte_objcg = None

    def release_parked(self, objcg: ObjCgroup, cpu: int) -> None:
        """Gives back whole pages parked on an objcg whose last object has gone [obj_cgroup_release]."""
        pages = objcg.nr_charged_bytes // PAGE_SIZE
        if pages and objcg.memcg.parent is not None:
            objcg.nr_charged_bytes -= pages * PAGE_SIZE
            self._uncharge_kernel_pages(self._cpus[cpu], objcg.memcg, pages)

    def _uncharge_kernel_pages(self, stock: _CpuStock, memcg: Memcg, pages: int) -> None:
        memcg.add_stat(Stat.KERNEL_PAGES, -pages)
        if memcg.parent is not None:
            self._refill(stock, memcg, pages)

    # -- kernel pages (vmalloc, ring buffers, large kmalloc) -----------------------------------------------------

    def charge_kernel_pages(self, objcg: ObjCgroup, pages: int, gfp: int, current: Current) -> int:
        """Charges order-0 kernel pages one by one. Returns how many succeeded [__memcg_kmem_charge_page]."""
        memcg = objcg.memcg
        done = self.charge_single_pages(memcg, pages, gfp, current)
        memcg.add_stat(Stat.KERNEL_PAGES, done)
        return done

    def charge_kernel_block(self, objcg: ObjCgroup, pages: int, gfp: int, current: Current) -> None:
        """Charges ``pages`` contiguous kernel pages in one piece. Raises KernelError(ENOMEM)."""
        self.charge_pages(objcg.memcg, pages, gfp, current)
        objcg.memcg.add_stat(Stat.KERNEL_PAGES, pages)

    def uncharge_kernel_pages(self, objcg: ObjCgroup, pages: int, cpu: int) -> None:
        """Gives kernel pages back."""
        if pages:
            self._uncharge_kernel_pages(self._cpus[cpu], objcg.memcg, pages)
