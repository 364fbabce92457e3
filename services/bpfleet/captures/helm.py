"""Helm values of charts that size BPF maps, as options of the catalogue's applications. Pure."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from bpfleet.workload.errors import SpecError

__all__ = ["CHARTS", "options_of_values"]

# YAML values of any type.
Plain = Any

# Falco's buffer sizes by preset, in bytes [libs: driver buffer presets, 1 MB to 512 MB].
_FALCO_PRESETS: Final = {n: 1 << (19 + n) for n in range(1, 11)}


def _integer(value: Plain, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise SpecError("helm", path, value, "not a number", "write one")
    try:
        number = float(value)
    except ValueError:
        raise SpecError("helm", path, value, "not a number", "write one") from None
    if not 0 <= number <= 1 << 31:
        raise SpecError("helm", path, value, "out of range", "use 0 to 2147483648")
    return int(number)


def _ratio(value: Plain, path: str) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise SpecError("helm", path, value, "not a number", "write one, such as 0.0025") from None
    if not 0 < number <= 1:
        raise SpecError("helm", path, value, "not a share", "use more than 0, up to 1")
    return round(number * 1_000_000)


def _preset(value: Plain, path: str) -> int:
    number = _integer(value, path)
    if number not in _FALCO_PRESETS:
        raise SpecError("helm", path, value, "no such preset", "use 1 to 10")
    return _FALCO_PRESETS[number]


# Chart, then value by its dotted path, then the option it sets and how.
_VALUES: Final[Mapping[str, Mapping[str, tuple[str, Callable[[Plain, str], int]]]]] = {
    "cilium": {
        "bpf.mapDynamicSizeRatio": ("ratio_per_million", _ratio),
        "bpf.ctTcpMax": ("ct_tcp_max", _integer),
        "bpf.ctAnyMax": ("ct_any_max", _integer),
        "bpf.natMax": ("nat_max", _integer),
        "bpf.neighMax": ("neigh_max", _integer),
        "bpf.policyMapMax": ("policy_map_max", _integer),
        "bpf.lbMapMax": ("lb_map_max", _integer),
        "bpf.authMapMax": ("auth_map_max", _integer),
        "bpf.nodeMapMax": ("node_map_max", _integer),
    },
    "falco": {
        "driver.modernEbpf.bufSizePreset": ("buffer_bytes", _preset),
        "driver.modernEbpf.cpusForEachBuffer": ("cpus_for_each_buffer", _integer),
    },
    # The chart sets no size of a map; policies are objects of the cluster.
    "tetragon": {},
}
CHARTS: Final = tuple(_VALUES)


def options_of_values(chart: str, values: Plain) -> dict[str, int]:
    """The options that the values of ``chart`` set; an absent or null value leaves the catalogue's.

    Raises ``SpecError`` naming the value.
    """
    if chart not in _VALUES:
        raise SpecError("helm", "", chart, "no such chart here", f"use one of {', '.join(CHARTS)}")
    if not isinstance(values, Mapping):
        raise SpecError(
            "helm", chart, None, "not a table of values", "give the chart's values.yaml"
        )
    found: dict[str, int] = {}
    for path, (option, read) in _VALUES[chart].items():
        value: Plain = values
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            found[option] = read(value, f"{chart}.{path}")
    return found
