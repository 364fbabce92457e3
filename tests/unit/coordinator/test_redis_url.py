"""What a Redis URL may say, and that its password is repeated nowhere."""

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import SentinelConnectionPool

from bpfleet.coordinator.store.redis_url import connect, shown, with_password


@pytest.mark.parametrize("scheme", ["redis", "valkey", "rediss", "valkeys"])
def test_one_server(scheme):
    client = connect(f"{scheme}://user:secret@host:1234/3")
    assert isinstance(client, Redis)
    kwargs = client.connection_pool.connection_kwargs
    assert (kwargs["host"], kwargs["port"], kwargs["db"]) == ("host", 1234, 3)
    assert (kwargs["username"], kwargs["password"]) == ("user", "secret")
    secure = scheme in ("rediss", "valkeys")
    assert issubclass(client.connection_pool.connection_class, SSLConnection) is secure


def test_sentinels():
    url = "valkey+sentinel://user:secret@one:1,two/main/2"
    pool = connect(url).connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert pool.service_name == "main"
    kwargs = pool.connection_kwargs
    assert (kwargs["db"], kwargs["username"], kwargs["password"]) == (2, "user", "secret")
    where = [s.connection_pool.connection_kwargs for s in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in where] == [("one", 1), ("two", 26379)]


def test_a_cluster():
    assert isinstance(connect("redis+cluster://:secret@host:7000"), RedisCluster)


@pytest.mark.parametrize(
    "url",
    [
        "http://u:secret@h/0",
        "redis+raft://u:secret@h/0",
        "u:secret@h",
        "redis+sentinel://u:secret@h",
        "redis+sentinel://u:secret@h:x/main",
        "redis://u:secret@h:port/0",
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url):
    with pytest.raises(ValueError, match="redis") as refusal:
        connect(url)
    assert "secret" not in str(refusal.value)


def test_passwords_are_put_in_and_hidden():
    url = with_password("redis://user:old@host/0", "new")
    assert url == "redis://user:new@host/0"
    assert shown(url) == "redis://user:***@host/0"
    assert shown("redis://host/0") == "redis://host/0"
