"""The OOM killer at work: who is asked, who dies, what is logged [mm/oom_kill.c, mm/memcontrol.c]."""

from collections.abc import Callable
from typing import Final, final

from bpfleet.kernel.cgroup.tree import Cgroup
from bpfleet.kernel.events import EventKind
from bpfleet.kernel.mm.current import Current
from bpfleet.kernel.mm.gfp import gfp_text
from bpfleet.kernel.mm.memcg import Memcg, MemcgEvent, ObjCgroup, Stat
from bpfleet.kernel.mm.memory import Memory
from bpfleet.kernel.mm.oom_kill import (
    DEADLOCK_LINE,
    NO_VICTIM_LINE,
    OOM_SCORE_ADJ_MIN,
    Candidate,
    badness,
    group_line,
    invoked_line,
    killed_line,
    select,
    summary_line,
)
from bpfleet.kernel.proc.processes import SIGKILL, Processes
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.timeline import Timeline
from bpfleet.kernel.units import bytes_of, pages_for

CANDIDATES_SHOWN: Final = 20
VICTIM_EXIT_NS: Final = (
    750_000  # until another process has been woken and has given its memory back
)
MAPS_SHOWN: Final = 20


@final
class OomKiller:
    """Kills on behalf of a memcg or of the node.

    A victim other than the caller exits a moment later, in `wait`, in which what earlier victims' maps held comes back;
    the caller only has SIGKILL pending and ends when its call returns. ``panic`` stops the node.
    """

    def __init__(
        self,
        processes: Processes,
        memory: Memory,
        root: Cgroup,
        timeline: Timeline,
        panic: Callable[[str], None],
        swap_pages: int = 0,
    ) -> None:
        self._swap_pages: Final = swap_pages
        self._processes: Final = processes
        self._memory: Final = memory
        self._root: Final = root
        self._timeline: Final = timeline
        self._panic: Final = panic
        self._ending: Final[list[Task]] = []  # killed, and not gone yet

    # -- entries -------------------------------------------------------------------------------------------------

    def kill_in_memcg(self, limited: Memcg, order: int, gfp: int, current: Current) -> bool:
        """out_of_memory for a memcg limit. False when nobody below it may be killed."""
        tasks = self._tasks_below(limited)
        swap_pages = min(limited.swap.max, self._swap_pages) if limited.swappiness else 0
        total_pages = limited.memory.max + swap_pages or 1  # mem_cgroup_get_max
        if self._kill_worst(tasks, total_pages, limited, order, gfp, current):
            return True
        self._log(invoked_line(current.comm, self._text(gfp), order, current.oom_score_adj))
        self._log(NO_VICTIM_LINE)
        self._timeline.emit(
            EventKind.OOM_NO_VICTIM,
            cgroup=limited.path,
            limit_bytes=limited.limit_bytes or 0,
            usage_bytes=limited.usage_bytes,
        )
        return False

    def kill_on_node(self, gfp: int, current: Current) -> bool:
        """out_of_memory for the node itself. With nobody to kill the machine panics."""
        total_pages = pages_for(self._memory.node.ram_bytes) + self._swap_pages
        tasks = self._processes.all()
        if self._kill_worst(tasks, total_pages, None, 0, gfp, current):
            self.wait()
            return True
        self._log(invoked_line(current.comm, self._text(gfp), 0, current.oom_score_adj))
        self._log(NO_VICTIM_LINE)
        self._panic(DEADLOCK_LINE)
        return False

    def _tasks_below(self, limited: Memcg) -> list[Task]:
        """Tasks whose memcg is ``limited`` or below, in pre-order [mem_cgroup_scan_tasks]."""
        return [
            task
            for task in self._processes.below(self._root)
            if task.cgroup.memcg.is_descendant_of(limited)
        ]

    # -- choosing ------------------------------------------------------------------------------------------------

    def _kill_worst(
        self,
        tasks: list[Task],
        total_pages: int,
        limited: Memcg | None,
        order: int,
        gfp: int,
        current: Current,
    ) -> bool:
        candidates = [_candidate(task) for task in tasks]
        chosen = select(candidates, total_pages)
        if chosen is None:
            return False
        victim = self._processes.find(chosen.pid)
        self._log(invoked_line(current.comm, self._text(gfp), order, current.oom_score_adj))
        self._log(summary_line(chosen, limited.path if limited is not None else None))
        group = _oom_group(victim, limited)
        members = [] if group is None else self._tasks_below(group)
        scores = _scores(candidates, total_pages)
        self._kill(victim, chosen, limited, current, scores=scores)
        if group is not None:
            group.raise_event(MemcgEvent.OOM_GROUP_KILL)
            self._log(group_line(group.path))
            for task in members:
                self._kill_member(task, chosen, limited, current)
        return True

    def _kill_member(
        self, task: Task, chosen: Candidate, limited: Memcg | None, current: Current
    ) -> None:
        """One process of a group [oom_kill_memcg_member].

        The victim is found again before it has let go of its memory and counts a second time: oom_kill reads one
        more than processes died. Seen on 6.1 and 6.12; the kernel's own selftest expects it.
        """
        if task.pid == chosen.pid:
            task.cgroup.memcg.raise_event(MemcgEvent.OOM_KILL)
            self._log(killed_line(chosen, memcg=limited is not None))
        elif task.oom_score_adj != OOM_SCORE_ADJ_MIN and not task.dying:
            self._kill(task, _candidate(task), limited, current, scores="")

    # -- killing -------------------------------------------------------------------------------------------------

    def _kill(
        self,
        victim: Task,
        seen: Candidate,
        limited: Memcg | None,
        current: Current,
        *,
        scores: str,
    ) -> None:
        """One process: the event at its own memcg, the log line, the signal [__oom_kill_process]."""
        memcg = victim.cgroup.memcg
        memcg.raise_event(MemcgEvent.OOM_KILL)
        self._log(killed_line(seen, memcg=limited is not None))
        role = "caller" if victim.pid == current.pid else "bystander"
        self._timeline.emit(
            EventKind.OOM_KILL,
            pid=victim.pid,
            comm=victim.comm,
            uid=victim.uid,
            cgroup=victim.cgroup.path,
            limited_cgroup="" if limited is None else limited.path,
            limit="node" if limited is None else "own" if limited is memcg else "ancestor",
            role=role,
            caller_pid=current.pid,
            anon_bytes=bytes_of(seen.anon_pages),
            shmem_bytes=bytes_of(seen.shmem_pages),
            page_table_bytes=bytes_of(seen.pgtable_pages),
            oom_score_adj=victim.oom_score_adj,
            candidates=scores,
            **self._usage_by_class(limited),
        )
        if role == "caller":
            victim.sigkill("oom-killed")
        else:
            victim.dying = True
            self._ending.append(victim)

    def wait(self) -> int:
        """Time passes until the latest victims have ended. Returns how much: none for a caller that killed itself."""
        if not self._ending:
            return 0
        ended_ns = VICTIM_EXIT_NS * self._memory.controller.pace
        self._timeline.advance(ended_ns)
        for victim in self._ending:
            if victim.alive:
                self._processes.exit(victim, SIGKILL, "oom-killed")
        self._ending.clear()
        return ended_ns

    def _usage_by_class(self, limited: Memcg | None) -> dict[str, int | str]:
        """What the memory that ran out is made of, with BPF by map: what the kernel's own report leaves out."""
        memory = self._memory
        by_map: dict[str, int] = {}
        for account in memory.accounts.values():
            if account.owner.kind in BPF_OWNERS and _is_charged_below(account.objcg, limited):
                held = account.taken_bytes if limited is None else account.charged_bytes
                name = repr(account.owner)
                by_map[name] = by_map.get(name, 0) + held
        largest = sorted(by_map.items(), key=lambda item: (-item[1], item[0]))[:MAPS_SHOWN]
        stat = (limited or memory.controller.root).stat
        return {
            "limit_bytes": memory.node.ram_bytes if limited is None else limited.limit_bytes or 0,
            "usage_bytes": memory.node.used_bytes if limited is None else limited.usage_bytes,
            "group_anon_bytes": bytes_of(stat[Stat.ANON_PAGES]),
            "group_file_bytes": bytes_of(stat[Stat.FILE_PAGES]),
            "group_kernel_bytes": bytes_of(stat[Stat.KERNEL_PAGES]),
            "group_slab_bytes": stat[Stat.SLAB_RECLAIMABLE] + stat[Stat.SLAB_UNRECLAIMABLE],
            "group_percpu_bytes": stat[Stat.PERCPU],
            "group_vmalloc_bytes": bytes_of(stat[Stat.VMALLOC_PAGES]),
            "bpf_bytes": sum(by_map.values()),
            "bpf_objects": "; ".join(f"{name} {held}" for name, held in largest),
        }

    def _text(self, gfp: int) -> str:
        return gfp_text(gfp, as_4_18=self._memory.profile.gfp_bits_of_4_18)

    def _log(self, line: str) -> None:
        self._timeline.emit(EventKind.KERNEL_LOG, line=line)


BPF_OWNERS: Final = frozenset({"map", "prog", "btf"})


def _is_charged_below(objcg: ObjCgroup | None, limited: Memcg | None) -> bool:
    if limited is None:
        return True
    return objcg is not None and objcg.memcg.is_descendant_of(limited)


def _candidate(task: Task) -> Candidate:
    mm = task.mm
    return Candidate(
        task.pid,
        task.comm,
        task.uid,
        mm.anon_pages,
        mm.shmem_pages,
        mm.pgtable_pages,
        mm.total_vm,
        task.oom_score_adj,
        task.cgroup.memcg.path,
        mm.swap_pages,
    )


def _scores(candidates: list[Candidate], total_pages: int) -> str:
    """The candidates with their points, worst first; those that must not be killed last, without."""
    scored = [(badness(candidate, total_pages), candidate) for candidate in candidates]
    scored.sort(key=lambda pair: (pair[0] is None, -(pair[0] or 0), pair[1].pid))
    return "; ".join(
        f"{candidate.pid} {candidate.comm} {'immune' if points is None else points}"
        for points, candidate in scored[:CANDIDATES_SHOWN]
    )


def _oom_group(victim: Task, limited: Memcg | None) -> Memcg | None:
    """The highest memcg with memory.oom.group between the victim's and ``limited`` [mem_cgroup_get_oom_group]."""
    memcg: Memcg | None = victim.cgroup.memcg
    found: Memcg | None = None
    while memcg is not None and memcg.parent is not None:
        if memcg.oom_group:
            found = memcg
        if memcg is limited:
            break
        memcg = memcg.parent
    return found
