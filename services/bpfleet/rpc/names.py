"""Names of resources: the only place that builds and parses ``nodes/{node}/maps/{map_id}`` and its kin."""

import re
from typing import Final, NamedTuple

from bpfleet.rpc.errors import invalid
from bpfleet.workload.names import (
    LABEL_KEY_RULE,
    LABEL_VALUE_RULE,
    NAME_RULE,
    is_label_key,
    is_label_value,
    is_name,
)

__all__ = [
    "ProcessName",
    "label_key",
    "label_value",
    "map_name",
    "node_id",
    "node_name",
    "process_id",
    "process_name",
    "program_name",
    "workload_id",
    "workload_name",
]

_PROCESS: Final = re.compile(r"nodes/([^/]+)/processes/([1-9][0-9]{0,9})")
_SHOWN_CHARS_MAX: Final = 80


class ProcessName(NamedTuple):
    """A process and the node it is on."""

    node: str
    pid: int


def node_name(node: str) -> str:
    """``nodes/{node}``."""
    return f"nodes/{node}"


def map_name(node: str, map_id: int) -> str:
    """``nodes/{node}/maps/{map_id}``."""
    return f"nodes/{node}/maps/{map_id}"


def program_name(node: str, program_id: int) -> str:
    """``nodes/{node}/programs/{program_id}``."""
    return f"nodes/{node}/programs/{program_id}"


def process_name(node: str, pid: int) -> str:
    """``nodes/{node}/processes/{pid}``."""
    return f"nodes/{node}/processes/{pid}"


def workload_name(workload: str) -> str:
    """``workloads/{workload}``."""
    return f"workloads/{workload}"


def node_id(text: str, field: str = "node") -> str:
    """The id in ``nodes/{node}``, or ``text`` itself where it is a bare id. Raises ``ApiError`` naming ``field``."""
    return _bare(text, "nodes/", field)


def workload_id(text: str, field: str = "name") -> str:
    """The id in ``workloads/{workload}`` or a bare id. Raises ``ApiError`` naming ``field``."""
    return _bare(text, "workloads/", field)


def process_id(text: str, field: str = "name") -> ProcessName:
    """Node and pid in ``nodes/{node}/processes/{pid}``. Raises ``ApiError`` naming ``field``."""
    match = _PROCESS.fullmatch(text)
    if match is None or int(match[2]) > 2**31 - 1:
        raise invalid(field, f"{_shown(text)} is not a process; write nodes/NODE/processes/PID")
    return ProcessName(_bare(match[1], "nodes/", field), int(match[2]))


def _bare(text: str, collection: str, field: str) -> str:
    bare = text.removeprefix(collection)
    if not is_name(bare):
        raise invalid(field, f"{_shown(text)} is not a name; write {collection}ID, ID {NAME_RULE}")
    return bare


def label_key(key: str, field: str) -> str:
    """``key``, where it may be the key of a label or a taint. Raises ``ApiError`` naming ``field``."""
    if not is_label_key(key):
        raise invalid(field, f"{_shown(key)} is not a label key; use {LABEL_KEY_RULE}")
    return key


def label_value(value: str, field: str) -> str:
    """``value``, where it may be the value of a label or a taint. Raises ``ApiError`` naming ``field``."""
    if not is_label_value(value):
        raise invalid(field, f"{_shown(value)} is not a label value; use {LABEL_VALUE_RULE}")
    return value


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS_MAX else text[:_SHOWN_CHARS_MAX] + "…")
