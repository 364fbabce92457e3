"""What was computed is printed, written or kept, whatever comes in between."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bpfleet.cli.main import main
from bpfleet.progress import progress, progress_line

COMPARE = ["compare", "--nodes", "4", "--steps", "2", "--jobs", "1", "--kernel", "5.10,6.12"]


@pytest.mark.parametrize(
    "arguments",
    [
        [*COMPARE, "--report", "{}/x.html"],
        [*COMPARE, "--csv", "{}/x.csv"],
        [*COMPARE, "--markdown", "{}/x.md"],
        ["capture", "-o", "{}/x.json"],
        ["profile", "capture", "-o", "{}/x.toml"],
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(arguments, tmp_path, capsys):
    missing = tmp_path / "missing"
    assert main([each.format(missing) for each in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"the folder {missing} does not exist; make it first" in captured.err
    assert len(captured.err.splitlines()) == 1


def bpfleet(*arguments: str, **options) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bpfleet.cli.main", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.mark.slow
def test_a_full_disk_leaves_the_table_and_names_the_file_of_the_user(tmp_path):
    page = tmp_path / "page.html"
    process = bpfleet(
        *COMPARE,
        "--report",
        str(page),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512)),
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "OOM kills" in out
    assert err.splitlines()[-1] == f"bpfleet: {page}: File too large"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_a_signal_ends_goes_on_where_it_was(number, tmp_path, capsys):
    assert main([*COMPARE, "--json"]) == 0
    wanted = capsys.readouterr().out
    kept = tmp_path / "kept"
    process = bpfleet(*COMPARE, "--resume", str(kept))
    results = kept / "seed-1"
    while process.poll() is None and not list(results.glob("*.json")):
        pass
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    if process.returncode:  # it may have come to its end before the signal
        assert process.returncode == 128 + number
        assert f"nodes are kept in {results}; the same command goes on" in err
    assert main([*COMPARE, "--resume", str(kept), "--json"]) == 0
    assert capsys.readouterr().out == wanted


def test_a_log_has_a_line_while_work_goes_on(capsys, monkeypatch):
    monkeypatch.setattr("bpfleet.progress._FIRST_SECONDS", 0.001)
    with progress("nodes", 5) as advance:
        advance()
        while "nodes: 1 of 5 after" not in (said := capsys.readouterr().err):
            pass
    assert said.count("\n") == 1


def test_a_quick_piece_of_work_says_nothing(capsys, monkeypatch):
    monkeypatch.setattr("bpfleet.progress._FIRST_SECONDS", 3600.0)
    with progress("nodes", 1) as advance:
        advance()
    assert capsys.readouterr().err == ""
    assert progress_line("nodes", 1, 1, 0.4) == "nodes: 1 of 1 after 0 s"


def test_a_full_standard_output_is_one_line(tmp_path: Path):
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "bpfleet.cli.main", "profile", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert process.returncode == 1
    assert process.stderr == "bpfleet: standard output: No space left on device\n"
