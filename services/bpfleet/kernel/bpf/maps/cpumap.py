"""CPUMAP: redirect targets by CPU, each with a queue and a kernel thread [kernel/bpf/cpumap.c].

Profiles: all. Create: the struct, then 8 bytes per slot; up to 5.10 the precharge is the slots alone. Per element:
bpf_cpu_map_entry, per-CPU bulk queues, a ptr_ring (charged from 5.11), the ring's array and the thread's stack (never
charged). Blocking allocations: at the limit the OOM killer may run. Freed after a grace period and a work item.
Gaps: no packet is ever queued; the thread is its stack only.
"""

import struct
from typing import ClassVar, Final, final

from bpfleet.abi.bpf import BPF_NOEXIST, F_NUMA_NODE, AttachType, Capability
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How, struct_how
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.maps.base import KeyBtf
from bpfleet.kernel.bpf.maps.slot import (
    SlotMap,
    empty_slot,
    flush_lists_bytes,
    redirect_value_sizes,
    slot_of,
)
from bpfleet.kernel.bpf.program import BpfProg, xdp_prog_for
from bpfleet.kernel.bpf.refusals import key_exists, refuse, require_bpf
from bpfleet.kernel.deferred import RCU_GRACE_NS
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memory import AllocKind, Block
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile

POINTER_BYTES: Final = 8
QSIZE_MAX: Final = 16384
KTHREAD_STACK_PAGES: Final = 4  # THREAD_SIZE of 16 KiB
ENTRY_GFP: Final = GFP.GFP_KERNEL | GFP.NOWARN


@final
class _Entry:
    """struct bpf_cpu_map_entry with everything it points to."""

    __slots__ = ("blocks", "prog", "qsize")

    def __init__(self, qsize: int) -> None:
        self.qsize: Final = qsize
        self.blocks: Final[list[Block]] = []
        self.prog: BpfProg | None = None


@final
class CpuMap(SlotMap[_Entry]):
    """CPUMAP."""

    capability = Capability.BPF
    key_btf = KeyBtf.REFUSED
    gap: ClassVar[str] = "no packet is queued; the kernel thread is its stack only"
    free_delay_ns: ClassVar[int] = RCU_GRACE_NS

    @classmethod
    def check_alloc(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """Start of cpu_map_alloc. Raises EPERM (up to 6.4), EINVAL, E2BIG over NR_CPUS."""
        require_bpf(host, task)
        sizes = redirect_value_sizes(host.profile)
        if attr.max_entries == 0 or attr.key_size != 4 or attr.value_size not in sizes:
            raise refuse(
                Errno.EINVAL,
                "a cpumap has 4-byte keys, values of 4 bytes (from 5.8 also 8), and slots",
            )
        if attr.map_flags & ~F_NUMA_NODE:
            raise refuse(Errno.EINVAL, f"flags {attr.map_flags:#x} are not for cpumaps")
        nr_cpus = host.profile.nr_cpus
        if attr.max_entries > nr_cpus:
            raise refuse(Errno.E2BIG, f"max_entries {attr.max_entries} is over NR_CPUS {nr_cpus}")

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """The struct, then the slots.

        >>> from bpfleet.kernel.profile import PROFILES
        >>> [a.size_bytes for a in CpuMap.plan(Creation(MapAttr(16, 4, 4, 8), PROFILES["6.12"], 2)).allocations]
        [256, 64]
        """
        attr, profile = creation.attr, creation.profile
        structs = profile.structs
        slots_bytes = POINTER_BYTES * attr.max_entries
        return CostPlan(
            slots_bytes + flush_lists_bytes(profile, creation.possible_cpus),
            (
                Allocation("bpf_cpu_map", struct_how(profile), structs.bpf_cpu_map),
                Allocation("slots", How.AREA, slots_bytes),
            ),
            precharge_at=1,
            per_element=(
                Allocation("bpf_cpu_map_entry", How.HELPER_KMALLOC, structs.bpf_cpu_map_entry),
                Allocation("xdp_bulk_queue", How.HELPER_PERCPU, structs.xdp_bulk_queue),
                Allocation("ptr_ring", How.HELPER_KMALLOC, structs.ptr_ring),
            ),
        )

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """cpu_map_mem_usage: entries are not counted."""
        return profile.structs.bpf_cpu_map + POINTER_BYTES * attr.max_entries

    def entries(self) -> int:
        """CPUs in the map."""
        return len(self.slots)

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """The queue size, and the program's id in 8-byte values. Raises ENOENT."""
        entry = self.slots.get(slot_of(key))
        if entry is None:
            raise empty_slot(slot_of(key))
        prog_id = entry.prog.id if entry.prog is not None else 0
        return struct.pack("<II", entry.qsize, prog_id)[: self.value_size]

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Makes a queue for a CPU; size 0 removes it. Raises EINVAL, E2BIG, EEXIST, EOVERFLOW, ENODEV, ENOMEM."""
        cpu = self.slot_to_update(key, flags)
        if flags == BPF_NOEXIST:
            raise key_exists()
        qsize = int.from_bytes(value[:4], "little")
        if qsize > QSIZE_MAX:
            raise refuse(Errno.EOVERFLOW, f"queue size {qsize} is over {QSIZE_MAX}")
        if cpu >= self.host.possible_cpus:
            raise refuse(Errno.ENODEV, f"CPU {cpu} is not possible", Reason.NO_SUCH_OBJECT)
        prog_fd = int.from_bytes(value[4:8], "little", signed=True)
        made = self._make(qsize, prog_fd, context) if qsize else None
        old = self.slots.pop(cpu, None)
        if made is not None:
            self.slots[cpu] = made
        if old is not None:
            self.let_go(old, context)

    def let_go(self, entry: _Entry, context: OpContext) -> None:
        """The queue and its thread end after a grace period."""
        self.site.timeline.defer(RCU_GRACE_NS, lambda: self._free_entry(entry, 0))

    def free(self, cpu: int) -> None:
        """Stops all threads and frees their entries."""
        for entry in self.slots.values():
            self._free_entry(entry, cpu)
        self.slots.clear()

    def _make(self, qsize: int, prog_fd: int, context: OpContext) -> _Entry:
        """__cpu_map_entry_alloc. Any failure is ENOMEM to user space."""
        entry = _Entry(qsize)
        try:
            self._allocate(entry, context)
            if prog_fd > 0:
                prog = xdp_prog_for(context.task, prog_fd, AttachType.XDP_CPUMAP)
                prog.get()
                entry.prog = prog
        except KernelError as error:
            self._free_entry(entry, context.cpu)
            raise KernelError(Errno.ENOMEM, error.reason, error.detail, **error.numbers) from error
        return entry

    def _allocate(self, entry: _Entry, context: OpContext) -> None:
        site, structs = self.site, self.host.profile.structs
        memory, owner, task = site.memory, site.owner, context.task
        slab = site.element_account(context, AllocKind.SLAB).objcg
        percpu = site.element_account(context, AllocKind.PERCPU).objcg
        blocks = entry.blocks
        blocks.append(memory.kmalloc(structs.bpf_cpu_map_entry, ENTRY_GFP, slab, task, owner))
        blocks.append(
            memory.alloc_percpu(structs.xdp_bulk_queue, 1, ENTRY_GFP, percpu, task, owner)
        )
        blocks.append(memory.kmalloc(structs.ptr_ring, ENTRY_GFP, slab, task, owner))
        ring_bytes = POINTER_BYTES * entry.qsize
        blocks.append(memory.kmalloc(ring_bytes, ENTRY_GFP, None, task, owner))
        blocks.append(memory.alloc_pages(KTHREAD_STACK_PAGES, ENTRY_GFP, None, task, owner))

    def _free_entry(self, entry: _Entry, cpu: int) -> None:
        while entry.blocks:
            self.site.memory.free(entry.blocks.pop(), cpu)
        if entry.prog is not None:
            entry.prog.put()
            entry.prog = None
