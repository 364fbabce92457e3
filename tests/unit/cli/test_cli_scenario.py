"""``bpfleet scenario`` and ``bpfleet application``: lists, a file to start from, checks."""

import json
from pathlib import Path

import pytest

from bpfleet.cli.main import main


def run(*arguments: object) -> int:
    return main([str(each) for each in arguments])


def test_the_template_can_be_checked_shown_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fleet.toml"
    assert run("scenario", "init", "-o", path) == 0
    assert run("scenario", "check", path) == 0
    assert "9 replicas on 6 nodes" in capsys.readouterr().out
    assert run("scenario", "show", path) == 0
    assert "5.10" in capsys.readouterr().out
    assert (
        run("compare", "--jobs", 1, "--scenario", path, "--steps", 0, "--nodes", 2, "--json") == 0
    )
    data = json.loads(capsys.readouterr().out)
    assert data["models"][0] == "own"
    assert run("scenario", "init", "-o", path) == 2
    assert "--force" in capsys.readouterr().err


def test_what_fits_nowhere_makes_the_check_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(
        'name = "x"\nnodes = [{ name = "a", ram_bytes = "1G" }]\n'
        'workloads = [{ name = "w", application = "falco", memory_request_bytes = "2G" }]\n'
    )
    assert run("scenario", "check", path) == 1
    assert "not placed: w-0: " in capsys.readouterr().out


def test_a_kernel_that_is_not_known_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text('name = "x"\nnodes = [{ name = "a", kernel = "nosuch" }]\n')
    assert run("scenario", "check", path) == 2
    assert "nosuch" in capsys.readouterr().err


def test_lists_name_what_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("scenario", "list", "-o", "name") == 0
    assert "mixed-fleet" in capsys.readouterr().out.splitlines()
    assert run("application", "list", "-o", "name") == 0
    assert "cilium" in capsys.readouterr().out.splitlines()
    assert run("application", "show", "cilium", "--json") == 0
    assert json.loads(capsys.readouterr().out)["inventory"]["maps"]
