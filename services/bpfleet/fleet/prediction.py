"""What a node's kernel will charge a workload, found out by starting it once on an empty kernel like it.

The emulated kernel itself is the predictor, but for what would take it long: elements that maps are filled with and a
heap are not tried one by one, their cost is that of the map's plan and of the pages. The trial has no limits: it tells
what the replica takes, and the limits are compared afterwards. Growth of maps beyond the first steps of churn is not
foreseen.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from bpfleet.abi.limits import PAGE_SIZE, RLIM_INFINITY
from bpfleet.fleet.constraints import Refusal
from bpfleet.fleet.placement import Need
from bpfleet.fleet.reasons import NodeReason
from bpfleet.fleet.records import FleetNode, Workload
from bpfleet.kernel.bpf.plan import Charges, filled_charges
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.address_space import PAGES_PER_TABLE
from bpfleet.kernel.profile import KernelProfile, profile_named
from bpfleet.runtime.maps import map_attr
from bpfleet.runtime.replica import ReplicaRun
from bpfleet.workload.errors import SpecError
from bpfleet.workload.ops import ELEMENT_TYPES
from bpfleet.workload.resolve import inventory_of
from bpfleet.workload.spec import Inventory, NodeShape, ReplicaSpec, WorkloadSpec

__all__ = ["KernelEstimator", "Trial", "try_out"]

_RAM_BYTES: Final = 1 << 46
_STEPS: Final = 10
_OPERATIONS_MAX: Final = 2_000
_OBJECTS_MAX: Final = 1_000
_TRIALS_MAX: Final = 10_000
_KINDS_MAX: Final = 1_000
# What a trial costs besides its maps and programs, in what one of those costs.
_TRIAL_EFFORT: Final = 100
_SPECS_MAX: Final = 20_000


# Of the workload; of the node its profile, CPUs and RAM.
_TrialKey = tuple[tuple[object, ...], str, int, int]


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
        self._trials: OrderedDict[_TrialKey, Trial] = OrderedDict()
        self._kinds: Counter[tuple[object, ...]] = Counter()

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

    def effort(self, workload: Workload, node: FleetNode) -> int:
        """Objects that a trial would make, and the trial itself; 0 where there is one, or there will be none."""
        subject = self._subject(workload.spec)
        if self._key(subject, node) in self._trials or self._kinds[subject.key] >= _KINDS_MAX:
            return 0
        try:
            inventory = inventory_of(workload.spec, _shape(node))
        except SpecError:
            return 1
        # A trial refuses more.
        return _TRIAL_EFFORT + min(_OBJECTS_MAX, inventory.map_count + inventory.program_count)

    def _trial(self, spec: WorkloadSpec, node: FleetNode) -> Trial:
        subject = self._subject(spec)
        key = self._key(subject, node)
        trial = self._trials.get(key)
        if trial is None:
            if self._kinds[subject.key] >= _KINDS_MAX:
                text = f"{_KINDS_MAX} kinds of nodes were tried out, this is another"
                return Trial(0, 0, 0, Refusal(NodeReason.TOO_MANY_KINDS, text))
            trial = self._trials[key] = try_out(spec, profile_named(node.profile), _shape(node))
            self._kinds[subject.key] += 1
            if len(self._trials) > _TRIALS_MAX:
                oldest, _ = self._trials.popitem(last=False)
                self._kinds[oldest[0]] -= 1
        return trial

    def _key(self, subject: _Subject, node: FleetNode) -> _TrialKey:
        return subject.key, node.profile, node.possible_cpus, node.ram_bytes

    def _subject(self, spec: WorkloadSpec) -> _Subject:
        """Remembers specs by identity: hashing an inventory costs more than a placement."""
        subject = self._subjects.get(id(spec))
        if subject is None:
            subject = self._subjects[id(spec)] = _Subject(spec, _key(spec))
            if len(self._subjects) > _SPECS_MAX:
                self._subjects.popitem(last=False)
        return subject


def _shape(node: FleetNode) -> NodeShape:
    return NodeShape(possible_cpus=node.possible_cpus, ram_bytes=node.ram_bytes)


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
        whole = inventory_of(spec, shape)
        inventory = _short(whole)
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
    filled = _filled(whole, profile, shape)
    heap_bytes = _heap_bytes(whole)
    charged_bytes = kernel.cgroup(run.cgroup).memcg.usage_bytes + filled.total + heap_bytes
    locked_bytes = kernel.user(spec.uid).locked_vm_pages * PAGE_SIZE
    ram_bytes = max(0, kernel.ram.used_bytes - empty_bytes)
    ram_bytes += filled.total + filled.uncharged + heap_bytes
    return Trial(charged_bytes, locked_bytes, ram_bytes)


def _short(inventory: Inventory) -> Inventory:
    """The same without what would take long to do: elements to fill maps with, and the heap."""
    return replace(
        inventory,
        maps=tuple(replace(declared, fill_entries=0) for declared in inventory.maps),
        user_memory_bytes=0,
        churn=replace(inventory.churn, ramp_steps=0),
    )


def _filled(inventory: Inventory, profile: KernelProfile, shape: NodeShape) -> Charges:
    """What the elements cost that maps are filled with at the start."""
    filled = Charges()
    for declared in inventory.maps:
        if not declared.fill_entries or declared.map_type not in ELEMENT_TYPES or declared.inner:
            continue
        one = filled_charges(
            map_attr(declared), profile, shape.possible_cpus, declared.fill_entries
        )
        filled += one * declared.count
    return filled


def _heap_bytes(inventory: Inventory) -> int:
    """The heap at its peak, with the page tables that come with each 512 pages beyond the first."""
    pages = -(-inventory.user_memory_bytes // PAGE_SIZE)
    tables = max(0, pages - 1) // PAGES_PER_TABLE
    return (pages + tables) * PAGE_SIZE


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
