"""What only the Redis store can show: it survives kill -9, and says so when Redis is away."""

import asyncio

import pytest
from redis_server import RedisServer, needs_redis

from bpfleet.coordinator.store.redis import RedisStore
from bpfleet.fleet.store import Batch, StoreError, StoreUnavailable

pytestmark = [pytest.mark.redis, needs_redis]


def run(body, seconds: float = 20) -> None:
    async def main() -> None:
        async with asyncio.timeout(seconds):
            await body()

    asyncio.run(main())


@pytest.mark.slow
def test_what_was_saved_survives_kill_9_of_redis(tmp_path):
    async def body() -> None:
        with RedisServer(tmp_path) as server:
            store = RedisStore(server.url)
            await store.acquire("a", 10_000)
            for revision in range(1, 51):
                await store.save(
                    Batch(
                        epoch=1,
                        expected_revision=revision - 1,
                        revision=revision,
                        puts={f"node/{revision}": "x"},
                        events=(str(revision),),
                    )
                )
            server.kill()
            with pytest.raises(StoreUnavailable):
                await store.revision()
            server.start()
            snapshot = await store.load()
            assert snapshot.revision == 50
            assert len(snapshot.records) == len(snapshot.events) == 50
            assert snapshot.epoch == 1
            await store.close()

    run(body)


def test_a_server_that_is_not_there_is_unavailable():
    async def body() -> None:
        store = RedisStore("redis://127.0.0.1:1/0")
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await store.load()
        with pytest.raises(StoreUnavailable):
            await store.acquire("a", 1_000)
        await store.close()

    run(body)


@pytest.mark.slow
def test_settings_that_lose_data_are_named(tmp_path):
    async def body() -> None:
        with RedisServer(tmp_path) as server:
            store = RedisStore(server.url)
            assert await store.durability_gap() == ""
            await store.close()
        with RedisServer(tmp_path, "--appendfsync", "everysec") as server:
            store = RedisStore(server.url)
            assert "appendfsync" in await store.durability_gap()
            await store.close()

    run(body)


@pytest.mark.slow
def test_a_password_is_needed_where_redis_asks_for_one(tmp_path):
    async def body() -> None:
        with RedisServer(tmp_path, "--requirepass", "secret") as server:
            stranger = RedisStore(server.url)
            with pytest.raises(StoreUnavailable):
                await stranger.revision()
            await stranger.close()
            store = RedisStore(f"redis://:secret@127.0.0.1:{server.port}/0")
            assert await store.revision() == 0
            await store.close()

    run(body)


@pytest.mark.slow
def test_an_acl_user_with_the_documented_rights_is_enough(tmp_path):
    rights = "on >secret ~{bpfleet}:* +@read +@write +@scripting +@connection"

    async def body() -> None:
        with RedisServer(tmp_path, "--user", "bpfleet", *rights.split()) as server:
            store = RedisStore(f"redis://bpfleet:secret@127.0.0.1:{server.port}/0")
            assert (await store.acquire("a", 10_000)).holder == "a"
            await store.save(
                Batch(epoch=1, expected_revision=0, revision=1, puts={"node/1": "x"}, events=("e",))
            )
            snapshot = await store.load()
            assert (snapshot.revision, snapshot.records) == (1, {"node/1": "x"})
            await store.resign("a")
            with pytest.raises(StoreError):
                await store.durability_gap()
            await store.close()

    run(body)
