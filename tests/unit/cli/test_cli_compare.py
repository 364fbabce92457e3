"""``bpfleet compare`` from the outside: output, files, exit status, one line for every mistake."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sample_fleet import TEXT

from bpfleet.cli.main import main

LISTING = [
    {"id": 1, "type": "lru_hash", "name": "ct", "flags": 0, "bytes_key": 14, "bytes_value": 56,
     "max_entries": 65536, "bytes_memlock": 9437184, "frozen": 0},
    {"id": 2, "type": "ringbuf", "name": "events", "flags": 0, "bytes_key": 0, "bytes_value": 0,
     "max_entries": 4194304, "bytes_memlock": 0, "frozen": 0},
]  # fmt: skip


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(TEXT)
    return path


def run(*arguments: object) -> int:
    return main(["compare", "--jobs", "1", *map(str, arguments)])


def test_the_table_shows_the_models_side_by_side(
    scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--scenario", scenario, "--kernel", "5.10,6.12") == 0
    out = capsys.readouterr().out
    assert "Three workloads on three nodes" in out
    assert out.splitlines()[1].startswith("Of 7 replicas on 3 nodes in trouble: ")
    assert out.splitlines()[3].split() == ["5.10", "6.12", "what", "is", "counted"]
    for label in ("crash-looping", "EPERM", "OOM kills", "First divergence", "seed 3"):
        assert label in out


def test_json_holds_everything_and_is_the_same_twice(
    scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for _ in range(2):
        assert run("--scenario", scenario, "--kernel", "5.10,6.12", "--json") == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    data = json.loads(texts[0])
    assert [t["model"] for t in data["totals"]] == ["5.10", "6.12"]
    assert data["first_divergence"]["verdicts"]["5.10"]["errno"] == "EPERM"
    assert data["seed"] == 3
    assert data["verdict"].startswith("Of 7 replicas")
    assert all(row["note"] and len(row["values"]) == 2 for row in data["rows"])


def test_files_are_written(scenario: Path, tmp_path: Path) -> None:
    table, text, page = (tmp_path / name for name in ("a.csv", "a.md", "a.html"))
    assert (
        run("--scenario", scenario, "--kernel", "5.10,6.12", "--steps", "1", "--csv", table,
            "--markdown", text, "--report", page)
        == 0
    )  # fmt: skip
    assert len(list(csv.DictReader(io.StringIO(table.read_text())))) == 14
    assert text.read_text().startswith("### Three workloads")
    assert page.read_text().startswith("<!doctype html>")
    assert '"limits":' in page.read_text()
    repeat = f"bpfleet compare --scenario {scenario} --kernel 5.10,6.12 --steps 1"
    assert f'"command":{json.dumps(repeat)}' in page.read_text()


def test_the_table_of_several_seeds_has_every_seed(scenario: Path, tmp_path: Path) -> None:
    table, text = tmp_path / "a.csv", tmp_path / "a.md"
    several = ("--scenario", scenario, "--kernel", "6.12", "--steps", "1", "--repetitions", "2")
    assert run(*several, "--csv", table, "--markdown", text) == 0
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert {row["seed"] for row in rows} == {"3", "4"}
    assert "over all seeds" in text.read_text()


def test_repetitions_do_not_answer_the_upgrade_question(
    scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upgrade = ("--scenario", scenario, "--from", "5.10", "--to", "6.12", "--repetitions", "2")
    assert run(*upgrade) == 2
    assert "--repetitions goes with --kernel" in capsys.readouterr().err


def test_a_real_hosts_listing_takes_the_place_of_the_workloads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = tmp_path / "host.json"
    listing.write_text(json.dumps(LISTING))
    arguments = ("--inventory", listing, "--nodes", 2, "--steps", 1, "--kernel", "5.10,6.12")
    assert run(*arguments, "--memlock", "64K", "--memory-limit", "256M", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert [t["placed"] for t in data["totals"]] == [2, 2]
    assert data["totals"][0]["eperm"] == 2
    assert data["totals"][1]["running"] == 2


def test_a_list_of_listings_is_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("web.json", "db.json"):
        (tmp_path / name).write_text(json.dumps(LISTING))
    names = tmp_path / "hosts.json"
    names.write_text(json.dumps(["web.json", "db.json"]))
    assert run("--inventory", names, "--nodes", 1, "--steps", 0, "--kernel", "6.12", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    workloads = {r["workload"] for r in data["nodes"][0]["models"]["6.12"]["replicas"]}
    assert workloads == {"web", "db"}


def test_the_upgrade_question_is_answered_per_workload(
    scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--scenario", scenario, "--from", "5.10", "--to", "6.12", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    changes = {(w["workload"], w["group"]): w["change"] for w in data["workloads"]}
    assert changes["bpftrace", "large"] == "stops failing"
    assert changes["falco", "large"] == "newly fails with ENOMEM"
    assert changes["falco", "small"] == "unchanged"
    assert data["kernels"] == {"5.10": "recorded (5.10.262)", "6.12": "recorded (6.12.107)"}


def test_limits_can_be_given_by_hand_or_from_a_file(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = tmp_path / "limits.toml"
    limits.write_text('falco = "2G"\n')
    arguments = ("--scenario", scenario, "--kernel", "6.12", "--steps", 0, "--json")
    assert run(*arguments, "--limits", limits, "--limits", "probe=unlimited") == 0
    replicas = [
        replica
        for node in json.loads(capsys.readouterr().out)["nodes"]
        for replica in node["models"]["6.12"]["replicas"]
    ]
    shown = {r["workload"]: r["limit_bytes"] for r in replicas if r["limit_bytes"] is not None}
    assert shown == {"falco": 2 << 30, "bpftrace": 512 << 20}


def test_repetitions_give_intervals(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--scenario", scenario, "--kernel", "6.12", "--nodes", 1, "--steps", 2)
    assert run(*arguments, "--repetitions", 3, "--json") == 0
    data = json.loads(capsys.readouterr().out)["repetitions"]
    assert data["seeds"] == [3, 4, 5]
    assert all(len(row["mean"]) == 1 for row in data["rows"])


def test_an_interrupted_run_goes_on_where_it_stopped(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "kept"
    arguments = ("--scenario", scenario, "--kernel", "5.10,6.12", "--json")
    assert run(*arguments) == 0
    expected = capsys.readouterr().out
    assert run(*arguments, "--resume", folder) == 0
    assert capsys.readouterr().out == expected
    kept = sorted(path.name for path in (folder / "seed-3").glob("*.json"))
    assert kept == ["large-0001.json", "small-0001.json", "small-0002.json"]
    (folder / "seed-3" / "small-0002.json").write_text("{half a fi")
    before = (folder / "seed-3" / "small-0001.json").stat().st_mtime_ns
    assert run(*arguments, "--resume", folder) == 0
    assert capsys.readouterr().out == expected
    assert (folder / "seed-3" / "small-0001.json").stat().st_mtime_ns == before


def test_results_of_another_run_are_not_taken_up(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--scenario", scenario, "--steps", 0, "--nodes", 1, "--resume", tmp_path / "kept")
    assert run(*arguments, "--kernel", "6.12") == 0
    assert run(*arguments, "--kernel", "6.1") == 2
    assert "holds results of another scenario, seed, model or version" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scenario", "nope"], "scenario = 'nope': neither a built-in scenario nor a file"),
        (["--scenario", "nope.toml"], "nope.toml: No such file"),
        (["--kernel", "9.99"], "9.99"),
        (["--kernel", "6.12,6.12"], "6.12 is named twice"),
        (["--limits", "nobody=1G"], "--limits: nobody: no such workload; use one of bpftrace"),
        (["--limits", "cilium=5 apples"], "--limits: cilium = '5 apples': not a size"),
        (["--repetitions", "0"], "repetitions = 0: out of range"),
        (["--nodes", "0"], "--nodes"),
        (["--from", "5.10"], "--from and --to go together"),
        (["--from", "5.10", "--to", "6.1", "--kernel", "6.12"], "replace --kernel"),
        (["--inventory", "absent.json"], "absent.json"),
        (["--bogus"], "no such option"),
    ],
)
def test_bad_arguments_exit_with_2_and_say_why(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "host.json: line 1 column 1: not JSON"),
        ('[{"type": "hash"}]', "host.json: [0].bytes_key: missing"),
        ('[{"type": "hsah"}]', "host.json: lists no map (left out, not known here: 1 of type hsah"),
        (
            '[{"type": "hash", "bytes_key": -4, "bytes_value": 4, "max_entries": 1}]',
            "host.json: [0].bytes_key = -4: out of range",
        ),
    ],
)
def test_a_bad_listing_names_file_field_and_value(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = tmp_path / "host.json"
    listing.write_text(text)
    assert run("--inventory", listing) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_an_unwritable_file_is_one_line(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "no" / "such" / "folder" / "a.csv"
    assert run("--scenario", scenario, "--steps", 0, "--kernel", "6.12", "--csv", target) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help"]) == 0
    assert "bpfleet compare --inventory host.json" in capsys.readouterr().out


def started_comparison() -> tuple[subprocess.Popen[str], list[int]]:
    """A comparison that would run for hours, with its worker processes up."""
    command = [sys.executable, "-m", "bpfleet.cli.main", "compare", "--jobs", "2", "--steps"]
    process = subprocess.Popen(
        [*command, "100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None
        children = [int(pid) for pid in listed.read_text().split()]
        workers = [
            pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        if len(workers) == 2:
            return process, workers
    raise AssertionError("no workers came up")


def gone(pids: list[int]) -> bool:
    """Whether processes have ended; one that only waits to be collected has."""
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX":
            return False
    return True


def until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 120
    while not gone(pids):
        assert time.monotonic() < deadline, f"of {pids} some run on"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_ends_it_and_its_workers_at_once_without_a_traceback(number, status, word) -> None:
    process, workers = started_comparison()
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == status
    assert out == ""
    said = [line for line in err.split("\n") if line and not line.startswith("nodes: ")]
    assert said == [word]
    until_gone(workers)


@pytest.mark.slow
def test_workers_end_with_their_parent_whatever_happens_to_it() -> None:
    process, workers = started_comparison()
    process.kill()
    process.communicate(timeout=120)
    until_gone(workers)


@pytest.mark.slow
def test_a_lost_worker_process_is_one_line() -> None:
    process, workers = started_comparison()
    os.kill(workers[0], signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 1
    assert out == ""
    assert err.splitlines()[-1] == "bpfleet: a worker process ended before its work was done"


LISTINGS = Path(__file__).parents[1] / "captures" / "listings"


def test_a_listing_from_a_kernel_runs_under_it_on_the_cpus_it_tells(
    capsys: pytest.CaptureFixture[str],
) -> None:
    listing = LISTINGS / "listing-5.10-192cpus.json"
    assert (
        run("--inventory", listing, "--nodes", "1", "--steps", "1", "--kernel", "5.10", "--json")
        == 0
    )
    printed = capsys.readouterr()
    (node,) = json.loads(printed.out)["nodes"]
    assert node["possible_cpus"] == 192
    assert not any("EPERM" in key for key in node["models"]["5.10"]["refused"])
    assert "RLIMIT_MEMLOCK unlimited (--memlock)" in printed.err


def test_options_that_contradict_a_listing_are_warned_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    listing = LISTINGS / "listing-2cpus.json"
    options = ("--nodes", "1", "--steps", "0", "--cpus", "8", "--from", "6.12", "--to", "6.18")
    assert run("--inventory", listing, *options) == 0
    error = capsys.readouterr().err
    assert "its memlock values point to 2 CPUs, not 8" in error
    assert "its memlock values match 5.11, 5.15, 6.1" in error


def test_standard_error_says_what_a_name_was_taken_for(
    scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--scenario", scenario, "--kernel", "ubuntu-24.04,6.17") == 0
    # What follows is how far it is, on a machine that is busy.
    assert capsys.readouterr().err.splitlines()[0] == "ubuntu-24.04: 6.8, recorded (6.8.1)"
