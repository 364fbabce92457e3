"""The recorder, on the kernel this machine runs: what it writes is what the emulator replays."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bpfleet.cli.oracle import command
from bpfleet.kernel.profile import PROFILES
from bpfleet.oracle.record import live
from bpfleet.oracle.record.cases import random_creations, random_sequences
from bpfleet.oracle.record.files import kernel_name, possible_cpus, record_cases
from bpfleet.oracle.record.meter import Meter, Unmeasurable, find_memory_cgroup
from bpfleet.oracle.replay.files import check_file

RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture
def kernel() -> str:
    """The name of the kernel at hand; skips where it cannot be recorded or has no profile."""
    refusal = live.bpf_refusal()
    if refusal is not None:
        pytest.skip(refusal)
    name = kernel_name()
    if name.partition("-")[0] not in PROFILES:
        pytest.skip(f"there is no profile of Linux {name}")
    return name


@pytest.fixture
def meter() -> Meter:
    try:
        find_memory_cgroup()
        return Meter()
    except (Unmeasurable, OSError) as error:
        pytest.skip(f"no memory cgroup: {error}")


def _cases(name: str, wanted: int) -> list[dict[str, Any]]:
    """Some cases of a recording, evenly spread over the file."""
    lines = (RECORDED / name).read_text().splitlines()
    return [json.loads(line) for line in lines[:: max(len(lines) // wanted, 1)]]


def _written(path: Path, cases: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(case) + "\n" for case in cases))
    return path


@pytest.mark.live_kernel
@pytest.mark.slow
def test_recorded_operations_replay_exactly(kernel: str, tmp_path: Path) -> None:
    cases = list(record_cases(iter(_cases("errno.jsonl", 60)), "errno"))
    report = check_file(_written(tmp_path / "errno.jsonl", cases))
    assert len(cases) >= 60
    assert report.mismatched == 0, report.as_json()


@pytest.mark.live_kernel
@pytest.mark.slow
def test_recorded_creations_replay_exactly(kernel: str, meter: Meter, tmp_path: Path) -> None:
    cases = list(record_cases(iter(_cases("create-6.12-smp2.jsonl", 40)), "create"))
    report = check_file(_written(tmp_path / f"create-{kernel}.jsonl", cases))
    assert report.mismatched == 0, report.as_json()


@pytest.mark.live_kernel
@pytest.mark.slow
def test_recorded_element_costs_replay_within_what_rcu_allows(
    kernel: str, meter: Meter, tmp_path: Path
) -> None:
    wanted = [
        case
        for case in _cases("elements-6.1-smp2.jsonl", 40)
        if case["type"] in ("queue", "devmap")
    ]
    cases = list(record_cases(iter(wanted), "elements"))
    report = check_file(_written(tmp_path / f"elements-{kernel}.jsonl", cases))
    assert [case["errno"] for case in cases] == [0] * len(wanted)
    assert report.mismatched == 0, report.as_json()


@pytest.mark.live_kernel
@pytest.mark.slow
def test_recorded_permissions_replay_exactly_and_leave_the_sysctl_alone(
    kernel: str, tmp_path: Path
) -> None:
    sysctl = Path("/proc/sys/kernel/unprivileged_bpf_disabled")
    before = sysctl.read_text()
    cases = list(record_cases(iter(_cases("perm-6.12-smp2.jsonl", 20)), "perm"))
    assert sysctl.read_text() == before
    assert all(case["sysctl"] == int(before) for case in cases)
    report = check_file(_written(tmp_path / f"perm-{kernel}.jsonl", cases))
    assert report.mismatched == 0, report.as_json()


@pytest.mark.live_kernel
@pytest.mark.slow
def test_recording_leaves_no_cgroup_and_moves_no_process(kernel: str, meter: Meter) -> None:
    parent, _ = find_memory_cgroup()
    mine, cpus = Path("/proc/self/cgroup").read_text(), os.sched_getaffinity(0)
    list(record_cases(random_creations(seed=3, count=5), "create"))
    assert Path("/proc/self/cgroup").read_text() == mine
    assert os.sched_getaffinity(0) == cpus
    # Others may be recording beside this one.
    assert not list(parent.glob(f"bpfleet-record-{os.getpid()}-*"))


@pytest.mark.live_kernel
@pytest.mark.slow
def test_the_command_writes_recordings_that_check_accepts(kernel: str, tmp_path: Path) -> None:
    runner = CliRunner()
    given = _written(tmp_path / "errno.jsonl", _cases("errno.jsonl", 20))
    recorded = runner.invoke(command, ["record", "--out", str(tmp_path / "out"), str(given)])
    assert recorded.exit_code == 0, recorded.output
    written = tmp_path / "out" / f"errno-{kernel}.jsonl"
    assert check_file(written).mismatched == 0


def test_random_cases_depend_on_the_seed_alone() -> None:
    assert list(random_sequences(5, 26)) == list(random_sequences(5, 26))
    assert list(random_creations(5, 64)) == list(random_creations(5, 64))
    assert list(random_creations(5, 64)) != list(random_creations(6, 64))


def test_a_recording_of_an_unknown_kind_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one of create, elements, perm, errno"):
        list(record_cases(iter([]), "scenarios"))


def test_the_command_without_cases_says_what_to_give(tmp_path: Path) -> None:
    answer = CliRunner().invoke(command, ["record", "--out", str(tmp_path)])
    assert answer.exit_code == 2
    assert "--random COUNT" in answer.output


def test_possible_cpus_is_at_least_one() -> None:
    assert possible_cpus() >= 1
