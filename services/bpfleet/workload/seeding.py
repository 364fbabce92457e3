"""splitmix64: the only source of chance in this package, the same on every platform and Python."""

from typing import Final

__all__ = ["SplitMix64", "seed_for"]

_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
_FNV_OFFSET: Final = 0xCBF29CE484222325
_FNV_PRIME: Final = 0x100000001B3


class SplitMix64:
    """Steele, Lea and Flood's generator ("Fast Splittable Pseudorandom Number Generators", 2014).

    >>> generator = SplitMix64(0)
    >>> hex(generator.next()), hex(generator.next())
    ('0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4')
    """

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def next(self) -> int:
        """The next 64 bits."""
        self._state = (self._state + _GOLDEN) & _MASK
        return _mix(self._state)

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
        state = _mix((state + _GOLDEN) ^ _fnv1a(str(name).encode()))
    return state


def _fnv1a(data: bytes) -> int:
    value = _FNV_OFFSET
    for byte in data:
        value = (value ^ byte) * _FNV_PRIME & _MASK
    return value


def _mix(value: int) -> int:
    value &= _MASK
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)
