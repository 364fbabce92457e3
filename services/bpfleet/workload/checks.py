"""What a field of a declaration may hold. Each check raises ``SpecError`` naming the field."""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

from bpfleet.abi.bpf import BPF_OBJ_NAME_LEN, MapType
from bpfleet.workload.errors import SpecError
from bpfleet.workload.names import (
    LABEL_KEY_RULE,
    LABEL_VALUE_RULE,
    LABELS_MAX,
    NAME_RULE,
    is_label_key,
    is_label_value,
    is_name,
)

__all__ = [
    "check_cgroup",
    "check_entries",
    "check_label_key",
    "check_label_value",
    "check_labels",
    "check_map_type",
    "check_member",
    "check_name",
    "check_object_name",
    "check_optional",
    "check_range",
    "check_share",
]

CGROUP_PATH_CHARS_MAX: Final = 4096

_RECORD: Final = "declaration"
_OBJECT_NAME: Final = re.compile(r"[A-Za-z0-9_.]{0,15}")


def check_range(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpecError(_RECORD, name, value, "not a whole number", "write an integer")
    if not low <= value <= high:
        raise SpecError(_RECORD, name, value, "out of range", f"use {low} to {high}")


def check_optional(name: str, value: int | None, low: int, high: int) -> None:
    if value is not None:
        check_range(name, value, low, high)


def check_share(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise SpecError(_RECORD, name, value, "not a share", "use a number from 0 to 1")


def check_member(name: str, value: object, kind: type[StrEnum]) -> None:
    if not isinstance(value, kind):
        known = ", ".join(member.value for member in kind)
        raise SpecError(_RECORD, name, value, "unknown", f"use one of {known}")


def check_map_type(value: object) -> None:
    if not isinstance(value, MapType) or value is MapType.UNSPEC:
        raise SpecError(_RECORD, "map_type", value, "unknown map type", "use bpftool's name")


def check_name(name: str, value: object) -> None:
    if not isinstance(value, str) or not is_name(value):
        raise SpecError(_RECORD, name, value, "not a name", f"use {NAME_RULE}")


def check_cgroup(name: str, path: str) -> None:
    """Empty, or a path that mkdir(2) would take."""
    if path and (not path.startswith("/") or len(path) > CGROUP_PATH_CHARS_MAX):
        raise SpecError(
            _RECORD,
            name,
            path,
            "not a cgroup path",
            f"start it with '/', at most {CGROUP_PATH_CHARS_MAX} characters",
        )


def check_label_key(name: str, value: object) -> None:
    if not isinstance(value, str) or not is_label_key(value):
        raise SpecError(_RECORD, name, value, "not a label key", f"use {LABEL_KEY_RULE}")


def check_label_value(name: str, value: object) -> None:
    if not isinstance(value, str) or not is_label_value(value):
        raise SpecError(_RECORD, name, value, "not a label value", f"use {LABEL_VALUE_RULE}")


def check_labels(name: str, labels: Mapping[str, str]) -> None:
    """Refuses labels that are none, and too many. Raises ``SpecError`` naming the field ``name``."""
    check_entries(name, labels)
    for key, value in labels.items():
        check_label_key(name, key)
        check_label_value(f"{name}.{key}", value)


def check_entries(name: str, entries: Sequence[object] | Mapping[str, str]) -> None:
    if len(entries) > LABELS_MAX:
        problem = f"{len(entries)} entries are too many"
        raise SpecError(_RECORD, name, None, problem, f"use at most {LABELS_MAX}")


def check_object_name(name: str, value: object) -> None:
    if not isinstance(value, str) or _OBJECT_NAME.fullmatch(value) is None:
        raise SpecError(
            _RECORD,
            name,
            value,
            "not a BPF object name",
            f"use at most {BPF_OBJ_NAME_LEN - 1} of A-Z, a-z, 0-9, '_' and '.'",
        )
