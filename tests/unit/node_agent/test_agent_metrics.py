"""What an agent's metrics say of the charges of its kernels."""

import pytest

from bpfleet.abi.bpf import MapType
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel import profile_named
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.node_agent.node import HostedNode, NodeBoot


@pytest.mark.parametrize(
    ("profile", "classes"),
    [
        ("5.10", {"locked_vm"}),
        ("5.11", {"slab", "percpu", "vmalloc"}),
        ("6.12", {"slab", "vmalloc"}),  # per-CPU values escape the creator's cgroup
        ("6.12:nobpf", set()),
    ],
)
def test_charges_are_told_by_class_and_add_up(profile, classes):
    shape = NodeBoot(profile=profile_named(profile), ram_bytes=1 << 30, possible_cpus=2, seed=3)
    node = HostedNode("n1", shape, call_ns=1000, dirty=set())
    kernel = node.wake()
    kernel.mkdir("/one")
    task = kernel.spawn(cgroup="/one", memlock=(RLIM_INFINITY,) * 2)
    for kind, entries in ((MapType.PERCPU_ARRAY, 4096), (MapType.ARRAY, 4096), (MapType.ARRAY, 1)):
        kernel.bpf.map_create(task, MapAttr(kind, 4, 64, entries))
    kernel.run_deferred()
    told = node.bpf_charged_by_class
    assert {name for name, size_bytes in told.items() if size_bytes} == classes
    if kernel.profile.is_rlimit:
        assert sum(told.values()) == task.user.locked_vm_pages * 4096
    else:
        assert sum(told.values()) == sum(
            line.bytes for line in kernel.ledger() if line.owner.startswith("map")
        )
