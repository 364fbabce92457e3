"""The store in Redis: one hash of records, one list of events, one hash of counters, one leader key.

A batch is one Lua script, so it is applied whole or not at all, and its checks (epoch, revision) and
its writes cannot be separated. It is durable once answered if the server runs with ``appendonly yes``
and ``appendfsync always``; ``check_durability`` says whether it does.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Final, TypeVar

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from bpfleet.fleet.store import (
    EVENTS_KEPT,
    Batch,
    Conflict,
    Fenced,
    Leadership,
    Snapshot,
    StoreError,
    StoreUnavailable,
)

__all__ = ["RedisStore"]

_TIMEOUT_SECONDS: Final = 2.0
_SCAN_COUNT: Final = 5_000

# KEYS: counters, records, events. ARGV: epoch, expected, revision, events kept, puts, removals,
# then key, value, key, value, ... then keys, then events.
_SAVE: Final = """
local epoch = redis.call('HGET', KEYS[1], 'epoch') or '0'
if epoch ~= ARGV[1] then return {'FENCED', epoch} end
local revision = redis.call('HGET', KEYS[1], 'revision') or '0'
if revision ~= ARGV[2] then return {'CONFLICT', revision} end
local at, puts, removals = 7, tonumber(ARGV[5]), tonumber(ARGV[6])
local function chunks(last, step, command, key)
  while at <= last do
    local stop = math.min(at + step - 1, last)
    redis.call(command, key, unpack(ARGV, at, stop))
    at = stop + 1
  end
end
chunks(at + 2 * puts - 1, 2000, 'HSET', KEYS[2])
chunks(at + removals - 1, 2000, 'HDEL', KEYS[2])
if at <= #ARGV then
  chunks(#ARGV, 2000, 'RPUSH', KEYS[3])
  redis.call('LTRIM', KEYS[3], -tonumber(ARGV[4]), -1)
end
redis.call('HSET', KEYS[1], 'revision', ARGV[3])
return {'OK', ARGV[3]}
"""

# KEYS: leader, counters. ARGV: candidate, milliseconds.
_ACQUIRE: Final = """
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
elseif not holder then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  redis.call('HINCRBY', KEYS[2], 'epoch', 1)
  holder = ARGV[1]
end
return {holder, redis.call('HGET', KEYS[2], 'epoch') or '0'}
"""

_RESIGN: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""

# KEYS: counters, events. The counters and the events of one moment.
_COUNTERS: Final = """
return {redis.call('HGET', KEYS[1], 'revision') or '0', redis.call('HGET', KEYS[1], 'epoch') or '0',
  redis.call('LRANGE', KEYS[2], 0, -1)}
"""

T = TypeVar("T")


class RedisStore:
    """Redis at a URL (``redis://[user:password@]host:port/db``, ``rediss://`` for TLS)."""

    name = "redis"

    def __init__(self, url: str, *, prefix: str = "bpfleet") -> None:
        self._redis: Redis = Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            # A repeated write would be a conflict with itself: whether to repeat is decided above.
            retry=Retry(NoBackoff(), 0),
        )
        self._counters = f"{prefix}:counters"
        self._records = f"{prefix}:records"
        self._events = f"{prefix}:events"
        self._leader = f"{prefix}:leader"
        self._save = self._redis.register_script(_SAVE)
        self._acquire = self._redis.register_script(_ACQUIRE)
        self._resign = self._redis.register_script(_RESIGN)
        self._count = self._redis.register_script(_COUNTERS)

    async def load(self) -> Snapshot:
        """All records at one revision: read again if a batch came in between."""
        while True:
            before, _, _ = await self._read_counters()
            records: dict[str, str] = {}
            cursor = 0
            while True:
                cursor, part = await self._ask(
                    self._redis.hscan(self._records, cursor, count=_SCAN_COUNT)
                )
                records.update(part)
                if cursor == 0:
                    break
            revision, epoch, events = await self._read_counters()
            if revision == before:
                return Snapshot(revision=revision, epoch=epoch, records=records, events=events)

    async def revision(self) -> int:
        """The revision saved last."""
        return int(await self._ask(self._redis.hget(self._counters, "revision")) or 0)

    async def save(self, batch: Batch) -> None:
        """One script call; raises ``Fenced`` or ``Conflict``."""
        pairs = [text for pair in batch.puts.items() for text in pair]
        head = [batch.epoch, batch.expected_revision, batch.revision, EVENTS_KEPT]
        counts = [len(batch.puts), len(batch.removals)]
        verdict, value = await self._ask(
            self._save(
                keys=[self._counters, self._records, self._events],
                args=[*head, *counts, *pairs, *batch.removals, *batch.events],
            )
        )
        if verdict == "FENCED":
            raise Fenced(f"epoch {batch.epoch} is over, {value} leads")
        if verdict == "CONFLICT":
            raise Conflict(f"revision is {value}, not {batch.expected_revision}")

    async def watch(self, after_revision: int) -> AsyncIterator[int]:
        """Looks at the revision ten times a second: a standby needs no more."""
        while True:
            revision = await self.revision()
            if revision > after_revision:
                after_revision = revision
                yield revision
            else:
                await asyncio.sleep(0.1)

    async def acquire(self, candidate: str, ttl_ms: int) -> Leadership:
        """Leads, renews, or tells who leads."""
        holder, epoch = await self._ask(
            self._acquire(keys=[self._leader, self._counters], args=[candidate, ttl_ms])
        )
        return Leadership(holder=holder, epoch=int(epoch))

    async def resign(self, candidate: str) -> None:
        """Lets the next one lead at once."""
        await self._ask(self._resign(keys=[self._leader], args=[candidate]))

    async def durability_gap(self) -> str:
        """What the server's settings may lose, in one sentence; empty if nothing."""
        settings = await self._ask(self._redis.config_get("append*"))
        if settings.get("appendonly") != "yes":
            return "appendonly is off: a restart of Redis loses what was acknowledged"
        if settings.get("appendfsync") != "always":
            return "appendfsync is not always: a crash of its host may lose the last second"
        return ""

    async def close(self) -> None:
        """Closes the connections."""
        await self._redis.aclose()

    async def _read_counters(self) -> tuple[int, int, tuple[str, ...]]:
        revision, epoch, events = await self._ask(self._count(keys=[self._counters, self._events]))
        return int(revision), int(epoch), tuple(events)

    # redis-py types every answer as Any or as a union with the blocking client's.
    async def _ask(self, call: Awaitable[Any] | Any) -> Any:
        try:
            return await call
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as error:
            raise StoreUnavailable(f"Redis does not answer: {error}") from None
        except exceptions.ResponseError as error:
            raise _refusal(error) from None


def _refusal(error: exceptions.ResponseError) -> StoreError:
    """A server that loads its file, is out of memory or read-only is away as far as we are concerned."""
    text = str(error)
    if text.startswith(("LOADING", "OOM", "READONLY", "MISCONF", "MASTERDOWN", "BUSY")):
        return StoreUnavailable(f"Redis refuses: {text}")
    return StoreError(f"Redis refuses: {text}")
