"""Replays perm-TARGET.jsonl: who may create which map, load which program, and use the other commands."""

from collections.abc import Callable
from typing import Any, Final

from bpfleet.abi.bpf import AttachType
from bpfleet.abi.limits import PAGE_SIZE, RLIM_INFINITY
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.btf import BtfKind, BtfType
from bpfleet.kernel.bpf.program import ProgAttr
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task
from bpfleet.oracle.format.report import FileReport
from bpfleet.oracle.format.words import (
    UnsupportedCaseError,
    capabilities_named,
    map_type_named,
    prog_type_named,
    required,
    same_errno,
)
from bpfleet.oracle.replay.machine import CASE_CGROUP, Target
from bpfleet.verbs import table as verbs
from bpfleet.verbs.stage import answer_of

_VALUE_BYTES: Final = 8
_STORAGES: Final = ("sk_storage", "inode_storage", "task_storage", "cgrp_storage")
_MAPS_OF_MAPS: Final = ("array_of_maps", "hash_of_maps")
_FD_TYPES: Final = ("prog_array", "perf_event_array", "cgroup_array", *_MAPS_OF_MAPS)
_ATTACH: Final = {"sk_lookup": AttachType.SK_LOOKUP}  # types that name their hook at load
_FOUR_BYTES: Final = (
    *_FD_TYPES,
    "devmap",
    "devmap_hash",
    "sockmap",
    "sockhash",
    "cpumap",
    "xskmap",
)


def replay_perm(case: dict[str, Any], target: Target, report: FileReport) -> None:
    """Compares every answer of one credential in the sections maps, progs and other."""
    required(case, "sysctl", "uid", "caps")
    for section, ask in (("maps", _create), ("progs", _load), ("other", _other)):
        for name, recorded in case.get(section, {}).items():
            kernel, task = _boot(case, target)
            try:
                found = ask(kernel, task, name)
            except UnsupportedCaseError as missing:
                report.section(section).skip(str(missing))
                continue
            where = f"{case['id']} on {target.name}: {name}"
            report.section(section).compare(where, same_errno(recorded), found, case)


def _boot(case: dict[str, Any], target: Target) -> tuple[Kernel, Task]:
    kernel, root = target.boot()
    verbs.MAP_CREATE(kernel, root, MapAttr(2, 4, 8, 1))  # something to find by id
    kernel.host.unprivileged_bpf_disabled = case["sysctl"]
    caps = capabilities_named(case["caps"])
    unlimited = (RLIM_INFINITY, RLIM_INFINITY)
    task = verbs.SPAWN(kernel, uid=case["uid"], caps=caps, memlock=unlimited, cgroup=CASE_CGROUP)
    return kernel, task


def _create(kernel: Kernel, task: Task, name: str) -> Any:
    """The errno of creating a map of a type, with what had to be made first in front where that was refused."""
    inner_fd = btf_fd = None
    if name in _MAPS_OF_MAPS:
        inner = answer_of(lambda: verbs.MAP_CREATE(kernel, task, MapAttr(2, 4, 8, 4)))
        if inner.word:
            return f"inner:{inner.word}"
        inner_fd = inner.value.fd
    if name in _STORAGES:
        btf = answer_of(lambda: verbs.BTF_LOAD(kernel, task, _storage_types()))
        if btf.word:
            return f"btf:{btf.word}"
        btf_fd = btf.value
    attr = _attr(name, inner_fd, btf_fd)
    return answer_of(lambda: verbs.MAP_CREATE(kernel, task, attr)).word or 0


def _storage_types() -> tuple[BtfType, ...]:
    return (BtfType(BtfKind.INT, 4), BtfType(BtfKind.STRUCT, _VALUE_BYTES, members=1))


def _attr(name: str, inner_fd: int | None, btf_fd: int | None) -> MapAttr:
    """Attributes that are right for the type, so that only permissions can refuse them."""
    key, value, entries, flags = 4, 4 if name in _FOUR_BYTES else _VALUE_BYTES, 4, 0
    if name == "lpm_trie":
        key, flags = 8, 1
    elif name in ("queue", "stack", "bloom_filter"):
        key = 0
    elif name in ("ringbuf", "user_ringbuf"):
        key, value, entries = 0, 0, PAGE_SIZE
    elif name in ("cgroup_storage", "percpu_cgroup_storage"):
        key, entries = 16, 0
    elif name in _STORAGES:
        entries, flags = 0, 1
    elif name == "arena":
        key, value, flags = 0, 0, 0x400
    elif name == "stack_trace":
        value = 80
    elif name == "cpumap":
        entries = 1
    return MapAttr(
        map_type_named(name),
        key,
        value,
        entries,
        flags,
        inner_map_fd=inner_fd,
        btf_fd=btf_fd,
        btf_key_type_id=1 if btf_fd else 0,
        btf_value_type_id=2 if btf_fd else 0,
    )


def _load(kernel: Kernel, task: Task, name: str) -> Any:
    attr = ProgAttr(prog_type_named(name), 2, expected_attach_type=_ATTACH.get(name, 0))
    return answer_of(lambda: verbs.PROG_LOAD(kernel, task, attr)).word or 0


def _other(kernel: Kernel, task: Task, name: str) -> Any:
    commands: dict[str, Callable[[], Any]] = {
        "map_fd_by_id": lambda: verbs.MAP_GET_FD_BY_ID(kernel, task, 1),
        "map_get_next_id": lambda: verbs.MAP_GET_NEXT_ID(kernel, task, 0),
        "btf_load": lambda: verbs.BTF_LOAD(kernel, task, _storage_types()),
    }
    if name not in commands:
        raise UnsupportedCaseError(f"command {name!r}")
    return answer_of(commands[name]).word or 0
