"""The store's contract, run on every implementation: Redis and memory must not drift apart."""

import asyncio
from collections.abc import Callable, Coroutine

import pytest
from redis_server import HAS_REDIS, RedisServer

from bpfleet.coordinator.store.memory import MemoryStore
from bpfleet.coordinator.store.redis import RedisStore
from bpfleet.fleet.store import CHANGES_KEPT, EVENTS_KEPT, Batch, Conflict, Fenced, Store

Body = Callable[[Store], Coroutine[object, object, None]]


@pytest.fixture(
    scope="module",
    params=[
        "memory",
        pytest.param(
            "redis",
            marks=[
                pytest.mark.redis,
                pytest.mark.skipif(
                    not HAS_REDIS, reason="no redis-server binary (apt-get install redis-server)"
                ),
            ],
        ),
    ],
)
def url(request, tmp_path_factory):
    """Where a store is to be found, empty for the one in memory; a server lives for all tests of this file."""
    if request.param == "memory":
        yield ""
        return
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running.url


@pytest.fixture
def run(url, request):
    """Runs a test's body on a fresh store of each kind."""
    counter = iter(range(1_000))

    def go(body: Body) -> None:
        async def main() -> None:
            if not url:
                store: Store = MemoryStore()
            else:
                store = RedisStore(url, prefix=f"{request.node.name}-{next(counter)}")
            try:
                async with asyncio.timeout(20):
                    await body(store)
            finally:
                await store.close()

        asyncio.run(main())

    return go


def batch(revision: int, *, epoch: int = 1, **parts: object) -> Batch:
    return Batch(epoch=epoch, expected_revision=revision - 1, revision=revision, **parts)


def test_a_new_store_is_empty_at_revision_0(run):
    async def body(store: Store) -> None:
        snapshot = await store.load()
        assert (snapshot.revision, snapshot.records, snapshot.events) == (0, {}, ())
        assert await store.revision() == 0

    run(body)


def test_a_saved_batch_is_loaded_whole(run):
    async def body(store: Store) -> None:
        await store.acquire("a", 10_000)
        await store.save(batch(1, puts={"node/1": "x", "node/2": "y"}, events=("e1",)))
        await store.save(batch(2, puts={"node/3": "ü"}, removals=("node/1",), events=("e2",)))
        snapshot = await store.load()
        assert snapshot.revision == 2
        assert snapshot.epoch == 1
        assert snapshot.records == {"node/2": "y", "node/3": "ü"}
        assert snapshot.events == ("e1", "e2")

    run(body)


def test_a_batch_of_many_records_is_stored(run):
    async def body(store: Store) -> None:
        await store.acquire("a", 10_000)
        puts = {f"replica/{number}": str(number) for number in range(9_001)}
        events = tuple(str(number) for number in range(9_001))
        await store.save(batch(1, puts=puts, events=events))
        await store.save(batch(2, removals=tuple(list(puts)[:8_500])))
        snapshot = await store.load()
        assert len(snapshot.records) == 501
        assert snapshot.events == events

    run(body)


def test_only_the_newest_events_are_kept(run):
    async def body(store: Store) -> None:
        await store.acquire("a", 10_000)
        await store.save(batch(1, events=tuple(str(n) for n in range(EVENTS_KEPT))))
        await store.save(batch(2, events=("last",)))
        events = (await store.load()).events
        assert (len(events), events[0], events[-1]) == (EVENTS_KEPT, "1", "last")

    run(body)


def test_a_batch_for_another_revision_is_a_conflict_and_changes_nothing(run):
    async def body(store: Store) -> None:
        await store.acquire("a", 10_000)
        await store.save(batch(1, puts={"node/1": "x"}))
        for revision in (1, 3):
            with pytest.raises(Conflict):
                await store.save(batch(revision, puts={"node/1": "z"}, events=("no",)))
        snapshot = await store.load()
        assert (snapshot.revision, snapshot.records) == (1, {"node/1": "x"})
        assert snapshot.events == ()

    run(body)


def test_a_leader_keeps_the_lead_and_its_epoch_by_renewing(run):
    async def body(store: Store) -> None:
        first = await store.acquire("a", 10_000)
        again = await store.acquire("a", 10_000)
        other = await store.acquire("b", 10_000)
        assert (first.holder, first.epoch) == ("a", 1)
        assert again == first
        assert other == first

    run(body)


def test_after_resigning_another_leads_with_a_higher_epoch(run):
    async def body(store: Store) -> None:
        await store.acquire("a", 10_000)
        await store.resign("b")
        assert (await store.acquire("b", 10_000)).holder == "a"
        await store.resign("a")
        taken = await store.acquire("b", 10_000)
        assert (taken.holder, taken.epoch) == ("b", 2)

    run(body)


def test_a_silent_leader_is_followed_after_its_time(run):
    async def body(store: Store) -> None:
        await store.acquire("a", 30)
        while (held := await store.acquire("b", 10_000)).holder == "a":
            await asyncio.sleep(0.005)
        assert (held.holder, held.epoch) == ("b", 2)

    run(body)


def test_a_term_outlives_a_late_renewal_while_nobody_else_leads(run):
    async def body(store: Store) -> None:
        await store.acquire("a", 1)
        while (await store.leader()).holder:
            await asyncio.sleep(0.001)
        assert not (await store.leader()).free
        await store.save(batch(1, puts={"node/1": "x"}))
        late = await store.acquire("a", 10_000)
        assert (late.holder, late.epoch) == ("a", 1)

    run(body)


def test_who_leads_is_told_without_changing_it(run):
    async def body(store: Store) -> None:
        nobody = await store.leader()
        assert (nobody.holder, nobody.epoch, nobody.free) == ("", 0, True)
        await store.acquire("a", 10_000)
        seen = await store.leader()
        assert (seen.holder, seen.epoch, seen.free) == ("a", 1, False)
        await store.resign("a")
        assert (await store.leader()).free

    run(body)


def test_who_resigned_leads_again_in_a_new_term(run):
    async def body(store: Store) -> None:
        await store.acquire("a", 10_000)
        await store.resign("a")
        assert (await store.acquire("a", 10_000)).epoch == 2

    run(body)


def test_what_is_newer_than_a_batch_is_told_alone(run):
    async def body(store: Store) -> None:
        await store.acquire("a", 10_000)
        await store.save(batch(1, mark="m1", puts={"node/1": "x", "node/2": "y"}, events=("e1",)))
        await store.save(batch(2, mark="m2", puts={"node/3": "z"}, removals=("node/1",)))
        await store.save(batch(3, mark="m3", puts={"node/3": "zz"}, events=("e2", "e3")))
        news = await store.newer(1, "m1", 1)
        assert news is not None
        assert (news.revision, news.mark, news.epoch) == (3, "m3", 1)
        assert news.changes == {"node/3": "zz", "node/1": None}
        assert (news.events, news.event_count) == (("e2", "e3"), 3)
        same = await store.newer(3, "m3", 3)
        assert same is not None
        assert (same.changes, same.events) == ({}, ())
        whole = await store.newer(0, "", 0)
        assert whole is not None
        assert whole.changes == {"node/1": None, "node/2": "y", "node/3": "zz"}

    run(body)


def test_a_batch_that_the_store_has_not_is_no_start(run):
    """A failover may lose batches; others then have their revisions."""

    async def body(store: Store) -> None:
        await store.acquire("a", 10_000)
        await store.save(batch(1, mark="m1", events=("e1",)))
        assert await store.newer(1, "lost", 1) is None
        assert await store.newer(2, "m2", 1) is None
        assert await store.newer(1, "m1", 2) is None

    run(body)


@pytest.mark.slow
def test_what_is_too_old_is_no_start(run):
    async def body(store: Store) -> None:
        await store.acquire("a", 10_000)
        await store.save(batch(1, mark="m1", puts={"node/1": "x"}))
        puts = {f"replica/{number}": "" for number in range(CHANGES_KEPT)}
        await store.save(batch(2, mark="m2", puts=puts))
        assert await store.newer(0, "", 0) is None
        news = await store.newer(1, "m1", 0)
        assert news is not None
        assert news.changes == puts

    run(body)


def test_a_deposed_leader_is_fenced_and_changes_nothing(run):
    async def body(store: Store) -> None:
        await store.acquire("a", 10_000)
        await store.save(batch(1, puts={"node/1": "x"}))
        await store.resign("a")
        await store.acquire("b", 10_000)
        with pytest.raises(Fenced):
            await store.save(batch(2, puts={"node/1": "late"}))
        await store.save(batch(2, epoch=2, puts={"node/1": "new"}))
        assert (await store.load()).records == {"node/1": "new"}

    run(body)


def test_nobody_saves_before_somebody_leads(run):
    async def body(store: Store) -> None:
        with pytest.raises(Fenced):
            await store.save(batch(1, puts={"node/1": "x"}))

    run(body)


def test_a_watch_sees_later_revisions_in_order(run):
    async def body(store: Store) -> None:
        await store.acquire("a", 10_000)
        await store.save(batch(1))
        seen = []

        async def read() -> None:
            async for revision in store.watch(0):
                seen.append(revision)
                if revision == 3:
                    return

        reader = asyncio.create_task(read())
        await store.save(batch(2))
        await store.save(batch(3))
        await reader
        assert seen == sorted(set(seen))
        assert seen[-1] == 3

    run(body)
