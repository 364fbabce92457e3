"""Sockets and other things a map can point at: only what BPF asks about them [include/net/sock.h, fs/inode.c].

No network stack is emulated: a socket is its kind and state. Closing one takes it out of every map that holds it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, final

from bpfleet.abi.errno import Errno
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.proc.task import Task


class Family(IntEnum):
    """Address families (include/linux/socket.h)."""

    UNIX = 1
    INET = 2
    XDP = 44


class Protocol(IntEnum):
    """IP protocols; 0 for families without."""

    NONE = 0
    TCP = 6
    UDP = 17


class SocketState(IntEnum):
    """TCP states (include/net/tcp_states.h), used by every family."""

    ESTABLISHED = 1
    CLOSE = 7
    LISTEN = 10


@dataclass(frozen=True, slots=True)
class SocketKind:
    """What a program did with a fresh socket. ``hashed``: bound or listening, so that packets find it."""

    family: Family
    protocol: Protocol
    state: SocketState = SocketState.CLOSE
    hashed: bool = False
    reuseport: bool = False


SOCKET_KINDS: Final = {
    "udp": SocketKind(Family.INET, Protocol.UDP),
    "udp_bound": SocketKind(Family.INET, Protocol.UDP, hashed=True),
    "udp_reuse": SocketKind(Family.INET, Protocol.UDP, hashed=True, reuseport=True),
    "tcp": SocketKind(Family.INET, Protocol.TCP),
    "tcp_listen": SocketKind(Family.INET, Protocol.TCP, SocketState.LISTEN, hashed=True),
    "tcp_est": SocketKind(Family.INET, Protocol.TCP, SocketState.ESTABLISHED, hashed=True),
    "unix_pair": SocketKind(Family.UNIX, Protocol.NONE, SocketState.ESTABLISHED),
    "xsk": SocketKind(Family.XDP, Protocol.NONE),
}


@final
class Inode:
    """What inode storage hangs on. ``name`` is for explanations only."""

    __slots__ = ("bpf_storage", "name")

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self.bpf_storage: object | None = None


@final
class Cookies:
    """Socket cookies of one node: handed out at first use, counting from 1 [net/core/sock_diag.c]."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        """A cookie that no socket has yet."""
        self._last += 1
        return self._last


@final
class Socket:
    """struct sock. ``omem_bytes`` is its option memory (sk_omem_alloc), which socket storage draws on.

    ``holders`` are the maps that hold it, each with what takes it out; all run when the last descriptor closes.
    ``reuseport_array`` is sk_user_data: a socket can be in one such map only.
    """

    __slots__ = (
        "_cookie",
        "_cookies",
        "bpf_storage",
        "holders",
        "inode",
        "kind",
        "omem_bytes",
        "reuseport_array",
    )

    def __init__(self, kind: SocketKind, cookies: Cookies) -> None:
        self.kind: Final = kind
        self._cookies: Final = cookies
        self._cookie = 0
        self.inode: Final = Inode("socket")
        self.omem_bytes = 0
        self.bpf_storage: object | None = None
        self.reuseport_array: object | None = None
        self.holders: Final[dict[object, Callable[[Socket], None]]] = {}

    def cookie(self) -> int:
        """The socket's cookie, made when first asked for [__sock_gen_cookie]."""
        if not self._cookie:
            self._cookie = self._cookies.next()
        return self._cookie

    def destroy(self) -> None:
        """sk_destruct: leaves every map that holds it."""
        for leave in list(self.holders.values()):
            leave(self)
        self.holders.clear()


@final
class PerfEvent:
    """An opened software event; a perf event array points at it."""

    __slots__ = ("config",)

    def __init__(self, config: int = 0) -> None:
        self.config: Final = config


def socket_of(task: Task, fd: int) -> Socket:
    """sockfd_lookup. Raises EBADF, ENOTSOCK."""
    target = task.file(fd).target
    if not isinstance(target, Socket):
        raise KernelError(
            Errno.ENOTSOCK, Reason.BAD_FILE_DESCRIPTOR, f"descriptor {fd} is not a socket", fd=fd
        )
    return target
