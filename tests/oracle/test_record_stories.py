"""Random stories: told from a seed, played on this machine's kernel where it allows it, cut down to the smallest."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bpfleet.oracle.format.report import render
from bpfleet.oracle.record.files import RecordingRefused, story_recorder
from bpfleet.oracle.record.meter import find_memory_cgroup
from bpfleet.oracle.record.stories import StoryRecorder, random_stories, random_story
from bpfleet.oracle.replay.files import check_file
from bpfleet.oracle.shrink import makes_sense, smallest

STORY = [
    {"op": "cgroup", "path": "/c1", "max": 8 << 20},
    {"op": "actor", "a": "a1", "cg": "/c1", "uid": 0, "caps": "all", "memlock": -1, "adj": 0},
    {"op": "create", "a": "a1", "m": "m1", "type": "array", "ks": 4, "vs": 8, "me": 4096, "fl": 0},
    {"op": "fill", "a": "a1", "m": "m1", "start": 0, "count": 100},
    {"op": "load", "a": "a1", "p": "p1", "insns": 100},
    {"op": "touch", "a": "a1", "bytes": 4 << 20},
    {"op": "release", "a": "a1"},
    {"op": "actor", "a": "a2", "cg": "/c1", "uid": 0, "caps": "all", "memlock": -1, "adj": 0},
    {"op": "touch", "a": "a2", "bytes": 16 << 20},
    {"op": "close", "a": "a1", "m": "m1"},
    {"op": "exit", "a": "a1"},
]


@pytest.fixture
def recorder() -> StoryRecorder:
    try:
        return story_recorder()
    except RecordingRefused as refused:
        pytest.skip(f"no story can be played here: {refused}")


def left_behind() -> list[Path]:
    parent, _ = find_memory_cgroup()
    return list(parent.glob(f"bpfleet-story-{os.getpid()}-*"))


def test_a_seed_tells_one_story() -> None:
    assert random_story(7) == random_story(7)
    assert random_story(7) != random_story(8)
    assert all(makes_sense(story["steps"]) for story in random_stories(1, 50))


@pytest.mark.slow
def test_a_story_is_played_step_by_step_and_leaves_nothing_behind(recorder: StoryRecorder) -> None:
    told = recorder.record({"id": "s", "steps": STORY})
    answers = [step["=>"] for step in told["steps"]]
    assert answers[0] == answers[1] == 0
    assert answers[2]["e"] == 0
    assert answers[3] == {"n": 100, "e": 0}
    assert answers[8] == "killed"
    assert told["steps"][8]["alive"] == ["a1"]
    assert told["steps"][-1]["alive"] == []
    assert not left_behind()


@pytest.mark.slow
def test_the_emulator_tells_a_story_as_this_kernel_does(
    recorder: StoryRecorder, tmp_path: Path
) -> None:
    target = "6.18-smp2"
    if not os.uname().release.startswith("6.18") or os.cpu_count() != 2:
        pytest.skip(f"the stories are compared on {target}, this is {os.uname().release}")
    mode = "memcg-v1" if recorder.mode == "v1" else "memcg"
    path = tmp_path / f"stories-{mode}-{target}.jsonl"
    path.write_text(json.dumps(recorder.record({"id": "s", "steps": STORY})) + "\n")
    report = check_file(path)
    assert not report.sections["uncounted"].mismatches, render(report)


def test_what_differs_is_cut_down_to_what_it_takes() -> None:
    def differs(steps: list[dict[str, Any]]) -> bool:
        return any(step["op"] == "touch" and step["bytes"] >= 1 << 20 for step in steps)

    left = smallest(STORY, differs)
    assert [step["op"] for step in left] == ["cgroup", "actor", "touch"]
    assert left[-1]["bytes"] == 1 << 20


def test_a_story_speaks_only_of_what_was_told() -> None:
    assert makes_sense(STORY)
    assert not makes_sense(STORY[1:])
    assert not makes_sense([STORY[0], STORY[2]])
