"""The same comparison under several seeds: means and 95 % confidence intervals where the seed
matters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Final

from msgspec.structs import replace

from bpfleet.report.compare import Comparison
from bpfleet.report.summary import ROWS, Row
from bpfleet.workload.quantity import format_bytes
from bpfleet.workload.scenario import Scenario

__all__ = [
    "REPETITIONS_MAX",
    "Interval",
    "interval_cells",
    "interval_rows",
    "intervals_data",
    "repeat",
]

# JSON values of any type.
Plain = Any

REPETITIONS_MAX: Final = 1000
# Student's t, two-sided 95 %, for 1 to 30 degrees of freedom; beyond that the normal value is close
# enough.
_STUDENT_T: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL: Final = 1.96


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and half the width of its 95 % confidence interval (0 where the seed changes nothing)."""

    mean: float
    half_width: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """The interval of the mean of ``values``, at least one."""
        count = len(values)
        mean = sum(values) / count
        if count < 2:
            return cls(mean, 0.0)
        variance = sum((value - mean) ** 2 for value in values) / (count - 1)
        degrees = count - 1
        t = _STUDENT_T[degrees - 1] if degrees <= len(_STUDENT_T) else _NORMAL
        return cls(mean, t * sqrt(variance / count))

    def shown(self, *, is_bytes: bool) -> str:
        """``mean ± half``, or the mean alone where all values were equal."""
        text = format_bytes(round(self.mean)) if is_bytes else _number(self.mean)
        if not self.half_width:
            return text
        half = format_bytes(round(self.half_width)) if is_bytes else _number(self.half_width)
        return f"{text} ± {half}"


def repeat(
    scenario: Scenario, repetitions: int, run: Callable[[Scenario], Comparison]
) -> list[Comparison]:
    """``run`` for the scenario's seed and the ``repetitions`` - 1 that follow it.

    Raises ``ValueError`` where ``repetitions`` is out of range.
    """
    if not 1 <= repetitions <= REPETITIONS_MAX:
        raise ValueError(f"repetitions = {repetitions}: out of range; use 1 to {REPETITIONS_MAX}")
    return [run(replace(scenario, seed=scenario.seed + n)) for n in range(repetitions)]


def interval_rows(results: Sequence[Comparison]) -> list[tuple[Row, list[Interval]]]:
    """For every row of the table, the interval per model."""
    return [
        (
            row,
            [
                Interval.of([row.value(result.totals[index]) for result in results])
                for index in range(len(results[0].models))
            ],
        )
        for row in ROWS
    ]


def interval_cells(results: Sequence[Comparison]) -> list[tuple[Row, list[str]]]:
    """The table over several seeds as text: a cell per model for every row."""
    return [
        (row, [interval.shown(is_bytes=row.is_bytes) for interval in intervals])
        for row, intervals in interval_rows(results)
    ]


def intervals_data(results: Sequence[Comparison]) -> dict[str, Plain]:
    """The same for JSON and for the page."""
    return {
        "seeds": [result.seed for result in results],
        "models": list(results[0].models),
        "rows": [
            {
                "label": row.label,
                "note": row.note,
                "unit": row.unit,
                "mean": [interval.mean for interval in intervals],
                "half_width": [interval.half_width for interval in intervals],
            }
            for row, intervals in interval_rows(results)
        ],
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"
