"""Swap: what goes out, who is charged for it, when it comes back."""

import pytest

from bpfleet.abi.bpf import MapType
from bpfleet.kernel import TaskKilled, profile_named
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task
from tests.kernels import ALL, MEMCG, UNLIMITED

MB = 1 << 20
PAGE = 4096


def boot(profile: str = "6.12", *, swap: int = 64 * MB, ram: int = 1 << 30) -> tuple[Kernel, Task]:
    """A node with swap, and a process in /g, which may use 8 MiB."""
    kernel = Kernel(profile_named(profile), ram_bytes=ram, swap_bytes=swap)
    kernel.mkdir("/g")
    kernel.write_file("/g", "memory.max", "8M")
    return kernel, kernel.spawn(cgroup="/g", memlock=UNLIMITED)


def swapped(kernel: Kernel, path: str = "/g") -> int:
    return int(kernel.read_file(path, "memory.swap.current"))


def killed(kernel: Kernel, task: Task) -> bool:
    return not task.alive and "oom_kill 1" in kernel.read_file("/g", "memory.events")


@pytest.mark.parametrize("profile", ALL)
def test_a_limit_kills_only_beyond_memory_and_swap(profile: str) -> None:
    kernel, task = boot(profile)
    kernel.write_file("/g", "memory.swap.max", "4M")
    kernel.touch(task.pid, 11 * MB)
    kernel.check()
    assert 3 * MB <= swapped(kernel) <= 4 * MB
    assert task.rss_bytes + swapped(kernel) == 11 * MB
    with pytest.raises(TaskKilled):
        kernel.touch(task.pid, 2 * MB)
    assert killed(kernel, task)
    assert swapped(kernel) == 0
    kernel.check()


def test_without_swap_nothing_goes_out() -> None:
    kernel, task = boot(swap=0)
    with pytest.raises(TaskKilled):
        kernel.touch(task.pid, 9 * MB)
    assert kernel.swap is None
    assert swapped(kernel) == 0


def test_what_is_out_is_charged_to_the_groups_above_as_well() -> None:
    kernel, _ = boot()
    kernel.mkdir("/p")
    kernel.mkdir("/p/c")
    kernel.write_file("/p", "memory.max", "8M")
    kernel.write_file("/p", "memory.swap.max", "2M")
    task = kernel.spawn(cgroup="/p/c")
    kernel.touch(task.pid, 9 * MB)
    assert swapped(kernel, "/p/c") == swapped(kernel, "/p") > MB
    with pytest.raises(TaskKilled):
        kernel.touch(task.pid, 2 * MB)
    assert swapped(kernel, "/p") == 0


def test_memory_given_back_is_resident_first_then_what_is_out() -> None:
    kernel, task = boot()
    kernel.touch(task.pid, 12 * MB)
    out = swapped(kernel)
    assert kernel.release(task.pid, task.rss_bytes) > 0
    assert swapped(kernel) == out
    assert kernel.release(task.pid, 12 * MB) == out
    assert swapped(kernel) == 0
    assert task.mm.total_vm == task.mm.pgtable_pages == 0
    kernel.check()


def test_a_process_that_exits_leaves_nothing_out() -> None:
    kernel, task = boot()
    kernel.touch(task.pid, 12 * MB)
    kernel.touch(task.pid, 12 * MB, shared=True)
    kernel.check()
    assert task.mm.swap_pages < swapped(kernel) // PAGE  # shared pages are no swap entries of it
    kernel.exit(task.pid)
    assert kernel.swap is not None
    assert kernel.swap.used_pages == 0
    kernel.check()


@pytest.mark.parametrize("profile", MEMCG)
def test_a_map_stays_and_pushes_processes_out(profile: str) -> None:
    kernel, task = boot(profile)
    kernel.touch(task.pid, 7 * MB)
    kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 4096, 1000))
    assert swapped(kernel) >= 2 * MB
    kernel.check()


def test_what_is_out_keeps_a_removed_group_until_it_goes() -> None:
    kernel, task = boot()
    kernel.write_tmpfs(task.pid, "/f", 9 * MB)
    kernel.exit(task.pid)
    kernel.write_file("/g", "memory.reclaim", "7M")
    kernel.rmdir("/g")
    assert kernel.swap is not None
    assert kernel.swap.used_pages >= 8 * MB // PAGE
    assert [memcg.path for memcg in kernel.controller.dying] == ["/g"]
    kernel.check()
    kernel.unlink_tmpfs("/f")
    assert not kernel.controller.dying
    assert kernel.swap.used_pages == 0
    kernel.check()


def test_the_node_itself_swaps_before_it_kills() -> None:
    kernel, _ = boot(ram=64 * MB)
    task = kernel.spawn()
    kernel.touch(task.pid, 100 * MB)
    assert task.alive
    assert task.mm.swap_pages >= 36 * MB // PAGE
    with pytest.raises(TaskKilled):
        kernel.touch(task.pid, 40 * MB)
    kernel.check()


def test_pages_that_a_limit_refuses_are_counted() -> None:
    kernel, task = boot()
    kernel.write_file("/g", "memory.swap.max", str(2 * MB + 5 * PAGE))
    with pytest.raises(TaskKilled):
        kernel.touch(task.pid, 12 * MB)
    events = dict(
        line.split() for line in kernel.read_file("/g", "memory.swap.events").splitlines()
    )
    assert events["max"] == events["fail"]
    assert int(kernel.read_file("/g", "memory.swap.peak")) == 2 * MB + 5 * PAGE


def test_a_lower_swap_limit_keeps_what_is_out() -> None:
    kernel, task = boot()
    kernel.touch(task.pid, 12 * MB)
    out = swapped(kernel)
    kernel.write_file("/g", "memory.swap.max", "1M")
    assert swapped(kernel) == out
    kernel.check()


def test_what_is_out_counts_for_the_oom_killer() -> None:
    kernel, small = boot()
    large = kernel.spawn(cgroup="/g")
    kernel.write_file("/g", "memory.swap.max", "8M")
    kernel.touch(large.pid, 10 * MB)
    kernel.touch(small.pid, 5 * MB)
    assert large.mm.rss_pages < small.mm.rss_pages
    kernel.touch(small.pid, 2 * MB)
    assert not large.alive
    assert small.alive


def test_swap_high_throttles() -> None:
    kernel, task = boot()
    kernel.write_file("/g", "memory.swap.high", "1M")
    kernel.touch(task.pid, 12 * MB)
    before = kernel.now_ns
    kernel.touch(task.pid, 4 * MB)
    assert kernel.now_ns - before > 100_000_000
    assert "high 0" not in kernel.read_file("/g", "memory.swap.events")


def test_memory_stat_and_meminfo_tell_of_it() -> None:
    kernel, task = boot("6.18")
    kernel.touch(task.pid, 12 * MB)
    stat = dict(line.split() for line in kernel.read_file("/g", "memory.stat").splitlines())
    assert int(stat["pswpout"]) == swapped(kernel) // PAGE == int(stat["pgsteal"])
    assert int(stat["anon"]) == 12 * MB - swapped(kernel)
    meminfo = dict(line.split(":") for line in kernel.read_proc(None, "meminfo").splitlines())
    assert meminfo["SwapTotal"].split() == ["65536", "kB"]
    assert int(meminfo["SwapFree"].split()[0]) << 10 == 64 * MB - swapped(kernel)
    assert f"VmSwap:\t{swapped(kernel) >> 10:8d} kB" in kernel.read_proc(task.pid, "status")


def test_v1_counts_both_and_swaps_by_its_own_swappiness() -> None:
    kernel = Kernel(profile_named("6.18:v1"), swap_bytes=64 * MB)
    kernel.mkdir("/g")
    kernel.write_file("/g", "memory.limit_in_bytes", "8M")
    task = kernel.spawn(cgroup="/g")
    kernel.touch(task.pid, 12 * MB)
    both = int(kernel.read_file("/g", "memory.memsw.usage_in_bytes"))
    out = both - int(kernel.read_file("/g", "memory.usage_in_bytes"))
    assert out == task.mm.swap_pages * PAGE > 3 * MB
    assert f"\nswap {out}\n" in kernel.read_file("/g", "memory.stat")
    kernel.check()
    kernel.write_file("/g", "memory.swappiness", "0")
    with pytest.raises(TaskKilled):
        kernel.touch(task.pid, 4 * MB)
