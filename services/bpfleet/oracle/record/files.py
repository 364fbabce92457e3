"""Runs recorded cases again, on the kernel at hand, and writes the answers in the recordings' own format.

The input is a recording (its cases, not its answers) or new random cases. Nothing here needs more than the standard
library: `python3 -m bpfleet.oracle.record` works in a bare virtual machine with this package and bpfleet.abi.
"""

import json
import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from bpfleet.oracle.record import create, elements, live, perm
from bpfleet.oracle.record.meter import Meter, Unmeasurable
from bpfleet.oracle.record.ops import RecordingSession
from bpfleet.oracle.record.stories import StoryRecorder

__all__ = [
    "RecordingRefused",
    "kernel_name",
    "possible_cpus",
    "record_cases",
    "record_file",
    "story_recorder",
]

_POSSIBLE: Final = Path("/sys/devices/system/cpu/possible")
_CASE_SECONDS: Final = 60
_DESCRIPTORS: Final = 4096
_KINDS: Final = ("create", "elements", "perm", "errno")

Case = dict[str, Any]
_Recorder = Callable[[Iterator[Case]], Iterator[Case]]


class RecordingRefused(Exception):
    """Why nothing can be recorded here; the text is one line."""


def possible_cpus() -> int:
    """Number of possible CPUs.

    >>> _count("0-3"), _count("0"), _count("0-1,4-5")
    (4, 1, 4)
    """
    return _count(_POSSIBLE.read_text().strip())


def _count(ranges: str) -> int:
    bounds = [part.split("-") for part in ranges.split(",")]
    return sum(int(part[-1]) - int(part[0]) + 1 for part in bounds)


def kernel_name() -> str:
    """The target name of this machine, as in 6.12-smp4."""
    version = ".".join(os.uname().release.split(".")[:2])
    return f"{version}-smp{possible_cpus()}"


def record_file(path: Path, *, kind: str | None = None, sysctl: bool = False) -> Iterator[Case]:
    """The cases of a recording with the answers of this kernel.

    ``kind`` is create, elements, perm or errno; None takes the first word of the file's name. ``sysctl`` allows
    writing unprivileged_bpf_disabled of the whole machine; without it cases that need another value are left out, as
    are those with capabilities that this process has not.
    Raises ``RecordingRefused``, ``ValueError`` for a file of another kind, ``OSError`` for one that cannot be read.
    """
    known = kind or path.name.partition("-")[0].partition(".")[0]
    with path.open() as lines:
        yield from record_cases((json.loads(line) for line in lines), known, sysctl=sysctl)


def record_cases(cases: Iterator[Case], kind: str, *, sysctl: bool = False) -> Iterator[Case]:
    """``cases`` of one kind with the answers of this kernel. See ``record_file``."""
    recorders: dict[str, _Recorder] = {
        "create": _record_creations,
        "elements": _record_elements,
        "perm": lambda cases: _record_permissions(cases, sysctl=sysctl),
        "errno": _record_operations,
    }
    if kind not in recorders:
        raise ValueError(f"{kind!r}: expected one of {', '.join(_KINDS)}")
    refusal = live.bpf_refusal()
    if refusal is not None:
        raise RecordingRefused(refusal)
    _raise_limits()
    try:
        yield from recorders[kind](cases)
    except Unmeasurable as error:
        raise RecordingRefused(f"a case of {kind} could not be measured: {error}") from None


def story_recorder() -> StoryRecorder:
    """Plays stories on this kernel. Raises ``RecordingRefused``."""
    refusal = live.bpf_refusal()
    if refusal is not None:
        raise RecordingRefused(refusal)
    if not _charges_to_memcg():
        raise RecordingRefused(
            "stories are of kernels that charge BPF memory to cgroups, from 5.11 on"
        )
    _raise_limits()
    try:
        return StoryRecorder()
    except (Unmeasurable, OSError) as error:
        raise RecordingRefused(f"no cgroup can be made here: {error}") from None


def _raise_limits() -> None:
    """RLIMIT_MEMLOCK must not decide what is recorded; many copies need many descriptors."""
    unlimited = resource.RLIM_INFINITY
    for limit, wanted in (
        (resource.RLIMIT_MEMLOCK, unlimited),
        (resource.RLIMIT_NOFILE, _DESCRIPTORS),
    ):
        try:
            resource.setrlimit(limit, (wanted, wanted))
        except (ValueError, OSError):  # without CAP_SYS_RESOURCE: as far as the hard limit allows
            _, hard = resource.getrlimit(limit)
            resource.setrlimit(limit, (hard, hard))


def _charges_to_memcg() -> bool:
    """Whether this kernel accounts BPF memory to cgroups: not before 5.11."""
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int(minor)) >= (5, 11)


def _record_creations(cases: Iterator[Case]) -> Iterator[Case]:
    with _meter() as meter:
        measured = meter if _charges_to_memcg() else None
        fd = create.descriptor_cost(meter)
        for case in cases:
            yield create.record_creation(case, measured, fd)


def _record_elements(cases: Iterator[Case]) -> Iterator[Case]:
    cpus = possible_cpus()
    with _meter() as meter:
        for case in cases:
            points = [(phase, count) for phase, count, *_ in case.get("points", [["create", 0]])]
            yield elements.record_elements(case, points, meter, possible_cpus=cpus)


def _meter() -> Meter:
    try:
        return Meter()
    except (Unmeasurable, OSError) as error:
        raise RecordingRefused(f"charges cannot be measured here: {error}") from None


def _record_permissions(cases: Iterator[Case], *, sysctl: bool) -> Iterator[Case]:
    for case in cases:
        if sysctl:
            perm.write_sysctl(case["sysctl"])
        if perm.read_sysctl() != case["sysctl"]:
            continue
        with suppress(perm.CredentialsRefused):
            yield perm.record_permissions(case)


def _record_operations(cases: Iterator[Case]) -> Iterator[Case]:
    here, cpus = kernel_name(), possible_cpus()
    for case in cases:
        answers = _in_child(case["ops"], cpus)
        if answers is not None:
            yield {
                **case,
                "ops": list(map(_explicit, case["ops"])),
                "res": [{"on": [here], "r": answers}],
            }


def _explicit(operation: Case) -> Case:
    """A drop says that it left the value pointer NULL: older recordings of 6.12 and 6.18 did not."""
    return {**operation, "v": None} if operation["op"] == "drop" else operation


def _in_child(operations: list[Case], cpus: int) -> list[Any] | None:
    """The answers, from a child of its own: nothing a case leaves open outlives it. None where the child died."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        signal.alarm(_CASE_SECONDS)
        _answer(operations, cpus, write)
    os.close(write)
    with os.fdopen(read) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    answers: list[Any] | None = json.loads(text) if text else None
    return answers


def _answer(operations: list[Case], cpus: int, write: int) -> None:
    """Runs the operations in this process and writes the answers. Never returns."""
    try:
        os.sched_setaffinity(0, {0})
        with _pin_directory() as pins:
            answers = RecordingSession(possible_cpus=cpus, bpffs=pins).run(operations)
        with os.fdopen(write, "w") as stream:
            stream.write(json.dumps(answers))
    finally:
        os._exit(0)


def _pin_directory() -> tempfile.TemporaryDirectory[str]:
    """An empty directory to pin in: of the BPF file system where one is mounted, else one that refuses pins."""
    mounted = Path("/sys/fs/bpf")
    directory = mounted if mounted.is_mount() and os.access(mounted, os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix="bpfleet-record-", dir=directory)
