"""Sizes as people write them (``64M``, ``1.5Gi``, ``unlimited``) and as bytes."""

import re
from typing import Final

from bpfleet.abi.limits import RLIM_INFINITY

# cgroup files, systemd and ulimit use K, M, G for powers of two; Kubernetes writes the same as Ki,
# Mi, Gi.
_SHIFT_OF_UNIT: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_SIZE: Final = re.compile(r"(\d{1,20})(?:\.(\d{1,6}))?\s*([kmgtp]?)(?:i?b?)", re.IGNORECASE)
_UNLIMITED: Final = frozenset({"unlimited", "infinity", "max"})
_BYTES_MAX: Final = (1 << 63) - 1
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def parse_bytes(text: str) -> int:
    """Bytes meant by ``text``; units are powers of two. Raises ``ValueError`` saying what is
    accepted.

    >>> parse_bytes("64M"), parse_bytes("1.5Gi"), parse_bytes("4096")
    (67108864, 1610612736, 4096)
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("not a size; write bytes, or a number with K, M, G or T (powers of two)")
    whole, fraction, unit = match.groups()
    shift = _SHIFT_OF_UNIT[unit.lower()]
    size = int(whole) << shift
    if fraction:
        size += (int(fraction) << shift) // 10 ** len(fraction)
    if size > _BYTES_MAX:
        raise ValueError("larger than any memory; use at most 8191P, or unlimited for a limit")
    return size


def parse_limit(text: str) -> int:
    """Like ``parse_bytes``; ``unlimited``, ``infinity`` and ``max`` mean ``RLIM_INFINITY``."""
    if text.strip().lower() in _UNLIMITED:
        return RLIM_INFINITY
    return parse_bytes(text)


def counted(number: int, word: str) -> str:
    """A number of things in words.

    >>> counted(1, "replica"), counted(2000, "replica")
    ('1 replica', '2,000 replicas')
    """
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def format_bytes(size_bytes: int) -> str:
    """``size_bytes`` for a reader, three significant figures, binary units.

    >>> format_bytes(0), format_bytes(65536), format_bytes(1610612736), format_bytes(RLIM_INFINITY)
    ('0 B', '64 KiB', '1.5 GiB', 'unlimited')
    """
    if size_bytes >= RLIM_INFINITY:
        return "unlimited"
    amount = float(abs(size_bytes))
    unit = _UNITS[0]
    for unit in _UNITS:
        if amount < 1023.95 or unit == _UNITS[-1]:
            break
        amount /= 1024
    sign = "-" if size_bytes < 0 else ""
    digits = 0 if amount >= 100 or unit == "B" else 1 if amount >= 10 else 2
    text = f"{amount:.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{sign}{text} {unit}"
