"""Bob Jenkins' lookup3 as the kernel uses it for hash buckets [include/linux/jhash.h]."""

import struct
from typing import Final

JHASH_INITVAL: Final = 0xDEADBEEF
_MASK: Final = 0xFFFFFFFF


def jhash(key: bytes, seed: int) -> int:
    """The 32-bit hash of ``key``; for whole words the same as jhash2.

    >>> hex(jhash(b"", 0)), hex(jhash(bytes(4), 0))
    ('0xdeadbeef', '0x49396b8')
    """
    length = len(key)
    a = b = c = (JHASH_INITVAL + length + seed) & _MASK
    offset = 0
    while length - offset > 12:
        x, y, z = struct.unpack_from("<III", key, offset)
        a, b, c = _mix((a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK)
        offset += 12
    tail = key[offset:]
    if not tail:
        return c
    x, y, z = struct.unpack("<III", tail.ljust(12, b"\0"))
    return _final((a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK)


def _rol(value: int, shift: int) -> int:
    return (value << shift | value >> (32 - shift)) & _MASK


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    a = (a - c & _MASK) ^ _rol(c, 4)
    c = c + b & _MASK
    b = (b - a & _MASK) ^ _rol(a, 6)
    a = a + c & _MASK
    c = (c - b & _MASK) ^ _rol(b, 8)
    b = b + a & _MASK
    a = (a - c & _MASK) ^ _rol(c, 16)
    c = c + b & _MASK
    b = (b - a & _MASK) ^ _rol(a, 19)
    a = a + c & _MASK
    c = (c - b & _MASK) ^ _rol(b, 4)
    b = b + a & _MASK
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    c = (c ^ b) - _rol(b, 14) & _MASK
    a = (a ^ c) - _rol(c, 11) & _MASK
    b = (b ^ a) - _rol(a, 25) & _MASK
    c = (c ^ b) - _rol(b, 16) & _MASK
    a = (a ^ c) - _rol(c, 4) & _MASK
    b = (b ^ a) - _rol(a, 14) & _MASK
    return (c ^ b) - _rol(b, 24) & _MASK
