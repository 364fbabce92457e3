"""bpf_mem_alloc: how many objects are ready, when memory is taken, and when it goes back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfleet.abi.bpf import F_NO_PREALLOC, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel import profile_named
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.memalloc import BpfMemAlloc, prefill_count, unit_bytes, watermarks
from bpfleet.kernel.deferred import RCU_GRACE_NS, TASKS_TRACE_GRACE_NS
from bpfleet.kernel.errors import Reason
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.current import KernelContext
from bpfleet.kernel.mm.memory import Owner
from tests.kernels import boot, charged, refused

CPU0, CPU1 = KernelContext(0), KernelContext(1)
SMALL = 64


def caches(profile="6.1", unit=SMALL, *, percpu=False, cpus=2, prefilled=True):
    """Caches of a map that does not exist, uncharged."""
    kernel, _ = boot(profile, cpus=cpus)
    cache = BpfMemAlloc(kernel.memory, kernel.timeline, Owner("map", 1), None, unit, percpu=percpu)
    if prefilled:
        count = prefill_count(kernel.profile, unit, percpu=percpu)
        cache.prefill(count, GFP.GFP_KERNEL, CPU0)
    return kernel, cache


@pytest.mark.parametrize(
    ("profile", "unit", "percpu", "prefilled", "marks"),
    [
        ("6.1", 256, False, 4, (32, 96, 48)),
        ("6.1", 257, False, 1, (31, 95, 48)),
        ("6.1", 4096, False, 1, (2, 6, 3)),
        ("6.1", 32768, False, 1, (1, 3, 1)),
        ("6.1", 8, True, 4, (32, 96, 48)),
        ("6.12", 8, True, 1, (1, 3, 1)),
        ("6.18", 64, False, 4, (32, 96, 48)),
    ],
)
def test_prefill_and_watermarks_by_object_size(profile, unit, percpu, prefilled, marks):
    kernel_profile = profile_named(profile)
    assert prefill_count(kernel_profile, unit, percpu=percpu) == prefilled
    assert watermarks(kernel_profile, unit, percpu=percpu) == marks


def test_only_objects_outside_per_cpu_memory_carry_a_list_node():
    assert unit_bytes(64, percpu=False) == 72
    assert unit_bytes(64, percpu=True) == 64


def test_the_first_element_refills_one_cpu():
    _, cache = caches()
    assert cache.objects == 8  # 4 on each of two CPUs
    cache.alloc(CPU0)
    assert (cache.in_use, cache.objects) == (1, 8 + 48)
    cache.alloc(CPU1)
    assert (cache.in_use, cache.objects) == (2, 8 + 96)


def test_a_run_takes_what_single_calls_take():
    _, one_by_one = caches()
    _, at_once = caches()
    for _ in range(500):
        one_by_one.alloc(CPU0)
    assert at_once.alloc_many(500, CPU0) == 500
    assert at_once.objects == one_by_one.objects
    assert at_once.in_use == one_by_one.in_use == 500


@pytest.mark.parametrize("profile", ["6.1", "6.18", "7.1"])
def test_of_a_burst_only_the_first_overflow_goes_back_by_itself(profile):
    kernel, cache = caches(profile)
    cache.alloc_many(500, CPU0)
    taken = cache.objects
    cache.free(0, 500)
    assert cache.objects == taken
    kernel.advance(100 * TASKS_TRACE_GRACE_NS)
    cache.check()
    assert cache.objects == taken - (97 - 64)  # from one over the high watermark down to the middle
    cache.alloc_many(60, CPU0)
    cache.free(0, 60)  # over the high watermark once more
    kernel.advance(TASKS_TRACE_GRACE_NS)
    # On CPU 0 between the middle (64) and the high watermark (96) stay, on CPU 1 its prefill.
    assert 64 + 4 <= cache.objects <= 96 + 4


def test_from_7_2_on_the_end_of_a_grace_period_sends_off_the_rest():
    kernel, cache = caches("7.2")
    cache.alloc_many(500, CPU0)
    cache.free(0, 500)
    kernel.advance(TASKS_TRACE_GRACE_NS)
    assert cache.objects > 400
    kernel.advance(TASKS_TRACE_GRACE_NS)
    assert 64 + 4 <= cache.objects <= 96 + 4
    cache.check()


@pytest.mark.parametrize(("profile", "reused"), [("6.1", False), ("6.12", True)])
def test_later_kernels_take_waiting_objects_before_new_ones(profile, reused):
    _, cache = caches(profile)
    cache.alloc_many(300, CPU0)
    cache.free(0, 300)
    taken = cache.objects
    cache.alloc_many(300, CPU0)
    assert (cache.objects - taken < 100) is reused


def test_objects_freed_through_rcu_wait_for_both_grace_periods():
    kernel, cache = caches()
    cache.alloc_many(40, CPU0)
    taken = cache.objects
    cache.free_rcu(0)
    kernel.advance(RCU_GRACE_NS)
    assert cache.objects == taken
    kernel.advance(TASKS_TRACE_GRACE_NS)
    assert cache.objects == taken - 1
    cache.check()


def test_what_comes_while_rcu_is_at_work_waits_for_the_next_free():
    kernel, cache = caches()
    cache.alloc_many(40, CPU0)
    taken = cache.objects
    for _ in range(30):
        cache.free_rcu(0)
    kernel.advance(100 * TASKS_TRACE_GRACE_NS)
    assert cache.objects == taken - 1
    cache.free_rcu(0)
    kernel.advance(RCU_GRACE_NS + TASKS_TRACE_GRACE_NS)
    assert cache.objects == taken - 31
    cache.check()


def test_freeing_takes_time_so_that_a_long_burst_outlasts_the_grace_periods_it_begins():
    kernel, cache = caches()
    cache.alloc_many(200_000, CPU0)
    taken = cache.objects
    for _ in range(200_000):
        cache.free_rcu(0)
    assert kernel.now_ns >= 100_000_000 - RCU_GRACE_NS
    assert cache.objects < taken
    cache.check()


def test_the_first_object_freed_behind_a_grace_period_fills_an_empty_cache():
    _, cache = caches()
    cache.late_refill = True
    taken = cache.alloc_many(1000, CPU0)
    cache.late_refill = False
    cache.free_rcu(0)
    assert cache.alloc_many(48, CPU0) == 48
    assert taken == 4
    cache.check()


def test_late_refills_leave_the_prefill_only():
    kernel, cache = caches()
    cache.late_refill = True
    assert cache.alloc_many(10, CPU0) == 4
    with refused(Errno.ENOMEM) as empty:
        cache.alloc(CPU0)
    assert empty.value.reason is Reason.ALLOCATOR_REFILL_LATE
    cache.refill(0)
    assert cache.alloc_many(100, CPU0) == 48
    assert kernel is not None


def test_a_refill_that_does_not_fit_takes_what_fits_and_says_which_limit():
    kernel, task = boot("6.1")
    fd = kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 100_000, F_NO_PREALLOC)).fd
    limit = int(kernel.read_file("/a", "memory.current")) + 64 * 1024
    kernel.write_file("/a", "memory.max", str(limit))
    stored = 0
    with refused(Errno.ENOMEM) as full:
        for stored in range(100_000):
            kernel.bpf.map_update_elem(task, fd, stored.to_bytes(4, "little"), bytes(8))
    assert full.value.reason is Reason.MEMCG_LIMIT_EXCEEDED
    assert full.value.numbers["limit_bytes"] == limit
    assert 600 < stored < 600 + 2700  # the CPU's stock of 63 charged pages comes on top
    kernel.check()


def test_destroying_frees_elements_and_caches_alike():
    kernel, cache = caches("6.12", percpu=True)
    cache.alloc_many(20, CPU1)
    before = kernel.ram.used_bytes
    assert cache.objects > 20
    cache.destroy(0)
    assert cache.objects == cache.in_use == 0
    assert kernel.ram.used_bytes < before
    kernel.advance(TASKS_TRACE_GRACE_NS)
    cache.check()


def test_charges_follow_the_creator_even_for_elements_of_others():
    kernel, creator = boot("6.1")
    other = kernel.spawn(cgroup="/b")
    fd = kernel.bpf.map_create(creator, MapAttr(MapType.HASH, 4, 8, 10_000, F_NO_PREALLOC)).fd
    assert fd >= 0
    theirs = kernel.bpf.map_get_fd_by_id(other, kernel.bpf.maps()[-1].id)
    before = charged(kernel, "map", "/a")["slab"]
    for number in range(1000):
        kernel.bpf.map_update_elem(other, theirs, number.to_bytes(4, "little"), bytes(8))
    assert charged(kernel, "map", "/a")["slab"] >= before + 1000 * 64
    assert not charged(kernel, "map", "/b")


@settings(deadline=None, max_examples=60)
@given(
    profile=st.sampled_from(["6.1", "6.12", "6.18"]),
    percpu=st.booleans(),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["alloc", "free", "free_rcu", "advance"]),
            st.integers(0, 1),
            st.integers(1, 300),
        ),
        max_size=30,
    ),
)
def test_no_object_is_lost_whatever_happens(profile, percpu, steps):
    kernel, cache = caches(profile, percpu=percpu)
    for what, cpu, count in steps:
        if what == "alloc":
            assert cache.alloc_many(count, KernelContext(cpu)) == count
        elif what == "advance":
            kernel.advance(count * 1_000_000)
        elif count > cache.in_use:
            continue
        elif what == "free":
            cache.free(cpu, count)
        else:
            for _ in range(count):
                cache.free_rcu(cpu)
        cache.check()
    for cpu in (0, 1, 0, 1):  # what waits goes off with the next refill and the next overflow
        kernel.advance(RCU_GRACE_NS + TASKS_TRACE_GRACE_NS)
        cache.alloc_many(200, KernelContext(cpu))
        cache.free(cpu, 200)
    kernel.advance(10 * (RCU_GRACE_NS + TASKS_TRACE_GRACE_NS))
    low, high, batch = watermarks(kernel.profile, SMALL, percpu=percpu)
    assert low < high
    # Of the last 200 what came after the first overflow still waits.
    assert cache.objects <= cache.in_use + 2 * (max(high, low + batch) + 4 + 200)
