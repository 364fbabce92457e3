"""Rules of the repository that no linter knows."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "services" / "bpfleet"


def tracked() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    paths = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def python_files(folder: Path) -> list[Path]:
    generated = SOURCES / "v1", SOURCES / "_version.py"
    return [p for p in sorted(folder.rglob("*.py")) if not {p, *p.parents} & {*generated}]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


if not (ROOT / ".git").exists():
    pytest.skip("not a git checkout", allow_module_level=True)


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in python_files(SOURCES)
        if path.name != "_version.py"  # written by the build, and not tracked
        and path.stat().st_size
        and ast.get_docstring(ast.parse(path.read_text("utf-8"))) is None
    ]
    assert silent == []


def test_no_catch_all_modules() -> None:
    banned = re.compile(r"(utils?|helpers?|common|misc|managers?)\.py$")
    assert [str(p.relative_to(ROOT)) for p in tracked() if banned.search(p.name)] == []


def test_nothing_left_to_do_is_hidden_in_comments() -> None:
    marker = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    this = Path(__file__)
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path.suffix in {".py", ".proto", ".toml", ".yml", ".yaml", ".sh"} and path != this
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if marker.search(line)
    ]
    assert found == []


def test_the_repository_names_no_machine_of_its_authors() -> None:
    marker = re.compile(r"(?<![\w.])/(home|root|Users)/\w+|file:///")
    this = Path(__file__)
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path != this and path.stat().st_size < 2_000_000
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if marker.search(line)
    ]
    assert found == []


def test_only_profiles_compare_kernel_versions() -> None:
    marker = re.compile(r"profile\.(name|release)\s*(==|!=|<|>|in\b)|\.(name|release)\s+in\s+\(\"5")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in python_files(SOURCES / "kernel")
        if path.parent.name not in ("profile", "builds")
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if marker.search(line)
    ]
    assert found == []


def test_map_files_import_nothing_that_decides_who_pays() -> None:
    forbidden = (
        "bpfleet.kernel.bpf.accounting",
        "bpfleet.kernel.bpf.syscall",
        "bpfleet.kernel.kernel",
        "bpfleet.kernel.mm.memcontrol",
        "bpfleet.kernel.timeline",
    )
    folder = SOURCES / "kernel" / "bpf" / "maps"
    found = {
        f"{path.name}: {name}"
        for path in sorted(folder.glob("*.py"))
        if path.name != "base.py"
        for name in imported(path)
        if name.startswith(forbidden)
    }
    assert found == set()


def test_load_tests_use_the_client_and_not_the_kernel() -> None:
    allowed = (
        "bpfleet.abi",
        "bpfleet.client",
        "bpfleet.report",
        "bpfleet.rpc.errors",
        "bpfleet.v1",
        "bpfleet.verbs",  # the names of calls
        "bpfleet.workload",
    )
    found = {
        f"{path.name}: {name}"
        for path in sorted((ROOT / "loadtest").rglob("*.py"))
        if path.name != "replay.py"  # plays without a network, so on a kernel of its own
        for name in imported(path)
        if name.startswith("bpfleet.") and not name.startswith(allowed)
    }
    assert found == set()


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    reasons = (ROOT / "docs" / "decisions" / "0002-dependencies.md").read_text("utf-8")
    wanted = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        wanted += extra
    names = {re.split(r"[\[<>=~ ]", requirement)[0] for requirement in wanted} - {"bpfleet"}
    assert sorted(name for name in names if name not in reasons) == []
