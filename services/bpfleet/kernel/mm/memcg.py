"""struct mem_cgroup and struct obj_cgroup: a group's counters, statistics, events [include/linux/memcontrol.h]."""

from collections import deque
from enum import IntEnum
from typing import Final, final

from bpfleet.kernel.mm.page_counter import PAGE_COUNTER_MAX, PageCounter
from bpfleet.kernel.units import bytes_of

STALLS_KEPT: Final = 512
SWAPPINESS: Final = 60  # vm.swappiness: of 200 parts of pressure, those that anonymous pages get


class MemcgEvent(IntEnum):
    """Keys of memory.events, in the file's order."""

    LOW = 0
    HIGH = 1
    MAX = 2
    OOM = 3
    OOM_KILL = 4
    OOM_GROUP_KILL = 5


class SwapEvent(IntEnum):
    """Lines of memory.swap.events, in their order."""

    HIGH = 0
    MAX = 1
    FAIL = 2


class Stat(IntEnum):
    """memory.stat quantities kept per memcg. Slab and percpu are bytes, the accumulating ones counts, others pages."""

    KERNEL_PAGES = 0
    SLAB_RECLAIMABLE = 1
    SLAB_UNRECLAIMABLE = 2
    PERCPU = 3
    VMALLOC_PAGES = 4
    ANON_PAGES = 5
    FILE_PAGES = 6  # page cache, including shmem
    SHMEM_PAGES = 7
    PGTABLE_PAGES = 8
    ACTIVE_FILE_PAGES = 9
    PGFAULT = 10
    PGSCAN = 11
    PGSTEAL = 12
    KERNEL_STACK_PAGES = 13
    SWAP_PAGES = 14  # that are out
    PSWPOUT = 15


@final
class ObjCgroup:
    """Stands for a memcg in object charges; re-pointed to the parent when the cgroup is removed.

    ``nr_charged_bytes`` are already paid bytes parked outside the CPUs' byte stocks. ``accounts`` counts the ledger
    lines held against it: when the last one goes after the cgroup itself, whole parked pages are given back.
    """

    __slots__ = ("accounts", "detached", "memcg", "nr_charged_bytes")

    def __init__(self, memcg: "Memcg") -> None:
        self.memcg = memcg
        self.nr_charged_bytes = 0
        self.accounts = 0
        self.detached = False  # its memcg has been removed: lives until its last object goes


@final
class Memcg:
    """One memory cgroup. The root (``parent`` None) is never charged.

    ``objcg`` is who pays for objects and, from 5.13, kernel pages: it moves to the parent at rmdir. ``css_ref`` is
    who pays for user pages (and for what 5.11 and 5.12 charge by page): it never moves and keeps a removed memcg
    alive as a zombie among its parent's ``children``. ``pins`` counts other holders (maps of 5.11 to 5.19).

    ``stat`` is hierarchical: each change is added to all ancestors at once, so a read needs no flush.
    """

    __slots__ = (
        "children",
        "css_ref",
        "event_counts",
        "event_counts_local",
        "memory",
        "objcg",
        "objcgs",
        "online",
        "oom_group",
        "parent",
        "path",
        "pins",
        "stall_ns",
        "stalls",
        "stat",
        "swap",
        "swap_event_counts",
        "swappiness",
    )

    def __init__(self, path: str, parent: "Memcg | None") -> None:
        self.path = path
        self.parent: Memcg | None = parent
        # The root's counter exists but is never charged, so the chain of counters ends below it.
        above = parent.memory if parent is not None and parent.parent is not None else None
        self.memory: Final[PageCounter] = PageCounter(above)
        swap_above = parent.swap if parent is not None and parent.parent is not None else None
        self.swap: Final[PageCounter] = PageCounter(swap_above)
        self.swappiness: int = SWAPPINESS if parent is None else parent.swappiness
        self.objcg: Final = ObjCgroup(self)
        self.objcgs: Final = [self.objcg]  # its own and those inherited from removed children
        self.css_ref: Final = ObjCgroup(self)
        self.pins = 0
        self.children: Final[list[Memcg]] = []
        self.event_counts: Final = [0] * len(MemcgEvent)
        self.event_counts_local: Final = [0] * len(MemcgEvent)
        self.swap_event_counts: Final = [0] * len(SwapEvent)
        self.stat: Final = [0] * len(Stat)
        self.oom_group = False
        self.online = True
        self.stall_ns = 0  # time tasks here and below waited for memory, and the latest such waits as (start, end)
        self.stalls: deque[tuple[int, int]] | None = None
        if parent is not None:
            parent.children.append(self)

    @property
    def usage_bytes(self) -> int:
        """memory.current: charged pages and the CPUs' stocks, in bytes."""
        return bytes_of(self.memory.usage)

    @property
    def limit_bytes(self) -> int | None:
        """memory.max in bytes, or None for ``max``."""
        return None if self.memory.max >= PAGE_COUNTER_MAX else bytes_of(self.memory.max)

    @property
    def events(self) -> dict[str, int]:
        """memory.events by name: what happened here and below."""
        return {event.name.lower(): self.event_counts[event] for event in MemcgEvent}

    def is_descendant_of(self, ancestor: "Memcg") -> bool:
        """Whether ``ancestor`` is this memcg or above it."""
        memcg: Memcg | None = self
        while memcg is not None:
            if memcg is ancestor:
                return True
            memcg = memcg.parent
        return False

    def pre_order(self) -> "list[Memcg]":
        """This memcg and all below, parents before children; removed ones that are not gone yet are among them."""
        found: list[Memcg] = []
        ahead = [self]  # not recursive: directories nest as deep as a path is long
        while ahead:
            memcg = ahead.pop()
            found.append(memcg)
            ahead.extend(reversed(memcg.children))
        return found

    def stalled(self, start_ns: int, end_ns: int) -> None:
        """A task here waited for memory: counts for this group and those above."""
        memcg: Memcg | None = self
        while memcg is not None:
            memcg.stall_ns += end_ns - start_ns
            if memcg.stalls is None:
                memcg.stalls = deque(maxlen=STALLS_KEPT)
            memcg.stalls.append((start_ns, end_ns))
            memcg = memcg.parent

    def add_stat(self, stat: int, delta: int) -> None:
        """Adds ``delta`` to a statistic here and on every ancestor."""
        memcg: Memcg | None = self
        while memcg is not None:
            memcg.stat[stat] += delta
            memcg = memcg.parent

    def raise_event(self, event: int, count: int = 1) -> None:
        """Counts an event: locally here, hierarchically here and on every ancestor but the root."""
        self.event_counts_local[event] += count
        memcg: Memcg | None = self
        while memcg is not None and memcg.parent is not None:
            memcg.event_counts[event] += count
            memcg = memcg.parent

    def raise_swap_event(self, event: SwapEvent, count: int = 1) -> None:
        """Counts a swap event here and on every ancestor but the root."""
        memcg: Memcg | None = self
        while memcg is not None and memcg.parent is not None:
            memcg.swap_event_counts[event] += count
            memcg = memcg.parent
