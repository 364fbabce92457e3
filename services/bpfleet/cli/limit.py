"""``bpfleet limit``: the memory.max and RLIMIT_MEMLOCK to set, ready to paste."""

from collections.abc import Sequence
from functools import partial
from typing import Final

import click

from bpfleet.api.limits import CPUS, KERNEL, limits_of, limits_of_scenario
from bpfleet.cli.completion import names
from bpfleet.cli.inputs import Size, kernels_option
from bpfleet.cli.listing import BYTES, Column, Rows, listing
from bpfleet.progress import waiting
from bpfleet.report.limit_rows import LIMIT_FORMS, LimitRow, limit_text
from bpfleet.report.scenario_file import read_scenario
from bpfleet.workload.catalogue import applications
from bpfleet.workload.codec import to_data
from bpfleet.workload.quantity import format_bytes
from bpfleet.workload.spec import CPUS_MAX

__all__ = ["LIMIT_COLUMNS", "command"]


def _max(value: int | None) -> str:
    return "none" if value is None else format_bytes(value)


def _pasted(form: str, rows: Sequence[LimitRow]) -> str:
    return limit_text(rows, form)


LIMIT_COLUMNS: Final = (
    Column("name", lambda r: r.name, shrinks=True),
    Column("host", lambda r: r.host, shrinks=True, priority=2),
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
@click.argument(
    "what", nargs=-1, metavar="APPLICATION|FILE|NAME...", shell_complete=names(applications)
)
@kernels_option(f"[default: {KERNEL}; for a capture its own]")
@click.option("--cpus", type=click.IntRange(1, CPUS_MAX), help=f"Possible CPUs [default: {CPUS}].")
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
    rows: list[LimitRow] = []
    if scenario is None and not what:
        raise click.UsageError("name an application, a capture or a listing, or give --scenario")
    with waiting("limits"):
        if scenario is not None:
            rows += limits_of_scenario(read_scenario(scenario), what, kernels)
        for each in () if scenario is not None else what:
            for found in limits_of(each, kernels, cpus=cpus, ram_bytes=ram, heap_bytes=heap):
                if isinstance(found, str):
                    click.echo(found, err=True)
                else:
                    rows.append(found)
    sure = dict.fromkeys(f"{row.kernel}: {row.confidence}" for row in rows)
    return Rows(rows=rows, below="\n".join(sure))
