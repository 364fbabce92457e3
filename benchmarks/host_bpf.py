"""The same churn on the kernel this machine runs: bpf(2) through ctypes, in a cgroup of its own.

Nothing but one small hash map is created, and it goes with its descriptor. Needs root on x86-64.
"""

import contextlib
import ctypes
import os
import platform
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from bpfleet.abi.bpf import Cmd, MapType

_SYS_BPF = 321


def churn_rates(elements: int, seconds: float) -> tuple[float, float] | str:
    """(elements/s in batches, elements/s one by one) of updates and deletions, or why there are none."""
    if platform.machine() != "x86_64" or os.geteuid() != 0:
        return "needs root on x86-64"
    try:
        with _own_cgroup():
            return _churn(elements, seconds)
    except OSError as error:
        return f"the host refuses: {error.strerror or error}"


@contextlib.contextmanager
def _own_cgroup() -> Iterator[None]:
    """This process in a cgroup below its own, where a cgroup v2 tree is mounted; else where it is."""
    here = _own_directory()
    if here is None:
        yield
        return
    group = here / f"bpfleet-benchmark-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        with contextlib.suppress(OSError):
            (here / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def _own_directory() -> Path | None:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            for mount in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
                found = Path(mount + line[3:])
                if (found / "cgroup.procs").exists():
                    return found
    return None


def _churn(elements: int, seconds: float) -> tuple[float, float]:
    fd = _bpf(Cmd.MAP_CREATE, struct.pack("<IIIII", MapType.HASH, 8, 8, 2 * elements, 0))
    try:
        keys = ctypes.create_string_buffer(struct.pack(f"<{elements}Q", *range(elements)))
        values = ctypes.create_string_buffer(8 * elements)
        batch = struct.pack("<QQQQIIQQ", 0, 0, *_pointers(keys, values), elements, fd, 0, 0)
        batched = _rate(
            lambda: [_bpf(cmd, batch) for cmd in (Cmd.MAP_UPDATE_BATCH, Cmd.MAP_DELETE_BATCH)],
            2 * elements,
            seconds,
        )
        few = [
            struct.pack(
                "<IIQQQ", fd, 0, ctypes.addressof(keys) + 8 * n, ctypes.addressof(values), 0
            )
            for n in range(256)
        ]
        single = _rate(lambda: _one_by_one(few), 2 * len(few), seconds)
        return batched, single
    finally:
        os.close(fd)


def _one_by_one(attributes: list[bytes]) -> None:
    for each in attributes:
        _bpf(Cmd.MAP_UPDATE_ELEM, each)
    for each in attributes:
        _bpf(Cmd.MAP_DELETE_ELEM, each[:16] + bytes(16))


def _rate(work: object, done: int, seconds: float) -> float:
    assert callable(work)
    started = time.perf_counter()
    total = 0
    while (passed := time.perf_counter() - started) < seconds:
        work()
        total += done
    return total / passed


def _pointers(*buffers: object) -> tuple[int, ...]:
    return tuple(ctypes.addressof(each) for each in buffers)  # type: ignore[arg-type]


_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, max(len(attributes), 64))
    done = _libc.syscall(_SYS_BPF, int(command), buffer, len(buffer))
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(done)
