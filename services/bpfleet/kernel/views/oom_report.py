"""Reports of the OOM killer in the kernel log: how much was the processes' own memory, how much the kernel's."""

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["KERNEL_PARTS", "OomReport", "read_oom_report"]

_SIGNS: Final = re.compile(
    r"oom-kill:|invoked oom-killer|memory cgroup out of memory|out of memory( and no killable|: kill)",
    re.IGNORECASE,
)
_USAGE: Final = re.compile(r"\bmemory: usage (\d+)kB, limit (\d+)kB", re.IGNORECASE)
_KMEM: Final = re.compile(r"\bkmem: usage (\d+)kB", re.IGNORECASE)
_STAT: Final = re.compile(
    r"\b(anon|file|kernel|kernel_stack|pagetables|sec_pagetables|percpu|sock|vmalloc|shmem|slab|slab_reclaimable"
    r"|slab_unreclaimable|rss|cache|total_rss|total_cache) (\d+)\b"
)
_RSS: Final = re.compile(
    r"(?:total-vm:\d+kB, )?anon-rss:(\d+)kB, file-rss:(\d+)kB(?:, shmem-rss:(\d+)kB)?",
    re.IGNORECASE,
)
_KILLED: Final = re.compile(r"Killed process (\d+)(?: \(([^)]*)\))?", re.IGNORECASE)
_CGROUP: Final = re.compile(r"(?:Memory cgroup stats for |oom_memcg=)([^\s,:]+)")
# The lines of memory.stat that `kernel` is made of.
KERNEL_PARTS: Final = (
    "kernel_stack",
    "pagetables",
    "sec_pagetables",
    "percpu",
    "sock",
    "vmalloc",
    "slab",
)
# Above this share of the memory in use the kernel's part is worth looking at.
_SHARE: Final = 0.2
_MAPS_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class OomReport:
    """One report. Sizes in bytes; None where the text does not tell. ``kernel`` is all kernel memory of the cgroup."""

    memcg: bool
    victim: str
    no_victim: bool
    cgroup: str
    usage: int | None
    limit: int | None
    anon: int | None
    file: int | None
    kernel: int | None
    possible_bpf: (
        int | None
    )  # percpu + vmalloc + slab that cannot be reclaimed: the most that maps can be

    def lines(self) -> list[str]:
        """What the report says, and what to do, one sentence a line."""
        return [self._headline(), *self._facts(), *(f"to do: {line}" for line in self._advice())]

    def _headline(self) -> str:
        where = f" of {self.cgroup}" if self.cgroup else ""
        if self.no_victim:
            return (
                f"memory.max{where} is reached and nobody in that cgroup may be killed: the charge fails with ENOMEM,"
                " or is tried again at each page fault"
            )
        victim = f"; {self.victim} was killed" if self.victim else ""
        if self.memcg:
            return f"memory.max{where} is reached{victim}"
        return f"the host itself ran out of memory{victim}: no cgroup's limit was reached"

    def _facts(self) -> list[str]:
        facts = []
        if self.usage is not None and self.limit is not None:
            facts.append(f"{self.usage:,} of {self.limit:,} bytes are in use")
        whole = self.usage or self.limit
        if self.anon is not None:
            facts.append(
                f"anonymous memory, the processes' own: {self.anon:,} bytes{_share(self.anon, whole)}"
            )
        if self.kernel is not None:
            facts.append(
                f"all kernel memory, BPF included: {self.kernel:,} bytes{_share(self.kernel, whole)}"
            )
        if self.possible_bpf is not None and self.possible_bpf != self.kernel:
            facts.append(
                f"of it per-CPU, vmalloc and slab, the most that maps can be: {self.possible_bpf:,} bytes"
            )
        return facts

    def _advice(self) -> list[str]:
        if self.no_victim:
            return [
                "look for processes with oom_score_adj -1000, or for a cgroup without processes that still pays for"
                " pinned maps",
                "raise memory.max of that cgroup, or of the ancestor named in the report",
            ]
        whole, kernel = self.usage or self.limit, self.kernel
        own = self.anon is not None and whole is not None and self.anon >= whole * (1 - _SHARE)
        if kernel is None and not own:
            if not self.memcg:
                return [
                    "find who takes the host's memory: maps are in no process's RSS, but in the report's Mem-Info as"
                    " slab_unreclaimable and in /proc/meminfo as Percpu and VmallocUsed (bpfleet charges lists them)"
                ]
            return [
                "read the lines above it in dmesg: 'memory: usage', 'kmem: usage' and 'Memory cgroup stats' tell"
                " anonymous from kernel memory; only the latter can be BPF, which cannot be reclaimed"
            ]
        if kernel is not None and whole and kernel >= whole * _SHARE:
            maps = self.possible_bpf if self.possible_bpf is not None else kernel
            if maps < kernel * _MAPS_SHARE:
                return [
                    "kernel memory is large, but mostly stacks, page tables or sockets: look there, not at maps"
                ]
            return [
                "see which maps this cgroup pays for (bpfleet charges): from 5.11 on they count here and cannot be"
                " reclaimed",
                "raise memory.max by what they take, or make maps smaller",
            ]
        return ["BPF is not the reason: raise the limit, or find what the process allocates"]


def _share(part: int, whole: int | None) -> str:
    return f", {100 * part / whole:.0f} %" if whole else ""


def read_oom_report(text: str) -> OomReport | None:
    """Reads a report, or what is left of one; None where the text is none."""
    if _SIGNS.search(text) is None:
        return None
    usage, kmem, rss = _USAGE.search(text), _KMEM.search(text), _RSS.search(text)
    stat: dict[str, int] = {}
    for name, value in _STAT.findall(text):
        stat.setdefault(name, int(value))
    killed, cgroup = _KILLED.search(text), _CGROUP.search(text)
    anon = stat.get("anon", stat.get("total_rss", stat.get("rss")))
    if anon is None and rss is not None:
        anon = int(rss[1]) << 10
    kernel, possible = _kernel_parts(stat, int(kmem[1]) << 10 if kmem else None)
    return OomReport(
        memcg=bool(re.search(r"memory cgroup|CONSTRAINT_MEMCG|memory: usage", text, re.IGNORECASE)),
        victim=""
        if killed is None
        else f"process {killed[1]}" + (f" ({killed[2]})" if killed[2] else ""),
        no_victim="no killable process" in text.lower(),
        cgroup="" if cgroup is None else cgroup[1],
        usage=int(usage[1]) << 10 if usage else None,
        limit=int(usage[2]) << 10 if usage else None,
        anon=anon,
        file=stat.get("file", stat.get("cache")),
        kernel=kernel,
        possible_bpf=possible,
    )


def _kernel_parts(stat: dict[str, int], kmem: int | None) -> tuple[int | None, int | None]:
    parts = [stat[name] for name in KERNEL_PARTS if name in stat]
    kernel = stat.get("kernel") or kmem
    if kernel is None and parts:
        kernel = sum(parts)
    if "percpu" not in stat and "vmalloc" not in stat:
        return kernel, kernel
    slab = stat.get("slab_unreclaimable", stat.get("slab", 0))
    return kernel, stat.get("percpu", 0) + stat.get("vmalloc", 0) + slab
