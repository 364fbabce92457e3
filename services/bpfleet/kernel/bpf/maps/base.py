"""What every map type is made of: its checks, its cost plan, its operations, and the memory it holds."""

from typing import ClassVar, Final, final

from bpfleet.abi.bpf import MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.accounting.base import BpfAccounting, Charge
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, How
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memcontrol import ObjCgroup
from bpfleet.kernel.mm.memory import Account, AllocKind, AllocSize, Block, Memory, Owner
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.units import bytes_of


@final
class Host:
    """What map code may know of the node: the profile, its CPUs, its sysctls. No memory, no tasks."""

    __slots__ = (
        "jit_limit_bytes",
        "perf_event_max_stack",
        "possible_cpus",
        "profile",
        "unprivileged_bpf_disabled",
    )

    def __init__(self, profile: KernelProfile, possible_cpus: int) -> None:
        self.profile: Final = profile
        self.possible_cpus: Final = possible_cpus
        self.perf_event_max_stack = 127
        self.unprivileged_bpf_disabled = 2
        self.jit_limit_bytes = profile.bpf_jit_limit_bytes


@final
class OpContext:
    """Who runs a map operation: the task, and whether from a program in interrupt context.

    ``from_prog`` operations see values, not user copies, and set LRU reference bits.
    """

    __slots__ = ("from_prog", "in_interrupt", "task")

    def __init__(self, task: Task, *, from_prog: bool = False, in_interrupt: bool = False) -> None:
        self.task: Final = task
        self.from_prog: Final = from_prog
        self.in_interrupt: Final = in_interrupt

    @property
    def cpu(self) -> int:
        """The CPU the operation runs on."""
        return self.task.cpu


@final
class AllocSite:
    """Where one map's memory comes from: executes its plan, then serves its elements.

    ``creator`` is the owner record (map->objcg); None for a map made in the root cgroup.
    """

    __slots__ = ("accounting", "blocks", "creator", "memory", "owner", "profile", "recorded")

    def __init__(
        self, memory: Memory, accounting: BpfAccounting, profile: KernelProfile, owner: Owner
    ) -> None:
        self.memory: Final = memory
        self.accounting: Final = accounting
        self.profile: Final = profile
        self.owner: Final = owner
        self.blocks: Final[list[Block]] = []
        self.creator: ObjCgroup | None = None
        self.recorded = False

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
            block = memory.alloc_percpu(
                size, allocation.count, allocation.gfp, payer, task, self.owner
            )
            self.blocks.append(block)
        else:
            for _ in range(allocation.count):
                self.blocks.append(memory.kmalloc(size, allocation.gfp, payer, task, self.owner))

    def _creation_payer(self, how: How, task: Task) -> ObjCgroup | None:
        if how in (How.HELPER_KMALLOC, How.HELPER_PERCPU):
            return self.accounting.creation_helper_payer(task)
        if how in (How.PAGES, How.KMALLOC_ACCOUNT):
            return None if self.profile.is_rlimit else task.objcg
        if how in (How.KMALLOC_UNCHARGED, How.PERCPU_UNCHARGED):
            return None
        return self.accounting.current_payer(task)

    def record_creator(self, task: Task) -> None:
        """Saves the owner record, after the map's body has been allocated [bpf_map_save_memcg]."""
        self.creator = self.accounting.current_payer(task)
        self.recorded = True

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
        self.memory.take(account, size, gfp, context.task)
        return account

    def give_element(self, account: Account, size: AllocSize, cpu: int) -> None:
        """Gives one element's object back to the account it came from."""
        self.memory.give(account, size, cpu)

    def free_blocks(self, cpu: int = 0) -> None:
        """Frees everything the plan allocated, in reverse order."""
        while self.blocks:
            self.memory.free(self.blocks.pop(), cpu)


class BpfMap:
    """One map. Subclasses are one per type (or per family) and say nothing about who pays.

    ``attr`` holds the attributes as created, ``max_entries`` what the kernel reports (rounded for per-CPU LRU lists).
    ``refs`` counts holders of any kind, ``user_refs`` those that user space can see (descriptors, pins).
    """

    supported: ClassVar[str] = "exact"

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        self.attr: Final = attr
        self.host: Final = host
        self.site: Final = site
        self.map_type: Final = MapType(attr.map_type)
        self.key_size: Final = attr.key_size
        self.value_size: Final = attr.value_size
        self.max_entries = attr.max_entries
        self.id = 0
        self.name: Final = attr.map_name
        self.frozen = False
        self.refs = 0
        self.user_refs = 0
        self.charge = Charge(None, 0, "")
        self.creator_uid = 0
        self.creator_cgroup = ""
        self.pinned_paths: Final[list[str]] = []
        self.write_mappings = 0

    # -- before there is a map -----------------------------------------------------------------------------------

    @classmethod
    def check(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """map_alloc_check: refuses bad attributes, in the kernel's order. Raises KernelError."""

    @classmethod
    def check_alloc(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """Checks at the start of map_alloc, which lose to permission errors from 6.5 on. Raises KernelError."""

    @classmethod
    def plan(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, *, perfmon: bool = True
    ) -> CostPlan:
        """The cost of creating a map with ``attr``. ``perfmon``: the creator has CAP_PERFMON (array index masking)."""
        raise NotImplementedError

    # -- operations ----------------------------------------------------------------------------------------------

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """The value of ``key`` as user space reads it. Raises ENOENT."""
        raise unsupported(self, "lookup")

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Stores a value."""
        raise unsupported(self, "update")

    def delete(self, key: bytes, context: OpContext) -> None:
        """Removes a key."""
        raise unsupported(self, "delete")

    def next_key(self, key: bytes | None) -> bytes:
        """The key after ``key``, the first one for None or an unknown key. Raises ENOENT at the end."""
        raise unsupported(self, "get_next_key")

    def lookup_and_delete(self, key: bytes, flags: int, context: OpContext) -> bytes:
        """Reads a value and removes it."""
        raise unsupported(self, "lookup_and_delete")

    def free(self, cpu: int) -> None:
        """Frees elements; the plan's blocks are freed by the caller afterwards."""

    # -- what user space reads about it --------------------------------------------------------------------------

    def usage_bytes(self) -> int:
        """map_mem_usage of 6.4 and later, in bytes."""
        raise NotImplementedError

    @property
    def user_value_size(self) -> int:
        """Bytes of a value as user space exchanges it."""
        return self.value_size

    @property
    def charged_bytes(self) -> int:
        """Bytes now charged to memcgs for this map, whoever pays."""
        owner = self.site.owner
        return sum(a.charged_bytes for a in self.site.memory.accounts.values() if a.owner is owner)

    @property
    def precharged_bytes(self) -> int:
        """Bytes held on the creator's locked_vm."""
        return bytes_of(self.charge.pages)


def unsupported(bpf_map: BpfMap, operation: str) -> KernelError:
    """ENOTSUPP (524): the type has no such operation."""
    return KernelError(
        Errno.ENOTSUPP,
        Reason.OPERATION_UNSUPPORTED,
        f"{bpf_map.map_type.name.lower()} has no {operation}",
    )


def refuse(errno: Errno, detail: str, reason: Reason = Reason.BAD_ATTRIBUTE) -> KernelError:
    """A KernelError to raise for a bad attribute or argument."""
    return KernelError(errno, reason, detail)
