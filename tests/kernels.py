"""Booting kernels for tests: one line per test instead of ten."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bpfleet.abi.bpf import MapType
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel import PROFILES, KernelError, profile_named
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile.rows import series_of

ALL = list(PROFILES)
MEMCG = [name for name, profile in PROFILES.items() if not profile.is_rlimit]
UNLIMITED = (RLIM_INFINITY, RLIM_INFINITY)


def since(release: str) -> list[str]:
    """The known kernels whose release is not older; the series as posted counts as what it came before."""
    return [name for name in PROFILES if series_of(PROFILES[name].release) >= series_of(release)]


def having(*flags: str) -> list[str]:
    """The known kernels of which all these fields of the profile are true."""
    return [name for name, each in PROFILES.items() if all(getattr(each, flag) for flag in flags)]


def with_type(map_type: MapType) -> list[str]:
    """The known kernels that have a map type."""
    return [name for name, each in PROFILES.items() if map_type in each.map_types]


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


def read_pages(kernel: Kernel, pid: int, path: str, size_bytes: int) -> int:
    """A process reads the first bytes of a file through the page cache; returns the bytes read. Raises ENOMEM."""
    return kernel.read_file_pages(pid, path, size_bytes)


def write_tmpfs(kernel: Kernel, pid: int, path: str, size_bytes: int) -> int:
    """A process writes a tmpfs file; returns its length in bytes. Raises ENOMEM."""
    return kernel.write_tmpfs(pid, path, size_bytes)


def settle(kernel: Kernel) -> None:
    """Ends every process and runs what is deferred; nothing of BPF may be left charged."""
    for task in kernel.tasks():
        kernel.exit(task.pid)
    kernel.run_deferred()
    kernel.check()
