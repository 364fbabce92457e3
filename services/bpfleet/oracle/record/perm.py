"""Records perm-*.jsonl: who may create which map, load which program, and use the other commands."""

import ctypes
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bpfleet.abi.bpf import (
    F_MMAPABLE,
    F_NO_PREALLOC,
    AttachType,
    Capability,
    Cmd,
    MapType,
    ProgType,
    map_type_from_name,
)
from bpfleet.oracle.record.live import (
    ATTR_BYTES,
    Buffer,
    bpf,
    btf_load,
    errno_name,
    map_create_attr,
    map_fd_by_id,
    object_info,
    prog_load,
)

__all__ = [
    "CredentialsRefused",
    "SysctlRefused",
    "read_sysctl",
    "record_permissions",
    "write_sysctl",
]

_SYSCTL: Final = Path("/proc/sys/kernel/unprivileged_bpf_disabled")
_NR_CAPSET: Final = 126
_CAPABILITY_VERSION_3: Final = 0x20080522
_PR_SET_KEEPCAPS: Final = 8
_STORAGES: Final = ("sk_storage", "inode_storage", "task_storage", "cgrp_storage")
_MAPS_OF_MAPS: Final = ("array_of_maps", "hash_of_maps")
_FOUR_BYTE_VALUES: Final = (
    "prog_array", "perf_event_array", "cgroup_array", *_MAPS_OF_MAPS, "devmap", "devmap_hash",
    "sockmap", "sockhash", "cpumap", "xskmap",
)  # fmt: skip
# (key, value, entries, flags) of the types that are not 4/8 with 4 entries
_SHAPES: Final = {
    "lpm_trie": (8, 8, 4, F_NO_PREALLOC),
    "queue": (0, 8, 4, 0),
    "stack": (0, 8, 4, 0),
    "bloom_filter": (0, 8, 4, 0),
    "ringbuf": (0, 0, 4096, 0),
    "user_ringbuf": (0, 0, 4096, 0),
    "cgroup_storage": (16, 8, 0, 0),
    "percpu_cgroup_storage": (16, 8, 0, 0),
    "arena": (0, 0, 4, F_MMAPABLE),
    "stack_trace": (4, 80, 4, 0),
    "cpumap": (4, 4, 1, 0),
}
_PROGRAMS_AT_A_HOOK: Final = {"sk_lookup": AttachType.SK_LOOKUP}

_libc: Final = ctypes.CDLL(None, use_errno=True)


class CredentialsRefused(Exception):
    """This process has not the capabilities a case asks for; the text says what happened."""


class SysctlRefused(Exception):
    """unprivileged_bpf_disabled cannot have the value a case asks for; the text says why."""


def read_sysctl() -> int:
    """unprivileged_bpf_disabled of this machine."""
    return int(_SYSCTL.read_text())


def write_sysctl(value: int) -> None:
    """Sets unprivileged_bpf_disabled of the whole machine. 1 cannot be taken back until reboot.

    Raises ``SysctlRefused``.
    """
    if read_sysctl() == value:
        return
    try:
        _SYSCTL.write_text(str(value))
    except OSError as error:
        raise SysctlRefused(f"kernel.unprivileged_bpf_disabled={value}: {error.strerror}") from None


def record_permissions(case: dict[str, Any]) -> dict[str, Any]:
    """``case`` with an errno for each of its maps, progs and other commands, under its uid and capabilities.

    Raises ``CredentialsRefused``.
    """
    example = bpf(Cmd.MAP_CREATE, map_create_attr(MapType.ARRAY, (4, 8, 1)), ATTR_BYTES)
    map_id = struct.unpack_from("<I", object_info(example)[1], 4)[0]
    answers = _as_user(case["uid"], case["caps"], lambda: _answers(case, map_id))
    os.close(example)
    if "failed" in answers:
        raise CredentialsRefused(answers["failed"])
    return {name: case[name] for name in ("id", "sysctl", "uid", "caps")} | answers


def _answers(case: dict[str, Any], map_id: int) -> dict[str, Any]:
    return {
        "maps": {name: _create(name) for name in case["maps"]},
        "progs": {name: _load(name) for name in case["progs"]},
        "other": {name: _other(name, map_id) for name in case["other"]},
    }


def _as_user(uid: int, caps: str | list[str], call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Runs ``call`` in a forked child with these credentials."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            if caps != "all":
                _become(uid, [Capability[name] for name in caps])
            answer = json.dumps(call())
        except BaseException as error:
            answer = json.dumps({"failed": repr(error)})
        os.write(write, answer.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        answers: dict[str, Any] = json.loads(stream.read())
    os.waitpid(child, 0)
    return answers


def _become(uid: int, caps: list[Capability]) -> None:
    _libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    low = sum(1 << cap for cap in caps if cap < 32)
    high = sum(1 << (cap - 32) for cap in caps if cap >= 32)
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    data = struct.pack("<6I", low, low, 0, high, high, 0)
    if _libc.syscall(_NR_CAPSET, header, data):
        raise OSError(ctypes.get_errno(), "capset")


def _create(name: str) -> str | int:
    """The errno of creating a map, with what had to be made first in front where that was refused."""
    inner = btf = 0
    if name in _MAPS_OF_MAPS:
        inner = bpf(Cmd.MAP_CREATE, map_create_attr(MapType.ARRAY, (4, 8, 4)), ATTR_BYTES)
        if inner < 0:
            return f"inner:{errno_name(inner)}"
    if name in _STORAGES:
        btf = btf_load(8)
        if btf < 0:
            return f"btf:{errno_name(btf)}"
    return errno_name(bpf(Cmd.MAP_CREATE, _attr(name, inner, btf), ATTR_BYTES))


def _attr(name: str, inner: int, btf: int) -> Buffer:
    """Attributes right for the type, so that only permissions can refuse them."""
    value = 4 if name in _FOUR_BYTE_VALUES else 8
    usual = (4, 8, 0, F_NO_PREALLOC) if name in _STORAGES else (4, value, 4, 0)
    key_size, value_size, entries, flags = _SHAPES.get(name, usual)
    return map_create_attr(
        int(map_type_from_name(name)),
        (key_size, value_size, entries),
        flags=flags,
        inner_fd=inner,
        btf=(btf, 1, 2) if btf else (0, 0, 0),
    )


def _load(name: str) -> str | int:
    attach = _PROGRAMS_AT_A_HOOK.get(name, 0)
    return errno_name(prog_load(ProgType[name.upper()], attach_type=int(attach)))


def _other(name: str, map_id: int) -> str | int:
    if name == "map_fd_by_id":
        return errno_name(map_fd_by_id(map_id))
    if name == "map_get_next_id":
        return errno_name(bpf(Cmd.MAP_GET_NEXT_ID, Buffer(ATTR_BYTES), ATTR_BYTES))
    if name == "btf_load":
        return errno_name(btf_load(8))
    raise ValueError(f"unknown command {name!r} in a permission case")
