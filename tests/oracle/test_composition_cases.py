"""Small cases of several processes and maps under one limit, each with what Linux 6.18 did."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.events import EventKind
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.profile import profile_named
from bpfleet.oracle.format.words import map_type_named
from bpfleet.runtime import ReplicaRun
from bpfleet.verbs.stage import answer_of
from bpfleet.workload.phase import Phase
from bpfleet.workload.resolve import inventory_of
from bpfleet.workload.spec import NodeShape, ReplicaSpec, WorkloadSpec

RECORDED = Path(__file__).parent / "composition-cases.jsonl"
CASES = [json.loads(line) for line in RECORDED.read_text().splitlines()]
HOST = NodeShape(possible_cpus=2, ram_bytes=24_684_092 << 10)
WITHIN = 0.01
PAGE = 4096


def of(kind: str) -> list[Any]:
    return [pytest.param(case, id=case["id"]) for case in CASES if case["id"].startswith(kind)]


@pytest.mark.parametrize("case", of("oom-"))
def test_the_oom_killer_takes_whom_linux_takes_and_no_more(case: dict[str, Any]) -> None:
    kernel = Kernel(profile_named("6.18"))
    tasks = {}
    for step in case["steps"]:
        if step["op"] == "cgroup":
            kernel.mkdir(step["path"])
            kernel.write_file(step["path"], "memory.max", str(step["max"]))
        elif step["op"] == "actor":
            tasks[step["actor"]] = kernel.spawn(
                cgroup=step["cgroup"],
                memlock=(RLIM_INFINITY, RLIM_INFINITY),
                oom_score_adj=step.get("oom_score_adj", 0),
            )
        elif step["op"] == "touch":
            answer_of(lambda s=step: kernel.touch(tasks[s["actor"]].pid, s["bytes"]))  # type: ignore[misc]
        else:
            kind = map_type_named(step["type"])
            attr = MapAttr(kind, step["ks"], step["vs"], step["me"], map_flags=step["fl"])
            kernel.bpf.map_create(tasks[step["actor"]], attr)
    assert [name for name, task in tasks.items() if task.alive] == case["kernel"]["alive"]
    assert kernel.events.total_by_kind[EventKind.OOM_KILL] == case["kernel"]["oom_kill"]


def starts(application: str, limit_bytes: int) -> bool:
    """Whether the application's maps and programs load under that limit, without a heap."""
    spec = WorkloadSpec(
        name=application,
        application=application,
        memory_limit_bytes=limit_bytes,
        memlock_bytes=RLIM_INFINITY,
    )
    inventory = replace(inventory_of(spec, HOST), user_memory_bytes=0)
    kernel = Kernel(
        profile_named("6.18"), ram_bytes=HOST.ram_bytes, possible_cpus=HOST.possible_cpus
    )
    run = ReplicaRun(
        kernel, ReplicaSpec(workload=spec, serial=0, inventory=inventory, cgroup="/app")
    )
    run.start()
    return run.phase is Phase.RUNNING


@pytest.mark.slow
@pytest.mark.parametrize("case", of("least-"))
def test_what_a_loader_has_closed_is_back_when_it_goes_on(case: dict[str, Any]) -> None:
    least = case["kernel"]["least_bytes"]
    application = case["steps"][0]["app"]
    assert starts(application, int(least * (1 + WITHIN)) // PAGE * PAGE)
    assert not starts(application, int(least * (1 - WITHIN)) // PAGE * PAGE)
