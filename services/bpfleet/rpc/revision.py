"""The revision a client has seen, carried in the metadata of calls: no later answer may be older.

A server says with every answer which revision of the store it is built on; a client says with every call the highest it
was told. A coordinator that has less than that refuses, whatever it takes itself for.
"""

from collections.abc import Iterable
from typing import Final

__all__ = ["REVISION_KEY", "highest_revision", "revision_metadata"]

REVISION_KEY: Final = "bpfleet-revision"


def revision_metadata(revision: int) -> tuple[tuple[str, str], ...]:
    """What to send along."""
    return ((REVISION_KEY, str(revision)),)


def highest_revision(metadata: Iterable[tuple[str, str | bytes]] | None) -> int:
    """The revision that came along; 0 for none, and for what is no number."""
    found = 0
    for key, value in metadata or ():
        text = str(value)
        if key == REVISION_KEY and text.isascii() and text.isdigit() and len(text) < 19:
            found = max(found, int(text))
    return found
