"""vmalloc areas: whole pages, charged one by one [mm/vmalloc.c]."""

from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.units import round_up


def vmalloc_bytes(size_bytes: int) -> int:
    """Bytes an area of ``size_bytes`` takes and is charged; the guard page and bookkeeping are neither."""
    return round_up(size_bytes, PAGE_SIZE)
