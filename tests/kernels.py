"""Booting kernels for tests: one line per test instead of ten."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel import PROFILES, KernelError, profile_named
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task

ALL = list(PROFILES)
MEMCG = [name for name, profile in PROFILES.items() if not profile.is_rlimit]
UNLIMITED = (RLIM_INFINITY, RLIM_INFINITY)


def boot(profile: str, *, cpus: int = 2, cgroup: str = "/a", **task: Any) -> tuple[Kernel, Task]:
    """A kernel with two cgroups, /a and /b, and a process in the first (root, unlimited, unless said otherwise)."""
    kernel = Kernel(profile_named(profile), possible_cpus=cpus, ram_bytes=1 << 30)
    for path in ("/a", "/b"):
        kernel.mkdir(path)
    return kernel, kernel.spawn(**{"cgroup": cgroup, "memlock": UNLIMITED, **task})


def charged(kernel: Kernel, owner: str, cgroup: str = "/a") -> Counter[str]:
    """Bytes charged to a cgroup for owners whose text starts with ``owner``, by kind."""
    found: Counter[str] = Counter()
    for line in kernel.ledger():
        if line.cgroup == cgroup and line.owner.startswith(owner):
            found[line.kind] += line.bytes
    return found


@contextmanager
def refused(errno: Errno) -> Iterator[pytest.ExceptionInfo[KernelError]]:
    """The block must be refused with this errno."""
    with pytest.raises(KernelError) as caught:
        yield caught
    assert caught.value.errno is errno, caught.value


def settle(kernel: Kernel) -> None:
    """Ends every process and runs what is deferred; nothing of BPF may be left charged."""
    for task in kernel.tasks():
        kernel.exit(task.pid)
    kernel.run_deferred()
    kernel.check()
