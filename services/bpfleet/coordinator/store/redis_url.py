"""Which client a Redis URL asks for.

``redis://[user:password@]host:port/db``, ``rediss://`` with TLS, ``unix://path``; ``valkey://`` and ``valkeys://`` mean
the same. ``redis+sentinel://host:port,host:port/service`` asks sentinels who the primary is, and
``redis+cluster://host:port`` finds the node with our slot; both with ``rediss+`` for TLS. ``?ssl_ca_certs=FILE`` and
the other options of redis-py may follow.
"""

from typing import Any, Final
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

__all__ = ["connect", "shown", "with_password"]

TIMEOUT_SECONDS: Final = 2.0
_SENTINEL_PORT: Final = 26379
_SCHEMES: Final = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "valkey": "redis",
    "valkeys": "rediss",
}


# Any: Redis and RedisCluster share methods, not a type.
def connect(url: str) -> Any:
    """A client for ``url``. Raises ``ValueError`` in one sentence that does not repeat the password."""
    scheme, kind = _scheme(url)
    plain = f"{scheme}://{url.partition('://')[2]}"
    try:
        match kind:
            case "sentinel":
                return _sentinel(scheme, url)
            case "cluster":
                return RedisCluster.from_url(
                    plain,
                    decode_responses=True,
                    socket_timeout=TIMEOUT_SECONDS,
                    socket_connect_timeout=TIMEOUT_SECONDS,
                    # A repeated write would be a conflict with itself: whether to repeat is decided above.
                    retry=Retry(NoBackoff(), 0),
                )
            case _:
                return Redis.from_url(plain, **_options())
    except ValueError as error:
        raise ValueError(f"--redis: {shown(url)} cannot be used: {error}") from None


def shown(url: str) -> str:
    """The URL without its password."""
    scheme, _, rest = url.partition("://")
    secret, at, host = rest.rpartition("@")
    user = secret.partition(":")[0]
    return f"{scheme}://{user}{':***' if ':' in secret else ''}{at}{host}"


def with_password(url: str, password: str) -> str:
    """The URL with another password for its user."""
    scheme, _, rest = url.partition("://")
    user, _, host = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}:{password}@{host}"


def _scheme(url: str) -> tuple[str, str]:
    text, found, _ = url.partition("://")
    name, _, kind = text.partition("+")
    scheme = _SCHEMES.get(name)
    if not found or scheme is None or kind not in ("", "sentinel", "cluster"):
        raise ValueError(
            "--redis: what was given is not a URL; write redis://host:port/db, redis+sentinel://host:port/service "
            "or redis+cluster://host:port"
        )
    return scheme, kind


def _options() -> dict[str, Any]:  # Any: options of redis-py
    return {
        "decode_responses": True,
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        # A repeated write would be a conflict with itself: whether to repeat is decided above.
        "retry": Retry(NoBackoff(), 0),
    }


def _sentinel(scheme: str, url: str) -> Redis:
    """The primary of a service, as its sentinels name it at every connection."""
    parts = urlsplit(url)
    secret, at, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("name the service: redis+sentinel://host:port,host:port/service")
    where = [_host(text) for text in hosts.split(",")]
    query = f"?{parts.query}" if parts.query else ""
    options = dict(parse_url(f"{scheme}://{secret}{at}host/{database or 0}{query}"))
    for name in ("host", "port", "connection_class"):
        options.pop(name, None)
    tls = {name: value for name, value in options.items() if name.startswith("ssl")}
    secure = {"ssl": True, **tls} if scheme == "rediss" else {}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        where,
        sentinel_kwargs={
            "socket_timeout": TIMEOUT_SECONDS,
            "socket_connect_timeout": TIMEOUT_SECONDS,
            **secure,
        },
    )
    client: Redis = sentinel.master_for(service, **{**_options(), **options, **secure})
    return client


def _host(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, _SENTINEL_PORT
    if not port.isdigit() or not host:
        raise ValueError("a sentinel is host:port")
    return host, int(port)


async def close_connections(client: Redis) -> None:
    """Closes a client's connections, also those to the sentinels that it asks."""
    await client.aclose()
    pool = getattr(client, "connection_pool", None)  # a cluster's client has a pool for each node
    if isinstance(pool, SentinelConnectionPool):
        for each in pool.sentinel_manager.sentinels:
            await each.aclose()
