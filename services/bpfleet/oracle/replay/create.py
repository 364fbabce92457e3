"""Replays create-TARGET.jsonl: the errno of creating a map, its memlock line, and the charge of one map."""

from dataclasses import replace
from typing import Any, Final

from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.btf import BtfKind, BtfType
from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.mm.memory import AllocKind
from bpfleet.kernel.proc.task import Task
from bpfleet.oracle.format.report import FileReport
from bpfleet.oracle.format.words import map_type_named, required, same_errno
from bpfleet.oracle.replay.machine import Target
from bpfleet.oracle.replay.steps import INNER_MAP, map_attr
from bpfleet.verbs import table as verbs
from bpfleet.verbs.stage import answer_of

ATTRIBUTES: Final = ("type", "ks", "vs", "me", "fl")  # every recorded map has these
_WITHHELD_BYTES: Final = 2 * PAGE_SIZE  # of reclaimable and of other slab


def replay_create(case: dict[str, Any], target: Target, report: FileReport) -> None:
    """Compares one recorded creation: errno, memlock, max_entries, and the charge by allocator.

    Raises ``UnsupportedCaseError`` for a case that cannot be tried; so do the replays of other kinds.
    """
    required(case, *ATTRIBUTES, "errno")
    kernel, task = target.boot()
    where = (
        f"{case['id']} {case['type']} {case['ks']}/{case['vs']} x{case['me']} fl {case['fl']:#x}"
    )
    made = answer_of(lambda: verbs.MAP_CREATE(kernel, task, attr_of(case, kernel, task)))
    found: Any = made.word or 0
    exact = report.section("errno").compare(where, same_errno(case["errno"]), found, case)
    if not exact or found:
        return
    fd = made.value.fd
    bpf_map = kernel.bpf.maps()[-1]
    if "memlock" in case:
        memlock = kernel.bpf.map_info(task, fd).memlock_bytes
        report.section("memlock").compare(where, case["memlock"], memlock, case)
    if "me_eff" in case:
        report.section("max_entries").compare(where, case["me_eff"], bpf_map.max_entries, case)
    _compare_charges(where, case, charges_of(bpf_map), target, report)
    verbs.CLOSE(kernel, task.pid, fd)
    kernel.run_deferred()
    kernel.check()


def attr_of(case: dict[str, Any], kernel: Kernel, task: Task) -> MapAttr:
    """The attributes of a create case; makes the inner map and the BTF object it needs first."""
    inner = case.get("inner")
    inner_fd = None if inner is None else inner_map(kernel, task, inner)
    btf_fd = None
    if "btf" in case:
        btf_fd = storage_btf(kernel, task, case["btf"])
    return replace(
        map_attr(case, inner_fd),
        numa_node=case.get("numa", 0),
        map_name=case.get("name", ""),
        map_ifindex=case.get("ifindex", 0),
        map_extra=case.get("extra", 0),
        btf_fd=btf_fd,
        btf_key_type_id=0 if btf_fd is None else 1,
        btf_value_type_id=0 if btf_fd is None else 2,
    )


def inner_map(kernel: Kernel, task: Task, type_name: str) -> int:
    """The inner map of the recordings: key 4, value 8, 4 entries."""
    attr = replace(INNER_MAP, map_type=map_type_named(type_name))
    return verbs.MAP_CREATE(kernel, task, attr).fd


def storage_btf(kernel: Kernel, task: Task, value_bytes: int) -> int:
    """The BTF object of the recordings: a 32-bit integer key and a value struct of ``value_bytes``."""
    types = (BtfType(BtfKind.INT, 4), BtfType(BtfKind.STRUCT, value_bytes, members=1))
    return kernel.bpf.btf.load(task, types)


def charges_of(bpf_map: BpfMap) -> dict[str, int]:
    """Bytes charged for a map by allocator, as memory.stat groups them."""
    owner, sums = bpf_map.site.owner, dict.fromkeys(("slab", "percpu", "vmalloc", "pages"), 0)
    names = {
        AllocKind.SLAB: "slab",
        AllocKind.SLAB_RECLAIMABLE: "slab",
        AllocKind.PERCPU: "percpu",
        AllocKind.VMALLOC: "vmalloc",
        AllocKind.PAGES: "pages",
    }
    for account in bpf_map.site.memory.accounts.values():
        if account.owner is owner and account.objcg is not None:
            sums[names[account.kind]] += account.charged_bytes
    return sums


def _compare_charges(
    where: str, case: dict[str, Any], charged: dict[str, int], target: Target, report: FileReport
) -> None:
    """Byte for byte. An average that is no whole number was read while the CPU still kept slab statistics to itself,
    up to a page of each kind of slab [mod_objcg_state]: the maps may have cost that much more together.
    """
    if target.profile.is_rlimit:
        return
    for kind in ("slab", "percpu", "vmalloc"):
        recorded = case.get(kind)
        if recorded is None:
            continue
        found: float = charged[kind]
        missing = (found - recorded) * case.get("n", 1)
        if kind == "slab" and recorded % 1 and 0 < missing <= _WITHHELD_BYTES:
            found = recorded
        report.section(kind).compare(where, recorded, found, case)
    if "slab" in case:
        pages = case.get("pages", 0)
        report.section("pages").compare(where, pages, charged["pages"], case)
    if "kernel" in case and "slab" not in case:
        found = sum(charged.values())
        if abs(found - case["kernel"]) <= case["res"]:
            found = case["kernel"]
        report.section("kernel").compare(where, case["kernel"], found, case)
