"""splitmix64: the only source of chance in kernel and workloads, the same on every platform and Python.

Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
"""

from typing import Final

__all__ = ["GOLDEN", "splitmix64"]

GOLDEN: Final = 0x9E3779B97F4A7C15
_MASK: Final = (1 << 64) - 1


def splitmix64(seed: int, number: int) -> int:
    """The ``number``-th of the 64-bit values that ``seed`` leads to; number 0 is the seed, mixed.

    >>> hex(splitmix64(0, 1)), hex(splitmix64(0, 2))
    ('0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4')
    """
    value = (seed + number * GOLDEN) & _MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31
