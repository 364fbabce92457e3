"""Failures made on purpose: the nth allocation of a kind, or a share of them by the node's seed [mm/failslab.c]."""

from typing import Final, final

from bpfleet.chance import splitmix64

CHARGE: Final = "charge"


@final
class InjectedFaults:
    """What is going to fail; false while nothing is. Kinds are those of `AllocKind`, or ``charge``."""

    __slots__ = ("_asked", "_left", "_one_in", "_seed")

    def __init__(self, seed: int = 0) -> None:
        self._seed: Final = seed
        self._left: Final[dict[int | str, int]] = {}
        self._one_in = 0
        self._asked = 0

    def __bool__(self) -> bool:
        return bool(self._left or self._one_in)

    def fail_nth(self, kind: int | str, nth: int) -> None:
        """The ``nth`` allocation of ``kind`` from now on fails, once (1: the next). ``charge``: of those charged."""
        self._left[kind] = nth

    def fail_one_in(self, mean: int) -> None:
        """From now on about one in ``mean`` allocations of any kind fails, the same ones for the same seed."""
        self._one_in = mean
        self._asked = 0

    def clear(self) -> None:
        """Takes back what has not struck yet."""
        self._left.clear()
        self._one_in = 0

    def strikes(self, kind: int, *, charged: bool) -> bool:
        """Whether this allocation fails. To be asked once for each."""
        hit = self._is_due(kind)
        if charged and self._is_due(CHARGE):
            hit = True
        if self._one_in:
            self._asked += 1
            hit = hit or splitmix64(self._seed, self._asked) % self._one_in == 0
        return hit

    def _is_due(self, kind: int | str) -> bool:
        left = self._left.get(kind)
        if left is None:
            return False
        if left > 1:
            self._left[kind] = left - 1
            return False
        del self._left[kind]
        return True
