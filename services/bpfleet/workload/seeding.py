"""Streams of chance, and seeds for the parts of a run."""

from typing import Final, final

from bpfleet.chance import GOLDEN, splitmix64

__all__ = ["SplitMix64", "seed_for"]

_MASK: Final = (1 << 64) - 1
_FNV_OFFSET: Final = 0xCBF29CE484222325
_FNV_PRIME: Final = 0x100000001B3


@final
class SplitMix64:
    """The values of a seed, one after the other.

    >>> generator = SplitMix64(0)
    >>> hex(generator.next()), hex(generator.next())
    ('0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4')
    """

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def next(self) -> int:
        """The next 64 bits."""
        self._state = (self._state + GOLDEN) & _MASK
        return splitmix64(self._state, 0)

    def below(self, bound: int) -> int:
        """A number from 0 to ``bound`` - 1 (multiply-shift: the bias is below ``bound`` / 2**64)."""
        return self.next() * bound >> 64


def seed_for(seed: int, *names: str | int) -> int:
    """A seed for one part of a run: it depends on ``seed`` and the names, on nothing else.

    >>> seed_for(1, "node-0001", "cilium") == seed_for(1, "node-0001", "cilium")
    True
    >>> seed_for(1, "ab", "c") == seed_for(1, "a", "bc")
    False
    """
    state = seed & _MASK
    for name in names:
        state = splitmix64((state + GOLDEN) ^ _fnv1a(str(name).encode()), 0)
    return state


def _fnv1a(data: bytes) -> int:
    value = _FNV_OFFSET
    for byte in data:
        value = (value ^ byte) * _FNV_PRIME & _MASK
    return value
