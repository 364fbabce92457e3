"""How a test went over time, per model: calls a second and the share of bad verdicts, for charts. Pure bookkeeping."""

from __future__ import annotations

from typing import Any, Final

from loadtest.outcomes import OutcomeTable

__all__ = ["History"]

_POINTS_MAX: Final = 240


class History:
    """Totals at moments of a test. Where there are many, every second one goes: the whole test stays in sight."""

    def __init__(self) -> None:
        self._moments: list[tuple[float, dict[str, tuple[int, int]]]] = []
        self._every = 1
        self._asked = 0

    def clear(self) -> None:
        """A new test begins."""
        self._moments.clear()
        self._every, self._asked = 1, 0

    def note(self, seconds: float, table: OutcomeTable) -> None:
        """What was counted until ``seconds`` after the start."""
        self._asked += 1
        if (self._asked - 1) % self._every:
            return
        counts = {
            model: (table.call_count(model), table.bad_count(model)) for model in table.models
        }
        self._moments.append((seconds, counts))
        if len(self._moments) > _POINTS_MAX:
            del self._moments[1::2]
            self._every *= 2

    def as_data(self) -> dict[str, Any]:
        """``seconds``, and per model ``calls_per_second`` and ``bad_share`` of the time before each of them.

        None where nothing was called.
        """
        models = sorted({model for _, counts in self._moments for model in counts})
        pairs = list(zip(self._moments, self._moments[1:], strict=False))
        return {
            "seconds": [round(seconds, 1) for _, (seconds, _) in pairs],
            "models": {model: _between(pairs, model) for model in models},
        }


_Moment = tuple[float, dict[str, tuple[int, int]]]


def _between(pairs: list[tuple[_Moment, _Moment]], model: str) -> dict[str, list[float | None]]:
    rates: list[float | None] = []
    shares: list[float | None] = []
    for (start, before), (end, after) in pairs:
        calls_before, bad_before = before.get(model, (0, 0))
        calls, bad = after.get(model, (0, 0))
        made = calls - calls_before
        rates.append(round(made / (end - start), 1) if end > start else None)
        shares.append(round((bad - bad_before) / made, 4) if made > 0 else None)
    return {"calls_per_second": rates, "bad_share": shares}
