"""Measures what a process charges to a fresh memory cgroup, byte for byte, without moving the running process.

Two things stand between an allocation and the numbers in memory.stat: the byte stock of each CPU, which holds back
charges and statistics until another cgroup charges on that CPU, and statistics that are flushed only from a threshold
on. Both are dealt with here: the measured process runs on CPU 0, before each reading a second process in a second
cgroup opens a few files on every CPU (RCU frees on any), which makes the kernel return the first one's stocks, and
cpu.stat is read, which flushes.
"""

import gc
import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["MemorySample", "Meter", "Unmeasurable", "find_memory_cgroup"]

_V2_ROOT: Final = Path("/sys/fs/cgroup")
_V1_ROOT: Final = Path("/sys/fs/cgroup/memory")
_DRAINING_OPENS: Final = 64
_FDTABLE_FDS: Final = 1500  # the child's descriptor table grows to this before the first reading
_CHILD_SECONDS: Final = 400  # an update of a map of maps waits for a grace period
_RMDIR_SECONDS: Final = 5.0
_RCU_SECONDS: Final = 0.04
_SETTLE_SECONDS: Final = 2.0


class Unmeasurable(Exception):
    """Why charges cannot be measured here, as one clause."""


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Bytes charged to the cgroup at one moment; None where this kernel has no such number."""

    slab: int | None
    percpu: int | None
    vmalloc: int | None
    kernel: int


def find_memory_cgroup() -> tuple[Path, bool]:
    """(directory whose new children account memory, whether that is cgroup v2). Raises ``Unmeasurable``."""
    if (_V1_ROOT / "memory.limit_in_bytes").exists():
        return _V1_ROOT, False
    with open("/proc/self/cgroup") as lines:
        own = next(
            (line.strip().split("::", 1)[1] for line in lines if line.startswith("0::")), "/"
        )
    start = _V2_ROOT / own.lstrip("/")
    for directory in (start, *start.parents):
        if _accounts_children(directory):
            return directory, True
        if directory == _V2_ROOT:
            break
    raise Unmeasurable("no cgroup above this process hands the memory controller to its children")


def _accounts_children(directory: Path) -> bool:
    control = directory / "cgroup.subtree_control"
    try:
        if "memory" not in control.read_text().split():
            control.write_text("+memory")
        return os.access(directory, os.W_OK)
    except OSError:
        return False


class Meter:
    """Runs pieces of work in forked children, each in a fresh cgroup. Use as a context manager."""

    def __init__(self) -> None:
        """Raises ``Unmeasurable`` where no memory cgroup can be made."""
        self._parent, self.is_v2 = find_memory_cgroup()
        self._serial = 0
        self._drain_request = self._drain_reply = -1
        self._drainer = 0
        self._drain_cgroup = Path()
        self._affinity: set[int] = set()

    def __enter__(self) -> "Meter":
        self._affinity = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {0})
        self._drain_cgroup = self._new_cgroup()
        request_read, self._drain_request = os.pipe()
        self._drain_reply, reply_write = os.pipe()
        self._drainer = os.fork()
        if self._drainer == 0:
            os.close(self._drain_request)
            os.close(self._drain_reply)
            _drain_on_request(request_read, reply_write, self._affinity)
        os.close(request_read)
        os.close(reply_write)
        (self._drain_cgroup / "cgroup.procs").write_text(str(self._drainer))
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._drain_request)
        os.close(self._drain_reply)
        os.waitpid(self._drainer, 0)
        _rmdir(self._drain_cgroup)
        os.sched_setaffinity(0, self._affinity)

    def run(
        self,
        prepare: Callable[[], None],
        work: Callable[[Callable[[], None]], object],
    ) -> tuple[list[MemorySample], str]:
        """Fork; in the child call ``prepare()`` and then ``work(checkpoint)``.

        Returns one sample per ``checkpoint()`` the work called, and ``str`` of what the work returned. Raises
        ``Unmeasurable`` where the child failed or was killed.
        """
        with self._cgroup() as cgroup:
            at_checkpoint, checkpoint_write = os.pipe()
            go_read, go = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(at_checkpoint)
                os.close(go)
                _work_in_child(go_read, checkpoint_write, prepare, work)
            os.close(checkpoint_write)
            os.close(go_read)
            try:
                (cgroup / "cgroup.procs").write_text(str(child))
                return self._attend(cgroup, at_checkpoint, go)
            finally:
                os.close(at_checkpoint)
                os.close(go)
                os.waitpid(child, 0)

    def _attend(self, cgroup: Path, at_checkpoint: int, go: int) -> tuple[list[MemorySample], str]:
        samples = []
        os.write(go, b"g")
        while kind := os.read(at_checkpoint, 1):
            if kind == b"c":
                samples.append(self._settled(cgroup))
                os.write(go, b"g")
                continue
            answer = os.read(at_checkpoint, 1 << 16).decode()
            if kind == b"f":
                raise Unmeasurable(answer)
            return samples, answer
        raise Unmeasurable("the measured process was killed")

    def _settled(self, cgroup: Path) -> MemorySample:
        """What is charged once it no longer changes: earlier frees wait for an RCU grace period."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        sample = self.read(cgroup)
        while True:
            time.sleep(_RCU_SECONDS)
            again = self.read(cgroup)
            if again == sample or time.monotonic() > deadline:
                return again
            sample = again

    def read(self, cgroup: Path) -> MemorySample:
        """What is charged to ``cgroup`` now."""
        self._drain()
        if not self.is_v2:
            kernel = int((cgroup / "memory.kmem.usage_in_bytes").read_text())
            return MemorySample(None, None, None, kernel)
        (cgroup / "cpu.stat").read_text()  # flushes the statistics of every controller
        stat = _stat(cgroup)
        if "kernel" not in stat:
            return MemorySample(None, None, None, int((cgroup / "memory.current").read_text()))
        slab = stat["slab_reclaimable"] + stat["slab_unreclaimable"]
        return MemorySample(slab, stat["percpu"], stat["vmalloc"], stat["kernel"])

    def _drain(self) -> None:
        os.write(self._drain_request, b"d")
        os.read(self._drain_reply, 1)

    def _new_cgroup(self) -> Path:
        self._serial += 1
        path = self._parent / f"bpfleet-record-{os.getpid()}-{self._serial}"
        path.mkdir()
        return path

    @contextmanager
    def _cgroup(self) -> Iterator[Path]:
        path = self._new_cgroup()
        try:
            yield path
        finally:
            _rmdir(path)


def _stat(cgroup: Path) -> dict[str, int]:
    lines = (cgroup / "memory.stat").read_text().splitlines()
    return {name: int(text) for name, text in (line.split() for line in lines)}


def _rmdir(path: Path) -> None:
    """Remove a cgroup whose last process may still be on its way out."""
    deadline = time.monotonic() + _RMDIR_SECONDS
    while True:
        try:
            path.rmdir()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _drain_on_request(request: int, reply: int, cpus: set[int]) -> None:
    with tempfile.TemporaryFile():
        pass
    while os.read(request, 1):
        for cpu in cpus:
            os.sched_setaffinity(0, {cpu})
            for fd in [os.open("/dev/null", os.O_RDONLY) for _ in range(_DRAINING_OPENS)]:
                os.close(fd)
        os.write(reply, b"d")
    os._exit(0)


def _work_in_child(
    go: int,
    out: int,
    prepare: Callable[[], None],
    work: Callable[[Callable[[], None]], object],
) -> None:
    """Never returns. The child must not grow its own kernel memory between two checkpoints."""
    signal.alarm(_CHILD_SECONDS)

    def checkpoint() -> None:
        os.write(out, b"c")
        os.read(go, 1)

    try:
        os.read(go, 1)
        _grow_descriptor_table()
        prepare()
        gc.disable()
        answer = b"r" + str(work(checkpoint)).encode()
    except BaseException as error:
        answer = b"f" + repr(error).encode()
    os.write(out, answer)
    os._exit(0)


def _grow_descriptor_table() -> None:
    """Its growth would be charged in the middle of a measurement."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(os.dup2(0, min(_FDTABLE_FDS, soft - 1)))
