"""Charging: stocks, bytes, the slow path's order, and how many events each kind of failure raises."""

import pytest

from bpfleet.abi.errno import Errno
from bpfleet.kernel.errors import KernelError
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.current import Current, KernelContext
from bpfleet.kernel.mm.memcontrol import Memcg, MemcgEvent, MemoryController, Stat
from bpfleet.kernel.profile import PROFILES, profile_named
from tests.kernels import ALL, since

NORETRY = GFP.GFP_KERNEL | GFP.NORETRY
MAYFAIL = GFP.GFP_KERNEL | GFP.RETRY_MAYFAIL


def controller(profile: str, *limits: int, cpus: int = 2) -> tuple[MemoryController, list[Memcg]]:
    """A controller and memcgs from the top down, each with its limit in pages."""
    control = MemoryController(profile_named(profile), cpus)
    control.reclaim = lambda memcg, pages, gfp: 0
    control.oom = lambda memcg, order, gfp, current: False
    control.wait_for_victim = lambda: 0
    control.catch_up = lambda: 0
    control.elapse = lambda ns: 0
    control.throttle = lambda current, gfp: None
    control.released = lambda memcg: None
    memcgs, parent = [], control.root
    for number, limit in enumerate(limits):
        parent = Memcg(f"{parent.path.rstrip('/')}/{number}", parent)
        parent.memory.max = limit
        memcgs.append(parent)
    return control, memcgs


def task(cpu: int = 0) -> Current:
    return KernelContext(cpu, comm="task", in_task=True)


def events(memcg: Memcg) -> tuple[int, int]:
    return memcg.event_counts[MemcgEvent.MAX], memcg.event_counts[MemcgEvent.OOM]


# -- stocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ALL)
def test_the_first_page_takes_a_whole_batch_and_the_next_ones_come_from_it(profile: str) -> None:
    control, (memcg,) = controller(profile, 1000)
    batch = PROFILES[profile].memcg_charge_batch
    for _ in range(batch):
        control.charge_pages(memcg, 1, GFP.GFP_KERNEL, task())
        assert memcg.memory.usage == batch
    control.charge_pages(memcg, 1, GFP.GFP_KERNEL, task())
    assert memcg.memory.usage == 2 * batch


def test_a_batch_is_32_pages_up_to_6_0_and_64_later() -> None:
    batches = {name: PROFILES[name].memcg_charge_batch for name in ALL}
    later = {*since("6.1"), "el8.10", "el9.6"}
    assert batches == {name: 64 if name in later else 32 for name in ALL}


def test_near_the_limit_the_exact_amount_is_charged() -> None:
    control, (memcg,) = controller("6.12", 10)
    control.charge_pages(memcg, 3, GFP.GFP_KERNEL, task())
    assert memcg.memory.usage == 3


def test_one_cgroup_is_stocked_per_cpu_until_6_16_and_seven_after() -> None:
    for profile, stocked in (("6.12", 1), ("6.18", 7)):
        control, _ = controller(profile)
        memcgs = [Memcg(f"/{number}", control.root) for number in range(9)]
        for memcg in memcgs:
            control.charge_pages(memcg, 1, GFP.GFP_KERNEL, task())
        assert sum(1 for memcg in memcgs if control.stocked_pages(memcg)) == stocked, profile


def test_draining_for_a_cgroup_leaves_cpus_alone_that_hold_nothing_of_it() -> None:
    control, _ = controller("6.12")
    one, two = (Memcg(path, control.root) for path in ("/one", "/two"))
    control.charge_pages(one, 1, GFP.GFP_KERNEL, task(0))
    control.charge_pages(two, 1, GFP.GFP_KERNEL, task(1))
    control.drain_stocks(one)
    assert (one.memory.usage, two.memory.usage) == (1, 64)


def test_charging_many_single_pages_ends_as_one_by_one() -> None:
    for pages in (1, 63, 64, 65, 200, 1000):
        fast, (memcg,) = controller("6.12", 10_000)
        fast.charge_single_pages(memcg, pages, GFP.GFP_KERNEL, task())
        slow, (other,) = controller("6.12", 10_000)
        for _ in range(pages):
            slow.charge_pages(other, 1, GFP.GFP_KERNEL, task())
        assert memcg.memory.usage == other.memory.usage, pages
        assert fast.stocked_pages(memcg) == slow.stocked_pages(other), pages


# -- bytes -----------------------------------------------------------------------------------------------------------


def test_objects_share_pages_through_the_byte_stock() -> None:
    control, (memcg,) = controller("6.12", 1000)
    assert control.charge_bytes(memcg.objcg, 136, 30, GFP.GFP_KERNEL, task()) == 30
    assert memcg.stat[Stat.KERNEL_PAGES] == 1
    assert control.stocked_bytes(memcg.objcg) == 4096 - 30 * 136


def test_paid_bytes_parked_by_a_switch_are_used_again() -> None:
    control, _ = controller("6.12")
    one, two = (Memcg(path, control.root) for path in ("/one", "/two"))
    control.charge_bytes(one.objcg, 100, 1, GFP.GFP_KERNEL, task())
    control.charge_bytes(two.objcg, 100, 1, GFP.GFP_KERNEL, task())
    assert one.objcg.nr_charged_bytes == 3996
    control.uncharge_bytes(one.objcg, 100, 0)
    assert control.stocked_bytes(one.objcg) == 4096


def test_a_large_kernel_block_is_charged_in_one_piece() -> None:
    control, (memcg,) = controller("6.12", 10)
    with pytest.raises(KernelError):
        control.charge_kernel_block(memcg.objcg, 16, NORETRY, task())
    assert memcg.memory.usage == 0


# -- the slow path ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gfp", "max_events"),
    [(NORETRY, 2), (MAYFAIL, 18), (GFP.GFP_NOWAIT, 0)],
    ids=["NORETRY", "RETRY_MAYFAIL", "NOWAIT"],
)
@pytest.mark.parametrize("profile", ALL)
def test_each_kind_of_failure_raises_its_number_of_max_events(
    profile: str, gfp: int, max_events: int
) -> None:
    control, (memcg,) = controller(profile, 4)
    control.charge_pages(memcg, 4, GFP.GFP_KERNEL, task())
    with pytest.raises(KernelError) as caught:
        control.charge_pages(memcg, 1, gfp, task())
    assert caught.value.errno is Errno.ENOMEM
    if not gfp & GFP.DIRECT_RECLAIM and control.profile.nowait_charge_raises_max:
        max_events = 1
    assert events(memcg) == (max_events, 0)


@pytest.mark.parametrize("profile", ALL)
def test_blocking_without_a_victim_fails_or_is_forced(profile: str) -> None:
    control, (memcg,) = controller(profile, 4)
    control.charge_pages(memcg, 4, GFP.GFP_KERNEL, task())
    if PROFILES[profile].oom_without_victim_forces:
        control.charge_pages(memcg, 1, GFP.GFP_KERNEL, task())
        assert memcg.memory.usage == 5
    else:
        with pytest.raises(KernelError):
            control.charge_pages(memcg, 1, GFP.GFP_KERNEL, task())
        assert memcg.memory.usage == 4
    assert events(memcg) == (18, 1)


@pytest.mark.parametrize("profile", ALL)
def test_an_atomic_request_is_forced_with_an_event_from_6_0_on(profile: str) -> None:
    control, (memcg,) = controller(profile, 4)
    control.charge_pages(memcg, 4, GFP.GFP_KERNEL, task())
    control.charge_pages(memcg, 1, GFP.GFP_ATOMIC, task())
    expected = 1 if PROFILES[profile].forced_charge_raises_max else 0
    assert (memcg.memory.usage, events(memcg)) == (5, (expected, 0))


def test_more_than_eight_pages_at_once_never_reach_the_oom_killer() -> None:
    control, (memcg,) = controller("6.12", 8)
    control.oom = lambda *args: pytest.fail("asked the OOM killer")
    with pytest.raises(KernelError):
        control.charge_pages(memcg, 9, GFP.GFP_KERNEL, task())
    assert events(memcg) == (18, 0)


def test_killing_somebody_starts_the_retries_anew_and_then_succeeds() -> None:
    control, (memcg,) = controller("6.12", 4)
    control.charge_pages(memcg, 4, GFP.GFP_KERNEL, task())

    def kill(limited: Memcg, order: int, gfp: int, current: Current) -> bool:
        limited.memory.uncharge(3)
        return True

    control.oom = kill
    control.charge_pages(memcg, 1, GFP.GFP_KERNEL, task())
    assert (memcg.memory.usage, events(memcg)) == (2, (18, 1))


def test_reclaim_that_frees_something_does_not_use_up_a_retry() -> None:
    control, (memcg,) = controller("6.12", 4)
    control.charge_pages(memcg, 4, GFP.GFP_KERNEL, task())
    passes = iter([1] * 30)
    control.reclaim = lambda limited, pages, gfp: next(passes, 0)
    with pytest.raises(KernelError):
        control.charge_pages(memcg, 1, MAYFAIL, task())
    assert events(memcg)[0] == 18 + 29  # the first pass drains instead


def test_an_ancestors_limit_gets_the_events_and_the_child_none() -> None:
    control, (parent, child) = controller("6.12", 4, 100)
    control.charge_pages(child, 4, GFP.GFP_KERNEL, task())
    with pytest.raises(KernelError) as caught:
        control.charge_pages(child, 1, MAYFAIL, task())
    assert (events(parent), events(child)) == ((18, 0), (0, 0))
    assert caught.value.numbers["cgroup"] == parent.path
    assert caught.value.numbers["charged_cgroup"] == child.path


def test_the_first_page_of_an_area_is_asked_for_twice_with_the_bulk_allocator() -> None:
    for profile, expected in (("5.11", 18), ("6.12", 36)):
        control, (memcg,) = controller(profile, 4)
        control.charge_pages(memcg, 4, GFP.GFP_KERNEL, task())
        assert control.charge_vmalloc_pages(memcg, 10, MAYFAIL, task()) == 0
        assert events(memcg) == (expected, 0), profile


def test_the_root_is_never_charged() -> None:
    control, _ = controller("6.12")
    control.charge_pages(control.root, 10, GFP.GFP_KERNEL, task())
    assert control.root.memory.usage == 0


# -- removal ---------------------------------------------------------------------------------------------------------


def test_objects_of_a_removed_memcg_are_given_back_to_its_parent() -> None:
    control, (parent, child) = controller("6.12", 1000, 1000)
    control.charge_bytes(child.objcg, 200, 10, GFP.GFP_KERNEL, task())
    child.objcg.accounts = 1
    objcg = child.objcg
    control.offline(child)
    assert objcg.memcg is parent
    control.uncharge_bytes(objcg, 2000, 0)
    objcg.accounts = 0
    control.retire(objcg)
    control.drain_stocks()
    assert parent.memory.usage == 0


def test_a_removed_memcg_stays_as_a_zombie_while_pinned() -> None:
    control, (memcg,) = controller("5.11", 10)
    released: list[Memcg] = []
    control.released = released.append
    memcg.pins = 1
    control.offline(memcg)
    assert control.dying == [memcg]
    memcg.pins = 0
    control.release_if_unused(memcg)
    assert (control.dying, released) == ([], [memcg])


def test_a_removed_cgroup_gives_its_stock_back_although_something_still_refers_to_it() -> None:
    control, (top, memcg) = controller("6.12", 1000, 1000)
    control.charge_pages(memcg, 1, GFP.GFP_KERNEL, task())
    memcg.pins += 1
    control.offline(memcg)
    assert control.stocked_pages(memcg) == 0
    assert (memcg.memory.usage, top.memory.usage) == (1, 1)
