"""Bob Jenkins' lookup3 as the kernel uses it for hash buckets [include/linux/jhash.h].

Rotations are written out: this runs once per key of a walked map, and a call per rotation would double its cost.
"""

from typing import Final

JHASH_INITVAL: Final = 0xDEADBEEF
_MASK: Final = 0xFFFFFFFF
_BLOCK_BYTES: Final = 12


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
