"""Outcomes of a load test: model x call x errno x reason, latencies per model, OOM kills, transport
failures.

Pure bookkeeping, mergeable: a Locust worker drains its table into each report to the master, the
master merges them, so the sums do not depend on how many workers there were.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["BAD_ERRNOS", "OK", "OOM_KILLED", "Latencies", "Outcome", "OutcomeTable"]

OK: Final = "OK"
OOM_KILLED: Final = "CALLER_KILLED"
# Verdicts that say a host ran out of something; ENOENT and EEXIST are the everyday answers of churn.
BAD_ERRNOS: Final = frozenset({"EPERM", "ENOMEM", "E2BIG", "ENOSPC", "EINTR"})
_BUCKETS_PER_DOUBLING: Final = 8


@dataclass(frozen=True, slots=True, order=True)
class Outcome:
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


@dataclass(slots=True)
class Latencies:
    """A histogram of milliseconds with buckets 2^(1/8) apart: percentiles within 9 %."""

    buckets: Counter[int] = field(default_factory=Counter)

    def add(self, milliseconds: float, count: int = 1) -> None:
        """Count ``count`` answers that took ``milliseconds``."""
        self.buckets[_bucket(milliseconds)] += count

    def percentile(self, share: float) -> float | None:
        """Upper bound in milliseconds of the bucket that holds the given share of answers; None
        for an empty histogram.
        """
        left = share * self.buckets.total()
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 1e-9:
                return _upper_bound(bucket)
        return None


def _bucket(milliseconds: float) -> int:
    """Bucket n ends at 2^(n/8) microseconds."""
    microseconds, bucket = max(milliseconds * 1000.0, 1.0), 0
    while _upper_bound(bucket) * 1000.0 < microseconds:
        bucket += _BUCKETS_PER_DOUBLING
    while bucket and _upper_bound(bucket - 1) * 1000.0 >= microseconds:
        bucket -= 1
    return bucket


def _upper_bound(bucket: int) -> float:
    return float(2.0 ** (bucket / _BUCKETS_PER_DOUBLING)) / 1000.0


class OutcomeTable:
    """What happened so far. ``calls`` counts system calls, ``elements`` the map elements they
    moved.
    """

    def __init__(self) -> None:
        self.calls: Counter[Outcome] = Counter()
        self.elements: Counter[str] = Counter()
        self.oom_kills: Counter[str] = Counter()
        self.transport: Counter[tuple[str, str]] = Counter()
        self.latencies: dict[str, Latencies] = {}

    def record(
        self, outcome: Outcome, *, milliseconds: float, count: int = 1, elements: int = 0
    ) -> None:
        """Count a verdict of the emulated kernel and how long its message took."""
        self.calls[outcome] += count
        self.elements[outcome.model] += elements
        self.latencies.setdefault(outcome.model, Latencies()).add(milliseconds, count)

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
        self.latencies.clear()

    def as_data(self) -> dict[str, Any]:
        """Plain lists and numbers, as ``merge`` takes them."""
        return {
            "calls": [[*_cell(o), n] for o, n in sorted(self.calls.items())],
            "elements": dict(self.elements),
            "oom_kills": dict(self.oom_kills),
            "transport": [[model, code, n] for (model, code), n in sorted(self.transport.items())],
            "latencies": {m: sorted(h.buckets.items()) for m, h in self.latencies.items()},
        }

    def merge(self, data: Mapping[str, Any]) -> None:
        """Add what another table drained."""
        for model, call, errno, reason, count in data["calls"]:
            self.calls[Outcome(model, call, errno, reason)] += count
        self.elements.update(data["elements"])
        self.oom_kills.update(data["oom_kills"])
        for model, code, count in data["transport"]:
            self.transport[model, code] += count
        for model, buckets in data["latencies"].items():
            histogram = self.latencies.setdefault(model, Latencies())
            histogram.buckets.update(dict(map(tuple, buckets)))

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

    def summary(self) -> list[dict[str, Any]]:
        """One row per model, side by side: what the web page and the JSON export show."""
        return [self._summary_of(model) for model in self.models]

    def _summary_of(self, model: str) -> dict[str, Any]:
        errnos: Counter[str] = Counter()
        for outcome, count in self.calls.items():
            if outcome.model == model:
                errnos[outcome.errno] += count
        latency = self.latencies.get(model, Latencies())
        return {
            "model": model,
            "calls": errnos.total(),
            "elements": self.elements[model],
            "errnos": dict(sorted(errnos.items())),
            "bad_share": self.bad_count(model) / max(errnos.total(), 1),
            "oom_kills": self.oom_kills[model],
            "transport_failures": sum(n for (m, _), n in self.transport.items() if m == model),
            "p50_ms": latency.percentile(0.50),
            "p95_ms": latency.percentile(0.95),
            "p99_ms": latency.percentile(0.99),
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


def _cell(outcome: Outcome) -> tuple[str, str, str, str]:
    return (outcome.model, outcome.call, outcome.errno, outcome.reason)
