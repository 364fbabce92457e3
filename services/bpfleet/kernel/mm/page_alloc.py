"""Physical memory of one node: what is taken, and what happens when nothing is left [mm/page_alloc.c]."""

from collections.abc import Callable
from typing import Final, final

from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.current import Current


@final
class NodeMemory:
    """RAM of a node in bytes. Every allocation, charged to a memcg or not, takes from it.

    ``reclaim(bytes)`` returns bytes freed node-wide; ``oom(gfp, current)`` returns True when a task was killed. Both
    are wired in by the kernel.
    """

    __slots__ = ("oom", "ram_bytes", "reclaim", "taken_bytes_total", "used_bytes")

    reclaim: Callable[[int], int]
    oom: Callable[[int, Current], bool]

    def __init__(self, ram_bytes: int) -> None:
        self.ram_bytes: Final = ram_bytes
        self.used_bytes = 0
        self.taken_bytes_total = 0  # ever: allocating takes time

    @property
    def free_bytes(self) -> int:
        """RAM nobody holds."""
        return self.ram_bytes - self.used_bytes

    @property
    def free_pages(self) -> int:
        """Whole free pages."""
        return self.free_bytes // PAGE_SIZE

    def take(self, size_bytes: int, gfp: int, current: Current) -> bool:
        """Takes ``size_bytes``; False when they are not free even after what the flags allow.

        Blocking requests reclaim; those that may not fail quietly invoke the OOM killer until they fit, nobody is left,
        or the caller itself has been killed [__alloc_pages_slowpath, __alloc_pages_may_oom].
        """
        if self.used_bytes + size_bytes > self.ram_bytes and not self._make_room(
            size_bytes, gfp, current
        ):
            return False
        self.used_bytes += size_bytes
        self.taken_bytes_total += size_bytes
        return True

    def _make_room(self, size_bytes: int, gfp: int, current: Current) -> bool:
        may_block = bool(gfp & GFP.DIRECT_RECLAIM)
        may_kill = may_block and not gfp & (GFP.NORETRY | GFP.RETRY_MAYFAIL)
        while (missing := self.used_bytes + size_bytes - self.ram_bytes) > 0:
            if may_block and self.reclaim(missing):
                continue
            if not may_kill or current.dying or not self.oom(gfp, current):
                return False
        return True

    def give(self, size_bytes: int) -> None:
        """Returns ``size_bytes``."""
        assert self.used_bytes >= size_bytes, (self.used_bytes, size_bytes)
        self.used_bytes -= size_bytes
