"""What Linux's own cgroup selftests assert, asserted of the emulator.

Scenarios and tolerances of tools/testing/selftests/cgroup/test_memcontrol.c, test_kmem.c and test_core.c; each test
names its counterpart. Left out, because the emulator has no such thing: threads (three of test_core), sockets'
buffers, negative dentries and kernel stacks, /proc/kpagecgroup, and memory.peak reset per open file.
"""

from typing import Any

import pytest

from bpfleet.abi.bpf import MapType
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel import PROFILES, KernelError, TaskKilled, profile_named
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task
from tests.kernels import ALL, MEMCG, read_pages, refused

MB = 1 << 20
CPUS = 2
MAX_VMSTAT_ERROR = 4096 * 64 * CPUS
HAS_KERNEL_LINE = [name for name in MEMCG if "kernel" in PROFILES[name].memory_stat_lines]
HAS_RECLAIM = [name for name in ALL if PROFILES[name].has_memory_reclaim]


def boot(profile: str) -> Kernel:
    return Kernel(profile_named(profile), possible_cpus=CPUS, ram_bytes=2 << 30)


def create(kernel: Kernel, *paths: str) -> None:
    """mkdir(2), and nothing besides."""
    for path in paths:
        kernel.mkdir(path, delegate=False)


def current(kernel: Kernel, path: str) -> int:
    return int(kernel.read_file(path, "memory.current"))


def peak(kernel: Kernel, path: str) -> int:
    return int(kernel.read_file(path, "memory.peak"))


def keyed(kernel: Kernel, path: str, file: str, key: str) -> int:
    lines = dict(line.split() for line in kernel.read_file(path, file).splitlines())
    return int(lines[key])


def event(kernel: Kernel, path: str, key: str) -> int:
    return keyed(kernel, path, "memory.events", key)


def stat(kernel: Kernel, path: str, key: str) -> int:
    return keyed(kernel, path, "memory.stat", key)


def close(a: int, b: int, percent: int) -> bool:
    return abs(a - b) <= (a + b) / 100 * percent


def anon_noexit(kernel: Kernel, path: str, size: int, **how: Any) -> Task:
    """A process that fills memory and stays."""
    task = kernel.spawn(cgroup=path, **how)
    kernel.touch(task.pid, size)
    return task


def run_anon(kernel: Kernel, path: str, size: int) -> bool:
    """A process that fills memory and ends. False when it was killed."""
    try:
        task = anon_noexit(kernel, path, size)
    except TaskKilled:
        return False
    kernel.exit(task.pid)
    return True


def page_cache(kernel: Kernel, path: str, size: int, name: str = "/tmp/file") -> Task:
    """A process that reads a file through the page cache and stays."""
    task = kernel.spawn(cgroup=path)
    read_pages(kernel, task.pid, name, size)
    return task


def reclaim_until(kernel: Kernel, path: str, goal: int) -> bool:
    """Writes memory.reclaim until usage is about ``goal``; False when a successful write did not get there."""
    reclaimed = False
    for _ in range(5):
        usage = current(kernel, path)
        if usage < goal or close(usage, goal, 3):
            break
        if reclaimed:
            return False
        try:
            kernel.write_file(path, "memory.reclaim", str(usage - goal))
            reclaimed = True
        except KernelError as refusal:
            if refusal.errno is not Errno.EAGAIN:
                return False
    return reclaimed


# -- test_memcontrol.c -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ALL)
def test_memcg_subtree_control(profile: str) -> None:
    kernel = boot(profile)
    create(kernel, "/0")
    kernel.write_file("/0", "cgroup.subtree_control", "+memory")
    create(kernel, "/0/1", "/1", "/1/1")
    assert "memory" in kernel.read_file("/0/1", "cgroup.controllers")
    assert "memory" not in kernel.read_file("/1/1", "cgroup.controllers")


@pytest.mark.parametrize("profile", ALL)
def test_memcg_current_peak(profile: str) -> None:
    kernel = boot(profile)
    has_peak = kernel.profile.has_memory_peak
    create(kernel, "/g")
    assert current(kernel, "/g") == 0
    assert not has_peak or peak(kernel, "/g") == 0
    task = anon_noexit(kernel, "/g", 50 * MB)
    assert current(kernel, "/g") >= 50 * MB
    assert close(50 * MB, current(kernel, "/g"), 3)
    assert close(stat(kernel, "/g", "anon"), current(kernel, "/g"), 3)
    kernel.exit(task.pid)
    assert not has_peak or peak(kernel, "/g") >= 50 * MB
    task = page_cache(kernel, "/g", 50 * MB)
    assert current(kernel, "/g") >= 50 * MB
    assert close(stat(kernel, "/g", "file"), current(kernel, "/g"), 10)
    assert not has_peak or peak(kernel, "/g") >= 50 * MB


@pytest.mark.parametrize("setting", ["memory.min", "memory.low"])
@pytest.mark.parametrize("recursive", [True, False])
@pytest.mark.parametrize("profile", ["5.10", "6.1", "6.12"])
def test_memcg_protection(profile: str, recursive: bool, setting: str) -> None:
    """test_memcg_min, test_memcg_low: the example of the kernel's documentation."""
    kernel = boot(profile)
    kernel.reclaimer.recursive_protection = recursive
    create(kernel, "/A")
    assert current(kernel, "/A") == 0
    kernel.write_file("/A", "cgroup.subtree_control", "+memory")
    kernel.write_file("/A", "memory.max", "200M")
    create(kernel, "/A/B")
    kernel.write_file("/A/B", "cgroup.subtree_control", "+memory")
    create(kernel, "/A/G")
    children = ["/A/B/C", "/A/B/D", "/A/B/E", "/A/B/F"]
    for path in children:
        create(kernel, path)
        if path != "/A/B/F":
            page_cache(kernel, path, 50 * MB, f"/tmp{path}")
    for path, value in zip(["/A/B", *children], ["50M", "75M", "25M", "0", "500M"], strict=True):
        kernel.write_file(path, setting, value)
    assert close(current(kernel, "/A/B"), 150 * MB, 3)

    assert run_anon(kernel, "/A/G", 148 * MB)
    assert close(current(kernel, "/A/B"), 50 * MB, 3)
    assert close(current(kernel, "/A/B/C"), 29 * MB, 15)
    assert close(current(kernel, "/A/B/D"), 21 * MB, 20)
    assert current(kernel, "/A/B/F") == 0

    hard = setting == "memory.min"
    assert run_anon(kernel, "/A/G", 170 * MB) is not hard
    assert close(current(kernel, "/A/B"), 50 * MB if hard else 30 * MB, 3)
    if kernel.profile.has_memory_reclaim:
        assert reclaim_until(kernel, "/A/B/C", 10 * MB)
    if hard:
        return
    assert all(event(kernel, path, "oom") == 0 for path in children)
    assert event(kernel, "/A/B/C", "low") > 0
    assert event(kernel, "/A/B/D", "low") > 0
    assert recursive or event(kernel, "/A/B/E", "low") == 0
    assert event(kernel, "/A/B/F", "low") == 0
    kernel.check()


@pytest.mark.parametrize("profile", ALL)
def test_memcg_high(profile: str) -> None:
    kernel = boot(profile)
    create(kernel, "/g")
    assert kernel.read_file("/g", "memory.high") == "max\n"
    kernel.write_file("/g", "memory.swap.max", "0")
    kernel.write_file("/g", "memory.high", "30M")
    assert run_anon(kernel, "/g", 31 * MB)
    page_cache(kernel, "/g", 50 * MB)
    assert close(current(kernel, "/g"), 30 * MB, 5)
    assert event(kernel, "/g", "high") > 0


@pytest.mark.parametrize("profile", MEMCG)
def test_memcg_high_sync(profile: str) -> None:
    """One kernel entry that exceeds memory.high by far is throttled before it reaches memory.max.

    Linux populates an mlocked area for it; here the one entry creates a preallocated map.
    """
    kernel = boot(profile)
    create(kernel, "/g")
    kernel.write_file("/g", "memory.high", "30M")
    kernel.write_file("/g", "memory.max", "140M")
    task = kernel.spawn(cgroup="/g", memlock=(RLIM_INFINITY, RLIM_INFINITY))
    kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 4096, 20_000))
    assert event(kernel, "/g", "high") > 0
    assert event(kernel, "/g", "max") == 0
    assert kernel.now_ns > 0


@pytest.mark.parametrize("profile", ALL)
def test_memcg_max(profile: str) -> None:
    kernel = boot(profile)
    create(kernel, "/g")
    assert kernel.read_file("/g", "memory.max") == "max\n"
    kernel.write_file("/g", "memory.max", "30M")
    assert not run_anon(kernel, "/g", 100 * MB)
    page_cache(kernel, "/g", 50 * MB)
    assert close(current(kernel, "/g"), 30 * MB, 5)
    assert 0 < current(kernel, "/g") <= 30 * MB
    assert event(kernel, "/g", "max") > 0


@pytest.mark.parametrize("profile", ALL)
def test_memcg_swap_max(profile: str) -> None:
    kernel = Kernel(
        profile_named(profile), possible_cpus=CPUS, ram_bytes=2 << 30, swap_bytes=1 << 30
    )
    create(kernel, "/g")
    assert kernel.read_file("/g", "memory.swap.current") == "0\n"
    assert kernel.read_file("/g", "memory.swap.max") == "max\n"
    kernel.write_file("/g", "memory.swap.max", "30M")
    kernel.write_file("/g", "memory.max", "30M")
    assert not run_anon(kernel, "/g", 100 * MB)
    assert event(kernel, "/g", "oom") == 1
    assert event(kernel, "/g", "oom_kill") == 1
    anon_noexit(kernel, "/g", 50 * MB)
    assert close(int(kernel.read_file("/g", "memory.swap.current")), 20 * MB, 3)
    assert current(kernel, "/g") <= 30 * MB
    assert event(kernel, "/g", "max") > 0


@pytest.mark.parametrize("profile", HAS_RECLAIM)
def test_memcg_reclaim(profile: str) -> None:
    kernel = boot(profile)
    create(kernel, "/g")
    page_cache(kernel, "/g", 50 * MB)
    assert close(current(kernel, "/g"), 50 * MB, 10)
    assert reclaim_until(kernel, "/g", 30 * MB)


@pytest.mark.parametrize("profile", ALL)
def test_memcg_oom_events(profile: str) -> None:
    kernel = boot(profile)
    create(kernel, "/g")
    kernel.write_file("/g", "memory.max", "30M")
    assert not run_anon(kernel, "/g", 100 * MB)
    assert kernel.read_file("/g", "cgroup.procs") == ""
    assert event(kernel, "/g", "oom") == 1
    assert event(kernel, "/g", "oom_kill") == 1


@pytest.mark.parametrize("profile", ALL)
def test_memcg_oom_group_leaf_events(profile: str) -> None:
    kernel = boot(profile)
    create(kernel, "/p", "/p/c")
    kernel.write_file("/p", "cgroup.subtree_control", "+memory")
    kernel.write_file("/p/c", "memory.max", "50M")
    kernel.write_file("/p/c", "memory.oom.group", "1")
    with refused(Errno.EBUSY):  # the selftest's process in the parent cannot enter either
        kernel.spawn(cgroup="/p")
    for _ in range(2):
        anon_noexit(kernel, "/p/c", MB)
    assert not run_anon(kernel, "/p/c", 100 * MB)
    assert kernel.read_file("/p/c", "cgroup.procs") == ""
    processes, victim_again = 3, 1  # the killed caller is still there when its group is killed
    assert event(kernel, "/p/c", "oom_kill") == processes + victim_again
    assert event(kernel, "/p", "oom_kill") == processes + victim_again
    assert keyed(kernel, "/p", "memory.events.local", "oom_kill") == 0


@pytest.mark.parametrize("profile", ALL)
def test_memcg_oom_group_parent_events(profile: str) -> None:
    kernel = boot(profile)
    create(kernel, "/p", "/p/c")
    kernel.write_file("/p", "memory.max", "80M")
    kernel.write_file("/p", "memory.oom.group", "1")
    anon_noexit(kernel, "/p", 60 * MB)
    for _ in range(2):
        anon_noexit(kernel, "/p/c", MB)
    assert not run_anon(kernel, "/p/c", 100 * MB)
    assert kernel.read_file("/p", "cgroup.procs") == ""
    assert kernel.read_file("/p/c", "cgroup.procs") == ""


@pytest.mark.parametrize("profile", ALL)
def test_of_nested_oom_groups_the_highest_one_goes(profile: str) -> None:
    """Not a selftest: mem_cgroup_get_oom_group goes on upwards after the first group it meets."""
    kernel = boot(profile)
    create(kernel, "/p", "/p/c", "/p/d")
    kernel.write_file("/p", "cgroup.subtree_control", "+memory")
    kernel.write_file("/p", "memory.max", "80M")
    kernel.write_file("/p", "memory.oom.group", "1")
    kernel.write_file("/p/c", "memory.oom.group", "1")
    anon_noexit(kernel, "/p/d", MB)
    assert not run_anon(kernel, "/p/c", 100 * MB)
    assert kernel.read_file("/p/d", "cgroup.procs") == ""


@pytest.mark.parametrize("profile", ALL)
def test_memcg_oom_group_score_events(profile: str) -> None:
    kernel = boot(profile)
    create(kernel, "/g")
    kernel.write_file("/g", "memory.max", "50M")
    kernel.write_file("/g", "memory.oom.group", "1")
    safe = anon_noexit(kernel, "/g", MB, oom_score_adj=-1000)
    anon_noexit(kernel, "/g", MB)
    assert not run_anon(kernel, "/g", 100 * MB)
    # Two processes die; the selftest, too, wants three: the caller counts again as a member of its group.
    assert event(kernel, "/g", "oom_kill") == 3
    assert kernel.read_file("/g", "cgroup.procs") == f"{safe.pid}\n"
    kernel.kill(safe.pid)


# -- test_kmem.c -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", HAS_KERNEL_LINE)
def test_kmem_memcg_deletion(profile: str) -> None:
    """Usage stays what the parts sum to, while groups with kernel memory come and go."""
    kernel = boot(profile)
    create(kernel, "/p")
    kernel.write_file("/p", "cgroup.subtree_control", "+memory")
    for number in range(100):
        create(kernel, f"/p/{number}")
        task = kernel.spawn(cgroup=f"/p/{number}", cpu=number % CPUS)
        fd = kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 64)).fd
        if number % 2:
            kernel.bpf.obj_pin(task, f"/sys/fs/bpf/{number}", fd)
        kernel.exit(task.pid)
        kernel.rmdir(f"/p/{number}")
    parts = sum(stat(kernel, "/p", key) for key in ("anon", "file", "kernel"))
    assert abs(parts - current(kernel, "/p")) < MAX_VMSTAT_ERROR
    kernel.check()


@pytest.mark.parametrize("profile", ALL)
def test_kmem_dead_cgroups(profile: str) -> None:
    kernel = boot(profile)
    create(kernel, "/p")
    kernel.write_file("/p", "cgroup.subtree_control", "+memory")
    for number in range(30):
        create(kernel, f"/p/{number}")
        task = kernel.spawn(cgroup=f"/p/{number}", memlock=(RLIM_INFINITY, RLIM_INFINITY))
        kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 100))
        kernel.exit(task.pid)
        kernel.rmdir(f"/p/{number}")
    kernel.advance(8_000_000_000)
    assert keyed(kernel, "/p", "cgroup.stat", "nr_dying_descendants") == 0


@pytest.mark.parametrize("profile", ["6.1", "6.12", "6.18"])
def test_percpu_basic(profile: str) -> None:
    kernel = boot(profile)
    create(kernel, "/p")
    kernel.write_file("/p", "cgroup.subtree_control", "+memory")
    for number in range(1000):
        create(kernel, f"/p/{number}")
    percpu, slab = stat(kernel, "/p", "percpu"), stat(kernel, "/p", "slab")
    assert percpu > 0
    assert abs(current(kernel, "/p") - (percpu + slab)) < MAX_VMSTAT_ERROR


# -- test_core.c -----------------------------------------------------------------------------------------------------


def parent_and_child() -> Kernel:
    kernel = boot("6.12")
    create(kernel, "/p", "/p/c")
    return kernel


def test_cgcore_internal_process_constraint() -> None:
    kernel = parent_and_child()
    kernel.write_file("/p", "cgroup.subtree_control", "+memory")
    task = kernel.spawn()
    with refused(Errno.EBUSY):
        kernel.write_file("/p", "cgroup.procs", str(task.pid))


def test_cgcore_top_down_constraint_enable() -> None:
    kernel = parent_and_child()
    with refused(Errno.ENOENT):
        kernel.write_file("/p/c", "cgroup.subtree_control", "+memory")


def test_cgcore_top_down_constraint_disable() -> None:
    kernel = parent_and_child()
    kernel.write_file("/p", "cgroup.subtree_control", "+memory")
    kernel.write_file("/p/c", "cgroup.subtree_control", "+memory")
    with refused(Errno.EBUSY):
        kernel.write_file("/p", "cgroup.subtree_control", "-memory")


def test_cgcore_populated() -> None:
    kernel = boot("6.12")
    paths = ["/a", "/a/b", "/a/b/c", "/a/b/d"]
    create(kernel, *paths)
    task = kernel.spawn()

    def populated() -> list[int]:
        return [keyed(kernel, path, "cgroup.events", "populated") for path in paths]

    kernel.write_file("/a/b/c", "cgroup.procs", str(task.pid))
    assert populated() == [1, 1, 1, 0]
    kernel.write_file("/", "cgroup.procs", str(task.pid))
    assert populated() == [0, 0, 0, 0]


def test_cgcore_proc_migration() -> None:
    kernel = boot("6.12")
    create(kernel, "/src", "/dst")
    task = kernel.spawn(cgroup="/src")
    kernel.write_file("/dst", "cgroup.procs", str(task.pid))
    assert kernel.read_file("/dst", "cgroup.threads") == f"{task.pid}\n"
    assert kernel.read_file("/src", "cgroup.threads") == ""
    assert kernel.read_proc(task.pid, "cgroup") == "0::/dst\n"


def test_cgcore_destroy() -> None:
    kernel = boot("6.12")
    for _ in range(10):
        create(kernel, "/g")
        task = anon_noexit(kernel, "/g", 100 * MB)
        assert kernel.read_file("/g", "cgroup.procs") == f"{task.pid}\n"
        kernel.write_file("/g", "cgroup.kill", "1")
        assert kernel.read_file("/g", "cgroup.procs") == ""
        kernel.rmdir("/g")
    kernel.run_deferred()
    kernel.check()
