"""The rules for names and labels: the same in scenario files, on the command line, in RPCs and in the store."""

import re
from typing import Final

__all__ = [
    "LABELS_MAX",
    "LABEL_KEY_RULE",
    "LABEL_VALUE_RULE",
    "NAME_RULE",
    "is_label_key",
    "is_label_value",
    "is_name",
]

LABELS_MAX: Final = 64
NAME_RULE: Final = "1 to 63 of a-z, 0-9, '-' and '.', a letter or digit at both ends"
LABEL_KEY_RULE: Final = (
    "1 to 253 letters, digits, '-', '_', '.' and '/', a letter or digit at both ends"
)
LABEL_VALUE_RULE: Final = "at most 253 printable characters"

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_LABEL_KEY: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_./-]{0,251}[A-Za-z0-9])?")
_LABEL_VALUE_CHARS_MAX: Final = 253


def is_name(text: str) -> bool:
    """Whether a node, an agent, a workload or an application may be called ``text``.

    >>> is_name("web.1"), is_name("0web"), is_name("Web"), is_name("web-")
    (True, True, False, False)
    """
    return _NAME.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """Whether ``text`` may be the key of a label or a taint."""
    return _LABEL_KEY.fullmatch(text) is not None


def is_label_value(text: str) -> bool:
    """Whether ``text`` may be the value of a label or a taint."""
    return len(text) <= _LABEL_VALUE_CHARS_MAX and (not text or text.isprintable())
