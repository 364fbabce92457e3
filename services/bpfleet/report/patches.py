"""Limits as they are pasted: systemd drop-ins, Kubernetes strategic-merge patches, Compose overrides. Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from bpfleet.report.answer import AnswerRow, with_head_room

__all__ = ["compose_override", "kubernetes_patch", "patch_files", "systemd_drop_in"]

_UNIT: Final = re.compile(r"\.(service|scope|slice|socket)$")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._@-]+")
_NEEDS_CHANGE: Final = frozenset({"fails anew", "may fail"})
_MIB: Final = 1 << 20
_MEMORY_MAX: Final = "memory.max"


def patch_files(rows: Iterable[AnswerRow]) -> dict[str, str]:
    """Texts by file name, for the rows that need another limit than they have."""
    files: dict[str, str] = {}
    services: dict[str, list[tuple[str, int, str]]] = {}
    for row in rows:
        if row.change not in _NEEDS_CHANGE:
            continue
        name = _UNSAFE.sub("-", row.container).strip("-.") or "container"
        unit = _unit(row)
        if unit:
            files[f"systemd/{_UNSAFE.sub('-', unit)}.d/50-bpfleet.conf"] = _drop_in(unit, row)
        elif "kubepods" in row.path and row.set_limit == _MEMORY_MAX:
            files[f"kubernetes/{name}.yaml"] = _kubernetes(name, row)
        else:
            services.setdefault(name, []).append(_service(row))
    if services:
        files["compose.override.yml"] = compose_override(services)
    return files


def _unit(row: AnswerRow) -> str:
    """The unit whose limit decides: the container's, or one above it that is not the kubelet's; empty if neither."""
    above = row.limit_path.rpartition("/")[2]
    if _is_shared(row) and _UNIT.search(above) and "kubepods" not in row.path:
        return above
    return row.container if _UNIT.search(row.container) else ""


def _is_shared(row: AnswerRow) -> bool:
    return row.limit_path not in ("", row.path)


def _own_bytes(row: AnswerRow) -> int:
    """What the container itself needs, where the limit that decides is one it shares."""
    return with_head_room(row.need_bytes) if _is_shared(row) else row.set_bytes


def _reason(row: AnswerRow) -> str:
    shared = f"; {row.limit_path} needs memory.max {row.set_bytes}" if _is_shared(row) else ""
    return f"{row.why or row.change}; decided by {row.decides}{shared}"


def _drop_in(unit: str, row: AnswerRow) -> str:
    limit = row.set_bytes if unit != row.container else _own_bytes(row)
    return systemd_drop_in(unit, row.set_limit, limit, _reason(row))


def systemd_drop_in(unit: str, setting: str, limit_bytes: int, reason: str) -> str:
    """A drop-in for ``unit``; ``setting`` is ``memory.max`` or the process limit ``LimitMEMLOCK``."""
    directive = "MemoryMax" if setting == _MEMORY_MAX else "LimitMEMLOCK"
    section = (
        "Slice" if unit.endswith(".slice") else "Scope" if unit.endswith(".scope") else "Service"
    )
    return f"# {reason}\n[{section}]\n{directive}={limit_bytes}\n"


def _kubernetes(name: str, row: AnswerRow) -> str:
    """The name of the workload is not in a cgroup's path: the process's name stands for it, to be corrected."""
    note = (
        "kind and names are those of the process: a cgroup's path does not tell the workload's own"
    )
    return kubernetes_patch(name, _own_bytes(row), _reason(row), note)


def kubernetes_patch(name: str, limit_bytes: int, *comments: str) -> str:
    """A strategic-merge patch that sets the memory limit of container ``name`` of DaemonSet ``name``, in whole Mi."""
    head = "".join(f"# {comment}\n" for comment in comments)
    return (
        f"{head}apiVersion: apps/v1\nkind: DaemonSet\nmetadata:\n"
        f"  name: {name}\nspec:\n  template:\n    spec:\n      containers:\n        - name: {name}\n"
        f"          resources:\n            limits:\n              memory: {-(-limit_bytes // _MIB)}Mi\n"
    )


def _service(row: AnswerRow) -> tuple[str, int, str]:
    limit = _own_bytes(row) if row.set_limit == _MEMORY_MAX else row.set_bytes
    return row.set_limit, limit, _reason(row)


def compose_override(services: Mapping[str, Iterable[tuple[str, int, str]]]) -> str:
    """A Compose file that sets limits of services: setting, bytes and reason of each, by the service's name."""
    lines = ["services:"]
    for name, limits in services.items():
        lines.append(f"  {name}:")
        for setting, limit_bytes, reason in limits:
            lines.append(f"    # {reason}")
            if setting == _MEMORY_MAX:
                lines.append(f"    mem_limit: {limit_bytes}")
            else:
                lines += ["    ulimits:", f"      memlock: {limit_bytes}"]
    return "\n".join([*lines, ""])
