"""Pressure stall information of memory [kernel/sched/psi.c, include/linux/psi_types.h]."""

from typing import Final

from bpfleet.kernel.mm.memcg import Memcg

WINDOWS_S: Final = (10, 60, 300)
NS_PER_S: Final = 1_000_000_000
NS_PER_US: Final = 1_000


def pressure_text(memcg: Memcg, now_ns: int) -> str:
    """Both lines. Averages are shares of the window just past; a lone waiting task stalls "some" and "full" alike.

    Linux decays its averages exponentially and once in 2 s; here the share is exact at the moment of reading.
    """
    line = " ".join(
        [f"avg{window}={_share(memcg, now_ns, window):.2f}" for window in WINDOWS_S]
        + [f"total={memcg.stall_ns // NS_PER_US}"]
    )
    return f"some {line}\nfull {line}\n"


def _share(memcg: Memcg, now_ns: int, window_s: int) -> float:
    """Percent of the last ``window_s`` seconds in which a task waited for memory."""
    window_ns = window_s * NS_PER_S
    since = now_ns - window_ns
    waited = sum(
        min(end, now_ns) - max(start, since) for start, end in memcg.stalls or () if end > since
    )
    return 100 * waited / window_ns
