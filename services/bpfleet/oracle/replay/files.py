"""Replays recordings of real kernels on the emulator and reports what differs.

create-, elements-, perm-, verifier- and types-TARGET, errno, scenarios-MODEL-TARGET and stories-MODEL-TARGET: the first
word of a file's name says which replay reads it, after an `extra-` if there is one. The format is described where the
recordings are kept.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from bpfleet.kernel.profile import Use, used_by
from bpfleet.oracle.format.report import FileReport
from bpfleet.oracle.format.words import UnsupportedCaseError, required
from bpfleet.oracle.replay.create import replay_create
from bpfleet.oracle.replay.elements import replay_elements
from bpfleet.oracle.replay.errno import replay_errno
from bpfleet.oracle.replay.machine import Target, target_named, targets_beside
from bpfleet.oracle.replay.perm import replay_perm
from bpfleet.oracle.replay.scenarios import ScenarioReplay, scenario_of
from bpfleet.oracle.replay.stories import check_story, story_target
from bpfleet.oracle.replay.verifier import replay_verifier
from bpfleet.plain import json_value

_USUAL_TARGETS: Final = tuple(f"{name}-smp2" for name in used_by(Use.REPLAY))

_STORIES: Final = ("stories", "types")

_Replay = Callable[[dict[str, Any], Target, FileReport], None]
_PER_TARGET: Final[dict[str, _Replay]] = {
    "create": replay_create,
    "elements": replay_elements,
    "perm": replay_perm,
    "verifier": replay_verifier,
}


def check_file(path: Path) -> FileReport:
    """Replays one recording file. Its name tells what is in it; what cannot be replayed counts as unsupported.

    Raises ``ValueError`` for a file that is no recording, ``OSError`` for one that cannot be read.
    """
    kind, _, name = path.name.removesuffix(".jsonl").removeprefix("extra-").partition("-")
    known = targets_beside(path)
    report = FileReport(path.name)
    if kind in _STORIES:
        target = story_target(name, known, list(read_cases(path)))
        for case in read_cases(path):
            required(case, "steps")
            check_story(case, target, report)
        return report
    for case in read_cases(path):
        try:
            if kind == "errno":
                _check_operations(case, known, report)
            elif kind == "scenarios":
                _check_scenario(case, target_named(name.partition("-")[2], known), report)
            elif kind in _PER_TARGET:
                _PER_TARGET[kind](case, target_named(name, known), report)
            else:
                raise UnsupportedCaseError(f"recordings of {kind!r}")
        except UnsupportedCaseError as missing:
            report.section(kind).skip(str(missing))
    return report


def _check_scenario(case: dict[str, Any], target: Target, report: FileReport) -> None:
    """One case per step. What follows a step that cannot be tried cannot be tried either."""
    required(case, "steps")
    section, story = report.section("steps"), scenario_of(case)
    replay = ScenarioReplay(target.profile, target.possible_cpus, target.ram_bytes)
    differences = {each.number: each for each in replay.run(story)}
    for number, step in enumerate(story.steps):
        where = f"{story.id} step {number} {step.get('op')}"
        other = differences.get(number)
        if number >= replay.steps_tried:
            section.skip(replay.unsupported)
        elif other is None:
            section.compare(where, 0, 0, step)
        else:
            section.compare(where, other.recorded, other.emulated, step)


def _check_operations(case: dict[str, Any], known: dict[str, Any], report: FileReport) -> None:
    """On the usual targets, on those described beside the file, and on those the case names itself."""
    required(case, "ops", "res")
    names = dict.fromkeys((*_USUAL_TARGETS, *known))
    versions = {name.partition("-smp")[0] for name in names}
    for group in case["res"]:
        for name in group["on"]:
            if name != "*" and name not in versions:
                names[name] = None
    for name in names:
        try:
            target = target_named(name, known)
        except UnsupportedCaseError as missing:
            report.section(case.get("group", "operations")).skip(str(missing))
        else:
            replay_errno(case, target, report)


def read_cases(path: Path) -> Iterator[dict[str, Any]]:
    """The cases of a file. Raises ``ValueError`` naming the line that is not a JSON object with an id."""
    number = 0
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, 1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError:
                raise ValueError(f"{path.name}:{number}: not UTF-8 text; a recording is") from None
            if not line.strip():
                continue
            try:
                case = json_value(line)
            except ValueError as error:
                raise ValueError(f"{path.name}:{number}: {error}") from None
            if not isinstance(case, dict) or "id" not in case:
                raise ValueError(
                    f"{path.name}:{number}: not a recording: an object with an id is expected"
                )
            yield case
    if not number:
        raise ValueError(f"{path.name}: holds no case")
