"""Per-CPU memory: cost times possible CPUs [mm/percpu.c, mm/percpu-internal.h]."""

from bpfleet.kernel.units import round_up

PCPU_MIN_ALLOC_SIZE = 4
OBJCG_POINTER_BYTES = 8


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
