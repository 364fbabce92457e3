"""Physical memory of one node: what is taken, and what happens when nothing is left [mm/page_alloc.c]."""

from collections.abc import Callable
from typing import Final, final


@final
class NodeMemory:
    """RAM of a node in bytes. Every allocation, charged to a memcg or not, takes from it.

    ``reclaim(bytes)`` returns bytes freed node-wide; ``oom(order)`` returns True when a task was killed. Both are wired
    in by the kernel.
    """

    __slots__ = ("oom", "ram_bytes", "reclaim", "used_bytes")

    def __init__(self, ram_bytes: int) -> None:
        self.ram_bytes: Final = ram_bytes
        self.used_bytes = 0
        self.reclaim: Callable[[int], int] = lambda wanted: 0
        self.oom: Callable[[int], bool] = lambda order: False

    @property
    def free_bytes(self) -> int:
        """RAM nobody holds."""
        return self.ram_bytes - self.used_bytes

    def take(self, size_bytes: int, *, may_reclaim: bool, may_kill: bool) -> bool:
        """Takes ``size_bytes``; False when they cannot be had even after what the flags allow."""
        while self.used_bytes + size_bytes > self.ram_bytes:
            if may_reclaim and self.reclaim(self.used_bytes + size_bytes - self.ram_bytes):
                continue
            if may_kill and self.oom(0):
                continue
            return False
        self.used_bytes += size_bytes
        return True

    def give(self, size_bytes: int) -> None:
        """Returns ``size_bytes``."""
        assert self.used_bytes >= size_bytes, (self.used_bytes, size_bytes)
        self.used_bytes -= size_bytes
