"""Limits to set, a row each: of an application, a listing, a workload of a scenario or captured hosts."""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from bpfleet.report.answer import Answer
from bpfleet.report.limits import PARTS, LimitAdvice
from bpfleet.report.patches import compose_override, kubernetes_patch, systemd_drop_in
from bpfleet.runtime.profiles import profile_from
from bpfleet.workload.quantity import format_bytes

__all__ = ["LIMIT_FORMS", "LimitRow", "limit_text", "rows_of_advice", "rows_of_answer"]

MEMORY_MAX: Final = "memory.max"
MEMLOCK: Final = "LimitMEMLOCK"
LIMIT_FORMS: Final = ("kubernetes", "systemd", "compose")


class LimitRow(Struct, frozen=True, kw_only=True):
    """One limit of one container on one shape of host under one kernel; bytes.

    ``setting`` is memory.max or LimitMEMLOCK (RLIMIT_MEMLOCK of the process). ``least_bytes`` is what it passes with,
    None where nothing does or it was not searched for; ``recommended_bytes`` has head room. ``parts`` add up to the
    need. ``confidence`` says how sure the kernel is, and what was not measured.
    """

    name: str
    host: str
    kernel: str
    setting: str
    least_bytes: int | None
    recommended_bytes: int
    now_bytes: int | None
    decided_by: str
    parts: dict[str, int]
    confidence: str


def rows_of_advice(advice: LimitAdvice, *, heap_source: str) -> tuple[LimitRow, ...]:
    """memory.max, and RLIMIT_MEMLOCK where the kernel consults it. ``heap_source`` says who told the heap."""
    shape, known_by = advice.shape, profile_from(advice.model).known_by
    host = f"{shape.possible_cpus} CPUs, {format_bytes(shape.ram_bytes)}"
    largest = max(range(len(PARTS)), key=lambda n: advice.parts_bytes[n])
    memory = LimitRow(
        name=advice.workload,
        host=host,
        kernel=advice.model,
        setting=MEMORY_MAX,
        least_bytes=advice.least_bytes,
        recommended_bytes=max(advice.recommended_bytes, advice.least_bytes or 0),
        now_bytes=advice.now_bytes,
        decided_by=f"{PARTS[largest]} {format_bytes(advice.parts_bytes[largest])}",
        parts=dict(zip(PARTS, advice.parts_bytes, strict=True)),
        confidence=f"kernel {known_by}; {heap_source}",
    )
    if not advice.locked_bytes:
        return (memory,)
    locked = LimitRow(
        name=advice.workload,
        host=host,
        kernel=advice.model,
        setting=MEMLOCK,
        least_bytes=advice.locked_bytes,
        recommended_bytes=advice.recommended_memlock_bytes,
        now_bytes=None,
        decided_by=f"precharge {format_bytes(advice.locked_bytes)}",
        parts={"precharge": advice.locked_bytes},
        confidence=f"kernel {known_by}; all processes of the user share it",
    )
    return memory, locked


def rows_of_answer(answer: Answer) -> tuple[LimitRow, ...]:
    """One row per kind of container of captured hosts, where it is worst."""
    return tuple(
        LimitRow(
            name=row.container,
            host=row.host,
            kernel=row.target,
            setting=row.set_limit,
            least_bytes=row.need_bytes,
            recommended_bytes=row.set_bytes,
            now_bytes=row.limit_bytes,
            decided_by=row.decides,
            parts={},
            confidence=(
                f"kernel {answer.targets[row.target]}; today is reproduced for {row.reproduced} of {row.containers}"
                f"{'' if row.limit_path in ('', row.path) else f'; limit of {row.limit_path}'}"
            ),
        )
        for row in answer.rows
    )


def limit_text(rows: Iterable[LimitRow], form: str) -> str:
    """The limits ready to paste; ``form`` is one of ``LIMIT_FORMS``."""
    if form == "compose":
        services: dict[str, list[tuple[str, int, str]]] = {}
        for row in rows:
            limit = (row.setting, row.recommended_bytes, _reason(row))
            services.setdefault(row.name, []).append(limit)
        return compose_override(services)
    if form == "systemd":
        return "\n".join(
            systemd_drop_in(f"{row.name}.service", row.setting, row.recommended_bytes, _reason(row))
            for row in rows
        )
    return "---\n".join(map(_kubernetes, rows))


def _reason(row: LimitRow) -> str:
    return f"{row.name} under {row.kernel} on {row.host}: {row.decided_by}; {row.confidence}"


def _kubernetes(row: LimitRow) -> str:
    if row.setting == MEMORY_MAX:
        return kubernetes_patch(row.name, row.recommended_bytes, _reason(row))
    return (
        f"# {_reason(row)}\n# Kubernetes has no field for RLIMIT_MEMLOCK: the program raises it, or the container"
        f" runtime's unit has LimitMEMLOCK={row.recommended_bytes} or more\n"
    )
