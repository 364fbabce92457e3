"""What bpftool, crictl, kubectl top and memory.stat each say about the same cgroup, and why they differ."""

from collections.abc import Iterable
from dataclasses import dataclass

from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.cgroup.tree import Cgroup
from bpfleet.kernel.mm.memcg import Stat
from bpfleet.kernel.mm.memory import Memory
from bpfleet.kernel.profile import KernelProfile, Memlock
from bpfleet.kernel.units import bytes_of

_MEMLOCK_MEANS = {
    Memlock.CHARGED: "the estimate precharged to the user, rounded to pages; no cgroup is charged",
    Memlock.FOOTPRINT: "max_entries times key and value, rounded up: not memory, 0 for ring buffers",
    Memlock.USAGE: "an estimate per type, with per-CPU parts nobody is charged, without slab rounding",
}


@dataclass(frozen=True, slots=True)
class ToolView:
    """One tool's number, in bytes, and what it counts or leaves out."""

    tool: str
    field: str
    bytes: int
    counts: str


def tool_views(
    cgroup: Cgroup, memory: Memory, maps: Iterable[BpfMap], profile: KernelProfile
) -> list[ToolView]:
    """Every tool's number about ``cgroup`` and below, from the same state. Maps are those created there."""
    memcg = cgroup.memcg
    stat = memcg.stat
    usage = memcg.usage_bytes if memcg.parent is not None else memory.node.used_bytes
    inactive_file = bytes_of(
        stat[Stat.FILE_PAGES] - stat[Stat.SHMEM_PAGES] - stat[Stat.ACTIVE_FILE_PAGES]
    )
    created = [m for m in maps if _is_at_or_below(m.creator_cgroup, cgroup.path)]
    charged = sum(
        account.charged_bytes
        for account in memory.accounts.values()
        if account.owner.kind == "map"
        and account.objcg is not None
        and account.objcg.memcg.is_descendant_of(memcg)
    )
    anon, file = bytes_of(stat[Stat.ANON_PAGES]), bytes_of(stat[Stat.FILE_PAGES])
    views = [
        ToolView(
            "bpftool map",
            "memlock",
            sum(m.memlock_bytes() for m in created),
            f"maps created here, even if another cgroup pays now: {_MEMLOCK_MEANS[profile.memlock]}",
        ),
        ToolView("ledger", "bpf maps", charged, "what maps are really charged to this cgroup"),
        ToolView("memory.current", "", usage, "all charged pages and what CPUs hold in stock"),
        ToolView(
            "kubectl top", "working set", usage - inactive_file, "usage without inactive file cache"
        ),
        ToolView(
            "crictl stats",
            "memory",
            usage - inactive_file,
            "the same working set: kernel memory counts",
        ),
        ToolView("ps, top", "rss", anon, "user memory of processes: no kernel memory, so no maps"),
        ToolView("cadvisor", "rss", anon, "the anon line of memory.stat: no maps"),
        ToolView("memory.stat", "anon + file", anon + file, "user memory: no maps"),
    ]
    return views + _kernel_views(stat, usage, profile)


def _kernel_views(stat: list[int], usage: int, profile: KernelProfile) -> list[ToolView]:
    """The kernel lines of memory.stat where this kernel has them, or what is left where it has not."""
    slab = stat[Stat.SLAB_RECLAIMABLE] + stat[Stat.SLAB_UNRECLAIMABLE]
    views = [
        ToolView("memory.stat", "slab", slab, "small maps and elements; large ones are elsewhere"),
        ToolView("memory.stat", "percpu", stat[Stat.PERCPU], "charged per-CPU objects alone"),
    ]
    if "vmalloc" in profile.memory_stat_lines:
        views.append(
            ToolView(
                "memory.stat",
                "vmalloc",
                bytes_of(stat[Stat.VMALLOC_PAGES]),
                "map areas over 32 KiB and programs, not ring buffers",
            )
        )
    if "kernel" in profile.memory_stat_lines:
        views.append(
            ToolView(
                "memory.stat",
                "kernel",
                bytes_of(stat[Stat.KERNEL_PAGES]),
                "all kernel memory, ring buffers and arenas among it",
            )
        )
    else:
        user = bytes_of(stat[Stat.ANON_PAGES] + stat[Stat.FILE_PAGES])
        views.append(
            ToolView(
                "memory.stat",
                "(missing)",
                usage - user - slab,
                "this kernel has no kernel and vmalloc lines: large maps show only as a gap",
            )
        )
    return views


def _is_at_or_below(path: str, ancestor: str) -> bool:
    return ancestor == "/" or path == ancestor or path.startswith(ancestor + "/")
