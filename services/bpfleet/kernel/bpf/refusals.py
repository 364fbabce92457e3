"""The refusals that many map types share."""

from bpfleet.abi.bpf import Capability
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.host import Host
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.proc.task import Task


def refuse(errno: Errno, detail: str, reason: Reason = Reason.BAD_ATTRIBUTE) -> KernelError:
    """A KernelError to raise for a bad attribute or argument."""
    return KernelError(errno, reason, detail)


def not_found(detail: str = "no such key") -> KernelError:
    """ENOENT for a key that is not in the map."""
    return KernelError(Errno.ENOENT, Reason.KEY_NOT_FOUND, detail)


def key_exists() -> KernelError:
    """EEXIST: BPF_NOEXIST on a key that exists."""
    return KernelError(Errno.EEXIST, Reason.KEY_EXISTS, "the key exists and BPF_NOEXIST was given")


def map_full(errno: Errno, max_entries: int) -> KernelError:
    """The type's errno for a map that holds ``max_entries`` elements."""
    return KernelError(
        errno,
        Reason.MAP_FULL,
        f"the map holds its {max_entries} entries",
        max_entries=max_entries,
    )


def require_bpf(host: Host, task: Task) -> None:
    """The CAP_BPF test inside a type's own check, up to 6.4; later kernels test centrally. Raises EPERM."""
    if not host.profile.capability_check_central and not task.bpf_capable():
        raise KernelError(Errno.EPERM, Reason.CAPABILITY_MISSING, "this map type needs CAP_BPF")


def require_net_admin(host: Host, task: Task) -> None:
    """capable(CAP_NET_ADMIN); neither CAP_BPF nor CAP_SYS_ADMIN replaces it. Raises EPERM."""
    if not host.profile.capability_check_central and not task.has(Capability.NET_ADMIN):
        raise KernelError(
            Errno.EPERM, Reason.CAPABILITY_MISSING, "this map type needs CAP_NET_ADMIN"
        )
