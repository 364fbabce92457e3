"""The memory controller in a hierarchy of its own, cgroup v1: its files, EBUSY instead of kills, its own events."""

import pytest

from bpfleet.abi.bpf import MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel import TaskKilled
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.profile import profile_named
from tests.kernels import refused

MB = 1 << 20


def mounted(profile: str = "6.18:v1") -> Kernel:
    kernel = Kernel(profile_named(profile))
    kernel.mkdir("/a")
    return kernel


def number(kernel: Kernel, name: str, path: str = "/a") -> int:
    return int(kernel.read_file(path, name))


def test_a_directory_has_the_files_of_v1_and_none_of_v2() -> None:
    names = set(mounted().list_files("/a"))
    assert {
        "memory.limit_in_bytes",
        "memory.failcnt",
        "memory.kmem.usage_in_bytes",
        "tasks",
    } <= names
    assert not {"memory.max", "memory.high", "memory.events", "cgroup.subtree_control"} & names
    v2 = Kernel(profile_named("6.18"))
    v2.mkdir("/a")
    with refused(Errno.ENOENT):
        v2.read_file("/a", "memory.limit_in_bytes")


def test_a_limit_below_usage_is_refused_and_nobody_dies() -> None:
    kernel = mounted()
    task = kernel.spawn(cgroup="/a")
    kernel.touch(task.pid, 4 * MB)
    with refused(Errno.EBUSY) as caught:
        kernel.write_file("/a", "memory.limit_in_bytes", "1M")
    assert "cannot be reclaimed" in caught.value.detail
    assert task.alive
    assert number(kernel, "memory.limit_in_bytes") == (1 << 63) - 4096
    kernel.write_file("/a", "memory.limit_in_bytes", "8M")
    assert number(kernel, "memory.limit_in_bytes") == 8 * MB
    kernel.write_file("/a", "memory.limit_in_bytes", "-1")
    kernel.check()


def test_page_cache_makes_room_for_a_lower_limit() -> None:
    kernel = mounted()
    task = kernel.spawn(cgroup="/a")
    kernel.read_file_pages(task.pid, "/f", 8 * MB)
    kernel.write_file("/a", "memory.limit_in_bytes", "4M")
    assert number(kernel, "memory.usage_in_bytes") <= 4 * MB


def test_kernel_memory_and_failures_have_counters_of_their_own() -> None:
    kernel = mounted()
    kernel.write_file("/a", "memory.limit_in_bytes", "2M")
    task = kernel.spawn(cgroup="/a")
    with refused(Errno.ENOMEM):
        kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 4 << 20, 1))
    assert number(kernel, "memory.failcnt") > 0
    kernel.write_file("/a", "memory.failcnt", "0")
    assert number(kernel, "memory.failcnt") == 0
    kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 1 << 20, 1))
    assert MB < number(kernel, "memory.kmem.usage_in_bytes") < MB + 32768
    assert number(kernel, "memory.max_usage_in_bytes") >= MB


def test_processes_live_beside_children_and_events_stay_where_they_happen() -> None:
    kernel = mounted()
    beside = kernel.spawn(cgroup="/a")
    kernel.mkdir("/a/b")
    kernel.write_file("/a/b", "memory.limit_in_bytes", "1M")
    killed = kernel.spawn(cgroup="/a/b")
    with pytest.raises(TaskKilled):
        kernel.touch(killed.pid, 2 * MB)
    assert beside.alive
    assert "oom_kill 1\n" in kernel.read_file("/a/b", "memory.oom_control")
    assert "oom_kill 0\n" in kernel.read_file("/a", "memory.oom_control")


def test_memory_stat_says_the_directory_alone_and_with_what_is_below() -> None:
    kernel = mounted()
    kernel.mkdir("/a/b")
    for path, size in (("/a", MB), ("/a/b", 2 * MB)):
        kernel.touch(kernel.spawn(cgroup=path).pid, size)
    kernel.write_file("/a", "memory.limit_in_bytes", "64M")
    lines = dict(line.split() for line in kernel.read_file("/a", "memory.stat").splitlines())
    assert (int(lines["rss"]), int(lines["total_rss"])) == (MB, 3 * MB)
    below = dict(line.split() for line in kernel.read_file("/a/b", "memory.stat").splitlines())
    assert int(below["hierarchical_memory_limit"]) == 64 * MB


def test_force_empty_reclaims_what_it_can() -> None:
    kernel = mounted()
    task = kernel.spawn(cgroup="/a")
    kernel.read_file_pages(task.pid, "/f", 4 * MB)
    kernel.write_file("/a", "memory.force_empty", "0")
    assert number(kernel, "memory.usage_in_bytes") < MB


def test_what_is_not_emulated_is_refused_in_so_many_words() -> None:
    kernel = mounted()
    with refused(Errno.EOPNOTSUPP):
        kernel.write_file("/a", "memory.oom_control", "1")
    with refused(Errno.ENOENT):
        kernel.write_file("/a", "memory.memsw.limit_in_bytes", "1G")
    with refused(Errno.EINVAL):
        kernel.write_file("/a", "memory.oom_control", "yes")
    with refused(Errno.EINVAL):
        kernel.write_file("/a", "memory.usage_in_bytes", "0")


def test_kernels_with_locked_memory_accounting_have_it_too() -> None:
    kernel = mounted("5.10:v1")
    task = kernel.spawn(cgroup="/a")
    kernel.touch(task.pid, MB)
    assert number(kernel, "memory.usage_in_bytes") >= MB
