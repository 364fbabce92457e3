"""Capability tests that a map type makes itself, up to 6.4; later kernels test all types in one place."""

from bpfleet.abi.bpf import Capability
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.maps.base import Host
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.proc.task import Task


def require_net_admin(host: Host, task: Task) -> None:
    """capable(CAP_NET_ADMIN); neither CAP_BPF nor CAP_SYS_ADMIN replaces it. Raises EPERM."""
    if not host.profile.capability_check_central and not task.has(Capability.NET_ADMIN):
        raise KernelError(
            Errno.EPERM, Reason.CAPABILITY_MISSING, "this map type needs CAP_NET_ADMIN"
        )
