"""What only the Redis store can show: it survives kill -9, and says so when Redis is away."""

import asyncio
import contextlib

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


class OddLink:
    """A link to Redis that turns the first byte of each answer into another while ``odd``."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.odd = b""
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._serving: list[asyncio.Task] = []

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return f"redis://127.0.0.1:{port}/0"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.append(asyncio.current_task())
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, back]

        async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while told := await source.read(1 << 16):
                    target.write(self.odd + told[len(self.odd) :] if target is writer else told)
            target.close()

        await asyncio.gather(carry(reader, back), carry(there, writer))


@pytest.mark.parametrize("odd", [b"?", b":x\r\n", b"*9\r\n$", b"\xff\xfe", b"+\xff\r\n"])
def test_odd_bytes_are_an_outage_and_end_with_it(tmp_path, odd):
    """A broken link must not end a coordinator: redis-py's parser raises what is no error of redis-py."""

    async def body() -> None:
        with RedisServer(tmp_path) as server:
            link = OddLink(server.port)
            store = RedisStore(await link.start())
            batch = Batch(epoch=1, expected_revision=0, revision=1, puts={"node/a": "x"})
            assert (await store.acquire("a", 10_000)).holder == "a"
            link.odd = odd
            for ask in (store.revision, store.load, store.leader, lambda: store.save(batch)):
                with pytest.raises(StoreUnavailable):
                    async with asyncio.timeout(30):
                        await ask()
            link.odd = b""
            while (await _when_it_answers(store.load)).records not in ({}, {"node/a": "x"}):
                await asyncio.sleep(0.01)
            await store.close()
            await link.stop()

    run(body, 200)


async def _when_it_answers(ask):
    while True:
        try:
            return await ask()
        except StoreUnavailable:
            await asyncio.sleep(0.01)
