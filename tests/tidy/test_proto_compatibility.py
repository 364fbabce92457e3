"""A change that breaks clients of the last release is found."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compatible():
    spec = importlib.util.spec_from_file_location("compatible", ROOT / "protos/compatible.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def released(tmp_path):
    """A repository with today's messages, released as v1.0.0."""
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    for command in (
        ["init", "--quiet"],
        ["add", "."],
        [
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b.c",
            "commit",
            "--quiet",
            "--message",
            "Release",
        ],
        ["tag", "v1.0.0"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def change(repository: Path, old: str, new: str) -> None:
    path = repository / "protos/bpfleet/v1/workload.proto"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_without_a_release_only_the_style_is_checked(compatible, tmp_path, capfd):
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    assert compatible.main(tmp_path) == 0
    assert "no release yet" in capfd.readouterr().err


def test_a_new_field_breaks_nothing(compatible, released):
    change(
        released, "bool best_effort = 3;", "bool best_effort = 3;\n  // More.\n  string more = 4;"
    )
    assert compatible.main(released) == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("bool best_effort = 3;", "bool best_effort = 4;"),
        ("bool best_effort = 3;", "bool best = 3;"),
        ("int32 max_skew = 2;", "string max_skew = 2;"),
        ("  RESTART_POLICY_NEVER = 3;", "  RESTART_POLICY_NEVER = 4;"),
    ],
)
def test_what_breaks_a_client_is_found(compatible, released, capfd, old, new):
    change(released, old, new)
    assert compatible.main(released) == 1
    assert "workload.proto" in capfd.readouterr().out
