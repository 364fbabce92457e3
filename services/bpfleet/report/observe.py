"""Reads one kernel of a comparison: counters at a moment, charges over time, kills, and what came
of each replica.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, final

from msgspec.structs import replace

from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel import KernelError, Reason, TaskKilled
from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.events import EventKind
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.units import bytes_of, pages_for
from bpfleet.report.results import ChargeSample, Counters, ModelOnNode, OomKill, ReplicaResult
from bpfleet.runtime import ReplicaRun, Supervisor
from bpfleet.workload.spec import Failure, ReplicaSpec

__all__ = ["ModelObserver", "counters_at", "counters_of"]

# The class of everything the rlimit model charges: it counts pages of a user, not allocations.
LOCKED: Final = "locked"
OTHERS: Final = "others"
PROGRAMS: Final = "programs"
_BPF_OWNERS: Final = frozenset({"map", "prog"})
_REFUSED_UPDATE: Final = "MAP_UPDATE_ELEM ENOMEM "
_EVENTS_PER_KILL: Final = 64  # what the death of a process may log after it


def counters_of(kernel: Kernel, spec: ReplicaSpec, run: ReplicaRun | None) -> Counters:
    """Both counters a replica is up against, now. After a refusal they are given back already: see ``counters_at``."""
    task = run.task if run is not None else None
    limit = task.memlock_soft_bytes if task is not None else spec.workload.memlock_bytes
    path = run.cgroup if run is not None else spec.cgroup_path
    usage_bytes, limit_bytes = _usage(kernel, path)
    return Counters(
        model=str(kernel.profile.model),
        uid=spec.workload.uid,
        locked_bytes=bytes_of(kernel.user(spec.workload.uid).locked_vm_pages),
        memlock_bytes=None if limit is None or limit >= RLIM_INFINITY else limit,
        cgroup=path,
        usage_bytes=usage_bytes,
        limit_bytes=limit_bytes,
        node_free_bytes=kernel.ram.free_bytes,
    )


def counters_at(counters: Counters, error: KernelError | None, kernel: Kernel) -> Counters:
    """``counters`` as they stood when ``error`` was decided: what was given back afterwards is in again."""
    found: Mapping[str, int | str] = {}
    if isinstance(error, TaskKilled):
        found = _last_kill(kernel)
    elif error is not None and error.reason is Reason.MEMCG_LIMIT_EXCEEDED:
        found = error.numbers
    usage, limit = found.get("usage_bytes"), found.get("limit_bytes")
    if not isinstance(usage, int) or not isinstance(limit, int):
        return counters
    cgroup = str(found.get("limited_cgroup", found.get("cgroup", counters.cgroup)))
    return replace(counters, cgroup=cgroup, usage_bytes=usage, limit_bytes=limit)


def _last_kill(kernel: Kernel) -> Mapping[str, int | str]:
    """The fields of the kill that was logged last, just now."""
    recent = kernel.events.since(max(kernel.events.revision - _EVENTS_PER_KILL, 0))
    kills = [event.fields for event in recent if event.kind is EventKind.OOM_KILL]
    return kills[-1] if kills else {}


@final
class ModelObserver:
    """Collects what one model did on one node, step by step."""

    def __init__(self, kernel: Kernel, replicas: Sequence[Supervisor]) -> None:
        self._kernel: Final = kernel
        self._replicas: Final = replicas
        self._samples: Final[list[ChargeSample]] = []
        self._kills: Final[list[OomKill]] = []
        self._revision = 0
        self._peaks: Final = [0] * len(replicas)
        self._workload_of: Final[dict[str, str]] = {}

    def sample(self, step: int) -> None:
        """Takes note of the end of a step."""
        by_class, by_workload = self._charges()
        self._samples.append(
            ChargeSample(
                step=step,
                charged_bytes=sum(by_class.values()),
                by_class=dict(sorted(by_class.items())),
                by_workload=dict(sorted(by_workload.items())),
            )
        )
        self._read_events()
        for index, replica in enumerate(self._replicas):
            self._peaks[index] = max(self._peaks[index], _peak_of(replica))

    def result(self, model: str) -> ModelOnNode:
        """Everything seen, once the run is over."""
        refused: Counter[str] = Counter()
        for replica in self._replicas:
            refused.update(replica.refused())
        maps = self._kernel.bpf.maps()
        by_class, _ = self._charges()
        return ModelOnNode(
            model=model,
            replicas=tuple(
                self._replica(index, replica, maps) for index, replica in enumerate(self._replicas)
            ),
            refused=dict(sorted(refused.items())),
            oom_kills=tuple(self._kills),
            samples=tuple(self._samples),
            estimate_bytes=sum(_estimate(m) for m in maps) + self._program_bytes(),
            charged_bytes=sum(by_class.values()),
            taken_bytes=self._taken_bytes(),
            used_bytes=self._kernel.ram.used_bytes,
        )

    # -- charges

    def _charges(self) -> tuple[Counter[str], Counter[str]]:
        """Charged bytes by class and by workload, under either model."""
        if self._kernel.profile.is_rlimit:
            return self._locked()
        by_class: Counter[str] = Counter()
        by_workload: Counter[str] = Counter()
        creators = {m.id: self._workload(m.creator_cgroup) for m in self._kernel.bpf.maps()}
        for account in self._kernel.memory.accounts.values():
            owner = account.owner
            if account.objcg is None or owner.kind not in _BPF_OWNERS or not account.charged_bytes:
                continue
            by_class[account.kind.name.lower()] += account.charged_bytes
            payer = self._workload(account.objcg.memcg.path)
            name = creators.get(owner.ident, payer) if owner.kind == "map" else payer
            by_workload[name] += account.charged_bytes
        return by_class, by_workload

    def _locked(self) -> tuple[Counter[str], Counter[str]]:
        by_workload: Counter[str] = Counter()
        for bpf_map in self._kernel.bpf.maps():
            by_workload[self._workload(bpf_map.creator_cgroup)] += bpf_map.precharged_bytes
        locked = sum(user.locked_vm_pages for user in self._kernel.users.all())
        rest = bytes_of(locked) - sum(by_workload.values())
        if rest:
            by_workload[PROGRAMS] += rest
        return Counter({LOCKED: bytes_of(locked)} if locked else {}), +by_workload

    def _taken_bytes(self) -> int:
        """Memory that maps and programs really occupy, whoever is charged for it."""
        accounts = self._kernel.memory.accounts.values()
        return sum(a.taken_bytes for a in accounts if a.owner.kind in _BPF_OWNERS)

    def _program_bytes(self) -> int:
        """What the rlimit era precharges for programs: their instruction memory, in whole pages."""
        return sum(bytes_of(prog.image_pages) for prog in self._kernel.bpf.progs())

    def _workload(self, cgroup: str) -> str:
        """The workload living in ``cgroup``."""
        found = self._workload_of.get(cgroup)
        if found is None:
            found = self._workload_of[cgroup] = self._find_workload(cgroup)
        return found

    def _find_workload(self, cgroup: str) -> str:
        """Rollouts live in ``PATH-rN``."""
        for replica in self._replicas:
            if _belongs(cgroup, replica.spec):
                return replica.spec.workload.name
        return OTHERS

    # -- kills

    def _read_events(self) -> None:
        events = self._kernel.events
        start = max(self._revision, events.oldest_revision - 1)
        for event in events.since(start, events.revision - start):
            if event.kind is EventKind.OOM_KILL:
                cgroup = str(event.fields.get("task_memcg", event.fields.get("cgroup", "")))
                self._kills.append(
                    OomKill(
                        time_ns=event.time_ns,
                        workload=self._workload(cgroup),
                        cgroup=cgroup,
                        fields=dict(event.fields),
                    )
                )
        self._revision = events.revision

    # -- replicas

    def _replica(self, index: int, replica: Supervisor, maps: Sequence[BpfMap]) -> ReplicaResult:
        status = replica.status()
        own = [m for m in maps if _belongs(m.creator_cgroup, replica.spec)]
        first = replica.first_failure
        return ReplicaResult(
            name=replica.spec.name,
            workload=replica.spec.workload.name,
            application=replica.spec.inventory.name,
            phase=status.phase,
            starts=status.starts,
            oom_kills=status.oom_kills,
            first_start=replica.first_start,
            later_starts=dict(sorted(replica.later_starts.items())),
            refused_updates=sum(
                n for key, n in status.outcomes.items() if key.startswith(_REFUSED_UPDATE)
            ),
            first_errno=first.errno if first is not None else "",
            failure=_sentence(status.last_failure),
            maps_created=status.maps_created,
            programs_loaded=status.programs_loaded,
            operations=status.operations,
            estimate_bytes=sum(_estimate(m) for m in own),
            charged_bytes=sum(
                m.precharged_bytes if self._kernel.profile.is_rlimit else m.charged_bytes
                for m in own
            ),
            usage_bytes=_usage_of(replica),
            peak_bytes=self._peaks[index],
            limit_bytes=replica.spec.workload.memory_limit_bytes,
        )


def _belongs(cgroup: str, spec: ReplicaSpec) -> bool:
    """Whether ``cgroup`` is the replica's, of its first rollout or a later one."""
    path, rollout, number = cgroup.rpartition("-r")
    return cgroup == spec.cgroup_path or (
        bool(rollout) and path == spec.cgroup_path and number.isdigit()
    )


def _estimate(bpf_map: BpfMap) -> int:
    """What the rlimit era would precharge, in whole pages."""
    return bytes_of(pages_for(bpf_map.estimate_bytes))


def _sentence(failure: Failure | None) -> str:
    if failure is None:
        return ""
    where = f"{failure.call} {failure.object}".strip()
    return f"{failure.errno} at {where}: {failure.detail or failure.reason}"


def _usage_of(replica: Supervisor) -> int:
    return _usage(replica.kernel, _cgroup_of(replica))[0]


def _peak_of(replica: Supervisor) -> int:
    """The highest usage of its cgroup so far, in bytes; 0 where it is not there."""
    try:
        return bytes_of(replica.kernel.cgroup(_cgroup_of(replica)).memcg.memory.watermark)
    except KernelError:
        return 0


def _cgroup_of(replica: Supervisor) -> str:
    return replica.run.cgroup if replica.run is not None else replica.spec.cgroup_path


def _usage(kernel: Kernel, path: str) -> tuple[int, int | None]:
    """memory.current and memory.max of a cgroup in bytes; 0 and None where it is not there (yet)."""
    try:
        memcg = kernel.cgroup(path).memcg
    except KernelError:
        return 0, None
    return memcg.usage_bytes, memcg.limit_bytes
