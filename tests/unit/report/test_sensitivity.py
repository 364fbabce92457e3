"""How charges grow with the number of CPUs."""

from sample_fleet import small_scenario

from bpfleet.report.sensitivity import CPU_COUNTS, CpuTask, charged_after_start, cpu_data


def charge(workload: int, model: str, cpus: int) -> int:
    spec = small_scenario().workloads[workload]
    charged = charged_after_start(CpuTask(model=model, workload=spec, possible_cpus=cpus, seed=1))
    assert charged is not None
    return charged


def test_ring_buffers_per_cpu_grow_in_proportion() -> None:
    assert 6 < charge(1, "6.12", 64) / charge(1, "6.12", 8) < 9


def test_stack_traces_do_not_depend_on_cpus() -> None:
    assert charge(0, "6.12", 64) < 1.02 * charge(0, "6.12", 2)


def test_there_is_a_line_for_every_model_and_application() -> None:
    data = cpu_data(small_scenario(), ("5.10", "6.12"), map)
    assert data["counts"] == list(CPU_COUNTS)
    assert [(line["model"], line["application"]) for line in data["lines"]] == [
        (model, application)
        for model in ("5.10", "6.12")
        for application in ("bpftrace", "falco", "datadog-npm")
    ]
    assert all(len(line["bytes"]) == len(CPU_COUNTS) for line in data["lines"])
