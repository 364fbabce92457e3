"""Whom the OOM killer takes, and what it writes to the log. Choosing only: killing is the kernel's [mm/oom_kill.c]."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bpfleet.kernel.units import bytes_of

OOM_SCORE_ADJ_MIN: Final = -1000
OOM_SCORE_ADJ_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Candidate:
    """A process as the OOM killer sees it. Quantities are pages; kernel memory such as maps is not among them."""

    pid: int
    comm: str
    uid: int
    anon_pages: int
    shmem_pages: int
    pgtable_pages: int
    total_vm_pages: int
    oom_score_adj: int
    cgroup: str
    swap_pages: int = 0

    @property
    def rss_pages(self) -> int:
        """Resident pages of all kinds."""
        return self.anon_pages + self.shmem_pages


def badness(candidate: Candidate, total_pages: int) -> int | None:
    """Points of a process, more is worse; None when it must not be killed [oom_badness].

    ``total_pages`` is what the limit (or the node) holds: oom_score_adj counts thousandths of it.
    """
    if candidate.oom_score_adj == OOM_SCORE_ADJ_MIN:
        return None
    points = candidate.rss_pages + candidate.swap_pages + candidate.pgtable_pages
    return points + candidate.oom_score_adj * (total_pages // 1000)


def select(candidates: Sequence[Candidate], total_pages: int) -> Candidate | None:
    """The process with the most points; among equals the one scanned last [select_bad_process]."""
    chosen: Candidate | None = None
    chosen_points = 0
    for candidate in candidates:
        points = badness(candidate, total_pages)
        if points is not None and (chosen is None or points >= chosen_points):
            chosen, chosen_points = candidate, points
    return chosen


def _kilobytes(pages: int) -> int:
    return bytes_of(pages) // 1024


def invoked_line(comm: str, gfp_text: str, order: int, oom_score_adj: int) -> str:
    """The first line of a report [dump_header]."""
    return f"{comm} invoked oom-killer: gfp_mask={gfp_text}, order={order}, oom_score_adj={oom_score_adj}"


def summary_line(victim: Candidate, limited_cgroup: str | None) -> str:
    """The one-line summary; ``limited_cgroup`` None when the node itself ran out [dump_oom_summary]."""
    constraint = "CONSTRAINT_NONE" if limited_cgroup is None else "CONSTRAINT_MEMCG"
    whose = "global_oom" if limited_cgroup is None else f"oom_memcg={limited_cgroup}"
    return (
        f"oom-kill:constraint={constraint},nodemask=(null),cpuset=/,mems_allowed=0,{whose},"
        f"task_memcg={victim.cgroup},task={victim.comm},pid={victim.pid},uid={victim.uid}"
    )


def killed_line(victim: Candidate, *, memcg: bool) -> str:
    """The line users search for [__oom_kill_process]."""
    message = "Memory cgroup out of memory" if memcg else "Out of memory"
    return (
        f"{message}: Killed process {victim.pid} ({victim.comm})"
        f" total-vm:{_kilobytes(victim.total_vm_pages)}kB, anon-rss:{_kilobytes(victim.anon_pages)}kB,"
        f" file-rss:0kB, shmem-rss:{_kilobytes(victim.shmem_pages)}kB, UID:{victim.uid}"
        f" pgtables:{_kilobytes(victim.pgtable_pages)}kB oom_score_adj:{victim.oom_score_adj}"
    )


def group_line(cgroup: str) -> str:
    """Announces that a whole cgroup goes [mem_cgroup_print_oom_group]."""
    return f"Tasks in {cgroup} are going to be killed due to memory.oom.group set"


NO_VICTIM_LINE: Final = "Out of memory and no killable processes..."
DEADLOCK_LINE: Final = "Kernel panic - not syncing: System is deadlocked on memory"
