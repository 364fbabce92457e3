"""A standby's copy of the store: at a take-over only what changed since has to be read."""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping

from msgspec import MsgspecError

from bpfleet.fleet.records import FleetEvent, Record, RecordKind, decode, decode_event
from bpfleet.fleet.store import EVENTS_KEPT, Store, StoreUnavailable
from bpfleet.fleet.tables import address

__all__ = ["WarmCopy"]

_TURN = 1_000


class WarmCopy:
    """Decoded records by key, and the newest events, as they were at ``revision`` of the store (-1: nothing)."""

    def __init__(self) -> None:
        self.revision = -1
        self.mark = ""
        self.events: deque[FleetEvent] = deque(maxlen=EVENTS_KEPT)
        self.event_count = 0
        self._records: dict[str, Record] = {}

    async def follow(self, store: Store) -> None:
        """Reads what is newer; everything where the copy is empty or too old. Raises ``StoreError``."""
        news = None
        if self.revision >= 0:
            news = await store.newer(self.revision, self.mark, self.event_count)
        if news is not None:
            await self._read(news.changes, news.events)
            self.revision, self.mark = news.revision, news.mark
            self.event_count = news.event_count
            return
        snapshot = await store.load()
        self._empty()
        await self._read(snapshot.records, snapshot.events)
        self.revision, self.mark = snapshot.revision, snapshot.mark
        self.event_count = snapshot.event_count

    def take(self) -> list[Record]:
        """The records; the copy is empty until it is filled again."""
        records = list(self._records.values())
        self._empty()
        return records

    def fill(
        self,
        records: Iterable[Record],
        *,
        revision: int,
        mark: str,
        events: Iterable[FleetEvent],
        event_count: int,
    ) -> None:
        """Takes over what a leader had that is none any more."""
        for record in records:
            kind, key = address(record)
            self._records[f"{kind}/{key}"] = record
        self.events.extend(events)
        self.revision, self.mark, self.event_count = revision, mark, event_count

    def _empty(self) -> None:
        self._records = {}
        self.events = deque(maxlen=EVENTS_KEPT)
        self.revision, self.event_count = -1, 0

    async def _read(self, texts: Mapping[str, str | None], events: Iterable[str]) -> None:
        """Decodes what came; gives others a turn now and then, for there may be much."""
        revision, self.revision = self.revision, -1
        for number, (key, text) in enumerate(texts.items()):
            if text is None:
                self._records.pop(key, None)
            else:
                self._records[key] = _record(key, text)
            if number % _TURN == 0:
                await asyncio.sleep(0)
        self.events.extend(_event(text) for text in events)
        self.revision = revision


def _record(key: str, text: str) -> Record:
    try:
        return decode(RecordKind(key.partition("/")[0]), text)
    except (MsgspecError, ValueError) as error:
        raise StoreUnavailable(f"the store's {key[:80]!r} cannot be read: {error}") from None


def _event(text: str) -> FleetEvent:
    try:
        return decode_event(text)
    except MsgspecError as error:
        raise StoreUnavailable(f"an event in the store cannot be read: {error}") from None
