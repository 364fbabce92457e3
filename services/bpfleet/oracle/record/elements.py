"""Records elements-*.jsonl: what elements cost while they are inserted, updated, deleted and inserted again."""

import ctypes
import json
import mmap
import os
import struct
import tempfile
from collections.abc import Callable
from typing import Any, Final

from bpfleet.abi.bpf import Cmd, MapType, ProgType, map_type_from_name
from bpfleet.oracle.record.create import creation_attr, prerequisites
from bpfleet.oracle.record.live import ATTR_BYTES, Buffer, bpf, errno_name, prog_load
from bpfleet.oracle.record.meter import MemorySample, Meter
from bpfleet.oracle.record.objects import open_object
from bpfleet.oracle.record.ops import PER_CPU_TYPES, fdinfo

__all__ = ["record_elements"]

_ATTRIBUTES: Final = (
    "id", "type", "ks", "vs", "me", "fl", "inner", "btf", "extra", "value", "qsize", "spread",
)  # fmt: skip
_POPPING: Final = (MapType.QUEUE, MapType.STACK)
_LOOPBACK: Final = 1  # interface index
_SPREAD_STEP: Final = 2654435761  # odd: a permutation of 32-bit numbers
_PAGE: Final = 4096


def record_elements(
    case: dict[str, Any], points: list[tuple[str, int]], meter: Meter, *, possible_cpus: int
) -> dict[str, Any]:
    """``case`` with the errno, and on success memlock and the totals at each of ``points`` (phase, elements)."""
    answer: dict[str, Any] = {name: case[name] for name in _ATTRIBUTES if name in case}
    run = _Run(case, points, possible_cpus)
    samples, results = meter.run(run.prepare, run.work)
    phases, _ = _parsed(results)
    answer["errno"] = phases[0][0]
    if answer["errno"]:
        return answer
    # Reading fdinfo charges dentries and inodes of /proc: it has a run of its own.
    run.reads_memlock = True
    answer["memlock"] = _parsed(meter.run(run.prepare, run.work)[1])[1]
    before, *totals = samples
    answer["points"] = [
        [phase, done if errno else count, *_difference(before, total), errno]
        for (phase, count), total, (errno, done) in zip(points, totals, phases, strict=True)
    ]
    return answer


def _parsed(results: str) -> tuple[list[tuple[str | int, int]], list[int]]:
    """(errno, elements done before it) per phase, and the two memlock values."""
    phases, memlock = json.loads(results)
    return [(errno, done) for errno, done in phases], memlock


def _difference(before: MemorySample, after: MemorySample) -> list[int | None]:
    pairs = (
        (before.slab, after.slab),
        (before.percpu, after.percpu),
        (before.vmalloc, after.vmalloc),
        (before.kernel, after.kernel),
    )
    return [None if old is None or new is None else new - old for old, new in pairs]


class _Run:
    """One case in the measured process. Everything elements refer to is made before the first reading."""

    def __init__(
        self, case: dict[str, Any], points: list[tuple[str, int]], possible_cpus: int
    ) -> None:
        self._case = case
        self._points = points
        self._type = map_type_from_name(case["type"])
        self._cpus = possible_cpus
        self._present = 0
        self._fd = -1
        self._attr = self._element = self._key = self._value = Buffer(0)
        self._handles: list[int] = []
        self._values: list[int] = []
        self._mapping: mmap.mmap | None = None
        self._memlock = [0, 0]
        self._done = 0
        self.reads_memlock = False

    def prepare(self) -> None:
        """Buffers, and the objects the elements refer to."""
        case = self._case
        inner, btf = prerequisites(case)
        creation = {**case, "me": self._cpus} if self._type == MapType.CPUMAP else case
        self._attr = creation_attr(creation, inner_fd=inner, btf_fd=btf)
        self._key = Buffer(max(case["ks"], 16))
        self._value = Buffer(self._value_bytes(inner))
        self._element = Buffer(ATTR_BYTES)
        if case.get("value") == "storage":
            most = max(count for _, count in self._points)
            self._handles = [self._owner() for _ in range(most)]
        if case.get("value") == "socket":
            self._values = self._sockets()

    def work(self, checkpoint: Callable[[], None]) -> str:
        """The phases; one reading before the first and one after each. Returns what ``_parsed`` reads."""
        phases: list[tuple[str | int, int]] = []
        checkpoint()
        for phase, count in self._points:
            self._done = 0
            phases.append((errno_name(self._phase(phase, count)), self._done))
            if self.reads_memlock and phase in ("create", "insert") and self._fd >= 0:
                self._memlock[phase == "insert"] = int(fdinfo(self._fd)["memlock"])
            checkpoint()
            if phases[0][0]:
                break
        if not any(phase == "insert" for phase, _ in self._points):
            self._memlock[1] = self._memlock[0]
        return json.dumps([phases, self._memlock])

    # -- phases

    def _phase(self, phase: str, count: int) -> int:
        actions: dict[str, Callable[[int], int]] = {
            "create": self._create,
            "mmap": self._map_arena,
            "insert": self._insert_up_to,
            "reinsert": self._insert_up_to,
            "update": self._update_all,
            "delete": self._delete_all,
            "delete2": self._delete_all,
            "munmap": self._unmap_arena,
            "close": self._close,
        }
        return actions[phase](count)

    def _create(self, _: int) -> int:
        self._fd = bpf(Cmd.MAP_CREATE, self._attr, ATTR_BYTES)
        return self._fd

    def _close(self, _: int) -> int:
        os.close(self._fd)
        return 0

    def _map_arena(self, _: int) -> int:
        self._mapping = mmap.mmap(self._fd, self._case["me"] * _PAGE)
        return 0

    def _unmap_arena(self, _: int) -> int:
        if self._mapping is not None:
            self._mapping.close()
        return 0

    def _insert_up_to(self, count: int) -> int:
        while self._present < count:
            self._done = self._present
            result = self._store(self._present)
            if result < 0:
                return result
            self._present += 1
        return 0

    def _update_all(self, _: int) -> int:
        results = (self._store(number) for number in range(self._present))
        return min(results, default=0)

    def _store(self, number: int) -> int:
        if self._mapping is not None:
            self._mapping[number * _PAGE] = 1
            return 0
        if self._values:
            fd = self._values[number % len(self._values)]
            struct.pack_into("<i", self._value.memory, 0, fd)
        return self._command(Cmd.MAP_UPDATE_ELEM, number, self._value.address)

    def _delete_all(self, _: int) -> int:
        popping = self._type in _POPPING
        for number in range(self._present):
            if popping:
                result = self._command(Cmd.MAP_LOOKUP_AND_DELETE_ELEM, number, self._value.address)
            else:
                result = self._command(Cmd.MAP_DELETE_ELEM, number, 0)
            if result < 0:
                return result
            self._done += 1
        self._present = 0
        return 0

    def _command(self, cmd: int, number: int, value: int) -> int:
        key = self._key_bytes(number)
        ctypes.memmove(self._key.address, key, len(key))
        struct.pack_into(
            "<I4xQQQ", self._element.memory, 0, self._fd, self._key.address if key else 0, value, 0
        )
        return bpf(cmd, self._element, ATTR_BYTES)

    # -- keys, values, owners

    def _key_bytes(self, number: int) -> bytes:
        size: int = self._case["ks"]
        if self._handles:
            return struct.pack("<i", self._handles[number])
        if self._type == MapType.LPM_TRIE:
            step = _SPREAD_STEP if self._case.get("spread") else 1
            data = (number * step) & ((1 << min(8 * (size - 4), 32)) - 1)
            return struct.pack("<I", 8 * (size - 4)) + data.to_bytes(size - 4, "big")
        return number.to_bytes(max(size, 8), "little")[:size]

    def _value_bytes(self, inner: int) -> bytes:
        width: int = self._case["vs"]
        kind = self._case.get("value")
        if kind == "ifindex":
            return _LOOPBACK.to_bytes(width, "little")
        if kind == "qsize":
            return int(self._case["qsize"]).to_bytes(width, "little")
        referred = self._referred(kind, inner)
        if referred is not None:
            return struct.pack("<i", referred)
        if kind == "socket":
            return bytes(width)
        if self._type in PER_CPU_TYPES:
            width = (width + 7) // 8 * 8 * self._cpus
        return b"\x01" * width

    def _referred(self, kind: str | None, inner: int) -> int | None:
        if kind == "inner":
            return inner
        if kind == "prog":
            return prog_load(ProgType.SOCKET_FILTER)
        return open_object(kind) if kind in ("perf", "cgroup") else None

    def _sockets(self) -> list[int]:
        """One socket for every element; of a reuseport array, where a socket has one place, as many as elements."""
        if self._type == MapType.REUSEPORT_SOCKARRAY:
            return [open_object("udp_reuse") for _ in range(max(n for _, n in self._points))]
        return [open_object("xsk" if self._type == MapType.XSKMAP else "tcp_est")]

    def _owner(self) -> int:
        kind = {
            MapType.INODE_STORAGE: "file",
            MapType.SK_STORAGE: "udp",
            MapType.TASK_STORAGE: "pidfd",
            MapType.CGRP_STORAGE: "cgroup",
        }[self._type]
        if kind == "file":
            with tempfile.TemporaryFile() as file:
                return os.dup(file.fileno())
        return open_object(kind)
