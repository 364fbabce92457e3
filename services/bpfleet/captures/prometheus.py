"""Answers of Prometheus' HTTP API: what containers were seen to use, and how full maps were. Pure.

Read are instant and range queries (``/api/v1/query``, ``/api/v1/query_range``), of a range the highest value.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from msgspec import Struct, field

from bpfleet.plain import json_value
from bpfleet.workload.errors import SpecError

__all__ = ["Seen", "read_answers"]

# JSON values of any type.
Plain = Any

_HEAP: Final = "container_memory_rss"
# Best first: what the OOM killer would look at.
_USED: Final = ("container_memory_working_set_bytes", "container_memory_usage_bytes")
_PRESSURE: Final = "cilium_bpf_map_pressure"
_NAME_LENGTH: Final = 15
_FORM: Final = "use the JSON of /api/v1/query or /api/v1/query_range"
_BYTES_MAX: Final = 1 << 50


class Seen(Struct, frozen=True, kw_only=True):
    """The highest values, bytes: by (namespace, pod, container) the anonymous memory and all that counts against
    memory.max; by map of Cilium the share of its entries in use.
    """

    heap_bytes: dict[tuple[str, str, str], int] = field(default_factory=dict)
    used_bytes: dict[tuple[str, str, str], int] = field(default_factory=dict)
    pressure: dict[str, float] = field(default_factory=dict)


def read_answers(texts: Iterable[tuple[str, str | bytes]]) -> Seen:
    """What the answers tell, each given as its file's name and its text. Raises ``SpecError``."""
    seen = Seen()
    ranks: dict[tuple[str, str, str], int] = {}
    for source, text in texts:
        for position, (metric, value) in enumerate(_series(source, text)):
            name = metric.get("__name__", "")
            container = (
                str(metric.get("namespace", "")),
                str(metric.get("pod", "")),
                str(metric.get("container", "")),
            )
            if name == _PRESSURE:
                key = str(metric.get("map_name", ""))[:_NAME_LENGTH]
                seen.pressure[key] = min(1.0, max(value, seen.pressure.get(key, 0.0)))
            elif name == _HEAP and container[2]:
                size = _bytes(value, source, position)
                seen.heap_bytes[container] = max(size, seen.heap_bytes.get(container, 0))
            elif name in _USED and container[2]:
                size, rank = _bytes(value, source, position), _USED.index(name)
                if rank < ranks.get(container, len(_USED)):
                    ranks[container], seen.used_bytes[container] = rank, 0
                if rank == ranks[container]:
                    seen.used_bytes[container] = max(size, seen.used_bytes[container])
    return seen


def _series(source: str, text: str | bytes) -> Iterator[tuple[Mapping[str, Plain], float]]:
    """Labels and the highest value of every series."""
    try:
        data = json_value(text)
    except ValueError as error:
        raise SpecError(source, "", None, str(error), _FORM) from None
    if not isinstance(data, Mapping) or data.get("status") != "success":
        raise SpecError(source, "status", None, "not a successful answer", _FORM)
    body = data.get("data")
    result = body.get("result") if isinstance(body, Mapping) else None
    if not isinstance(result, list):
        raise SpecError(source, "data.result", None, "not a list of series", _FORM)
    for position, each in enumerate(result):
        where = f"data.result[{position}]"
        if not isinstance(each, Mapping) or not isinstance(each.get("metric"), Mapping):
            raise SpecError(source, where, None, "not a series", _FORM)
        samples = each.get("values", [each["value"]] if "value" in each else [])
        yield each["metric"], max((_value(s, source, where) for s in samples), default=0.0)


def _value(sample: Plain, source: str, where: str) -> float:
    try:
        _, text = sample
        number = float(text)
    except (TypeError, ValueError):
        raise SpecError(source, where, sample, "not a pair of time and number", _FORM) from None
    return 0.0 if math.isnan(number) else number


def _bytes(value: float, source: str, position: int) -> int:
    if not 0 <= value <= _BYTES_MAX:
        raise SpecError(
            source, f"data.result[{position}]", value, "out of range", "bytes up to 1 PiB"
        )
    return int(value)
