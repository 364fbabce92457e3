"""Two clocks of a coordinator. No jump of the wall clock moves either."""

from collections.abc import Callable
from time import CLOCK_BOOTTIME, clock_gettime_ns, time_ns
from typing import Final

__all__ = ["FleetClock", "monotonic_ms", "wall_clock_ms"]


def wall_clock_ms() -> int:
    """Milliseconds since the epoch."""
    return time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Milliseconds that have passed, those of a suspended machine too."""
    return clock_gettime_ns(CLOCK_BOOTTIME) // 1_000_000


class FleetClock:
    """The fleet's time, which records carry: set by the wall clock at the start of a term, then monotonic.

    It never goes back behind what an earlier leader has stored, so that its back-offs end when they should.
    """

    def __init__(self, monotonic: Callable[[], int], *, wall_ms: int, stored_ms: int) -> None:
        self._monotonic: Final = monotonic
        self._ahead_ms: Final = max(wall_ms, stored_ms) - monotonic()

    def now_ms(self) -> int:
        """Milliseconds since the epoch, as far as this term knows."""
        return self._monotonic() + self._ahead_ms
