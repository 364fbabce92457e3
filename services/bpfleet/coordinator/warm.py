"""A standby's copy of the store's records: at a take-over only what changed since has to be read anew."""

import asyncio
from typing import Final

from bpfleet.fleet.records import Record, RecordKind, decode
from bpfleet.fleet.store import Snapshot

__all__ = ["WarmCopy"]

_TURN: Final = 1_000


class WarmCopy:
    """Decoded records by key, with the text they were decoded from."""

    def __init__(self) -> None:
        self.revision = -1
        self._records: dict[str, tuple[str, Record]] = {}

    async def read(self, snapshot: Snapshot) -> None:
        """Follows a newer snapshot; gives others a turn now and then, for it may be large."""
        kept = self._records
        self._records = {}
        self.revision = -1
        for number, (key, text) in enumerate(snapshot.records.items()):
            known = kept.get(key)
            if known is None or known[0] != text:
                known = (text, decode(RecordKind(key.partition("/")[0]), text))
            self._records[key] = known
            if number % _TURN == 0:
                await asyncio.sleep(0)
        self.revision = snapshot.revision

    def take(self) -> list[Record]:
        """The records; the copy is empty afterwards."""
        records = [record for _, record in self._records.values()]
        self._records = {}
        self.revision = -1
        return records
