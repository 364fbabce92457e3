"""``bpfleet oracle``: the emulator against recordings of real kernels."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from bpfleet.cli.inputs import OutputFolder
from bpfleet.cli.listing import data_options
from bpfleet.cli.output import print_json
from bpfleet.near import unknown
from bpfleet.oracle.format.report import render
from bpfleet.oracle.record.cases import random_creations, random_sequences
from bpfleet.oracle.record.create import dump
from bpfleet.oracle.record.files import (
    RecordingRefused,
    kernel_name,
    record_cases,
    record_file,
    story_recorder,
)
from bpfleet.oracle.record.stories import StoryRecorder, random_stories
from bpfleet.oracle.replay.files import check_file
from bpfleet.oracle.replay.machine import Target
from bpfleet.oracle.replay.stories import first_difference, story_target
from bpfleet.oracle.shrink import smallest
from bpfleet.progress import progress, ticking
from bpfleet.shipped import RECORDINGS, shipped

__all__ = ["command"]


@click.group("oracle")
def command() -> None:
    """The emulator against recordings of real kernels.

    \b
    Examples:
      bpfleet oracle check
      bpfleet oracle check --kernel 6.12 --json
      bpfleet oracle record --random 200 --out mine
    """


@command.command("check")
@click.argument(
    "files",
    nargs=-1,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="[FILE]...",
)
@click.option("--kernel", "wanted", help="Check the built-in recordings of this kernel.")
@data_options
def check(*, files: tuple[Path, ...], wanted: str | None, as_json: bool) -> int:
    """Replays recordings, by default those that come with bpfleet; per section: cases, exact, mismatches with the first
    ten in full, unsupported.

    \b
    The file name says what it contains: create-TARGET, elements-TARGET, perm-TARGET, errno,
    scenarios-MODEL-TARGET, stories-MODEL-TARGET, types-TARGET, with TARGET as in 6.1-smp2. Of stories it says how many
    have no difference, with and without event counts, and what differs first in each other. Exit status 1 if anything
    differs.

    \b
    Examples:
      bpfleet oracle check --kernel 6.12
      bpfleet oracle check --json mine/*.jsonl
      bpfleet oracle check mine/stories-*.jsonl
    """
    if files and wanted:
        raise click.UsageError("give FILE or --kernel, not both")
    files = files or _shipped_recordings(wanted)
    reports = []
    with progress("recordings", len(files)) as advance:
        for path in files:
            report = check_file(path)
            reports.append(report)
            advance()
            if not as_json:
                click.echo(render(report))
    if as_json:
        print_json([report.as_json() for report in reports])
    return 1 if any(report.mismatched for report in reports) else 0


def _shipped_recordings(kernel: str | None) -> tuple[Path, ...]:
    """The recordings that come with bpfleet, of one kernel or of all."""
    files = sorted(shipped(RECORDINGS).glob("*.jsonl"))
    if kernel is None:
        return tuple(files)
    by_kernel: dict[str, list[Path]] = {}
    for file in files:
        by_kernel.setdefault(file.stem.rpartition("-smp")[0].rpartition("-")[2], []).append(file)
    if kernel not in by_kernel:
        raise click.BadParameter(
            unknown("kernel", kernel, filter(None, by_kernel)), param_hint="--kernel"
        )
    return tuple(by_kernel[kernel])


@command.command("record")
@click.argument(
    "files",
    nargs=-1,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="[FILE]...",
)
@click.option(
    "--out",
    required=True,
    type=OutputFolder(),
    help="Directory to write recordings to.",
)
@click.option(
    "--random",
    "count",
    type=click.IntRange(1, 100_000),
    help="Also record this many new cases of each kind.",
)
@click.option(
    "--stories",
    type=click.IntRange(1, 100_000),
    help="Also play this many random stories of several processes, cgroups and limits.",
)
@click.option(
    "--shrink",
    is_flag=True,
    help="Replay each story; reduce one that differs to the smallest that still does.",
)
@click.option("--seed", default=1, show_default=True, help="Seed of the new cases.")
@click.option(
    "--sysctl",
    is_flag=True,
    help="Let perm cases write kernel.unprivileged_bpf_disabled. The value 1 stays until reboot.",
)
@data_options
def record(
    *,
    files: tuple[Path, ...],
    out: Path,
    count: int | None,
    stories: int | None,
    shrink: bool,
    seed: int,
    sysctl: bool,
    as_json: bool,
) -> None:
    """Runs recorded cases, or new ones, on the kernel of this machine and writes what it answers.

    \b
    Needs root and bpf(2); create and elements cases make a memory cgroup. Each case runs in a forked child;
    nothing stays behind. What is written can be given to `bpfleet oracle check`; new cases go to
    a directory of their own below --out.

    \b
    Examples:
      bpfleet oracle record --out mine tests/oracle/recorded/errno.jsonl
      bpfleet oracle record --out mine --random 200 --seed 7
      bpfleet oracle record --out mine --stories 20 --shrink
    """
    if not files and count is None and stories is None:
        raise click.UsageError(
            "nothing to record: give recordings, --random COUNT for new cases, or --stories COUNT"
        )
    if shrink and stories is None:
        raise click.UsageError("--shrink goes with --stories COUNT")
    here = kernel_name()
    try:
        written = _record(files, out, here, count, stories, seed, shrink=shrink, sysctl=sysctl)
    except (RecordingRefused, ValueError) as error:
        raise click.ClickException(f"cannot record: {error}") from None
    if as_json:
        print_json([{"file": str(path), "cases": number} for path, number in written])
        return
    for path, number in written:
        click.echo(f"{number:>6} cases  {path}")


def _record(
    files: Sequence[Path],
    out: Path,
    here: str,
    count: int | None,
    stories: int | None,
    seed: int,
    *,
    shrink: bool,
    sysctl: bool,
) -> list[tuple[Path, int]]:
    written = [
        _write(out / f"{_kind(path)}-{here}.jsonl", record_file(path, sysctl=sysctl))
        for path in files
    ]
    if count is not None:
        new = {"create": random_creations(seed, count), "errno": random_sequences(seed, count)}
        for kind, cases in new.items():
            target = out / f"random-{seed}" / f"{kind}-{here}.jsonl"
            written.append(_write(target, record_cases(cases, kind)))
    if stories is not None:
        written += _record_stories(out / f"random-{seed}", here, seed, stories, shrink=shrink)
    return written


def _record_stories(
    out: Path, here: str, seed: int, count: int, *, shrink: bool
) -> list[tuple[Path, int]]:
    """Random stories as this kernel plays them; with ``shrink`` also the smallest of each that differs."""
    recorder = story_recorder()
    mode = "memcg-v1" if recorder.mode == "v1" else "memcg"
    path = out / f"stories-{mode}-{here}.jsonl"
    told = [recorder.record(story) for story in random_stories(seed, count)]
    written = [_write(path, iter(told))]
    if shrink:
        target = story_target(f"{mode}-{here}", {}, told)
        small = [
            _smallest(case, recorder, target) for case in told if first_difference(case, target)
        ]
        if small:
            written.append(_write(out / f"stories-smallest-{here}.jsonl", iter(small)))
    return written


def _smallest(case: dict[str, Any], recorder: StoryRecorder, target: Target) -> dict[str, Any]:
    """The smallest story that differs in the same field of whatever cgroup or actor."""
    found = first_difference(case, target)
    assert found is not None, case["id"]
    field = found[1].field.split()[-1]

    def differs(steps: list[dict[str, Any]]) -> bool:
        again = first_difference(recorder.record({**case, "steps": steps}), target)
        return again is not None and again[1].field.split()[-1] == field

    return recorder.record({**case, "steps": smallest(case["steps"], differs)})


def _kind(path: Path) -> str:
    return path.name.partition("-")[0].partition(".")[0]


def _write(path: Path, cases: Iterator[dict[str, Any]]) -> tuple[Path, int]:
    """Writes cases as they come, so that an interrupted recording keeps what it has."""
    written = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    tick = ticking(f"{path}: cases")
    with path.open("w") as stream:
        for case in cases:
            stream.write(dump(case) + "\n")
            written += 1
            tick()
    return path, written
