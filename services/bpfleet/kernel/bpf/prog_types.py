"""Who may load which program type, and what it can be attached to [kernel/bpf/syscall.c]."""

from typing import Final

from bpfleet.abi.bpf import AttachType, Capability, ProgType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile

_UNPRIVILEGED: Final = frozenset({ProgType.SOCKET_FILTER, ProgType.CGROUP_SKB})
_NET_ADMIN: Final = frozenset(
    {
        ProgType.SCHED_CLS,
        ProgType.SCHED_ACT,
        ProgType.XDP,
        ProgType.LWT_IN,
        ProgType.LWT_OUT,
        ProgType.LWT_XMIT,
        ProgType.LWT_SEG6LOCAL,
        ProgType.SK_SKB,
        ProgType.SK_MSG,
        ProgType.FLOW_DISSECTOR,
        ProgType.CGROUP_DEVICE,
        ProgType.CGROUP_SOCK,
        ProgType.CGROUP_SOCK_ADDR,
        ProgType.CGROUP_SOCKOPT,
        ProgType.CGROUP_SYSCTL,
        ProgType.SOCK_OPS,
        ProgType.EXT,
        ProgType.NETFILTER,
    }
)
_PERFMON: Final = frozenset(
    {
        ProgType.KPROBE,
        ProgType.TRACEPOINT,
        ProgType.PERF_EVENT,
        ProgType.RAW_TRACEPOINT,
        ProgType.RAW_TRACEPOINT_WRITABLE,
        ProgType.TRACING,
        ProgType.LSM,
        ProgType.STRUCT_OPS,
        ProgType.EXT,
    }
)

_SOCK_ADDR: Final = frozenset(
    {
        AttachType.CGROUP_INET4_BIND,
        AttachType.CGROUP_INET6_BIND,
        AttachType.CGROUP_INET4_CONNECT,
        AttachType.CGROUP_INET6_CONNECT,
        AttachType.CGROUP_INET4_GETPEERNAME,
        AttachType.CGROUP_INET6_GETPEERNAME,
        AttachType.CGROUP_INET4_GETSOCKNAME,
        AttachType.CGROUP_INET6_GETSOCKNAME,
        AttachType.CGROUP_UDP4_SENDMSG,
        AttachType.CGROUP_UDP6_SENDMSG,
        AttachType.CGROUP_UDP4_RECVMSG,
        AttachType.CGROUP_UDP6_RECVMSG,
        AttachType.CGROUP_UNIX_CONNECT,
        AttachType.CGROUP_UNIX_SENDMSG,
        AttachType.CGROUP_UNIX_RECVMSG,
        AttachType.CGROUP_UNIX_GETPEERNAME,
        AttachType.CGROUP_UNIX_GETSOCKNAME,
    }
)
_SOCK: Final = frozenset(
    {
        AttachType.CGROUP_INET_SOCK_CREATE,
        AttachType.CGROUP_INET_SOCK_RELEASE,
        AttachType.CGROUP_INET4_POST_BIND,
        AttachType.CGROUP_INET6_POST_BIND,
    }
)
_SKB: Final = frozenset({AttachType.CGROUP_INET_INGRESS, AttachType.CGROUP_INET_EGRESS})
_SOCKOPT: Final = frozenset({AttachType.CGROUP_SETSOCKOPT, AttachType.CGROUP_GETSOCKOPT})

_EXPECTED: Final[dict[ProgType, frozenset[AttachType]]] = {
    ProgType.CGROUP_SOCK: _SOCK,
    ProgType.CGROUP_SOCK_ADDR: _SOCK_ADDR,
    ProgType.CGROUP_SKB: _SKB,
    ProgType.CGROUP_SOCKOPT: _SOCKOPT,
    ProgType.SK_LOOKUP: frozenset({AttachType.SK_LOOKUP}),
    ProgType.NETFILTER: frozenset({AttachType.NETFILTER}),
}

CGROUP_PROG_OF: Final[dict[AttachType, ProgType]] = {
    **dict.fromkeys(_SKB, ProgType.CGROUP_SKB),
    **dict.fromkeys(_SOCK, ProgType.CGROUP_SOCK),
    **dict.fromkeys(_SOCK_ADDR, ProgType.CGROUP_SOCK_ADDR),
    **dict.fromkeys(_SOCKOPT, ProgType.CGROUP_SOCKOPT),
    AttachType.CGROUP_SOCK_OPS: ProgType.SOCK_OPS,
    AttachType.CGROUP_DEVICE: ProgType.CGROUP_DEVICE,
    AttachType.CGROUP_SYSCTL: ProgType.CGROUP_SYSCTL,
}
EXACT_ATTACH: Final = frozenset(
    {ProgType.CGROUP_SOCK, ProgType.CGROUP_SOCK_ADDR, ProgType.CGROUP_SOCKOPT}
)


def check_prog_capability(prog_type: int, task: Task, profile: KernelProfile) -> None:
    """The three capability tests of bpf_prog_load. Raises EPERM."""
    if prog_type not in _UNPRIVILEGED and not task.bpf_capable():
        raise _missing("CAP_BPF")
    if prog_type in _NET_ADMIN and not (
        task.has(Capability.NET_ADMIN) or task.has(Capability.SYS_ADMIN)
    ):
        raise _missing("CAP_NET_ADMIN")
    if prog_type in _PERFMON and not task.perfmon_capable():
        raise _missing("CAP_PERFMON")


def _missing(capability: str) -> KernelError:
    return KernelError(
        Errno.EPERM, Reason.CAPABILITY_MISSING, f"this program type needs {capability}"
    )


def fixed_attach_type(prog_type: int, expected: int) -> int:
    """bpf_prog_load_fixup_attach_type: CGROUP_SOCK's 0 means SOCK_CREATE."""
    if prog_type == ProgType.CGROUP_SOCK and not expected:
        return AttachType.CGROUP_INET_SOCK_CREATE
    return expected


def check_attach_type(prog_type: int, expected: int) -> None:
    """bpf_prog_load_check_attach. Raises EINVAL."""
    if prog_type in (ProgType.EXT, ProgType.SYSCALL):
        refused = bool(expected)
    elif prog_type in _EXPECTED:
        refused = expected not in _EXPECTED[ProgType(prog_type)]
    else:
        refused = False
    if refused:
        raise KernelError(
            Errno.EINVAL,
            Reason.BAD_ATTRIBUTE,
            f"expected_attach_type {expected} does not fit this program type",
        )
