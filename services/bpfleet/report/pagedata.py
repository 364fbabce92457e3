"""A comparison condensed to what the page draws: sums per fleet, cells per node and model, lists
cut to a readable length.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from bpfleet.kernel.profile import sureness_line
from bpfleet.report.compare import Cause, Comparison
from bpfleet.report.fidelity import RECORDED_KERNELS, measured_fidelity
from bpfleet.report.findings import fates, findings, verdict
from bpfleet.report.results import (
    SUCCESS,
    Counters,
    Divergence,
    ModelOnNode,
    NodeResult,
    OomKill,
    ReplicaResult,
    as_plain,
)
from bpfleet.report.summary import counters_text, rows_data
from bpfleet.workload.phase import Phase

__all__ = ["page_data", "status_of"]

# JSON values of any type.
Plain = Any

# Above this many nodes the page leaves out the list of replicas behind each cell.
DETAILED_NODES_MAX: Final = 400
DIVERGENCES_PER_CAUSE_MAX: Final = 200
OOM_KILLS_PER_GROUP_MAX: Final = 8
_NS_PER_S: Final = 1_000_000_000
_REPLICA_FIELDS: Final = (
    "name",
    "application",
    "phase",
    "starts",
    "oom_kills",
    "peak_bytes",
    "limit_bytes",
    "failure",
)
_APPLICATION_FIELDS: Final = (
    "placed",
    "running",
    "oom_kills",
    "estimate_bytes",
    "charged_bytes",
    "peak_bytes",
)


def page_data(comparison: Comparison) -> dict[str, Plain]:
    """The data of the page, as JSON values. The same comparison gives the same data."""
    return {
        "meta": _meta(comparison),
        "verdict": verdict(comparison),
        "findings": findings(comparison),
        "fates": fates(comparison),
        "rows": rows_data(comparison),
        "refused": {totals.model: dict(totals.refused) for totals in comparison.totals},
        "nodes": _nodes(comparison),
        "causes": [_cause(cause, comparison) for cause in comparison.causes],
        "time": {model: _series(comparison, model) for model in comparison.models},
        "applications": _applications(comparison),
        "kills": _kills(comparison),
        "method": _method(comparison),
        "fidelity": measured_fidelity(),
        "unmeasured": [m for m in comparison.models if m.split(":")[0] not in RECORDED_KERNELS],
        "unplaced": [list(pair) for pair in comparison.unplaced],
    }


def _meta(comparison: Comparison) -> dict[str, Plain]:
    return {
        "title": comparison.title or comparison.scenario,
        "scenario": comparison.scenario,
        "seed": comparison.seed,
        "steps": comparison.steps,
        "step_s": comparison.step_ns / _NS_PER_S,
        "version": comparison.version,
        "models": [
            {"name": t.model, "kind": t.kind, "known_by": comparison.kernels[t.model]}
            for t in comparison.totals
        ],
        "nodes": len(comparison.nodes),
        "replicas": comparison.totals[0].placed if comparison.totals else 0,
    }


def _method(comparison: Comparison) -> list[list[str]]:
    return [
        [
            "what ran",
            "Every node is emulated once per model. The same replicas start in the same order and issue the same "
            "operations, drawn from the seed; a refused call never shifts the ones after it.",
        ],
        [
            "placement",
            "Decided once, by memory requests, with the coordinator's own rules; it is the same under every model.",
        ],
        [
            "failures",
            "A refused call during the start ends the process, as loaders exit on it; it restarts with Kubernetes' "
            "crash-loop back-off. Refused updates while running are counted and survived.",
        ],
        [
            "not modelled",
            "No BPF bytecode runs and no verifier: a program is its size, its maps and their operations. Time is "
            "virtual and says nothing about speed.",
        ],
        [
            "seed",
            f"{comparison.seed}: with the same scenario, models and version it gives the same result, bit for bit",
        ],
        ["kernels", sureness_line(comparison.kernels)],
        ["version", f"bpfleet {comparison.version}"],
    ]


# -- nodes


def status_of(result: ModelOnNode) -> str:
    """The worst that happened on a node under a model; the colour of its cell."""
    if result.oom_kills:
        return "oom"
    failing = [r for r in result.replicas if r.phase in (Phase.BACK_OFF, Phase.FAILED)]
    errnos = {replica.first_errno for replica in failing}
    for errno in ("ENOMEM", "EPERM", "E2BIG"):
        if errno in errnos:
            return errno.lower()
    if failing:
        return "failed"
    return "refused" if result.count("ENOMEM") else "ok"


def _nodes(comparison: Comparison) -> list[Plain]:
    detailed = len(comparison.nodes) <= DETAILED_NODES_MAX
    return [
        {
            "name": node.node,
            "group": node.group,
            "possible_cpus": node.possible_cpus,
            "ram_bytes": node.ram_bytes,
            "cells": {
                model: _cell(result, detailed=detailed) for model, result in node.models.items()
            },
        }
        for node in comparison.nodes
    ]


def _cell(result: ModelOnNode, *, detailed: bool) -> dict[str, Plain]:
    cell: dict[str, Plain] = {
        "status": status_of(result),
        "running": result.phase_count(Phase.RUNNING),
        "placed": len(result.replicas),
        "eperm": result.count("EPERM"),
        "enomem": result.count("ENOMEM"),
        "e2big": result.count("E2BIG"),
        "oom_kills": result.oom_kill_count,
        "estimate_bytes": result.estimate_bytes,
        "charged_bytes": result.charged_bytes,
        "taken_bytes": result.taken_bytes,
        "used_bytes": result.used_bytes,
    }
    if detailed:
        cell["replicas"] = [_replica(replica) for replica in result.replicas]
    return cell


def _replica(replica: ReplicaResult) -> dict[str, Plain]:
    shown = as_plain(replica)
    return {name: shown.get(name) for name in _REPLICA_FIELDS}


# -- divergences


def _cause(cause: Cause, comparison: Comparison) -> dict[str, Plain]:
    found = (d for node in comparison.nodes for d in node.divergences if d.cause == cause.cause)
    listed = [_divergence(d) for d, _ in zip(found, range(DIVERGENCES_PER_CAUSE_MAX), strict=False)]
    return {
        "cause": cause.cause,
        "count": cause.count,
        "nodes": cause.nodes,
        "workloads": list(cause.workloads),
        "first": _detail(cause.first),
        "list": listed,
    }


def _divergence(divergence: Divergence) -> dict[str, Plain]:
    return {
        "node": divergence.node,
        "replica": divergence.replica,
        "step": divergence.step,
        "call": divergence.call,
        "object": divergence.object,
        "errnos": {model: verdict.errno for model, verdict in divergence.verdicts.items()},
    }


def _detail(divergence: Divergence) -> dict[str, Plain]:
    return {
        "node": divergence.node,
        "replica": divergence.replica,
        "application": divergence.application,
        "step": divergence.step,
        "call": divergence.call,
        "object": divergence.object,
        "verdicts": [
            {
                "model": model,
                "errno": verdict.errno,
                "ok": verdict.errno == SUCCESS,
                "reason": verdict.reason,
                "detail": verdict.detail,
                "counters": counters_text(verdict.counters) if verdict.counters else "",
                "bars": _bars(verdict.counters) if verdict.counters else [],
            }
            for model, verdict in divergence.verdicts.items()
        ],
    }


def _bars(counters: Counters) -> list[dict[str, Plain]]:
    """The counters the model moves: what it is, bytes, limit (None: none)."""
    usage = _bar(counters.cgroup, counters.usage_bytes, counters.limit_bytes)
    if counters.model != _RLIMIT:
        return [usage]
    locked = f"uid {counters.uid}, RLIMIT_MEMLOCK"
    return [_bar(locked, counters.locked_bytes, counters.memlock_bytes), usage]


def _bar(what: str, used_bytes: int, limit_bytes: int | None) -> dict[str, Plain]:
    return {"what": what, "used_bytes": used_bytes, "limit_bytes": limit_bytes}


_RLIMIT: Final = "rlimit"


# -- charges


def _series(comparison: Comparison, model: str) -> dict[str, Plain]:
    """Fleet sums at the end of each step, by class and by workload; absent names count as 0."""
    results = [node.models[model] for node in comparison.nodes]
    steps = len(results[0].samples) if results else 0
    classes = [Counter[str]() for _ in range(steps)]
    workloads = [Counter[str]() for _ in range(steps)]
    for result in results:
        for position, sample in enumerate(result.samples):
            classes[position].update(sample.by_class)
            workloads[position].update(sample.by_workload)
    return {"class": _columns(classes), "workload": _columns(workloads)}


def _columns(steps: list[Counter[str]]) -> dict[str, list[int]]:
    names = sorted({name for step in steps for name in step})
    return {name: [step[name] for step in steps] for name in names}


def _applications(comparison: Comparison) -> list[Plain]:
    """Per application and model: estimate and charge of the replicas that run at the end, on
    average.
    """
    rows: dict[str, dict[str, Plain]] = {}
    for node in comparison.nodes:
        for model, result in node.models.items():
            for replica in result.replicas:
                _count_application(rows, model, node, replica)
    return [{"name": name, "models": models} for name, models in sorted(rows.items())]


def _count_application(
    rows: dict[str, dict[str, Plain]], model: str, node: NodeResult, replica: ReplicaResult
) -> None:
    row = rows.setdefault(replica.application, {}).setdefault(
        model,
        dict.fromkeys(_APPLICATION_FIELDS, 0),
    )
    row["placed"] += 1
    row["running"] += replica.phase is Phase.RUNNING
    row["oom_kills"] += replica.oom_kills
    row["estimate_bytes"] += replica.estimate_bytes
    row["charged_bytes"] += replica.charged_bytes
    row["peak_bytes"] = max(row["peak_bytes"], replica.peak_bytes)


def _kills(comparison: Comparison) -> list[Plain]:
    """Kills by workload, those with most first: how many under each model, and some of each in full."""
    groups: dict[str, dict[str, Plain]] = {}
    for node in comparison.nodes:
        for model, result in node.models.items():
            for kill in result.oom_kills:
                group = groups.setdefault(
                    kill.workload, {"workload": kill.workload, "count": 0, "models": {}}
                )
                group["count"] += 1
                _count_kill(group["models"], model, node.node, kill)
    for group in groups.values():
        for model in group["models"].values():
            model["nodes"] = len(model["nodes"])
    return sorted(groups.values(), key=lambda g: (-g["count"], g["workload"]))


def _count_kill(models: dict[str, Plain], model: str, node: str, kill: OomKill) -> None:
    time_s = kill.time_ns / _NS_PER_S
    found = models.setdefault(model, {"count": 0, "nodes": set(), "first_s": time_s, "list": []})
    found["count"] += 1
    found["nodes"].add(node)
    found["first_s"] = min(found["first_s"], time_s)
    if len(found["list"]) < OOM_KILLS_PER_GROUP_MAX:
        found["list"].append({"node": node, "time_s": time_s, "fields": _fields(kill.fields)})


def _fields(fields: Mapping[str, int | str]) -> dict[str, int | str]:
    return dict(sorted(fields.items()))
