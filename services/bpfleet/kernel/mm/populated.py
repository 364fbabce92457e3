"""Per-CPU pages that lie ready for those who cannot wait [mm/percpu.c].

An area for every CPU is address space first; its pages are populated when somebody who may sleep asks, or by a work
item that keeps two to four empty ones. Who may not sleep gets populated pages or nothing, with memory to spare. How
much lies ready after booting depends on the build and on what has used per-CPU memory before: a profile says how much,
and 0 that there is always enough. Bytes are those of one CPU.
"""

from typing import Final, final

from bpfleet.abi.limits import PAGE_SIZE

LOW_PAGES: Final = 2  # PCPU_EMPTY_POP_PAGES_LOW
HIGH_PAGES: Final = 4  # PCPU_EMPTY_POP_PAGES_HIGH


@final
class PopulatedPages:
    """What lies ready on a node."""

    __slots__ = ("is_scarce", "ready_bytes")

    def __init__(self, ready_bytes: int) -> None:
        self.is_scarce: Final = ready_bytes > 0
        self.ready_bytes = ready_bytes

    def take(self, size_bytes: int) -> bool:
        """Takes an area without sleeping; False where none lies ready."""
        if not self.is_scarce:
            return True
        if size_bytes > self.ready_bytes:
            return False
        self.ready_bytes -= size_bytes
        return True

    def give(self, size_bytes: int) -> None:
        """An area is free again; its pages stay."""
        if self.is_scarce:
            self.ready_bytes += size_bytes

    @property
    def is_low(self) -> bool:
        """Whether the work item is to run [pcpu_schedule_balance_work]."""
        return self.is_scarce and self.ready_bytes < LOW_PAGES * PAGE_SIZE

    def populate(self) -> None:
        """The work item: four empty pages again."""
        self.ready_bytes = max(self.ready_bytes, HIGH_PAGES * PAGE_SIZE)
