"""Reclaim: which groups lose pages, and who is protected [mm/vmscan.c, mem_cgroup_calculate_protection].

Kernel memory cannot be reclaimed; clean file pages can, and anonymous and shared ones where there is swap for them.
"""

from dataclasses import dataclass
from typing import Final, final

from bpfleet.kernel.mm.filemap import Lru, PageCache
from bpfleet.kernel.mm.memcg import Memcg, MemcgEvent, Stat
from bpfleet.kernel.mm.swapfile import SwapSpace
from bpfleet.kernel.units import bytes_of, pages_for

SWAP_CLUSTER_MAX: Final = 32
DEF_PRIORITY: Final = 12
MAX_SWAPPINESS: Final = 200


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


@dataclass(frozen=True, slots=True)
class _Balance:
    """Which share of their lists anonymous and file pages are scanned by, in parts of ``whole``."""

    anon: int
    file: int
    whole: int


_FILE_ONLY: Final = _Balance(0, 1, 1)
_ANON_ONLY: Final = _Balance(1, 0, 1)
_EQUAL: Final = _Balance(1, 1, 1)


@final
class Reclaimer:
    """Frees page cache and, with ``swap``, anonymous pages below a memcg, or node-wide from the root.

    ``recursive_protection`` is how systemd mounts cgroup v2.
    """

    def __init__(
        self, cache: PageCache, root: Memcg, swap: SwapSpace | None = None, *, walks_in_part: bool
    ) -> None:
        self._cache: Final = cache
        self._swap: Final = swap
        self._root: Final = root
        self._walks_in_part: Final = walks_in_part  # stops at the group that brought enough
        self.recursive_protection = True
        self._may_deactivate = False  # what a round decided
        self._skipped_active = False  # and what a pass left alone for it
        self._cache_trims = False  # file pages suffice, what a round decided
        self._swappiness: int | None = None  # of this reclaim, in place of its groups'

    def reclaim_node(self, wanted_bytes: int) -> int:
        """Direct reclaim for an allocation that found no free page. Returns bytes freed."""
        freed = self.reclaim(self._root, pages_for(wanted_bytes))
        self._cache.prune_inodes()
        return bytes_of(freed)

    def reclaim(self, target: Memcg, pages: int, swappiness: int | None = None) -> int:
        """Frees at least ``pages`` (or 32) below ``target`` if it can. Returns pages freed.

        Groups below memory.min are never touched, those below memory.low only when nothing else is left; each such
        breach raises a LOW event. ``swappiness`` stands in for that of the groups.
        """
        if self._cache.is_empty and (self._swap is None or self._swap.is_idle):
            return 0
        self._swappiness = swappiness
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
            if self._swap is not None:
                self._cache_trims = not self._may_deactivate and self._file_lasts(groups, priority)
            for memcg in groups:
                lru = self._cache.lru(memcg)
                if lru is None and not self._anon_pages(memcg):
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
                balance = _FILE_ONLY
                if self._swap is not None:
                    balance = self._balance(memcg, target, priority)
                freed += self._shrink(
                    memcg, lru, protection, balance, priority, wanted, breach_low=breach_low
                )
                if freed >= wanted and self._walks_in_part:
                    return freed, low_skipped
            if freed >= wanted:
                break
        return freed, low_skipped

    def _shrink(
        self,
        memcg: Memcg,
        lru: Lru | None,
        protection: _Protection,
        balance: _Balance,
        priority: int,
        wanted: int,
        *,
        breach_low: bool,
    ) -> int:
        """shrink_lruvec: scans the share of a group's lists that this round asks for, 32 pages at a time.

        Returns pages freed; no more are scanned once ``wanted`` of them have been.
        """
        guarded = protection.emin if breach_low else max(protection.emin, protection.elow)
        anon = inactive = active = 0
        if balance.anon:
            anon = self._share(memcg, self._anon_pages(memcg), guarded, priority)
            anon = _part(anon, balance.anon, balance.whole, memcg)
        if lru is not None and balance.file:
            inactive = self._share(memcg, lru.inactive_pages, guarded, priority)
            active = self._share(memcg, lru.active_pages, guarded, priority)
            if balance.file < balance.whole:
                inactive = _part(inactive, balance.file, balance.whole, memcg)
                active = _part(active, balance.file, balance.whole, memcg)
        freed = 0
        while anon or inactive or active:
            scan = min(anon, SWAP_CLUSTER_MAX)
            anon -= scan
            if scan:
                freed += self._swap_out(memcg, scan)
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

    # -- anonymous pages -----------------------------------------------------------------------------------------

    def _anon_pages(self, memcg: Memcg) -> int:
        """Pages of a group that can be swapped out; none where there is no room for them."""
        if self._swap is None or not self._swap.room(memcg):
            return 0
        return self._swap.resident_pages(memcg)

    def _swap_out(self, memcg: Memcg, pages: int) -> int:
        assert self._swap is not None, memcg.path
        got = self._swap.swap_out(memcg, pages)
        memcg.add_stat(Stat.PGSCAN, pages)
        memcg.add_stat(Stat.PGSTEAL, got)
        return got

    def _balance(self, memcg: Memcg, target: Memcg, priority: int) -> _Balance:
        """How pressure is shared between anonymous and file pages [get_scan_count].

        What it cost to bring pages back in is not counted: none comes in.
        """
        on_node = target is self._root
        swappiness = memcg.swappiness if self._swappiness is None else self._swappiness
        if not self._anon_pages(memcg):
            return _FILE_ONLY
        if not swappiness and (not on_node or self._swappiness is not None):
            return _FILE_ONLY
        if not priority and swappiness:
            return _EQUAL
        if on_node and self._cache.is_empty:
            return _ANON_ONLY
        if self._cache_trims:
            return _FILE_ONLY
        return _Balance(swappiness, MAX_SWAPPINESS - swappiness, MAX_SWAPPINESS)

    def _file_lasts(self, groups: list[Memcg], priority: int) -> bool:
        """Whether there are plenty of inactive file pages, so that nothing else is looked at [cache_trim_mode]."""
        lrus = [lru for memcg in groups if (lru := self._cache.lru(memcg)) is not None]
        return bool(sum(lru.inactive_pages for lru in lrus) >> priority)

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


def _part(scan: int, share: int, whole: int, memcg: Memcg) -> int:
    """The share of a scan that a kind of pages gets; of a removed group's rounded up."""
    return scan * share // whole if memcg.online else -(-scan * share // whole)
