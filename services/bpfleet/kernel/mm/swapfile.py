"""Swap space: where anonymous and shared pages go, and who is charged meanwhile [mm/swapfile.c, mm/swap_state.c].

A page that is out is uncharged from memory and charged to the swap counter of its group, until its owner gives it back:
nothing here touches a page again, so none comes in. Pages go in the order in which their owners came.

Not emulated: the swap cache, zswap, clusters, several areas, pages that were used since (Linux passes them over once).
"""

from typing import Final, Protocol, final

from bpfleet.kernel.mm.memcg import Memcg, Stat, SwapEvent
from bpfleet.kernel.mm.memory import Account, Memory


@final
class SwapEntries:
    """The pages of one owner that are out: by the account they came from, and by who is charged for them."""

    __slots__ = ("lines", "pages")

    def __init__(self) -> None:
        self.lines: Final[dict[Account, dict[Memcg, int]]] = {}
        self.pages = 0

    def of(self, account: Account) -> int:
        """Pages that came from ``account``."""
        return sum(self.lines.get(account, {}).values())

    def add(self, account: Account, payer: Memcg, pages: int) -> None:
        """``pages`` of ``account`` went out at the cost of ``payer``."""
        line = self.lines.setdefault(account, {})
        line[payer] = line.get(payer, 0) + pages
        self.pages += pages

    def take(self, account: Account, pages: int) -> list[tuple[Memcg, int]]:
        """Removes up to ``pages`` of ``account``, the latest first. Returns whom to uncharge, and how many."""
        line = self.lines.get(account, {})
        taken: list[tuple[Memcg, int]] = []
        while pages and line:
            payer, held = line.popitem()
            step = min(pages, held)
            if step < held:
                line[payer] = held - step
            taken.append((payer, step))
            self.pages -= step
            pages -= step
        if not line:
            self.lines.pop(account, None)
        return taken


class Swappable(Protocol):
    """An owner of pages that can go out: an address space, or a file of tmpfs."""

    @property
    def swapped(self) -> SwapEntries:
        """Its pages that are out."""

    def went_out(self, account: Account, pages: int) -> None:
        """So many pages of ``account`` are no longer resident."""


@final
class SwapSpace:
    """The swap of one node and the pages that could go there, by memcg. Quantities are pages.

    Invariant *swap conservation*: what is used = the entries of all owners; a memcg's swap counter = the entries
    charged to it and to those below.
    """

    def __init__(self, memory: Memory, total_pages: int) -> None:
        self._memory: Final = memory
        self.total_pages: Final = total_pages
        self.used_pages = 0
        # Inactive lists, the oldest owner first. A dictionary serves as an ordered set.
        self._lists: Final[dict[Memcg, dict[Account, Swappable]]] = {}
        self._entries: Final[dict[Memcg, int]] = {}  # by who is charged; they keep a removed memcg

    @property
    def free_pages(self) -> int:
        """Room for further pages."""
        return self.total_pages - self.used_pages

    @property
    def is_idle(self) -> bool:
        """Whether nothing can go out, for want of pages or of room."""
        return not self._lists or not self.free_pages

    # -- resident pages that could go ------------------------------------------------------------------------------

    def add(self, account: Account, owner: Swappable) -> None:
        """``account`` got pages: they can go out from now on."""
        self._lists.setdefault(self._memcg(account), {}).setdefault(account, owner)

    def forget(self, account: Account) -> None:
        """No page of ``account`` is resident any more."""
        memcg = self._memcg(account)
        accounts = self._lists.get(memcg, {})
        accounts.pop(account, None)
        if not accounts:
            self._lists.pop(memcg, None)

    def _memcg(self, account: Account) -> Memcg:
        return self._memory.controller.root if account.objcg is None else account.objcg.memcg

    def resident_pages(self, memcg: Memcg) -> int:
        """Pages of ``memcg`` itself that could go out if there is room."""
        return sum(account.count for account in self._lists.get(memcg, ()))

    def room(self, memcg: Memcg) -> int:
        """Pages of ``memcg`` that space and limits still admit [mem_cgroup_get_nr_swap_pages]."""
        return min(self.free_pages, memcg.swap.headroom())

    # -- out, and gone ---------------------------------------------------------------------------------------------

    def swap_out(self, memcg: Memcg, pages: int) -> int:
        """Writes up to ``pages`` of ``memcg`` itself out. Returns how many.

        Each page that finds no room counts as failed, and where a memory.swap.max refused it as that
        [mem_cgroup_try_charge_swap].
        """
        payer = self._payer(memcg)
        wanted = min(pages, self.resident_pages(memcg))
        fit = min(wanted, self.room(payer))
        if fit < wanted:
            if fit < self.free_pages:
                payer.raise_swap_event(SwapEvent.MAX, wanted - fit)
                payer.swap.failcnt += wanted - fit
            payer.raise_swap_event(SwapEvent.FAIL, wanted - fit)
        left = fit
        for account, owner in list(self._lists.get(memcg, {}).items()):
            if not left:
                break
            step = min(left, account.count)
            self._write(account, owner, payer, step)
            left -= step
        memcg.add_stat(Stat.PSWPOUT, fit)
        return fit

    def _write(self, account: Account, owner: Swappable, payer: Memcg, pages: int) -> None:
        self._charge(payer, pages)
        owner.swapped.add(account, payer, pages)
        self._memory.give(account, self._memory.page_size(account.kind), 0, pages)
        owner.went_out(account, pages)
        if not account.count:
            self.forget(account)

    def discard(self, owner: Swappable, account: Account, pages: int) -> int:
        """The owner gives up to ``pages`` back that are out. Returns how many."""
        freed = 0
        for payer, step in owner.swapped.take(account, pages):
            self._uncharge(payer, step)
            freed += step
        return freed

    # -- charging --------------------------------------------------------------------------------------------------

    def _payer(self, memcg: Memcg) -> Memcg:
        """Who is charged for a page of ``memcg``: a removed one only if it has entries [mem_cgroup_id_get_online]."""
        while not memcg.online and memcg not in self._entries and memcg.parent is not None:
            memcg = memcg.parent
        return memcg

    def _charge(self, payer: Memcg, pages: int) -> None:
        self.used_pages += pages
        payer.add_stat(Stat.SWAP_PAGES, pages)
        if payer not in self._entries:
            payer.pins += 1
        self._entries[payer] = self._entries.get(payer, 0) + pages
        if payer.parent is not None:
            blocked = payer.swap.try_charge(pages)
            assert blocked is None, payer.path

    def _uncharge(self, payer: Memcg, pages: int) -> None:
        self.used_pages -= pages
        payer.add_stat(Stat.SWAP_PAGES, -pages)
        if payer.parent is not None:
            payer.swap.uncharge(pages)
        self._entries[payer] -= pages
        if self._entries[payer]:
            return
        del self._entries[payer]
        payer.pins -= 1
        if not payer.online:
            self._memory.controller.release_if_unused(payer)
