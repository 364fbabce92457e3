"""Records create-*.jsonl: what creating a map answers and costs, on the kernel at hand."""

import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from bpfleet.abi.bpf import Cmd, MapType, map_type_from_name
from bpfleet.oracle.record.live import (
    ATTR_BYTES,
    Buffer,
    bpf,
    btf_load,
    errno_name,
    map_create_attr,
    map_fd_by_id,
    object_info,
)
from bpfleet.oracle.record.meter import MemorySample, Meter
from bpfleet.oracle.record.ops import fdinfo

__all__ = ["creation_attr", "record_creation"]

_COPIES_V2: Final = 16
_COPIES_V1: Final = 256  # only whole pages there: many copies make the average fine
_MEASUREMENTS: Final = 5  # of one case at most
_PAGES_OF_NOISE: Final = 2  # of totals in whole pages
_BUDGET_BYTES: Final = 64 << 20  # of all copies together, by the memlock line


@dataclass(frozen=True, slots=True)
class DescriptorCost:
    """Bytes one more descriptor of a map costs: struct file and dentry."""

    slab: float
    kernel: float


def creation_attr(case: dict[str, Any], *, inner_fd: int = 0, btf_fd: int = 0) -> Buffer:
    """The attributes of a case of create-*.jsonl or elements-*.jsonl."""
    return map_create_attr(
        int(map_type_from_name(case["type"])),
        (case["ks"], case["vs"], case["me"]),
        flags=case.get("fl", 0),
        inner_fd=inner_fd,
        numa_node=case.get("numa", 0),
        btf=(btf_fd, 1, 2) if case.get("btf") is not None else (0, 0, 0),
        extra=case.get("extra", 0),
    )


def prerequisites(case: dict[str, Any]) -> tuple[int, int]:
    """(inner map, BTF) descriptors the case asks for, 0 where none."""
    inner = 0
    if case.get("inner"):
        inner = bpf(
            Cmd.MAP_CREATE,
            map_create_attr(int(map_type_from_name(case["inner"])), (4, 8, 4)),
            ATTR_BYTES,
        )
    btf = btf_load(case["btf"]) if case.get("btf") is not None else 0
    return inner, btf


def record_creation(
    case: dict[str, Any], meter: Meter | None, fd: DescriptorCost
) -> dict[str, Any]:
    """``case`` with the errno, and on success memlock, effective max_entries and the charge of one map."""
    answer: dict[str, Any] = {name: case[name] for name in _ATTRIBUTES if name in case}
    first = _create_one(case)
    answer["errno"] = first["errno"]
    if first["errno"]:
        return answer
    answer["memlock"] = first["memlock"]
    if first["me"] != case["me"]:
        answer["me_eff"] = first["me"]
    if meter is not None:
        answer |= _charge(case, meter, fd, copies=_copies(meter, first["memlock"]))
    return answer


_ATTRIBUTES: Final = ("id", "type", "ks", "vs", "me", "fl", "inner", "btf", "extra", "numa")


def _copies(meter: Meter, memlock: int) -> int:
    most = _COPIES_V2 if meter.is_v2 else _COPIES_V1
    return max(1, min(most, _BUDGET_BYTES // max(memlock, 1)))


def _create_one(case: dict[str, Any]) -> dict[str, Any]:
    inner, btf = prerequisites(case)
    fd = bpf(Cmd.MAP_CREATE, creation_attr(case, inner_fd=inner, btf_fd=btf), ATTR_BYTES)
    answer: dict[str, Any] = {"errno": errno_name(fd)}
    if fd >= 0:
        answer["memlock"] = int(fdinfo(fd)["memlock"])
        answer["me"] = struct.unpack_from("<I", object_info(fd)[1], 16)[0]
    for open_fd in (fd, inner, btf):
        if open_fd > 0:
            os.close(open_fd)
    return answer


def _charge(
    case: dict[str, Any], meter: Meter, fd: DescriptorCost, *, copies: int
) -> dict[str, Any]:
    """The charge of one of ``copies`` maps, as soon as two measurements agree.

    A map was made before, elsewhere: what the kernel makes once is made.
    """
    seen: list[dict[str, Any]] = []
    while len(seen) < _MEASUREMENTS:
        charge = _measure(case, meter, fd, copies=copies)
        if charge in seen:
            return charge
        seen.append(charge)
    return seen[-1]


def _measure(
    case: dict[str, Any], meter: Meter, fd: DescriptorCost, *, copies: int
) -> dict[str, Any]:
    attr = Buffer(0)

    def prepare() -> None:
        nonlocal attr
        inner, btf = prerequisites(case)
        attr = creation_attr(case, inner_fd=inner, btf_fd=btf)

    fds = [0] * copies

    def work(checkpoint: Callable[[], None]) -> int:
        checkpoint()
        for index in range(copies):
            fds[index] = bpf(Cmd.MAP_CREATE, attr, ATTR_BYTES)
        checkpoint()
        return sum(fd >= 0 for fd in fds)

    (before, after), made = meter.run(prepare, work)
    return _per_map(before, after, fd, copies=int(made))


def _per_map(
    before: MemorySample, after: MemorySample, fd: DescriptorCost, *, copies: int
) -> dict[str, Any]:
    kernel = (after.kernel - before.kernel) / copies - fd.kernel
    if after.slab is None or before.slab is None:
        return {"kernel": round(kernel, 1), "res": 4096 * _PAGES_OF_NOISE / copies, "n": copies}
    slab_total = after.slab - before.slab
    percpu_total = (after.percpu or 0) - (before.percpu or 0)
    vmalloc_total = (after.vmalloc or 0) - (before.vmalloc or 0)
    answer: dict[str, Any] = {
        "slab": _whole(slab_total / copies - fd.slab),
        "percpu": _whole(percpu_total / copies),
        "vmalloc": _whole(vmalloc_total / copies),
    }
    others = slab_total + percpu_total + vmalloc_total
    pages = (after.kernel - before.kernel - others) / copies
    if pages >= 2048:
        answer["pages"] = round(pages / 4096) * 4096
    return answer | {"n": copies}


def _whole(value: float) -> int | float:
    return int(value) if value == int(value) else round(value, 2)


def descriptor_cost(meter: Meter, *, copies: int = 64) -> DescriptorCost:
    """What one more descriptor costs, from many descriptors of one map."""
    map_id = 0

    def prepare() -> None:
        nonlocal map_id
        fd = bpf(Cmd.MAP_CREATE, map_create_attr(MapType.ARRAY, (4, 8, 1)), ATTR_BYTES)
        map_id = struct.unpack_from("<I", object_info(fd)[1], 4)[0]

    def work(checkpoint: Callable[[], None]) -> None:
        checkpoint()
        for _ in range(copies):
            map_fd_by_id(map_id)
        checkpoint()

    (before, after), _ = meter.run(prepare, work)
    kernel = (after.kernel - before.kernel) / copies
    slab = (
        (after.slab - before.slab) / copies
        if after.slab is not None and before.slab is not None
        else kernel
    )
    return DescriptorCost(slab=slab, kernel=slab)


def dump(answer: dict[str, Any]) -> str:
    """One line of a recording."""
    return json.dumps(answer, separators=(",", ":"))
