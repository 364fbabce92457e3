"""Pages of lists: sizes within bounds, opaque tokens that name the key to go on after."""

import base64
import binascii
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

import grpc

from bpfleet.fleet.reasons import ControlReason
from bpfleet.rpc.errors import ApiError, invalid

__all__ = [
    "PAGE_SIZE_DEFAULT",
    "PAGE_SIZE_MAX",
    "page_by_key",
    "page_key",
    "page_position",
    "page_size",
    "page_token",
]

PAGE_SIZE_DEFAULT: Final = 100
PAGE_SIZE_MAX: Final = 1000
_TOKEN_CHARS_MAX: Final = 8192
_VERSION: Final = "1:"
_POSITION: Final = re.compile(r"[0-9]{1,19}")
_INTEGER: Final = re.compile(r"-?[0-9]{1,100}")

Item = TypeVar("Item")


def page_size(requested: int) -> int:
    """Items of a page: 0 stands for 100, more than 1000 is 1000. Raises ``ApiError`` for negative sizes."""
    if requested < 0:
        raise invalid(
            "page_size", f"{requested} is negative; use 0 for the default or 1 to {PAGE_SIZE_MAX}"
        )
    return min(requested or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)


def page_token(key: str) -> str:
    """The token of the page after ``key``."""
    return base64.urlsafe_b64encode((_VERSION + key).encode()).decode()


def page_key(token: str) -> str | None:
    """The key a token goes on after; None for the first page. Raises ``ApiError`` for what is not a token of ours."""
    if not token:
        return None
    try:
        text = base64.b64decode(
            token[:_TOKEN_CHARS_MAX].encode(), altchars=b"-_", validate=True
        ).decode()
    except (binascii.Error, UnicodeError):
        text = ""
    if not text.startswith(_VERSION):
        raise ApiError(
            grpc.StatusCode.INVALID_ARGUMENT,
            ControlReason.BAD_PAGE_TOKEN,
            "page_token: not a token of this service; send next_page_token of the page before, or leave it empty",
        )
    return text.removeprefix(_VERSION)


def page_position(token: str) -> int | None:
    """The number a token goes on at, for lists that count; None for the first page. Raises ``ApiError``."""
    key = page_key(token)
    return None if key is None else _number(key, _POSITION)


def page_by_key(
    items: Sequence[Item],
    *,
    key: Callable[
        [Item], Any
    ],  # str or int, the same for all items: what the sequence is sorted by
    requested_size: int,
    token: str,
) -> tuple[list[Item], str]:
    """One page of ``items``, which are sorted by ``key``, and the token of the next page ("" on the last).

    Items that come and go between two pages do not move the others: a page goes on after a key, not at a position.
    """
    size = page_size(requested_size)
    after = page_key(token)
    start = 0 if after is None else bisect_right(items, _like(items, key, after), key=key)
    page = list(islice(items, start, start + size))
    return page, page_token(str(key(page[-1]))) if start + size < len(items) else ""


def _like(items: Sequence[Item], key: Callable[[Item], Any], text: str) -> str | int:
    return text if not items or isinstance(key(items[0]), str) else _number(text, _INTEGER)


def _number(text: str, form: re.Pattern[str]) -> int:
    if form.fullmatch(text) is None:
        raise invalid("page_token", "belongs to another list; leave it empty")
    return int(text)
