"""Who leads, how certain that is, and how long a deposed leader waits; on a clock that the test moves."""

import asyncio
from random import Random

import pytest

from bpfleet.coordinator.clock import FleetClock, monotonic_ms
from bpfleet.coordinator.lead import Lead, Patience
from bpfleet.coordinator.store.memory import MemoryStore
from bpfleet.fleet.store import Fenced, Leadership

TTL = 1_500


class Clock:
    def __init__(self):
        self.ms = 1_000

    def __call__(self):
        return self.ms

    async def sleep(self, seconds):
        self.ms += round(seconds * 1000)
        await asyncio.sleep(0)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(clock):
    return MemoryStore(clock)


def lead(store, clock, name="a"):
    return Lead(store, identity=name, ttl_ms=TTL, clock_ms=clock, sleep=clock.sleep)


def test_a_leader_is_certain_for_less_than_its_lease(store, clock):
    async def body():
        mine = lead(store, clock)
        held = await mine.acquire()
        assert mine.certain(held.epoch)
        clock.ms += TTL - 16
        assert mine.certain(held.epoch)
        clock.ms += 2
        assert not mine.certain(held.epoch)

    asyncio.run(body())


def test_certainty_of_a_later_term_says_nothing_about_an_earlier_one(store, clock):
    async def body():
        mine, other = lead(store, clock), lead(store, clock, "b")
        first = await mine.acquire()
        clock.ms += TTL + 1
        await other.acquire()
        clock.ms += TTL + 1
        again = await mine.acquire()
        assert mine.certain(again.epoch)
        assert not mine.certain(first.epoch)
        assert not await mine.confirm(first.epoch)

    asyncio.run(body())


def test_who_is_not_certain_asks_the_store(store, clock):
    async def body():
        mine = lead(store, clock)
        held = await mine.acquire()
        clock.ms += 2 * TTL
        assert not mine.certain(held.epoch)
        assert await mine.confirm(held.epoch), "nobody else led: the term goes on"
        clock.ms += 2 * TTL
        await lead(store, clock, "b").acquire()
        assert not await mine.confirm(held.epoch)

    asyncio.run(body())


def test_a_leader_keeps_its_term_through_late_renewals_until_another_leads(store, clock):
    async def body():
        mine = lead(store, clock)
        held = await mine.acquire()
        keeping = asyncio.create_task(mine.keep(held.epoch))
        for _ in range(3):
            await asyncio.sleep(0)
            clock.ms += 3 * TTL
        for _ in range(20):
            await asyncio.sleep(0)
        assert not keeping.done()
        assert mine.late > 0
        assert (await store.leader()).epoch == held.epoch
        clock.ms += 3 * TTL
        await lead(store, clock, "b").acquire()
        with pytest.raises(Fenced):
            await keeping

    asyncio.run(body())


def test_who_gives_up_never_asks_again(store, clock):
    async def body():
        mine = lead(store, clock)
        held = await mine.acquire()
        keeping = asyncio.create_task(mine.keep(held.epoch))
        await asyncio.sleep(0)
        await mine.give_up()
        await keeping
        assert (await store.leader()).free
        assert not await mine.confirm(held.epoch)
        assert (await store.leader()).free

    asyncio.run(body())


def test_a_deposed_leader_waits_longer_each_time():
    patience = Patience(TTL, Random(1))
    vacant, now = Leadership(holder="", epoch=3), 0
    waits = []
    for _ in range(6):
        patience.deposed(now, led_ms=TTL)
        assert patience.applies(now)
        asked = now
        while not patience.over(vacant, asked):
            asked += 10
        waits.append(asked - now)
        now = asked
    assert TTL / 2 <= waits[0] <= TTL + 10
    assert waits[2] > waits[0]
    assert waits[5] > waits[2]
    assert max(waits) <= 30_000


def test_patience_starts_over_while_somebody_leads_and_ends_where_the_lead_is_free():
    patience = Patience(TTL, Random(1))
    patience.deposed(0, led_ms=TTL)
    vacant, taken = Leadership(holder="", epoch=3), Leadership(holder="b", epoch=3)
    assert not patience.over(vacant, 0)
    assert not patience.over(taken, 5_000)
    assert not patience.over(vacant, 5_001)
    assert patience.over(vacant, 5_001 + TTL)
    assert patience.over(Leadership(holder="", epoch=3, free=True), 0)


def test_patience_is_forgotten():
    patience = Patience(TTL, Random(1))
    patience.deposed(0, led_ms=10 * TTL)
    assert patience.applies(TTL)
    assert not patience.applies(9 * TTL)


def test_the_fleets_time_ignores_jumps_of_the_wall_clock_and_never_goes_back(clock):
    fleet = FleetClock(clock, wall_ms=50_000, stored_ms=70_000)
    assert fleet.now_ms() == 70_000
    clock.ms += 5
    assert fleet.now_ms() == 70_005
    assert FleetClock(clock, wall_ms=80_000, stored_ms=70_000).now_ms() == 80_000
    assert monotonic_ms() <= monotonic_ms()
