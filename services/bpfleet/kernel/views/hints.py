"""What user-space libraries say when the kernel answers an errno [libbpf pr_perm_msg, cilium/ebpf map.go]."""

from typing import Final

from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import RLIM_INFINITY

KIB: Final = 1 << 10
MIB: Final = 1 << 20


def size_text(size_bytes: int) -> str:
    """A limit as libbpf prints it: bytes, then KiB and MiB with one decimal.

    >>> size_text(512), size_text(65536), size_text(8 << 20)
    ('512 bytes', '64.0 KiB', '8.0 MiB')
    """
    if size_bytes < KIB:
        return f"{size_bytes} bytes"
    if size_bytes < MIB:
        return f"{size_bytes / KIB:.1f} KiB"
    return f"{size_bytes / MIB:.1f} MiB"


def libbpf_hint(errno: Errno, euid: int, memlock_soft_bytes: int) -> str | None:
    """libbpf's warning: for EPERM, as root, with a finite limit only; so never for device maps or program growth."""
    if errno != Errno.EPERM or euid != 0 or memlock_soft_bytes >= RLIM_INFINITY:
        return None
    return (
        "libbpf: permission error while running as root; try raising 'ulimit -l'?"
        f" current value: {size_text(memlock_soft_bytes)}"
    )


def cilium_hint() -> str:
    """cilium/ebpf's text for any EPERM of a map creation, whatever the reason."""
    return "map create: operation not permitted (MEMLOCK may be too low, consider rlimit.RemoveMemlock)"
