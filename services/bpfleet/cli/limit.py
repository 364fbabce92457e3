"""``bpfleet limit``: the memory.max and RLIMIT_MEMLOCK to set, ready to paste."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import click

from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.calibrate.containers import host_input
from bpfleet.captures.document import is_document, read_document
from bpfleet.cli.captured import own_kernel
from bpfleet.cli.inputs import Size, cpus_of_listings, kernels_option, read_listings, read_scenario
from bpfleet.cli.listing import BYTES, Column, Rows, listing
from bpfleet.near import advice
from bpfleet.report.answer import HostCase, answer_for
from bpfleet.report.limit_rows import (
    LIMIT_FORMS,
    LimitRow,
    limit_text,
    rows_of_advice,
    rows_of_answer,
)
from bpfleet.report.limits import LimitTask, advise, limit_tasks
from bpfleet.runtime.profiles import profile_from
from bpfleet.workload.catalogue import applications
from bpfleet.workload.codec import to_data
from bpfleet.workload.errors import SpecError
from bpfleet.workload.quantity import format_bytes
from bpfleet.workload.resolve import resolve
from bpfleet.workload.scenario import Scenario
from bpfleet.workload.spec import CPUS_MAX, Inventory, NodeShape, WorkloadSpec

__all__ = ["LIMIT_COLUMNS", "command", "rows_of_inventory"]

_CPUS: Final = 16
_KERNEL: Final = "6.12"
_STEPS: Final = 20
_STEP_NS: Final = 5_000_000_000


def _max(value: int | None) -> str:
    return "none" if value is None else format_bytes(value)


def _pasted(form: str, rows: Sequence[LimitRow]) -> str:
    return limit_text(rows, form)


LIMIT_COLUMNS: Final = (
    Column("name", lambda r: r.name, shrinks=True),
    Column("host", lambda r: r.host, shrinks=True, priority=1),
    Column("kernel", lambda r: r.kernel),
    Column("setting", lambda r: r.setting),
    Column("least", lambda r: r.least_bytes, BYTES, _max),
    Column("recommended", lambda r: r.recommended_bytes, BYTES),
    Column("now", lambda r: r.now_bytes, BYTES, _max, wide=True),
    Column("decided by", lambda r: r.decided_by, folds=True),
    Column(
        "parts",
        lambda r: ", ".join(f"{name} {format_bytes(n)}" for name, n in r.parts.items() if n),
        wide=True,
    ),
    Column("confidence", lambda r: r.confidence, wide=True),
)


@click.command("limit")
@click.argument("what", nargs=-1, metavar="APPLICATION|FILE|NAME...")
@kernels_option(f"[default: {_KERNEL}; for a capture its own]")
@click.option("--cpus", type=click.IntRange(1, CPUS_MAX), help=f"Possible CPUs [default: {_CPUS}].")
@click.option("--ram", type=Size(), default="64G", show_default=True, help="Memory of the host.")
@click.option(
    "--heap", type=Size(), help="Peak of the process's own memory, instead of the catalogue's."
)
@click.option("--scenario", help="NAME is a workload of this scenario; without NAME, all of them.")
@listing(
    *LIMIT_COLUMNS,
    data=to_data,
    forms={form: partial(_pasted, form) for form in LIMIT_FORMS},
)
def command(
    *,
    what: tuple[str, ...],
    kernels: tuple[str, ...],
    cpus: int | None,
    ram: int,
    heap: int | None,
    scenario: str | None,
) -> Rows:
    """The least and the recommended memory.max (and RLIMIT_MEMLOCK up to 5.10) with their parts.

    WHAT is an application of the catalogue, a capture, a listing of bpftool, or with --scenario a workload's name.
    The least limit is searched for by emulation; the recommendation adds what a start takes and a fifth of head room.

    \b
    Examples:
      bpfleet limit falco --kernel 6.12 --cpus 64
      bpfleet limit cilium tetragon -o kubernetes
      bpfleet limit maps.json --heap 120M --kernel 5.10,6.12
      bpfleet limit here.json -o systemd
      bpfleet limit --scenario mixed-fleet -o wide
    """
    chosen = kernels or (_KERNEL,)
    rows: list[LimitRow] = []
    if scenario is not None:
        rows += _of_scenario(read_scenario(scenario), what, chosen)
    elif not what:
        raise click.UsageError("name an application, a capture or a listing, or give --scenario")
    for each in () if scenario is not None else what:
        rows += _of(each, kernels, chosen, cpus, ram, heap)
    sure = dict.fromkeys(f"{row.kernel}: {row.confidence}" for row in rows)
    return Rows(rows=rows, below="\n".join(sure))


def _of(
    what: str,
    kernels: Sequence[str],
    chosen: Sequence[str],
    cpus: int | None,
    ram: int,
    heap: int | None,
) -> Iterator[LimitRow]:
    """The rows of one argument: a file if there is one of that name, else an application."""
    path = Path(what)
    if path.is_file():
        if is_document(path.read_bytes()):
            yield from _of_capture(path, kernels)
            return
        (listing,) = read_listings([path])
        cpus = cpus_of_listings([listing], cpus) or _CPUS
        if heap is None:
            click.echo("a listing does not tell the heap: 0 is assumed; --heap sets it", err=True)
        inventory = listing.inventory
        workload = WorkloadSpec(
            name=inventory.name,
            inventory=inventory,
            user_memory_bytes=heap or 0,
            memlock_bytes=RLIM_INFINITY,
        )
        source = "heap as given" if heap is not None else "heap not counted"
    elif what in applications():
        workload = WorkloadSpec(
            name=what, application=what, user_memory_bytes=heap, memlock_bytes=RLIM_INFINITY
        )
        source = "heap as given" if heap is not None else "heap of the catalogue"
    else:
        raise SpecError(
            "limit",
            "",
            what,
            "neither a file nor an application",
            advice(what, applications()),
        )
    shape = NodeShape(possible_cpus=cpus or _CPUS, ram_bytes=ram)
    for kernel in chosen:
        yield from _alone(workload, kernel, shape, source)


def rows_of_inventory(inventory: Inventory, kernel: str, shape: NodeShape) -> tuple[LimitRow, ...]:
    """The limits of what an application or a listing creates, alone on a host."""
    workload = WorkloadSpec(name=inventory.name, inventory=inventory, memlock_bytes=RLIM_INFINITY)
    known = inventory.user_memory_bytes > 0
    return _alone(workload, kernel, shape, "heap of the catalogue" if known else "heap not counted")


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
    return _rows(task, heap_source)


def _rows(task: LimitTask, heap_source: str) -> tuple[LimitRow, ...]:
    return rows_of_advice(advise(task), heap_source=heap_source)


def _of_scenario(
    scenario: Scenario, names: Sequence[str], kernels: Sequence[str]
) -> Iterator[LimitRow]:
    known = [workload.name for workload in scenario.workloads]
    for name in names:
        if name not in known:
            raise SpecError("--scenario", "", name, "no such workload", advice(name, known))
    for kernel in kernels:
        for task in limit_tasks(scenario, kernel):
            if not names or task.spec.workload.name in names:
                yield from _rows(task, "heap of the scenario")


def _of_capture(path: Path, kernels: Sequence[str]) -> tuple[LimitRow, ...]:
    document = read_document(path.read_bytes(), str(path))
    host, kernel = host_input(document), own_kernel(document, {})
    case = HostCase(source=str(path), document=document, before=host, after=host, kernel=kernel)
    targets = [profile_from(name) for name in kernels] or [kernel]
    return rows_of_answer(answer_for([case], targets))
