"""How much memory each workload needs: a recommendation from its parts, and the least limit at
which it passes.

The recommendation adds up what a container must hold at its worst moment: heap peak, maps and
programs at the node's CPU count, elements that are allocated as they are inserted, the loader's own
peak and what verifying its largest program takes, the pages each CPU holds charged in advance, and
the largest pinned map once more (an upgrade creates the new one while the old one is still pinned);
then a fifth of head room. The least limit is found by running the workload alone under smaller and
smaller limits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import replace

from bpfleet.kernel.bpf.verifier import bounds_bytes
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.units import bytes_of
from bpfleet.report.models import kernel_of
from bpfleet.report.workers import Mapper
from bpfleet.runtime import ReplicaRun
from bpfleet.runtime.profiles import profile_from
from bpfleet.runtime.programs import complexity_of
from bpfleet.workload.phase import Phase
from bpfleet.workload.quantity import format_bytes
from bpfleet.workload.resolve import resolve
from bpfleet.workload.scenario import Scenario
from bpfleet.workload.spec import NodeShape, ProgramDeclaration, ReplicaSpec

__all__ = [
    "LimitAdvice",
    "LimitTask",
    "advice_data",
    "advise",
    "advise_all",
    "least_passing_bytes",
    "limit_tasks",
]

# JSON values of any type.
Plain = Any

MIB: Final = 1 << 20
# Loading BTF of the kernel and relocating programs: 27 to 30 MiB in cilium/ebpf and Tetragon.
LOADER_PEAK_BYTES: Final = 30 * MIB
CHARGE_BATCH_BYTES: Final = 256 << 10  # 64 pages that each CPU may hold charged in advance
HEAD_ROOM_PERCENT: Final = 20
PARTS: Final = ("heap", "maps", "elements", "loader", "verifier", "CPU stocks", "re-creation")
_ENOMEM: Final = "ENOMEM"


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitTask:
    """One workload on one node shape under one memcg model."""

    model: str
    shape: NodeShape
    group: str
    spec: ReplicaSpec
    steps: int
    step_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitAdvice:
    """What one workload needs on one node shape. ``parts_bytes`` are in the order of ``PARTS``.

    ``least_bytes`` is None where no limit up to twice the recommendation lets it pass. ``locked_bytes`` is what
    its user locks under RLIMIT_MEMLOCK, 0 where that is not consulted.
    """

    model: str
    workload: str
    application: str
    group: str
    shape: NodeShape
    now_bytes: int | None
    parts_bytes: tuple[int, ...]
    recommended_bytes: int
    least_bytes: int | None
    locked_bytes: int = 0

    @property
    def recommended_memlock_bytes(self) -> int:
        """RLIMIT_MEMLOCK with head room, in whole MiB; 0 where that is not consulted."""
        return _with_head_room(self.locked_bytes)


def advise_all(scenario: Scenario, model: str, each: Mapper) -> list[LimitAdvice]:
    """Advice for every workload on every node group it may run on, in the scenario's order."""
    return list(each(advise, limit_tasks(scenario, model)))


def limit_tasks(scenario: Scenario, model: str) -> Sequence[LimitTask]:
    """What is to be measured: every workload on every node group it may run on."""
    return [
        LimitTask(
            model=kernel_of(model, group.kernel),
            shape=group.shape,
            group=group.name,
            spec=resolve(workload, 0, group.name, group.shape, seed=scenario.seed),
            steps=scenario.steps,
            step_ns=scenario.step_ns,
        )
        for workload in scenario.workloads
        for group in scenario.nodes
        if group.count and workload.node_selector.items() <= group.labels.items()
    ]


def advise(task: LimitTask) -> LimitAdvice:
    """Measures the parts of one workload's need and searches the least limit at which it passes."""
    parts, locked = _parts(task)
    recommended = _with_head_room(sum(parts))
    return LimitAdvice(
        model=task.model,
        workload=task.spec.workload.name,
        application=task.spec.inventory.name,
        group=task.group,
        shape=task.shape,
        now_bytes=task.spec.workload.memory_limit_bytes,
        parts_bytes=parts,
        recommended_bytes=recommended,
        least_bytes=least_passing_bytes(task, high_bytes=2 * recommended),
        locked_bytes=locked,
    )


def _parts(task: LimitTask) -> tuple[tuple[int, ...], int]:
    """The parts of the need, and what the user locks at the end of the churn."""
    free = _limited(task.spec, None)
    heap = free.inventory.user_memory_bytes
    kernel, run = _started(task, _without_elements(free))
    created = _kernel_bytes(kernel, run)
    pinned = max((m.charged_bytes for m in kernel.bpf.maps() if m.pinned_paths), default=0)
    kernel, run = _started(task, free)
    _churn(task, kernel, run)
    grown = max(0, _kernel_bytes(kernel, run) - created)
    stocks = CHARGE_BATCH_BYTES * task.shape.possible_cpus
    verifying = max(
        (_verifying_bytes(task, program) for program in free.inventory.programs), default=0
    )
    locked = bytes_of(kernel.user(free.workload.uid).locked_vm_pages)
    return (heap, created, grown, LOADER_PEAK_BYTES, verifying, stocks, pinned), locked


def _verifying_bytes(task: LimitTask, declared: ProgramDeclaration) -> int:
    """What is surely charged while a program is verified: one path where its paths are not known."""
    profile, code = profile_from(task.model), complexity_of(declared)
    return bounds_bytes(profile, declared.insn_cnt, declared.subprog_insns, code)[0]


def _limited(spec: ReplicaSpec, memory_limit_bytes: int | None) -> ReplicaSpec:
    return replace(spec, workload=replace(spec.workload, memory_limit_bytes=memory_limit_bytes))


def _without_elements(spec: ReplicaSpec) -> ReplicaSpec:
    maps = tuple(replace(declared, fill_entries=0) for declared in spec.inventory.maps)
    return replace(spec, inventory=replace(spec.inventory, maps=maps))


def _kernel_bytes(kernel: Kernel, run: ReplicaRun) -> int:
    """What the container is charged beyond its heap."""
    heap = run.task.rss_bytes if run.task is not None else 0
    return max(0, kernel.cgroup(run.cgroup).memcg.usage_bytes - heap)


def least_passing_bytes(task: LimitTask, *, high_bytes: int) -> int | None:
    """The least ``memory.max``, in whole MiB, at which start and churn go through; None if none up
    to ``high_bytes``.

    Passing means: running at the end, nothing killed, no call refused with ENOMEM.
    """
    low, high = 0, high_bytes // MIB
    if not _passes(task, high * MIB):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if _passes(task, middle * MIB):
            high = middle
        else:
            low = middle
    return high * MIB


def _passes(task: LimitTask, limit_bytes: int) -> bool:
    kernel, run = _started(task, _limited(task.spec, limit_bytes))
    return run.phase is Phase.RUNNING and _churn(task, kernel, run)


def _started(task: LimitTask, spec: ReplicaSpec) -> tuple[Kernel, ReplicaRun]:
    kernel = Kernel(
        profile_from(task.model),
        node=task.group,
        ram_bytes=task.shape.ram_bytes,
        possible_cpus=task.shape.possible_cpus,
    )
    run = ReplicaRun(kernel, spec)
    run.start()
    return kernel, run


def _churn(task: LimitTask, kernel: Kernel, run: ReplicaRun) -> bool:
    """Runs the steps; ends early, answering False, at the first ENOMEM or kill."""
    for _ in range(task.steps):
        kernel.advance(task.step_ns)
        run.step()
        refused = any(errno == _ENOMEM for _, errno, _ in run.outcomes)
        if refused or not run.settle():
            return False
    return True


def _with_head_room(need_bytes: int) -> int:
    """A limit for a need, in whole MiB."""
    with_room = need_bytes + need_bytes * HEAD_ROOM_PERCENT // 100
    return -(-with_room // MIB) * MIB


def advice_data(advice: Sequence[LimitAdvice], model: str) -> dict[str, Plain]:
    """The section of the page."""
    shapes = list(dict.fromkeys(_shape_name(a) for a in advice))
    return {
        "note": (
            f"Under {model}: what a container must hold at its worst moment, plus {HEAD_ROOM_PERCENT} % head room; "
            "and the least memory.max at which start and churn pass without a kill or an ENOMEM, found by search."
        ),
        "parts": list(PARTS),
        "model": model,
        "head_room_percent": HEAD_ROOM_PERCENT,
        "shapes": shapes,
        "rows": [
            {
                "shape": _shape_name(a),
                "application": a.workload
                if a.workload == a.application
                else f"{a.workload} ({a.application})",
                "now": a.now_bytes,
                "parts": list(a.parts_bytes),
                "recommended": a.recommended_bytes,
                "least": a.least_bytes,
            }
            for a in advice
        ],
    }


def _shape_name(advice: LimitAdvice) -> str:
    shape = advice.shape
    return f"{advice.group}: {shape.possible_cpus} CPUs, {format_bytes(shape.ram_bytes)}"
