"""Reclaim: which groups lose page cache, and who is protected [mm/vmscan.c, mem_cgroup_calculate_protection].

Kernel memory and, without swap, anonymous memory cannot be reclaimed; clean file pages can.
"""

from dataclasses import dataclass
from typing import Final, final

from bpfleet.kernel.mm.filemap import Lru, PageCache
from bpfleet.kernel.mm.memcg import Memcg, MemcgEvent, Stat
from bpfleet.kernel.units import bytes_of, pages_for

SWAP_CLUSTER_MAX: Final = 32
DEF_PRIORITY: Final = 12


@dataclass(frozen=True, slots=True)
class _Protection:
    """Effective memory.min and memory.low of one memcg for one reclaim target, in pages."""

    emin: int
    elow: int


def effective_protection(
    usage: int,
    parent_usage: int,
    setting: int,
    parent_effective: int,
    siblings_protected: int,
    *,
    recursive: bool,
) -> int:
    """What a child really gets of its memory.min or memory.low, in pages [effective_protection].

    Claims within the parent's protection are honoured in full; larger ones are scaled down. With ``recursive``
    (mount option memory_recursiveprot) what nobody claims is shared out by unprotected usage.

    >>> effective_protection(100, 200, 80, 50, 100, recursive=False)
    40
    """
    protected = min(usage, setting)
    if siblings_protected > parent_effective:
        return protected * parent_effective // siblings_protected
    if not recursive or usage <= protected or parent_usage <= siblings_protected:
        return protected
    unclaimed = parent_effective - siblings_protected
    return protected + unclaimed * (usage - protected) // (parent_usage - siblings_protected)


@final
class Reclaimer:
    """Frees page cache below a memcg, or node-wide from the root.

    ``recursive_protection`` is how systemd mounts cgroup v2.
    """

    def __init__(self, cache: PageCache, root: Memcg, *, walks_in_part: bool) -> None:
        self._cache: Final = cache
        self._root: Final = root
        self._walks_in_part: Final = walks_in_part  # stops at the group that brought enough
        self.recursive_protection = True
        self._may_deactivate = False  # what a round decided
        self._skipped_active = False  # and what a pass left alone for it

    def reclaim_node(self, wanted_bytes: int) -> int:
        """Direct reclaim for an allocation that found no free page. Returns bytes freed."""
        freed = self.reclaim(self._root, pages_for(wanted_bytes))
        self._cache.prune_inodes()
        return bytes_of(freed)

    def reclaim(self, target: Memcg, pages: int) -> int:
        """Frees at least ``pages`` (or 32) below ``target`` if it can. Returns pages freed.

        Groups below memory.min are never touched, those below memory.low only when nothing else is left; each such
        breach raises a LOW event.
        """
        if self._cache.is_empty:
            return 0
        wanted = max(pages, SWAP_CLUSTER_MAX)
        freed, low_skipped = self._pass(target, wanted, breach_low=False)
        if not freed and self._skipped_active:
            freed, low_skipped = self._pass(target, wanted, breach_low=False, force=True)
        if not freed and low_skipped:
            freed, _ = self._pass(target, wanted, breach_low=True)
        return freed

    def _pass(
        self, target: Memcg, wanted: int, *, breach_low: bool, force: bool = False
    ) -> tuple[int, bool]:
        """Rounds of rising urgency [do_try_to_free_pages]. Returns (pages freed, memory.low held some back).

        With ``force`` active pages age also while there are more inactive ones.
        """
        self._skipped_active = False
        freed = 0
        low_skipped = False
        groups = target.pre_order()
        protections = self._protections(target)
        for priority in range(DEF_PRIORITY, -1, -1):
            self._may_deactivate = force or self._inactive_is_low(groups)
            for memcg in groups:
                lru = self._cache.lru(memcg)
                if lru is None:
                    continue
                protection = protections[memcg]
                usage = memcg.memory.usage
                if memcg is not target and protection.emin and usage <= protection.emin:
                    continue
                if memcg is not target and protection.elow and usage <= protection.elow:
                    if not breach_low:
                        low_skipped = True
                        continue
                    memcg.raise_event(MemcgEvent.LOW)
                freed += self._shrink(
                    memcg, lru, protection, priority, wanted, breach_low=breach_low
                )
                if freed >= wanted and self._walks_in_part:
                    return freed, low_skipped
            if freed >= wanted:
                break
        return freed, low_skipped

    def _shrink(
        self,
        memcg: Memcg,
        lru: Lru,
        protection: _Protection,
        priority: int,
        wanted: int,
        *,
        breach_low: bool,
    ) -> int:
        """shrink_lruvec: scans the share of a group's lists that this round asks for, 32 pages at a time.

        Returns pages freed; no more are scanned once ``wanted`` of them have been.
        """
        guarded = protection.emin if breach_low else max(protection.emin, protection.elow)
        inactive = self._share(memcg, lru.inactive_pages, guarded, priority)
        active = self._share(memcg, lru.active_pages, guarded, priority)
        freed = 0
        while inactive or active:
            scan = min(inactive, SWAP_CLUSTER_MAX)
            inactive -= scan
            if scan:
                got = self._cache.evict(memcg, scan)
                memcg.add_stat(Stat.PGSCAN, got)
                memcg.add_stat(Stat.PGSTEAL, got)
                freed += got
            scan = min(active, SWAP_CLUSTER_MAX)
            active -= scan
            if scan and self._may_deactivate:
                self._cache.deactivate(memcg, scan)
            elif scan:
                self._skipped_active = True
            if freed >= wanted:
                break
        return freed

    def _inactive_is_low(self, groups: list[Memcg]) -> bool:
        """Whether active pages may age [prepare_scan_control]. Below a GiB the lists are to be of one size."""
        lrus = [lru for memcg in groups if (lru := self._cache.lru(memcg)) is not None]
        return sum(lru.inactive_pages for lru in lrus) < sum(lru.active_pages for lru in lrus)

    def _share(self, memcg: Memcg, size: int, guarded: int, priority: int) -> int:
        """Pages of a list to scan [get_scan_count]."""
        if guarded and size:
            whole = max(memcg.memory.usage, guarded)
            size = max(size - size * guarded // (whole + 1), min(size, SWAP_CLUSTER_MAX))
        scan = size >> priority
        if not scan and not memcg.online:
            return min(size, SWAP_CLUSTER_MAX)
        return scan

    # -- protection ----------------------------------------------------------------------------------------------

    def _protections(self, target: Memcg) -> dict[Memcg, _Protection]:
        """Effective protections below ``target``; the target itself has none against its own limit."""
        found = {target: _Protection(0, 0)}
        for memcg in target.pre_order():
            children = memcg.children
            if not children:
                continue
            claims_min = sum(min(c.memory.usage, c.memory.min) for c in children)
            claims_low = sum(min(c.memory.usage, c.memory.low) for c in children)
            above = found[memcg]
            for child in children:
                counter = child.memory
                if memcg is target:
                    found[child] = _Protection(counter.min, counter.low)
                    continue
                found[child] = _Protection(
                    self._effective(child, memcg, counter.min, above.emin, claims_min),
                    self._effective(child, memcg, counter.low, above.elow, claims_low),
                )
        return found

    def _effective(
        self, child: Memcg, parent: Memcg, setting: int, parent_effective: int, claims: int
    ) -> int:
        return effective_protection(
            child.memory.usage,
            parent.memory.usage,
            setting,
            parent_effective,
            claims,
            recursive=self.recursive_protection,
        )
