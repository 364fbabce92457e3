"""What the number of CPUs does to an application's charge: its start repeated on hosts of growing
size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import replace

from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.units import bytes_of
from bpfleet.report.workers import Mapper
from bpfleet.runtime import ReplicaRun
from bpfleet.runtime.profiles import profile_from
from bpfleet.workload.phase import Phase
from bpfleet.workload.resolve import resolve
from bpfleet.workload.scenario import Scenario
from bpfleet.workload.spec import NodeShape, WorkloadSpec

__all__ = ["CPU_COUNTS", "CpuTask", "charged_after_start", "cpu_data"]

# JSON values of any type.
Plain = Any

CPU_COUNTS: Final = (2, 4, 8, 16, 32, 64, 128)
RAM_BYTES_PER_CPU: Final = 4 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTask:
    """One workload under one model on one host size."""

    model: str
    workload: WorkloadSpec
    possible_cpus: int
    seed: int


def charged_after_start(task: CpuTask) -> int | None:
    """Bytes the model charges for the maps and programs of one replica, right after its start,
    without limits.

    None where the model refuses the start even so.
    """
    shape = NodeShape(
        possible_cpus=task.possible_cpus, ram_bytes=task.possible_cpus * RAM_BYTES_PER_CPU
    )
    spec = resolve(task.workload, 0, "host", shape, seed=task.seed)
    bare = replace(spec.inventory, user_memory_bytes=0)
    free = replace(spec.workload, memory_limit_bytes=None, memlock_bytes=RLIM_INFINITY)
    spec = replace(spec, workload=free, inventory=bare)
    kernel = Kernel(
        profile_from(task.model), ram_bytes=shape.ram_bytes, possible_cpus=task.possible_cpus
    )
    run = ReplicaRun(kernel, spec)
    run.start()
    if run.phase is not Phase.RUNNING:
        return None
    if kernel.profile.is_rlimit:
        return bytes_of(kernel.user(spec.workload.uid).locked_vm_pages)
    return int(kernel.cgroup(run.cgroup).memcg.usage_bytes)


def cpu_data(scenario: Scenario, models: Sequence[str], each: Mapper) -> dict[str, Plain]:
    """The section of the page: for every model and application, bytes by CPU count."""
    workloads = _one_per_application(scenario)
    tasks = [
        CpuTask(model=model, workload=workload, possible_cpus=cpus, seed=scenario.seed)
        for model in models
        for workload in workloads
        for cpus in CPU_COUNTS
    ]
    charged = list(each(charged_after_start, tasks))
    width = len(CPU_COUNTS)
    return {
        "counts": list(CPU_COUNTS),
        "models": list(models),
        "lines": [
            {
                "model": tasks[start].model,
                "application": tasks[start].workload.program_name,
                "bytes": charged[start : start + width],
            }
            for start in range(0, len(tasks), width)
        ],
    }


def _one_per_application(scenario: Scenario) -> list[WorkloadSpec]:
    found: dict[tuple[str, tuple[tuple[str, int], ...]], WorkloadSpec] = {}
    for workload in scenario.workloads:
        key = (workload.program_name, tuple(sorted(workload.options.items())))
        found.setdefault(key, workload)
    return list(found.values())
