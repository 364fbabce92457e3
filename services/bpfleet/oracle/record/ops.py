"""Runs one case of errno.jsonl on the kernel at hand: the operations in order, one answer per operation."""

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from bpfleet.abi.bpf import Cmd, MapType, map_type_from_name
from bpfleet.abi.errno import Errno
from bpfleet.oracle.record.live import (
    ATTR_BYTES,
    BAD_ADDRESS,
    Buffer,
    bpf,
    btf_load,
    errno_name,
    map_create_attr,
    map_fd_by_id,
    object_info,
)
from bpfleet.oracle.record.objects import open_object

__all__ = ["RecordingSession"]

# An operation and its answer are JSON objects of the recording format.
Operation: TypeAlias = dict[str, Any]
Answer: TypeAlias = Any

NO_SUCH_FD: Final = 9999
PER_CPU_TYPES: Final = frozenset(
    {
        MapType.PERCPU_HASH,
        MapType.PERCPU_ARRAY,
        MapType.LRU_PERCPU_HASH,
        MapType.PERCPU_CGROUP_STORAGE,
    }
)
_ID_TYPES: Final = frozenset({MapType.PROG_ARRAY, MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS})
_COOKIE_TYPES: Final = frozenset({MapType.SOCKMAP, MapType.SOCKHASH, MapType.REUSEPORT_SOCKARRAY})
_WALK_LIMIT: Final = (
    200_000  # keys; a map that changes under the walk could otherwise keep it going
)
_KEYS_LISTED: Final = 8  # more keys than this are given as ranges
_MAP_FAILED: Final = ctypes.c_void_p(-1).value
_PLAIN_BATCHES: Final = {"update_batch": Cmd.MAP_UPDATE_BATCH, "delete_batch": Cmd.MAP_DELETE_BATCH}
_LOOKUP_BATCHES: Final = {
    "lookup_batch": Cmd.MAP_LOOKUP_BATCH,
    "lookup_delete_batch": Cmd.MAP_LOOKUP_AND_DELETE_BATCH,
}

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a map was asked to be; an object that is no map has the shape of hash 4/8."""

    map_type: int = MapType.HASH
    key_size: int = 4
    value_size: int = 8


class RecordingSession:
    """Named objects of one case. ``possible_cpus`` decides the size of per-CPU values."""

    def __init__(self, *, possible_cpus: int, bpffs: str = "/sys/fs/bpf") -> None:
        self._cpus = possible_cpus
        self._bpffs = bpffs
        self._fds: dict[str, int] = {}
        self._shapes: dict[str, _Shape] = {}
        self._mappings: dict[str, tuple[int, int]] = {}

    def run(self, operations: list[Operation]) -> list[Answer]:
        """All operations in order. Raises ``KeyError`` for an operation the format does not have."""
        return [self._run_one(operation) for operation in operations]

    def _run_one(self, operation: Operation) -> Answer:
        runner: Callable[[Operation], Answer] = getattr(self, "_op_" + operation["op"], None) or (
            self._dispatch(operation["op"])
        )
        return runner(operation)

    def _dispatch(self, name: str) -> Callable[[Operation], Answer]:
        if name in _PLAIN_BATCHES:
            return self._plain_batch
        if name in _LOOKUP_BATCHES:
            return self._collecting_batch
        raise KeyError(name)

    # -- objects

    def _op_create(self, operation: Operation) -> Answer:
        name = operation.get("m", "a")
        kind = operation["type"]
        map_type = kind if isinstance(kind, int) else int(map_type_from_name(kind))
        key_size, value_size = operation["ks"], operation["vs"]
        self._shapes[name] = _Shape(map_type, key_size, value_size)
        attr, size = self._create_attr(operation, map_type)
        self._fds[name] = fd = bpf(Cmd.MAP_CREATE, attr, size)
        return errno_name(fd)

    def _create_attr(self, operation: Operation, map_type: int) -> tuple[Buffer, int]:
        size = operation.get("size", ATTR_BYTES)
        attr = map_create_attr(
            map_type,
            (operation["ks"], operation["vs"], operation["me"]),
            flags=operation.get("fl", 0),
            inner_fd=self._inner_fd(operation),
            numa_node=operation.get("numa", 0),
            name=operation.get("name", "").encode(),
            ifindex=operation.get("ifindex", 0),
            btf=self._btf(operation),
            extra=operation.get("extra", 0),
            byte_count=size,
            tail=operation.get("tail", 0),
        )
        return attr, size

    def _inner_fd(self, operation: Operation) -> int:
        inner = operation.get("inner")
        if inner is None:
            return 0
        return NO_SUCH_FD if inner == "badfd" else self._fds[inner]

    def _btf(self, operation: Operation) -> tuple[int, int, int]:
        wanted = operation.get("btf")
        if wanted is None:
            return 0, operation.get("key_id", 0), operation.get("val_id", 0)
        fd = NO_SUCH_FD if wanted == "bad" else btf_load(wanted)
        return fd, operation.get("key_id", 1), operation.get("val_id", 2)

    def _op_object(self, operation: Operation) -> Answer:
        name = operation.get("m", "a")
        self._fds[name] = fd = open_object(operation["kind"], prog_type=operation.get("type"))
        return errno_name(fd)

    def _op_close(self, operation: Operation) -> Answer:
        fd = self._fds.pop(operation.get("m", "a"))
        os.close(fd)
        return 0

    def _op_pin(self, operation: Operation) -> Answer:
        return self._object_path(Cmd.OBJ_PIN, operation["path"], self._fd(operation), 0)

    def _op_get(self, operation: Operation) -> Answer:
        path = Buffer(f"{self._bpffs}/{operation['path']}".encode() + b"\0")
        attr = Buffer(
            struct.pack("<QII", path.address, 0, operation.get("fl", 0)).ljust(ATTR_BYTES, b"\0")
        )
        return self._keep(operation, bpf(Cmd.OBJ_GET, attr, ATTR_BYTES))

    def _object_path(self, cmd: int, path: str, fd: int, flags: int) -> Answer:
        address = Buffer(f"{self._bpffs}/{path}".encode() + b"\0")
        attr = Buffer(struct.pack("<QiI", address.address, fd, flags).ljust(ATTR_BYTES, b"\0"))
        return errno_name(bpf(cmd, attr, ATTR_BYTES))

    def _op_unlink(self, operation: Operation) -> Answer:
        try:
            os.unlink(f"{self._bpffs}/{operation['path']}")
        except OSError as error:
            return errno_name(-(error.errno or 1))
        return 0

    def _op_byid(self, operation: Operation) -> Answer:
        map_id = operation["id"] if "id" in operation else self._id(self._fd(operation))
        return self._keep(operation, map_fd_by_id(map_id, operation.get("fl", 0)))

    def _keep(self, operation: Operation, fd: int) -> Answer:
        self._fds[operation["o"]] = fd
        self._shapes[operation["o"]] = self._shape(operation)
        return errno_name(fd)

    @staticmethod
    def _id(fd: int) -> int:
        return int(struct.unpack_from("<I", object_info(fd)[1], 4)[0])

    def _op_info(self, operation: Operation) -> Answer:
        fd = self._fd(operation)
        if fd < 0:  # of a creation that failed; BPF_OBJ_GET_INFO_BY_FD itself would answer EBADFD
            return Errno.EBADF.name
        result, info = object_info(fd)
        if result < 0:
            return errno_name(result)
        map_type, _, key, value, entries, flags = struct.unpack_from("<6I", info)
        lines = fdinfo(fd)
        return {
            "e": 0,
            "info": [map_type, key, value, entries, flags],
            "memlock": int(lines["memlock"]),
            "frozen": int(lines["frozen"]),
            "access": lines["flags"],
        }

    def _op_cmd(self, operation: Operation) -> Answer:
        return errno_name(bpf(operation["cmd"], Buffer(ATTR_BYTES), ATTR_BYTES))

    # -- one element

    def _op_lookup(self, operation: Operation) -> Answer:
        return self._reading(Cmd.MAP_LOOKUP_ELEM, operation)

    def _op_lookup_delete(self, operation: Operation) -> Answer:
        return self._reading(Cmd.MAP_LOOKUP_AND_DELETE_ELEM, operation)

    def _reading(self, cmd: int, operation: Operation) -> Answer:
        shape = self._shape(operation)
        size = self._value_bytes(shape)
        memory = Buffer(size + 8)
        given = operation.get("v")
        if isinstance(given, str) and given != "bad":
            ctypes.memmove(memory.address, bytes.fromhex(given), len(given) // 2)
        address = memory.address if "v" not in operation else self._pointer(given, memory)
        result = self._element(cmd, operation, address)
        if result < 0:
            return errno_name(result)
        if shape.map_type == MapType.BLOOM_FILTER or address == 0:
            return 0
        return {"e": 0, "v": self._value_read(shape, memory.read(size))}

    def _op_update(self, operation: Operation) -> Answer:
        shape = self._shape(operation)
        memory = self._value_memory(shape, operation["v"])
        return errno_name(
            self._element(Cmd.MAP_UPDATE_ELEM, operation, self._pointer(operation["v"], memory))
        )

    def _op_delete(self, operation: Operation) -> Answer:
        given = operation.get("v")
        memory = Buffer(bytes.fromhex(given)) if given else Buffer(8)
        address = memory.address if given else 0
        return errno_name(self._element(Cmd.MAP_DELETE_ELEM, operation, address))

    def _op_next_key(self, operation: Operation) -> Answer:
        shape = self._shape(operation)
        memory = Buffer(max(shape.key_size, 16))
        given = operation.get("v", "")
        address = self._pointer(given, memory)
        result = self._element(Cmd.MAP_GET_NEXT_KEY, operation, address)
        if result < 0:
            return errno_name(result)
        return {"e": 0, "k": memory.read(shape.key_size).hex()}

    def _op_freeze(self, operation: Operation) -> Answer:
        attr = Buffer(struct.pack("<I", self._fd(operation) & 0xFFFFFFFF).ljust(ATTR_BYTES, b"\0"))
        return errno_name(bpf(Cmd.MAP_FREEZE, attr, ATTR_BYTES))

    def _element(self, cmd: int, operation: Operation, value_address: int) -> int:
        key = self._bytes(operation["k"])
        attr = _element_attr(
            self._fd(operation),
            self._pointer(operation["k"], key),
            value_address,
            operation.get("fl", 0),
        )
        return bpf(cmd, attr, ATTR_BYTES)

    # -- many elements, one call each

    def _op_fill(self, operation: Operation) -> Answer:
        shape = self._shape(operation)
        value = Buffer(b"\x01" * self._value_bytes(shape))
        return self._repeat(Cmd.MAP_UPDATE_ELEM, operation, value.address)

    def _op_drop(self, operation: Operation) -> Answer:
        return self._repeat(Cmd.MAP_DELETE_ELEM, operation, 0)

    def _repeat(self, cmd: int, operation: Operation, value_address: int) -> Answer:
        size = self._shape(operation).key_size
        done = 0
        for number in range(operation["start"], operation["start"] + operation["count"]):
            key = Buffer(number.to_bytes(max(size, 8), "little")[:size]) if size else None
            attr = _element_attr(
                self._fd(operation),
                key.address if key else 0,
                value_address,
                operation.get("fl", 0),
            )
            result = bpf(cmd, attr, ATTR_BYTES)
            if result < 0:
                return {"e": errno_name(result), "n": done}
            done += 1
        return {"e": 0, "n": done}

    def _op_walk(self, operation: Operation) -> Answer:
        keys, error = self._keys(operation)
        if operation.get("ordered"):
            return {"e": error, "keys": [key.hex() for key in keys]}
        keys.sort()
        if len(keys) > _KEYS_LISTED and self._shape(operation).key_size == 4:
            return {"e": error, "set": ranges(int.from_bytes(key, "little") for key in keys)}
        return {"e": error, "keys": [key.hex() for key in keys]}

    def _op_count(self, operation: Operation) -> Answer:
        keys, error = self._keys(operation)
        return {"e": error, "n": len(keys)}

    def _keys(self, operation: Operation) -> tuple[list[bytes], str | int]:
        """Keys by get_next_key from NULL, and the error that ended the walk."""
        size = self._shape(operation).key_size
        key, next_key = Buffer(max(size, 16)), Buffer(max(size, 16))
        keys: list[bytes] = []
        address = 0
        while len(keys) < _WALK_LIMIT:
            attr = _element_attr(self._fd(operation), address, next_key.address, 0)
            result = bpf(Cmd.MAP_GET_NEXT_KEY, attr, ATTR_BYTES)
            if result < 0:
                return keys, errno_name(result)
            keys.append(next_key.read(size))
            ctypes.memmove(key.address, next_key.address, size)
            address = key.address
        return keys, "endless"

    def _op_next_key_of_missing(self, operation: Operation) -> Answer:
        size = self._shape(operation).key_size
        missing = {"k": "f7" * size, "op": "next_key", "m": operation.get("m", "a")}
        first = self._op_next_key({**missing, "k": None})
        answer = self._op_next_key(missing)
        return {"e": 0, "first": answer == first} if isinstance(answer, dict) else answer

    # -- batches

    def _plain_batch(self, operation: Operation) -> Answer:
        shape = self._shape(operation)
        keys = self._packed(
            operation["ks"], lambda key: self._bytes(key).memory.raw[: shape.key_size]
        )
        values = self._packed(
            operation.get("vs", []),
            lambda value: self._value_memory(shape, value).memory.raw[: self._value_bytes(shape)],
        )
        count = operation.get("count", len(operation["ks"]))
        attr = _batch_attr(
            operation,
            self._fd(operation),
            keys=self._pointer(operation["ks"], keys),
            values=self._pointer(operation.get("vs"), values) if "vs" in operation else 0,
            count=count,
        )
        result = bpf(_PLAIN_BATCHES[operation["op"]], attr, ATTR_BYTES)
        return {"e": errno_name(result), "n": _batch_count(attr)}

    def _collecting_batch(self, operation: Operation) -> Answer:
        shape, count = self._shape(operation), operation["count"]
        value_bytes = self._value_bytes(shape)
        keys, values = Buffer(shape.key_size * count + 16), Buffer(value_bytes * count + 16)
        out, given = Buffer(max(shape.key_size, 16)), self._bytes(operation["inb"])
        attr = _batch_attr(
            operation,
            self._fd(operation),
            in_batch=self._pointer(operation["inb"], given),
            out_batch=out.address,
            keys=BAD_ADDRESS if operation.get("kbad") else keys.address,
            values=values.address,
            count=count,
        )
        error = errno_name(bpf(_LOOKUP_BATCHES[operation["op"]], attr, ATTR_BYTES))
        answer: dict[str, Any] = {"e": error, "n": _batch_count(attr)}
        if error in (0, "ENOENT") and answer["n"]:
            pairs = [
                [
                    keys.read(shape.key_size, shape.key_size * index).hex(),
                    self._value_read(shape, values.read(value_bytes, value_bytes * index)),
                ]
                for index in range(answer["n"])
            ]
            answer["kv"] = self._pairs(operation, error, pairs)
        if operation.get("ordered"):
            answer["out"] = out.read(max(4, min(shape.key_size, 4))).hex()
        return answer

    @staticmethod
    def _pairs(operation: Operation, error: str | int, pairs: list[list[Any]]) -> Any:
        if operation.get("ordered"):
            return pairs
        return sorted(pairs, key=lambda pair: str(pair[0])) if error else len(pairs)

    # -- mappings

    def _op_mmap(self, operation: Operation) -> Answer:
        length = operation["len"]
        address = _libc.mmap(
            None, length, operation["prot"], 1, self._fd(operation), operation.get("off", 0)
        )
        if address == _MAP_FAILED:
            return errno_name(-ctypes.get_errno())
        if operation.get("keep"):
            self._mappings[operation.get("m", "a")] = (address, length)
        else:
            _libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(length))
        return 0

    def _op_munmap(self, operation: Operation) -> Answer:
        address, length = self._mappings.pop(operation.get("m", "a"), (0, 0))
        if address:
            _libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(length))
        return 0

    # -- values and pointers

    def _fd(self, operation: Operation) -> int:
        if "rawfd" in operation:
            return int(operation["rawfd"])
        return self._fds.get(operation.get("m") or "a", -1)

    def _shape(self, operation: Operation) -> _Shape:
        return self._shapes.get(operation.get("m") or "a", _Shape())

    def _value_bytes(self, shape: _Shape) -> int:
        if shape.map_type in PER_CPU_TYPES:
            return (shape.value_size + 7) // 8 * 8 * self._cpus
        return shape.value_size if shape.value_size < 1 << 28 else 8

    def _value_memory(self, shape: _Shape, given: Any) -> Buffer:
        plain = self._bytes(given)
        size = self._value_bytes(shape)
        content = plain.memory.raw[: len(plain.memory.raw)]
        if not isinstance(given, str) or given == "bad" or shape.map_type not in PER_CPU_TYPES:
            return Buffer(content.ljust(size, b"\0"))
        slot = (shape.value_size + 7) // 8 * 8
        slots = (
            (bytes([(content[0] + cpu) & 0xFF]) + content[1 : shape.value_size]).ljust(slot, b"\0")
            for cpu in range(self._cpus)
        )
        return Buffer(b"".join(slots))

    def _value_read(self, shape: _Shape, content: bytes) -> Any:
        if shape.map_type in PER_CPU_TYPES:
            slot = (shape.value_size + 7) // 8 * 8
            return [
                content[slot * cpu : slot * cpu + shape.value_size].hex()
                for cpu in range(self._cpus)
            ]
        if shape.map_type in _ID_TYPES and len(content) == 4:
            holds_maps = shape.map_type != MapType.PROG_ARRAY
            return {"id": self._name_of_id(holds_maps, int.from_bytes(content, "little"))}
        if shape.map_type in _COOKIE_TYPES and len(content) == 8 and any(content):
            return {"cookie": 1}
        return content.hex()

    def _name_of_id(self, is_map: bool, wanted: int) -> str | None:
        """The open map, or else program, of that id: maps and programs count apart."""
        for name, fd in self._fds.items():
            if fd < 0 or (name in self._shapes) != is_map or object_info(fd)[0] < 0:
                continue
            if self._id(fd) == wanted:
                return name
        return None

    def _bytes(self, given: Any) -> Buffer:
        if isinstance(given, dict):
            fd = self._fds.get(given["fd"], -1)
            return Buffer(struct.pack("<i", fd).ljust(given["size"], b"\0"))
        if not given or given == "bad":
            return Buffer(16)
        return Buffer(bytes.fromhex(given))

    def _packed(self, items: Any, pack: Callable[[Any], bytes]) -> Buffer:
        return (
            Buffer(b"".join(pack(item) for item in items))
            if isinstance(items, list)
            else Buffer(16)
        )

    @staticmethod
    def _pointer(given: Any, memory: Buffer) -> int:
        if given is None:
            return 0
        return BAD_ADDRESS if given == "bad" else memory.address


def _element_attr(fd: int, key: int, value: int, flags: int) -> Buffer:
    fixed = struct.pack("<I4xQQQ", fd & 0xFFFFFFFF, key, value, flags)
    return Buffer(fixed.ljust(ATTR_BYTES, b"\0"))


def _batch_attr(
    operation: Operation,
    fd: int,
    *,
    keys: int,
    values: int,
    count: int,
    in_batch: int = 0,
    out_batch: int = 0,
) -> Buffer:
    fixed = struct.pack(
        "<QQQQIIQQ", in_batch, out_batch, keys, values, count, fd & 0xFFFFFFFF,
        operation.get("fl", 0), operation.get("bfl", 0),
    )  # fmt: skip
    return Buffer(fixed.ljust(ATTR_BYTES, b"\0"))


def _batch_count(attr: Buffer) -> int:
    return int(struct.unpack("<I", attr.read(4, 32))[0])


def fdinfo(fd: int) -> dict[str, str]:
    """The lines of /proc/self/fdinfo/FD."""
    with open(f"/proc/self/fdinfo/{fd}") as lines:
        return {name: text.strip() for name, _, text in (line.partition(":") for line in lines)}


def ranges(numbers: Iterator[int]) -> str:
    """Ascending runs as text.

    >>> ranges(iter([1, 2, 3, 7, 9, 10]))
    '1-3,7,9-10'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
