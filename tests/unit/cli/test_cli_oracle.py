"""``bpfleet oracle check`` from the outside."""

import json
import re
from pathlib import Path

import pytest

from bpfleet.cli.main import main

RECORDED = Path(__file__).parents[2] / "oracle" / "recorded"
PERM = RECORDED / "perm-6.1-smp2.jsonl"


def _few(tmp_path: Path, lines: list[str]) -> str:
    file = tmp_path / PERM.name
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def test_recordings_that_agree_exit_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = PERM.read_text().splitlines()[:60]
    assert main(["oracle", "check", _few(tmp_path, lines)]) == 0
    assert "60" in capsys.readouterr().out


def test_a_difference_is_shown_in_full_and_exits_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = PERM.read_text().splitlines()[:60]
    lines[0] = re.sub('"array":"[^"]*"', '"array":"ENODEV"', lines[0])
    assert main(["oracle", "check", "--json", _few(tmp_path, lines)]) == 1
    report = json.loads(capsys.readouterr().out)[0]
    assert sum(section["mismatches"] for section in report["sections"].values()) == 1


def test_a_name_that_tells_nothing_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "something.jsonl"
    file.write_text("{}\n")
    assert main(["oracle", "check", str(file)]) == 2
    assert "something.jsonl" in capsys.readouterr().err
