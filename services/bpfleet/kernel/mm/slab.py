"""kmalloc sizes and what one object costs its objcg [mm/slab_common.c, mm/slub.c, mm/slab.h]."""

from bisect import bisect_left
from typing import Final

from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.units import pages_for, roundup_pow_of_two

KMALLOC_CLASSES: Final = (8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192)
KMALLOC_LARGEST_CLASS: Final = 8192
OBJCG_POINTER_BYTES: Final = 8


def kmalloc_bytes(size_bytes: int) -> int:
    """Bytes an object of ``size_bytes`` really takes: its class, or a power of two of pages above 8 KiB.

    >>> kmalloc_bytes(72), kmalloc_bytes(8192), kmalloc_bytes(8193)
    (96, 8192, 16384)
    """
    if size_bytes <= KMALLOC_LARGEST_CLASS:
        return KMALLOC_CLASSES[bisect_left(KMALLOC_CLASSES, size_bytes)]
    return PAGE_SIZE * roundup_pow_of_two(pages_for(size_bytes))


def kmalloc_charge_bytes(size_bytes: int) -> int:
    """Bytes charged for it: the class and one objcg pointer (obj_full_size), or whole pages above 8 KiB.

    >>> kmalloc_charge_bytes(72), kmalloc_charge_bytes(16400)
    (104, 32768)
    """
    taken = kmalloc_bytes(size_bytes)
    return taken + OBJCG_POINTER_BYTES if size_bytes <= KMALLOC_LARGEST_CLASS else taken
