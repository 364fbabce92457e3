"""Reads what runs BPF on this host, and writes it as one JSON document. Read-only, bounded in time and memory.

This file is also the script for hosts where nothing may be installed: standard library only, Python 3.6 and later. It
reads no environment, arguments, file contents or contents of maps. Who pays for a map is read by a BPF iterator, a
program of some fifty instructions that is attached to nothing that runs; without it the payer is deduced and marked so.
"""

import argparse
import ctypes
import ctypes.util
import errno
import json
import os
import platform
import re
import socket
import struct
import sys
import time
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

SCHEMA = "bpfleet.capture/1"

_SYS_BPF = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "s390x": 351,
    "ppc64le": 361,
    "loongarch64": 280,
}
_MAP_NEXT, _PROG_NEXT, _BTF_NEXT, _LINK_NEXT = 12, 11, 23, 31
_MAP_FD, _PROG_FD, _BTF_FD, _LINK_FD = 14, 13, 19, 30
_PROG_LOAD, _OBJ_GET, _INFO, _LINK_CREATE, _ITER_CREATE = 5, 7, 15, 28, 33
_LOOKUP, _NEXT_KEY = 1, 4
_TRACING, _TRACE_ITER = 26, 28
_SEQ_WRITE, _READ_KERNEL_STR = 127, 115
_OBJECTS_MAX = 200000
_CGROUPS_MAX = 200000
_KEYS_MAX = 65536
_MEMBERS_MAX = 4096
_TEXT_MAX = 1 << 20
_CLONE_NEWCGROUP = 0x02000000

# Hash, LRU and array maps, per CPU or not: those the element iterator walks.
_ITERATED = frozenset((1, 2, 5, 6, 9, 10))
_MAPS_OF_MAPS = frozenset((12, 13))
_WALKED = frozenset((11, 12, 13, 25))  # LPM trie, maps of maps, devmap_hash

# Structures whose size decides what a map costs: bpfleet's profiles have a field for each.
STRUCTS = (
    "bpf_map", "bpf_array", "bpf_array_aux", "bpf_htab", "lpm_trie", "lpm_trie_node", "bpf_stack_map",
    "bpf_queue_stack", "bpf_ringbuf_map", "bpf_bloom_filter", "bpf_dtab", "bpf_dtab_netdev", "bpf_cpu_map",
    "bpf_cpu_map_entry", "xsk_map", "bpf_stab", "bpf_shtab", "reuseport_array", "bpf_local_storage_map",
    "bpf_local_storage", "bpf_cgroup_storage_map", "bpf_struct_ops_map", "bpf_arena", "bpf_prog", "bpf_prog_aux",
    "bpf_prog_stats", "file", "bpf_lru_locallist", "bpf_lru_list", "pcpu_freelist_head", "bucket", "stack_map_bucket",
    "ptr_ring", "xdp_bulk_queue", "xsk_map_node", "bpf_shtab_bucket", "bpf_local_storage_map_bucket",
    "bpf_cgroup_storage", "bpf_storage_buffer", "bpf_event_entry", "dentry", "inode", "memcg_stock_pcp",
    "bpf_verifier_env", "bpf_insn_aux_data", "bpf_verifier_state", "bpf_verifier_state_list", "bpf_verifier_stack_elem",
    "bpf_func_state", "bpf_stack_state", "bpf_jmp_history_entry", "insn_live_regs", "bpf_liveness", "func_instance",
    "per_frame_masks", "arg_track", "const_arg_info",
)  # fmt: skip
# Members whose presence tells that a change of the kernel is in.
MEMBERS = (
    ("bpf_map", "objcg"), ("bpf_map", "memcg"), ("bpf_map", "memory"), ("bpf_htab", "ma"), ("bpf_htab", "map_locked"),
    ("lpm_trie", "ma"), ("bpf_local_storage_map", "selem_ma"), ("bpf_prog", "active"), ("bpf_map", "map_extra"),
    ("bpf_map", "record"), ("bpf_struct_ops_map", "links"), ("bpf_struct_ops_map", "ksyms"),
    ("memcg_stock_pcp", "cached"), ("bpf_map_ops", "map_mem_usage"),
)  # fmt: skip
_SYSCTLS = (
    "kernel/unprivileged_bpf_disabled", "kernel/perf_event_mlock_kb", "kernel/perf_event_paranoid",
    "kernel/io_uring_disabled", "net/core/bpf_jit_enable", "net/core/bpf_jit_harden", "net/core/bpf_jit_limit",
    "net/core/optmem_max", "vm/overcommit_memory", "vm/min_free_kbytes", "vm/panic_on_oom",
    "kernel/bpf_stats_enabled",
)  # fmt: skip
# Caches whose objects processes are charged for.
_SLABS = frozenset((
    "anon_vma", "anon_vma_chain", "cred_jar", "dentry", "eventpoll_epi", "filp", "inode_cache", "mm_struct", "pid",
    "proc_inode_cache", "signal_cache", "sighand_cache", "sock_inode_cache", "task_struct", "vm_area_struct",
))  # fmt: skip
_BOOT_OPTIONS = ("cgroup.memory", "cgroup_disable", "systemd.unified_cgroup_hierarchy", "cgroup_no_v1", "lockdown",
                 "possible_cpus", "nr_cpus", "maxcpus", "mem", "percpu_alloc", "slub_debug", "lsm")  # fmt: skip

Plain = Any


class Unavailable(Exception):
    """Something cannot be read here; the text says why."""


# -- bpf(2)


class Bpf(object):
    """The bpf(2) calls that only read, by ctypes."""

    def __init__(self) -> None:
        number = _SYS_BPF.get(platform.machine())
        if number is None:
            raise Unavailable("bpf(2) has no known number on " + platform.machine())
        self._number = number
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.syscall.restype = ctypes.c_long

    def call(self, command: int, attr: ctypes.Array) -> int:  # type: ignore[type-arg]  # subscripts fail in 3.6
        """One call. Raises OSError."""
        result = self._libc.syscall(
            ctypes.c_long(self._number),
            ctypes.c_long(command),
            ctypes.byref(attr),
            ctypes.c_long(len(attr)),
        )
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return int(result)

    def ids(self, command: int) -> Iterator[int]:
        """All ids of one kind of object."""
        at = 0
        for _ in range(_OBJECTS_MAX):
            attr = _attr(struct.pack("<III", at, 0, 0))
            try:
                self.call(command, attr)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return
                raise
            at = struct.unpack_from("<I", attr.raw, 4)[0]
            yield at

    def open(self, command: int, number: int) -> Optional[int]:
        """A descriptor of an object; None where it is gone meanwhile."""
        try:
            return self.call(command, _attr(struct.pack("<III", number, 0, 0)))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise

    def info(self, fd: int, size: int, before: bytes = b"") -> bytes:
        """The info of an object, ``size`` bytes of it as far as the kernel has them."""
        space = ctypes.create_string_buffer(before.ljust(size, b"\0"), size)
        attr = _attr(struct.pack("<IIQ", fd, size, ctypes.addressof(space)))
        self.call(_INFO, attr)
        return space.raw

    def pinned(self, path: str) -> int:
        """A descriptor of a pinned object, read-only."""
        name = ctypes.create_string_buffer(path.encode())
        return self.call(_OBJ_GET, _attr(struct.pack("<QII", ctypes.addressof(name), 0, 0)))

    def load(self, instructions: bytes, attach_btf_id: int, name: bytes) -> int:
        """Loads an iterator's program."""
        code = ctypes.create_string_buffer(instructions, len(instructions))
        gpl = ctypes.create_string_buffer(b"GPL")
        attr = bytearray(120)
        struct.pack_into("<IIQQ", attr, 0, _TRACING, len(instructions) // 8, ctypes.addressof(code),
                         ctypes.addressof(gpl))  # fmt: skip
        attr[48 : 48 + len(name)] = name
        struct.pack_into("<I", attr, 68, _TRACE_ITER)
        struct.pack_into("<I", attr, 108, attach_btf_id)
        return self.call(_PROG_LOAD, _attr(bytes(attr)))

    def rows(self, program: int, map_fd: Optional[int] = None) -> Iterator[bytes]:
        """What an iterator writes, piece by piece."""
        about = ctypes.create_string_buffer(struct.pack("<II", map_fd or 0, 0), 8)
        attr = bytearray(64)
        struct.pack_into("<IIII", attr, 0, program, 0, _TRACE_ITER, 0)
        if map_fd is not None:
            struct.pack_into("<QI", attr, 16, ctypes.addressof(about), 8)
        link = self.call(_LINK_CREATE, _attr(bytes(attr)))
        try:
            reader = self.call(_ITER_CREATE, _attr(struct.pack("<II", link, 0)))
            try:
                while True:
                    try:
                        piece = os.read(reader, 1 << 18)
                    except OSError as error:
                        if error.errno == errno.EAGAIN:
                            continue
                        raise
                    if not piece:
                        return
                    yield piece
            finally:
                os.close(reader)
        finally:
            os.close(link)

    def next_key(self, fd: int, key: Optional[bytes], size: int) -> Optional[bytes]:
        """The key after ``key``; None at the end."""
        before = ctypes.create_string_buffer(key or b"", size)
        after = ctypes.create_string_buffer(size)
        attr = _attr(struct.pack("<IIQQ", fd, 0, 0 if key is None else ctypes.addressof(before),
                                 ctypes.addressof(after)))  # fmt: skip
        try:
            self.call(_NEXT_KEY, attr)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return after.raw

    def inner_id(self, fd: int, key: bytes) -> Optional[int]:
        """The id of the map in a slot of a map of maps; None for an empty slot."""
        name, value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(8)
        attr = _attr(
            struct.pack("<IIQQQ", fd, 0, ctypes.addressof(name), ctypes.addressof(value), 0)
        )
        try:
            self.call(_LOOKUP, attr)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL):
                return None
            raise
        return int(struct.unpack_from("<I", value.raw)[0])


def _attr(data: bytes) -> ctypes.Array:  # type: ignore[type-arg]
    return ctypes.create_string_buffer(data.ljust(128, b"\0"), 128)


# -- the kernel's BTF

_TAILS = {1: (4, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 13: (0, 8), 14: (4, 0), 15: (0, 12), 17: (4, 0),
          19: (0, 12)}  # fmt: skip
_STRUCT, _UNION, _ENUM, _FUNC, _ENUM64 = 4, 5, 6, 12, 19
_MODIFIERS = frozenset((8, 9, 10, 11, 18))  # typedef, volatile, const, restrict, type tag


class Btf(object):
    """Types of the running kernel: sizes of structures, offsets of members, ids of functions."""

    def __init__(self, data: bytes) -> None:
        if len(data) < 24 or struct.unpack_from("<H", data)[0] != 0xEB9F:
            raise Unavailable("/sys/kernel/btf/vmlinux is not little-endian BTF")
        header, types_at, types_size, text_at, text_size = struct.unpack_from("<IIIII", data, 4)
        self._types = data[header + types_at : header + types_at + types_size]
        self._text = data[header + text_at : header + text_at + text_size]
        self._at = [0]  # type: List[int]
        self.structs = {}  # type: Dict[str, int]
        self.functions = {}  # type: Dict[str, int]
        self.map_types = []  # type: List[str]
        self._walk()

    def _walk(self) -> None:
        unpack, types, at, number = struct.Struct("<III").unpack_from, self._types, 0, 1
        end, places = len(types), self._at
        while at + 12 <= end:
            name, info, _ = unpack(types, at)
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            places.append(at)
            if kind == _STRUCT and name:
                self.structs.setdefault(self._name(name), number)
            elif kind == _FUNC and self._text[name : name + 9] == b"bpf_iter_":
                self.functions.setdefault(self._name(name), number)
            elif kind in (_ENUM, _ENUM64) and name and self._name(name) == "bpf_map_type":
                each = _TAILS[kind][1]
                self.map_types = [
                    self._name(unpack(types, at + 12 + index * each)[0]) for index in range(count)
                ]
            fixed, each = _TAILS.get(kind, (0, 0))
            at += 12 + fixed + each * count
            number += 1

    def _name(self, at: int) -> str:
        return self._text[at : self._text.index(b"\0", at)].decode("ascii", "replace")

    def size(self, name: str) -> Optional[int]:
        """sizeof(struct NAME)."""
        number = self.structs.get(name)
        return (
            None
            if number is None
            else struct.unpack_from("<I", self._types, self._at[number] + 8)[0]
        )

    def array_length(self, name: str, member: str) -> int:
        """The length of an array member; 0 for any other."""
        found = self._find(self.structs[name], member)
        at = self._at[self._resolved(found[1])] if found is not None else 0
        if found is None or self._kind(self._resolved(found[1])) != 3:
            return 0
        return int(struct.unpack_from("<I", self._types, at + 20)[0])

    def has(self, name: str, member: str) -> bool:
        """Whether the structure has the member, perhaps within an anonymous one."""
        return name in self.structs and self._find(self.structs[name], member) is not None

    def offset(self, name: str, path: str) -> int:
        """Byte offset of a member, such as ``css.cgroup``. Raises Unavailable."""
        number, total = self.structs.get(name), 0
        for member in path.split("."):
            found = None if number is None else self._find(number, member)
            if found is None:
                raise Unavailable("the kernel's BTF has no %s.%s" % (name, path))
            total += found[0]
            number = self._resolved(found[1])
        return total // 8

    def _kind(self, number: int) -> int:
        return int(struct.unpack_from("<I", self._types, self._at[number] + 4)[0] >> 24 & 0x1F)

    def _resolved(self, number: int) -> int:
        while number and self._kind(number) in _MODIFIERS:
            number = struct.unpack_from("<I", self._types, self._at[number] + 8)[0]
        return number

    def _find(self, number: int, member: str) -> Optional[Tuple[int, int]]:
        """Bit offset and type of a member."""
        at = self._at[number]
        info = struct.unpack_from("<I", self._types, at + 4)[0]
        if info >> 24 & 0x1F not in (_STRUCT, _UNION):
            return None
        bitfields = info >> 31
        for index in range(info & 0xFFFF):
            name, type_id, offset = struct.unpack_from("<III", self._types, at + 12 + index * 12)
            offset = offset & 0xFFFFFF if bitfields else offset
            if name and self._name(name) == member:
                return offset, type_id
            if not name:
                inner = self._find(self._resolved(type_id), member)
                if inner is not None:
                    return offset + inner[0], inner[1]
        return None


# -- iterators

_ROW_BYTES, _NAME_BYTES = 128, 64


class _Code(object):
    """A program that follows pointers from an object and writes one row: eight numbers, and one name."""

    def __init__(self) -> None:
        self._code = bytearray()
        self._to_end = []  # type: List[int]
        self._to_write = []  # type: List[int]
        self._emit(0xBF, 6, 1)  # r6 = context
        self._emit(0x79, 7, 6, 8)  # r7 = the object
        self._jump(7, self._to_end)
        for slot in range(_ROW_BYTES // 8):
            self._emit(0x7A, 10, 0, slot * 8 - _ROW_BYTES)

    def _emit(
        self, code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0
    ) -> None:
        self._code += struct.pack("<BBhi", code, source << 4 | to, offset, value)

    def _jump(self, register: int, places: List[int]) -> None:
        places.append(len(self._code) // 8)
        self._emit(0x15, register)  # if it is NULL

    def start(self) -> None:
        """Begins a path at the object."""
        self._emit(0xBF, 8, 7)

    def follow(self, offset: int) -> None:
        """Goes on at what a pointer points to; the row ends where it is NULL."""
        self._emit(0x79, 8, 8, offset)
        self._jump(8, self._to_write)

    def keep(self, slot: int, offset: int, size: int) -> None:
        """Puts a number of 4 or 8 bytes into the row."""
        self._emit(0x61 if size == 4 else 0x79, 1, 8, offset)
        self._emit(0x7B, 10, 1, slot * 8 - _ROW_BYTES)

    def keep_name(self, offset: int) -> None:
        """Puts the text a pointer points to into the row."""
        self._emit(0x79, 3, 8, offset)
        self._emit(0xBF, 1, 10)
        self._emit(0x07, 1, 0, 0, -_NAME_BYTES)
        self._emit(0xB7, 2, 0, 0, _NAME_BYTES)
        self._emit(0x85, 0, 0, 0, _READ_KERNEL_STR)

    def done(self) -> bytes:
        """The instructions."""
        self._land(self._to_write)
        self._emit(0x79, 1, 6, 0)
        self._emit(0x79, 1, 1, 0)
        self._emit(0xBF, 2, 10)
        self._emit(0x07, 2, 0, 0, -_ROW_BYTES)
        self._emit(0xB7, 3, 0, 0, _ROW_BYTES)
        self._emit(0x85, 0, 0, 0, _SEQ_WRITE)
        self._land(self._to_end)
        self._emit(0xB7)
        self._emit(0x95)
        return bytes(self._code)

    def _land(self, places: List[int]) -> None:
        here = len(self._code) // 8
        for place in places:
            struct.pack_into("<h", self._code, place * 8 + 2, here - place - 1)


def _element_code() -> bytes:
    """One byte for each element: no key and no value leaves the kernel."""
    code = [
        (0xBF, 6, 1, 0, 0), (0x79, 7, 6, 16, 0), (0x15, 7, 0, 8, 0), (0x7A, 10, 0, -8, 0), (0x79, 1, 6, 0, 0),
        (0x79, 1, 1, 0, 0), (0xBF, 2, 10, 0, 0), (0x07, 2, 0, 0, -8), (0xB7, 3, 0, 0, 1), (0x85, 0, 0, 0, _SEQ_WRITE),
        (0xB7, 0, 0, 0, 0), (0xB7, 0, 0, 0, 0), (0x95, 0, 0, 0, 0),
    ]  # fmt: skip
    return b"".join(
        struct.pack("<BBhi", op, src << 4 | dst, off, imm) for op, dst, src, off, imm in code
    )


class Charges(object):
    """Who pays, read from the kernel by iterators."""

    def __init__(self, bpf: Bpf, btf: Btf) -> None:
        self._bpf = bpf
        self._btf = btf
        self.how = (
            "objcg"
            if btf.has("bpf_map", "objcg")
            else "memcg"
            if btf.has("bpf_map", "memcg")
            else "user"
        )
        if self.how == "user" and not btf.has("bpf_map", "memory"):
            raise Unavailable("struct bpf_map has none of objcg, memcg and memory")

    def _function(self, name: str) -> int:
        number = self._btf.functions.get("bpf_iter_" + name)
        if number is None:
            raise Unavailable("this kernel has no iterator of kind " + name)
        return number

    def _rows(self, kind: str, code: _Code) -> Iterator[Tuple[Tuple[int, ...], str]]:
        program = self._bpf.load(code.done(), self._function(kind), b"bpfleet_payer")
        try:
            rest = b""
            for piece in self._bpf.rows(program):
                rest += piece
                whole = len(rest) // _ROW_BYTES * _ROW_BYTES
                for at in range(0, whole, _ROW_BYTES):
                    name = rest[at + 64 : at + _ROW_BYTES].split(b"\0", 1)[0]
                    yield struct.unpack_from("<8Q", rest, at), name.decode("utf-8", "replace")
                rest = rest[whole:]
        finally:
            os.close(program)

    def maps(self) -> Dict[int, Dict[str, Plain]]:
        """Payer of each map by its id."""
        offset, code = self._btf.offset, _Code()
        code.start()
        code.keep(0, offset("bpf_map", "id"), 4)
        if self.how == "user":
            self._user(code, "bpf_map", "memory.user")
        else:
            self._memcg(code)
        found = {}
        for row, name in self._rows("bpf_map", code):
            found[row[0]] = self._payer(row, name)
        return found

    def programs(self) -> Dict[int, Dict[str, Plain]]:
        """Payer of each program by its id, where kernels keep it: those that charge users."""
        if self.how != "user":
            return {}
        offset, code = self._btf.offset, _Code()
        code.start()
        code.follow(offset("bpf_prog", "aux"))
        code.keep(0, offset("bpf_prog_aux", "id"), 4)
        self._user(code, "bpf_prog_aux", "user", started=True)
        return {row[0]: self._payer(row, name) for row, name in self._rows("bpf_prog", code)}

    def _user(self, code: _Code, name: str, path: str, started: bool = False) -> None:
        offset = self._btf.offset
        code.follow(offset(name, path))
        code.keep(1, offset("user_struct", "uid"), 4)
        code.keep(2, offset("user_struct", "locked_vm"), 8)
        code.keep(3, offset("user_struct", "uid"), 4)

    def _memcg(self, code: _Code) -> None:
        offset = self._btf.offset
        if self.how == "objcg":
            code.follow(offset("bpf_map", "objcg"))
            code.follow(offset("obj_cgroup", "memcg"))
        else:
            code.follow(offset("bpf_map", "memcg"))
        code.keep(2, offset("mem_cgroup", "css.flags"), 4)
        code.keep(3, offset("mem_cgroup", "memory.usage"), 8)
        code.follow(offset("mem_cgroup", "css.cgroup"))
        code.follow(offset("cgroup", "kn"))
        code.keep(1, offset("kernfs_node", "id"), 8)
        code.keep_name(offset("kernfs_node", "name"))

    def _payer(self, row: Tuple[int, ...], name: str) -> Dict[str, Plain]:
        if self.how == "user":
            return {"kind": "user", "uid": row[1], "read": True}
        if row[1] == 0:
            return {"kind": "root", "read": True}
        payer = {"kind": "cgroup", "cgroup_id": row[1], "name": name, "read": True}  # type: Dict[str, Plain]
        if row[2] and not row[2] & 2:
            payer["removed"] = True
        return payer

    def users(self) -> Dict[int, Dict[str, int]]:
        """Pages locked by each user, and those pinned and locked by processes, from all tasks."""
        offset, code = self._btf.offset, _Code()
        code.start()
        code.keep(0, offset("task_struct", "tgid"), 4)
        code.follow(offset("task_struct", "cred"))
        code.follow(offset("cred", "user"))
        code.keep(1, offset("user_struct", "uid"), 4)
        if self._btf.has("user_struct", "locked_vm"):
            code.keep(2, offset("user_struct", "locked_vm"), 8)
        code.start()
        code.follow(offset("task_struct", "mm"))
        code.keep(3, offset("mm_struct", "pinned_vm"), 8)
        code.keep(4, offset("mm_struct", "locked_vm"), 8)
        users = {}  # type: Dict[int, Dict[str, int]]
        counted = set()  # type: Set[int]
        for row, _ in self._rows("task", code):
            user = users.setdefault(
                row[1], {"locked_pages": row[2], "pinned_pages": 0, "mlocked_pages": 0}
            )
            if row[0] not in counted:
                counted.add(row[0])
                user["pinned_pages"] += row[3]
                user["mlocked_pages"] += row[4]
        return users

    def counter(self) -> "Elements":
        """Counts elements."""
        return Elements(
            self._bpf,
            self._bpf.load(_element_code(), self._function("bpf_map_elem"), b"bpfleet_count"),
        )


class Elements(object):
    """Counts the elements of maps by the element iterator."""

    def __init__(self, bpf: Bpf, program: int) -> None:
        self._bpf = bpf
        self._program = program

    def of(self, fd: int, deadline: float) -> Optional[int]:
        """Elements of a map; None where there is no time left."""
        total = 0
        for piece in self._bpf.rows(self._program, fd):
            total += len(piece)
            if time.time() > deadline:
                return None
        return total

    def close(self) -> None:
        """Unloads the program."""
        os.close(self._program)


# -- files


def _read(path: str) -> str:
    """A small file; empty where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_TEXT_MAX).decode("utf-8", "replace")
    except (OSError, ValueError):
        return ""


def _number(path: str) -> Optional[int]:
    text = _read(path).strip()
    if text == "max":
        return None
    try:
        return int(text)
    except ValueError:
        return None


def _pairs(text: str) -> Dict[str, int]:
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and words[1].isdigit():
            found[words[0]] = int(words[1])
    return found


def _cpus(text: str) -> int:
    """How many CPUs a list such as ``0-3,8`` names."""
    total = 0
    for part in text.strip().split(","):
        low, _, high = part.partition("-")
        if low.isdigit():
            total += int(high or low) - int(low) + 1
    return total


def _fields(text: str) -> Dict[str, str]:
    found = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found[name] = value.strip()
    return found


def _kib(fields: Dict[str, str], name: str) -> int:
    words = fields.get(name, "0").split()
    return int(words[0]) * 1024 if words and words[0].isdigit() else 0


# -- cgroups

_HEX = "[0-9a-f]{64}"
_POD = re.compile(
    r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})"
)
_CONTAINER = re.compile(
    r"^(?:(cri-containerd|crio|docker|libpod|nerdctl|containerd)-)?(" + _HEX + r")(?:\.scope)?$"
)
_RUNTIMES = {
    "cri-containerd": "containerd",
    "crio": "cri-o",
    "libpod": "podman",
    "nerdctl": "containerd",
}
_UNIT = re.compile(r"\.(service|scope|slice|socket|mount|swap)$")


def identify(path: str) -> Dict[str, Plain]:
    """What a cgroup is, from its path: a container of a pod, a pod, a container, a unit of systemd, or only a cgroup.

    >>> identify("/system.slice/cron.service")["unit"]
    'cron.service'
    """
    parts = [part for part in path.split("/") if part]
    what = {"kind": "root" if not parts else "cgroup", "name": parts[-1] if parts else "/"}  # type: Dict[str, Plain]
    pod = _POD.search(path) if "kubepods" in path else None
    if pod is not None:
        what.update(
            kind="pod", pod_uid=pod.group(1).replace("_", "-"), name=pod.group(1).replace("_", "-")
        )
        what["qos"] = (
            "burstable"
            if "burstable" in path
            else "besteffort"
            if "besteffort" in path
            else "guaranteed"
        )
    for part in parts:
        container = _CONTAINER.match(part)
        if (
            container is None
            and pod is not None
            and part is parts[-1]
            and re.match(r"^[0-9a-f]{32,64}$", part)
        ):
            container = re.match(r"^()([0-9a-f]{32,64})$", part)
        if container is None:
            continue
        runtime = container.group(1) or ("docker" if "docker" in parts else "")
        what.update(
            kind="pod-container" if pod is not None else "container",
            container_id=container.group(2),
            name=container.group(2)[:12],
            runtime=_RUNTIMES.get(runtime, runtime),
        )
    if parts and what["kind"] == "cgroup":
        for part in reversed(parts):
            if part.startswith("lxc.payload."):
                what.update(kind="container", runtime="lxc", name=part[len("lxc.payload.") :])
                break
            if _UNIT.search(part):
                what.update(kind="unit", unit=part, name=part)
                break
    return what


def _leave_cgroup_namespace() -> None:
    """In a container that shares the host's processes: sees cgroups as the host's first process does.

    Only this process changes its view. Where that is not allowed, paths of other containers stay relative.
    """
    try:
        if os.readlink("/proc/self/ns/cgroup") == os.readlink("/proc/1/ns/cgroup"):
            return
        with open("/proc/1/ns/cgroup", "rb") as file:
            ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWCGROUP)
    except OSError:
        return


class Cgroups(object):
    """The hierarchy of the memory controller, version 2 or 1."""

    def __init__(self) -> None:
        _leave_cgroup_namespace()
        self.version = 0
        self.mount = ""
        self.root = ""
        self.mounts = []  # type: List[str]
        for line in _read("/proc/self/mountinfo").splitlines():
            before, _, after = line.partition(" - ")
            words, kind = before.split(), after.split()
            if len(words) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
                continue
            self.mounts.append("%s %s" % (kind[0], words[4]))
            memory = "memory" in kind[2].split(",") if kind[0] == "cgroup" else (
                "memory" in _read(words[4] + "/cgroup.controllers").split())  # fmt: skip
            if memory and not self.mount:
                self.version = 2 if kind[0] == "cgroup2" else 1
                self.mount, self.root = words[4], words[3]
        self._by_inode = {}  # type: Dict[int, str]

    def path_of(self, text: str) -> str:
        """The path of a process in this hierarchy, from its /proc/PID/cgroup."""
        for line in text.splitlines():
            _, controllers, path = ([*line.split(":", 2), "", ""])[:3]
            if (self.version == 2 and controllers == "") or (
                self.version == 1 and "memory" in controllers.split(",")
            ):
                path = path.replace(" (deleted)", "")
                if self.root not in ("", "/") and path.startswith(self.root):
                    path = path[len(self.root) :] or "/"
                return path
        return ""

    def walk(self) -> None:
        """Learns the inode of every cgroup."""
        if not self.mount:
            return
        left = [""]
        while left and len(self._by_inode) < _CGROUPS_MAX:
            path = left.pop()
            try:
                self._by_inode[os.stat(self.mount + path).st_ino] = path or "/"
                with os.scandir(self.mount + path) as entries:
                    left.extend(
                        path + "/" + entry.name
                        for entry in entries
                        if entry.is_dir(follow_symlinks=False)
                    )
            except OSError:
                continue

    def named(self, number: int) -> Optional[str]:
        """The path of a cgroup by its id; None for a removed one."""
        return self._by_inode.get(number, self._by_inode.get(number & 0xFFFFFFFF))

    def members(self, path: str) -> List[int]:
        """Processes of a cgroup."""
        return [int(word) for word in _read(self.mount + path + "/cgroup.procs").split()]

    def describe(self, path: str) -> Dict[str, Plain]:
        """Limits, use and nature of a cgroup."""
        at = self.mount + ("" if path == "/" else path)
        found = {"path": path, "version": self.version, "what": identify(path)}  # type: Dict[str, Plain]
        try:
            found["id"] = os.stat(at).st_ino
            with os.scandir(at) as entries:
                found["children"] = sum(entry.is_dir(follow_symlinks=False) for entry in entries)
        except OSError:
            found["id"] = 0
        if self.version == 2:
            for name in (
                "max",
                "high",
                "low",
                "min",
                "current",
                "peak",
                "swap.max",
                "swap.current",
                "oom.group",
            ):
                if os.path.exists(at + "/memory." + name):
                    found[name.replace(".", "_")] = _number(at + "/memory." + name)
            found["stat"] = _pairs(_read(at + "/memory.stat"))
            found["events"] = _pairs(
                _read(at + "/memory.events.local") or _read(at + "/memory.events")
            )
        else:
            for name, file in (("max", "limit_in_bytes"), ("current", "usage_in_bytes"), ("peak", "max_usage_in_bytes"),
                               ("low", "soft_limit_in_bytes"), ("kmem", "kmem.usage_in_bytes"),
                               ("kmem_max", "kmem.limit_in_bytes"), ("failcnt", "failcnt")):  # fmt: skip
                value = _number(at + "/memory." + file)
                found[name] = None if value is not None and value >= 1 << 62 else value
            found["low"] = None
            found["stat"] = _pairs(_read(at + "/memory.stat"))
            found["events"] = _pairs(_read(at + "/memory.oom_control"))
        return found


# -- the host


def _host(cgroups: Cgroups) -> Dict[str, Plain]:
    names = os.uname()
    memory = _fields(_read("/proc/meminfo"))
    distribution = {}
    for line in (_read("/etc/os-release") or _read("/usr/lib/os-release")).splitlines():
        name, equals, value = line.partition("=")
        if equals and name in ("ID", "VERSION_ID", "PRETTY_NAME", "ID_LIKE"):
            distribution[name.lower()] = value.strip("\"'")
    options = {}
    for word in _read("/proc/cmdline").split():
        name, _, value = word.partition("=")
        if name in _BOOT_OPTIONS:
            options[name] = value
    sysctls = {}
    for name in _SYSCTLS:
        value = _read("/proc/sys/" + name).strip()
        if value:
            sysctls[name.replace("/", ".")] = value
    return {
        "name": names.nodename,
        "release": names.release,
        "kernel_version": names.version,
        "machine": names.machine,
        "distribution": distribution,
        "page_size": os.sysconf("SC_PAGE_SIZE"),
        "possible_cpus": _cpus(_read("/sys/devices/system/cpu/possible")) or os.cpu_count() or 1,
        "online_cpus": _cpus(_read("/sys/devices/system/cpu/online")) or os.cpu_count() or 1,
        "ram_bytes": _kib(memory, "MemTotal"),
        "available_bytes": _kib(memory, "MemAvailable"),
        "percpu_bytes": _kib(memory, "Percpu"),
        "swap_bytes": _kib(memory, "SwapTotal"),
        "cgroup_version": cgroups.version,
        "cgroup_mounts": cgroups.mounts,
        "boot_options": options,
        "sysctls": sysctls,
        "slabs": _slabs(),
        "lockdown": _lockdown(),
    }


def _slabs() -> Dict[str, int]:
    """Sizes of objects by the name of their cache; caches that were merged have no name."""
    found = {}
    for line in _read("/proc/slabinfo").splitlines():
        words = line.split()
        if len(words) > 3 and words[0] in _SLABS and words[3].isdigit():
            found[words[0]] = int(words[3])
    return found


def _lockdown() -> str:
    found = re.search(r"\[(\w+)\]", _read("/sys/kernel/security/lockdown"))
    return found.group(1) if found else ""


def _btf_facts(btf: Btf) -> Dict[str, Plain]:
    sizes = {}
    for name in STRUCTS:
        size = btf.size(name)
        if size is not None:
            sizes[name] = size
    members = {}  # type: Dict[str, int]
    for name, member in MEMBERS:
        if btf.has(name, member):
            members[name + "." + member] = btf.array_length(name, member)
    return {"structs": sizes, "members": members, "map_types": btf.map_types}


# -- processes

_STATUS_SIZES = (("rss_anon", "RssAnon"), ("rss_file", "RssFile"), ("rss_shmem", "RssShmem"), ("vm_locked", "VmLck"),
                 ("vm_pinned", "VmPin"), ("vm_pte", "VmPTE"))  # fmt: skip
_BPF_FILES = {"bpf-map": "map_id", "bpf-prog": "prog_id", "bpf_link": "link_id", "btf": "btf_id"}
_UMEM, _AF_XDP, _NETLINK_SOCK_DIAG, _XDP_DIAG_UMEM, _SO_DOMAIN = "af_xdp", 44, 4, 5, 39
_PIDFD_OPEN, _PIDFD_GETFD = 434, 438  # the same on every architecture
_SOCKETS_MAX = 4096
_LOCKERS = {"[perf_event]": "perf", "[io_uring]": "io_uring"}


def _limit(text: str, name: str) -> List[Optional[int]]:
    for line in text.splitlines():
        if line.startswith(name):
            words = line[len(name) :].split()
            return [None if word == "unlimited" else int(word) for word in words[:2]]
    return [None, None]


class XdpSockets(object):
    """AF_XDP sockets, whose umems lock memory of a user: by inode from sock_diag, else by asking each socket."""

    def __init__(self) -> None:
        self.count = 0
        for line in _read("/proc/net/protocols").splitlines():
            words = line.split()
            if len(words) > 2 and words[0] == "XDP" and words[2].isdigit():
                self.count = int(words[2])
        self._sizes = _umem_sizes() if self.count else {}
        self._asked = 0

    def umem(self, pid: int, fd: int, inode: int) -> Optional[int]:
        """Bytes of the umem of an AF_XDP socket, 0 where they are not told; None for other sockets."""
        if not self.count:
            return None
        if inode in self._sizes:
            return self._sizes[inode]
        self._asked += 1
        if self._sizes or self._asked > _SOCKETS_MAX:
            return None
        return 0 if _domain(pid, fd) == _AF_XDP else None


def _umem_sizes() -> Dict[int, int]:
    """Umems by the inode of their socket, from sock_diag; none where the kernel has it not for AF_XDP."""
    sizes = {}  # type: Dict[int, int]
    try:
        link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
    except (AttributeError, OSError):
        return sizes
    with link:
        request = struct.pack("<BBHIIII", _AF_XDP, 0, 0, 0, 0x1F, 0, 0)
        link.settimeout(1.0)
        try:
            link.send(struct.pack("<IHHII", 16 + len(request), 20, 0x301, 1, 0) + request)
            while True:
                data = link.recv(1 << 16)
                at = 0
                while at + 16 <= len(data):
                    length, kind = struct.unpack_from("<IH", data, at)
                    if kind != 20 or length < 32:  # the end, or an error
                        return sizes
                    inode, sizes_at = struct.unpack_from("<I", data, at + 20)[0], at + 32
                    sizes[inode] = 0
                    while sizes_at + 4 <= at + length:
                        size, attribute = struct.unpack_from("<HH", data, sizes_at)
                        if attribute == _XDP_DIAG_UMEM and size >= 12:
                            sizes[inode] = struct.unpack_from("<Q", data, sizes_at + 4)[0]
                        sizes_at += max(4, (size + 3) & ~3)
                    at += (length + 3) & ~3
        except OSError:
            return sizes


def _domain(pid: int, fd: int) -> int:
    """SO_DOMAIN of another process's socket, by a copy of its descriptor [pidfd_getfd, 5.6]; 0 where that cannot be."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    pidfd = int(libc.syscall(_PIDFD_OPEN, ctypes.c_long(pid), 0))
    if pidfd < 0:
        return 0
    copy = int(libc.syscall(_PIDFD_GETFD, ctypes.c_long(pidfd), ctypes.c_long(fd), 0))
    os.close(pidfd)
    if copy < 0:
        return 0
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, 0, fileno=copy) as found:
            return found.getsockopt(socket.SOL_SOCKET, _SO_DOMAIN)
    except OSError:
        return 0


def _descriptors(pid: int, xdp: XdpSockets) -> Tuple[int, Dict[str, Set[int]], Dict[str, int], int]:
    """How many descriptors a process has; ids of BPF objects; counts of others that lock memory; bytes of umems."""
    umems = 0
    held = {name: set() for name in ("map_id", "prog_id", "link_id", "btf_id")}  # type: Dict[str, Set[int]]
    lockers, count, base = {}, 0, "/proc/%d/" % pid  # type: Dict[str, int], int, str
    with os.scandir(base + "fd") as entries:
        for entry in entries:
            count += 1
            try:
                target = os.readlink(entry.path)
            except OSError:
                continue
            kind = target[len("anon_inode:") :] if target.startswith("anon_inode:") else ""
            if kind in _BPF_FILES:
                fields = _fields(_read(base + "fdinfo/" + entry.name))
                number = fields.get(_BPF_FILES[kind], "")
                if number.isdigit():
                    held[_BPF_FILES[kind]].add(int(number))
            elif kind in _LOCKERS:
                lockers[_LOCKERS[kind]] = lockers.get(_LOCKERS[kind], 0) + 1
            elif target.startswith("socket:[") and xdp.count:
                size = xdp.umem(pid, int(entry.name), int(target[len("socket:[") : -1]))
                if size is not None:
                    lockers[_UMEM] = lockers.get(_UMEM, 0) + 1
                    umems += size
    return count, held, lockers, umems


def _mappings(maps: str) -> Dict[str, int]:
    """How many mappings a process has, how many it may write and keep for itself, and of how many files."""
    count, writable, files = 0, 0, set()  # type: int, int, Set[str]
    for line in maps.splitlines():
        words = line.split(None, 5)
        if len(words) < 5:
            continue
        count += 1
        writable += words[1][1:4] == "w-p"
        if words[4] != "0" and not words[4].startswith("anon_inode"):
            files.add(words[3] + " " + words[4])
    return {"vmas": count, "writable_vmas": writable, "mapped_files": len(files)}


def _locked_mappings(maps: str) -> Dict[str, int]:
    """Bytes of buffers of perf and io_uring that a process has mapped."""
    found = {}  # type: Dict[str, int]
    for line in maps.splitlines():
        kind = line.rpartition("anon_inode:")[2] if "anon_inode:" in line else ""
        if kind in _LOCKERS:
            low, _, high = line.split()[0].partition("-")
            found[_LOCKERS[kind]] = found.get(_LOCKERS[kind], 0) + int(high, 16) - int(low, 16)
    return found


def _process(pid: int, cgroups: Cgroups, xdp: XdpSockets) -> Optional[Dict[str, Plain]]:
    try:
        count, held, lockers, umems = _descriptors(pid, xdp)
    except OSError:
        return None
    status = _fields(_read("/proc/%d/status" % pid))
    locked = {name: _kib(status, field) for name, field in _STATUS_SIZES}
    if (
        not any(held.values())
        and not lockers
        and not locked["vm_locked"]
        and not locked["vm_pinned"]
    ):
        return None
    limits = _read("/proc/%d/limits" % pid)
    uids = status.get("Uid", "0 0").split()
    process = {
        "pid": pid,
        "comm": _read("/proc/%d/comm" % pid).strip(),
        "uid": int(uids[0]),
        "euid": int(uids[1]),
        "capabilities": status.get("CapEff", "0"),
        "seccomp": int(status.get("Seccomp", "0") or 0),
        "memlock": _limit(limits, "Max locked memory"),
        "nofile": _limit(limits, "Max open files"),
        "oom_score_adj": _number("/proc/%d/oom_score_adj" % pid) or 0,
        "threads": int(status.get("Threads", "1") or 1),
        "descriptors": count,
        "cgroup": cgroups.path_of(_read("/proc/%d/cgroup" % pid)),
        "maps": sorted(held["map_id"]),
        "programs": sorted(held["prog_id"]),
        "links": sorted(held["link_id"]),
        "btfs": sorted(held["btf_id"]),
    }  # type: Dict[str, Plain]
    process.update(locked)
    maps = _read("/proc/%d/maps" % pid)
    process.update(_mappings(maps))
    if lockers:
        mapped = _locked_mappings(maps)
        mapped[_UMEM] = umems
        process["lockers"] = [
            {"kind": kind, "descriptors": lockers[kind], "mapped_bytes": mapped.get(kind, 0)}
            for kind in sorted(lockers)
        ]
    return process


def _others(pids: List[int], known: Set[int]) -> Dict[str, int]:
    """Sums over the processes of a cgroup that hold nothing of BPF."""
    found = {"processes": 0, "threads": 0, "descriptors": 0, "vm_pte": 0, "vmas": 0, "writable_vmas": 0,
             "mapped_files": 0}  # fmt: skip
    for pid in pids[:_MEMBERS_MAX]:
        if pid in known:
            continue
        status = _fields(_read("/proc/%d/status" % pid))
        if "VmPTE" not in status:
            continue  # a thread of the kernel, or gone
        found["processes"] += 1
        found["threads"] += int(status.get("Threads", "1") or 1)
        found["vm_pte"] += _kib(status, "VmPTE")
        try:
            found["descriptors"] += len(os.listdir("/proc/%d/fd" % pid))
        except OSError:
            pass
        for name, number in _mappings(_read("/proc/%d/maps" % pid)).items():
            found[name] += number
    return found


# -- objects


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")


def _fdinfo(fd: int) -> Dict[str, str]:
    return _fields(_read("/proc/self/fdinfo/%d" % fd))


def _whole(fields: Dict[str, str], name: str) -> int:
    try:
        return int(fields.get(name, "0"), 0)
    except ValueError:
        return 0


def _map(bpf: Bpf, fd: int) -> Dict[str, Plain]:
    info, fields = bpf.info(fd, 88), _fdinfo(fd)
    kind, number, key, value, entries, flags = struct.unpack_from("<6I", info)
    ifindex, vmlinux_value = struct.unpack_from("<2I", info, 40)
    btf_id, btf_key, btf_value = struct.unpack_from("<3I", info, 64)
    found = {
        "id": number, "type": kind, "name": _text(info[24:40]), "key_size": key, "value_size": value,
        "max_entries": entries, "flags": flags, "extra": struct.unpack_from("<Q", info, 80)[0],
        "memlock_bytes": _whole(fields, "memlock"), "frozen": bool(_whole(fields, "frozen")), "btf_id": btf_id,
        "btf_key_type_id": btf_key, "btf_value_type_id": btf_value, "btf_vmlinux_value_type_id": vmlinux_value,
        "ifindex": ifindex,
    }  # type: Dict[str, Plain]  # fmt: skip
    if "owner_prog_type" in fields:
        found["owner_prog_type"] = _whole(fields, "owner_prog_type")
        found["owner_jited"] = bool(_whole(fields, "owner_jited"))
    return found


def _program(bpf: Bpf, fd: int) -> Dict[str, Plain]:
    info, fields = bpf.info(fd, 232), _fdinfo(fd)
    kind, number = struct.unpack_from("<2I", info)
    jited, xlated = struct.unpack_from("<2I", info, 16)
    uid, map_count = struct.unpack_from("<2I", info, 48)
    functions = struct.unpack_from("<I", info, 144)[0]
    lines = struct.unpack_from("<I", info, 148)[0]
    found = {
        "id": number, "type": kind, "name": _text(info[64:80]), "tag": "".join("%02x" % byte for byte in info[8:16]),
        "uid": uid, "insn_cnt": xlated // 8, "jited_bytes": jited, "memlock_bytes": _whole(fields, "memlock"),
        "btf_id": struct.unpack_from("<I", info, 128)[0], "functions": functions, "lines": lines,
        "verified_insns": struct.unpack_from("<I", info, 216)[0], "maps": [],
        "attach_btf_id": struct.unpack_from("<I", info, 224)[0],
    }  # type: Dict[str, Plain]  # fmt: skip
    if map_count:
        ids = ctypes.create_string_buffer(4 * map_count)
        before = bytearray(64)
        struct.pack_into("<IQ", before, 52, map_count, 0)
        struct.pack_into("<Q", before, 56, ctypes.addressof(ids))
        bpf.info(fd, 232, bytes(before))
        found["maps"] = list(struct.unpack("<%dI" % map_count, ids.raw))
    return found


def _link(bpf: Bpf, fd: int) -> Dict[str, Plain]:
    info = bpf.info(fd, 64)
    kind, number, program = struct.unpack_from("<3I", info)
    found = {"id": number, "type": kind, "program": program}
    if kind in (2, 10, 6):  # tracing, netfilter aside: attach type stands first
        found["attach_type"] = struct.unpack_from("<I", info, 16)[0]
    return found


def _btf_object(bpf: Bpf, fd: int) -> Dict[str, Plain]:
    info = bpf.info(fd, 32)
    size, number = struct.unpack_from("<2I", info, 8)
    return {"id": number, "bytes": size, "kernel": bool(struct.unpack_from("<I", info, 28)[0])}


def _pins() -> Iterator[str]:
    """Paths of all pinned objects in the mounts of bpffs."""
    seen = set()  # type: Set[Tuple[int, int]]
    for line in _read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        if not after.startswith("bpf "):
            continue
        left, count = [before.split()[4]], 0
        while left and count < _OBJECTS_MAX:
            try:
                with os.scandir(left.pop()) as entries:
                    for entry in entries:
                        count += 1
                        at = entry.stat(follow_symlinks=False)
                        if (at.st_dev, at.st_ino) in seen or entry.is_symlink():
                            continue
                        seen.add((at.st_dev, at.st_ino))
                        if entry.is_dir(follow_symlinks=False):
                            left.append(entry.path)
                        else:
                            yield entry.path
            except OSError:
                continue


def _pin_target(bpf: Bpf, path: str) -> Optional[Tuple[str, int]]:
    try:
        fd = bpf.pinned(path)
    except OSError:
        return None
    try:
        fields = _fdinfo(fd)
        for key, kind in (("map_id", "maps"), ("link_id", "links"), ("prog_id", "programs")):
            if key in fields:
                return kind, _whole(fields, key)
        return None
    finally:
        os.close(fd)


# -- the collector


class Collector(object):
    """One capture. Every stage notes what it could not read, instead of failing the whole."""

    def __init__(self, use_bpf: bool, count_elements: bool, budget: float) -> None:
        self._use_bpf = use_bpf
        self._count = count_elements
        self._deadline = time.time() + budget
        self._notes = []  # type: List[str]
        self._cgroups = Cgroups()

    def document(self) -> Dict[str, Plain]:
        """The whole document. Raises Unavailable or OSError where nothing can be read at all."""
        started = time.time()
        bpf = Bpf()
        self._cgroups.walk()
        document = {
            "schema": SCHEMA,
            "taken_at": int(started),
            "host": _host(self._cgroups),
            "notes": self._notes,
        }  # type: Dict[str, Plain]
        document["processes"] = self._processes()
        maps = self._objects(bpf, "maps", _MAP_NEXT, _MAP_FD, _map)
        programs = self._objects(bpf, "programs", _PROG_NEXT, _PROG_FD, _program)
        document["links"] = self._objects(bpf, "links", _LINK_NEXT, _LINK_FD, _link, newer=True)
        document["btfs"] = self._objects(bpf, "btfs", _BTF_NEXT, _BTF_FD, _btf_object, newer=True)
        document["maps"], document["programs"] = maps, programs
        self._pinned(bpf, document)
        self._inner(bpf, maps)
        self._charges(bpf, document)
        document["cgroups"] = self._cgroup_rows(document)
        document["seconds"] = round(time.time() - started, 3)
        return document

    def _late(self, what: str) -> bool:
        if time.time() < self._deadline:
            return False
        note = what + " are incomplete: the time allowed was over"
        if note not in self._notes:
            self._notes.append(note)
        return True

    def _processes(self) -> List[Dict[str, Plain]]:
        found, xdp = [], XdpSockets()
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            if self._late("processes"):
                break
            process = _process(int(name), self._cgroups, xdp)
            if process is not None:
                found.append(process)
        return sorted(found, key=lambda process: process["pid"])

    def _objects(
        self, bpf: Bpf, what: str, following: int, opening: int, read: Plain, newer: bool = False
    ) -> List[Dict[str, Plain]]:
        found = []
        try:
            for number in bpf.ids(following):
                if self._late(what):
                    break
                fd = bpf.open(opening, number)
                if fd is None:
                    continue
                try:
                    found.append(read(bpf, fd))
                finally:
                    os.close(fd)
        except OSError as error:
            if not newer:
                raise Unavailable("%s cannot be listed: %s" % (what, _why(error)))
            self._notes.append("%s cannot be listed: %s" % (what, error.strerror))
        return found

    def _pinned(self, bpf: Bpf, document: Dict[str, Plain]) -> None:
        pins = {}  # type: Dict[Tuple[str, int], List[str]]
        for path in _pins():
            if self._late("pins"):
                break
            target = _pin_target(bpf, path)
            if target is not None:
                pins.setdefault(target, []).append(path)
        for kind in ("maps", "programs", "links"):
            for entry in document[kind]:
                entry["pinned"] = sorted(pins.get((kind, entry["id"]), []))

    def _inner(self, bpf: Bpf, maps: List[Dict[str, Plain]]) -> None:
        for entry in maps:
            if entry["type"] not in _MAPS_OF_MAPS or self._late("inner maps"):
                continue
            fd = bpf.open(_MAP_FD, entry["id"])
            if fd is None:
                continue
            try:
                slots = self._slots(bpf, fd, entry)
                entry["inner"], entry["elements"] = sorted(set(slots)), len(slots)
            except OSError as error:
                self._notes.append(
                    "inner maps of map %d cannot be read: %s" % (entry["id"], error.strerror)
                )
            finally:
                os.close(fd)

    def _slots(self, bpf: Bpf, fd: int, entry: Dict[str, Plain]) -> List[int]:
        found, key = [], None  # type: List[int], Optional[bytes]
        for _ in range(min(entry["max_entries"], _KEYS_MAX)):
            key = bpf.next_key(fd, key, entry["key_size"])
            if key is None or self._late("inner maps"):
                break
            number = bpf.inner_id(fd, key)
            if number is not None:
                found.append(number)
        return found

    def _charges(self, bpf: Bpf, document: Dict[str, Plain]) -> None:
        """Payers read, else deduced from holders; users; elements; facts of the BTF."""
        charges, why = None, "left out by --no-bpf"  # type: Optional[Charges], str
        users = {}  # type: Dict[int, Dict[str, int]]
        document["btf"] = None
        try:
            with open("/sys/kernel/btf/vmlinux", "rb") as file:
                btf = Btf(file.read(64 << 20))
            document["btf"] = _btf_facts(btf)
            if self._use_bpf:
                charges = Charges(bpf, btf)
                _raise_memlock()
                payers, of_programs, users = charges.maps(), charges.programs(), charges.users()
                self._settle(document, payers, of_programs)
                why = ""
        except Unavailable as error:
            charges, why = None, str(error)
        except OSError as error:
            charges, why = None, "no BTF" if error.errno == errno.ENOENT else _why(error)
        document["charges"] = {
            "read": not why,
            "how": charges.how if charges is not None else "",
            "why_not": why,
        }
        if why:
            self._settle(document, {}, {})
        document["users"] = [dict(uid=uid, **users[uid]) for uid in sorted(users)]
        if self._count:
            self._elements(bpf, charges, document["maps"])

    def _settle(
        self,
        document: Dict[str, Plain],
        payers: Dict[int, Dict[str, Plain]],
        of_programs: Dict[int, Dict[str, Plain]],
    ) -> None:
        for kind, known in (("maps", payers), ("programs", of_programs)):
            holders = {}  # type: Dict[int, List[Dict[str, Plain]]]
            for process in document["processes"]:
                for number in process[kind]:
                    holders.setdefault(number, []).append(process)
            for entry in document[kind]:
                holding = holders.get(entry["id"], [])
                entry["holders"] = [process["pid"] for process in holding]
                payer = known.get(entry["id"])
                if payer is None:
                    payer = {"kind": "unknown", "read": False}
                    if holding:
                        payer = {"kind": "cgroup", "path": holding[0]["cgroup"], "read": False}
                elif payer["kind"] == "cgroup":
                    path = self._cgroups.named(payer["cgroup_id"])
                    payer["path"] = path if path is not None else payer["name"]
                    if path is None:
                        payer["removed"] = True
                    elif path == "/":
                        payer = {"kind": "root", "read": True}
                entry["payer"] = payer
        self._program_payers(document)

    def _program_payers(self, document: Dict[str, Plain]) -> None:
        """A program nobody holds is most likely paid for by who pays for its maps."""
        payers = {entry["id"]: entry["payer"] for entry in document["maps"]}
        for entry in document["programs"]:
            if entry["payer"]["kind"] == "unknown":
                of_maps = [payers[number] for number in entry["maps"] if number in payers]
                if of_maps and all(payer == of_maps[0] for payer in of_maps):
                    entry["payer"] = dict(of_maps[0], read=False)

    def _elements(self, bpf: Bpf, charges: Optional[Charges], maps: List[Dict[str, Plain]]) -> None:
        counter = None
        try:
            counter = charges.counter() if charges is not None else None
        except (OSError, Unavailable) as error:
            self._notes.append("elements are not counted by the iterator: %s" % error)
        for entry in sorted(maps, key=lambda each: int(each["max_entries"])):
            if self._late("elements"):
                break
            fd = bpf.open(_MAP_FD, entry["id"])
            if fd is None:
                continue
            try:
                if entry["type"] in _ITERATED and counter is not None:
                    entry["elements"] = counter.of(fd, self._deadline)
                elif entry["type"] in _WALKED:
                    entry["elements"] = self._walked(bpf, fd, entry)
            except OSError:
                entry["elements"] = None
            finally:
                os.close(fd)
        if counter is not None:
            counter.close()

    def _walked(self, bpf: Bpf, fd: int, entry: Dict[str, Plain]) -> Optional[int]:
        if entry["type"] in _MAPS_OF_MAPS:
            return entry.get("elements")  # counted with its inner maps
        count, key = 0, None  # type: int, Optional[bytes]
        while count < _KEYS_MAX and time.time() < self._deadline:
            key = bpf.next_key(fd, key, entry["key_size"])
            if key is None:
                return count
            count += 1
        return None

    def _cgroup_rows(self, document: Dict[str, Plain]) -> List[Dict[str, Plain]]:
        """Every cgroup that pays or holds, and all its ancestors."""
        paths = {process["cgroup"] for process in document["processes"] if process["cgroup"]}
        removed = {}  # type: Dict[int, str]
        for entry in document["maps"] + document["programs"]:
            payer = entry["payer"]
            if payer.get("removed"):
                removed[payer.get("cgroup_id", 0)] = payer["path"]
            elif payer["kind"] == "cgroup":
                paths.add(payer["path"])
        wanted = {"/"}
        for path in paths:
            parts = path.strip("/").split("/")
            wanted.update(
                "/" + "/".join(parts[:count]) for count in range(1, len(parts) + 1) if parts[0]
            )
        rows = [self._cgroups.describe(path) for path in sorted(wanted)]
        known = {process["pid"] for process in document["processes"]}
        for row in rows:
            if row["path"] in paths and row["path"] != "/" and not self._late("other processes"):
                row["others"] = _others(self._cgroups.members(row["path"]), known)
        for number in sorted(removed):
            rows.append({"path": removed[number], "id": number, "version": self._cgroups.version, "removed": True,
                         "what": {"kind": "removed", "name": removed[number]}})  # fmt: skip
        return rows


def _why(error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        lockdown = _lockdown()
        if lockdown == "confidentiality":
            return "lockdown=confidentiality forbids it"
        if int(_fields(_read("/proc/self/status")).get("Seccomp", "0") or 0) == 2:
            return "a seccomp filter, or a missing capability, forbids it (CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN)"
        return "CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN, are missing"
    if error.errno == errno.ENOSYS:
        return "this kernel has no bpf(2)"
    if error.errno == errno.EINVAL:
        return "this kernel is too old for it (5.8 and later)"
    return str(error.strerror)


def _raise_memlock() -> None:
    """On kernels that charge users the iterator's own page needs room under RLIMIT_MEMLOCK."""
    import resource

    try:
        resource.setrlimit(
            resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
    except (ValueError, OSError):
        pass


def collect(
    use_bpf: bool = True, count_elements: bool = False, budget: float = 30.0
) -> Dict[str, Plain]:
    """The document of this host. Raises Unavailable with one line that says why there is none."""
    if not sys.platform.startswith("linux"):
        raise Unavailable("captures are taken on Linux")
    try:
        return Collector(use_bpf, count_elements, budget).document()
    except OSError as error:
        raise Unavailable(_why(error))


def uses_bpf() -> bool:
    """Whether this host has a BPF map, as far as this user may see."""
    try:
        return next(Bpf().ids(_MAP_NEXT), None) is not None
    except (OSError, Unavailable):
        return False


def main() -> int:
    """The command line of the one-file script."""
    parser = argparse.ArgumentParser(
        description="Capture what runs BPF on this host, as JSON on standard output."
    )
    parser.add_argument(
        "--no-bpf", action="store_true", help="load no iterator; payers are deduced"
    )
    parser.add_argument("--count-elements", action="store_true", help="count the elements of maps")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds to spend at most")
    options = parser.parse_args()
    try:
        document = collect(not options.no_bpf, options.count_elements, options.budget)
    except Unavailable as error:
        sys.stderr.write("capture: %s\n" % error)
        return 1
    json.dump(document, sys.stdout, separators=(",", ":"), sort_keys=True)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
