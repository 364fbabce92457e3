"""Where a map's memory comes from, and who pays for it."""

from typing import Final, final

from bpfleet.kernel.bpf.accounting.base import BpfAccounting
from bpfleet.kernel.bpf.cost import Allocation, How
from bpfleet.kernel.bpf.host import OpContext
from bpfleet.kernel.bpf.memalloc import BpfMemAlloc
from bpfleet.kernel.deferred import RCU_GRACE_NS
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.current import KernelContext
from bpfleet.kernel.mm.memcg import Memcg, ObjCgroup
from bpfleet.kernel.mm.memory import Account, AllocKind, AllocSize, Block, Memory, Owner
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.timeline import Timeline

KFREE_DRAIN_NS: Final = 5_000_000_000
KFREE_BULK_ENTRIES: Final = 510  # pointers in a page beside its header


@final
class AllocSite:
    """Where one map's memory comes from: executes its plan, then serves its elements.

    ``creator`` is the owner record (map->objcg); None for a map made in the root cgroup. ``selected`` is the memcg that
    the creator named to pay instead of its own. ``mem_allocs`` are the map's bpf_mem_alloc instances in plan order.
    """

    __slots__ = (
        "_pending",
        "accounting",
        "blocks",
        "creator",
        "mem_allocs",
        "memory",
        "owner",
        "owner_memcg",
        "profile",
        "recorded",
        "selected",
        "timeline",
    )

    def __init__(
        self,
        memory: Memory,
        accounting: BpfAccounting,
        profile: KernelProfile,
        owner: Owner,
        timeline: Timeline,
    ) -> None:
        self.memory: Final = memory
        self.accounting: Final = accounting
        self.profile: Final = profile
        self.owner: Final = owner
        self.timeline: Final = timeline
        self.blocks: Final[list[Block]] = []
        self.mem_allocs: tuple[BpfMemAlloc, ...] = ()
        self.creator: ObjCgroup | None = None
        self.owner_memcg: Memcg | None = (
            None  # up to 5.19 the record is the memcg itself, kept alive by it
        )
        self.recorded = False
        self.selected: Memcg | None = None
        self._pending: dict[tuple[Account, AllocSize], int] | None = None

    # -- creation ------------------------------------------------------------------------------------------------

    def execute(self, allocation: Allocation, task: Task) -> None:
        """Makes one allocation of the plan. Raises KernelError(ENOMEM); prefill failures are silent, as in Linux."""
        memory, how, size = self.memory, allocation.how, allocation.size_bytes
        payer = self._creation_payer(how, task)
        if how is How.AREA:
            for _ in range(allocation.count):
                self.blocks.append(memory.area(size, payer, task, self.owner))
        elif how is How.AREA_MMAPABLE:
            gfp = GFP.GFP_KERNEL | GFP.RETRY_MAYFAIL | GFP.NOWARN
            self.blocks.append(memory.vmalloc(size, gfp, payer, task, self.owner))
        elif how is How.PAGES:
            gfp = GFP.GFP_KERNEL | GFP.RETRY_MAYFAIL | GFP.NOWARN
            block = memory.alloc_pages(allocation.count, gfp, payer, task, self.owner)
            self.blocks.append(block)
        elif how in (How.HELPER_PERCPU, How.PERCPU_UNCHARGED):
            gfp = allocation.gfp if payer is None else allocation.gfp | GFP.ACCOUNT
            block = memory.alloc_percpu(size, allocation.count, gfp, payer, task, self.owner)
            self.blocks.append(block)
        elif how in (How.MEM_ALLOC, How.MEM_ALLOC_PERCPU):
            self._make_mem_alloc(allocation, payer, task)
        else:
            gfp = allocation.gfp | GFP.ZERO | (GFP.ACCOUNT if payer is not None else 0)
            for _ in range(allocation.count):
                self.blocks.append(memory.kmalloc(size, gfp, payer, task, self.owner))

    def _make_mem_alloc(self, allocation: Allocation, payer: ObjCgroup | None, task: Task) -> None:
        caches = BpfMemAlloc(
            self.memory,
            self.timeline,
            self.owner,
            payer,
            allocation.size_bytes,
            percpu=allocation.how is How.MEM_ALLOC_PERCPU,
        )
        self.mem_allocs += (caches,)
        caches.prefill(allocation.count // self.memory.possible_cpus, allocation.gfp, task)

    def _creation_payer(self, how: How, task: Task) -> ObjCgroup | None:
        if how in (How.KMALLOC_UNCHARGED, How.PERCPU_UNCHARGED):
            return None
        if self.selected is not None:
            return self._owner(task)
        if how in (How.HELPER_KMALLOC, How.HELPER_PERCPU):
            return self.accounting.creation_helper_payer(task)
        if how in (How.PAGES, How.KMALLOC_ACCOUNT):
            return None if self.profile.is_rlimit else task.objcg
        return self.accounting.current_payer(task)

    def _owner(self, task: Task) -> ObjCgroup | None:
        """Whose map this is: the selected memcg's, else the calling task's. Nobody is charged in the root cgroup."""
        selected = self.selected
        if selected is None:
            return self.accounting.current_payer(task)
        if selected.parent is None or not task.kmem_accounting:
            return None
        return selected.objcg

    def record_creator(self, task: Task) -> None:
        """Saves the owner record, after the map's body has been allocated [bpf_map_save_memcg]."""
        self.creator = self._owner(task)
        self.recorded = True
        if self.creator is not None and not self.profile.map_holds_objcg:
            self.owner_memcg = self.creator.memcg
            self.owner_memcg.pins += 1

    # -- elements ------------------------------------------------------------------------------------------------

    def element_account(self, context: OpContext, kind: AllocKind) -> Account:
        """The account that pays for an element made now."""
        payer = self.accounting.element_payer(
            self.creator, context.task.objcg, in_interrupt=context.in_interrupt
        )
        return self.memory.account(self.owner, kind, payer)

    def element_gfp(self) -> int:
        """GFP_NOWAIT from 6.0, GFP_ATOMIC before."""
        return GFP.GFP_NOWAIT if self.profile.elements_nowait else GFP.GFP_ATOMIC

    def take_element(self, size: AllocSize, context: OpContext, gfp: int) -> Account:
        """Takes one element's object; returns the account that must get it back. Raises KernelError(ENOMEM)."""
        account = self.element_account(context, size.kind)
        memcg = self.owner_memcg
        if memcg is not None and size.is_page_charged and account.objcg is self.creator:
            # Charged by page, so to the recorded memcg even after its removal, under its old limit.
            account = self.memory.account(self.owner, size.kind, memcg.css_ref)
        current = KernelContext(context.cpu) if context.in_interrupt else context.task
        self.memory.take(account, size, gfp, current)
        return account

    def give_element(self, account: Account, size: AllocSize, cpu: int) -> None:
        """Gives one element's object back to the account it came from."""
        self.memory.give(account, size, cpu)

    def give_after_rcu(self, account: Account, size: AllocSize, count: int = 1) -> None:
        """Gives element objects back when a grace period has passed [kfree_rcu]. One callback serves many.

        From 6.1 on fewer than a page of pointers waits 5 s for more [schedule_delayed_monitor_work].
        """
        pending = self._pending
        if pending is None:
            pending = self._pending = {}
            few = KFREE_DRAIN_NS if self.profile.kfree_rcu_waits_for_more else RCU_GRACE_NS
            self._drain_after(few, pending)
        before = sum(pending.values())
        key = (account, size)
        pending[key] = pending.get(key, 0) + count
        if before < KFREE_BULK_ENTRIES <= before + count:
            self._drain_after(RCU_GRACE_NS, pending)

    def _drain_after(self, delay_ns: int, pending: dict[tuple[Account, AllocSize], int]) -> None:
        def drain() -> None:
            if self._pending is pending:
                self._grace_over()

        self.timeline.defer(delay_ns, drain)

    def _grace_over(self, cpu: int = 0) -> None:
        pending, self._pending = self._pending, None
        for (account, size), count in (pending or {}).items():
            self.memory.give(account, size, cpu, count)

    def free_all(self, cpu: int = 0) -> None:
        """Frees what waits for RCU, the caches, and everything the plan allocated, in reverse order."""
        self._grace_over(cpu)
        for caches in reversed(self.mem_allocs):
            caches.destroy(cpu)
        self.mem_allocs = ()
        while self.blocks:
            self.memory.free(self.blocks.pop(), cpu)
        memcg, self.owner_memcg = self.owner_memcg, None
        if memcg is not None:
            memcg.pins -= 1
            self.memory.controller.release_if_unused(memcg)
