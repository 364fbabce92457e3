"""Plants known faults one at a time and prints who notices: ``python -m tests.mutants.run`` (or ``make mutants``).

A mutant is an entry of a TOML file beside this one: what is wrong, and one or more edits (file, old text, new text),
each of which must fit exactly once. The tree is copied to a temporary directory, so nothing here is touched. First the
simulation runs (unless ``simulate`` is false), 500 seeds or until one fails; if it notices nothing, the tests named
with the mutant run. A mutant that cannot be noticed says why in ``equivalent``. The exit status is 1 if one survives
that should not.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGE = Path("services/bpfleet")
COPIED = (
    "services",
    "tests",
    "loadtest",
    "protos",
    "docs",
    "deploy",
    "pyproject.toml",
    "README.md",
)
SIM_SECONDS, TEST_SECONDS = 3_600, 1_200


@dataclass(frozen=True)
class Edit:
    """``old`` stands in ``file`` (below services/bpfleet) once; ``new`` takes its place."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """One planted fault. ``tests`` are tried when the simulation notices nothing."""

    name: str
    what: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...] = ()
    simulate: bool = True
    equivalent: str = ""


@dataclass
class Verdict:
    """Who noticed a mutant: the seed that failed and how, or the tests."""

    mutant: Mutant
    seed: str = ""
    how: str = ""
    tests: str = ""
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def survived(self) -> bool:
        return not self.seed and self.tests != "yes" and not self.mutant.equivalent


def mutants() -> list[Mutant]:
    """All mutants, in the order of the files."""
    found = []
    for path in sorted(HERE.glob("*.toml")):
        for entry in tomllib.loads(path.read_text("utf-8"))["mutant"]:
            edits = tuple(Edit(**edit) for edit in entry.pop("edit"))
            entry["tests"] = tuple(entry.get("tests", ()))
            found.append(Mutant(edits=edits, **entry))
    return found


def edited(mutant: Mutant, root: Path) -> dict[Path, str]:
    """The texts of the files of a mutant, edited. Raises ``ValueError`` where an edit does not fit exactly once."""
    texts: dict[Path, str] = {}
    for edit in mutant.edits:
        path = root / PACKAGE / edit.file
        text = texts.get(path) or path.read_text("utf-8")
        count = text.count(edit.old)
        if count != 1:
            raise ValueError(f"{mutant.name}: {edit.file} has the old text {count} times, not once")
        texts[path] = text.replace(edit.old, edit.new)
    return texts


def try_out(mutant: Mutant, root: Path, *, seeds: int, jobs: int) -> Verdict:
    """Plants a mutant in the copy at ``root``, asks who notices, and takes it out again."""
    verdict, started = Verdict(mutant), time.monotonic()
    texts = edited(mutant, root)
    before = {path: path.read_text("utf-8") for path in texts}
    try:
        for path, text in texts.items():
            path.write_text(text, "utf-8")
        if mutant.simulate:
            _simulate(verdict, root, seeds=seeds, jobs=jobs)
        if not verdict.seed and mutant.tests:
            _test(verdict, root)
    finally:
        for path, text in before.items():
            path.write_text(text, "utf-8")
    verdict.seconds = time.monotonic() - started
    return verdict


def _simulate(verdict: Verdict, root: Path, *, seeds: int, jobs: int) -> None:
    command = ["-m", "bpfleet.sim", "--seeds", str(seeds), "--jobs", str(jobs)]
    done = _python(root, command, SIM_SECONDS)
    if done is None:
        verdict.seed, verdict.how = "?", f"no end within {SIM_SECONDS} s"
        return
    for line in done.splitlines():
        if line.startswith("seed ") and ":" in line:
            verdict.seed, _, verdict.how = line.removeprefix("seed ").partition(": ")
            return
    if "nothing broken" not in done:
        verdict.seed, verdict.how = "-", done.strip().splitlines()[-1]


def _test(verdict: Verdict, root: Path) -> None:
    options = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "--tb=no"]
    done = _python(root, ["-m", "pytest", *options, *verdict.mutant.tests], TEST_SECONDS)
    verdict.tests = "yes" if done is None or " failed" in done or " error" in done else "no"


def _python(root: Path, arguments: list[str], seconds: float) -> str | None:
    """What a command prints; None where it does not end in time. The copy comes before what is installed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(root / "services"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout + done.stderr


def copy_tree(root: Path) -> None:
    """What the simulation and the tests need, at ``root``."""
    unwanted = shutil.ignore_patterns("__pycache__", ".*")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=unwanted)
        else:
            shutil.copy(source, root / name)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", metavar="NAME", help="this one; repeatable")
    parser.add_argument("--seeds", type=int, default=500, help="seeds per mutant [default: 500]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="seeds at a time")
    options = parser.parse_args()
    chosen = [m for m in mutants() if not options.only or m.name in options.only]
    if options.only and len(chosen) != len(set(options.only)):
        parser.error(f"unknown: {sorted(set(options.only) - {m.name for m in chosen})}")
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        copy_tree(Path(scratch))
        print(f"{'mutant':36} {'seed':>5} {'tests':>5} {'s':>5}  what is wrong; how the seed fails")
        for mutant in chosen:
            verdict = try_out(mutant, Path(scratch), seeds=options.seeds, jobs=options.jobs)
            verdicts.append(verdict)
            notes = verdict.how or mutant.equivalent or ("SURVIVES" if verdict.survived else "")
            print(
                f"{mutant.name:36} {verdict.seed or '-':>5} {verdict.tests or '-':>5} "
                f"{verdict.seconds:5.0f}  {mutant.what}{'; ' if notes else ''}{notes[:160]}",
                flush=True,
            )
    seen = sum(bool(v.seed) for v in verdicts)
    rest = sum(v.tests == "yes" for v in verdicts)
    print(f"{len(verdicts)} mutants: {seen} noticed by the simulation, {rest} more by other tests")
    return int(any(verdict.survived for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
