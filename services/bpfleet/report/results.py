"""What a comparison found, as records: per node, per model, and where the models part ways.

All of it is a function of scenario, seed, models and version; nothing depends on time or on how
many processes took part.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from msgspec import field

from bpfleet.workload.codec import Record, to_data
from bpfleet.workload.phase import Phase
from bpfleet.workload.spec import KILLED

__all__ = [
    "KILLED",
    "ChargeSample",
    "Counters",
    "Divergence",
    "ModelAnswer",
    "ModelOnNode",
    "NodeResult",
    "OomKill",
    "ReplicaResult",
]

# JSON values of any type.
Plain = Any

SUCCESS: Final = "ok"
ABSENT: Final = "not running"


class Counters(Record, frozen=True, kw_only=True):
    """The two counters a replica can run into, in bytes, and their limits (None: no limit).

    ``model`` is the kernel's (rlimit, memcg, none). ``locked_bytes`` is the user's, which only the rlimit model
    moves; ``usage_bytes`` is the cgroup's memory.current.
    """

    model: str
    uid: int
    locked_bytes: int
    memlock_bytes: int | None
    cgroup: str
    usage_bytes: int
    limit_bytes: int | None
    node_free_bytes: int


class ModelAnswer(Record, frozen=True, kw_only=True):
    """What one model answered at a call: ``errno`` is ``ok``, an errno's name, ``SIGKILL`` or ``not
    running``.
    """

    errno: str
    reason: str = ""
    detail: str = ""
    numbers: Mapping[str, int | str] = field(default_factory=dict)
    counters: Counters | None = None


class Divergence(Record, frozen=True, kw_only=True):
    """The first call of a replica that the models did not answer alike.

    ``position`` orders divergences over the fleet: (step, node index, replica index, call index).
    """

    node: str
    workload: str
    replica: str
    application: str
    step: int
    attempt: int
    call: str
    object: str
    verdicts: Mapping[str, ModelAnswer]
    cause: str
    position: tuple[int, int, int, int]


class OomKill(Record, frozen=True, kw_only=True):
    """One kill by the OOM killer: who, where, and who else could have been chosen, badness in
    pages.
    """

    time_ns: int
    workload: str
    cgroup: str
    fields: Mapping[str, int | str] = field(default_factory=dict)


class ChargeSample(Record, frozen=True, kw_only=True):
    """Charged bytes at the end of a step, by class of allocation and by workload, and in all."""

    step: int
    charged_bytes: int
    by_class: Mapping[str, int]
    by_workload: Mapping[str, int]


class ReplicaResult(Record, frozen=True, kw_only=True):
    """How one replica ended up under one model. ``failure`` is the last one, in one line.

    ``first_start`` and ``later_starts`` say how starts ended (``ok`` or an errno);
    ``refused_updates`` counts ENOMEM answers to updates while it ran.
    """

    name: str
    workload: str
    application: str
    phase: Phase
    starts: int
    oom_kills: int
    first_start: str
    later_starts: Mapping[str, int]
    refused_updates: int
    first_errno: str
    failure: str
    maps_created: int
    programs_loaded: int
    operations: int
    estimate_bytes: int
    charged_bytes: int
    usage_bytes: int
    peak_bytes: int
    limit_bytes: int | None


class ModelOnNode(Record, frozen=True, kw_only=True):
    """One node under one model. ``refused`` counts calls by ``call errno reason``; bytes are those
    at the end.
    """

    model: str
    replicas: tuple[ReplicaResult, ...]
    refused: Mapping[str, int]
    oom_kills: tuple[OomKill, ...]
    samples: tuple[ChargeSample, ...]
    estimate_bytes: int
    charged_bytes: int
    taken_bytes: int
    used_bytes: int

    @property
    def oom_kill_count(self) -> int:
        """Kills on this node."""
        return len(self.oom_kills)

    def count(self, errno: str) -> int:
        """Calls refused with ``errno``."""
        return sum(n for key, n in self.refused.items() if key.split()[1] == errno)

    def phase_count(self, phase: Phase) -> int:
        """Replicas that ended in ``phase``."""
        return sum(replica.phase is phase for replica in self.replicas)


class NodeResult(Record, frozen=True, kw_only=True):
    """One node under all models."""

    node: str
    group: str
    possible_cpus: int
    ram_bytes: int
    models: Mapping[str, ModelOnNode]
    divergences: tuple[Divergence, ...]


def as_plain(record: object) -> Plain:
    """``record`` for JSON."""
    return to_data(record)


def added(counters: list[Mapping[str, int]]) -> dict[str, int]:
    """The sum of counters, keys sorted."""
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return dict(sorted(total.items()))
