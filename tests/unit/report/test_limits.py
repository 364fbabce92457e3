"""Recommended limits are enough, and the least passing limit is just that."""

import dataclasses

import pytest
from msgspec.structs import replace
from sample_fleet import small_scenario

from bpfleet.kernel import profile_named
from bpfleet.kernel.kernel import Kernel
from bpfleet.report.limits import PARTS, LimitTask, advice_data, advise, advise_all
from bpfleet.runtime import ReplicaRun
from bpfleet.workload.phase import Phase
from bpfleet.workload.resolve import resolve
from bpfleet.workload.spec import NodeShape

MIB = 1 << 20
SHAPE = NodeShape(possible_cpus=4, ram_bytes=8 << 30)


def task(workload: str, cpus: int = 4) -> LimitTask:
    scenario = small_scenario()
    shape = replace(SHAPE, possible_cpus=cpus)
    spec = next(w for w in scenario.workloads if w.name == workload)
    return LimitTask(
        model="6.12",
        shape=shape,
        group="small",
        spec=resolve(spec, 0, "small", shape, seed=1),
        steps=5,
        step_ns=1_000_000_000,
    )


def under(model: str) -> LimitTask:
    return dataclasses.replace(task("falco"), model=model, steps=0)


def survives(wanted: LimitTask, limit_bytes: int) -> bool:
    kernel = Kernel(profile_named("6.12"), ram_bytes=8 << 30, possible_cpus=4)
    limited = replace(wanted.spec.workload, memory_limit_bytes=limit_bytes)
    run = ReplicaRun(kernel, replace(wanted.spec, workload=limited))
    run.start()
    for _ in range(wanted.steps):
        kernel.advance(wanted.step_ns)
        run.step()
    return run.phase is Phase.RUNNING and not any(e == "ENOMEM" for _, e, _ in run.outcomes)


@pytest.mark.parametrize("workload", ["probe", "bpftrace", "falco"])
def test_the_least_limit_passes_and_one_mebibyte_less_does_not(workload: str) -> None:
    wanted = task(workload)
    least = advise(wanted).least_bytes
    assert least is not None
    assert survives(wanted, least)
    assert not survives(wanted, least - MIB)


@pytest.mark.parametrize("workload", ["probe", "bpftrace", "falco"])
def test_the_recommendation_is_enough(workload: str) -> None:
    advice = advise(task(workload))
    assert advice.least_bytes is not None
    assert advice.recommended_bytes >= advice.least_bytes
    assert survives(task(workload), advice.recommended_bytes)


def test_the_parts_are_heap_maps_elements_loader_stocks_and_recreation() -> None:
    advice = advise(task("probe"))
    parts = dict(zip(PARTS, advice.parts_bytes, strict=True))
    assert parts["heap"] == 150 * MIB
    assert 48 * MIB < parts["maps"] < 52 * MIB
    assert parts["CPU stocks"] == 4 * (256 << 10)
    assert parts["re-creation"] == 0
    assert parts["verifier"] == 0


def test_from_6_17_on_the_recommendation_has_what_verifying_the_largest_program_takes() -> None:
    parts = {
        model: dict(zip(PARTS, advise(under(model)).parts_bytes, strict=True))
        for model in ("6.16", "6.17", "7.3")
    }
    assert parts["6.16"]["verifier"] == 0
    assert 0 < 2 * parts["6.17"]["verifier"] < parts["7.3"]["verifier"]


def test_more_cpus_need_more_memory_for_ring_buffers() -> None:
    assert advise(task("falco", 16)).recommended_bytes > advise(task("falco", 4)).recommended_bytes


def test_advice_covers_every_workload_on_the_groups_it_may_run_on() -> None:
    advice = advise_all(replace(small_scenario(), steps=1), "6.12", map)
    assert [(a.workload, a.group) for a in advice] == [
        ("bpftrace", "small"),
        ("bpftrace", "large"),
        ("falco", "small"),
        ("falco", "large"),
        ("probe", "small"),
    ]
    data = advice_data(advice, "6.12")
    assert len(data["rows"]) == 5
    assert data["shapes"] == ["small: 4 CPUs, 8 GiB", "large: 64 CPUs, 64 GiB"]
