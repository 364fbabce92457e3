"""What recordings hand to bpf(2) by descriptor: sockets, programs, perf events, cgroups, files, processes."""

import ctypes
import errno
import os
import select
import socket
import struct
import tempfile
from collections.abc import Callable
from typing import Final

from bpfleet.abi.bpf import ProgType
from bpfleet.oracle.record.live import prog_load

__all__ = ["KINDS", "open_object"]

_NR_PERF_EVENT_OPEN: Final = 298
_NR_PIDFD_OPEN: Final = 434
_PERF_ATTR_BYTES: Final = 112
_AF_XDP: Final = 44
_SO_REUSEPORT: Final = 15
_LOOPBACK: Final = "127.0.0.1"

_libc: Final = ctypes.CDLL(None, use_errno=True)


def open_object(
    kind: str, *, cgroup: str = "/sys/fs/cgroup", prog_type: str | int | None = None
) -> int:
    """A descriptor of ``kind``, or the negated errno. Helper descriptors (a peer, a listener) stay open.

    Raises ``KeyError`` for a kind that recordings do not know.
    """
    if kind == "prog":
        return prog_load(_prog_type(prog_type))
    if kind == "cgroup":
        return _opened(lambda: os.open(_cgroup2_mount(), os.O_RDONLY | os.O_DIRECTORY))
    return _opened(_MAKERS[kind])


def _prog_type(given: str | int | None) -> int:
    if given is None:
        return ProgType.SOCKET_FILTER
    return given if isinstance(given, int) else ProgType[given.upper()]


def _cgroup2_mount() -> str:
    """Where cgroup v2 is mounted; BPF knows no other cgroups. Raises ``OSError`` where it is not."""
    with open("/proc/self/mounts") as mounts:
        for line in mounts:
            _, directory, kind, *_ = line.split()
            if kind == "cgroup2":
                return directory
    raise OSError(errno.ENOENT, "cgroup2 is not mounted")


def _opened(make: Callable[[], int]) -> int:
    try:
        return make()
    except OSError as error:
        return -(error.errno or 1)


def _checked(result: int) -> int:
    return result if result >= 0 else -ctypes.get_errno()


def _epoll() -> int:
    with select.epoll() as epoll:
        return os.dup(epoll.fileno())


def _perf_event() -> int:
    """PERF_TYPE_SOFTWARE, PERF_COUNT_SW_BPF_OUTPUT with raw samples, on CPU 0."""
    attr = struct.pack("<IIQQQ", 1, _PERF_ATTR_BYTES, 10, 1, 1 << 10).ljust(_PERF_ATTR_BYTES, b"\0")
    return _checked(_libc.syscall(_NR_PERF_EVENT_OPEN, attr, -1, 0, -1, ctypes.c_ulong(8)))


def _file() -> int:
    fd, path = tempfile.mkstemp(prefix="bpfleet-record-")
    os.unlink(path)
    return fd


def _pidfd() -> int:
    return _checked(_libc.syscall(_NR_PIDFD_OPEN, os.getpid(), 0))


def _udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _udp_bound() -> socket.socket:
    bound = _udp()
    bound.bind((_LOOPBACK, 0))
    return bound


def _udp_reuse() -> socket.socket:
    shared = _udp()
    shared.setsockopt(socket.SOL_SOCKET, _SO_REUSEPORT, 1)
    shared.bind((_LOOPBACK, 0))
    return shared


def _tcp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def _tcp_listen() -> socket.socket:
    listener = _tcp()
    listener.bind((_LOOPBACK, 0))
    listener.listen(4)
    return listener


def _tcp_established() -> socket.socket:
    listener = _tcp_listen()
    client = _tcp()
    client.connect(listener.getsockname())
    accepted, _ = listener.accept()
    accepted.detach()
    listener.detach()
    return client


def _unix_pair() -> socket.socket:
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    second.detach()
    return first


def _xsk() -> socket.socket:
    return socket.socket(_AF_XDP, socket.SOCK_RAW)


def _descriptor_of(make: Callable[[], socket.socket]) -> Callable[[], int]:
    return lambda: make().detach()


_MAKERS: Final[dict[str, Callable[[], int]]] = {
    "efd": _epoll,
    "perf": _perf_event,
    "file": _file,
    "pidfd": _pidfd,
    "udp": _descriptor_of(_udp),
    "udp_bound": _descriptor_of(_udp_bound),
    "udp_reuse": _descriptor_of(_udp_reuse),
    "tcp": _descriptor_of(_tcp),
    "tcp_listen": _descriptor_of(_tcp_listen),
    "tcp_est": _descriptor_of(_tcp_established),
    "unix_pair": _descriptor_of(_unix_pair),
    "xsk": _descriptor_of(_xsk),
}
KINDS: Final = frozenset(_MAKERS) | {"prog", "cgroup"}
