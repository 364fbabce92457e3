"""Limits of an answer as patches: systemd drop-ins, Kubernetes strategic-merge patches, a Compose override. Pure."""

import re
from collections.abc import Iterable
from typing import Final

from bpfleet.report.answer import AnswerRow

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
        if _UNIT.search(row.container):
            files[f"systemd/{name}.d/50-bpfleet.conf"] = _drop_in(row)
        elif "kubepods" in row.path and row.set_limit == "memory.max":
            files[f"kubernetes/{name}.yaml"] = _kubernetes(name, row)
        else:
            services += _service(name, row)
    if services:
        files["compose.override.yml"] = "\n".join(["services:", *services, ""])
    return files


def _drop_in(row: AnswerRow) -> str:
    setting = "MemoryMax" if row.set_limit == "memory.max" else "LimitMEMLOCK"
    section = (
        "Slice"
        if row.container.endswith(".slice")
        else "Scope"
        if row.container.endswith(".scope")
        else "Service"
    )
    return f"# {row.why or row.change}; decided by {row.decides}\n[{section}]\n{setting}={row.set_bytes}\n"


def _kubernetes(name: str, row: AnswerRow) -> str:
    """The name of the workload is not in a cgroup's path: the process's name stands for it, to be corrected."""
    return (
        f"# {row.why or row.change}; decided by {row.decides}\n"
        "# kind and names are those of the process: a cgroup's path does not tell the workload's own\n"
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata:\n"
        f"  name: {name}\nspec:\n  template:\n    spec:\n      containers:\n        - name: {name}\n"
        f"          resources:\n            limits:\n              memory: {row.set_bytes // _MIB}Mi\n"
    )


def _service(name: str, row: AnswerRow) -> list[str]:
    lines = [f"  # {row.why or row.change}; decided by {row.decides}", f"  {name}:"]
    if row.set_limit == "memory.max":
        return [*lines, f"    mem_limit: {row.set_bytes}"]
    return [*lines, "    ulimits:", f"      memlock: {row.set_bytes}"]
