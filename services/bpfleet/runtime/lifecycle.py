"""The life of a replica: every transition in one table, who restarts in another, and one back-off.

    PENDING ──PLACED──▶ ASSIGNED ──STARTED──▶ RUNNING
                         ▲    └──────┬─────────┘
                        DUE    FAILED, EXITED, VANISHED
                         │           ▼
                        BACK_OFF ◀───┴───▶ FAILED, SUCCEEDED        any but PENDING ──STOP──▶ STOPPING ──GONE──▶ STOPPED

``compare``'s supervisor, the coordinator and the agent all follow it. Whoever drives a life says what happened
(``News``) and asks ``after`` for the phase; no driver decides one by itself. Times are plain integers of any one unit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import RestartPolicy

__all__ = ["ALIVE", "ENDED", "HEARD", "BackOff", "News", "after", "restarts"]


class News(Enum):
    """What can happen to a replica."""

    # It was given a node.
    PLACED = auto()
    # All its objects exist and its process lives.
    STARTED = auto()
    # The kernel refused a call of the start, or killed the process.
    FAILED = auto()
    # Its process ended with status 0.
    EXITED = auto()
    # Its node no longer has it, through no fault of its own: the node booted anew.
    VANISHED = auto()
    # Its back-off is over.
    DUE = auto()
    # Somebody wants it stopped.
    STOP = auto()
    # It is gone from its node.
    GONE = auto()


# What follows where the restart policy does not ask for another attempt. What is not listed changes nothing: news
# that is late, repeated, or about somebody else's decision.
_AFTER: Final[Mapping[tuple[Phase, News], Phase]] = {
    (Phase.PENDING, News.PLACED): Phase.ASSIGNED,
    (Phase.PENDING, News.STOP): Phase.STOPPED,
    (Phase.ASSIGNED, News.STARTED): Phase.RUNNING,
    (Phase.ASSIGNED, News.FAILED): Phase.FAILED,
    (Phase.ASSIGNED, News.EXITED): Phase.SUCCEEDED,
    (Phase.ASSIGNED, News.GONE): Phase.FAILED,
    (Phase.ASSIGNED, News.STOP): Phase.STOPPING,
    (Phase.RUNNING, News.FAILED): Phase.FAILED,
    (Phase.RUNNING, News.EXITED): Phase.SUCCEEDED,
    (Phase.RUNNING, News.GONE): Phase.FAILED,
    (Phase.RUNNING, News.VANISHED): Phase.ASSIGNED,
    (Phase.RUNNING, News.STOP): Phase.STOPPING,
    (Phase.BACK_OFF, News.DUE): Phase.ASSIGNED,
    (Phase.BACK_OFF, News.STOP): Phase.STOPPING,
    (Phase.FAILED, News.STOP): Phase.STOPPING,
    (Phase.SUCCEEDED, News.STOP): Phase.STOPPING,
    (Phase.STOPPING, News.GONE): Phase.STOPPED,
}
# Which ends a policy answers with another attempt (Kubernetes' meaning of its words).
_RESTARTED: Final[Mapping[RestartPolicy, frozenset[Phase]]] = {
    RestartPolicy.ALWAYS: frozenset({Phase.FAILED, Phase.SUCCEEDED}),
    RestartPolicy.ON_FAILURE: frozenset({Phase.FAILED}),
    RestartPolicy.NEVER: frozenset(),
}
# What an agent's word for a replica's phase is news of; its other words are no news.
HEARD: Final[Mapping[Phase, News]] = {
    Phase.RUNNING: News.STARTED,
    Phase.FAILED: News.FAILED,
    Phase.SUCCEEDED: News.EXITED,
    Phase.STOPPED: News.GONE,
}
# Phases of an attempt that is under way.
ALIVE: Final = frozenset({Phase.ASSIGNED, Phase.RUNNING})
# Phases in which a replica stays on its node's list but holds nothing there.
ENDED: Final = frozenset({Phase.FAILED, Phase.SUCCEEDED})


def after(phase: Phase, news: News, policy: RestartPolicy = RestartPolicy.NEVER) -> Phase | None:
    """The phase that follows; None where the news changes nothing.

    Only who may start it again names a ``policy``: for an agent an attempt that ended has ended.

    >>> str(after(Phase.RUNNING, News.FAILED)), str(after(Phase.RUNNING, News.FAILED, RestartPolicy.ALWAYS))
    ('FAILED', 'BACK_OFF')
    >>> after(Phase.STOPPING, News.STARTED) is None
    True
    """
    following = _AFTER.get((phase, news))
    if following in ENDED and phase in ALIVE and restarts(policy, following):
        return Phase.BACK_OFF
    return following


def restarts(policy: RestartPolicy, end: Phase) -> bool:
    """Whether a replica under ``policy`` is started again when it ends as ``end`` (FAILED or SUCCEEDED)."""
    return end in _RESTARTED[policy]


@dataclass(frozen=True, slots=True)
class BackOff:
    """How long to wait before the next attempt: ``first``, doubled up to ``longest``, forgotten after a run of
    ``reset``. All in one unit of the caller's.

    >>> [BackOff(10, 300, 600).pause(failures) for failures in (1, 2, 3, 9)]
    [10, 20, 40, 300]
    """

    first: int
    longest: int
    reset: int

    def failures(self, before: int, ran: int) -> int:
        """Failures in a row, the one now included; ``ran`` is how long the attempt had been running."""
        return 1 if ran >= self.reset else before + 1

    def pause(self, failures: int) -> int:
        """The wait after so many failures in a row."""
        # Beyond 62 doublings a 64-bit count is full; any limit is reached long before.
        return min(self.first << min(failures - 1, 62), self.longest)
