"""Redis as users have it: sentinels with a failover, a cluster, TLS, replicas; and servers that will never do."""

import asyncio
import subprocess
import time
from pathlib import Path

import pytest
from redis import Redis, exceptions
from redis_server import RedisServer, free_port, needs_redis

from bpfleet.coordinator.store.redis import RedisStore
from bpfleet.fleet.store import Batch, StoreMisused, StoreUnavailable

pytestmark = [pytest.mark.redis, pytest.mark.slow, needs_redis]


CLUSTER = ("--cluster-enabled", "yes", "--cluster-port")


def run(body, seconds: float = 60) -> None:
    async def main() -> None:
        async with asyncio.timeout(seconds):
            await body()

    asyncio.run(main())


def batch(revision: int, epoch: int = 1) -> Batch:
    return Batch(
        epoch=epoch,
        expected_revision=revision - 1,
        revision=revision,
        mark=f"m{revision}",
        puts={f"node/{revision}": "x"},
        events=(f"e{revision}",),
    )


async def works(store: RedisStore) -> None:
    """Everything the coordinator asks of a store, once."""
    await store.check()
    assert (await store.acquire("a", 10_000)).epoch == 1
    await store.save(batch(1))
    await store.save(batch(2))
    assert (await store.load()).records == {"node/1": "x", "node/2": "x"}
    news = await store.newer(1, "m1", 1)
    assert news is not None
    assert news.changes == {"node/2": "x"}
    assert (await store.leader()).holder == "a"
    assert await store.revision() == 2
    await store.resign("a")


async def until(look, seconds: float = 30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            found = await look()
            if found:
                return found
        except (StoreUnavailable, exceptions.RedisError):
            pass
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


def test_a_server_in_cluster_mode(tmp_path):
    async def body() -> None:
        with RedisServer(tmp_path, *CLUSTER, str(free_port())) as server:
            with Redis(port=server.port) as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)

                async def is_up() -> bool:
                    return b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO")

                await until(is_up)
            store = RedisStore(f"redis+cluster://127.0.0.1:{server.port}")
            await works(store)
            await store.close()

    run(body)


def test_a_cluster_of_several_is_no_single_server(tmp_path):
    """Half the slots are elsewhere: a client of one server is told so once, and at the start."""

    async def body() -> None:
        with (
            RedisServer(tmp_path, *CLUSTER, str(free_port())) as server,
            Redis(port=server.port) as client,
        ):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 100)
            store = RedisStore(server.url, prefix="elsewhere")
            with pytest.raises((StoreMisused, StoreUnavailable)):
                await store.check()
            await store.close()

    run(body)


def test_tls(tmp_path):
    files = certificates(tmp_path)

    async def body() -> None:
        tls_port = free_port()
        options = ["--tls-port", str(tls_port), "--tls-auth-clients", "no"]
        options += ["--tls-cert-file", files["cert"], "--tls-key-file", files["key"]]
        options += ["--tls-ca-cert-file", files["ca"]]
        with RedisServer(tmp_path, *options):
            for scheme in ("rediss", "valkeys"):
                url = f"{scheme}://127.0.0.1:{tls_port}/0?ssl_ca_certs={files['ca']}"
                store = RedisStore(url, prefix=scheme)
                await works(store)
                await store.close()
            stranger = RedisStore(f"rediss://127.0.0.1:{tls_port}/0")
            with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
                await stranger.check()
            await stranger.close()

    run(body)


def certificates(directory: Path) -> dict[str, str]:
    """A CA and a certificate of 127.0.0.1 from it."""
    names = {name: str(directory / f"{name}.pem") for name in ("ca", "ca-key", "cert", "key")}
    request, extension = str(directory / "request.pem"), directory / "extension"
    extension.write_text("subjectAltName=IP:127.0.0.1\n")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    ca, ca_key, cert, key = (names[name] for name in ("ca", "ca-key", "cert", "key"))
    sign = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-extfile", str(extension)]
    for command in (
        ["req", "-x509", *curve, "-subj", "/CN=ca", "-days", "2", "-keyout", ca_key, "-out", ca],
        ["req", *curve, "-subj", "/CN=redis", "-keyout", key, "-out", request],
        ["x509", "-req", "-in", request, "-days", "2", *sign, "-out", cert],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return names


def replica_of(directory: Path, primary: RedisServer) -> RedisServer:
    directory.mkdir()
    return RedisServer(directory, "--replicaof", "127.0.0.1", str(primary.port))


async def in_step(primary: RedisServer) -> None:
    with Redis(port=primary.port, decode_responses=True) as client:

        async def has_a_replica() -> bool:
            return "state=online" in str(client.info("replication").get("slave0", "")).replace(
                "'state': 'online'", "state=online"
            )

        await until(has_a_replica)


def test_a_change_waits_for_as_many_replicas_as_it_was_told(tmp_path):
    async def body() -> None:
        (tmp_path / "primary").mkdir()
        with RedisServer(tmp_path / "primary") as primary:
            with replica_of(tmp_path / "replica", primary):
                await in_step(primary)
                store = RedisStore(primary.url, replicas=1)
                await works(store)
                assert (await store.acquire("a", 60_000)).epoch == 2
            with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
                await store.save(batch(3, epoch=2))
            await store.close()

    run(body)


def test_a_read_only_replica_is_a_wrong_address_at_the_start(tmp_path):
    async def body() -> None:
        (tmp_path / "primary").mkdir()
        with (
            RedisServer(tmp_path / "primary") as primary,
            replica_of(tmp_path / "replica", primary) as replica,
        ):
            await in_step(primary)
            store = RedisStore(replica.url)
            with pytest.raises(StoreMisused, match="address of the primary"):
                await store.check()
            with pytest.raises(StoreUnavailable):
                await store.acquire("a", 1_000)
            await store.close()

    run(body)


def test_a_user_without_the_rights_ends_the_start(tmp_path):
    async def body() -> None:
        rights = "on >secret ~other:* +@all"
        with RedisServer(tmp_path, "--user", "bpfleet", *rights.split()) as server:
            store = RedisStore(f"redis://bpfleet:secret@127.0.0.1:{server.port}/0")
            with pytest.raises(StoreMisused, match=r"(?i)no permissions|noperm"):
                await store.check()
            await store.close()

    run(body)


def test_sentinels_name_the_new_primary_after_a_failover(tmp_path):
    async def body() -> None:
        (tmp_path / "primary").mkdir()
        with (
            RedisServer(tmp_path / "primary") as primary,
            replica_of(tmp_path / "replica", primary),
            sentinel(tmp_path, primary) as port,
        ):
            await in_step(primary)
            store = RedisStore(f"redis+sentinel://127.0.0.1:{port}/main", replicas=1)
            await works(store)
            assert (await store.acquire("a", 60_000)).epoch == 2
            with Redis(port=port, decode_responses=True) as client:

                async def knows_the_replica() -> bool:
                    return client.sentinel_master("main")["num-slaves"] == 1

                await until(knows_the_replica)
            primary.kill()
            with pytest.raises(StoreUnavailable):
                await store.revision()

            async def is_back() -> bool:
                return (await store.acquire("a", 60_000)).epoch == 2

            await until(is_back)
            assert (await store.load()).records == {"node/1": "x", "node/2": "x"}
            await store.close()

    run(body)


class sentinel:  # reads as a function where it is used
    """One sentinel over a primary, on a port of its own; a quorum of 1."""

    def __init__(self, directory: Path, primary: RedisServer) -> None:
        self._port = free_port()
        self._file = directory / "sentinel.conf"
        self._file.write_text(
            f"port {self._port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 5000\n"
        )

    def __enter__(self) -> int:
        self._process = subprocess.Popen(
            ["redis-server", str(self._file), "--sentinel"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return self._port

    def __exit__(self, *how: object) -> None:
        self._process.kill()
        self._process.wait()
