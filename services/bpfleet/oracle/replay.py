"""Replays recordings of real kernels on the emulator and reports what differs.

create-, elements- and perm-TARGET, errno, and scenarios-MODEL-TARGET: the first word of a file's name says which
replay reads it, after an `extra-` if there is one. The format is described where the recordings are kept.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from bpfleet.oracle.machine import Target, target_named, targets_beside
from bpfleet.oracle.outcome import SHOWN_MISMATCHES, FileReport
from bpfleet.oracle.replay_create import replay_create
from bpfleet.oracle.replay_elements import replay_elements
from bpfleet.oracle.replay_errno import replay_errno
from bpfleet.oracle.replay_perm import replay_perm
from bpfleet.oracle.scenarios import Replay, read_scenarios

_ERRNO_TARGETS: Final = ("5.10-smp2", "6.1-smp2", "6.12-smp2", "6.18-smp2")

_Replay = Callable[[dict[str, Any], Target, FileReport], None]
_PER_TARGET: Final[dict[str, _Replay]] = {
    "create": replay_create,
    "elements": replay_elements,
    "perm": replay_perm,
}
_KINDS: Final = (*_PER_TARGET, "errno", "scenarios")


def check_file(path: Path) -> FileReport:
    """Replays one recording file. Its name tells what is in it.

    Raises ``ValueError`` for a file that is none of these, ``OSError`` for one that cannot be read.
    """
    kind, _, name = path.name.removesuffix(".jsonl").removeprefix("extra-").partition("-")
    known = targets_beside(path)
    report = FileReport(path.name)
    replay = _PER_TARGET.get(kind)
    if replay is not None:
        target = target_named(name, known)
        for case in read_cases(path):
            replay(case, target, report)
    elif kind == "errno":
        targets = [target_named(each, known) for each in _ERRNO_TARGETS]
        for case in read_cases(path):
            for target in _targets_of(case, targets, known):
                replay_errno(case, target, report)
    elif kind == "scenarios":
        _check_scenarios(path, target_named(name.partition("-")[2], known), report)
    else:
        raise ValueError(f"{path.name}: expected a name that starts with {', '.join(_KINDS)}")
    return report


def _check_scenarios(path: Path, target: Target, report: FileReport) -> None:
    """One case per step of each story."""
    section = report.section("steps")
    for story in read_scenarios(path):
        replay = Replay(target.profile, target.possible_cpus, target.ram_bytes)
        differences = {each.number: each for each in replay.run(story)}
        for number, step in enumerate(story.steps):
            where = f"{story.id} step {number} {step.get('op')}"
            other = differences.get(number)
            if other is None:
                section.compare(where, 0, 0, step)
            else:
                section.compare(where, other.recorded, other.emulated, step)


def _targets_of(case: dict[str, Any], usual: list[Target], known: dict[str, Any]) -> list[Target]:
    """The usual targets, and those with another number of CPUs that a case names itself."""
    names = {target.name for target in usual}
    extra: dict[str, None] = {}
    for group in case["res"]:
        for name in group["on"]:
            if "-smp" in name and name not in names:
                extra[name] = None
    return usual + [target_named(name, known) for name in extra]


def read_cases(path: Path) -> Iterator[dict[str, Any]]:
    """The cases of a file. Raises ``ValueError`` naming the line that is not a JSON object with an id."""
    with path.open() as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                case = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path.name}:{number}: not JSON: {error}") from None
            if not isinstance(case, dict) or "id" not in case:
                raise ValueError(f"{path.name}:{number}: expected an object with an id")
            yield case


def render(report: FileReport) -> str:
    """The report as a table, then the first mismatches of each section in full."""
    lines = [f"{report.path}"]
    for section in report.sections.values():
        skipped = sum(section.unsupported.values())
        lines.append(
            f"  {section.name:<14} {section.cases:>6} cases {section.exact:>6} exact"
            f" {len(section.mismatches):>5} mismatches {skipped:>5} unsupported"
        )
    for section in report.sections.values():
        for mismatch in section.mismatches[:SHOWN_MISMATCHES]:
            lines += [
                f"  {section.name}: {mismatch.where}",
                f"    expected {mismatch.expected!r}",
                f"    found    {mismatch.found!r}",
                f"    case     {json.dumps(mismatch.case)}",
            ]
        for reason, count in sorted(section.unsupported.items()):
            lines.append(f"  {section.name}: unsupported x{count}: {reason}")
    return "\n".join(lines)
