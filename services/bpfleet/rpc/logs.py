"""How our services log: one line an event on stderr, as key=value or as JSON."""

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

__all__ = ["LOG_FORMATS", "configure_logging"]

_PLAIN: Final = re.compile(r"[^\s\"=]+")

# A value as it was logged: a number stays one in JSON.
Value = Any


def configure_logging(level: str, log_format: str) -> None:
    """Logs to stderr in one of ``LOG_FORMATS``, in place of what was configured before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(LOG_FORMATS[log_format]))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class _Formatter(logging.Formatter):
    """Time, level and logger, then the fields of the message; an exception as one more field."""

    def __init__(self, write: Callable[[Mapping[str, Value]], str]) -> None:
        super().__init__()
        self._write = write

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, Value] = {
            "time": f"{when}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
        }
        fields.update(_fields(record))
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return self._write(fields)


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, Value]]:
    """``event=name key=%s ...`` by its keys, as our modules log; anything else as one message."""
    template = record.msg
    arguments = record.args if isinstance(record.args, tuple) else ()
    if not isinstance(template, str) or not template.startswith("event="):
        yield "message", record.getMessage()
        return
    left = iter(arguments)
    for pair in template.split(" "):
        key, _, form = pair.partition("=")
        value = next(left) if form.startswith("%") else form
        yield key, value if isinstance(value, int | float | bool | None) else str(value)


def _as_pairs(fields: Mapping[str, Value]) -> str:
    return " ".join(f"{key}={_quoted(str(value))}" for key, value in fields.items())


def _quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _as_json(fields: Mapping[str, Value]) -> str:
    return json.dumps(fields, ensure_ascii=False)


LOG_FORMATS: Final[Mapping[str, Callable[[Mapping[str, Value]], str]]] = {
    "text": _as_pairs,
    "json": _as_json,
}
