"""Random operations on the kernel this machine runs, and on the emulator with that kernel's profile.

Needs root, bpf(2), the kernel's BTF, and a kernel of a release that has a profile. The kernel's side runs in a forked
child, which moves itself between CPUs and closes what it opened by exiting.
"""

import json
import os
import platform
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bpfleet.abi.bpf import Cmd, MapType
from bpfleet.kernel.profile import PROFILES
from bpfleet.kernel.profile_file import profile_from_toml
from bpfleet.oracle.capture import capture
from bpfleet.oracle.record.live import ATTR_BYTES, bpf, map_create_attr
from bpfleet.oracle.record.ops import RecordingSession
from bpfleet.oracle.replay.errno import CaseReplay, alike
from bpfleet.oracle.replay.machine import Target
from tests.oracle.random_cases import Operation, random_case, random_lru_case

pytestmark = [pytest.mark.live_kernel, pytest.mark.slow]

VMLINUX = Path("/sys/kernel/btf/vmlinux")
POSSIBLE = Path("/sys/devices/system/cpu/possible")
CHILD_SECONDS = 120
CASES = 300


def _why_not() -> str:
    """Why this kernel cannot be compared with; empty if it can."""
    release = ".".join(platform.release().split(".")[:2])
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "needs Linux on x86-64"
    if release not in PROFILES:
        return f"no profile for Linux {platform.release()}; there are {', '.join(PROFILES)}"
    if not VMLINUX.is_file():
        return f"{VMLINUX} is missing"
    fd = bpf(Cmd.MAP_CREATE, map_create_attr(MapType.LPM_TRIE, (8, 8, 1), flags=1), ATTR_BYTES)
    if fd < 0:
        return f"bpf(2) answers {os.strerror(-fd)}"
    os.close(fd)
    return ""


@pytest.fixture(scope="module")
def target() -> Target:
    reason = _why_not()
    if reason:
        pytest.skip(reason)
    profile = profile_from_toml(capture(VMLINUX.read_bytes(), platform.release()))
    last_cpu = POSSIBLE.read_text().strip().rpartition("-")[2].rpartition(",")[2]
    ram_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Target("live", profile, int(last_cpu) + 1, ram_bytes)


class _LiveSession(RecordingSession):
    """Operations on this kernel, and one that changes the CPU."""

    def _op_cpu(self, operation: Operation) -> int:
        os.sched_setaffinity(0, {operation["n"]})
        return 0

    def close(self) -> None:
        """Closes what the case opened."""
        for fd in self._fds.values():
            if fd >= 0:
                os.close(fd)


class _EmulatedCase(CaseReplay):
    """The same on the emulator."""

    def _op_cpu(self, operation: Operation) -> int:
        self.task.cpu = operation["n"]
        return 0


def _on_this_kernel(cases: list[list[Operation]], possible_cpus: int) -> list[list[Any]]:
    """The answers of this kernel, from a child that runs the cases one after the other."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _child(cases, possible_cpus, writer)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with status {status}"
    answers: list[list[Any]] = json.loads(text)
    return answers


def _child(cases: list[list[Operation]], possible_cpus: int, writer: int) -> None:
    """Never returns: whatever goes wrong in here must not run the parent's clean-up a second time."""
    status = 1
    try:
        signal.alarm(CHILD_SECONDS)
        os.sched_setaffinity(0, {0})
        answers = []
        for case in cases:
            session = _LiveSession(possible_cpus=possible_cpus)
            answers.append(session.run(case))
            session.close()
        with os.fdopen(writer, "w") as pipe:
            json.dump(answers, pipe)
        status = 0
    finally:
        os._exit(status)


@pytest.mark.parametrize(
    ("make", "cpus_needed"), [(random_case, 1), (random_lru_case, 2)], ids=["any-type", "lru"]
)
def test_random_operations_are_answered_as_by_this_kernel(
    target: Target, make: Callable[[int], list[Operation]], cpus_needed: int
) -> None:
    if len(os.sched_getaffinity(0)) < cpus_needed:
        pytest.skip(f"needs {cpus_needed} CPUs")
    cases = [make(seed) for seed in range(CASES)]
    for seed, (case, answers) in enumerate(
        zip(cases, _on_this_kernel(cases, target.possible_cpus), strict=True)
    ):
        emulated = _EmulatedCase(target).run(case)
        for number, (want, have) in enumerate(zip(answers, emulated, strict=True)):
            assert alike(want, have), (
                f"seed {seed}, operation {number} {case[number]} of {case[:number]}:"
                f" this kernel {want}, the emulator {have}"
            )
