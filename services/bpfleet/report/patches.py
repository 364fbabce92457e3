"""Limits of an answer as patches: systemd drop-ins, Kubernetes strategic-merge patches, a Compose override. Pure."""

import re
from collections.abc import Iterable
from typing import Final

from bpfleet.report.answer import AnswerRow, with_head_room

__all__ = ["patch_files"]

_UNIT: Final = re.compile(r"\.(service|scope|slice|socket)$")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._@-]+")
_NEEDS_CHANGE: Final = frozenset({"fails anew", "may fail"})
_MIB: Final = 1 << 20


def patch_files(rows: Iterable[AnswerRow]) -> dict[str, str]:
    """Texts by file name, for the rows that need another limit than they have."""
    files: dict[str, str] = {}
    services: list[str] = []
    for row in rows:
        if row.change not in _NEEDS_CHANGE:
            continue
        name = _UNSAFE.sub("-", row.container).strip("-.") or "container"
        unit = _unit(row)
        if unit:
            files[f"systemd/{_UNSAFE.sub('-', unit)}.d/50-bpfleet.conf"] = _drop_in(unit, row)
        elif "kubepods" in row.path and row.set_limit == "memory.max":
            files[f"kubernetes/{name}.yaml"] = _kubernetes(name, row)
        else:
            services += _service(name, row)
    if services:
        files["compose.override.yml"] = "\n".join(["services:", *services, ""])
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
    setting = "MemoryMax" if row.set_limit == "memory.max" else "LimitMEMLOCK"
    section = (
        "Slice" if unit.endswith(".slice") else "Scope" if unit.endswith(".scope") else "Service"
    )
    limit = row.set_bytes if unit != row.container else _own_bytes(row)
    return f"# {_reason(row)}\n[{section}]\n{setting}={limit}\n"


def _kubernetes(name: str, row: AnswerRow) -> str:
    """The name of the workload is not in a cgroup's path: the process's name stands for it, to be corrected."""
    return (
        f"# {_reason(row)}\n"
        "# kind and names are those of the process: a cgroup's path does not tell the workload's own\n"
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata:\n"
        f"  name: {name}\nspec:\n  template:\n    spec:\n      containers:\n        - name: {name}\n"
        f"          resources:\n            limits:\n              memory: {_own_bytes(row) // _MIB}Mi\n"
    )


def _service(name: str, row: AnswerRow) -> list[str]:
    lines = [f"  # {_reason(row)}", f"  {name}:"]
    if row.set_limit == "memory.max":
        return [*lines, f"    mem_limit: {_own_bytes(row)}"]
    return [*lines, "    ulimits:", f"      memlock: {row.set_bytes}"]
