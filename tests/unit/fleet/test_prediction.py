"""kernel-aware placement: what is predicted is what the kernel then does."""

import pytest
from small_fleet import GIB, MIB, SmallFleet

from bpfleet.abi.bpf import MapType
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.fleet.prediction import KernelEstimator, try_out
from bpfleet.fleet.records import Policy
from bpfleet.fleet.settings import FleetSettings
from bpfleet.kernel import profile_named
from bpfleet.kernel.kernel import Kernel
from bpfleet.runtime.replica import ReplicaRun
from bpfleet.workload.phase import Phase
from bpfleet.workload.resolve import resolve
from bpfleet.workload.spec import Inventory, MapDeclaration, NodeShape, WorkloadSpec

APPLICATIONS = ("cilium", "falco", "tetragon", "datadog-npm", "aws-network-policy-agent")
SHAPE = NodeShape(possible_cpus=8, ram_bytes=32 * GIB)


def aware() -> SmallFleet:
    return SmallFleet(FleetSettings(policy=Policy.KERNEL_AWARE), KernelEstimator())


def application(name: str, **fields) -> WorkloadSpec:
    fields.setdefault("memlock_bytes", RLIM_INFINITY)
    return WorkloadSpec(name="w", application=name, **fields)


@pytest.mark.parametrize("profile", ["5.10", "6.1", "6.12"])
@pytest.mark.parametrize("name", APPLICATIONS)
def test_a_limit_of_exactly_the_prediction_is_enough_to_start(profile, name):
    trial = try_out(application(name), profile_named(profile), SHAPE)
    assert trial.refusal is None
    kernel = Kernel(profile_named(profile), node="n", ram_bytes=32 * GIB, possible_cpus=8, seed=0)
    run = ReplicaRun(
        kernel,
        resolve(
            application(
                name,
                memory_limit_bytes=trial.charged_bytes + 4095 & ~4095,
                memlock_bytes=max(trial.locked_bytes, 4096),
            ),
            0,
            "n",
            SHAPE,
            seed=0,
        ),
    )
    run.start()
    assert run.phase is Phase.RUNNING, run.failure


def test_what_locks_and_what_is_charged_depends_on_the_kernel():
    old = try_out(application("bcc-execsnoop"), profile_named("5.10"), SHAPE)
    new = try_out(application("bcc-execsnoop"), profile_named("6.12"), SHAPE)
    assert old.locked_bytes > 70 * MIB
    assert new.locked_bytes == 0
    assert new.charged_bytes > old.charged_bytes + 70 * MIB


def test_a_kernel_that_refuses_a_map_is_avoided():
    small = aware()
    small.node("old", profile="5.10", ram_bytes=64 * GIB)
    small.node("new", profile="6.12", ram_bytes=64 * GIB)
    # Three maps of 8 GiB: E2BIG where the estimate has to fit into 4 GiB.
    small.create("parca", inventory=None, application="parca-2022", memlock_bytes=RLIM_INFINITY)
    (replica,) = small.replicas("parca")
    assert replica.node == "new"
    assert dict(replica.decision.rejections) == {"KERNEL_REFUSES": 1}


def test_users_share_their_memlock_on_rlimit_nodes_only():
    small = aware()
    small.node("old", profile="5.10", ram_bytes=64 * GIB)
    fields = {
        "inventory": None,
        "application": "bcc-execsnoop",
        "memory_request_bytes": 0,
        "memlock_bytes": 200 * MIB,
    }
    small.create("one", 4, **fields)
    assert len(small.replicas("one", Phase.ASSIGNED)) == 2
    (waiting, *_) = small.replicas("one", Phase.PENDING)
    assert dict(waiting.decision.rejections) == {"MEMLOCK_HEADROOM": 1}
    small.node("new", profile="6.12", ram_bytes=64 * GIB)
    small.settle()
    assert small.where("one") == ["new", "new", "old", "old"]


def test_a_memory_limit_below_the_charge_rules_out_kernels_that_charge_it():
    small = aware()
    small.node("old", profile="5.10", ram_bytes=64 * GIB)
    small.node("new", profile="6.12", ram_bytes=64 * GIB)
    small.create(
        "tool",
        inventory=None,
        application="bcc-execsnoop",
        memory_limit_bytes=32 * MIB,
        memlock_bytes=RLIM_INFINITY,
    )
    (replica,) = small.replicas("tool")
    assert replica.node == "old"
    assert dict(replica.decision.rejections) == {"MEMORY_LIMIT": 1}


def test_what_is_booked_is_what_the_replica_takes_not_what_it_asks_for():
    small = aware()
    small.node("n", ram_bytes=4 * GIB, cpus=8)
    small.create("katran", 4, inventory=None, application="katran", memory_request_bytes=100 * MIB)
    assert len(small.replicas("katran", Phase.ASSIGNED)) == 2
    assert small.replicas("katran")[0].booked_bytes > GIB


def test_an_update_needs_room_for_its_peak_beside_the_old_one():
    small = aware()
    small.node("n", profile="5.10", ram_bytes=64 * GIB)
    small.create(
        "tool",
        inventory=None,
        application="bcc-execsnoop",
        memory_request_bytes=0,
        memlock_bytes=100 * MIB,
    )
    small.settle()
    assert small.where("tool") == ["n"]
    small.update("tool", oom_score_adj=5)
    phases = {r.generation: r.phase for r in small.replicas("tool")}
    # Old and new together would lock more than the user may: the old one has to go first.
    assert phases == {1: Phase.STOPPING, 2: Phase.PENDING}
    small.settle()
    assert {r.generation for r in small.replicas("tool")} == {2}
    assert small.where("tool") == ["n"]


def test_an_inventory_too_large_to_try_out_is_refused_at_once_and_says_so():
    small = aware()
    small.node("a")
    table = MapDeclaration(
        name="m", map_type=MapType.HASH, key_size=4, value_size=8, max_entries=1, count=1_001
    )
    small.create("wide", inventory=Inventory(name="wide", maps=(table,)))
    (replica,) = small.replicas("wide")
    assert replica.decision.rejections == (("TOO_LARGE_TO_PREDICT", 1),)
