"""``filter`` and ``order_by`` of long lists, after AIP-160 and AIP-132: a small language over a closed set of fields.

Conditions are joined by AND; a value is a word, a number or a text in quotes. Everything is bounded, and what is not
understood is refused with the field's name: a list that is not the one asked for is worse than none.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from bpfleet.rpc.errors import invalid
from bpfleet.rpc.paging import page_key, page_size, page_token

__all__ = ["Fields", "Listed", "listed"]

_CHARS_MAX: Final = 1024
_CONDITIONS_MAX: Final = 16
_CONDITION: Final = re.compile(
    r"""\s*(?P<field>[a-z_]+(?:\.[A-Za-z0-9._/-]+)?)\s*(?P<operator>!=|<=|>=|=|<|>|:)\s*"""
    r"""(?P<value>"(?:[^"\\]|\\.)*"|[^\s"=<>!:]+)\s*"""
)
_AND: Final = re.compile(r"AND\s")
_ORDER: Final = re.compile(r"(?P<field>[a-z_]+)(?:\s+(?P<way>asc|desc))?")
_LABELS: Final = "labels."

Item = TypeVar("Item")
# What a field has: a text, a number or a truth.
Value = str | int | bool
Fields = Mapping[str, Callable[[Item], Value]]
_Test = Callable[[Item], bool]


class Listed(NamedTuple):
    """One page: the items, the token of the next one, and how many pass the filter."""

    page: list[Any]
    next_page_token: str
    total: int


def listed(
    items: Sequence[Item],
    request: Any,  # of a list: page_size, page_token, filter, order_by
    fields: Fields[Item],
    *,
    labels: Callable[[Item], Mapping[str, str]],
) -> Listed:
    """The page of ``items``, which have a ``name`` and are sorted by it, that a request asks for.

    Raises ``ApiError`` that names the field that is wrong.
    """
    tests = _conditions(request.filter, fields, labels)
    passed = [item for item in items if all(test(item) for test in tests)]
    key, descending = _order(request.order_by, fields)
    if key is not None or descending:
        passed.sort(key=key or fields["name"], reverse=descending)  # stable: equals stay by name
    size = page_size(request.page_size)
    asked = _fingerprint(request.filter, request.order_by)
    start = _start(passed, request.page_token, asked, key, descending, fields["name"])
    page = passed[start : start + size]
    more = start + size < len(passed)
    return Listed(page, _token(page[-1], asked, key, fields["name"]) if more else "", len(passed))


# -- order and pages --------------------------------------------------------------------------------------------------


def _order(text: str, fields: Fields[Item]) -> tuple[Callable[[Item], Value] | None, bool]:
    """What the list is sorted by (None: by name, as it is) and whether backwards."""
    if not text.strip():
        return None, False
    found = _ORDER.fullmatch(text.strip()[:_CHARS_MAX])
    if found is None or found["field"] not in fields:
        raise invalid("order_by", f"{text[:80]!r} is not FIELD or FIELD desc; {_known(fields)}")
    descending = found["way"] == "desc"
    return (None if found["field"] == "name" else fields[found["field"]]), descending


def _fingerprint(filter_text: str, order_text: str) -> str:
    digest = hashlib.blake2b(f"{filter_text}\0{order_text}".encode(), digest_size=6).digest()
    return base64.urlsafe_b64encode(digest).decode()


def _token(
    last: Item, asked: str, key: Callable[[Item], Value] | None, name: Callable[[Item], Value]
) -> str:
    place = [asked, key(last) if key is not None else "", name(last)]
    return page_token(json.dumps(place, separators=(",", ":")))


def _start(
    items: Sequence[Item],
    token: str,
    asked: str,
    key: Callable[[Item], Value] | None,
    descending: bool,
    name: Callable[[Item], Value],
) -> int:
    """Where the page begins: after the place the token names, which need not be there any more."""
    text = page_key(token)
    if text is None:
        return 0
    try:
        before, value, last = json.loads(text)
    except (ValueError, TypeError):
        raise invalid("page_token", "belongs to another list; leave it empty") from None
    if before != asked or not isinstance(last, str):
        raise invalid("page_token", "belongs to another filter or order; leave it empty")

    def beyond(item: Item) -> bool:
        own: Any = key(item) if key is not None else ""
        if type(own) is not type(value):
            raise invalid("page_token", "belongs to another list; leave it empty")
        if own != value:
            return bool(own < value if descending else own > value)
        if key is None and descending:
            return str(name(item)) < last
        return str(name(item)) > last

    return next((place for place, item in enumerate(items) if beyond(item)), len(items))


# -- filters ----------------------------------------------------------------------------------------------------------


def _conditions(
    text: str, fields: Fields[Item], labels: Callable[[Item], Mapping[str, str]]
) -> list[_Test[Item]]:
    if len(text) > _CHARS_MAX:
        raise invalid("filter", f"longer than {_CHARS_MAX} characters")
    tests: list[_Test[Item]] = []
    position = 0
    while position < len(text) and text[position:].strip():
        if tests:
            joined = _AND.match(text, position)
            if joined is None:
                raise invalid("filter", f"{text[position:][:40]!r}: join conditions by AND")
            position = joined.end()
        found = _CONDITION.match(text, position)
        if found is None:
            raise invalid("filter", f"{text[position:][:40]!r} is not FIELD OPERATOR VALUE")
        tests.append(_test(found, fields, labels))
        position = found.end()
        if len(tests) > _CONDITIONS_MAX:
            raise invalid("filter", f"more than {_CONDITIONS_MAX} conditions")
    return tests


def _test(
    found: re.Match[str], fields: Fields[Item], labels: Callable[[Item], Mapping[str, str]]
) -> _Test[Item]:
    field, operator, value = found["field"], found["operator"], _plain(found["value"])
    if field.startswith(_LABELS):
        key = field.removeprefix(_LABELS)
        return _compared(lambda item: labels(item).get(key, ""), operator, value, field)
    read = fields.get(field)
    if read is None:
        raise invalid("filter", f"no field {field!r}; {_known(fields)}, labels.KEY")
    return _compared(read, operator, value, field)


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


def _compared(read: Callable[[Item], Value], operator: str, text: str, field: str) -> _Test[Item]:
    def test(item: Item) -> bool:
        own = read(item)
        if operator == ":":
            return text in str(own)
        return _COMPARE[operator](own, _like(own, text, field))

    return test


def _like(own: Value, text: str, field: str) -> Value:
    """``text`` as a value of the kind that the field has. Raises ``ApiError``."""
    if isinstance(own, bool):
        if text not in ("true", "false"):
            raise invalid("filter", f"{field} is true or false, not {text[:40]!r}")
        return text == "true"
    if isinstance(own, int):
        if re.fullmatch(r"-?[0-9]{1,19}", text) is None:
            raise invalid("filter", f"{field} is a number, not {text[:40]!r}")
        return int(text)
    return text


# Any: both sides are of one kind, which _like saw to.
_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": lambda own, value: own == value,
    "!=": lambda own, value: own != value,
    "<": lambda own, value: own < value,
    "<=": lambda own, value: own <= value,
    ">": lambda own, value: own > value,
    ">=": lambda own, value: own >= value,
}


def _known(fields: Mapping[str, object]) -> str:
    return f"known are {', '.join(sorted(fields))}"
