"""A small application, and kernels to run it on."""

from bpfleet.abi.bpf import F_NO_PREALLOC, MapType, ProgType
from bpfleet.kernel import profile_named
from bpfleet.kernel.kernel import Kernel
from bpfleet.workload.spec import (
    Churn,
    Inventory,
    MapDeclaration,
    ProgramDeclaration,
    ReplicaSpec,
    WorkloadSpec,
)

MIB = 1 << 20

TABLE = MapDeclaration(
    name="table", map_type=MapType.HASH, key_size=8, value_size=56, max_entries=10_000
)
SPARSE = MapDeclaration(
    name="sparse",
    map_type=MapType.HASH,
    key_size=16,
    value_size=2000,
    max_entries=65_536,
    map_flags=F_NO_PREALLOC,
)
PROGRAM = ProgramDeclaration(
    name="count", prog_type=ProgType.SCHED_CLS, insn_cnt=1000, map_names=("table",)
)
APP = Inventory(name="app", maps=(TABLE,), programs=(PROGRAM,), user_memory_bytes=4 * MIB)
WRITES = Churn(lookups=0, updates=1, deletes=0, operations_per_step=200)


def boot(profile: str) -> Kernel:
    """A node with 2 CPUs and 2 GiB."""
    return Kernel(profile_named(profile), ram_bytes=2 << 30, possible_cpus=2, seed=1)


def replica(inventory: Inventory = APP, **fields: object) -> ReplicaSpec:
    """The first replica of the workload ``web``."""
    workload = WorkloadSpec(name="web", inventory=inventory, **fields)  # type: ignore[arg-type]
    return ReplicaSpec(workload=workload, serial=0, inventory=inventory)
