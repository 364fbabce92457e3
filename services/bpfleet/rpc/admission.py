"""How many calls a server carries at a time, of which kind and from whom. More are refused, and told when to come.

Health streams and watches idle for hours; they have budgets of their own, so that they never take the calls of others.
A peer is an address without its port: all that one host sends.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, final

import grpc

from bpfleet.fleet.reasons import ControlReason
from bpfleet.rpc.errors import ApiError

__all__ = ["Admission", "Budget", "Kind"]

RETRY_AFTER_MS: Final = 1_000
_HEALTH: Final = "/grpc.health.v1.Health/"
_STREAMS: Final = ("/Watch", "/ServerReflectionInfo")


class Kind(StrEnum):
    """Calls that share a budget."""

    CALL = "call"
    WATCH = "watch"
    HEALTH = "health"
    HEALTH_WATCH = "health watch"


@dataclass(frozen=True, slots=True)
class Budget:
    """Calls at a time: in all, and from one peer."""

    all: int
    per_peer: int


_BUDGETS: Final = {
    Kind.CALL: Budget(4096, 3072),
    Kind.WATCH: Budget(1024, 256),
    Kind.HEALTH: Budget(512, 128),
    Kind.HEALTH_WATCH: Budget(128, 16),
}


@final
class Admission:
    """Counts the calls of one server."""

    def __init__(self, budgets: dict[Kind, Budget] | None = None) -> None:
        self._budgets: Final = _BUDGETS if budgets is None else _BUDGETS | budgets
        self._open: Final[Counter[Kind]] = Counter()
        self._by_peer: Final[Counter[tuple[Kind, str]]] = Counter()

    @contextmanager
    def enter(self, method: str, peer: str) -> Iterator[None]:
        """One call. Raises ``ApiError`` (UNAVAILABLE, OVERLOADED) where there are as many as the server carries."""
        kind, host = kind_of(method), peer.rpartition(":")[0]
        budget = self._budgets[kind]
        if self._open[kind] >= budget.all or self._by_peer[kind, host] >= budget.per_peer:
            raise ApiError(
                grpc.StatusCode.UNAVAILABLE,
                ControlReason.OVERLOADED,
                f"as many calls of the kind '{kind}' are open as the server carries"
                f" ({budget.all}, {budget.per_peer} of one peer); try again later",
                retryAfterMs=RETRY_AFTER_MS,
            )
        self._open[kind] += 1
        self._by_peer[kind, host] += 1
        try:
            yield
        finally:
            self._open[kind] -= 1
            self._by_peer[kind, host] -= 1
            if not self._by_peer[kind, host]:
                del self._by_peer[kind, host]


def kind_of(method: str) -> Kind:
    """Which budget a call comes out of."""
    if method.startswith(_HEALTH):
        return Kind.HEALTH_WATCH if method.endswith("/Watch") else Kind.HEALTH
    return Kind.WATCH if any(word in method for word in _STREAMS) else Kind.CALL
