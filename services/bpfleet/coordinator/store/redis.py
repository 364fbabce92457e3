"""The store in Redis: one hash of records, one list of events, one hash of counters, one leader key, and which key
changed when.

A batch is one Lua script, so it is applied whole or not at all, and its checks (epoch, revision) and
its writes cannot be separated. It is durable once answered if the server runs with ``appendonly yes``
and ``appendfsync always``; ``durability_gap`` says whether it does. All keys share a hash tag, so that they are in one
slot of a cluster.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from typing import Any, Final

from redis import exceptions

from bpfleet.coordinator.store.redis_url import close_connections, connect
from bpfleet.fleet.store import (
    CHANGES_KEPT,
    EVENTS_KEPT,
    MARKS_KEPT,
    Batch,
    Conflict,
    Fenced,
    Leadership,
    News,
    Snapshot,
    StoreError,
    StoreMisused,
    StoreUnavailable,
)

__all__ = ["RedisStore"]

_SCAN_COUNT: Final = 5_000
_WAIT_MS: Final = 1_000

# KEYS: counters, records, events, changes, marks. ARGV: epoch, expected, revision, events kept, changes kept, puts,
# removals, mark, marks kept, then key, value, key, value, ... then keys, then events.
_SAVE: Final = """
local epoch = redis.call('HGET', KEYS[1], 'epoch') or '0'
if epoch ~= ARGV[1] then return {'FENCED', epoch} end
local revision = redis.call('HGET', KEYS[1], 'revision') or '0'
if revision ~= ARGV[2] then return {'CONFLICT', revision} end
local at, puts, removals = 10, tonumber(ARGV[6]), tonumber(ARGV[7])
local function chunks(last, step, command, key)
  while at <= last do
    local stop = math.min(at + step - 1, last)
    redis.call(command, key, unpack(ARGV, at, stop))
    at = stop + 1
  end
end
local function changed(first, last, step)
  for position = first, last, step do redis.call('ZADD', KEYS[4], ARGV[3], ARGV[position]) end
end
changed(at, at + 2 * puts - 1, 2)
chunks(at + 2 * puts - 1, 2000, 'HSET', KEYS[2])
changed(at, at + removals - 1, 1)
chunks(at + removals - 1, 2000, 'HDEL', KEYS[2])
local surplus = redis.call('ZCARD', KEYS[4]) - tonumber(ARGV[5])
if surplus > 0 then
  local last = redis.call('ZRANGE', KEYS[4], surplus - 1, surplus - 1, 'WITHSCORES')
  redis.call('HSET', KEYS[1], 'changes_from', last[2])
  redis.call('ZREMRANGEBYRANK', KEYS[4], 0, surplus - 1)
end
if at <= #ARGV then
  redis.call('HINCRBY', KEYS[1], 'events', #ARGV - at + 1)
  chunks(#ARGV, 2000, 'RPUSH', KEYS[3])
  redis.call('LTRIM', KEYS[3], -tonumber(ARGV[4]), -1)
end
redis.call('HSET', KEYS[1], 'revision', ARGV[3])
redis.call('RPUSH', KEYS[5], ARGV[8])
redis.call('LTRIM', KEYS[5], -tonumber(ARGV[9]), -1)
return {'OK', ARGV[3]}
"""

# KEYS: leader, counters. ARGV: candidate, milliseconds. The counters remember who led last: it goes on in its term.
_ACQUIRE: Final = """
local holder = redis.call('GET', KEYS[1])
if not holder or holder == ARGV[1] then
  holder = ARGV[1]
  redis.call('SET', KEYS[1], holder, 'PX', ARGV[2])
  if redis.call('HGET', KEYS[2], 'holder') ~= holder then
    redis.call('HINCRBY', KEYS[2], 'epoch', 1)
    redis.call('HSET', KEYS[2], 'holder', holder)
  end
end
return {holder, redis.call('HGET', KEYS[2], 'epoch') or '0'}
"""

# KEYS: leader, counters.
_LEADER: Final = """
return {redis.call('GET', KEYS[1]) or '', redis.call('HGET', KEYS[2], 'epoch') or '0',
  redis.call('HGET', KEYS[2], 'holder') or ''}
"""

# KEYS: leader, counters. ARGV: candidate.
_RESIGN: Final = """
if redis.call('HGET', KEYS[2], 'holder') == ARGV[1] then
  redis.call('HDEL', KEYS[2], 'holder')
  if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
end
return 1
"""

# KEYS: counters, events, marks. The counters and the events of one moment.
_COUNTERS: Final = """
return {redis.call('HGET', KEYS[1], 'revision') or '0', redis.call('LINDEX', KEYS[3], -1) or '',
  redis.call('HGET', KEYS[1], 'epoch') or '0', redis.call('HGET', KEYS[1], 'events') or '0',
  redis.call('LRANGE', KEYS[2], 0, -1)}
"""

# KEYS: counters, records, events, changes, marks. ARGV: revision, mark, events known. Removed records are false.
_NEWER: Final = """
local counters = redis.call('HMGET', KEYS[1], 'revision', 'epoch', 'events', 'changes_from')
local revision, total = tonumber(counters[1] or 0), tonumber(counters[3] or 0)
local known, missed = tonumber(ARGV[1]), total - tonumber(ARGV[3])
if known > revision or known < tonumber(counters[4] or 0) then return {} end
local mark = redis.call('LINDEX', KEYS[5], known - revision - 1)
if known > 0 and mark ~= ARGV[2] then return {} end
if missed < 0 or missed > redis.call('LLEN', KEYS[3]) then return {} end
local keys = redis.call('ZRANGEBYSCORE', KEYS[4], '(' .. known, '+inf')
local values = {}
for first = 1, #keys, 2000 do
  local part = redis.call('HMGET', KEYS[2], unpack(keys, first, math.min(first + 1999, #keys)))
  for position = 1, #part do values[#values + 1] = part[position] end
end
local events = missed > 0 and redis.call('LRANGE', KEYS[3], -missed, -1) or {}
return {tostring(revision), redis.call('LINDEX', KEYS[5], -1) or '', counters[2] or '0', tostring(total),
  keys, values, events}
"""

# KEYS: all. Touches what everything else needs, so that a wrong server shows at once.
_PROBE: Final = """
redis.call('HINCRBY', KEYS[1], 'starts', 1)
return redis.call('EXISTS', unpack(KEYS))
"""


class RedisStore:
    """Redis or Valkey at a URL, see ``redis_url``. ``replicas``: so many must have a batch before it is stored."""

    name = "redis"

    def __init__(self, url: str, *, prefix: str = "bpfleet", replicas: int = 0) -> None:
        self._url: Final = url
        self._prefix: Final = prefix
        self._replicas: Final = replicas
        # Any: Redis and RedisCluster share methods, not a type.
        self._redis: Any = connect(url)
        self._counters: Final = f"{{{prefix}}}:counters"
        self._records: Final = f"{{{prefix}}}:records"
        self._events: Final = f"{{{prefix}}}:events"
        self._changes: Final = f"{{{prefix}}}:changes"
        self._marks: Final = f"{{{prefix}}}:marks"
        self._leader: Final = f"{{{prefix}}}:leader"

    @property
    def _state(self) -> list[str]:
        return [self._counters, self._records, self._events, self._changes, self._marks]

    async def check(self) -> None:
        """Whether this server will do. Raises ``StoreMisused`` where it never will, ``StoreUnavailable``."""
        try:
            await self._run(_PROBE, [*self._state, self._leader], [])
        except _ReadOnly as error:
            raise StoreMisused(f"{error}; give the address of the primary") from None

    async def load(self) -> Snapshot:
        """All records at one revision: read again if a batch came in between."""
        while True:
            before = await self._read_counters()
            records: dict[str, str] = {}
            cursor = 0
            while True:
                cursor, part = await self._ask(
                    self._redis.hscan(self._records, cursor, count=_SCAN_COUNT)
                )
                records.update(part)
                if cursor == 0:
                    break
            now = await self._read_counters()
            if (now.revision, now.mark) == (before.revision, before.mark):
                return replace(now, records=records)

    async def newer(self, revision: int, mark: str, event_count: int) -> News | None:
        """What was saved after a batch."""
        answer = await self._run(_NEWER, self._state, [revision, mark, event_count])
        match answer:
            case []:
                return None
            case [reached, str(last), epoch, total, [*names], [*values], [*events]]:
                return News(
                    revision=_number(reached),
                    mark=last,
                    epoch=_number(epoch),
                    changes=dict(zip(names, values, strict=True)),
                    events=tuple(events),
                    event_count=_number(total),
                )
        raise _odd(answer)

    async def revision(self) -> int:
        """The revision saved last."""
        return _number(await self._ask(self._redis.hget(self._counters, "revision")) or 0)

    async def save(self, batch: Batch) -> None:
        """One script call; raises ``Fenced`` or ``Conflict``."""
        pairs = [text for pair in batch.puts.items() for text in pair]
        head: list[int | str] = [
            batch.epoch,
            batch.expected_revision,
            batch.revision,
            EVENTS_KEPT,
            CHANGES_KEPT,
        ]
        head += [len(batch.puts), len(batch.removals), batch.mark, MARKS_KEPT]
        answer = await self._run(
            _SAVE,
            self._state,
            [*head, *pairs, *batch.removals, *batch.events],
            replicas=self._replicas,
        )
        match answer:
            case ["OK", _]:
                return
            case ["FENCED", value]:
                raise Fenced(f"epoch {batch.epoch} is over, {value} leads")
            case ["CONFLICT", value]:
                raise Conflict(f"revision is {value}, not {batch.expected_revision}")
        raise _odd(answer)

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
        answer = await self._run(_ACQUIRE, [self._leader, self._counters], [candidate, ttl_ms])
        match answer:
            case [str(holder), epoch]:
                return Leadership(holder=holder, epoch=_number(epoch))
        raise _odd(answer)

    async def leader(self) -> Leadership:
        """Who leads now."""
        answer = await self._run(_LEADER, [self._leader, self._counters], [])
        match answer:
            case [str(holder), epoch, str(last)]:
                return Leadership(holder=holder, epoch=_number(epoch), free=not holder and not last)
        raise _odd(answer)

    async def resign(self, candidate: str) -> None:
        """Lets the next one lead at once."""
        await self._run(_RESIGN, [self._leader, self._counters], [candidate])

    async def durability_gap(self) -> str:
        """What the server's settings may lose, in one sentence; empty if nothing."""
        settings = await self._ask(self._redis.config_get("append*"))
        if settings.get("appendonly") != "yes":
            return "appendonly is off: a restart of Redis loses what was acknowledged"
        if settings.get("appendfsync") != "always":
            return "appendfsync is not always: a crash of its host may lose the last second"
        return ""

    def twin(self) -> "RedisStore":
        """The same with connections of its own."""
        return RedisStore(self._url, prefix=self._prefix, replicas=self._replicas)

    async def close(self) -> None:
        """Closes the connections."""
        await close_connections(self._redis)

    async def _read_counters(self) -> Snapshot:
        """Everything but the records."""
        keys = [self._counters, self._events, self._marks]
        answer = await self._run(_COUNTERS, keys, [])
        match answer:
            case [revision, str(mark), epoch, total, [*events]]:
                return Snapshot(
                    revision=_number(revision),
                    mark=mark,
                    epoch=_number(epoch),
                    records={},
                    events=tuple(events),
                    event_count=_number(total),
                )
        raise _odd(answer)

    # Any: what a script returns.
    async def _run(
        self, script: str, keys: list[str], arguments: list[Any], *, replicas: int = 0
    ) -> Any:
        if not replicas:
            return await self._ask(self._redis.eval(script, len(keys), *keys, *arguments))
        # WAIT counts the replicas that have what its own connection wrote.
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.eval(script, len(keys), *keys, *arguments)
            pipe.wait(replicas, _WAIT_MS)
            answer, having = await self._ask(pipe.execute())
        if answer[0] == "OK" and _number(having) < replicas:
            raise StoreUnavailable(f"{having} of {replicas} replicas of Redis have the change")
        return answer

    # redis-py types every answer as Any or as a union with the blocking client's.
    async def _ask(self, call: Awaitable[Any] | Any) -> Any:
        try:
            return await call
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as error:
            raise StoreUnavailable(f"Redis does not answer: {error}") from None
        except exceptions.ResponseError as error:
            raise _refusal(error) from None
        except exceptions.RedisError as error:
            raise StoreUnavailable(f"Redis does not answer: {error}") from None
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            # redis-py's parser on bytes that no server sent.
            raise _odd(error) from None


class _ReadOnly(StoreUnavailable):
    """A replica: during a failover that passes, at the start it is a wrong address."""


def _number(text: Any) -> int:
    """A counter. Any: whatever the server answered."""
    try:
        return int(text)
    except (ValueError, TypeError) as error:
        raise _odd(error) from None


def _odd(what: object) -> StoreUnavailable:
    """Whether the call took effect is unknown, as where no answer came."""
    return StoreUnavailable(f"Redis answers what cannot be read: {str(what)[:200]}")


def _refusal(error: exceptions.ResponseError) -> StoreError:
    """A server that loads its file or is out of memory is away as far as we are concerned; one that is set up for
    something else is not.
    """
    text = str(error)
    if isinstance(error, exceptions.MovedError):
        return StoreMisused("Redis runs as a cluster; write redis+cluster://host:port")
    if isinstance(error, exceptions.ReadOnlyError) or "READONLY" in text[:40]:
        return _ReadOnly(f"Redis is a read-only replica: {text}")
    if text.startswith(
        ("LOADING", "OOM", "MISCONF", "MASTERDOWN", "BUSY", "CLUSTERDOWN", "TRYAGAIN")
    ):
        return StoreUnavailable(f"Redis refuses: {text}")
    return StoreMisused(f"Redis refuses: {text}")
