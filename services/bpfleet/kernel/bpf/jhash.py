"""Bob Jenkins' lookup3 as the kernel uses it for hash buckets [include/linux/jhash.h].

Rotations are written out: this runs once per key of a walked map, and a call per rotation would double its cost.
"""

from array import array
from collections.abc import Sequence
from typing import Final

JHASH_INITVAL: Final = 0xDEADBEEF
_MASK: Final = 0xFFFFFFFF
_BLOCK_BYTES: Final = 12
_LANE_BYTES: Final = 8
# Fewer keys than this are hashed one by one: setting the lanes up costs more than they save.
_MANY: Final = 8


def jhash(key: bytes, seed: int) -> int:
    """The 32-bit hash of ``key``; for whole words the same as jhash2.

    >>> hex(jhash(b"", 0)), hex(jhash(bytes(4), 0))
    ('0xdeadbeef', '0x49396b8')
    """
    length = len(key)
    a = b = c = (JHASH_INITVAL + length + seed) & _MASK
    offset = 0
    while length - offset > _BLOCK_BYTES:
        block = int.from_bytes(key[offset : offset + _BLOCK_BYTES], "little")
        a = a + block & _MASK
        b = b + (block >> 32) & _MASK
        c = c + (block >> 64) & _MASK
        a, b, c = _mix(a, b, c)
        offset += _BLOCK_BYTES
    if not length:
        return c
    block = int.from_bytes(key[offset:], "little")
    a = a + block & _MASK
    b = b + (block >> 32) & _MASK
    c = c + (block >> 64) & _MASK
    # __jhash_final
    c = (c ^ b) - (b << 14 | b >> 18) & _MASK
    a = (a ^ c) - (c << 11 | c >> 21) & _MASK
    b = (b ^ a) - (a << 25 | a >> 7) & _MASK
    c = (c ^ b) - (b << 16 | b >> 16) & _MASK
    a = (a ^ c) - (c << 4 | c >> 28) & _MASK
    b = (b ^ a) - (a << 14 | a >> 18) & _MASK
    return (c ^ b) - (b << 24 | b >> 8) & _MASK


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    """__jhash_mix."""
    a = (a - c & _MASK) ^ (c << 4 & _MASK | c >> 28)
    c = c + b & _MASK
    b = (b - a & _MASK) ^ (a << 6 & _MASK | a >> 26)
    a = a + c & _MASK
    c = (c - b & _MASK) ^ (b << 8 & _MASK | b >> 24)
    b = b + a & _MASK
    a = (a - c & _MASK) ^ (c << 16 & _MASK | c >> 16)
    c = c + b & _MASK
    b = (b - a & _MASK) ^ (a << 19 & _MASK | a >> 13)
    a = a + c & _MASK
    c = (c - b & _MASK) ^ (b << 4 & _MASK | b >> 28)
    b = b + a & _MASK
    return a, b, c


def jhash_many(keys: Sequence[bytes], seed: int) -> Sequence[int]:
    """``jhash`` of keys of one length, all at once: each key has a 64-bit lane of very long integers.

    A word uses the lower half of its lane. What an addition, a borrow or a shift carries into the upper half, or from
    there into the lane below, is masked away.

    >>> list(jhash_many([b"abcd" * 4, bytes(16)] * 5, 7)) == [jhash(b"abcd" * 4, 7), jhash(bytes(16), 7)] * 5
    True
    """
    count, length = len(keys), len(keys[0]) if keys else 0
    if count < _MANY or not length:
        return [jhash(key, seed) for key in keys]
    lanes = _Lanes(count)
    start = lanes.ones * ((JHASH_INITVAL + length + seed) & _MASK)
    a = b = c = start
    blocks = (length + _BLOCK_BYTES - 1) // _BLOCK_BYTES
    width = blocks * _BLOCK_BYTES
    words = array("I", b"".join([key.ljust(width, b"\0") for key in keys]))
    add, subtract, rotate = lanes.add, lanes.subtract, lanes.rotate
    for first in range(0, 3 * blocks, 3):
        if first:
            a, b, c = _mix_lanes(lanes, a, b, c)
        a = add(a, lanes.pack(words[first :: 3 * blocks]))
        b = add(b, lanes.pack(words[first + 1 :: 3 * blocks]))
        c = add(c, lanes.pack(words[first + 2 :: 3 * blocks]))
    # __jhash_final
    c = subtract(c ^ b, rotate(b, 14))
    a = subtract(a ^ c, rotate(c, 11))
    b = subtract(b ^ a, rotate(a, 25))
    c = subtract(c ^ b, rotate(b, 16))
    a = subtract(a ^ c, rotate(c, 4))
    b = subtract(b ^ a, rotate(a, 14))
    return lanes.unpack(subtract(c ^ b, rotate(b, 24)))


class _Lanes:
    """Arithmetic modulo 2^32 on ``count`` words at once."""

    __slots__ = ("_bytes", "_carry", "_low", "ones")

    def __init__(self, count: int) -> None:
        self._bytes: Final = _LANE_BYTES * count
        self.ones: Final = int.from_bytes((b"\1" + bytes(_LANE_BYTES - 1)) * count, "little")
        self._low: Final = self.ones * _MASK
        self._carry: Final = self.ones << 32

    def pack(self, words: "array[int]") -> int:
        """One word into each lane."""
        return int.from_bytes(array("Q", words).tobytes(), "little")

    def unpack(self, packed: int) -> "array[int]":
        """The word of each lane."""
        return array("Q", packed.to_bytes(self._bytes, "little"))

    def add(self, left: int, right: int) -> int:
        """left + right."""
        return left + right & self._low

    def subtract(self, left: int, right: int) -> int:
        """left - right, with a bit set beforehand for each lane to borrow."""
        return (left | self._carry) - right & self._low

    def rotate(self, words: int, bits: int) -> int:
        """rol32."""
        return (words << bits | words >> 32 - bits) & self._low


def _mix_lanes(lanes: _Lanes, a: int, b: int, c: int) -> tuple[int, int, int]:
    """`_mix` of every lane."""
    add, subtract, rotate = lanes.add, lanes.subtract, lanes.rotate
    a = subtract(a, c) ^ rotate(c, 4)
    c = add(c, b)
    b = subtract(b, a) ^ rotate(a, 6)
    a = add(a, c)
    c = subtract(c, b) ^ rotate(b, 8)
    b = add(b, a)
    a = subtract(a, c) ^ rotate(c, 16)
    c = add(c, b)
    b = subtract(b, a) ^ rotate(a, 19)
    a = add(a, c)
    c = subtract(c, b) ^ rotate(b, 4)
    b = add(b, a)
    return a, b, c
