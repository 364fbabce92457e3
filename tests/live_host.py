"""A real host put into a known state: processes in fresh cgroups that make maps with plain bpf(2)."""

import ctypes
import os
import signal
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bpfleet.captures.collect import Bpf, Cgroups, Unavailable

MAP_CREATE, OBJ_PIN, PROG_LOAD, UPDATE = 0, 6, 5, 2
_MS_BPF = b"bpf"


def skip_unless_root_with_bpf() -> None:
    """Skips where bpf(2) or the memory controller is not to be had."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    try:
        list(Bpf().ids(12))
    except (OSError, Unavailable) as error:
        pytest.skip(f"bpf(2) is not allowed here: {error}")
    if not Cgroups().mount:
        pytest.skip("no memory controller is mounted")


@contextmanager
def fresh_cgroup(name: str) -> Iterator[Path]:
    """A cgroup of the memory controller below our own; gone afterwards."""
    cgroups = Cgroups()
    own = cgroups.path_of(Path("/proc/self/cgroup").read_text()).strip("/")
    path = Path(cgroups.mount, own, f"bpfleet-{os.getpid()}-{name}")
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        yield path
    finally:
        with suppress(FileNotFoundError):
            path.rmdir()


def limit_memory(cgroup: Path, size_bytes: int) -> None:
    """memory.max, or what cgroup v1 calls it."""
    name = "memory.max" if Cgroups().version == 2 else "memory.limit_in_bytes"
    (cgroup / name).write_text(str(size_bytes))


@contextmanager
def bpffs() -> Iterator[Path]:
    """A BPF filesystem of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    with tempfile.TemporaryDirectory() as folder:
        if libc.mount(_MS_BPF, folder.encode(), _MS_BPF, 0, None) != 0:
            pytest.skip("bpffs cannot be mounted here")
        try:
            yield Path(folder)
        finally:
            libc.umount2(folder.encode(), 2)


def create_map(
    kind: int, key: int, value: int, entries: int, flags: int = 0, name: str = "", inner: int = 0
) -> int:
    """BPF_MAP_CREATE; the descriptor."""
    attr = struct.pack("<6I", kind, key, value, entries, flags, inner) + struct.pack(
        "<I16s", 0, name.encode()
    )
    return Bpf().call(MAP_CREATE, ctypes.create_string_buffer(attr.ljust(128, b"\0"), 128))


def update(fd: int, key: bytes, value: bytes) -> None:
    """BPF_MAP_UPDATE_ELEM."""
    keys, values = (
        ctypes.create_string_buffer(key, len(key)),
        ctypes.create_string_buffer(value, len(value)),
    )
    attr = struct.pack("<IIQQQ", fd, 0, ctypes.addressof(keys), ctypes.addressof(values), 0)
    Bpf().call(UPDATE, ctypes.create_string_buffer(attr.ljust(128, b"\0"), 128))


def load_program() -> int:
    """A socket filter of two instructions."""
    code = ctypes.create_string_buffer(struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0), 16)
    gpl = ctypes.create_string_buffer(b"GPL")
    attr = struct.pack("<IIQQ", 1, 2, ctypes.addressof(code), ctypes.addressof(gpl))
    return Bpf().call(PROG_LOAD, ctypes.create_string_buffer(attr.ljust(128, b"\0"), 128))


def pin(fd: int, path: Path) -> None:
    """BPF_OBJ_PIN."""
    name = ctypes.create_string_buffer(str(path).encode())
    attr = struct.pack("<QI", ctypes.addressof(name), fd)
    Bpf().call(OBJ_PIN, ctypes.create_string_buffer(attr.ljust(128, b"\0"), 128))


@contextmanager
def process_in(cgroup: Path, work: Callable[[], None]) -> Iterator[int]:
    """A child in ``cgroup`` that has done ``work`` and waits with what it holds; ended and reaped afterwards."""
    ready, ready_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(ready)
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))
            work()
            os.write(ready_end, b"x")
            signal.pause()
            code = 0
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
        finally:
            os._exit(code)
    os.close(ready_end)
    try:
        assert os.read(ready, 1) == b"x", "the child failed, see standard error"
        yield pid
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
