"""``bpfleet oracle``: the emulator against recordings of real kernels."""

from pathlib import Path

import click

from bpfleet.cli.output import print_json
from bpfleet.oracle.replay import check_file, render

__all__ = ["command"]


@click.group("oracle")
def command() -> None:
    """The emulator against recordings of real kernels.

    \b
    Examples:
      bpfleet oracle check tests/oracle/recorded/*.jsonl
      bpfleet oracle check --json tests/oracle/recorded/errno.jsonl
    """


@command.command("check")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE...",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(*, files: tuple[Path, ...], as_json: bool) -> int:
    """Replays recordings; per section: cases, exact, mismatches with the first ten in full, unsupported.

    \b
    What is in a file is told by its name: create-TARGET, elements-TARGET, perm-TARGET, errno,
    scenarios-MODEL-TARGET, with TARGET as in 6.1-smp2. Exit status 1 if anything differs.

    \b
    Examples:
      bpfleet oracle check tests/oracle/recorded/create-6.12-smp2.jsonl
      bpfleet oracle check --json tests/oracle/recorded/*.jsonl
    """
    reports = []
    for path in files:
        report = check_file(path)
        reports.append(report)
        if not as_json:
            click.echo(render(report))
    if as_json:
        print_json([report.as_json() for report in reports])
    return 1 if any(report.mismatched for report in reports) else 0
