"""The road of ``bpfleet compare`` for captured hosts: read documents, emulate today and after, answer per container."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from msgspec.structs import replace as changed

from bpfleet.api.host_kernel import KnownKernels, own_kernel
from bpfleet.calibrate.containers import HostInput, host_input, replaced, with_fill
from bpfleet.captures.document import Document, is_document, read_document
from bpfleet.captures.listings import read_listing
from bpfleet.cli.output import console, print_json, print_sureness, print_table, say, write_file
from bpfleet.kernel.profile import on_machine
from bpfleet.progress import progress
from bpfleet.report.answer import (
    CALIBRATION_HEADS,
    ROW_HEADS,
    Answer,
    HostCase,
    answer_data,
    answer_for,
    calibration_cells,
    row_cells,
    to_csv,
    to_markdown,
)
from bpfleet.report.answer_page import answer_page
from bpfleet.report.patches import patch_files
from bpfleet.runtime.profiles import profile_from
from bpfleet.workload.catalogue import inventory_for
from bpfleet.workload.errors import SpecError
from bpfleet.workload.spec import Inventory, NodeShape

__all__ = ["CapturedOptions", "compare_captures"]

NEW_FAILURES: Final = "new-failures"
EXIT_NEW_FAILURES: Final = 1
_SHOWN_CALIBRATIONS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedOptions:
    """What the command line asked."""

    after: tuple[str, ...]
    before: str | None = None
    cpus: int | None = None
    ram: int | None = None
    fill: float | None = None
    replacements: tuple[str, ...] = ()
    grouping: bool = True
    skip_bad: bool = False
    as_json: bool = False
    csv_file: Path | None = None
    markdown_file: Path | None = None
    report_file: Path | None = None
    patches: Path | None = None
    fail_on: str | None = None
    command: str = ""


def compare_captures(files: Sequence[Path], options: CapturedOptions) -> int:
    """The answer for the hosts in ``files``; the exit status."""
    targets = [profile_from(name) for name in options.after]
    profiles: KnownKernels = {}
    with progress("hosts", len(files)) as advance:
        documents = _documents(files, skip_bad=options.skip_bad)
        cases = (_case(source, document, options, profiles) for source, document in documents)
        answer = answer_for(cases, targets, grouping=options.grouping, on_host=advance)
    if not answer.hosts:
        raise click.UsageError("no capture could be read")
    if options.as_json:
        print_json(answer_data(answer))
    else:
        _print(answer)
    _write(answer, options)
    failed = options.fail_on == NEW_FAILURES and answer.new_failures
    return EXIT_NEW_FAILURES if failed else 0


def _documents(files: Sequence[Path], *, skip_bad: bool) -> Iterator[tuple[str, Document]]:
    for path in files:
        try:
            yield str(path), read_document(path.read_bytes(), str(path))
        except SpecError as error:
            if not skip_bad:
                raise
            click.echo(f"left out: {error}", err=True)


def _case(
    source: str,
    document: Document,
    options: CapturedOptions,
    profiles: KnownKernels,
) -> HostCase:
    before = host_input(document)
    after = before
    if options.cpus is not None:
        after = changed(after, possible_cpus=options.cpus)
    if options.ram is not None:
        after = changed(after, ram_bytes=options.ram)
    if options.fill is not None:
        after = with_fill(after, options.fill)
    for text in options.replacements:
        after = _replaced(after, text)
    kernel = own_kernel(document, profiles)
    if options.before:
        host = document.host
        kernel = on_machine(profile_from(options.before), host.machine, host.page_size)
    return HostCase(source=source, document=document, before=before, after=after, kernel=kernel)


def _replaced(host: HostInput, text: str) -> HostInput:
    """``KIND=FILE`` or ``KIND=APPLICATION``: another set of maps for containers of that kind."""
    kind, equals, what = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r}: write CONTAINER=FILE", param_hint="--replace")
    if all(each.kind != kind for each in host.containers):
        known = ", ".join(sorted({each.kind for each in host.containers}))
        raise click.BadParameter(
            f"no container is called {kind}; there are {known}", param_hint="--replace"
        )
    return replaced(host, kind, _new_inventory(kind, what, host))


def _new_inventory(kind: str, what: str, host: HostInput) -> Inventory:
    path = Path(what)
    if not path.exists():
        shape = NodeShape(possible_cpus=host.possible_cpus, ram_bytes=host.ram_bytes)
        return inventory_for(what, shape)
    data = path.read_bytes()
    if is_document(data):
        containers = host_input(read_document(data, what)).containers
        found = next((each for each in containers if each.kind == kind), None)
        if found is None:
            raise SpecError(
                what, "", kind, "no such container in this capture", "capture where it runs"
            )
        return found.inventory
    return read_listing(data.decode("utf-8", "replace"), what, name="new").inventory


def _write(answer: Answer, options: CapturedOptions) -> None:
    if options.csv_file is not None:
        write_file(options.csv_file, to_csv(answer))
    if options.markdown_file is not None:
        write_file(options.markdown_file, to_markdown(answer))
    if options.report_file is not None:
        write_file(options.report_file, answer_page(answer, options.command))
    if options.patches is not None:
        for name, text in patch_files(answer.rows).items():
            path = options.patches / name
            os.makedirs(path.parent, exist_ok=True)
            write_file(path, text)


def _print(answer: Answer) -> None:
    out = console()
    out.print(answer.title, style="bold", markup=False)
    say(answer.verdict)
    if not answer.calibrations:
        print_sureness(answer.sureness)
        return
    out.print()
    print_table(
        ROW_HEADS,
        map(row_cells, answer.rows),
        numbers_from=6,
        texts=("limit", "needs at least", "decided by"),
    )
    for row in answer.rows:
        if row.why:
            say(f"  {row.container} under {row.target}: {row.why}")
    out.print()
    out.print("Calibration: today's emulation beside what the captures saw", style="bold")
    shown = sorted(answer.calibrations, key=lambda each: each[1].reproduced)[:_SHOWN_CALIBRATIONS]
    print_table(
        CALIBRATION_HEADS,
        (calibration_cells(*each) for each in shown),
        numbers_from=3,
        texts=("events",),
    )
    good = sum(line.reproduced for _, line in answer.calibrations)
    out.print(f"{good} of {len(answer.calibrations)} containers reproduced", markup=False)
    for kind, text in answer.assumptions:
        say(f"assumed: {kind}: {text}")
    print_sureness(answer.sureness)
