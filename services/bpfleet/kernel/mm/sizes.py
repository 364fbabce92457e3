"""What an object takes and is charged, by allocator [mm/slab_common.c, mm/slab.h, mm/percpu.c, mm/vmalloc.c]."""

from bisect import bisect_left
from typing import Final

from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.units import pages_for, round_up, roundup_pow_of_two

KMALLOC_CLASSES: Final = (8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192)
KMALLOC_LARGEST_CLASS: Final = 8192
PCPU_MIN_ALLOC_SIZE: Final = 4
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


def percpu_bytes(size_bytes: int, possible_cpus: int) -> int:
    """Bytes one per-CPU object takes over all possible CPUs."""
    return round_up(size_bytes, PCPU_MIN_ALLOC_SIZE) * possible_cpus


def percpu_charge_bytes(size_bytes: int, possible_cpus: int, *, objcg_vector: bool) -> int:
    """Bytes charged for it; ``objcg_vector`` (5.17 and later) adds the chunk's objcg pointers, 8 B per 4 B unit.

    >>> percpu_charge_bytes(6, 2, objcg_vector=False), percpu_charge_bytes(6, 2, objcg_vector=True)
    (16, 32)
    """
    aligned = round_up(size_bytes, PCPU_MIN_ALLOC_SIZE)
    vector = aligned // PCPU_MIN_ALLOC_SIZE * OBJCG_POINTER_BYTES if objcg_vector else 0
    return aligned * possible_cpus + vector


def vmalloc_bytes(size_bytes: int) -> int:
    """Bytes an area of ``size_bytes`` takes and is charged; the guard page and bookkeeping are neither."""
    return round_up(size_bytes, PAGE_SIZE)
