"""What an object takes and is charged, by allocator [mm/slab_common.c, mm/slab.h, mm/percpu.c, mm/vmalloc.c]."""

from bisect import bisect_left
from functools import lru_cache
from typing import Final

from bpfleet.abi.limits import PAGE_SIZE, PCPU_MIN_UNIT_SIZE
from bpfleet.kernel.units import round_up, roundup_pow_of_two

PCPU_MIN_ALLOC_SIZE: Final = 4
OBJCG_POINTER_BYTES: Final = 8
_CLASSES_BELOW: Final = (8, 16, 32, 64, 96, 128, 192)
_PAGES_OF_LARGEST: Final = 2  # KMALLOC_SHIFT_HIGH


def largest_class_bytes(page_bytes: int = PAGE_SIZE) -> int:
    """The largest kmalloc cache; what is larger comes as whole pages."""
    return _PAGES_OF_LARGEST * page_bytes


@lru_cache
def kmalloc_classes(page_bytes: int = PAGE_SIZE, min_bytes: int = 8) -> tuple[int, ...]:
    """Sizes of the kmalloc caches. Below a least object of 128 bytes there is none of 96 and 192.

    >>> kmalloc_classes()[-3:], kmalloc_classes(65536)[-1], kmalloc_classes(4096, 128)[:3]
    ((2048, 4096, 8192), 131072, (128, 256, 512))
    """
    small = (each for each in _CLASSES_BELOW if each >= min_bytes and each % min_bytes == 0)
    larger, size = [], 256
    while size <= largest_class_bytes(page_bytes):
        larger.append(size)
        size *= 2
    return (*small, *larger)


def kmalloc_bytes(size_bytes: int, page_bytes: int = PAGE_SIZE, min_bytes: int = 8) -> int:
    """Bytes an object of ``size_bytes`` really takes: its class, or a power of two of pages above two pages.

    >>> kmalloc_bytes(72), kmalloc_bytes(8192), kmalloc_bytes(8193), kmalloc_bytes(8193, 65536)
    (96, 8192, 16384, 16384)
    """
    if size_bytes <= largest_class_bytes(page_bytes):
        classes = kmalloc_classes(page_bytes, min_bytes)
        return classes[bisect_left(classes, size_bytes)]
    return page_bytes * roundup_pow_of_two(-(-size_bytes // page_bytes))


def kmalloc_charge_bytes(size_bytes: int, page_bytes: int = PAGE_SIZE, min_bytes: int = 8) -> int:
    """Bytes charged for it: the class and one objcg pointer (obj_full_size), or whole pages above two pages.

    >>> kmalloc_charge_bytes(72), kmalloc_charge_bytes(16400)
    (104, 32768)
    """
    taken = kmalloc_bytes(size_bytes, page_bytes, min_bytes)
    in_cache = size_bytes <= largest_class_bytes(page_bytes)
    return taken + OBJCG_POINTER_BYTES if in_cache else taken


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


def vmalloc_bytes(size_bytes: int, page_bytes: int = PAGE_SIZE) -> int:
    """Bytes an area of ``size_bytes`` takes and is charged; the guard page and bookkeeping are neither."""
    return round_up(size_bytes, page_bytes)


def pcpu_unit_min_bytes(page_bytes: int = PAGE_SIZE) -> int:
    """PCPU_MIN_UNIT_SIZE, the largest per-CPU object: 32 KiB in whole pages."""
    return round_up(PCPU_MIN_UNIT_SIZE, page_bytes)
