"""A comparison in parts: any number of shards gives the bytes that one process gives."""

import json
from pathlib import Path

import pytest

from bpfleet.cli.main import main

FLEET = ("--scenario", "edge", "--kernel", "5.10,6.12", "--nodes", 7, "--steps", 0)


def run(*arguments: object) -> int:
    return main(["compare", "--jobs", "1", *map(str, arguments)])


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "run.json"
    assert run(*FLEET, "--plan", path) == 0
    return path


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_shards_give_the_same_bytes_as_one_process(
    plan: Path, tmp_path: Path, shards: int, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = tmp_path / "parts"
    for number in range(1, shards + 1):
        assert run("--plan", plan, "--shard", f"{number}/{shards}", "--out", parts) == 0
    capsys.readouterr()
    assert run("--plan", plan, "--merge", parts, "--json") == 0
    merged = capsys.readouterr().out
    assert run(*FLEET, "--json") == 0
    assert merged == capsys.readouterr().out
    assert json.loads(merged)["models"] == ["5.10", "6.12"]


def test_a_shard_that_is_there_is_not_run_again(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = tmp_path / "parts"
    shard = ("--plan", plan, "--shard", "2/4", "--out", parts)
    assert run(*shard) == 0
    (segment,) = parts.iterdir()
    before = segment.stat().st_mtime_ns
    assert run(*shard) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert segment.stat().st_mtime_ns == before
    segment.write_bytes(segment.read_bytes()[:-30])
    assert run(*shard) == 0
    assert segment.stat().st_mtime_ns != before


def test_missing_damaged_and_foreign_shards_are_named(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = tmp_path / "parts"
    for number in (1, 3):
        assert run("--plan", plan, "--shard", f"{number}/3", "--out", parts) == 0
    assert run("--plan", plan, "--merge", parts) == 2
    assert "missing shard 2/3" in capsys.readouterr().err
    assert run("--plan", plan, "--shard", "2/3", "--out", parts) == 0
    segment = parts / "segment-2-of-3.jsonl"
    segment.write_bytes(segment.read_bytes().replace(b"RUNNING", b"RUNNINH", 1))
    assert run("--plan", plan, "--merge", parts) == 2
    assert "damaged shard 2/3" in capsys.readouterr().err
    other = tmp_path / "other.json"
    assert run(*FLEET, "--seed", 9, "--plan", other) == 0
    assert run("--plan", other, "--merge", parts) == 2
    assert "belongs to another plan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--shard", "1/2", "--out", "parts"), "give --plan"),
        (("--plan", "PLAN", "--shard", "1/2"), "--out"),
        (("--plan", "PLAN", "--shard", "3/2", "--out", "parts"), "write I/N"),
        (
            ("--plan", "PLAN", "--shard", "1/2", "--out", "parts", "--seed", "4"),
            "--seed is for scenarios",
        ),
        (
            ("--plan", "PLAN", "--shard", "1/2", "--out", "parts", "--kernel", "6.12"),
            "--kernel is for",
        ),
        (("--out", "parts"), "--out goes with"),
        (
            (
                "--plan",
                "nothing/run.json",
            ),
            "nothing",
        ),
    ],
)
def test_what_does_not_go_together_is_said(
    plan: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*(str(plan) if each == "PLAN" else each for each in arguments)) in (1, 2)
    assert said in capsys.readouterr().err


def test_a_plan_of_another_version_is_refused(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads(plan.read_text())
    plan.write_text(json.dumps({**data, "digest": "0" * 64}))
    assert run("--plan", plan, "--shard", "1/2", "--out", tmp_path / "parts") == 2
    assert "make the plan again" in capsys.readouterr().err
    plan.write_text("[]")
    assert run("--plan", plan, "--shard", "1/2", "--out", tmp_path / "parts") == 2
    assert "not a plan" in capsys.readouterr().err
