"""bpf_mem_alloc: per-CPU caches of equal objects for maps that allocate on update [kernel/bpf/memalloc.c].

Kept are counts, not objects: how many each CPU has ready, and how many wait for a grace period. All objects, ready or
in use, are charged to the map's creator. What a CPU frees beyond its high watermark is sent off to a grace period;
while one runs, no more is, and waits until the next time that the CPU has too many: a burst of deletions stays
charged until the map is used again. From 7.2 on the end of one period begins the next. A CPU's cache is refilled from
an irq_work: at once here, or with ``late_refill`` only when the system call ends, as on machines that cannot
interrupt themselves.
"""

from typing import Final, final

from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.cost import Allocation, How
from bpfleet.kernel.deferred import RCU_GRACE_NS, TASKS_TRACE_GRACE_NS, WORK_ITEM_NS
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.current import Current, KernelContext
from bpfleet.kernel.mm.memcg import ObjCgroup
from bpfleet.kernel.mm.memory import Account, AllocKind, AllocSize, Memory, Owner
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.timeline import Timeline

LLIST_NODE_BYTES: Final = 8
PERCPU_HEADER_BYTES: Final = 16  # llist node and the per-CPU pointer
SMALL_UNIT_BYTES: Final = 256
# Deleting an element takes about half a microsecond: long bursts outlast the grace periods that they begin.
FREE_NS: Final = 500
FREE_NS_STEP: Final = 1_000_000  # time passes so many at once


def unit_bytes(element_bytes: int, *, percpu: bool) -> int:
    """The size of one object: per-CPU values keep their list node in the 16-byte header."""
    return element_bytes if percpu else element_bytes + LLIST_NODE_BYTES


def prefill_count(profile: KernelProfile, unit: int, *, percpu: bool) -> int:
    """Objects put into each CPU's cache when the map is created [prefill_mem_cache]."""
    if percpu and profile.mem_alloc_percpu_low_watermarks:
        return 1
    return 4 if unit <= SMALL_UNIT_BYTES else 1


def watermarks(profile: KernelProfile, unit: int, *, percpu: bool) -> tuple[int, int, int]:
    """(low, high, batch) of a cache of objects of ``unit`` bytes [init_refill_work].

    >>> from bpfleet.kernel.profile import PROFILES
    >>> watermarks(PROFILES["6.1"], 72, percpu=False), watermarks(PROFILES["6.12"], 72, percpu=True)
    ((32, 96, 48), (1, 3, 1))
    """
    if percpu and profile.mem_alloc_percpu_low_watermarks:
        low, high = 1, 3
    elif unit <= SMALL_UNIT_BYTES:
        low, high = 32, 96
    else:
        low, high = max(32 * 256 // unit, 1), max(96 * 256 // unit, 3)
    return low, high, max((high - low) // 4 * 3, 1)


def prefill(
    profile: KernelProfile,
    cpus: int,
    element_bytes: int,
    *,
    percpu: bool = False,
    label: str = "element",
) -> Allocation:
    """The plan entry of one bpf_mem_alloc: its prefill over all possible CPUs."""
    unit = unit_bytes(element_bytes, percpu=percpu)
    how = How.MEM_ALLOC_PERCPU if percpu else How.MEM_ALLOC
    gfp = GFP.GFP_KERNEL | GFP.NOWARN if profile.mem_alloc_prefill_blocks else GFP.GFP_NOWAIT
    return Allocation(label, how, unit, cpus * prefill_count(profile, unit, percpu=percpu), gfp)


@final
class BpfMemAlloc:
    """The caches of one map for one object size.

    Invariant: objects taken from memory = in use by elements + ready on CPUs + waiting for one grace period or another.

    Of each CPU: ``_free`` is ready; ``_queued`` waits to be sent off, ``_waiting`` for its tasks-trace grace period to
    end (free_by_rcu_ttrace and waiting_for_gp_ttrace); ``_rcu_queued`` and ``_rcu_waiting`` are the same of what must
    see an RCU grace period before it may be used again (free_by_rcu, waiting_for_gp).
    """

    __slots__ = (
        "_account",
        "_again",
        "_batch",
        "_free",
        "_grace_restarts",
        "_header_account",
        "_header_size",
        "_high",
        "_in_progress",
        "_low",
        "_memory",
        "_middle",
        "_populating",
        "_queued",
        "_ran_dry",
        "_rcu_in_progress",
        "_rcu_queued",
        "_rcu_waiting",
        "_reuses_waiting",
        "_size",
        "_spent_ns",
        "_timeline",
        "_waiting",
        "in_use",
        "late_refill",
        "objects",
    )

    def __init__(
        self,
        memory: Memory,
        timeline: Timeline,
        owner: Owner,
        objcg: ObjCgroup | None,
        unit: int,
        *,
        percpu: bool,
    ) -> None:
        profile = memory.profile
        self._memory: Final = memory
        self._timeline: Final = timeline
        self._size: Final = memory.percpu_size(unit) if percpu else memory.slab_size(unit)
        self._header_size: Final = memory.slab_size(PERCPU_HEADER_BYTES) if percpu else None
        self._account: Final = memory.account(owner, self._size.kind, objcg)
        self._header_account: Final = memory.account(owner, AllocKind.SLAB, objcg)
        self._low, self._high, self._batch = watermarks(profile, unit, percpu=percpu)
        self._middle: Final = (self._high + self._low) // 2
        self._reuses_waiting: Final = profile.mem_alloc_reuses_waiting
        self._grace_restarts: Final = profile.mem_alloc_grace_restarts
        self._free: Final = [0] * memory.possible_cpus
        self._queued: Final = [0] * memory.possible_cpus
        self._waiting: Final = [0] * memory.possible_cpus
        self._in_progress: Final = [False] * memory.possible_cpus
        self._again: Final = [False] * memory.possible_cpus
        self._rcu_queued: Final = [0] * memory.possible_cpus
        self._rcu_waiting: Final = [0] * memory.possible_cpus
        self._rcu_in_progress: Final = [False] * memory.possible_cpus
        self.objects = 0
        self.in_use = 0
        self.late_refill = False
        self._spent_ns = 0
        self._populating = False
        self._ran_dry = False

    @property
    def overflow_bytes(self) -> int:
        """What one overflow sends off is charged."""
        each = self._size.charge + (self._header_size.charge if self._header_size else 0)
        return (self._high + 1 - self._middle) * each

    # -- life of the caches --------------------------------------------------------------------------------------

    def prefill(self, per_cpu: int, gfp: int, current: Current) -> None:
        """Puts ``per_cpu`` objects on every CPU; failing is silent, the cache just holds fewer."""
        for cpu in range(len(self._free)):
            self._alloc_bulk(cpu, per_cpu, gfp, current)

    def destroy(self, cpu: int) -> None:
        """Frees every object, also those elements still hold [bpf_mem_alloc_destroy]."""
        self.in_use = 0
        if self.objects:
            self._give_back(self.objects, cpu)
        for each in range(len(self._free)):
            self._free[each] = self._queued[each] = self._waiting[each] = 0
            self._rcu_queued[each] = self._rcu_waiting[each] = 0

    # -- elements ------------------------------------------------------------------------------------------------

    def alloc(self, current: Current) -> None:
        """Takes one object from the current CPU's cache [unit_alloc].

        Raises ENOMEM when the cache is empty: its last refill failed at a limit, or has not run yet.
        """
        cpu = current.cpu
        free = self._free
        if not free[cpu]:
            if not self.late_refill:
                self.refill(cpu)  # for the next one: this one has come too early
            raise self.refusal(current)
        free[cpu] -= 1
        self.in_use += 1
        if free[cpu] < self._low and not self.late_refill:
            self.refill(cpu)

    def alloc_many(self, wanted: int, current: Current) -> int:
        """Takes up to ``wanted`` objects one after the other; returns how many there were."""
        done = 0
        free, cpu, low = self._free, current.cpu, self._low
        while done < wanted:
            ready = free[cpu]
            if not ready:
                if not self.late_refill:
                    self.refill(cpu)
                break
            # Down to one below the watermark nothing happens between two allocations.
            step = min(wanted - done, ready if self.late_refill else max(ready - low + 1, 1))
            free[cpu] = ready - step
            self.in_use += step
            done += step
            if free[cpu] < low and not self.late_refill:
                self.refill(cpu)
        return done

    def replace_many(self, wanted: int, current: Current) -> int:
        """Takes an object and gives one back, ``wanted`` times; returns how often that went through."""
        free, cpu = self._free, current.cpu
        needed = 0 if self.late_refill else self._low
        for done in range(wanted):
            if needed < free[cpu] <= self._high:
                return wanted  # far from both watermarks: nothing changes any more
            if not free[cpu]:
                return done
            self.alloc(current)
            self.free(cpu)
        return wanted

    def free(self, current_cpu: int, count: int = 1) -> None:
        """Puts objects into the current CPU's cache, the surplus towards a grace period [unit_free]."""
        assert self.in_use >= count, (self.in_use, count)
        self.in_use -= count
        free = self._free
        while count:
            step = min(count, max(self._high + 1 - free[current_cpu], 1))
            free[current_cpu] += step
            count -= step
            if free[current_cpu] > self._high:
                self._free_bulk(current_cpu)
            if self._in_progress[current_cpu]:
                self._spend(step)

    def free_rcu(self, current_cpu: int) -> None:
        """Sends an object through a grace period without offering it for reuse first [bpf_mem_cache_free_rcu].

        The irq_work that begins a grace period fills a cache that is low as well.
        """
        assert self.in_use, "nothing is in use"
        self.in_use -= 1
        self._rcu_queued[current_cpu] += 1
        if self._rcu_in_progress[current_cpu]:
            self._spend(1)
        elif self.late_refill:
            self._check_free_by_rcu(current_cpu)
        else:
            self.refill(current_cpu)

    def hand_over(self, owner: Owner) -> tuple[Account, AllocSize]:
        """An object in use that outlives these caches: from now on it belongs to ``owner``."""
        assert self.in_use, "nothing is in use"
        assert self._header_size is None, "per-CPU objects do not outlive their map"
        self.in_use -= 1
        self.objects -= 1
        return self._memory.hand_over(self._account, owner, self._size), self._size

    def refill(self, cpu: int) -> None:
        """The irq_work: adds a batch when the CPU's cache is below its low watermark [bpf_mem_refill]."""
        if self._free[cpu] < self._low:
            self._alloc_bulk(cpu, self._batch, GFP.GFP_NOWAIT, KernelContext(cpu))
        if self._rcu_queued[cpu]:
            self._check_free_by_rcu(cpu)

    # -- inside --------------------------------------------------------------------------------------------------

    def _spend(self, freed: int) -> None:
        """The time that freeing takes beside a grace period; what falls due meanwhile runs."""
        controller = self._memory.controller
        self._spent_ns += freed * FREE_NS * controller.pace
        if self._spent_ns >= FREE_NS_STEP:
            spent, self._spent_ns = self._spent_ns, 0
            controller.elapse(spent)

    def _alloc_bulk(self, cpu: int, count: int, gfp: int, current: Current) -> None:
        if self._reuses_waiting:
            for list_ in (self._queued, self._waiting):
                reused = min(count, list_[cpu])
                list_[cpu] -= reused
                self._free[cpu] += reused
                count -= reused
        if count > 1 and not self._memory.faults and self._take(count, gfp, current):
            self._free[cpu] += count
            return
        for _ in range(count):  # the batch as a whole did not fit: take what does
            if not self._take(1, gfp, current):
                return
            self._free[cpu] += 1

    def _take(self, count: int, gfp: int, current: Current) -> bool:
        memory, header = self._memory, self._header_size
        header_taken = False
        if header is not None and not gfp & GFP.DIRECT_RECLAIM and not self._populated(count):
            return False
        try:
            if header is not None:
                memory.take(self._header_account, header, gfp, current, count)
                header_taken = True
            memory.take(self._account, self._size, gfp, current, count)
        except KernelError:
            if header is not None and header_taken:
                memory.give(self._header_account, header, current.cpu, count)
            return False
        self.objects += count
        return True

    def _populated(self, count: int) -> bool:
        """Whether pages lie ready for objects on every CPU; a work item populates more where few are left."""
        pages = self._memory.populated
        found = pages.take(self._size.requested * count)
        if (pages.is_low or not found) and not self._populating:
            self._populating = True
            self._timeline.defer(WORK_ITEM_NS, self._populate)
        self._ran_dry = not found
        return found

    def _populate(self) -> None:
        self._populating = False
        self._memory.populated.populate()

    def _give_back(self, count: int, cpu: int) -> None:
        if self._header_size is not None:
            self._memory.populated.give(self._size.requested * count)
        self.objects -= count
        self._memory.give(self._account, self._size, cpu, count)
        if self._header_size is not None:
            self._memory.give(self._header_account, self._header_size, cpu, count)

    def _free_bulk(self, cpu: int) -> None:
        """The irq_work of a CPU with too many: down to the middle [free_bulk]."""
        self._queued[cpu] += self._free[cpu] - self._middle
        self._free[cpu] = self._middle
        self._send_off(cpu)

    def _send_off(self, cpu: int) -> None:
        """All that is queued goes to one grace period; while one runs it stays queued [do_call_rcu_ttrace]."""
        if self._in_progress[cpu]:
            self._again[cpu] = self._grace_restarts
            return
        self._in_progress[cpu] = True
        self._waiting[cpu] = self._queued[cpu]
        self._queued[cpu] = 0
        self._timeline.defer(TASKS_TRACE_GRACE_NS, lambda: self._grace_over(cpu))

    def _grace_over(self, cpu: int) -> None:
        waiting = self._waiting[cpu]
        self._waiting[cpu] = 0
        self._in_progress[cpu] = False
        if waiting:
            self._give_back(waiting, cpu)
        if self._again[cpu]:
            self._again[cpu] = False
            self._send_off(cpu)

    def _check_free_by_rcu(self, cpu: int) -> None:
        """The same for what programs may still see: no more than one grace period at a time [check_free_by_rcu]."""
        if self._rcu_in_progress[cpu]:
            return
        self._rcu_in_progress[cpu] = True
        self._rcu_waiting[cpu] = self._rcu_queued[cpu]
        self._rcu_queued[cpu] = 0
        self._timeline.defer(RCU_GRACE_NS, lambda: self._rcu_over(cpu))

    def _rcu_over(self, cpu: int) -> None:
        """Programs can no longer see these objects: refills may take them, and the tasks-trace period begins."""
        count = self._rcu_waiting[cpu]
        self._rcu_waiting[cpu] = 0
        self._rcu_in_progress[cpu] = False
        if count:
            self._queued[cpu] += count
            self._send_off(cpu)

    def refusal(self, current: Current) -> KernelError:
        """Why an empty cache is empty."""
        if self._ran_dry:
            return KernelError(
                Errno.ENOMEM,
                Reason.ALLOCATOR_REFILL_LATE,
                f"no per-CPU pages lie ready for the cache of CPU {current.cpu}, which cannot wait for them",
            )
        failure = self._memory.controller.last_failure
        if self.late_refill or failure is None:
            return KernelError(
                Errno.ENOMEM,
                Reason.ALLOCATOR_REFILL_LATE,
                f"the cache of CPU {current.cpu} is empty and its refill has not run yet",
            )
        return KernelError(failure.errno, failure.reason, failure.detail, **failure.numbers)

    def check(self) -> None:
        """Asserts the class's invariant."""
        kept = sum(self._free) + sum(self._queued) + sum(self._waiting)
        kept += sum(self._rcu_queued) + sum(self._rcu_waiting)
        assert self.objects == self.in_use + kept, (self.objects, self.in_use, kept)
