"""The story recordings of real kernels, replayed: limits, killing, who pays, pins, restarts, shared counters."""

import json
from pathlib import Path

import pytest

from bpfleet.kernel.profile import profile_named
from bpfleet.oracle.replay.scenarios import ODD_RECORDINGS, Scenario, ScenarioReplay, read_scenarios

RECORDED = Path(__file__).parent / "recorded"
KIBI = 1024
TARGETS = {
    "scenarios-rlimit-5.10-smp2.jsonl": ("5.10", 2, 2_032_864 * KIBI),
    "scenarios-memcg-6.1-smp2.jsonl": ("6.1", 2, 2_027_036 * KIBI),
    "scenarios-memcg-6.12-smp2.jsonl": ("6.12", 2, 2_021_564 * KIBI),
}
FIELD = ("5.15", "6.6", "6.8", "6.16", "6.17", "6.18.15", "6.19", "7.0", "7.1", "7.2", "7.3")
FIELD += ("el8.10", "el9.6")
TARGETS |= {f"scenarios-memcg-{name}-smp2.jsonl": (name, 2, 2_027_036 * KIBI) for name in FIELD}
TARGETS["scenarios-rlimit-5.4-smp2.jsonl"] = ("5.4", 2, 2_032_864 * KIBI)
LATE = "how much of what was freed is back depends on the moment"
DRY = "the guest's per-CPU allocator or kmalloc_nolock ran dry at a moment of its own"
SMALLER = "the smaller of two is killed first: unexplained, the other kernels take the larger"
KNOWN = {
    ("E5-lpm_trie-1", "el9.6"): LATE,
    ("E3-fill", "el8.10"): LATE,
    ("E5-percpu_hash-1", "7.3"): DRY,
    ("E7-percpu_hash-1", "6.19"): DRY,
    ("E7-percpu_hash-1", "7.3"): DRY,
    ("E6", "7.3"): DRY,
    ("E14", "6.6"): SMALLER,
    ("E14", "el9.6"): SMALLER,
}
LONG = (
    "E2-lpm_trie-8-8",
    "E2-devmap_hash-4-4",
)  # a quarter of a minute each: on three kernels only
STORIES = [
    pytest.param(file, story, id=f"{TARGETS[file][0]}-{story.id}")
    for file in TARGETS
    for story in read_scenarios(RECORDED / file)
    if TARGETS[file][0] not in FIELD or story.id not in LONG
]


@pytest.mark.slow
@pytest.mark.parametrize(("file", "story"), STORIES)
def test_the_emulator_answers_a_story_as_the_real_kernel_did(file: str, story: Scenario) -> None:
    profile, cpus, ram_bytes = TARGETS[file]
    replay = ScenarioReplay(profile_named(profile), cpus, ram_bytes)
    differences = replay.run(story)
    assert (story.id, profile) in KNOWN or not differences, "\n".join(map(str, differences))
    assert replay.steps_tried == len(story.steps), replay.unsupported


def test_a_wrong_answer_in_a_story_is_found() -> None:
    story = next(
        s for s in read_scenarios(RECORDED / "scenarios-memcg-6.12-smp2.jsonl") if s.id == "E4b"
    )
    steps = [json.loads(json.dumps(step)) for step in story.steps]
    steps[5]["=>"] = 0  # the creation that did not fit
    differences = ScenarioReplay(profile_named("6.12"), 2, 2 << 30).run(
        Scenario("x", "", tuple(steps))
    )
    assert [(d.op, d.recorded, d.emulated) for d in differences] == [("create", 0, "ENOMEM")]


def test_a_story_stops_at_a_step_the_emulator_does_not_have() -> None:
    story = Scenario("x", "", ({"op": "note"}, {"op": "teleport", "=>": 0}, {"op": "note"}))
    replay = ScenarioReplay(profile_named("6.12"), 1, 1 << 30)
    assert replay.run(story) == []
    assert (replay.steps_tried, replay.unsupported) == (1, "step 'teleport'")


def test_a_step_on_what_could_not_be_made_differs_rather_than_ends_the_replay() -> None:
    steps = (
        {"op": "cgroup", "path": "/g", "max": 4096, "=>": 0},
        {"op": "actor", "actor": "A", "uid": 0, "cgroup": "/g"},
        *[
            {"op": "create", "actor": "A", "map": "m", "type": "array", "ks": 4, "vs": 8}
            | {"me": 10_000, "fl": 0, "=>": 0},
            {"op": "pin", "actor": "A", "map": "m", "path": "/sys/fs/bpf/m", "=>": 0},
            {"op": "close", "actor": "A", "map": "m", "=>": 0},
            {"op": "state", "cgroup": "/h", "=>": {"current": 0}},
        ],
    )
    differences = ScenarioReplay(profile_named("6.12"), 1, 1 << 30).run(Scenario("x", "", steps))
    assert [(d.op, d.emulated) for d in differences] == [
        ("create", "ENOMEM"),
        ("pin", "EINVAL"),
        ("close", "EBADF"),
        ("state", "ENOENT"),
    ]


def test_every_odd_recording_names_a_step_that_exists() -> None:
    stories = {s.id: s for file in TARGETS for s in read_scenarios(RECORDED / file)}
    for odd in ODD_RECORDINGS:
        assert stories[odd.story].steps[odd.step]["op"] == "largest", odd
