"""The stories of many actors, cgroups, maps and limits at once, replayed step by step, and what may differ."""

import json
from pathlib import Path
from typing import Any

import pytest

from bpfleet.oracle.format.report import FileReport, render
from bpfleet.oracle.replay.files import check_file, read_cases
from bpfleet.oracle.replay.machine import target_named
from bpfleet.oracle.replay.stories import StoryReplay, check_story, story_of, story_target

RECORDED = Path(__file__).parent / "recorded"
FILES = sorted(path.name for kind in ("stories", "types") for path in RECORDED.glob(f"{kind}-*"))
KNOWN = {
    "s2024": "how many deleted nodes a refill of a trie takes back hangs on the moment",
    "fix0": "the standard build's per-CPU allocator runs dry after 48 insertions, here after 29",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_story_goes_as_it_went_on_the_real_kernel(name: str) -> None:
    report = check_file(RECORDED / name)
    told = [found.where.partition(" ")[0] for found in report.sections["stories"].mismatches]
    assert set(told) <= KNOWN.keys(), render(report)
    assert report.sections["steps"].cases


def step(op: str, answer: Any = 0, alive: tuple[str, ...] = (), **arguments: Any) -> dict[str, Any]:
    return {"op": op, "=>": answer, "alive": list(alive), "st": {}, **arguments}


def actor(name: str, cgroup: str, alive: tuple[str, ...], **more: Any) -> dict[str, Any]:
    told = {"a": name, "cg": cgroup, "uid": 0, "caps": "all", "memlock": -1, "adj": 0, **more}
    return step("actor", alive=alive, **told)


def told(*steps: dict[str, Any], mode: str = "v2", target: str = "6.18-smp2") -> FileReport:
    report = FileReport("x")
    case = {"id": "s1", "mode": mode, "steps": list(steps)}
    check_story(case, target_named(target), report)
    return report


def differences(report: FileReport) -> list[str]:
    return [each for found in report.sections["steps"].mismatches for each in found.found]


def counters(current: int, **more: Any) -> dict[str, Any]:
    zero = dict.fromkeys(
        ("kernel", "slab", "percpu", "vmalloc", "anon", "file", "shmem", "sock"), 0
    )
    return {"current": current, "ev": {}, **zero, **more}


TOUCHED = counters((40 << 20) + (80 << 10), kernel=80 << 10, anon=40 << 20)


def test_a_step_compares_the_answer_who_lives_and_every_counter() -> None:
    report = told(
        step("cgroup", path="/c1", max=-1),
        actor("a1", "/c1", ("a1",)),
        step("touch", "ENOMEM", (), a="a1", bytes=40 << 20)
        | {"st": {"/c1": counters(1 << 20, anon=20 << 20, ev={"oom_kill": 1})}},
    )
    found = [each.partition("field=")[2].partition(",")[0] for each in differences(report)]
    assert found == ["'answer'", "'alive'", "'/c1 current'", "'/c1 anon'", "'event /c1 oom_kill'"]
    assert report.mismatched


def test_statistics_may_lag_and_stocks_may_be_full() -> None:
    steps = (step("cgroup", path="/c1", max=-1), actor("a1", "/c1", ("a1",)))
    touch = step("touch", 0, ("a1",), a="a1", bytes=40 << 20)
    for moved, found in ((128, 0), (-128, 0), (140, 1), (-140, 1)):
        shown = TOUCHED | {"anon": TOUCHED["anon"] + moved * 4096}
        assert len(differences(told(*steps, touch | {"st": {"/c1": shown}}))) == found, moved
    for moved, found in ((128, 0), (-30, 1), (200, 1)):
        shown = TOUCHED | {"current": TOUCHED["current"] + moved * 4096}
        assert len(differences(told(*steps, touch | {"st": {"/c1": shown}}))) == found, moved


def test_who_was_killed_may_show_one_step_later_and_no_later() -> None:
    steps = (
        step("cgroup", path="/c1", max=4 << 20),
        actor("a1", "/c1", ("a1",)),
        step("touch", "killed", ("a1",), a="a1", bytes=8 << 20),
    )
    late = step("exit", "dead", ("a1",), a="a1")
    gone = step("exit", "dead", (), a="a1")
    assert not differences(told(*steps, gone))
    assert len(differences(told(*steps, late, gone))) == 1


def test_event_counters_alone_spare_the_story_without_them() -> None:
    report = told(
        step("cgroup", path="/c1", max=4 << 20),
        actor("a1", "/c1", ("a1",)),
        step("touch", "killed", (), a="a1", bytes=8 << 20)
        | {"st": {"/c1": counters(0, ev={"max": 4000, "oom": 1, "oom_kill": 1})}},
    )
    sections = report.sections
    assert [sections[name].exact for name in ("stories", "uncounted")] == [0, 1]
    assert "s1 step 2 touch: event /c1 max: recorded 4000, emulated 35" in render(report)


def test_the_build_is_the_one_whose_memlock_lines_were_recorded() -> None:
    cases = list(read_cases(RECORDED / "stories-memcg-6.18-smp2.jsonl"))
    assert story_target("memcg-6.18-smp2", {}, cases).profile.name == "6.18.15"
    cases = list(read_cases(RECORDED / "stories-memcg-v1-6.18-smp2.jsonl"))
    assert story_target("memcg-v1-6.18-smp2", {}, cases).profile.name == "6.18"
    assert story_target("6.12std-smp8", {}, []).possible_cpus == 8


def test_on_v1_processes_live_beside_cgroups_and_a_limit_below_usage_is_refused() -> None:
    report = told(
        step("cgroup", path="/c1", max=-1),
        actor("a1", "/c1", ("a1",)),
        step("touch", 0, ("a1",), a="a1", bytes=4 << 20),
        step("cgroup", alive=("a1",), path="/c1/c2", max=8 << 20),
        actor("a2", "/c1", ("a1", "a2")),
        step("set", "EBUSY", ("a1", "a2"), cg="/c1", max=1 << 20),
        mode="v1",
    )
    assert not report.mismatched, render(report)


def test_an_unknown_step_ends_the_story_as_unsupported() -> None:
    report = told(step("teleport"))
    assert report.sections["stories"].unsupported == {"step 'teleport'": 1}


def test_the_report_names_for_each_story_what_differs_first(tmp_path: Path) -> None:
    case = next(read_cases(RECORDED / "stories-rlimit-5.10-smp2.jsonl"))
    case["steps"][5]["=>"]["memlock"] += 1
    path = tmp_path / "stories-rlimit-5.10-smp2.jsonl"
    path.write_text(json.dumps(case) + "\n")
    report = check_file(path)
    assert [m.where for m in report.sections["stories"].mismatches] == [
        "s5400 step 5 create: answer"
    ]
    first = report.as_json()["sections"]["stories"]["first"]
    assert first[0]["where"] == "s5400 step 5 create: answer"


def test_a_replayed_story_leaves_all_invariants_true() -> None:
    case = next(read_cases(RECORDED / "stories-memcg-6.18-smp2.jsonl"))
    target = target_named("6.18.15-smp2")
    replay = StoryReplay(target.profile, target.possible_cpus, target.ram_bytes, story_of(case))
    for _ in replay.run():
        replay.kernel.check()
    replay.kernel.run_deferred()
    replay.kernel.check()
