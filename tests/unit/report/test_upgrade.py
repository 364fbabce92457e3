"""The upgrade question, answered per workload."""

import pytest
from msgspec.structs import replace
from sample_fleet import small_scenario

from bpfleet.report.compare import Comparison, compare
from bpfleet.report.fate import Fate, fate_of
from bpfleet.report.limits import advise_all
from bpfleet.report.scenario_file import read_scenario
from bpfleet.report.upgrade import (
    UpgradeChange,
    UpgradeLine,
    upgrade_data,
    upgrade_lines,
    upgrade_markdown,
    upgrade_verdict,
    with_rollouts,
)


@pytest.fixture(scope="module")
def result() -> Comparison:
    return compare(with_rollouts(small_scenario()), ("5.10", "6.12"))


@pytest.fixture(scope="module")
def lines(result: Comparison) -> dict[tuple[str, str], UpgradeLine]:
    advice = advise_all(with_rollouts(small_scenario()), "6.12", map)
    return {(x.workload, x.group): x for x in upgrade_lines(result, "5.10", "6.12", advice)}


def test_a_memlock_refusal_stops(lines: dict[tuple[str, str], UpgradeLine]) -> None:
    line = lines["bpftrace", "large"]
    assert (line.before, line.after, line.change) == (Fate.EPERM, Fate.RUNS, UpgradeChange.FIXED)
    assert line.raise_to_bytes is None


def test_a_full_container_is_new_and_comes_with_the_limit_it_needs(
    lines: dict[tuple[str, str], UpgradeLine],
) -> None:
    line = lines["falco", "large"]
    assert (line.before, line.after, line.change) == (
        Fate.RUNS,
        Fate.ENOMEM,
        UpgradeChange.NEW_ENOMEM,
    )
    assert line.limit_bytes == 320 << 20
    assert line.raise_to_bytes is not None
    assert line.raise_to_bytes > line.limit_bytes


def test_a_kill_is_new(lines: dict[tuple[str, str], UpgradeLine]) -> None:
    assert lines["probe", "small"].change is UpgradeChange.NEW_OOM


def test_what_runs_before_and_after_is_unchanged(
    lines: dict[tuple[str, str], UpgradeLine],
) -> None:
    assert lines["falco", "small"].change is UpgradeChange.UNCHANGED


def test_first_starts_and_restarts_are_told_apart(
    lines: dict[tuple[str, str], UpgradeLine],
) -> None:
    assert lines["falco", "small"].first_start == ("ok", "ok")
    assert lines["falco", "small"].restart == ("2 ok", "2 ok")
    assert lines["falco", "large"].first_start == ("ok", "ENOMEM")


def test_a_restart_that_fails_once_under_one_kernel_alone_is_a_change() -> None:
    """Under 5.10 the old process' locked pages are given back after the new one asked for its own."""
    scenario = read_scenario("mixed-fleet")
    memleak = tuple(w for w in scenario.workloads if w.name == "memleak")
    alone = with_rollouts(replace(scenario, workloads=memleak, events=()))
    result = compare(alone, ("5.10", "6.1"))
    (line,) = upgrade_lines(result, "5.10", "6.1", [])
    assert line.change is UpgradeChange.FIXED_RESTARTS
    assert line.restart[0].startswith("6 EPERM")
    assert (line.before, line.after) == (Fate.RUNS, Fate.RUNS)


def test_the_worst_changes_come_first(lines: dict[tuple[str, str], UpgradeLine]) -> None:
    changes = [line.change for line in lines.values()]
    order = list(UpgradeChange)
    assert changes == sorted(changes, key=order.index)


def test_the_answer_is_there_as_markdown_and_as_data(
    result: Comparison, lines: dict[tuple[str, str], UpgradeLine]
) -> None:
    text = upgrade_markdown(result, list(lines.values()))
    assert text.startswith("### From 5.10 to 6.12\n\nOf 7 replicas ")
    assert "| falco | large | 1 | newly fails with ENOMEM | ok → ENOMEM |" in text
    data = upgrade_data(result, list(lines.values()))
    assert data["kernels"]["6.12"].startswith("recorded")
    assert len(data["workloads"]) == len(lines)
    assert data["workloads"][0]["raise_to_bytes"] > 0


def test_the_verdict_counts_replicas_and_what_is_new(result: Comparison) -> None:
    counted = [
        [sum(fate_of(r) is not Fate.RUNS for n in result.nodes for r in n.models[m].replicas)]
        for m in ("5.10", "6.12")
    ]
    verdict = upgrade_verdict(result, "5.10", "6.12")
    (before,), (after,) = counted
    assert verdict.startswith(
        f"Of 7 replicas {before} are in trouble under 5.10, {after} would be under 6.12: "
    )
    assert "newly fail with ENOMEM" in verdict
    assert "unchanged" not in verdict
