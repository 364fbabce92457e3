"""Pages of 16 and 64 KiB, and arm64: what they round, refuse and charge. By source; no such machine was recorded."""

import pytest

from bpfleet.abi.bpf import F_MMAPABLE, F_NO_PREALLOC, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel import Kernel, KernelError, TaskKilled, profile_named
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.plan import map_cost
from bpfleet.kernel.bpf.program import ProgAttr
from bpfleet.kernel.mm.memcg import Stat
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import Provenance

KIB = 1024
PAGES = {"6.12:arm64": 4 * KIB, "6.12:16k": 16 * KIB, "6.12:64k": 64 * KIB, "5.10:64k": 64 * KIB}
PAGES |= {"el8.10:64k": 64 * KIB, "6.18:16k": 16 * KIB, "7.3:64k": 64 * KIB}


def boot(profile: str) -> tuple[Kernel, Task]:
    kernel = Kernel(profile_named(profile), possible_cpus=2, ram_bytes=4 << 30)
    kernel.mkdir("/a")
    unlimited = ((1 << 64) - 1,) * 2
    return kernel, kernel.spawn(cgroup="/a", memlock=unlimited)


@pytest.mark.parametrize(("profile", "page"), PAGES.items())
def test_a_profile_says_its_machine_and_how_it_is_known(profile: str, page: int) -> None:
    found = profile_named(profile)
    assert (found.arch, found.page_bytes) == ("arm64", page)
    assert found.thread_bytes == max(page, 16 * KIB)
    assert found.provenance is Provenance.DERIVED


@pytest.mark.parametrize(("profile", "page"), PAGES.items())
def test_a_ring_buffer_is_a_power_of_two_of_whole_pages(profile: str, page: int) -> None:
    kernel, task = boot(profile)
    if MapType.RINGBUF not in kernel.profile.map_types:
        return
    for size in {page // 2, 4 * KIB} - {page}:
        with pytest.raises(KernelError) as refused:
            kernel.bpf.map_create(task, MapAttr(MapType.RINGBUF, max_entries=size))
        assert refused.value.errno is Errno.EINVAL
    before = kernel.cgroup("/a").memcg.usage_bytes
    attr = MapAttr(MapType.RINGBUF, max_entries=4 * page)
    kernel.bpf.map_create(task, attr)
    charged = kernel.memory.charged_bytes_total
    if not kernel.profile.is_rlimit:
        assert charged >= 7 * page  # three of its own and the data
        assert charged - 7 * page < 8 * KIB
        assert map_cost(attr, kernel.profile, 2).created.total <= charged
    assert kernel.cgroup("/a").memcg.usage_bytes >= before
    kernel.check()


@pytest.mark.parametrize(("profile", "page"), PAGES.items())
def test_plans_are_what_creation_charges(profile: str, page: int) -> None:
    kernel, task = boot(profile)
    if kernel.profile.is_rlimit:
        return
    for attr in (
        MapAttr(MapType.ARRAY, 4, 8, 1000),
        MapAttr(MapType.ARRAY, 4, 8, 100_000),
        MapAttr(MapType.ARRAY, 4, 8, 10, F_MMAPABLE),
        MapAttr(MapType.HASH, 4, 8, 5000),
        MapAttr(MapType.HASH, 4, 100, 500, F_NO_PREALLOC),
        MapAttr(MapType.LRU_HASH, 4, 8, 5000),
        MapAttr(MapType.PERCPU_ARRAY, 4, 8, 100),
    ):
        before = kernel.memory.charged_bytes_total
        made = kernel.bpf.map_create(task, attr)
        charged = kernel.memory.charged_bytes_total - before
        planned = map_cost(attr, kernel.profile, 2).created.total
        # The descriptor, and where the plan does not know what rounding a struct gets.
        assert 0 <= charged - planned <= 600, (attr, charged, planned)
        kernel.close(task.pid, made.fd)
    kernel.run_deferred()
    kernel.check()


@pytest.mark.parametrize(("profile", "page"), PAGES.items())
def test_charges_and_limits_move_by_whole_pages(profile: str, page: int) -> None:
    kernel, task = boot(profile)
    kernel.write_file("/a", "memory.max", str(4 * (64 * KIB) + page - 1))
    assert kernel.read_file("/a", "memory.max") == f"{4 * 64 * KIB}\n"
    memcg = kernel.cgroup("/a").memcg
    kernel.touch(task.pid, 1)
    assert memcg.stat[Stat.ANON_PAGES] * 4096 == page
    assert memcg.usage_bytes % page == 0
    with pytest.raises(TaskKilled):
        kernel.touch(task.pid, 8 * 64 * KIB)
    kernel.run_deferred()
    kernel.check()


@pytest.mark.parametrize(("profile", "page"), PAGES.items())
def test_a_process_and_its_threads_have_stacks_and_page_tables_of_whole_pages(
    profile: str, page: int
) -> None:
    kernel, task = boot(profile)
    kernel.execve(task.pid)
    kernel.clone_threads(task.pid, 3)
    memcg = kernel.cgroup("/a").memcg
    assert memcg.stat[Stat.KERNEL_STACK_PAGES] * 4096 == 4 * max(page, 16 * KIB)
    assert memcg.stat[Stat.PGTABLE_PAGES] * 4096 == 14 * page
    kernel.touch(task.pid, 64 << 20)
    kernel.release(task.pid, 64 << 20)
    kernel.check()
    kernel.exit(task.pid)
    kernel.run_deferred()
    assert memcg.stat[Stat.PGTABLE_PAGES] == 0
    kernel.check()


@pytest.mark.parametrize(("profile", "page"), PAGES.items())
def test_a_program_has_whole_pages(profile: str, page: int) -> None:
    kernel, task = boot(profile)
    made = kernel.bpf.prog_load(task, ProgAttr(1, insn_cnt=10))
    (prog,) = kernel.bpf.progs()
    assert prog.image_pages * 4096 == page
    kernel.close(task.pid, made.fd)
    kernel.run_deferred()
    kernel.check()


@pytest.mark.parametrize(("profile", "least"), [("el8.10:arm64", 128), ("6.12:arm64", 8)])
def test_kmalloc_has_no_small_objects_on_arm64_before_6_5(profile: str, least: int) -> None:
    kernel, _ = boot(profile)
    assert kernel.memory.slab_size(1).taken == least
    assert kernel.memory.slab_size(130).taken == (256 if least == 128 else 192)


def test_an_arena_is_touched_by_whole_pages() -> None:
    kernel, task = boot("6.12:64k")
    attr = MapAttr(MapType.ARENA, max_entries=10, map_flags=F_MMAPABLE)
    fd = kernel.bpf.map_create(task, attr).fd
    address = kernel.bpf.mmap(task, fd, 10 * 64 * KIB, prot=3)
    before = kernel.memory.charged_bytes_total
    kernel.bpf.touch_arena(task, address, 2)
    assert kernel.memory.charged_bytes_total - before == 3 * 64 * KIB  # and a page table
    kernel.close(task.pid, fd)
    kernel.exit(task.pid)
    kernel.run_deferred()
    kernel.check()
