"""Replays verifier-TARGET.jsonl: the least memory.max at which a program of a shape and size loads.

The recorder forked a child, let it enter a fresh cgroup and load one socket filter, and halved the limit to the page.
The child itself had some forty pages: what it touches of its parent's memory, its page tables, its instructions.
"""

from typing import Any, Final

from bpfleet.abi.bpf import ProgType
from bpfleet.kernel.bpf.complexity import Complexity
from bpfleet.kernel.bpf.prog import INSN_BYTES
from bpfleet.kernel.bpf.program import ProgAttr
from bpfleet.kernel.errors import KernelError
from bpfleet.kernel.units import bytes_of, pages_for
from bpfleet.oracle.format.report import FileReport
from bpfleet.oracle.format.words import UnsupportedCaseError, required
from bpfleet.oracle.replay.machine import CASE_CGROUP, Target
from bpfleet.verbs import table as verbs

TOLERANCE_BYTES: Final = 64 << 10
TOLERANCE_PERCENT: Final = 5
CHILD_PAGES: Final = (
    42  # what a forked child touches; the recorder's first one, whose code runs for the first time,
)
FIRST_CHILD_PAGES: Final = 64
SUBPROG_INSNS: Final = 50
_LEAST_PAGES: Final = 8
_MOST_PAGES: Final = 1 << 16


def replay_verifier(case: dict[str, Any], target: Target, report: FileReport) -> None:
    """Compares one case in the section least: within 5 % or 64 KiB of what was recorded."""
    required(case, "shape", "n", "insns", "least")
    section = report.section("least")
    recorded = case["least"]
    if recorded is None:
        raise UnsupportedCaseError("a program whose verification took too long to halve a limit")
    attr = program_of(case["shape"], case["n"], case["insns"])
    child_pages = CHILD_PAGES if section.cases else FIRST_CHILD_PAGES
    found = least_bytes(target, attr, child_pages)
    slack = max(TOLERANCE_BYTES, recorded * TOLERANCE_PERCENT // 100)
    where = f"{case['id']} on {target.name}"
    section.compare(where, recorded, recorded if abs(found - recorded) <= slack else found, case)


def program_of(shape: str, size: int, insn_cnt: int) -> ProgAttr:
    """The program of a shape: comparisons of one value, a loop, calls of functions of fifty instructions, ...

    Raises ``UnsupportedCaseError`` for a shape that is not known.
    """
    complexity = Complexity()
    subprogs: tuple[int, ...] = ()
    if shape == "branches":
        complexity = Complexity(compared=(insn_cnt - 3) // 2)
    elif shape == "loop":
        complexity = Complexity(loop_turns=size)
    elif shape == "spills":
        complexity = Complexity(spills=size)
    elif shape == "lookups":
        complexity = Complexity(lookups=size)
    elif shape == "calls":
        subprogs = (SUBPROG_INSNS,) * size
    elif shape != "straight":
        raise UnsupportedCaseError(f"programs of shape {shape!r}")
    return ProgAttr(ProgType.SOCKET_FILTER, insn_cnt, complexity=complexity, subprog_insns=subprogs)


def least_bytes(target: Target, attr: ProgAttr, child_pages: int = CHILD_PAGES) -> int:
    """The least memory.max with which a child loads a program, to the page; 0 when none of those tried is enough."""
    fails, loads = _LEAST_PAGES, _MOST_PAGES
    if not _loads(target, attr, child_pages, loads):
        return 0
    while loads - fails > 1:
        tried = (fails + loads) // 2
        if _loads(target, attr, child_pages, tried):
            loads = tried
        else:
            fails = tried
    return bytes_of(loads)


def _loads(target: Target, attr: ProgAttr, child_pages: int, limit_pages: int) -> bool:
    """Whether a child loads the program under a limit."""
    kernel, _ = target.boot()
    verbs.MKDIR(kernel, f"{CASE_CGROUP}-child")
    verbs.WRITE_FILE(kernel, f"{CASE_CGROUP}-child", "memory.max", str(bytes_of(limit_pages)))
    child = verbs.SPAWN(kernel, uid=0, cgroup=f"{CASE_CGROUP}-child", comm="child")
    try:
        pages = child_pages + pages_for(INSN_BYTES * attr.insn_cnt)
        kernel.touch(child.pid, bytes_of(pages))
        kernel.bpf.prog_load(child, attr)
    except KernelError:
        return False
    return child.alive
