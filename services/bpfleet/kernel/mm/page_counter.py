"""Hierarchical page counter [mm/page_counter.c]."""

from typing import Final, final

PAGE_COUNTER_MAX: Final = ((1 << 63) - 1) // 4096


@final
class PageCounter:
    """Counts pages of one cgroup and, through ``parent``, of all its ancestors. All quantities are pages.

    Invariant *hierarchy*: a counter's usage is never below the sum of its children's.
    Invariant *limit*: usage <= max, except after a forced charge or a lowered limit.
    """

    __slots__ = (
        "exceeded_by_rule",
        "failcnt",
        "high",
        "low",
        "max",
        "min",
        "parent",
        "usage",
        "watermark",
    )

    def __init__(self, parent: "PageCounter | None" = None) -> None:
        self.parent: PageCounter | None = parent
        self.usage = 0
        self.min = 0
        self.low = 0
        self.high = PAGE_COUNTER_MAX
        self.max = PAGE_COUNTER_MAX
        self.watermark = 0
        self.failcnt = 0  # how often its max refused a charge
        self.exceeded_by_rule = False  # a forced charge or a lowered limit put usage above max

    def try_charge(self, pages: int) -> "PageCounter | None":
        """Adds ``pages`` here and above, or nowhere. Returns the first counter whose max would be exceeded."""
        counter: PageCounter | None = self
        while counter is not None:
            new = counter.usage + pages
            if new > counter.max:
                counter.failcnt += 1
                undo: PageCounter | None = self
                while undo is not counter and undo is not None:
                    undo.usage -= pages
                    undo = undo.parent
                return counter
            counter.usage = new
            if new > counter.watermark:
                counter.watermark = new
            counter = counter.parent
        return None

    def charge(self, pages: int) -> None:
        """Adds ``pages`` here and above without looking at any limit."""
        counter: PageCounter | None = self
        while counter is not None:
            counter.usage += pages
            if counter.usage > counter.watermark:
                counter.watermark = counter.usage
            if counter.usage > counter.max:
                counter.exceeded_by_rule = True
            counter = counter.parent

    def uncharge(self, pages: int) -> None:
        """Takes ``pages`` off here and above."""
        counter: PageCounter | None = self
        while counter is not None:
            assert counter.usage >= pages, (counter.usage, pages)
            counter.usage -= pages
            counter = counter.parent

    def headroom(self) -> int:
        """Pages that can still be charged here and above: the smallest margin on the way up."""
        room = PAGE_COUNTER_MAX
        counter: PageCounter | None = self
        while counter is not None:
            room = min(room, counter.max - counter.usage)
            counter = counter.parent
        return max(0, room)

    def margin(self) -> int:
        """Pages that can still be charged here: max - usage, at least 0 [mem_cgroup_margin]."""
        return max(0, self.max - self.usage)
