"""Bytes and pages: the only place where one becomes the other, with the rounding in the name.

Counters count pages of 4 KiB whatever the kernel: where its pages are larger, they move by several at once
(``page_units`` of the profile).
"""

from typing import Final

from bpfleet.abi.limits import PAGE_SIZE

PAGE_SHIFT: Final = 12


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is >= ``value``."""
    return (value + multiple - 1) // multiple * multiple


def round_down(value: int, multiple: int) -> int:
    """The largest multiple of ``multiple`` that is <= ``value``."""
    return value // multiple * multiple


def round_up_8(value: int) -> int:
    """``round_up(value, 8)``, the kernel's alignment of keys and values."""
    return (value + 7) & ~7


def roundup_pow_of_two(value: int) -> int:
    """The smallest power of two >= ``value``; 1 for 0 and 1 [include/linux/log2.h]."""
    return 1 << (value - 1).bit_length() if value > 1 else 1


def pages_for(size_bytes: int) -> int:
    """Whole pages that hold ``size_bytes``, rounded up."""
    return (size_bytes + PAGE_SIZE - 1) >> PAGE_SHIFT


def whole_pages(size_bytes: int) -> int:
    """Whole pages within ``size_bytes``, rounded down."""
    return size_bytes >> PAGE_SHIFT


def bytes_of(pages: int) -> int:
    """Bytes in ``pages`` whole pages."""
    return pages << PAGE_SHIFT
