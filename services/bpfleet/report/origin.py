"""Where a page comes from: the command, the day, the files that were read. With it a colleague repeats the answer."""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

__all__ = ["origin_data"]

# JSON values of any type.
Plain = Any

# Larger files are named by their hash alone: the page is to be sent by mail.
_EMBEDDED_BYTES_MAX: Final = 1 << 20


def origin_data(
    command: str, inputs: Iterable[Path], *, assumed: Sequence[str], now: datetime
) -> dict[str, Plain]:
    """What the page shows and carries. Raises ``OSError`` where an input cannot be read any more."""
    return {
        "command": command,
        "date": now.strftime("%Y-%m-%d %H:%M %Z").strip(),
        "assumed": list(assumed),
        "inputs": [_input(path) for path in inputs],
    }


def _input(path: Path) -> dict[str, Plain]:
    content = path.read_bytes()
    return {
        "name": path.name,
        "path": str(path),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "text": _text(content),
    }


def _text(content: bytes) -> str | None:
    """The file itself; None where it is too large for a page or no text."""
    if len(content) > _EMBEDDED_BYTES_MAX:
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None
