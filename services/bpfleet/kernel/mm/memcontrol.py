"""The memory cgroup controller: stocks, byte charges, the slow path and its events [mm/memcontrol.c].

A charge tries, in this order: the CPU's stock, the counters with a whole batch, the counters with the exact amount,
then the slow path (reclaim, draining, retries, the OOM killer, force or ENOMEM). What the slow path does depends on
the allocation flags and on flags of the profile; `_charge_slow` is written in the kernel's order.
"""

from collections.abc import Callable
from typing import Final, final

from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.current import Current, KernelContext
from bpfleet.kernel.mm.memcg import Memcg, MemcgEvent, ObjCgroup, Stat, SwapEvent
from bpfleet.kernel.mm.page_counter import PAGE_COUNTER_MAX, PageCounter
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.units import bytes_of

__all__ = [
    "MAX_RECLAIM_RETRIES",
    "PAGE_ALLOC_COSTLY_ORDER",
    "Current",
    "KernelContext",
    "Memcg",
    "MemcgEvent",
    "MemoryController",
    "ObjCgroup",
    "Stat",
    "SwapEvent",
]

MAX_RECLAIM_RETRIES: Final = 16
PAGE_ALLOC_COSTLY_ORDER: Final = 3
MAX_PAGE_ORDER: Final = 10
# A look at a memcg with nothing to reclaim (seen on 6.18 by its failcnt); one at victims that are still there (seen on
# 5.15 to 7.3, 400 to 3,500 for one victim).
RECLAIM_PASS_NS: Final = 25_000
OOM_PASS_NS: Final = 750


@final
class _CpuStock:
    """What one CPU holds ready: whole pages of a few memcgs, and bytes of one objcg [struct memcg_stock_pcp]."""

    __slots__ = ("byte_objcg", "bytes", "memcgs", "pages")

    def __init__(self) -> None:
        self.memcgs: list[Memcg] = []
        self.pages: list[int] = []
        self.byte_objcg: ObjCgroup | None = None
        self.bytes = 0

    def concerns(self, memcg: Memcg) -> bool:
        """Whether anything stocked here belongs to ``memcg`` or below it."""
        if any(
            p and m.is_descendant_of(memcg) for m, p in zip(self.memcgs, self.pages, strict=True)
        ):
            return True
        objcg = self.byte_objcg
        return objcg is not None and objcg.memcg.is_descendant_of(memcg)


@final
class MemoryController:
    """Charges pages and bytes to memcgs of one node.

    ``reclaim(memcg, pages, gfp)`` returns pages freed below ``memcg``, as does ``reclaim_proactively(memcg, pages,
    swappiness)``; ``oom(memcg, order, gfp, current)`` returns True
    when memory will come back (a task was killed or is dying), False when no task can be killed;
    ``wait_for_victim()`` lets the time pass that its end takes and returns it; ``catch_up()`` lets the time pass that
    what was allocated so far took and returns how much fell due, ``elapse(ns)`` lets more pass: what falls due is freed
    before anybody is killed;
    ``throttle(current, gfp)`` makes a task pay for exceeding memory.high; ``released(memcg)`` frees a removed one that
    nothing refers to any more. The kernel wires them in, so that this file knows neither tasks nor the page cache.

    Invariant *charge conservation*: a memcg's usage = pages of its live charges and of those below + stocked pages.
    """

    reclaim: Callable[[Memcg, int, int], int]
    reclaim_proactively: Callable[[Memcg, int, int | None], int]
    oom: Callable[[Memcg, int, int, Current], bool]
    wait_for_victim: Callable[[], int]
    catch_up: Callable[[], int]
    elapse: Callable[[int], int]
    throttle: Callable[[Current, int], None]
    released: Callable[[Memcg], None]

    def __init__(self, profile: KernelProfile, cpus: int) -> None:
        self.profile: Final = profile
        self.root: Final = Memcg("/", None)
        # Pages are counted in units of 4 KiB, and come and go by whole pages of the kernel.
        self._page_units: Final = profile.page_units
        self._page_bytes: Final = profile.page_bytes
        self.batch_pages: Final = profile.memcg_charge_batch * profile.page_units
        # Why the latest charge failed, for callers that undo first.
        self.last_failure: KernelError | None = None
        # Objects asked for together that do not fit are asked for again one by one: only then a refusal counts.
        self._asks_for_a_batch = False
        self.pace = 1  # how many times longer than on hardware it takes what a CPU does
        self.has_high_limits = (
            False  # any memory.high or memory.swap.high was ever set: spares charges the walk
        )
        self.dying: Final[list[Memcg]] = []  # removed memcgs that something still refers to
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
            if not self._charge_slow(stock, memcg, pages, over, gfp, current):
                return
        elif batch > pages:
            self._refill(stock, memcg, batch - pages)
        if self.has_high_limits:
            self._check_high(memcg, batch, gfp, current)

    def charge_user_pages(self, memcg: Memcg, pages: int, gfp: int, current: Current) -> int:
        """Charges up to ``pages`` user pages one by one: at least one, or none when the first was refused.

        Returns early before a page that has to wait at a limit, and after one for which the task owes something: what
        has come by then counts for its process when the OOM killer looks. The caller asks again for the rest.
        """
        return self._charge_one_by_one(memcg, pages, gfp, current, hands_out=True)

    def charge_single_pages(self, memcg: Memcg, pages: int, gfp: int, current: Current) -> int:
        """Charges ``pages`` one by one. Returns how many succeeded before the first failure."""
        return self._charge_one_by_one(memcg, pages, gfp, current, hands_out=False)

    def _charge_one_by_one(
        self, memcg: Memcg, pages: int, gfp: int, current: Current, *, hands_out: bool
    ) -> int:
        if memcg.parent is None:
            return pages
        stock, page = self._cpus[current.cpu], self._page_units
        done = self._charge_whole_batches(stock, memcg, pages)
        while done < pages:
            taken = self._consume_up_to(stock, memcg, pages - done)
            if taken:
                done += taken
                continue
            waits = hands_out and memcg.memory.headroom() < page
            if waits and done:
                break
            try:
                self.charge_pages(memcg, page, gfp, current)
            except KernelError:
                break
            done += page
            if hands_out and (waits or current.dying or current.over_high_pages):
                break
        return done

    def _charge_whole_batches(self, stock: _CpuStock, memcg: Memcg, pages: int) -> int:
        """Charges as many of ``pages`` single pages as whole batches allow, all at once: the same as one by one.

        Returns how many. Nothing is done for few pages, or where every batch has to be looked at (memory.high).
        """
        batch = self.batch_pages
        if pages <= batch or self.has_high_limits:
            return 0
        done = self._consume_up_to(stock, memcg, pages)
        batches = min(-(-(pages - done) // batch), memcg.memory.headroom() // batch)
        if batches <= 0:
            return done
        blocked = memcg.memory.try_charge(batches * batch)
        assert blocked is None, memcg.path
        used = min(batches * batch, pages - done)
        self._refill(stock, memcg, batches * batch - used)
        return done + used

    def charge_vmalloc_pages(self, memcg: Memcg, pages: int, gfp: int, current: Current) -> int:
        """Charges the pages of a vmalloc area. Returns how many succeeded before the first failure.

        From 5.13 the first page is asked of the bulk allocator, which does not do accounted pages in bulk: when it
        fails, the fallback asks for it once more, unless the task has been killed. From 6.19 larger parts are asked for
        before, without waiting: what is left for that first page is nothing, or one page where the room was odd
        [vm_area_alloc_pages].
        """
        profile = self.profile
        done = self.charge_single_pages(memcg, pages, gfp, current)
        if done == pages or current.dying or not profile.vmalloc_tries_bulk_first:
            return done
        if not done:
            return self.charge_single_pages(memcg, pages, gfp, current)
        if profile.vmalloc_takes_large_orders:
            if profile.nowait_charge_raises_max and self.last_failure is not None:
                limited = self._memcg_at(memcg, str(self.last_failure.numbers["cgroup"]))
                limited.raise_event(
                    MemcgEvent.MAX,
                    min((pages // self._page_units).bit_length() - 1, MAX_PAGE_ORDER),
                )
            if done // self._page_units % 2 == 0:
                return done + self.charge_single_pages(memcg, pages - done, gfp, current)
        return done

    def uncharge_direct(self, memcg: Memcg, pages: int) -> None:
        """Gives user pages back, straight to the counters [uncharge_batch]."""
        if memcg.parent is not None and pages:
            memcg.memory.uncharge(pages)

    def _charge_slow(
        self,
        stock: _CpuStock,
        memcg: Memcg,
        pages: int,
        over: PageCounter,
        gfp: int,
        current: Current,
    ) -> bool:
        """The exact amount did not fit below ``over``. Raises KernelError(ENOMEM).

        Returns True when it was charged through the counters after all, False when from a stock or by force.
        """
        profile = self.profile
        if profile.atomic_forces_early and gfp & GFP.ATOMIC_BIT:
            memcg.memory.charge(pages)
            return False
        if gfp & GFP.DIRECT_RECLAIM and self.catch_up():
            blocked = memcg.memory.try_charge(pages)
            if blocked is None:
                return True
            over = blocked
        retries = MAX_RECLAIM_RETRIES
        drained = False
        max_event = False
        killed = False
        while True:
            if profile.dying_task_forces and current.dying:
                memcg.memory.charge(pages)
                return False
            if not gfp & GFP.DIRECT_RECLAIM:
                if profile.nowait_charge_raises_max and not self._asks_for_a_batch:
                    self._memcg_of(memcg, over).raise_event(MemcgEvent.MAX)
                    max_event = True
                break
            limited = self._memcg_of(memcg, over)
            limited.raise_event(MemcgEvent.MAX)
            max_event = True
            freed = self.reclaim(limited, pages, gfp)
            self.elapse(RECLAIM_PASS_NS * self.pace)
            if limited.memory.margin() >= pages:
                pass
            elif not drained:
                self.drain_stocks(limited)
                drained = True
            elif gfp & GFP.NORETRY:
                break
            elif freed and pages <= self._page_units << PAGE_ALLOC_COSTLY_ORDER:
                pass
            elif retries:
                retries -= 1
            elif gfp & GFP.RETRY_MAYFAIL or (killed and current.dying):
                break
            else:
                verdict = self._oom(limited, pages, gfp, current)
                if verdict is None:
                    break
                if not verdict:
                    if profile.oom_without_victim_forces:
                        memcg.memory.charge(pages)
                        return False
                    break
                killed = True
                retries = MAX_RECLAIM_RETRIES
                self._retry_until(limited, self.wait_for_victim())
            if self._consume(stock, memcg, pages):
                return False
            blocked = memcg.memory.try_charge(pages)
            if blocked is None:
                return True
            over = blocked
        limited = self._memcg_of(memcg, over)
        if gfp & GFP.NOFAIL or (profile.high_forces and gfp & GFP.HIGH):
            if profile.forced_charge_raises_max and not max_event:
                limited.raise_event(MemcgEvent.MAX)
            memcg.memory.charge(pages)
            return False
        self.last_failure = _limit_error(memcg, limited, pages, gfp)
        raise self.last_failure

    def _retry_until(self, limited: Memcg, ended_ns: int) -> None:
        """The passes of a charge while a victim ends: each finds the limit hit, and one in 17 asks for a kill."""
        passes = ended_ns // self.pace // RECLAIM_PASS_NS
        if passes:
            limited.raise_event(MemcgEvent.MAX, passes)
            limited.raise_event(MemcgEvent.OOM, passes // (MAX_RECLAIM_RETRIES + 1))
            limited.memory.failcnt += passes

    def _oom(self, limited: Memcg, pages: int, gfp: int, current: Current) -> bool | None:
        """True: retry. False: nobody to kill. None: too large an order, no event [mem_cgroup_oom]."""
        order = (pages // self._page_units - 1).bit_length()
        if order > PAGE_ALLOC_COSTLY_ORDER:
            return None
        limited.raise_event(MemcgEvent.OOM)
        return self.out_of_memory(limited, order, gfp, current)

    def out_of_memory(self, limited: Memcg, order: int, gfp: int, current: Current) -> bool:
        """mem_cgroup_out_of_memory: kills nobody when there is room again or the caller is dying already."""
        if limited.memory.margin() >= self._page_units << order or current.dying:
            return True
        return self.oom(limited, order, gfp, current)

    def _memcg_at(self, memcg: Memcg, path: str) -> Memcg:
        """The ancestor of ``memcg`` with that path."""
        found = memcg
        while found.path != path:
            assert found.parent is not None, path
            found = found.parent
        return found

    def _memcg_of(self, memcg: Memcg, counter: PageCounter) -> Memcg:
        found: Memcg | None = memcg
        while found is not None:
            if found.memory is counter:
                return found
            found = found.parent
        raise AssertionError(f"no ancestor of {memcg.path} has that counter")

    # -- memory.high ---------------------------------------------------------------------------------------------

    def _check_high(self, memcg: Memcg, batch: int, gfp: int, current: Current) -> None:
        """Whoever exceeds a memory.high after a charge through the counters owes for it [try_charge, at its end]."""
        level: Memcg | None = memcg
        while level is not None and level.parent is not None:
            over_memory = level.memory.usage > level.memory.high
            if current.in_task and (over_memory or level.swap.usage > level.swap.high):
                current.over_high_pages += batch
                current.notify_resume = True
                break
            if over_memory:
                self.reclaim_high(level, self.batch_pages, GFP.GFP_KERNEL)
                break
            level = level.parent
        if (
            self.profile.high_throttles_inside
            and current.over_high_pages > self.batch_pages
            and gfp & GFP.DIRECT_RECLAIM
        ):
            self.throttle(current, gfp)

    def reclaim_high(self, memcg: Memcg, pages: int, gfp: int) -> int:
        """One reclaim pass over each level above its memory.high, with one HIGH event each. Returns pages freed."""
        freed = 0
        level: Memcg | None = memcg
        while level is not None and level.parent is not None:
            if level.memory.usage > level.memory.high:
                level.raise_event(MemcgEvent.HIGH)
                freed += self.reclaim(level, pages, gfp)
            level = level.parent
        return freed

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

    def drain_stocks(self, memcg: Memcg | None = None) -> None:
        """Returns what CPUs hold in stock to the counters.

        With ``memcg``, only CPUs that hold something of it or below are drained; those give up everything they hold
        [drain_all_stock, drain_local_stock].
        """
        for stock in self._cpus:
            if memcg is None or stock.concerns(memcg):
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
        stock = self._cpus[current.cpu]
        done = 0
        pages = -(-size_bytes // self._page_bytes) * self._page_units
        remainder = pages * PAGE_SIZE - size_bytes
        while done < count:
            if stock.byte_objcg is objcg and stock.bytes >= size_bytes:
                taken = min(count - done, stock.bytes // size_bytes)
                stock.bytes -= taken * size_bytes
                done += taken
                continue
            self._asks_for_a_batch = count > 1
            try:
                self.charge_pages(memcg, pages, gfp, current)
            except KernelError:
                return done
            finally:
                self._asks_for_a_batch = False
            memcg.add_stat(Stat.KERNEL_PAGES, pages)
            if remainder:
                self._refill_bytes(stock, objcg, remainder, allow_uncharge=False)
            done += 1
        return done

    def uncharge_bytes(self, objcg: ObjCgroup, size_bytes: int, cpu: int) -> None:
        """Gives bytes back through the CPU's byte stock [obj_cgroup_uncharge]."""
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
        if allow_uncharge and stock.bytes > self._page_bytes:
            pages = stock.bytes // self._page_bytes * self._page_units
            stock.bytes %= self._page_bytes
            self._uncharge_kernel_pages(stock, objcg.memcg, pages)

    def _flush_bytes(self, stock: _CpuStock) -> None:
        objcg = stock.byte_objcg
        if objcg is None:
            return
        pages = stock.bytes // self._page_bytes * self._page_units
        if pages:
            self._uncharge_kernel_pages(stock, objcg.memcg, pages)
        objcg.nr_charged_bytes += stock.bytes % self._page_bytes
        stock.bytes = 0
        stock.byte_objcg = None

    def retire(self, objcg: ObjCgroup) -> None:
        """Gives back the whole pages parked on an objcg whose last object has gone [obj_cgroup_release].

        Afterwards nothing is parked on it: every object was charged in whole pages.
        """
        for stock in self._cpus:
            if stock.byte_objcg is objcg:
                self._flush_bytes(stock)
        pages, rest = divmod(objcg.nr_charged_bytes, self._page_bytes)
        pages *= self._page_units
        assert rest == 0, (objcg.memcg.path, objcg.nr_charged_bytes)
        objcg.nr_charged_bytes = 0
        objcg.memcg.objcgs.remove(objcg)
        if pages:
            self._uncharge_kernel_pages(self._cpus[0], objcg.memcg, pages)

    def _uncharge_kernel_pages(self, stock: _CpuStock, memcg: Memcg, pages: int) -> None:
        memcg.add_stat(Stat.KERNEL_PAGES, -pages)
        if memcg.parent is not None:
            self._refill(stock, memcg, pages)

    # -- kernel pages (vmalloc, ring buffers, large kmalloc, page tables) ------------------------------------------

    def charge_kernel_pages(
        self, objcg: ObjCgroup, pages: int, gfp: int, current: Current, *, vmalloc: bool = False
    ) -> int:
        """Charges order-0 kernel pages one by one. Returns how many succeeded [__memcg_kmem_charge_page]."""
        memcg = objcg.memcg
        if vmalloc:
            done = self.charge_vmalloc_pages(memcg, pages, gfp, current)
        else:
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

    # -- limits --------------------------------------------------------------------------------------------------

    def set_max(self, memcg: Memcg, pages: int, current: Current) -> None:
        """memory.max: set at once, then reclaim, then kill until usage fits or nobody is left [memory_max_write].

        Never fails: usage stays above the limit when what is left cannot be freed.
        """
        counter = memcg.memory
        counter.max = pages
        counter.exceeded_by_rule = counter.usage > pages
        drained = False
        fruitless = MAX_RECLAIM_RETRIES
        while counter.usage > pages and not current.dying:
            if not drained:
                self.drain_stocks(memcg)
                drained = True
            elif fruitless:
                if not self.reclaim(memcg, counter.usage - pages, GFP.GFP_KERNEL):
                    fruitless -= 1
            else:
                memcg.raise_event(MemcgEvent.OOM)
                if not self.out_of_memory(memcg, 0, GFP.GFP_KERNEL, current):
                    break
                ended_ns = self.wait_for_victim()
                memcg.raise_event(MemcgEvent.OOM, ended_ns // self.pace // OOM_PASS_NS)

    def resize_max(self, memcg: Memcg, pages: int) -> None:
        """memory.limit_in_bytes of v1: drains, then reclaims until it fits [mem_cgroup_resize_max]. Raises EBUSY."""
        counter = memcg.memory
        drained = False
        while counter.usage > pages:
            if not drained:
                self.drain_stocks(memcg)
                drained = True
            elif not self.reclaim(memcg, 1, GFP.GFP_KERNEL):
                raise KernelError(
                    Errno.EBUSY,
                    Reason.CGROUP_BUSY,
                    f"{bytes_of(counter.usage)} bytes of {memcg.path} are in use and cannot be reclaimed:"
                    f" a limit of {bytes_of(pages)} does not fit",
                    cgroup=memcg.path,
                    usage_bytes=bytes_of(counter.usage),
                    limit_bytes=bytes_of(pages),
                )
        counter.max = pages
        counter.exceeded_by_rule = False

    def set_high(self, memcg: Memcg, pages: int, current: Current) -> None:
        """memory.high: set, then reclaim down to it as far as that goes; never kills [memory_high_write]."""
        counter = memcg.memory
        counter.high = pages
        self.has_high_limits = self.has_high_limits or pages < PAGE_COUNTER_MAX
        drained = False
        fruitless = MAX_RECLAIM_RETRIES
        while counter.usage > pages and not current.dying:
            if not drained:
                self.drain_stocks(memcg)
                drained = True
            elif not self.reclaim(memcg, counter.usage - pages, GFP.GFP_KERNEL):
                if not fruitless:
                    break
                fruitless -= 1

    def set_swap_high(self, memcg: Memcg, pages: int) -> None:
        """memory.swap.high: tasks of a group that has more out pay for each further charge [swap_high_write]."""
        memcg.swap.high = pages
        self.has_high_limits = self.has_high_limits or pages < PAGE_COUNTER_MAX

    # -- a memcg's end -------------------------------------------------------------------------------------------

    def offline(self, memcg: Memcg) -> None:
        """css offline: stocks are drained and the objcg is re-pointed to the parent [memcg_reparent_objcgs].

        No counter moves: the parents' counters contain the child's pages already.
        """
        parent = memcg.parent
        assert parent is not None, "the root memcg is never removed"
        assert not any(child.online for child in memcg.children), memcg.path
        self.drain_stocks(memcg)
        memcg.online = False
        memcg.memory.min = memcg.memory.low = 0
        memcg.memory.high = memcg.swap.high = PAGE_COUNTER_MAX
        for objcg in memcg.objcgs:
            objcg.memcg = parent
        parent.objcgs.extend(memcg.objcgs)
        memcg.objcgs.clear()
        memcg.objcg.detached = True
        if not memcg.objcg.accounts:
            self.retire(memcg.objcg)
        self.dying.append(memcg)
        self.release_if_unused(memcg)

    def release_if_unused(self, memcg: Memcg) -> None:
        """Ends a removed memcg that nothing refers to any more. Until then it is a zombie, and keeps those above it."""
        while not (memcg.online or memcg.pins or memcg.css_ref.accounts or memcg.children):
            parent = memcg.parent
            assert parent is not None, memcg.path
            self.dying.remove(memcg)
            parent.children.remove(memcg)
            self.drain_stocks(memcg)
            self.released(memcg)
            memcg = parent


def _limit_error(memcg: Memcg, limited: Memcg, pages: int, gfp: int) -> KernelError:
    """Why ``pages`` more could not be charged to ``memcg``: the limit of ``limited``, itself or above it.

    ``waited`` is 1 where reclaim was tried first, and events were raised.
    """
    limit_bytes, usage_bytes = bytes_of(limited.memory.max), bytes_of(limited.memory.usage)
    return KernelError(
        Errno.ENOMEM,
        Reason.MEMCG_LIMIT_EXCEEDED,
        f"memory.max of {limited.path} is {limit_bytes} bytes,"
        f" {usage_bytes} are in use and {bytes_of(pages)} more were asked for",
        cgroup=limited.path,
        charged_cgroup=memcg.path,
        limit_bytes=limit_bytes,
        usage_bytes=usage_bytes,
        requested_bytes=bytes_of(pages),
        waited=int(bool(gfp & GFP.DIRECT_RECLAIM)),
    )
