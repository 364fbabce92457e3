"""The emulated machine a recording is replayed on: which kernel, how many CPUs, how much memory."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import PROFILES, KernelProfile, profile_named
from bpfleet.oracle.format.words import UnsupportedCaseError
from bpfleet.verbs import table as verbs

CASE_CGROUP: Final = "/case"
DEFAULT_CPUS: Final = 2
DEFAULT_RAM_BYTES: Final = 2_000_000 << 10


@dataclass(frozen=True, slots=True)
class Target:
    """One recorded machine, named ``<profile>-smp<possible CPUs>``."""

    name: str
    profile: KernelProfile
    possible_cpus: int
    ram_bytes: int

    @property
    def version(self) -> str:
        """The name without the CPU count."""
        return self.name.partition("-smp")[0]

    @property
    def value_pointer_of_delete(self) -> int:
        """What the recorder left in the value field when it deleted many elements on this target.

        On 6.12 and 6.18 it was a pointer, and BPF_MAP_DELETE_ELEM refuses anything there with EINVAL.
        """
        return 1 if self.version in ("6.12", "6.18") else 0

    def boot(self) -> tuple[Kernel, Task]:
        """A fresh machine, and root with all capabilities and an unlimited RLIMIT_MEMLOCK in a cgroup of its own."""
        kernel = Kernel(
            self.profile,
            node=self.name,
            ram_bytes=self.ram_bytes,
            possible_cpus=self.possible_cpus,
        )
        verbs.MKDIR(kernel, CASE_CGROUP)
        unlimited = (RLIM_INFINITY, RLIM_INFINITY)
        return kernel, verbs.SPAWN(
            kernel, uid=0, memlock=unlimited, cgroup=CASE_CGROUP, comm="recorder"
        )


def target_named(name: str, known: Mapping[str, Any] | None = None) -> Target:
    """The target called ``6.1-smp2`` (or ``6.1``). ``known`` is the content of targets.json.

    Raises ``UnsupportedCaseError`` for a kernel without a profile, ``ValueError`` for a malformed CPU count.
    """
    version, _, cpus = name.partition("-smp")
    if cpus and not cpus.isdigit():
        raise ValueError(f"target {name!r}: expected <profile>-smp<CPUs>, as in 6.1-smp2")
    if version not in PROFILES:
        raise UnsupportedCaseError(f"no profile of kernel {version!r}")
    facts = (known or {}).get(name, {})
    memory_kb = facts.get("mem_kb")
    return Target(
        name=name if cpus else f"{version}-smp{DEFAULT_CPUS}",
        profile=profile_named(version),
        possible_cpus=int(cpus or facts.get("ncpu", DEFAULT_CPUS)),
        ram_bytes=memory_kb << 10 if memory_kb else DEFAULT_RAM_BYTES,
    )


def targets_beside(path: Path) -> dict[str, Any]:
    """The content of targets.json in the same directory; empty where there is none."""
    beside = path.parent / "targets.json"
    if not beside.is_file():
        return {}
    content: dict[str, Any] = json.loads(beside.read_text())
    return content
