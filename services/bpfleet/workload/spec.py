"""What runs on a fleet: maps, programs, applications, workloads and their replicas, as frozen
records.

Everything above the kernel speaks these records: the catalogue and the inventory reader produce
them, the coordinator places them, the runtime starts them, reports count them. Building one checks
it; a bad value raises ``SpecError`` naming the field. Records are immutable: the mappings inside
them must not be changed either.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from msgspec import field

from bpfleet.abi.bpf import Capability, MapType, ProgType
from bpfleet.abi.limits import RLIM_INFINITY, U32_MAX
from bpfleet.workload.checks import (
    check_cgroup,
    check_entries,
    check_label_key,
    check_label_value,
    check_labels,
    check_map_type,
    check_member,
    check_name,
    check_object_name,
    check_optional,
    check_range,
    check_share,
)
from bpfleet.workload.codec import Record
from bpfleet.workload.errors import SpecError
from bpfleet.workload.phase import Phase

__all__ = [
    "CPUS_MAX",
    "INSNS_MAX",
    "KILLED",
    "MEMORY_BYTES_MAX",
    "REPLICAS_MAX",
    "SERIAL_MAX",
    "Churn",
    "Complexity",
    "Failure",
    "Inventory",
    "KeyDistribution",
    "LabelOperator",
    "MapDeclaration",
    "NodeShape",
    "Preference",
    "ProgramDeclaration",
    "ReplicaOrder",
    "ReplicaSpec",
    "ReplicaStatus",
    "Requirement",
    "RestartPolicy",
    "Scheduling",
    "Spread",
    "Taint",
    "TaintEffect",
    "Toleration",
    "WorkloadSpec",
    "replica_name",
]

MEMORY_BYTES_MAX: Final = 1 << 50
# A larger number would not travel in an int64; ``unlimited`` is RLIM_INFINITY.
MEMLOCK_BYTES_MAX: Final = (1 << 63) - 1
CPUS_MAX: Final = 8192
MAPS_PER_INVENTORY_MAX: Final = 65_536
COUNT_MAX: Final = 65_536
REPLICAS_MAX: Final = 100_000
THREADS_MAX: Final = 65_536
SERIAL_MAX: Final = (1 << 63) - 1
INSNS_MAX: Final = 1_000_000
SUBPROGS_MAX: Final = 256  # BPF_MAX_SUBPROGS
OPERATIONS_PER_STEP_MAX: Final = 1_000_000
KILLED: Final = "SIGKILL"

_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_RECORD: Final = "declaration"


class NodeShape(Record, frozen=True, kw_only=True):
    """The two facts by which applications size their maps."""

    possible_cpus: int
    ram_bytes: int

    def __post_init__(self) -> None:
        check_range("possible_cpus", self.possible_cpus, 1, CPUS_MAX)
        check_range("ram_bytes", self.ram_bytes, 1 << 20, MEMORY_BYTES_MAX)


class MapDeclaration(Record, frozen=True, kw_only=True):
    """One BPF map an application creates, or ``count`` equal ones.

    ``fill_entries`` elements are inserted when the application starts (0: it starts empty). A
    map-in-map names its ``inner`` map and how many of its slots get one (``inner_count``).
    ``pinned`` maps outlive their process; a ``frozen`` one is frozen once it is filled.
    ``churn_weight`` shares churn out among the maps of an application; 0 leaves the map alone.
    """

    name: str
    map_type: MapType
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int = 0
    map_extra: int = 0
    inner: "MapDeclaration | None" = None
    inner_count: int = 0
    count: int = 1
    fill_entries: int = 0
    pinned: bool = False
    frozen: bool = False
    churn_weight: int = 1

    def __post_init__(self) -> None:
        check_object_name("name", self.name)
        check_range("churn_weight", self.churn_weight, 0, 1000)
        check_map_type(self.map_type)
        for name in ("key_size", "value_size", "max_entries", "map_flags"):
            check_range(name, getattr(self, name), 0, U32_MAX)
        check_range("map_extra", self.map_extra, 0, RLIM_INFINITY)
        check_range("count", self.count, 1, COUNT_MAX)
        check_range("fill_entries", self.fill_entries, 0, max(self.max_entries, 0))
        check_range("inner_count", self.inner_count, 0, min(self.max_entries, COUNT_MAX))
        self._check_inner()

    def _check_inner(self) -> None:
        if self.is_map_in_map and self.inner is None:
            raise SpecError(
                _RECORD,
                "inner",
                None,
                f"{self.type_name} has no inner map",
                "add one under 'inner'",
            )
        if self.inner is None:
            return
        if not self.is_map_in_map:
            raise SpecError(
                _RECORD, "inner", self.inner.name, f"{self.type_name} holds no maps", "remove it"
            )
        if self.inner.is_map_in_map:
            raise SpecError(
                _RECORD,
                "inner",
                self.inner.name,
                "an inner map cannot hold maps",
                "use a plain type",
            )

    @property
    def is_map_in_map(self) -> bool:
        """Whether the values of this map are maps."""
        return self.map_type in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)

    @property
    def type_name(self) -> str:
        """bpftool's name of the map type."""
        return self.map_type.name.lower()

    @property
    def maps(self) -> int:
        """Maps that exist once this declaration is carried out, inner maps included."""
        return self.count * (1 + self.inner_count)


class Complexity(Record, frozen=True, kw_only=True):
    """What the verifier meets in a program, which decides what memory it takes from 6.17 on.

    ``branches`` are jumps on values that are not known, each on another one; ``compared`` jumps that
    ask one value again and again; ``spills`` write stack slots and branch on them; ``lookups`` read
    elements of arrays; ``loop_turns`` are turns of bounded loops. ``states`` (veristat's peak) and
    ``verified_insns`` (bpftool) say how much was kept and walked.
    """

    branches: int = 0
    compared: int = 0
    spills: int = 0
    lookups: int = 0
    loop_turns: int = 0
    states: int = 0
    verified_insns: int = 0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            check_range(name, getattr(self, name), 0, INSNS_MAX)


class ProgramDeclaration(Record, frozen=True, kw_only=True):
    """One BPF program an application loads, or ``count`` equal ones: its size and the maps it uses,
    by name.

    ``subprog_insns`` are the lengths of its functions, which ``insn_cnt`` counts too.
    """

    name: str
    prog_type: ProgType
    insn_cnt: int
    count: int = 1
    map_names: tuple[str, ...] = ()
    pinned: bool = False
    subprog_insns: tuple[int, ...] = ()
    complexity: Complexity = Complexity()

    def __post_init__(self) -> None:
        check_object_name("name", self.name)
        check_range("insn_cnt", self.insn_cnt, 1, INSNS_MAX)
        check_range("subprog_insns", len(self.subprog_insns), 0, SUBPROGS_MAX)
        check_range("subprog_insns", sum(self.subprog_insns), 0, self.insn_cnt - 1)
        check_range("count", self.count, 1, COUNT_MAX)


class KeyDistribution(StrEnum):
    """How churn chooses the keys it touches."""

    UNIFORM = "uniform"
    ZIPF = "zipf"
    SEQUENTIAL = "sequential"


class Churn(Record, frozen=True, kw_only=True):
    """What an application does to its maps and its heap while it runs.

    The four weights share out ``operations_per_step`` (an operation may be a batch of
    ``batch_size`` elements); a step is ``step_ns`` of virtual time. ``create`` operations make one
    more map like a declared one and close the oldest such map beyond ``extra_maps_max``.
    ``working_set`` is the share of a map's entries that keys are drawn from. User memory starts at
    ``start_share`` of its peak and grows to it over ``ramp_steps``.
    """

    lookups: int = 60
    updates: int = 30
    deletes: int = 10
    creates: int = 0
    operations_per_step: int = 100
    step_ns: int = 1_000_000_000
    batch_size: int = 1
    key_distribution: KeyDistribution = KeyDistribution.ZIPF
    working_set: float = 1.0
    extra_maps_max: int = 4
    start_share: float = 1.0
    ramp_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("lookups", "updates", "deletes", "creates"):
            check_range(name, getattr(self, name), 0, 1_000_000)
        if self.operations_per_step and not self.weight:
            raise SpecError(_RECORD, "lookups", 0, "all weights are 0", "give one of them a weight")
        check_range("operations_per_step", self.operations_per_step, 0, OPERATIONS_PER_STEP_MAX)
        check_range("step_ns", self.step_ns, 1, 1 << 62)
        check_range("batch_size", self.batch_size, 1, 65_536)
        check_range("extra_maps_max", self.extra_maps_max, 0, COUNT_MAX)
        check_range("ramp_steps", self.ramp_steps, 0, 1_000_000)
        check_share("working_set", self.working_set)
        check_share("start_share", self.start_share)
        check_member("key_distribution", self.key_distribution, KeyDistribution)

    @property
    def weight(self) -> int:
        """Sum of the four weights."""
        return self.lookups + self.updates + self.deletes + self.creates


class Inventory(Record, frozen=True, kw_only=True):
    """The maps and programs of one application on one node shape, its heap and its churn.

    ``user_memory_bytes`` is the peak of its anonymous memory. ``source`` says where the figures
    come from.
    """

    name: str
    title: str = ""
    source: str = ""
    maps: tuple[MapDeclaration, ...] = ()
    programs: tuple[ProgramDeclaration, ...] = ()
    user_memory_bytes: int = 0
    churn: Churn = Churn()

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_range("user_memory_bytes", self.user_memory_bytes, 0, MEMORY_BYTES_MAX)
        check_range("maps", sum(m.maps for m in self.maps), 0, MAPS_PER_INVENTORY_MAX)
        check_range("programs", sum(p.count for p in self.programs), 0, MAPS_PER_INVENTORY_MAX)
        declared = {m.name for m in self.maps}
        for index, program in enumerate(self.programs):
            for name in program.map_names:
                if name not in declared:
                    raise SpecError(
                        _RECORD,
                        f"programs[{index}].map_names",
                        name,
                        "no such map",
                        "declare it under maps",
                    )

    @property
    def map_count(self) -> int:
        """Maps after a start, inner maps included."""
        return sum(m.maps for m in self.maps)

    @property
    def program_count(self) -> int:
        """Programs after a start."""
        return sum(p.count for p in self.programs)


class RestartPolicy(StrEnum):
    """When a process that ended is started again (Kubernetes' words)."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


class TaintEffect(StrEnum):
    """What a taint does to workloads that do not tolerate it (Kubernetes' words)."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class LabelOperator(StrEnum):
    """How a requirement compares a node label with its values (Kubernetes' words)."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"
    GREATER_THAN = "Gt"
    LESS_THAN = "Lt"


class Taint(Record, frozen=True):
    """A mark on a node that keeps workloads away which do not tolerate it."""

    key: str
    value: str = ""
    effect: TaintEffect = TaintEffect.NO_SCHEDULE

    def __post_init__(self) -> None:
        check_label_key("key", self.key)
        check_label_value("value", self.value)


class Toleration(Record, frozen=True):
    """Lets a workload onto nodes with a matching taint; an empty or absent field matches everything."""

    key: str = ""
    value: str = ""
    effect: TaintEffect | None = None

    def __post_init__(self) -> None:
        if self.key:
            check_label_key("key", self.key)
        check_label_value("value", self.value)

    def tolerates(self, key: str, value: str, effect: TaintEffect) -> bool:
        """Whether the taint ``key=value:effect`` is accepted."""
        return self.key in ("", key) and self.value in ("", value) and self.effect in (None, effect)


class Requirement(Record, frozen=True):
    """A condition on a node's labels. ``Gt`` and ``Lt`` take one whole number."""

    key: str
    operator: LabelOperator
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_label_key("key", self.key)
        check_entries("values", self.values)
        for position, value in enumerate(self.values):
            check_label_value(f"values[{position}]", value)
        if self.operator in (LabelOperator.GREATER_THAN, LabelOperator.LESS_THAN):
            if len(self.values) != 1 or _INTEGER.fullmatch(self.values[0]) is None:
                self._refuse_values("needs one whole number")
        elif self.operator in (LabelOperator.IN, LabelOperator.NOT_IN) and not self.values:
            self._refuse_values("needs at least one value")

    def _refuse_values(self, problem: str) -> None:
        shown = list(self.values)
        raise SpecError(_RECORD, "values", shown, f"{self.operator} {problem}", "correct it")


class Preference(Record, frozen=True):
    """A wished-for condition and the points (1 to 100) a node earns by meeting it."""

    requirement: Requirement
    weight: int

    def __post_init__(self) -> None:
        check_range("weight", self.weight, 1, 100)


class Spread(Record, frozen=True, kw_only=True):
    """Keeps the replica counts of the values of a node label within ``max_skew`` of each other.

    With ``best_effort`` a replica that cannot keep to it goes to the least bad value.
    """

    topology_key: str = "node"
    max_skew: int = 1
    best_effort: bool = False

    def __post_init__(self) -> None:
        check_label_key("topology_key", self.topology_key)
        check_range("max_skew", self.max_skew, 1, REPLICAS_MAX)


class Scheduling(Record, frozen=True, kw_only=True):
    """How a workload is placed and changed, beyond its selector, tolerations and spread.

    ``required`` and ``preferred`` are node affinity. A ``gang`` is placed as a whole or not at all.
    ``max_unavailable`` replicas may be missing during an update; drains, evictions and preemption may
    take away ``disruption_budget`` of them at one time.
    """

    required: tuple[Requirement, ...] = ()
    preferred: tuple[Preference, ...] = ()
    gang: bool = False
    max_unavailable: int = 1
    disruption_budget: int = 1

    def __post_init__(self) -> None:
        check_entries("required", self.required)
        check_entries("preferred", self.preferred)
        check_range("max_unavailable", self.max_unavailable, 1, REPLICAS_MAX)
        check_range("disruption_budget", self.disruption_budget, 1, REPLICAS_MAX)


class WorkloadSpec(Record, frozen=True, kw_only=True):
    """A workload as its owner wishes it: what runs, how often, where it may run and under which
    limits.

    What runs is either ``inventory`` or ``application``, the name of a catalogue entry that is
    sized for the node it lands on; ``options`` override that entry's own. ``per_node`` puts one
    replica on every eligible node instead of ``replicas`` (a DaemonSet). ``memory_limit_bytes``
    None is ``max``. ``memlock_bytes`` None leaves the node's default; ``RLIM_INFINITY`` lifts it.
    ``user_memory_bytes`` None takes the application's own figure. ``threads`` are those of its process: some 27 KiB of
    kernel memory each beyond the first. ``fill`` is the share of a map's entries that is there at the start, by the
    map's name, ``*`` for all others; it counts where elements are allocated as they are inserted.
    """

    name: str
    application: str | None = None
    inventory: Inventory | None = None
    options: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    replicas: int = 1
    per_node: bool = False
    priority: int = 0
    uid: int = 0
    capabilities: frozenset[Capability] | None = None
    memory_request_bytes: int = 0
    memory_limit_bytes: int | None = None
    memlock_bytes: int | None = None
    oom_score_adj: int = 0
    user_memory_bytes: int | None = None
    threads: int = 1
    fill: Mapping[str, float] = field(default_factory=dict)
    churn: Churn | None = None
    restart_policy: RestartPolicy = RestartPolicy.ALWAYS
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    spread: Spread | None = None
    scheduling: Scheduling = Scheduling()

    def __post_init__(self) -> None:
        check_name("name", self.name)
        self._check_program()
        check_range("replicas", self.replicas, 0, REPLICAS_MAX)
        check_range("priority", self.priority, -(1 << 31), (1 << 31) - 1)
        check_range("uid", self.uid, 0, U32_MAX - 1)
        check_range("memory_request_bytes", self.memory_request_bytes, 0, MEMORY_BYTES_MAX)
        check_optional("memory_limit_bytes", self.memory_limit_bytes, 0, MEMORY_BYTES_MAX)
        if self.memlock_bytes != RLIM_INFINITY:
            check_optional("memlock_bytes", self.memlock_bytes, 0, MEMLOCK_BYTES_MAX)
        check_range("oom_score_adj", self.oom_score_adj, -1000, 1000)
        check_optional("user_memory_bytes", self.user_memory_bytes, 0, MEMORY_BYTES_MAX)
        check_range("threads", self.threads, 1, THREADS_MAX)
        check_range("fill", len(self.fill), 0, MAPS_PER_INVENTORY_MAX)
        for name, share in self.fill.items():
            check_share(f"fill.{name}", share)
        check_member("restart_policy", self.restart_policy, RestartPolicy)
        check_labels("labels", self.labels)
        check_labels("node_selector", self.node_selector)
        check_entries("tolerations", self.tolerations)
        if self.per_node and self.scheduling.gang:
            raise SpecError(
                _RECORD,
                "scheduling.gang",
                None,
                "a workload that is per_node cannot be a gang",
                "give one of them",
            )

    def _check_program(self) -> None:
        if self.application is not None:
            check_name("application", self.application)
        if (self.application is None) == (self.inventory is None):
            raise SpecError(
                _RECORD,
                "application",
                self.application,
                "a workload needs either an application or an inventory",
                "give exactly one of them",
            )

    @property
    def program_name(self) -> str:
        """Name of what runs: the catalogue entry or the inventory."""
        if self.inventory is not None:
            return self.inventory.name
        assert self.application is not None, "checked when the record was built"
        return self.application


class ReplicaSpec(Record, frozen=True, kw_only=True):
    """One replica bound to a node, all resolved (see ``resolve``): the runtime needs nothing else to start it.

    ``serial`` numbers the replicas of a workload, from 0 on; a number is never given twice. ``inventory``
    is what this replica creates on its node, with the heap and churn the workload asks for. ``seed``
    starts its churn. ``cgroup`` is set where it lives elsewhere than in a cgroup of its own.
    """

    workload: WorkloadSpec
    serial: int
    inventory: Inventory
    cgroup: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("serial", self.serial, 0, SERIAL_MAX)
        check_cgroup("cgroup", self.cgroup)
        check_range("seed", self.seed, 0, (1 << 64) - 1)

    @property
    def name(self) -> str:
        """``workload-serial``, unique on the fleet."""
        return replica_name(self.workload.name, self.serial)

    @property
    def cgroup_path(self) -> str:
        """The replica's cgroup: ``cgroup`` where given, else one below ``/workloads``."""
        return self.cgroup or f"/workloads/{self.name}"


class ReplicaOrder(Record, frozen=True, kw_only=True):
    """Replica ``serial`` of a workload, to be started on ``node`` for the ``attempt``-th time, 0 the first.

    ``seed`` is the fleet's. What it comes to on the node is found by ``resolve``.
    """

    workload: WorkloadSpec
    serial: int
    node: str
    attempt: int = 0
    cgroup: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("serial", self.serial, 0, SERIAL_MAX)
        check_name("node", self.node)
        check_range("attempt", self.attempt, 0, (1 << 31) - 1)
        check_cgroup("cgroup", self.cgroup)
        check_range("seed", self.seed, 0, (1 << 63) - 1)

    @property
    def name(self) -> str:
        """The replica's name."""
        return replica_name(self.workload.name, self.serial)


def replica_name(workload: str, serial: int) -> str:
    """The one way from a workload's name and a serial to a replica's name.

    >>> replica_name("web", 1000000)
    'web-1000000'
    """
    return f"{workload}-{serial}"


class Failure(Record, frozen=True, kw_only=True):
    """Why a call of a replica failed: the call, Linux's errno by name (``KILLED`` where a signal
    ended the process), the true reason, the object and the numbers.
    """

    call: str
    errno: str
    reason: str
    object: str = ""
    detail: str = ""
    numbers: Mapping[str, int | str] = field(default_factory=dict)
    time_ns: int = 0
    oom_killed: bool = False

    @property
    def killed(self) -> bool:
        """Whether a signal ended the process, the OOM killer's or another: then no errno was answered."""
        return self.errno == KILLED


class ReplicaStatus(Record, frozen=True, kw_only=True):
    """What a replica is doing now. ``exit_code`` 137 with ``last_failure.oom_killed`` is what users
    know as OOMKilled.

    Counters run over all starts of the replica. ``outcomes`` counts failed calls as ``"call
    errno"``; ``restart_at_ns`` is virtual time, set while the phase is BACK_OFF.
    """

    name: str
    phase: Phase = Phase.PENDING
    pid: int = 0
    starts: int = 0
    exit_code: int | None = None
    restart_at_ns: int | None = None
    last_failure: Failure | None = None
    oom_kills: int = 0
    maps_created: int = 0
    programs_loaded: int = 0
    operations: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)

    @property
    def restarts(self) -> int:
        """Starts after the first one."""
        return max(0, self.starts - 1)
