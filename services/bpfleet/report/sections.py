"""Sections of the page that need runs of their own: limits per workload, and charge by CPU count."""

from typing import Any

from bpfleet.report.compare import Comparison
from bpfleet.report.limit_rows import LimitRow, rows_of_advice
from bpfleet.report.limits import advice_data, advise_all
from bpfleet.report.models import OWN
from bpfleet.report.sensitivity import cpu_data
from bpfleet.report.workers import workers
from bpfleet.workload.scenario import Scenario

__all__ = ["limits_of_workloads", "memcg_model", "study"]

# JSON values of any type.
Plain = Any


def memcg_model(comparison: Comparison) -> str | None:
    """The last model of the comparison that charges cgroups, a release rather than a variant; limits are for it."""
    found = [totals.model for totals in comparison.totals if totals.kind == "memcg"]
    releases = [model for model in found if ":" not in model and model != OWN]
    chosen = releases or found
    return chosen[-1] if chosen else None


def study(
    scenario: Scenario,
    comparison: Comparison,
    *,
    jobs: int,
) -> dict[str, Plain]:
    """The data of both sections. Results do not depend on ``jobs``."""
    charging = [t.model for t in comparison.totals if t.kind != "none" and t.model != OWN]
    model = memcg_model(comparison)
    sections: dict[str, Plain] = {}
    with workers(jobs) as each:
        if charging:
            sections["cpus"] = cpu_data(scenario, charging, each)
        if model is not None:
            sections["limits"] = advice_data(advise_all(scenario, model, each), model)
    return sections


def limits_of_workloads(scenario: Scenario, comparison: Comparison, *, jobs: int) -> list[LimitRow]:
    """The limits of every workload under the model that limits are for; none where no model charges cgroups."""
    model = memcg_model(comparison)
    if model is None:
        return []
    with workers(jobs) as each:
        advice = advise_all(scenario, model, each)
    return [
        row for one in advice for row in rows_of_advice(one, heap_source="heap of the scenario")
    ]
