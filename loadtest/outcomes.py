"""Outcomes of a load test: model x call x errno x reason, OOM kills, transport failures.

Pure bookkeeping, mergeable: a Locust worker drains its table into each report to the master, the master merges them, so
the sums do not depend on how many workers there were.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["BAD_ERRNOS", "OK", "OOM_KILLED", "USUAL_ERRNOS", "CallOutcome", "OutcomeTable"]

OK: Final = "OK"
OOM_KILLED: Final = "CALLER_KILLED"
# Verdicts that say a host ran out of something.
BAD_ERRNOS: Final = frozenset({"EPERM", "ENOMEM", "E2BIG", "ENOSPC", "EINTR"})
# The everyday answers of churn: what is looked up or taken away is not there, what is added is there already.
USUAL_ERRNOS: Final = ("ENOENT", "EEXIST")


@dataclass(frozen=True, slots=True, order=True)
class CallOutcome:
    """One cell of the table: what a call came to under a model. ``errno`` is OK or Linux's name."""

    model: str
    call: str
    errno: str
    reason: str

    @property
    def request_name(self) -> str:
        """The row of Locust's own table this outcome is counted in."""
        return f"{self.model} {self.call} {self.errno}"

    @property
    def is_bad(self) -> bool:
        """Whether a host ran out of something here."""
        return self.errno in BAD_ERRNOS


class OutcomeTable:
    """What happened so far. ``calls`` counts system calls, ``elements`` the map elements they moved."""

    def __init__(self) -> None:
        self.calls: Counter[CallOutcome] = Counter()
        self.elements: Counter[str] = Counter()
        self.oom_kills: Counter[str] = Counter()
        self.transport: Counter[tuple[str, str]] = Counter()

    def record(self, outcome: CallOutcome, *, count: int = 1, elements: int = 0) -> None:
        """Count a verdict of the emulated kernel."""
        self.calls[outcome] += count
        self.elements[outcome.model] += elements

    def record_transport_failure(self, model: str, code: str) -> None:
        """Count a failure of the cluster itself, apart from verdicts."""
        self.transport[model, code] += 1

    def record_oom_kills(self, model: str, count: int) -> None:
        """Count OOM kills seen in the event streams of a model's nodes."""
        self.oom_kills[model] += count

    @property
    def models(self) -> list[str]:
        """Every model seen, in name order."""
        seen = {outcome.model for outcome in self.calls}
        return sorted(seen | set(self.oom_kills) | {model for model, _ in self.transport})

    def drain(self) -> dict[str, Any]:
        """The table as plain data, and an empty table left behind: nothing is reported twice."""
        data = self.as_data()
        self.clear()
        return data

    def clear(self) -> None:
        """Forget everything."""
        for counter in (self.calls, self.elements, self.oom_kills, self.transport):
            counter.clear()

    def as_data(self) -> dict[str, Any]:
        """Plain lists and numbers, as ``merge`` takes them."""
        return {
            "calls": [[*_cell(o), n] for o, n in sorted(self.calls.items())],
            "elements": dict(self.elements),
            "oom_kills": dict(self.oom_kills),
            "transport": [[model, code, n] for (model, code), n in sorted(self.transport.items())],
        }

    def merge(self, data: Mapping[str, Any]) -> None:
        """Add what another table drained."""
        for model, call, errno, reason, count in data["calls"]:
            self.calls[CallOutcome(model, call, errno, reason)] += count
        self.elements.update(data["elements"])
        self.oom_kills.update(data["oom_kills"])
        for model, code, count in data["transport"]:
            self.transport[model, code] += count

    def errno_count(self, model: str, errno: str) -> int:
        """Calls under ``model`` that came to ``errno``."""
        return sum(n for o, n in self.calls.items() if o.model == model and o.errno == errno)

    def call_count(self, model: str) -> int:
        """System calls under ``model``."""
        return sum(n for o, n in self.calls.items() if o.model == model)

    def bad_count(self, model: str) -> int:
        """Calls under ``model`` where a host ran out of something."""
        return sum(n for o, n in self.calls.items() if o.model == model and o.is_bad)

    @property
    def transport_failures(self) -> int:
        """Failures of the cluster itself, over all models."""
        return self.transport.total()

    def request_names(self, model: str) -> set[str]:
        """The rows of Locust's table that the calls under ``model`` are counted in."""
        return {outcome.request_name for outcome in self.calls if outcome.model == model}

    def summary(self) -> list[dict[str, Any]]:
        """One row per model, side by side."""
        return [self._summary_of(model) for model in self.models]

    def _summary_of(self, model: str) -> dict[str, Any]:
        errnos: Counter[str] = Counter()
        for outcome, count in self.calls.items():
            if outcome.model == model:
                errnos[outcome.errno] += count
        return {
            "model": model,
            "calls": errnos.total(),
            "elements": self.elements[model],
            "errnos": dict(sorted(errnos.items())),
            "bad_share": self.bad_count(model) / max(errnos.total(), 1),
            "oom_kills": self.oom_kills[model],
            "transport_failures": sum(n for (m, _), n in self.transport.items() if m == model),
        }

    def rows(self) -> Iterable[tuple[str, str, str, str, int]]:
        """model, call, errno, reason, count in order."""
        return [(*_cell(outcome), count) for outcome, count in sorted(self.calls.items())]

    def as_csv(self) -> str:
        """The rows with a header line; OOM kills and transport failures have calls of their own."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("model", "call", "errno", "reason", "count"))
        writer.writerows(self.rows())
        for model, count in sorted(self.oom_kills.items()):
            writer.writerow((model, "oom_kill", "", "", count))
        for (model, code), count in sorted(self.transport.items()):
            writer.writerow((model, "transport", code, "", count))
        return text.getvalue()


def _cell(outcome: CallOutcome) -> tuple[str, str, str, str]:
    return (outcome.model, outcome.call, outcome.errno, outcome.reason)
