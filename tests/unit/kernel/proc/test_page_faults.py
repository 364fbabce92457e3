"""User memory of processes: faults, page tables, page cache, tmpfs, and dying inside a call."""

import pytest

from bpfleet.abi.bpf import MapType
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel import TaskKilled
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.events import EventKind
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memory import AllocKind, Owner
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import profile_named
from tests.kernels import ALL, MEMCG, boot, charged, read_pages, refused, write_tmpfs

MB = 1 << 20
TABLE = 512 * 4096
UNLIMITED = (RLIM_INFINITY, RLIM_INFINITY)


@pytest.mark.parametrize("profile", ALL)
def test_touched_memory_is_anonymous_and_one_page_at_a_time(profile: str) -> None:
    kernel, task = boot(profile)
    kernel.touch(task.pid, 1)
    assert task.mm.anon_pages == 1
    kernel.touch(task.pid, MB)
    assert task.mm.anon_pages == 257
    assert charged(kernel, "process")["anon"] == 257 * 4096
    assert "anon 1052672\n" in kernel.read_file("/a", "memory.stat")


def test_a_page_table_comes_after_256_pages_and_with_every_further_512() -> None:
    kernel, task = boot("6.12")
    kernel.touch(task.pid, TABLE // 2)
    assert task.mm.pgtable_pages == 0
    kernel.touch(task.pid, 4096)
    assert task.mm.pgtable_pages == 1
    kernel.touch(task.pid, 2 * TABLE, shared=True)
    assert task.mm.pgtable_pages == 3
    assert kernel.release(task.pid, 2 * TABLE, shared=True) == 2 * TABLE
    assert task.mm.pgtable_pages == 1
    kernel.check()


def test_a_process_gives_back_at_most_what_it_has() -> None:
    kernel, task = boot("6.12")
    kernel.touch(task.pid, 10 * 4096)
    assert kernel.release(task.pid, 100 * 4096) == 10 * 4096
    assert kernel.release(task.pid, 4096) == 0
    assert kernel.release(task.pid, 4096, shared=True) == 0


def test_sizes_are_not_negative() -> None:
    kernel, task = boot("6.12")
    for call in (kernel.touch, kernel.release):
        with refused(Errno.EINVAL):
            call(task.pid, -1)
    kernel.touch(task.pid, 0)
    assert task.rss_bytes == 0


@pytest.mark.parametrize("profile", ALL)
def test_a_process_in_the_root_is_charged_to_nobody_but_uses_ram(profile: str) -> None:
    kernel, _ = boot(profile)
    task = kernel.spawn()
    used = kernel.ram.used_bytes
    kernel.touch(task.pid, MB)
    assert kernel.memory.charged_bytes_total == 0
    assert kernel.ram.used_bytes >= used + MB


# -- dying -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ALL)
def test_the_killed_caller_does_not_return(profile: str) -> None:
    kernel, task = boot(profile)
    kernel.write_file("/a", "memory.max", "1M")
    with pytest.raises(TaskKilled) as caught:
        kernel.touch(task.pid, 2 * MB)
    assert caught.value.numbers["pid"] == task.pid
    assert not task.alive
    assert task.exit_reason == "oom-killed"
    assert task.exit_status == 9
    assert kernel.tasks() == []
    assert kernel.cgroup("/a").memcg.memory.usage * 4096 <= MB
    kernel.run_deferred()
    kernel.check()


@pytest.mark.parametrize("profile", MEMCG)
def test_another_process_dies_and_the_caller_goes_on(profile: str) -> None:
    kernel, task = boot(profile)
    kernel.write_file("/a", "memory.max", "8M")
    big = kernel.spawn(cgroup="/a")
    kernel.touch(big.pid, 7 * MB)
    kernel.touch(task.pid, 2 * MB)
    assert task.alive
    assert not big.alive
    (event,) = [e for e in kernel.events.since(0) if e.kind is EventKind.OOM_KILL]
    assert event.fields["role"] == "bystander"
    assert event.fields["caller_pid"] == task.pid
    assert event.fields["limited_cgroup"] == "/a"
    assert event.fields["anon_bytes"] == 7 * MB


def test_a_fault_that_nobody_can_be_killed_for_hangs() -> None:
    kernel, task = boot("6.12", oom_score_adj=-1000)
    kernel.write_file("/a", "memory.max", "1M")
    with refused(Errno.ENOMEM) as caught:
        kernel.touch(task.pid, 2 * MB)
    assert caught.value.numbers["hangs"] == 1
    assert task.alive
    assert [e.kind for e in kernel.events.since(0)].count(EventKind.OOM_NO_VICTIM) == 1
    kernel.check()


def test_the_report_says_what_the_memory_was_used_for() -> None:
    kernel, task = boot("6.12")
    kernel.write_file("/a", "memory.max", "8M")
    kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 1024, 6000, map_name="big"))
    with pytest.raises(TaskKilled):
        kernel.touch(task.pid, 4 * MB)
    (event,) = [e for e in kernel.events.since(0) if e.kind is EventKind.OOM_KILL]
    assert int(event.fields["bpf_bytes"]) >= 6000 * 1024
    assert "big" in str(event.fields["bpf_objects"])
    assert int(event.fields["group_vmalloc_bytes"]) >= 6000 * 1024
    assert int(event.fields["usage_bytes"]) <= int(event.fields["limit_bytes"]) == 8 * MB


@pytest.mark.parametrize("profile", ALL)
def test_a_node_out_of_memory_kills_the_worst_process_of_all(profile: str) -> None:
    kernel, task = boot(profile)
    big = kernel.spawn(cgroup="/b")
    kernel.touch(big.pid, 700 * MB)
    kernel.touch(task.pid, 400 * MB)
    assert not big.alive
    assert task.alive
    (event,) = [e for e in kernel.events.since(0) if e.kind is EventKind.OOM_KILL]
    assert event.fields["limit"] == "node"
    lines = [str(e.fields["line"]) for e in kernel.events.since(0) if "line" in e.fields]
    assert any("CONSTRAINT_NONE" in line and "global_oom" in line for line in lines)


def test_a_node_without_anybody_to_kill_panics() -> None:
    kernel, task = boot("6.12", oom_score_adj=-1000)
    with pytest.raises(TaskKilled):
        kernel.touch(task.pid, 2 << 30)
    assert "deadlocked on memory" in kernel.crashed
    assert kernel.tasks() == []
    kernel.check()  # nothing to check on a machine that has stopped


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ALL)
def test_the_first_reader_pays_for_a_file(profile: str) -> None:
    kernel, task = boot(profile)
    other = kernel.spawn(cgroup="/b")
    assert read_pages(kernel, task.pid, "/file", MB) == MB
    assert read_pages(kernel, other.pid, "/file", MB) == MB
    assert kernel.cgroup("/b").memcg.usage_bytes == 0
    assert read_pages(kernel, other.pid, "/file", 2 * MB) == 2 * MB
    by_payer = {line.cgroup: line.bytes for line in kernel.ledger() if line.kind == "file"}
    assert by_payer == {"/a": MB, "/b": MB}


def test_a_file_larger_than_the_limit_pushes_its_own_beginning_out() -> None:
    kernel, task = boot("6.12")
    kernel.write_file("/a", "memory.max", "1M")
    assert read_pages(kernel, task.pid, "/file", 10 * MB) == 10 * MB
    assert task.alive
    assert kernel.cgroup("/a").memcg.usage_bytes <= MB
    kernel.check()


def test_a_limit_of_nothing_leaves_a_file_unread_and_the_reader_alive() -> None:
    kernel, task = boot("6.12", oom_score_adj=-1000)
    kernel.write_file("/a", "memory.max", "0")
    with refused(Errno.ENOMEM):
        read_pages(kernel, task.pid, "/file", MB)
    kernel.check()


@pytest.mark.parametrize("profile", ALL)
def test_tmpfs_stays_until_it_is_removed(profile: str) -> None:
    kernel, task = boot(profile)
    assert write_tmpfs(kernel, task.pid, "/dev/shm/x", MB) == MB
    kernel.exit(task.pid)
    assert "shmem 1048576\n" in kernel.read_file("/a", "memory.stat")
    assert kernel.reclaimer.reclaim(kernel.controller.root, 1000) == 0
    assert kernel.page_cache.unlink_tmpfs("/dev/shm/x")
    assert "shmem 0\n" in kernel.read_file("/a", "memory.stat")
    assert not kernel.page_cache.unlink_tmpfs("/dev/shm/x")
    kernel.check()


@pytest.mark.parametrize("profile", MEMCG)
@pytest.mark.parametrize("pages", [3, 64, 65, 66, 130, 131, 200, 1000])
def test_pages_given_back_at_once_leave_the_counters_as_pages_given_back_one_by_one(
    profile: str, pages: int
) -> None:
    usage = []
    for at_once in (True, False):
        kernel, task = boot(profile)
        memory, owner = kernel.memory, Owner("process", 1)
        account = memory.account(owner, AllocKind.PAGE_TABLE, task.objcg)
        size = memory.page_size(AllocKind.PAGE_TABLE)
        memory.fault(account, pages + 7, GFP.GFP_PAGE_TABLE, task)
        if at_once:
            memory.give_singly(account, size, task.cpu, pages)
        else:
            for _ in range(pages):
                memory.give(account, size, task.cpu)
        usage.append(kernel.cgroup("/a").memcg.usage_bytes)
        memory.give_singly(account, size, task.cpu, 7)
        kernel.check()
    assert usage[0] == usage[1]


# -- what the OOM killer sees, and when ------------------------------------------------------------------------------


def two_in_a_group(limit: int) -> tuple[Kernel, Task, Task]:
    kernel = Kernel(profile_named("6.18"))
    kernel.mkdir("/c")
    kernel.write_file("/c", "memory.max", str(limit))
    first, second = (kernel.spawn(cgroup="/c", memlock=UNLIMITED, comm=name) for name in "ab")
    return kernel, first, second


def test_pages_of_the_fault_in_progress_count_for_their_own_process() -> None:
    kernel, toucher, bystander = two_in_a_group(2 * MB)
    kernel.touch(bystander.pid, MB // 4)
    with pytest.raises(TaskKilled):
        kernel.touch(toucher.pid, 4 * MB)
    assert bystander.alive
    assert kernel.events.total_by_kind[EventKind.OOM_KILL] == 1


def test_oom_score_adj_counts_nothing_below_a_thousand_pages() -> None:
    kernel, toucher, bystander = two_in_a_group(2 * MB)
    kernel.processes.set_oom_score_adj(toucher.pid, 1000)
    with pytest.raises(TaskKilled):
        kernel.touch(toucher.pid, 5705728)
    assert bystander.alive


def test_a_victims_map_is_back_before_its_neighbour_dies_too() -> None:
    kernel, victim, neighbour = two_in_a_group(8 * MB)
    kernel.touch(victim.pid, 2035712)
    kernel.bpf.map_create(victim, MapAttr(MapType.HASH, 4, 24, 65536))
    kernel.touch(neighbour.pid, 2367488)
    assert not victim.alive
    assert neighbour.alive
    assert kernel.events.total_by_kind[EventKind.OOM_KILL] == 1


def test_a_charge_tries_again_while_a_victim_ends() -> None:
    kernel, victim, neighbour = two_in_a_group(8 * MB)
    kernel.touch(victim.pid, 6 * MB)
    before = kernel.now_ns
    kernel.touch(neighbour.pid, 4 * MB)
    events = kernel.cgroup("/c").memcg.events
    assert events["oom_kill"] == 1
    assert events["max"] > 18 + 17
    assert events["oom"] > 1
    assert kernel.now_ns > before
