"""What a node's kernel will charge a workload, found out by starting it once on an empty kernel like it.

The emulated kernel itself is the predictor, so a prediction cannot differ from what the same kernel
later does for a lack of formulas. The trial has no limits: it tells what the replica takes, and the
limits are compared afterwards. Growth of maps beyond the first steps of churn is not foreseen.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from bpfleet.abi.limits import PAGE_SIZE, RLIM_INFINITY
from bpfleet.fleet.constraints import Refusal
from bpfleet.fleet.placement import Need
from bpfleet.fleet.reasons import NodeReason
from bpfleet.fleet.records import FleetNode, Workload
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.profile import KernelProfile, profile_named
from bpfleet.runtime.replica import ReplicaRun
from bpfleet.workload.errors import SpecError
from bpfleet.workload.resolve import inventory_of
from bpfleet.workload.spec import Inventory, NodeShape, ReplicaSpec, WorkloadSpec

__all__ = ["KernelEstimator", "Trial", "try_out"]

_RAM_BYTES: Final = 1 << 46
_STEPS: Final = 10
_OPERATIONS_MAX: Final = 2_000
_OBJECTS_MAX: Final = 1_000
_TRIALS_MAX: Final = 10_000
_SPECS_MAX: Final = 20_000


@dataclass(frozen=True, slots=True)
class Trial:
    """What one replica took on an empty node: of its cgroup, of its user's locked memory, of RAM.

    ``refusal`` is the kernel's verdict where it does not start even without limits.
    """

    charged_bytes: int
    locked_bytes: int
    ram_bytes: int
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class _Subject:
    """All that a trial depends on, of the workload."""

    spec: WorkloadSpec
    key: tuple[object, ...]


class KernelEstimator:
    """Needs by prediction. Keeps the trials it made: one per workload kind and kind of node."""

    def __init__(self) -> None:
        self._subjects: OrderedDict[int, _Subject] = OrderedDict()
        self._trials: OrderedDict[tuple[object, ...], Trial] = OrderedDict()

    def need(self, workload: Workload, node: FleetNode) -> Need:
        """What is booked is the larger of the request and the RAM the trial took."""
        trial = self._trial(workload.spec, node)
        spec, profile = workload.spec, profile_named(node.profile)
        limit_bytes = _memlock_limit_bytes(spec, profile) if trial.locked_bytes else None
        return Need(
            booked_bytes=max(spec.memory_request_bytes, trial.ram_bytes),
            predicted_bytes=max(trial.charged_bytes, trial.locked_bytes),
            locked_bytes=trial.locked_bytes,
            memlock_limit_bytes=limit_bytes,
            refusal=trial.refusal or _over_limit(spec, trial, limit_bytes),
        )

    def _trial(self, spec: WorkloadSpec, node: FleetNode) -> Trial:
        subject = self._subject(spec)
        key = (subject.key, node.profile, node.possible_cpus, node.ram_bytes)
        trial = self._trials.get(key)
        if trial is None:
            shape = NodeShape(possible_cpus=node.possible_cpus, ram_bytes=node.ram_bytes)
            trial = self._trials[key] = try_out(spec, profile_named(node.profile), shape)
            if len(self._trials) > _TRIALS_MAX:
                self._trials.popitem(last=False)
        return trial

    def _subject(self, spec: WorkloadSpec) -> _Subject:
        """Remembers specs by identity: hashing an inventory costs more than a placement."""
        subject = self._subjects.get(id(spec))
        if subject is None:
            subject = self._subjects[id(spec)] = _Subject(spec, _key(spec))
            if len(self._subjects) > _SPECS_MAX:
                self._subjects.popitem(last=False)
        return subject


def _key(spec: WorkloadSpec) -> tuple[object, ...]:
    return (
        spec.application,
        spec.inventory,
        tuple(sorted(spec.options.items())),
        spec.uid,
        spec.capabilities,
        spec.user_memory_bytes,
        spec.churn,
    )


def try_out(spec: WorkloadSpec, profile: KernelProfile, shape: NodeShape) -> Trial:
    """Starts one replica on an empty node without limits, and lets it run a little."""
    try:
        inventory = _inventory(spec, shape)
    except SpecError as error:
        return Trial(0, 0, 0, Refusal(NodeReason.BAD_APPLICATION, str(error)))
    objects = inventory.map_count + inventory.program_count
    if objects > _OBJECTS_MAX:
        # Nothing else is decided while a trial runs, and a leader must renew its lease.
        text = f"{objects} maps and programs exceed the prediction limit of {_OBJECTS_MAX}"
        return Trial(0, 0, 0, Refusal(NodeReason.TOO_LARGE_TO_PREDICT, text))
    kernel = Kernel(
        profile, node="trial", ram_bytes=_RAM_BYTES, possible_cpus=shape.possible_cpus, seed=0
    )
    empty_bytes = kernel.ram.used_bytes
    run = ReplicaRun(
        kernel,
        ReplicaSpec(
            workload=replace(spec, memory_limit_bytes=None, memlock_bytes=RLIM_INFINITY),
            serial=0,
            inventory=inventory,
        ),
    )
    run.start()
    if run.failure is not None:
        failure = run.failure
        text = f"{failure.call} {failure.object}: {failure.errno} {failure.detail}".rstrip()
        return Trial(0, 0, 0, Refusal(NodeReason.KERNEL_REFUSES, text))
    operations = max(1, inventory.churn.operations_per_step)
    for _ in range(min(_STEPS, _OPERATIONS_MAX // operations)):
        run.step()
    charged_bytes = kernel.cgroup(run.cgroup).memcg.usage_bytes
    locked_bytes = kernel.user(spec.uid).locked_vm_pages * PAGE_SIZE
    return Trial(charged_bytes, locked_bytes, max(0, kernel.ram.used_bytes - empty_bytes))


def _inventory(spec: WorkloadSpec, shape: NodeShape) -> Inventory:
    """What the replica creates on such a node, its heap at the peak from the start."""
    inventory = inventory_of(spec, shape)
    return replace(inventory, churn=replace(inventory.churn, ramp_steps=0))


def _memlock_limit_bytes(spec: WorkloadSpec, profile: KernelProfile) -> int | None:
    limit_bytes = spec.memlock_bytes
    if limit_bytes is None:
        limit_bytes = profile.default_memlock_bytes
    return None if limit_bytes >= RLIM_INFINITY else limit_bytes


def _over_limit(spec: WorkloadSpec, trial: Trial, memlock_bytes: int | None) -> Refusal | None:
    if memlock_bytes is not None and trial.locked_bytes > memlock_bytes:
        text = f"would lock {trial.locked_bytes} bytes, RLIMIT_MEMLOCK allows {memlock_bytes}"
        return Refusal(NodeReason.MEMLOCK_LIMIT, text)
    limit_bytes = spec.memory_limit_bytes
    if limit_bytes is not None and trial.charged_bytes > limit_bytes:
        text = f"would be charged {trial.charged_bytes} bytes, memory.max is {limit_bytes}"
        return Refusal(NodeReason.MEMORY_LIMIT, text)
    return None
