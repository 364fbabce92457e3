"""The suite itself: what it says while it runs, and that nothing it starts is left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FAILING = """
import subprocess, sys, pathlib
def test_it():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pathlib.Path("{pids}").write_text(str(child.pid))
    assert 1 == 2, "as it comes"
def test_other():
    print("second")
"""


@pytest.mark.slow
def test_a_failing_test_leaves_no_process_and_is_told_at_once(tmp_path):
    pids = tmp_path / "pid"
    path = ROOT / "tests" / "tidy" / f"tmp_failing_{os.getpid()}_test.py"
    path.write_text(FAILING.format(pids=pids))
    try:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            str(path),
        ]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
        )
    finally:
        path.unlink()
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    (told,) = [n for n, line in enumerate(lines) if "call of" in line and "failed ___" in line]
    (summary,) = [n for n, line in enumerate(lines) if "= FAILURES =" in line]
    assert any("as it comes" in line for line in lines[told:summary])
    assert any("skipped" in line for line in lines[:told]), "the head says what will be skipped"
    assert not _runs(int(pids.read_text()))


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
