"""HASH and PERCPU_HASH: fullness, order, elements made on demand, and what a limit does to them."""

import pytest

from bpfleet.abi.bpf import BPF_EXIST, BPF_NOEXIST, F_NO_PREALLOC, F_ZERO_SEED, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.host import OpContext
from bpfleet.kernel.errors import Reason
from tests.kernels import ALL, boot, having, refused

VALUE = bytes(8)
FORCED = ["seed-v5", "5.11"]
NOWAIT = having("elements_nowait")


def key(number):
    return number.to_bytes(4, "little")


@pytest.mark.parametrize("profile", ALL)
@pytest.mark.parametrize("flags", [0, F_NO_PREALLOC])
def test_the_map_is_full_at_max_entries_keys_and_replacing_still_works(profile, flags):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 7, flags)).fd
    for number in range(7):
        kernel.bpf.map_update_elem(task, fd, key(number), VALUE, BPF_NOEXIST)
    with refused(Errno.E2BIG) as full:
        kernel.bpf.map_update_elem(task, fd, key(7), VALUE)
    assert full.value.reason is Reason.MAP_FULL
    assert full.value.numbers["max_entries"] == 7
    kernel.bpf.map_update_elem(task, fd, key(3), b"replaced", BPF_EXIST)
    assert kernel.bpf.map_lookup_elem(task, fd, key(3)) == b"replaced"


@pytest.mark.parametrize("profile", ALL)
def test_walking_goes_by_bucket_and_newest_first_as_on_a_real_kernel(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 16, F_ZERO_SEED)).fd
    for number in range(12):
        kernel.bpf.map_update_elem(task, fd, key(number), VALUE)
    seen, at = [], None
    for _ in range(12):
        at = kernel.bpf.map_get_next_key(task, fd, at)
        seen.append(at[0])
    assert seen == [10, 4, 5, 0, 7, 2, 1, 8, 11, 9, 6, 3]


@pytest.mark.parametrize("profile", ALL)
def test_hash_seeds_differ_by_map_and_repeat_by_kernel_seed(profile):
    seeds = []
    for _ in range(2):
        kernel, task = boot(profile)
        for _ in range(2):
            kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 4))
        seeds.append([bpf_map.hash_seed for bpf_map in kernel.bpf.maps()])
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 2


@pytest.mark.parametrize("profile", FORCED)
def test_elements_are_forced_over_the_limit_up_to_5_19(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 100_000, F_NO_PREALLOC)).fd
    limit = kernel.cgroup("/a").memcg.usage_bytes + (64 << 10)
    kernel.write_file("/a", "memory.max", str(limit))
    for number in range(10_000):
        kernel.bpf.map_update_elem(task, fd, key(number), VALUE)
    assert kernel.cgroup("/a").memcg.usage_bytes > limit + (500 << 10)
    kernel.check()


@pytest.mark.parametrize("profile", NOWAIT)
def test_elements_fail_quietly_at_the_limit_from_6_0_on(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 100_000, F_NO_PREALLOC)).fd
    memcg = kernel.cgroup("/a").memcg
    kernel.write_file("/a", "memory.max", str(memcg.usage_bytes + (64 << 10)))
    events = kernel.read_file("/a", "memory.events")
    with refused(Errno.ENOMEM) as at_the_limit:
        for number in range(10_000):
            kernel.bpf.map_update_elem(task, fd, key(number), VALUE)
    assert at_the_limit.value.reason is Reason.MEMCG_LIMIT_EXCEEDED
    told = kernel.read_file("/a", "memory.events") != events
    assert told == kernel.profile.nowait_charge_raises_max
    assert memcg.usage_bytes <= memcg.limit_bytes


def test_5_10_never_fails_an_insert_for_memory():
    kernel, task = boot("5.10")
    fd = kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 2000, F_NO_PREALLOC)).fd
    kernel.prlimit(task.pid, "memlock", 0, 0)
    for number in range(2000):
        kernel.bpf.map_update_elem(task, fd, key(number), VALUE)
    assert kernel.bpf.maps()[-1].precharged_bytes == kernel.user(0).locked_vm_pages * 4096


@pytest.mark.parametrize("profile", ["5.11", "6.1", "6.12", "6.18"])
def test_an_insert_from_another_cgroup_is_charged_to_the_creator(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.PERCPU_HASH, 4, 8, 5000, F_NO_PREALLOC)).fd
    other = kernel.spawn(cgroup="/b")
    theirs = kernel.files.dup(task, fd, other)
    before = {path: kernel.cgroup(path).memcg.usage_bytes for path in ("/a", "/b")}
    for number in range(5000):
        kernel.bpf.map_update_elem(other, theirs, key(number), bytes(16))
    assert kernel.cgroup("/a").memcg.usage_bytes > before["/a"] + (300 << 10)
    assert kernel.cgroup("/b").memcg.usage_bytes == before["/b"]


def test_the_posted_series_charged_the_updating_process():
    kernel, task = boot("seed-v5")
    fd = kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 5000, F_NO_PREALLOC)).fd
    other = kernel.spawn(cgroup="/b")
    theirs = kernel.files.dup(task, fd, other)
    bpf_map = kernel.bpf.maps()[-1]
    for number in range(100):
        kernel.bpf.map_update_elem(other, theirs, key(number), VALUE)
    for number in range(100, 150):
        bpf_map.update(key(number), VALUE, 0, OpContext(other, in_interrupt=True))
    payers = {
        a.objcg.memcg.path: a.count
        for a in kernel.memory.accounts.values()
        if a.owner is bpf_map.site.owner and a.objcg is not None and a.kind.name == "SLAB"
    }
    assert payers["/b"] == 100
    assert payers["/a"] == 50 + 1, "interrupts charge the creator, as does the struct at creation"


@pytest.mark.parametrize("profile", ALL)
def test_a_program_writes_its_own_cpus_value_only(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.PERCPU_HASH, 4, 5, 4)).fd
    kernel.bpf.map_update_elem(task, fd, key(1), b"\x11" * 16)
    bpf_map = kernel.bpf.maps()[-1]
    task.cpu = 1
    bpf_map.update(key(1), b"\x22" * 5, 0, OpContext(task, from_prog=True))
    bpf_map.update(key(2), b"\x33" * 5, 0, OpContext(task, from_prog=True))
    assert kernel.bpf.map_lookup_elem(task, fd, key(1)) == b"\x11" * 8 + b"\x22" * 5 + b"\x11" * 3
    assert kernel.bpf.map_lookup_elem(task, fd, key(2)) == bytes(8) + b"\x33" * 5 + bytes(3)


def test_a_late_refill_fails_a_batch_with_memory_to_spare():
    kernel, task = boot("6.12")
    kernel.inject_fault("late_refill")
    attr = MapAttr(MapType.HASH, 4, 300, 1000, F_NO_PREALLOC)
    fd = kernel.bpf.map_create(task, attr).fd
    keys = b"".join(map(key, range(10)))
    first = kernel.bpf.map_update_batch(task, fd, keys, bytes(300 * 10), 10)
    assert (first.count, first.errno) == (1, Errno.ENOMEM), "the prefill of a large element is one"
    assert first.error.reason is Reason.ALLOCATOR_REFILL_LATE
    again = kernel.bpf.map_update_batch(task, fd, keys, bytes(300 * 10), 10)
    assert (again.count, again.errno) == (10, 0), "the refill ran when the first call returned"


@pytest.mark.parametrize("profile", ALL)
def test_deleted_elements_stay_charged_until_their_grace_period_ends_and_the_map_is_used(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 5000, F_NO_PREALLOC)).fd
    bpf_map = kernel.bpf.maps()[-1]
    empty = bpf_map.charged_bytes
    for number in range(5000):
        kernel.bpf.map_update_elem(task, fd, key(number), VALUE)
    full = bpf_map.charged_bytes
    for number in range(5000):
        kernel.bpf.map_delete_elem(task, fd, key(number))
    assert bpf_map.charged_bytes == full
    kernel.run_deferred()
    if kernel.profile.hash_uses_mem_alloc and not kernel.profile.mem_alloc_grace_restarts:
        assert full - 104 * 40 < bpf_map.charged_bytes < full  # only what overflowed first
        for number in range(200):
            kernel.bpf.map_update_elem(task, fd, key(number), VALUE)
        for number in range(200):
            kernel.bpf.map_delete_elem(task, fd, key(number))
        kernel.run_deferred()
    assert bpf_map.charged_bytes - empty < 104 * 300
    kernel.check()
