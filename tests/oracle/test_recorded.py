"""Every recording of a real kernel, replayed: the answers, the memlock lines and the charges must be those recorded."""

import json
from pathlib import Path

import pytest

from bpfleet.oracle.machine import target_named
from bpfleet.oracle.outcome import FileReport
from bpfleet.oracle.replay import check_file, read_cases, render
from bpfleet.oracle.replay_errno import replay_errno

RECORDED = Path(__file__).parent / "recorded"
FILES = sorted(
    path.name
    for path in RECORDED.glob("*.jsonl")
    if not path.name.startswith("scenarios")  # test_scenarios.py runs those story by story
)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_the_emulator_answers_and_charges_as_recorded(name: str) -> None:
    report = check_file(RECORDED / name)
    assert not report.mismatched, render(report)
    compared = sum(section.exact for section in report.sections.values())
    assert compared >= sum(1 for _ in read_cases(RECORDED / name))


def test_only_averages_are_left_out() -> None:
    report = check_file(RECORDED / "create-6.12-smp2.jsonl")
    reasons = {reason for section in report.sections.values() for reason in section.unsupported}
    assert reasons <= {"the recorded average is not a whole number of bytes"}


def test_a_wrong_answer_in_a_recording_is_found(tmp_path: Path) -> None:
    case = next(c for c in read_cases(RECORDED / "create-6.1-smp2.jsonl") if c["errno"] == 0)
    altered = {**case, "memlock": case["memlock"] + 1, "slab": case["slab"] + 8}
    changed = tmp_path / "create-6.1-smp2.jsonl"
    changed.write_text(json.dumps(altered) + "\n")
    report = check_file(changed)
    assert {name for name, section in report.sections.items() if section.mismatches} == {
        "memlock",
        "slab",
    }
    assert case["id"] in render(report)


def test_an_unknown_operation_counts_as_unsupported_not_as_right() -> None:
    case = {
        "id": "x",
        "group": "g",
        "type": "array",
        "name": "n",
        "ops": [{"op": "teleport"}],
        "res": [{"on": ["*"], "r": [0]}],
    }
    report = FileReport("x")
    replay_errno(case, target_named("6.1-smp2"), report)
    assert report.sections["g"].unsupported == {"operation 'teleport'": 1}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("stories.jsonl", "expected a name that starts with create, elements"),
        ("create-7.9-smp2.jsonl", "unknown kernel profile '7.9'"),
        ("create-6.1-smpx.jsonl", "expected <profile>-smp<CPUs>"),
    ],
)
def test_a_file_of_another_name_is_refused_in_one_line(
    tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / name).write_text("{}\n")
    with pytest.raises(ValueError, match=said):
        check_file(tmp_path / name)


def test_a_line_that_is_no_case_is_named(tmp_path: Path) -> None:
    path = tmp_path / "create-6.1-smp2.jsonl"
    path.write_text("[]\n")
    with pytest.raises(
        ValueError, match=r"create-6\.1-smp2\.jsonl:1: expected an object with an id"
    ):
        check_file(path)
