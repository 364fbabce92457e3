"""The catalogue on real kernels of the emulator agrees with the published totals of each
application.

``locked`` is what the rlimit model locks, ``charged`` what 6.x charges at creation (per-CPU values
excluded, sparse maps empty), both in MiB for the whole application. Published figures are rounded
to whole MiB; docs/experiments.md explains the few that differ by more than rounding.
"""

import pytest
from msgspec.structs import replace

from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel import profile_named
from bpfleet.kernel.kernel import Kernel
from bpfleet.runtime import ReplicaRun
from bpfleet.workload.catalogue import inventory_for
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import NodeShape, ReplicaSpec, WorkloadSpec

MIB = 1 << 20
ROUNDING_MIB = 0.75

# application, options, CPUs, maps, locked, charged
PUBLISHED = [
    ("katran", {}, 16, 29, 1308, 1306),
    ("calico", {}, 4, 17, 335, 159),
    ("calico", {}, 16, 17, 389, 159),
    ("calico", {}, 64, 17, 605, 159),
    ("cilium", {"ratio_per_million": 1}, 4, 30, 199, 84),
    ("cilium", {"ratio_per_million": 1}, 16, 30, 212, 84),
    ("cilium", {"ratio_per_million": 1}, 64, 30, 260, 84),
    ("otel-profiler", {}, 16, 30, 173, 41),
    ("netobserv", {}, 16, 8, 486, 195),
    ("falco", {}, 4, 8, 17, 17),
    ("falco", {}, 16, 14, 66, 66),
    ("falco", {}, 64, 38, 265, 265),
    ("datadog-npm", {}, 16, 17, 49, 49),
    ("tetragon", {"policies": 0}, 16, 3, 32, 32),
    ("aws-network-policy-agent", {"pods": 0}, 16, 2, 49, 49),
    ("retina", {}, 16, 1, 52, 52),
    ("pixie", {}, 16, 21, 51, 51),
    ("bcc-execsnoop", {}, 16, 2, 76, 76),
    ("bcc-memleak", {}, 16, 5, 105, 105),
    ("bcc-klockstat", {}, 16, 5, 153, 153),
    ("bcc-deadlock", {}, 16, 1, 656, 656),
    ("bpftrace", {}, 16, 2, 131, 130),
    ("inspektor-gadget", {}, 16, 1, 80, 80),
]
# The difference two option values make: application, without, with, locked, charged
DIFFERENCES = [
    ("katran", {}, {"source_lpm": 1}, 309, 0),
    ("tetragon", {"policies": 0}, {"policies": 1}, 3.8, 2.5),
    ("tetragon", {"policies": 0}, {"policies": 1, "unreduced": 1}, 41.5, 40),
    ("aws-network-policy-agent", {"pods": 0}, {"pods": 1}, 95, 0),
]


def created(application: str, options: dict[str, int], cpus: int, profile: str) -> Kernel:
    shape = NodeShape(possible_cpus=cpus, ram_bytes=16 << 30)
    sized = inventory_for(application, shape, options)
    empty = tuple(replace(declared, fill_entries=0) for declared in sized.maps)
    inventory = replace(sized, maps=empty, programs=(), user_memory_bytes=0)
    kernel = Kernel(profile_named(profile), ram_bytes=64 << 30, possible_cpus=cpus)
    run = ReplicaRun(
        kernel,
        ReplicaSpec(
            workload=WorkloadSpec(name="app", inventory=inventory, memlock_bytes=RLIM_INFINITY),
            serial=0,
            inventory=inventory,
        ),
    )
    run.start()
    assert run.phase is Phase.RUNNING, run.failure
    return kernel


def locked_mib(application: str, options: dict[str, int], cpus: int) -> float:
    kernel = created(application, options, cpus, "5.10")
    return sum(m.precharged_bytes for m in kernel.bpf.maps()) / MIB


def charged_mib(application: str, options: dict[str, int], cpus: int, profile: str) -> float:
    kernel = created(application, options, cpus, profile)
    return sum(m.charged_bytes for m in kernel.bpf.maps()) / MIB


@pytest.mark.parametrize(("application", "options", "cpus", "maps", "locked", "charged"), PUBLISHED)
def test_totals_agree_with_the_published_ones(
    application: str, options: dict[str, int], cpus: int, maps: int, locked: float, charged: float
) -> None:
    assert len(created(application, options, cpus, "6.12").bpf.maps()) == maps
    assert locked_mib(application, options, cpus) == pytest.approx(locked, abs=ROUNDING_MIB)
    for profile in ("6.1", "6.12"):
        found = charged_mib(application, options, cpus, profile)
        assert found == pytest.approx(charged, abs=ROUNDING_MIB)


@pytest.mark.parametrize(("application", "without", "included", "locked", "charged"), DIFFERENCES)
def test_options_cost_what_is_published(
    application: str,
    without: dict[str, int],
    included: dict[str, int],
    locked: float,
    charged: float,
) -> None:
    locked_more = locked_mib(application, included, 16) - locked_mib(application, without, 16)
    assert locked_more == pytest.approx(locked, abs=ROUNDING_MIB)
    charged_more = charged_mib(application, included, 16, "6.12") - charged_mib(
        application, without, 16, "6.12"
    )
    assert charged_more == pytest.approx(charged, abs=ROUNDING_MIB)


def test_kernels_before_6_0_charge_the_per_cpu_values_too() -> None:
    old = charged_mib("tetragon", {"policies": 4}, 16, "5.11")
    new = charged_mib("tetragon", {"policies": 4}, 16, "6.12")
    assert old - new == pytest.approx(4 * 84_000 * 16 / MIB, rel=0.05)
