"""Replays errno.jsonl: the operations of a case in order, one answer per operation, in the recording's own words.

`CaseReplay` is the counterpart of the recorder in record/ops.py: names instead of descriptors, hex instead of bytes.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeAlias

from bpfleet.abi.bpf import MapType, ProgType
from bpfleet.kernel.bpf.attr import Address, MapAttr, UserBytes
from bpfleet.kernel.bpf.batch import BatchResult
from bpfleet.kernel.bpf.btf import BtfKind, BtfType
from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.bpf.program import ProgAttr
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.file import File
from bpfleet.kernel.proc.sockets import SOCKET_KINDS, Inode
from bpfleet.kernel.proc.task import FIRST_FD, Task
from bpfleet.kernel.units import round_up_8
from bpfleet.oracle.format.report import FileReport
from bpfleet.oracle.format.words import (
    UnsupportedCaseError,
    errno_name,
    map_type_named,
    prog_type_named,
    same_errno,
)
from bpfleet.oracle.replay.machine import CASE_CGROUP, Target
from bpfleet.verbs import table as verbs
from bpfleet.verbs.stage import Stage, answer_of, run_of

Operation: TypeAlias = dict[str, Any]
Answer: TypeAlias = Any

PERCPU_TYPES: Final = (
    MapType.PERCPU_HASH,
    MapType.PERCPU_ARRAY,
    MapType.LRU_PERCPU_HASH,
    MapType.PERCPU_CGROUP_STORAGE,
)
_NO_SUCH_FD: Final = 9999
_WALK_LIMIT: Final = 100_000
_KEYS_LISTED: Final = 8  # longer walks over 4-byte keys are recorded as ranges
# Where a field of MapAttr ends in union bpf_attr, in bytes: the kernel takes what lies beyond the passed size as zero.
_FIELD_ENDS: Final = {
    "map_type": 4,
    "key_size": 8,
    "value_size": 12,
    "max_entries": 16,
    "map_flags": 20,
    "inner_map_fd": 24,
    "numa_node": 28,
    "map_name": 44,
    "map_ifindex": 48,
    "btf_fd": 52,
    "btf_key_type_id": 56,
    "btf_value_type_id": 60,
    "btf_vmlinux_value_type_id": 64,
    "map_extra": 72,
    "value_type_btf_obj_fd": 76,
    "map_token_fd": 80,
}


def replay_errno(case: dict[str, Any], target: Target, report: FileReport) -> None:
    """Compares one case on one target in the section of its group. Cases without a recording there are left out."""
    expected = recorded_for(case, target)
    if expected is None or target.name in case.get("unstable", ()):
        return
    section = report.section(case.get("group", "operations"))
    where = f"{case['id']} on {target.name}: {case.get('type', '')} {case.get('name', '')}"
    try:
        found = CaseReplay(target).run(case["ops"])
    except UnsupportedCaseError as missing:
        section.skip(str(missing))
        return
    for number, (want, have) in enumerate(zip(expected, found, strict=True)):
        if not alike(want, have):
            operation = case["ops"][number]
            section.compare(f"{where}: operation {number} {operation}", want, have, case)
            return
    section.compare(where, 0, 0, case)


def _cut(attr: MapAttr, size: int, tail: int) -> MapAttr:
    """The attributes of which bpf(2) was given ``size`` bytes, the last of them ``tail``.

    The recorder wrote the tail first and the fields up to map_flags over it.
    """
    tail = tail if size > _FIELD_ENDS["map_flags"] else 0
    nothing: dict[str, Any] = {"inner_map_fd": None, "btf_fd": None, "map_name": ""}
    changed: dict[str, Any] = {}
    begin = 0
    for name, end in _FIELD_ENDS.items():
        if size <= begin:
            changed[name] = nothing.get(name, 0)
        elif size < end or (tail and size == end):
            changed[name] = _low_bytes(getattr(attr, name), size - begin, tail)
        begin = end
    return replace(attr, **changed, attr_size=size, attr_tail=tail)


def _low_bytes(value: int | str | None, size: int, tail: int) -> int | str:
    """The first ``size`` bytes of a field, with ``tail`` for the last where it is not 0."""
    if isinstance(value, str):  # ends at its first NUL
        text = value[: size - 1].ljust(size - 1, "\0") + chr(tail) if tail else value[:size]
        return text.partition("\0")[0]
    kept = (value or 0) & (1 << 8 * (size - 1 if tail else size)) - 1
    return kept | tail << 8 * (size - 1)


def recorded_for(case: dict[str, Any], target: Target) -> list[Answer] | None:
    """The answers recorded on ``target``, None when there are none."""
    for group in case["res"]:
        if any(name in ("*", target.name, target.version) for name in group["on"]):
            answers: list[Answer] = group["r"]
            return answers
    return None


def alike(want: Answer, have: Answer) -> bool:
    """Whether two answers are the same up to what a recording cannot fix: socket cookies, freed ids."""
    if isinstance(want, dict) and isinstance(have, dict):
        return want.keys() == have.keys() and all(alike(want[name], have[name]) for name in want)
    if isinstance(want, list) and isinstance(have, list):
        return len(want) == len(have) and all(map(alike, want, have))
    if isinstance(have, _Cookie):
        return have.matches(want)
    return bool(same_errno(want) == same_errno(have))


class _Cookie:
    """A socket cookie or an id of something closed: only whether there is one can be compared."""

    def __init__(self, value: bytes) -> None:
        self.value = value

    def matches(self, want: Answer) -> bool:
        if isinstance(want, dict):
            return any(self.value) == bool(want.get("cookie", 1))
        return isinstance(want, str) and any(bytes.fromhex(want)) == any(self.value)

    def __repr__(self) -> str:
        return f"cookie {self.value.hex()}"


class CaseReplay:
    """The named objects of one case on a freshly booted machine."""

    def __init__(self, target: Target) -> None:
        self._target: Final = target
        self.kernel: Kernel
        self.task: Task
        self.kernel, self.task = target.boot()
        self.stage: Final = Stage(self.kernel)
        for fd in range(FIRST_FD):  # the recorder's standard streams: open, but nothing BPF knows
            self.task.fds[fd] = File("file", Inode("/dev/console"))
            self.task.fds[fd].refs = 1
        self._fds: Final = self.stage.enter("recorder", self.task).fds
        self._ids: Final[
            dict[tuple[bool, int], str]
        ] = {}  # (is a map, id): maps and programs count apart
        self._mappings: Final[dict[str, int]] = {}

    def run(self, operations: Iterable[Operation]) -> list[Answer]:
        """All operations in order. Raises UnsupportedCaseError for one the emulator does not have."""
        answers = [self._run_one(operation) for operation in operations]
        self.kernel.check()
        return answers

    def _run_one(self, operation: Operation) -> Answer:
        runner: Callable[[Operation], Answer] | None = getattr(self, "_op_" + operation["op"], None)
        if runner is None:
            raise UnsupportedCaseError(f"operation {operation['op']!r}")
        answer = answer_of(lambda: runner(operation))
        return answer.word if answer.refusal is not None else answer.value

    # -- objects -------------------------------------------------------------------------------------------------

    def _op_create(self, operation: Operation) -> Answer:
        name = operation.get("m", "a")
        inner_fd = self._inner_fd(operation)
        self._fds[name] = -1
        kind = operation["type"]
        map_type = kind if isinstance(kind, int) else int(map_type_named(kind))
        btf_fd, key_id, value_id = self._btf_fields(operation)
        attr = MapAttr(
            map_type,
            operation["ks"],
            operation["vs"],
            operation["me"],
            operation.get("fl", 0),
            inner_map_fd=inner_fd,
            numa_node=operation.get("numa", 0),
            map_name=operation.get("name", ""),
            map_ifindex=operation.get("ifindex", 0),
            map_extra=operation.get("extra", 0),
            btf_fd=btf_fd,
            btf_key_type_id=key_id,
            btf_value_type_id=value_id,
        )
        if "size" in operation:
            attr = _cut(attr, operation["size"], operation.get("tail", 0))
        self._keep(name, verbs.MAP_CREATE(self.kernel, self.task, attr).fd)
        return 0

    def _keep(self, name: str, fd: int) -> None:
        self._fds[name] = fd
        target = self.task.file(fd).target
        ident = getattr(target, "id", None)
        if ident is not None:
            self._ids[isinstance(target, BpfMap), ident] = name

    def _inner_fd(self, operation: Operation) -> int | None:
        inner = operation.get("inner")
        if inner is None:
            return None
        return self._fds.get(inner, _NO_SUCH_FD)

    def _btf_fields(self, operation: Operation) -> tuple[int | None, int, int]:
        """(descriptor, key type id, value type id)."""
        if "btf" not in operation:
            return None, operation.get("key_id", 0), operation.get("val_id", 0)
        wanted = operation["btf"]
        key_id, value_id = operation.get("key_id", 1), operation.get("val_id", 2)
        fd: int | None
        if wanted is None:
            fd = None
        elif wanted == "bad":
            fd = _NO_SUCH_FD
        else:
            types = (BtfType(BtfKind.INT, 4), BtfType(BtfKind.STRUCT, wanted, members=1))
            fd = verbs.BTF_LOAD(self.kernel, self.task, types)
        return fd, key_id, value_id

    def _op_object(self, operation: Operation) -> Answer:
        name, kind = operation.get("m", "a"), operation["kind"]
        self._fds[name] = -1
        kernel, task = self.kernel, self.task
        if kind == "prog":
            given = operation.get("type", ProgType.SOCKET_FILTER)
            prog_type = given if isinstance(given, int) else prog_type_named(given)
            fd = verbs.PROG_LOAD(kernel, task, ProgAttr(prog_type=prog_type, insn_cnt=2)).fd
        elif kind == "cgroup":
            fd = verbs.OPEN_CGROUP(kernel, task, kernel.cgroup(CASE_CGROUP))
        elif kind == "pidfd":
            fd = verbs.PIDFD_OPEN(kernel, task, task)
        elif kind == "perf":
            fd = verbs.PERF_EVENT_OPEN(kernel, task)
        elif kind == "efd":
            fd = verbs.EPOLL_CREATE(kernel, task)
        elif kind == "file":
            fd = verbs.OPEN(kernel, task, f"/{name}")
        elif kind in SOCKET_KINDS:
            fd = verbs.SOCKET(kernel, task, kind)
        else:
            raise UnsupportedCaseError(f"object of kind {kind!r}")
        self._keep(name, fd)
        return 0

    def _op_close(self, operation: Operation) -> Answer:
        verbs.CLOSE(self.kernel, self.task.pid, self._fds.pop(operation["m"]))
        return 0

    def _op_pin(self, operation: Operation) -> Answer:
        verbs.OBJ_PIN(self.kernel, self.task, operation["path"], self._fd(operation))
        return 0

    def _op_get(self, operation: Operation) -> Answer:
        self._fds[operation["o"]] = -1
        flags = operation.get("fl", 0)
        self._keep(operation["o"], verbs.OBJ_GET(self.kernel, self.task, operation["path"], flags))
        return 0

    def _op_unlink(self, operation: Operation) -> Answer:
        verbs.UNLINK(self.kernel, self.task, operation["path"])
        return 0

    def _op_byid(self, operation: Operation) -> Answer:
        self._fds[operation["o"]] = -1
        ident = operation.get("id")
        if ident is None:
            ident = self._id_asked(operation)
        fd = verbs.MAP_GET_FD_BY_ID(self.kernel, self.task, ident, operation.get("fl", 0))
        self._keep(operation["o"], fd)
        return 0

    def _id_asked(self, operation: Operation) -> int:
        """The id of the named map; 0, which nobody has, where its creation failed."""
        return answer_of(lambda: self._map(operation).id).given or 0

    def _op_cmd(self, operation: Operation) -> Answer:
        self.kernel.bpf.unknown_command(self.task, operation["cmd"])
        return 0

    def _op_info(self, operation: Operation) -> Answer:
        bpf_map = self._map(operation)
        file = self.task.file(self._fd(operation))
        mode = {(True, True): 2, (True, False): 0, (False, True): 1}[file.readable, file.writable]
        return {
            "e": 0,
            "info": [
                int(bpf_map.map_type),
                bpf_map.key_size,
                bpf_map.value_size,
                bpf_map.max_entries,
                bpf_map.map_flags,
            ],
            "memlock": bpf_map.memlock_bytes(),
            "frozen": int(bpf_map.frozen),
            "access": f"0200000{mode}",
        }

    # -- one element ---------------------------------------------------------------------------------------------

    def _op_lookup(self, operation: Operation) -> Answer:
        given = operation.get("v", "")
        bpf_map = self._map_or_none(operation)
        bloom = bpf_map is not None and bpf_map.map_type is MapType.BLOOM_FILTER
        value = self._plain(given, bpf_map) if bloom and given != "" else b""
        found = verbs.MAP_LOOKUP_ELEM(
            self.kernel,
            self.task,
            self._fd(operation),
            self._key(operation),
            operation.get("fl", 0),
            value=value,
            out=_out(given),
        )
        return 0 if bloom else {"e": 0, "v": self._shown(bpf_map, found)}

    def _op_lookup_delete(self, operation: Operation) -> Answer:
        bpf_map = self._map_or_none(operation)
        found = verbs.MAP_LOOKUP_AND_DELETE_ELEM(
            self.kernel,
            self.task,
            self._fd(operation),
            self._key(operation),
            operation.get("fl", 0),
            out=_out(operation.get("v", "")),
        ).value
        return {"e": 0, "v": self._shown(bpf_map, found)}

    def _op_update(self, operation: Operation) -> Answer:
        value = self._value(operation["v"], self._map_or_none(operation))
        verbs.MAP_UPDATE_ELEM(
            self.kernel,
            self.task,
            self._fd(operation),
            self._key(operation),
            value,
            operation.get("fl", 0),
        )
        return 0

    def _op_delete(self, operation: Operation) -> Answer:
        unexpected = operation.get("fl", 0) or (1 if operation.get("v") else 0)
        verbs.MAP_DELETE_ELEM(
            self.kernel, self.task, self._fd(operation), self._key(operation), unexpected
        )
        return 0

    def _op_next_key(self, operation: Operation) -> Answer:
        found = verbs.MAP_GET_NEXT_KEY(
            self.kernel,
            self.task,
            self._fd(operation),
            self._key(operation),
            out=_out(operation.get("v", "")),
        )
        return {"e": 0, "k": found.hex()}

    def _op_freeze(self, operation: Operation) -> Answer:
        verbs.MAP_FREEZE(self.kernel, self.task, self._fd(operation))
        return 0

    # -- many elements, one call each ----------------------------------------------------------------------------

    def _op_fill(self, operation: Operation) -> Answer:
        found = answer_of(lambda: self._map(operation))
        if found.word:
            return {"e": found.word, "n": 0}
        value = b"\x01" * found.value.user_value_size
        fd, flags = self._fd(operation), operation.get("fl", 0)
        return self._repeat(
            operation,
            lambda key: verbs.MAP_UPDATE_ELEM(self.kernel, self.task, fd, key, value, flags),
        )

    def _op_drop(self, operation: Operation) -> Answer:
        if refused := answer_of(lambda: self._map(operation)).word:
            return {"e": refused, "n": 0}
        fd = self._fd(operation)
        unexpected = 0 if "v" in operation else self._target.value_pointer_of_delete
        return self._repeat(
            operation,
            lambda key: verbs.MAP_DELETE_ELEM(self.kernel, self.task, fd, key, unexpected),
        )

    def _repeat(self, operation: Operation, call: Callable[[bytes | None], object]) -> Answer:
        size, start = self._map(operation).key_size, operation["start"]
        keys = (
            number.to_bytes(max(size, 8), "little")[:size] if size else None
            for number in range(start, start + operation["count"])
        )
        run = run_of(partial(call, key) for key in keys)
        return {"e": run.word or 0, "n": run.done}

    def _op_walk(self, operation: Operation) -> Answer:
        keys, error = self._walk(operation)
        if operation.get("ordered"):
            return {"e": error, "keys": [key.hex() for key in keys]}
        keys.sort()
        if len(keys) > _KEYS_LISTED and len(keys[0]) == 4:
            return {"e": error, "set": ranges(int.from_bytes(key, "little") for key in keys)}
        return {"e": error, "keys": [key.hex() for key in keys]}

    def _op_count(self, operation: Operation) -> Answer:
        keys, error = self._walk(operation)
        return {"e": error, "n": len(keys)}

    def _walk(self, operation: Operation) -> tuple[list[bytes], str]:
        """Keys by get_next_key from NULL, and the error that ended the walk."""
        keys: list[bytes] = []
        key: bytes | None = None
        fd = self._fd(operation)
        while len(keys) < _WALK_LIMIT:
            following = self.stage.answer(verbs.MAP_GET_NEXT_KEY, self.task, fd, key)
            if following.word:
                return keys, following.word
            key = following.value
            keys.append(key)
        return keys, "endless"

    def _op_next_key_of_missing(self, operation: Operation) -> Answer:
        fd, size = self._fd(operation), self._map(operation).key_size
        first = verbs.MAP_GET_NEXT_KEY(self.kernel, self.task, fd, None)
        after = verbs.MAP_GET_NEXT_KEY(self.kernel, self.task, fd, b"\xf7" * size)
        return {"e": 0, "first": first == after}

    # -- batches -------------------------------------------------------------------------------------------------

    def _op_update_batch(self, operation: Operation) -> Answer:
        bpf_map, fd = self._map_or_none(operation), self._fd(operation)
        count = operation.get("count", len(operation["ks"]))
        keys = self._joined(operation["ks"], count, lambda key: self._plain_key(key, bpf_map))
        values = self._joined(operation["vs"], count, lambda value: self._value(value, bpf_map))
        return self._batch(
            count,
            lambda: verbs.MAP_UPDATE_BATCH(
                self.kernel,
                self.task,
                fd,
                keys,
                values,
                count,
                operation.get("fl", 0),
                operation.get("bfl", 0),
            ),
        )

    def _op_delete_batch(self, operation: Operation) -> Answer:
        bpf_map, fd = self._map_or_none(operation), self._fd(operation)
        count = operation.get("count", len(operation["ks"]))
        keys = self._joined(operation["ks"], count, lambda key: self._plain_key(key, bpf_map))
        return self._batch(
            count,
            lambda: verbs.MAP_DELETE_BATCH(
                self.kernel,
                self.task,
                fd,
                keys,
                count,
                operation.get("fl", 0),
                operation.get("bfl", 0),
            ),
        )

    def _op_lookup_batch(self, operation: Operation) -> Answer:
        return self._collect(operation, verbs.MAP_LOOKUP_BATCH)

    def _op_lookup_delete_batch(self, operation: Operation) -> Answer:
        return self._collect(operation, verbs.MAP_LOOKUP_AND_DELETE_BATCH)

    def _collect(self, operation: Operation, call: Callable[..., BatchResult]) -> Answer:
        bpf_map, fd, count = self._map_or_none(operation), self._fd(operation), operation["count"]
        kept: list[BatchResult] = []

        def run() -> BatchResult:
            kept.append(
                call(
                    self.kernel,
                    self.task,
                    fd,
                    _pointer(operation["inb"]),
                    count,
                    operation.get("fl", 0),
                    operation.get("bfl", 0),
                    out=Address.BAD if operation.get("kbad") else Address.GOOD,
                )
            )
            return kept[0]

        answer = self._batch(count, run)
        result = kept[0] if kept else BatchResult(0)
        if bpf_map is not None and answer["n"] and answer["e"] in (0, "ENOENT"):
            pairs = self._pairs(bpf_map, result)
            ordered = operation.get("ordered")
            if not ordered and answer["e"] == 0:
                answer["kv"] = len(pairs)
            else:
                answer["kv"] = pairs if ordered else sorted(pairs, key=lambda pair: str(pair[0]))
        if operation.get("ordered"):
            answer["out"] = (result.out_batch or bytes(4))[:4].hex()
        return answer

    def _batch(self, count: int, call: Callable[[], BatchResult]) -> dict[str, Any]:
        answer = answer_of(call)
        if answer.word:
            return {"e": answer.word, "n": count}  # the count is not even zeroed
        return {"e": errno_name(answer.value.errno), "n": answer.value.count}

    def _pairs(self, bpf_map: BpfMap, result: BatchResult) -> list[list[Any]]:
        key_size, value_size = bpf_map.key_size, bpf_map.user_value_size
        return [
            [
                result.keys[key_size * i : key_size * (i + 1)].hex(),
                self._shown(bpf_map, result.values[value_size * i : value_size * (i + 1)]),
            ]
            for i in range(result.count)
        ]

    # -- mappings ------------------------------------------------------------------------------------------------

    def _op_mmap(self, operation: Operation) -> Answer:
        address = verbs.MMAP(
            self.kernel,
            self.task,
            self._fd(operation),
            operation["len"],
            prot=operation["prot"],
            offset=operation.get("off", 0),
        )
        if operation.get("keep"):
            self._mappings[operation.get("m", "a")] = address
        else:
            verbs.MUNMAP(self.kernel, self.task, address)
        return 0

    def _op_munmap(self, operation: Operation) -> Answer:
        address = self._mappings.pop(operation.get("m", "a"), None)
        if address is not None:
            verbs.MUNMAP(self.kernel, self.task, address)
        return 0

    # -- pointers and values -------------------------------------------------------------------------------------

    def _fd(self, operation: Operation) -> int:
        if "rawfd" in operation:
            return int(operation["rawfd"])
        return self._fds.get(operation.get("m") or "a", -1)

    def _map(self, operation: Operation) -> BpfMap:
        found = self._map_or_none(operation)
        if found is None:
            self.task.file(self._fd(operation))
            raise UnsupportedCaseError(f"{operation['op']} on something that is no map")
        return found

    def _map_or_none(self, operation: Operation) -> BpfMap | None:
        file = self.task.fds.get(self._fd(operation))
        return file.target if file is not None and isinstance(file.target, BpfMap) else None

    def _key(self, operation: Operation) -> UserBytes:
        return self._plain_key(operation["k"], self._map_or_none(operation))

    def _plain_key(self, given: Any, bpf_map: BpfMap | None) -> UserBytes:
        """A key as the kernel reads it: the first key_size bytes behind the pointer."""
        key = self._resolve(given)
        if isinstance(key, bytes) and bpf_map is not None:
            if not bpf_map.key_size:
                return Address.BAD  # any pointer where there is no key
            return key.ljust(bpf_map.key_size, b"\0")[: bpf_map.key_size]
        return key

    def _value(self, given: Any, bpf_map: BpfMap | None) -> UserBytes:
        """A value as the kernel reads it; per-CPU types get the first byte + i on CPU i."""
        if bpf_map is not None and bpf_map.map_type in PERCPU_TYPES:
            value = self._resolve(given)
            if not isinstance(value, bytes):
                return value
            width, cpus = round_up_8(bpf_map.value_size), self._target.possible_cpus
            first, rest = value[:1], value[1:]
            return b"".join(
                (bytes([(first[0] + cpu) & 0xFF]) + rest).ljust(width, b"\0")[:width]
                for cpu in range(cpus)
            )
        return self._plain(given, bpf_map)

    def _plain(self, given: Any, bpf_map: BpfMap | None) -> UserBytes:
        value = self._resolve(given)
        if isinstance(value, bytes) and bpf_map is not None:
            return value.ljust(bpf_map.user_value_size, b"\0")[: bpf_map.user_value_size]
        return value

    def _resolve(self, given: Any) -> UserBytes:
        if isinstance(given, dict):
            fd = self._fds.get(given["fd"], -1)
            return (fd & 0xFFFFFFFF).to_bytes(given["size"], "little")
        return _pointer(given)

    def _joined(self, given: Any, count: int, convert: Callable[[Any], UserBytes]) -> UserBytes:
        """The first ``count`` keys or values in a row: the kernel reads no more."""
        if not isinstance(given, list):
            return _pointer(given)
        pieces = [convert(each) for each in given[:count]]
        return b"".join(piece for piece in pieces if isinstance(piece, bytes))

    def _shown(self, bpf_map: BpfMap | None, value: bytes) -> Any:
        if bpf_map is None:
            return value.hex()
        if bpf_map.map_type in PERCPU_TYPES:
            size, width = bpf_map.value_size, round_up_8(bpf_map.value_size)
            return [value[at : at + size].hex() for at in range(0, len(value), width)]
        if bpf_map.map_type in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS, MapType.PROG_ARRAY):
            holds_maps = bpf_map.map_type != MapType.PROG_ARRAY
            return {"id": self._name_of(holds_maps, int.from_bytes(value, "little"))}
        if bpf_map.map_type in _COOKIE_TYPES:
            return _Cookie(value)
        return value.hex()

    def _name_of(self, is_map: bool, ident: int) -> str | None:
        name = self._ids.get((is_map, ident))
        return name if name in self._fds else None


_COOKIE_TYPES: Final = (MapType.SOCKMAP, MapType.SOCKHASH, MapType.REUSEPORT_SOCKARRAY)


def _pointer(given: Any) -> UserBytes:
    if given is None:
        return None
    return Address.BAD if given == "bad" else bytes.fromhex(given)


def _out(given: Any) -> Address:
    if given is None:
        return Address.NULL
    return Address.BAD if given == "bad" else Address.GOOD


def ranges(numbers: Iterable[int]) -> str:
    """Ascending integers as ranges: ``0-3,7``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{a}-{b}" if a != b else f"{a}" for a, b in parts)
