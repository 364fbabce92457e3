"""The kernel as a whole: faults, leaving a call, crashing, and the same history every time."""

import hashlib

import pytest

from bpfleet.abi.bpf import F_NO_PREALLOC, MapType, ProgType
from bpfleet.abi.errno import Errno
from bpfleet.kernel import TaskKilled, profile_named
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.program import ProgAttr
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.events import EventKind
from bpfleet.kernel.kernel import FAULT_KINDS, Kernel
from tests.kernels import ALL, MEMCG, boot, read_pages, refused, settle

MB = 1 << 20
HASH = MapAttr(MapType.HASH, 4, 8, 1000, F_NO_PREALLOC)


def key(number: int) -> bytes:
    return number.to_bytes(4, "little")


# -- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ALL)
@pytest.mark.parametrize("nth", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("kind", "attr"),
    [
        ("slab", MapAttr(MapType.HASH, 4, 8, 100)),
        ("percpu", MapAttr(MapType.PERCPU_ARRAY, 4, 8, 10)),
        ("vmalloc", MapAttr(MapType.ARRAY, 4, 64, 1000)),
        ("page", MapAttr(MapType.RINGBUF, 0, 0, 1 << 16)),
    ],
)
def test_whichever_allocation_fails_nothing_stays_behind(
    profile: str, kind: str, attr: MapAttr, nth: int
) -> None:
    kernel, task = boot(profile)
    kernel.run_deferred()
    used = kernel.ram.used_bytes
    if attr.map_type not in kernel.profile.map_types:
        return
    kernel.inject_fault(kind, nth)
    refusal = None
    try:
        kernel.bpf.map_create(task, attr)
    except KernelError as error:
        refusal = error
    if refusal is not None:
        assert refusal.errno is Errno.ENOMEM
        assert refusal.reason is Reason.FAULT_INJECTED
        assert kernel.bpf.maps() == []
    kernel.clear_faults()
    settle(kernel)
    assert kernel.ram.used_bytes == used


def test_a_fault_strikes_once() -> None:
    kernel, task = boot("6.12")
    kernel.inject_fault("percpu")
    with refused(Errno.ENOMEM) as caught:
        kernel.bpf.map_create(task, HASH)
    assert caught.value.reason is Reason.FAULT_INJECTED
    kernel.bpf.map_create(task, HASH)


def test_a_small_area_that_the_slab_refuses_comes_from_vmalloc() -> None:
    kernel, task = boot("6.12")
    kernel.inject_fault("slab")
    kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 10))
    assert kernel.bpf.maps()
    kernel.check()


def test_a_fault_can_be_taken_back() -> None:
    kernel, task = boot("6.12")
    for kind in FAULT_KINDS:
        kernel.inject_fault(kind)
    kernel.clear_faults()
    kernel.bpf.map_create(task, HASH)
    kernel.touch(task.pid, MB)


def test_unknown_faults_name_those_there_are() -> None:
    kernel, _ = boot("6.12")
    with pytest.raises(ValueError, match="late_refill"):
        kernel.inject_fault("cosmic ray")


def test_late_refills_fail_a_batch_and_not_the_next_call() -> None:
    kernel, task = boot("6.12")
    keys = b"".join(map(key, range(1000)))
    fd = kernel.bpf.map_create(task, HASH).fd
    kernel.inject_fault("late_refill")
    found = kernel.bpf.map_update_batch(task, fd, keys, bytes(8000), 1000)
    assert found.errno == Errno.ENOMEM
    assert 0 < found.count < 1000
    kernel.bpf.map_update_elem(task, fd, key(found.count), bytes(8))
    kernel.clear_faults()
    found = kernel.bpf.map_update_batch(task, fd, keys, bytes(8000), 1000)
    assert (found.errno, found.count) == (0, 1000)
    kernel.check()


# -- leaving a call --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", MEMCG)
def test_exceeding_memory_high_costs_time_and_never_fails(profile: str) -> None:
    kernel, task = boot(profile)
    kernel.write_file("/a", "memory.high", "1M")
    before = kernel.now_ns
    kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 1024, 8000))
    assert kernel.now_ns > before
    assert task.alive
    assert kernel.cgroup("/a").memcg.events["high"] > 0
    assert kernel.cgroup("/a").memcg.stall_ns == kernel.now_ns - before
    assert "some avg10=0.00 " not in kernel.read_file("/a", "memory.pressure")


@pytest.mark.parametrize("profile", MEMCG)
def test_a_caller_killed_inside_a_load_leaves_no_program(profile: str) -> None:
    kernel, task = boot(profile)
    kernel.touch(task.pid, 2 * MB)
    kernel.write_file("/a", "memory.max", "4M")
    with pytest.raises(TaskKilled):
        kernel.bpf.prog_load(task, ProgAttr(ProgType.CGROUP_SKB, 800_000))
    assert not task.alive
    kernel.run_deferred()
    assert kernel.bpf.progs() == []
    kernel.check()


# -- crashing --------------------------------------------------------------------------------------------------------


def test_a_crash_ends_everything_at_once() -> None:
    kernel, task = boot("6.12")
    kernel.bpf.map_create(task, HASH)
    kernel.crash("pulled the plug")
    kernel.crash("again")
    assert kernel.crashed == "pulled the plug"
    assert kernel.tasks() == []
    assert not task.alive
    assert [e.kind for e in kernel.events.since(0)].count(EventKind.NODE_CRASHED) == 1
    assert EventKind.PROCESS_EXITED not in [e.kind for e in kernel.events.since(0)]
    kernel.check()


# -- the same every time ---------------------------------------------------------------------------------------------


def history(profile: str) -> str:
    kernel = Kernel(profile_named(profile), possible_cpus=4, ram_bytes=256 * MB, seed=7)
    for path in ("/a", "/a/x", "/a/y", "/b"):
        kernel.mkdir(path)
    kernel.write_file("/a", "memory.max", "24M")
    for round_number in range(6):
        path = ("/a/x", "/a/y", "/b")[round_number % 3]
        task = kernel.spawn(cgroup=path, cpu=round_number % 4, memlock=(64 * MB, 64 * MB))
        try:
            fd = kernel.bpf.map_create(task, HASH).fd
            for number in range(400):
                kernel.bpf.map_update_elem(task, fd, key(number * 31), bytes(8))
            read_pages(kernel, task.pid, f"/file{round_number}", 3 * MB)
            kernel.touch(task.pid, 9 * MB)
        except TaskKilled:
            continue
        kernel.advance(10_000_000)
    lines = [repr(event) for event in kernel.events.since(0)]
    lines += [repr(line) for line in kernel.ledger()]
    lines += [kernel.read_file(path, "memory.stat") for path in ("/a", "/b")]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("profile", ALL)
def test_the_same_calls_have_the_same_history(profile: str) -> None:
    assert history(profile) == history(profile)


def test_pids_and_paths_that_are_not_there() -> None:
    kernel, task = boot("6.12")
    for call in (kernel.exit, kernel.kill, kernel.task):
        with refused(Errno.ESRCH):
            call(1)
    with refused(Errno.ESRCH):
        kernel.touch(1, 1)
    with refused(Errno.ENOENT):
        kernel.spawn(cgroup="/nowhere")
    with refused(Errno.EBADF):
        kernel.close(task.pid, 3)
    with refused(Errno.EBADF):
        kernel.dup(task.pid, 3)


def test_a_charge_can_fail_where_memory_alone_would_not() -> None:
    kernel, task = boot("6.1")
    free = kernel.spawn()  # in the root, which is not charged
    kernel.inject_fault("charge")
    kernel.bpf.map_create(free, HASH)
    with refused(Errno.ENOMEM) as caught:
        kernel.bpf.prog_load(task, ProgAttr(ProgType.CGROUP_SKB, 20))
    assert caught.value.reason is Reason.FAULT_INJECTED
    (event,) = [e for e in kernel.events.since(0) if e.kind is EventKind.FAULT_INJECTED]
    assert event.fields["allocation"] in {"slab", "vmalloc", "percpu"}


def random_failures(seed: int) -> list[int]:
    kernel = Kernel(profile_named("6.12"), seed=seed)
    kernel.mkdir("/a")
    task = kernel.spawn(cgroup="/a")
    kernel.inject_fault("random", 20)
    failed = []
    for number in range(200):
        try:
            kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 10))
        except KernelError as error:
            if error.reason is Reason.FAULT_INJECTED:
                failed.append(number)
        kernel.check()
    kernel.clear_faults()
    kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 10))
    settle(kernel)
    assert kernel.memory.charged_bytes_total == 0
    return failed


def test_random_faults_are_the_seeds() -> None:
    assert random_failures(1) == random_failures(1)
    assert random_failures(1) != random_failures(2)
    assert 5 < len(random_failures(3)) < 120
