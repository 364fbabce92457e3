"""Every recording of a real kernel, replayed: the answers, the memlock lines and the charges must be those recorded."""

import json
from pathlib import Path
from typing import Any

import pytest

from bpfleet.oracle.format.report import FileReport, render
from bpfleet.oracle.replay.errno import replay_errno
from bpfleet.oracle.replay.files import check_file, read_cases
from bpfleet.oracle.replay.machine import target_named

RECORDED = Path(__file__).parent / "recorded"
FILES = sorted(
    path.name
    for path in RECORDED.glob("*.jsonl")
    if not path.name.startswith(("scenarios", "stories", "types"))  # these have tests of their own
)


# The recorded group had a page more of kernel memory in use than the emulated one (a CPU's stock of object bytes). An
# element here takes 4,104 bytes: one page of room is none, two are enough for the refill behind a refused insertion.
KNOWN = {
    "extra-scenarios-memcg-6.1-smp2.jsonl": {"E2-hash-4-2000-16777216"},
    "extra-scenarios-memcg-6.12-smp2.jsonl": {"E2-hash-4-2000-16777216"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_the_emulator_answers_and_charges_as_recorded(name: str) -> None:
    report = check_file(RECORDED / name)
    wrong = {m.where.split()[0] for s in report.sections.values() for m in s.mismatches}
    assert wrong == KNOWN.get(name, set()), render(report)
    compared = sum(section.exact for section in report.sections.values())
    assert compared >= sum(1 for _ in read_cases(RECORDED / name))


def test_an_average_with_a_fraction_may_be_short_of_what_a_stock_holds_back(tmp_path: Path) -> None:
    cases = read_cases(RECORDED / "create-6.12-smp2.jsonl")
    case = next(case for case in cases if case.get("slab", 0) % 1)
    path = tmp_path / "create-6.12-smp2.jsonl"
    for slab, mismatches in ((case["slab"], 0), (case["slab"] - 200, 1), (case["slab"] + 400, 1)):
        path.write_text(json.dumps({**case, "slab": slab}) + "\n")
        assert len(check_file(path).sections["slab"].mismatches) == mismatches


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
    ("name", "altered", "reason"),
    [
        ("rumours-6.1-smp2", {}, "recordings of 'rumours'"),
        ("create-7.9-smp2", {}, "no profile of kernel '7.9'"),
        ("create-6.1-smp2", {"type": "teleport"}, "map type 'teleport'"),
        ("create-6.1-smp2", {"inner": "teleport"}, "map type 'teleport'"),
        ("elements-6.1-smp2", {"points": [["warp", 1, 0, 0, 0, 0, 0]]}, "phase 'warp'"),
        ("elements-6.1-smp2", {"value": "teleport"}, "values that are a teleport"),
        ("perm-6.1-smp2", {"progs": {"teleport": 0}}, "program type 'teleport'"),
        ("perm-6.1-smp2", {"other": {"teleport": 0}}, "command 'teleport'"),
        ("errno", {"ops": [{"op": "object", "kind": "warp"}]}, "object of kind 'warp'"),
        ("errno", {"res": [{"on": ["7.9-smp2"], "r": [0]}]}, "no profile of kernel '7.9'"),
        ("scenarios-x-6.1-smp2", {"steps": [{"op": "warp"}]}, "step 'warp'"),
    ],
)
def test_what_the_emulator_does_not_have_counts_as_unsupported(
    tmp_path: Path, name: str, altered: dict[str, Any], reason: str
) -> None:
    case = {
        "id": "x",
        "type": "array",
        "ks": 4,
        "vs": 8,
        "me": 4,
        "fl": 0,
        "errno": 0,
        "memlock": [4096, 4096],
        "points": [],
        "uid": 0,
        "caps": "all",
        "sysctl": 0,
        "ops": [{"op": "create"}],
        "res": [{"on": ["*"], "r": [0]}],
        "steps": [],
        **altered,
    }
    path = tmp_path / f"{name}.jsonl"
    path.write_text(json.dumps(case) + "\n")
    report = check_file(path)
    reasons = {reason for section in report.sections.values() for reason in section.unsupported}
    assert (reasons, report.mismatched) == ({reason}, 0)


def test_operations_are_replayed_on_every_target_a_case_or_targets_json_names(
    tmp_path: Path,
) -> None:
    creation = {"op": "create", "type": "array", "ks": 4, "vs": 8, "me": 4}
    wrong = [{"on": ["*"], "r": ["EPERM"]}]
    case = {"id": "x", "group": "g", "ops": [creation], "res": [{"on": ["5.11"], "r": [0]}, *wrong]}
    (tmp_path / "targets.json").write_text(json.dumps({"6.1-smp4": {}}))
    (tmp_path / "errno.jsonl").write_text(json.dumps(case) + "\n")
    section = check_file(tmp_path / "errno.jsonl").sections["g"]
    assert section.exact == 1
    assert [mismatch.where.split()[2] for mismatch in section.mismatches] == [
        *("5.10-smp2:", "6.1-smp2:", "6.12-smp2:", "6.18-smp2:", "6.1-smp4:")
    ]


def test_a_file_with_a_malformed_number_of_cpus_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "create-6.1-smpx.jsonl").write_text('{"id": "x"}\n')
    with pytest.raises(ValueError, match="expected <profile>-smp<CPUs>"):
        check_file(tmp_path / "create-6.1-smpx.jsonl")


def test_a_line_that_is_no_case_is_named(tmp_path: Path) -> None:
    path = tmp_path / "create-6.1-smp2.jsonl"
    path.write_text("[]\n")
    with pytest.raises(ValueError, match=r"create-6\.1-smp2\.jsonl:1: not a recording"):
        check_file(path)
