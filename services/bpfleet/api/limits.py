"""Limits of whatever is named: an application, a listing, a capture, or workloads of a scenario."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.api.host_kernel import own_kernel
from bpfleet.calibrate.containers import host_input
from bpfleet.calibrate.generation import best_matches, likely_cpus
from bpfleet.captures.document import is_document, read_document
from bpfleet.captures.listings import listing_name, read_listing
from bpfleet.near import advice
from bpfleet.report.answer import HostCase, answer_for
from bpfleet.report.limit_rows import LimitRow, rows_of_advice, rows_of_answer
from bpfleet.report.limits import LimitTask, advise, limit_tasks
from bpfleet.report.scenario_file import read_text
from bpfleet.runtime.profiles import profile_from
from bpfleet.workload.catalogue import applications
from bpfleet.workload.errors import SpecError
from bpfleet.workload.resolve import resolve
from bpfleet.workload.scenario import Scenario
from bpfleet.workload.spec import Inventory, NodeShape, WorkloadSpec

__all__ = ["CPUS", "KERNEL", "limits_of", "limits_of_inventory", "limits_of_scenario"]

CPUS: Final = 16
KERNEL: Final = "6.12"
_STEPS: Final = 20
_STEP_NS: Final = 5_000_000_000
_GIVEN: Final = "heap as given"


def limits_of(
    what: str,
    kernels: Sequence[str] = (),
    *,
    cpus: int | None = None,
    ram_bytes: int = 64 << 30,
    heap_bytes: int | None = None,
) -> Iterator[LimitRow | str]:
    """Rows for a file if there is one called ``what``, else for the application of that name; notes come as text.

    A capture answers for its own kernel unless ``kernels`` are given. Raises ``SpecError``, ``OSError``.
    """
    path = Path(what)
    if path.is_file():
        if is_document(path.read_bytes()):
            yield from _of_capture(path, kernels)
        else:
            yield from _of_listing(path, kernels, cpus, ram_bytes, heap_bytes)
        return
    if what not in applications():
        remedy = advice(what, applications())
        raise SpecError("limit", "", what, "neither a file nor an application", remedy)
    workload = WorkloadSpec(
        name=what, application=what, user_memory_bytes=heap_bytes, memlock_bytes=RLIM_INFINITY
    )
    shape = NodeShape(possible_cpus=cpus or CPUS, ram_bytes=ram_bytes)
    source = _GIVEN if heap_bytes is not None else "heap of the catalogue"
    for kernel in kernels or (KERNEL,):
        yield from _alone(workload, kernel, shape, source)


def limits_of_inventory(
    inventory: Inventory, kernel: str, shape: NodeShape
) -> tuple[LimitRow, ...]:
    """The limits of what an application or a listing creates, alone on a host."""
    workload = WorkloadSpec(name=inventory.name, inventory=inventory, memlock_bytes=RLIM_INFINITY)
    known = inventory.user_memory_bytes > 0
    return _alone(workload, kernel, shape, "heap of the catalogue" if known else "heap not counted")


def limits_of_scenario(
    scenario: Scenario, names: Sequence[str] = (), kernels: Sequence[str] = ()
) -> Iterator[LimitRow]:
    """Rows of the workloads called ``names`` (none: all) on every node pool they may run on."""
    known = [workload.name for workload in scenario.workloads]
    for name in names:
        if name not in known:
            raise SpecError("scenario", "", name, "no such workload", advice(name, known))
    for kernel in kernels or (KERNEL,):
        for task in limit_tasks(scenario, kernel):
            if not names or task.spec.workload.name in names:
                yield from rows_of_advice(advise(task), heap_source="heap of the scenario")


def _of_listing(
    path: Path, kernels: Sequence[str], cpus: int | None, ram_bytes: int, heap_bytes: int | None
) -> Iterator[LimitRow | str]:
    listing = read_listing(read_text(path), str(path), name=listing_name(path.stem))
    yield from listing.warnings
    told = likely_cpus(best_matches(listing.seen))
    if heap_bytes is None:
        yield "a listing does not tell the heap: 0 is assumed"
    if cpus is None and told is None:
        yield f"a listing without memlock values does not tell the CPUs: {CPUS} are assumed"
    workload = WorkloadSpec(
        name=listing.inventory.name,
        inventory=listing.inventory,
        user_memory_bytes=heap_bytes or 0,
        memlock_bytes=RLIM_INFINITY,
    )
    shape = NodeShape(possible_cpus=cpus or told or CPUS, ram_bytes=ram_bytes)
    source = _GIVEN if heap_bytes is not None else "heap not counted"
    for kernel in kernels or (KERNEL,):
        yield from _alone(workload, kernel, shape, source)


def _of_capture(path: Path, kernels: Sequence[str]) -> tuple[LimitRow, ...]:
    document = read_document(path.read_bytes(), str(path))
    host, kernel = host_input(document), own_kernel(document, {})
    case = HostCase(source=str(path), document=document, before=host, after=host, kernel=kernel)
    targets = [profile_from(name) for name in kernels] or [kernel]
    return rows_of_answer(answer_for([case], targets))


def _alone(
    workload: WorkloadSpec, kernel: str, shape: NodeShape, heap_source: str
) -> tuple[LimitRow, ...]:
    task = LimitTask(
        model=kernel,
        shape=shape,
        group="host",
        spec=resolve(workload, 0, "host", shape, seed=1),
        steps=_STEPS,
        step_ns=_STEP_NS,
    )
    return rows_of_advice(advise(task), heap_source=heap_source)
