"""splitmix64: the only source of chance in the kernel, the same on every platform and Python."""

_MASK = (1 << 64) - 1


def splitmix64(seed: int, number: int) -> int:
    """The ``number``-th of the 64-bit values that ``seed`` leads to."""
    value = (seed + number * 0x9E3779B97F4A7C15) & _MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31
