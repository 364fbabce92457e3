"""What comes beside the code: named alike in the package's build and in the program, and found from anywhere."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bpfleet import shipped

ROOT = Path(__file__).parents[2]
KINDS = [getattr(shipped, name) for name in shipped.__all__ if name.isupper()]


@pytest.mark.parametrize(("packed", "checked_out"), KINDS)
def test_a_wheel_puts_files_where_the_program_looks_for_them(packed: str, checked_out: str) -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    included = build["targets"]["wheel"]["force-include"]
    places = {
        f"{included[str(folder)].removeprefix('bpfleet/')}{checked_out.removeprefix(str(folder))}"
        for folder in (Path(checked_out), *Path(checked_out).parents)
        if str(folder) in included
    }
    assert places == {packed}
    assert shipped.shipped((packed, checked_out)).is_dir()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--help",), "--bpfleet-agents  BPFLEET_AGENTS"),
        (("--replay", "--kind", "tenant", "--kernel", "6.12", "--messages", "3"), "map_create OK"),
        (("--version",), "locust"),
    ],
)
def test_a_load_test_can_be_run_in_any_folder(tmp_path: Path, arguments, says: str) -> None:
    command = [sys.executable, "-m", "bpfleet.cli.main", "load", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
