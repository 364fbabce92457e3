"""The lead of a coordinator: who has it, how certain that is, who keeps it, and how patient a deposed one is."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from threading import Event
from typing import Final

from bpfleet.fleet.store import Fenced, Leadership, Store, StoreUnavailable

__all__ = ["Lead", "Patience"]

_log: Final = logging.getLogger(__name__)
# A lease is renewed so often, as client-go does: every 2 of 15 seconds.
_RENEWALS: Final = 7.5
# Parts of a lease by which clocks of two machines may differ over its length.
_CLOCK_RATE: Final = 100
_LOOK_UP_SECONDS: Final = 0.1


class Lead:
    """What one coordinator knows of the lead, and its hold on it.

    ``pulse`` is called by the event loop all the time; a thread that renews the lease does so for a loop that
    was silent for at most one lease, so that one which hangs is followed by a standby.
    """

    def __init__(
        self,
        store: Store,
        *,
        identity: str,
        ttl_ms: int,
        clock_ms: Callable[[], int],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.holder = ""
        self.renewals = 0
        self.late = 0
        self.given_up = False
        self._store: Final = store
        self._identity: Final = identity
        self._ttl_ms: Final = ttl_ms
        self._clock_ms: Final = clock_ms
        self._sleep: Final = sleep
        self._certain_until_ms = 0
        # The term of that certainty.
        self._epoch = 0
        self._pulse_ms = 0
        self._question: Final = asyncio.Lock()
        # When that was asked of the store which it confirmed last.
        self._confirmed_ms = -1
        self._keeping: asyncio.Task[None] | None = None

    def certain(self, epoch: int) -> bool:
        """Whether nobody else can lead now, and nobody has since this term began."""
        return epoch == self._epoch and self._clock_ms() < self._certain_until_ms

    @property
    def renew_seconds(self) -> float:
        """The pause between renewals."""
        return self._ttl_ms / 1000 / _RENEWALS

    def pulse(self) -> None:
        """The event loop has its turns."""
        self._pulse_ms = self._clock_ms()

    async def look(self) -> Leadership:
        """Learns who leads."""
        held = await self._store.leader()
        self.holder = held.holder
        return held

    async def acquire(self, store: Store | None = None) -> Leadership:
        """Leads, or learns who does. Until its time is over nobody else can lead: the store counts it
        from later on than this process does.
        """
        asked_ms = self._clock_ms()
        held = await (store or self._store).acquire(self._identity, self._ttl_ms)
        self.holder = held.holder
        if held.holder == self._identity:
            self.renewals += 1
            self.late += 0 < self._certain_until_ms < asked_ms
            self._epoch = held.epoch
            self._certain_until_ms = asked_ms + self._ttl_ms - self._ttl_ms // _CLOCK_RATE
        return held

    async def confirm(self, epoch: int) -> bool:
        """Whether this one leads the term: the store is asked where that is not certain. Raises ``StoreError``.

        A yes means that nobody else had written when this was called. One question answers all who asked before it.
        """
        called_ms = self._clock_ms()
        if self.certain(epoch):
            return True
        async with self._question:
            if self.certain(epoch) or (epoch == self._epoch and self._confirmed_ms >= called_ms):
                return True
            if self.given_up:
                return False
            asked_ms = self._clock_ms()
            held = await self.acquire()
            if held.holder != self._identity or held.epoch != epoch:
                return False
            self._confirmed_ms = asked_ms
            return True

    def lost(self) -> None:
        """The term is over."""
        self._certain_until_ms = 0
        self._confirmed_ms = -1

    async def give_up(self) -> None:
        """Lets somebody else lead at once, and never asks again. Raises ``StoreError``."""
        self.given_up = True
        if self._keeping is not None:
            # A renewal on its way would take the lead back.
            await asyncio.wait((self._keeping,), timeout=self._ttl_ms / 1000)
        if self._certain_until_ms:
            self.lost()
            await self._store.resign(self._identity)

    async def keep(self, epoch: int) -> None:
        """Renews until it is given up; raises ``Fenced`` when another one leads. Not held up by what else the event
        loop has to do where the store can be reached from another thread.
        """
        self.pulse()
        twin, ended = self._store.twin(), Event()
        if twin is None:
            work: Coroutine[None, None, None] = self._renew(epoch, self._store, ended)
        else:
            work = asyncio.to_thread(self._in_thread, epoch, twin, ended)
        self._keeping = asyncio.create_task(work)
        beating = asyncio.create_task(self._beat())
        try:
            # A thread cannot be cancelled: it is told, and ends by itself.
            await (self._keeping if twin is None else asyncio.shield(self._keeping))
        finally:
            ended.set()
            beating.cancel()
            self._keeping.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _beat(self) -> None:
        while True:
            self.pulse()
            await asyncio.sleep(self.renew_seconds / 4)

    def _in_thread(self, epoch: int, twin: Store, ended: Event) -> None:
        async def work() -> None:
            try:
                await self._renew(epoch, twin, ended)
            finally:
                await twin.close()

        asyncio.run(work())

    async def _renew(self, epoch: int, store: Store, ended: Event) -> None:
        due_ms = self._clock_ms()
        own_thread = store is not self._store
        while not (ended.is_set() or self.given_up):
            now_ms = self._clock_ms()
            hangs = own_thread and now_ms - self._pulse_ms > self._ttl_ms
            if now_ms < due_ms or hangs:
                await self._pause(due_ms - now_ms, own_thread=own_thread)
                continue
            due_ms = now_ms + round(self.renew_seconds * 1000)
            try:
                held = await self.acquire(store)
            except StoreUnavailable as error:
                _log.warning("event=not_renewed identity=%s reason=%s", self._identity, error)
                continue
            if held.holder != self._identity or held.epoch != epoch:
                raise Fenced(f"{held.holder} leads epoch {held.epoch}")

    async def _pause(self, left_ms: int, *, own_thread: bool) -> None:
        """Until the next renewal; a thread looks up in between, for it has to end when it is told."""
        if own_thread:
            await asyncio.sleep(_LOOK_UP_SECONDS)
        else:
            await self._sleep(min(left_ms / 1000, _LOOK_UP_SECONDS))


class Patience:
    """How long a deposed leader leaves a vacant lead to others: longer each time it is deposed soon after.

    Two that depose each other for want of CPU give the one that leads time to write, and in the end all it needs:
    a lease that ran out while nobody else wants it is renewed late.
    """

    def __init__(self, ttl_ms: int, random: Random) -> None:
        self._ttl_ms: Final = ttl_ms
        self._longest_ms: Final = max(4 * ttl_ms, 30_000)
        self._random: Final = random
        self._times = 0
        self._grace_ms = 0
        self._forgotten_ms = 0
        self._vacant_ms: int | None = None

    def deposed(self, now_ms: int, *, led_ms: int) -> None:
        """The lead is lost after so long."""
        self._times = 1 if led_ms >= 4 * self._ttl_ms else self._times + 1
        longest = min(self._ttl_ms * 2 ** (self._times - 1), self._longest_ms)
        self._grace_ms = round(longest * (0.5 + self._random.random() / 2))
        self._forgotten_ms = now_ms + 8 * self._grace_ms
        self._vacant_ms = None

    def applies(self, now_ms: int) -> bool:
        """Whether the vacant lead may be left to others: look first."""
        if self._grace_ms and now_ms >= self._forgotten_ms:
            self._times = self._grace_ms = 0
        return self._grace_ms > 0

    def over(self, seen: Leadership, now_ms: int) -> bool:
        """Whether to ask for the lead, as it is now."""
        if seen.holder:
            self._vacant_ms = None
            return False
        if seen.free:
            return True
        if self._vacant_ms is None:
            self._vacant_ms = now_ms
        return now_ms - self._vacant_ms >= self._grace_ms
