"""What runs on a fleet: maps, programs, applications, workloads and their replicas, as frozen
records.

Everything above the kernel speaks these records: the catalogue and the inventory reader produce
them, the coordinator places them, the runtime starts them, reports count them. Building one checks
it; a bad value raises ``SpecError`` naming the field. Records are immutable: the mappings inside
them must not be changed either.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from bpfleet.abi.bpf import BPF_OBJ_NAME_LEN, Capability, MapType, ProgType
from bpfleet.abi.limits import RLIM_INFINITY, U32_MAX
from bpfleet.workload.errors import SpecError
from bpfleet.workload.phase import Phase

__all__ = [
    "KILLED",
    "MEMORY_BYTES_MAX",
    "Churn",
    "Failure",
    "Inventory",
    "KeyDistribution",
    "MapDeclaration",
    "NodeShape",
    "ProgramDeclaration",
    "ReplicaSpec",
    "ReplicaStatus",
    "RestartPolicy",
    "Spread",
    "Toleration",
    "WorkloadSpec",
]

MEMORY_BYTES_MAX: Final = 1 << 50
CPUS_MAX: Final = 8192
MAPS_PER_INVENTORY_MAX: Final = 65_536
COUNT_MAX: Final = 65_536
REPLICAS_MAX: Final = 100_000
INSNS_MAX: Final = 1_000_000
OPERATIONS_PER_STEP_MAX: Final = 1_000_000
CGROUP_PATH_CHARS_MAX: Final = 4096
KILLED: Final = "SIGKILL"

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_OBJECT_NAME: Final = re.compile(r"[A-Za-z0-9_.]{0,15}")
_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_./-]{0,251}[A-Za-z0-9])?")
_RECORD: Final = "declaration"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeShape:
    """The two facts by which applications size their maps."""

    possible_cpus: int
    ram_bytes: int

    def __post_init__(self) -> None:
        _check_range("possible_cpus", self.possible_cpus, 1, CPUS_MAX)
        _check_range("ram_bytes", self.ram_bytes, 1 << 20, MEMORY_BYTES_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapDeclaration:
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
        _check_object_name("name", self.name)
        _check_range("churn_weight", self.churn_weight, 0, 1000)
        _check_map_type(self.map_type)
        for name in ("key_size", "value_size", "max_entries", "map_flags"):
            _check_range(name, getattr(self, name), 0, U32_MAX)
        _check_range("map_extra", self.map_extra, 0, RLIM_INFINITY)
        _check_range("count", self.count, 1, COUNT_MAX)
        _check_range("fill_entries", self.fill_entries, 0, max(self.max_entries, 0))
        _check_range("inner_count", self.inner_count, 0, min(self.max_entries, COUNT_MAX))
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramDeclaration:
    """One BPF program an application loads, or ``count`` equal ones: its size and the maps it uses,
    by name.
    """

    name: str
    prog_type: ProgType
    insn_cnt: int
    count: int = 1
    map_names: tuple[str, ...] = ()
    pinned: bool = False

    def __post_init__(self) -> None:
        _check_object_name("name", self.name)
        _check_range("insn_cnt", self.insn_cnt, 1, INSNS_MAX)
        _check_range("count", self.count, 1, COUNT_MAX)


class KeyDistribution(StrEnum):
    """How churn chooses the keys it touches."""

    UNIFORM = "uniform"
    ZIPF = "zipf"
    SEQUENTIAL = "sequential"


@dataclass(frozen=True, slots=True, kw_only=True)
class Churn:
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
            _check_range(name, getattr(self, name), 0, 1_000_000)
        if self.operations_per_step and not self.weight:
            raise SpecError(_RECORD, "lookups", 0, "all weights are 0", "give one of them a weight")
        _check_range("operations_per_step", self.operations_per_step, 0, OPERATIONS_PER_STEP_MAX)
        _check_range("step_ns", self.step_ns, 1, 1 << 62)
        _check_range("batch_size", self.batch_size, 1, 65_536)
        _check_range("extra_maps_max", self.extra_maps_max, 0, COUNT_MAX)
        _check_range("ramp_steps", self.ramp_steps, 0, 1_000_000)
        _check_share("working_set", self.working_set)
        _check_share("start_share", self.start_share)
        _check_member("key_distribution", self.key_distribution, KeyDistribution)

    @property
    def weight(self) -> int:
        """Sum of the four weights."""
        return self.lookups + self.updates + self.deletes + self.creates


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
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
    churn: Churn = field(default_factory=Churn)

    def __post_init__(self) -> None:
        _check_name("name", self.name)
        _check_range("user_memory_bytes", self.user_memory_bytes, 0, MEMORY_BYTES_MAX)
        _check_range("maps", sum(m.maps for m in self.maps), 0, MAPS_PER_INVENTORY_MAX)
        _check_range("programs", sum(p.count for p in self.programs), 0, MAPS_PER_INVENTORY_MAX)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Toleration:
    """Lets a workload onto nodes with a matching taint; an empty ``value`` matches every value of
    ``key``.
    """

    key: str
    value: str = ""

    def __post_init__(self) -> None:
        _check_label("key", self.key)

    def tolerates(self, key: str, value: str) -> bool:
        """Whether the taint ``key=value`` is accepted."""
        return self.key == key and self.value in ("", value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Keeps the replica counts of the values of a node label within ``max_skew`` of each other."""

    topology_key: str = "node"
    max_skew: int = 1

    def __post_init__(self) -> None:
        _check_label("topology_key", self.topology_key)
        _check_range("max_skew", self.max_skew, 1, REPLICAS_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSpec:
    """A workload as its owner wishes it: what runs, how often, where it may run and under which
    limits.

    What runs is either ``inventory`` or ``application``, the name of a catalogue entry that is
    sized for the node it lands on; ``options`` override that entry's own. ``per_node`` puts one
    replica on every eligible node instead of ``replicas`` (a DaemonSet). ``memory_limit_bytes``
    None is ``max``. ``memlock_bytes`` None leaves the node's default; ``RLIM_INFINITY`` lifts it.
    ``user_memory_bytes`` None takes the application's own figure.
    """

    name: str
    application: str | None = None
    inventory: Inventory | None = None
    options: Mapping[str, int] = field(default_factory=dict, hash=False)
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
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
    churn: Churn | None = None
    restart_policy: RestartPolicy = RestartPolicy.ALWAYS
    node_selector: Mapping[str, str] = field(default_factory=dict, hash=False)
    tolerations: tuple[Toleration, ...] = ()
    spread: Spread | None = None

    def __post_init__(self) -> None:
        _check_name("name", self.name)
        self._check_program()
        _check_range("replicas", self.replicas, 0, REPLICAS_MAX)
        _check_range("priority", self.priority, -(1 << 31), (1 << 31) - 1)
        _check_range("uid", self.uid, 0, U32_MAX - 1)
        _check_range("memory_request_bytes", self.memory_request_bytes, 0, MEMORY_BYTES_MAX)
        _check_optional("memory_limit_bytes", self.memory_limit_bytes, 0, MEMORY_BYTES_MAX)
        _check_optional("memlock_bytes", self.memlock_bytes, 0, RLIM_INFINITY)
        _check_range("oom_score_adj", self.oom_score_adj, -1000, 1000)
        _check_optional("user_memory_bytes", self.user_memory_bytes, 0, MEMORY_BYTES_MAX)
        _check_member("restart_policy", self.restart_policy, RestartPolicy)
        for key in (*self.labels, *self.node_selector):
            _check_label("labels", key)

    def _check_program(self) -> None:
        if self.application is not None:
            _check_name("application", self.application)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpec:
    """One replica bound to a node, all resolved: the runtime needs nothing else to start it."""

    workload: str
    ordinal: int
    inventory: Inventory
    uid: int = 0
    capabilities: frozenset[Capability] | None = None
    cgroup: str = ""
    memory_limit_bytes: int | None = None
    memlock_bytes: int | None = None
    oom_score_adj: int = 0
    restart_policy: RestartPolicy = RestartPolicy.ALWAYS
    seed: int = 0

    def __post_init__(self) -> None:
        _check_name("workload", self.workload)
        _check_range("ordinal", self.ordinal, 0, REPLICAS_MAX)
        _check_cgroup(self.cgroup)
        _check_range("uid", self.uid, 0, U32_MAX - 1)
        _check_optional("memory_limit_bytes", self.memory_limit_bytes, 0, MEMORY_BYTES_MAX)
        _check_optional("memlock_bytes", self.memlock_bytes, 0, RLIM_INFINITY)
        _check_range("oom_score_adj", self.oom_score_adj, -1000, 1000)
        _check_range("seed", self.seed, 0, (1 << 64) - 1)

    @property
    def name(self) -> str:
        """``workload-ordinal``, unique on the fleet."""
        return f"{self.workload}-{self.ordinal}"

    @property
    def cgroup_path(self) -> str:
        """The replica's cgroup: ``cgroup`` where given, else one below ``/workloads``."""
        return self.cgroup or f"/workloads/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a call of a replica failed: the call, Linux's errno by name (``KILLED`` where a signal
    ended the process), the true reason, the object and the numbers.
    """

    call: str
    errno: str
    reason: str
    object: str = ""
    detail: str = ""
    numbers: Mapping[str, int | str] = field(default_factory=dict, hash=False)
    time_ns: int = 0
    oom_killed: bool = False

    @property
    def killed(self) -> bool:
        """Whether a signal ended the process, the OOM killer's or another: then no errno was answered."""
        return self.errno == KILLED


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
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
    outcomes: Mapping[str, int] = field(default_factory=dict, hash=False)

    @property
    def restarts(self) -> int:
        """Starts after the first one."""
        return max(0, self.starts - 1)


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpecError(_RECORD, name, value, "not a whole number", "write an integer")
    if not low <= value <= high:
        raise SpecError(_RECORD, name, value, "out of range", f"use {low} to {high}")


def _check_optional(name: str, value: int | None, low: int, high: int) -> None:
    if value is not None:
        _check_range(name, value, low, high)


def _check_share(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise SpecError(_RECORD, name, value, "not a share", "use a number from 0 to 1")


def _check_member(name: str, value: object, kind: type[StrEnum]) -> None:
    if not isinstance(value, kind):
        known = ", ".join(member.value for member in kind)
        raise SpecError(_RECORD, name, value, "unknown", f"use one of {known}")


def _check_map_type(value: object) -> None:
    if not isinstance(value, MapType) or value is MapType.UNSPEC:
        raise SpecError(_RECORD, "map_type", value, "unknown map type", "use bpftool's name")


def _check_name(name: str, value: object) -> None:
    if not isinstance(value, str) or _NAME.fullmatch(value) is None:
        raise SpecError(
            _RECORD,
            name,
            value,
            "not a name",
            "use 1 to 63 of a-z, 0-9, '-' and '.', letter or digit at the ends",
        )


def _check_cgroup(path: str) -> None:
    """Empty, or a path that mkdir(2) would take."""
    if path and (not path.startswith("/") or len(path) > CGROUP_PATH_CHARS_MAX):
        raise SpecError(
            _RECORD,
            "cgroup",
            path,
            "not a cgroup path",
            f"start it with '/', at most {CGROUP_PATH_CHARS_MAX} characters",
        )


def _check_label(name: str, value: object) -> None:
    if not isinstance(value, str) or _LABEL.fullmatch(value) is None:
        raise SpecError(
            _RECORD, name, value, "not a label key", "use letters, digits, '-', '_', '.' and '/'"
        )


def _check_object_name(name: str, value: object) -> None:
    if not isinstance(value, str) or _OBJECT_NAME.fullmatch(value) is None:
        raise SpecError(
            _RECORD,
            name,
            value,
            "not a BPF object name",
            f"use at most {BPF_OBJ_NAME_LEN - 1} of A-Z, a-z, 0-9, '_' and '.'",
        )
