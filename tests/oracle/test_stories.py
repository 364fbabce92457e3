"""The story recordings of real kernels, replayed: limits, killing, who pays, pins, restarts, shared counters."""

import json
from pathlib import Path

import pytest

from bpfleet.kernel.profile import profile_named
from bpfleet.oracle.scenarios import ODD_RECORDINGS, Replay, Scenario, read_scenarios

RECORDED = Path(__file__).parent / "recorded"
KIBI = 1024
TARGETS = {
    "scenarios-rlimit-5.10-smp2.jsonl": ("5.10", 2, 2_032_864 * KIBI),
    "scenarios-memcg-6.1-smp2.jsonl": ("6.1", 2, 2_027_036 * KIBI),
    "scenarios-memcg-6.12-smp2.jsonl": ("6.12", 2, 2_021_564 * KIBI),
}
STORIES = [
    pytest.param(file, scenario, id=f"{TARGETS[file][0]}-{scenario.id}")
    for file in TARGETS
    for scenario in read_scenarios(RECORDED / file)
]


@pytest.mark.slow
@pytest.mark.parametrize(("file", "scenario"), STORIES)
def test_the_emulator_answers_a_story_as_the_real_kernel_did(file: str, scenario: Scenario) -> None:
    profile, cpus, ram_bytes = TARGETS[file]
    differences = Replay(profile_named(profile), cpus, ram_bytes).run(scenario)
    assert not differences, "\n".join(map(str, differences))


def test_a_wrong_answer_in_a_story_is_found() -> None:
    story = next(
        s for s in read_scenarios(RECORDED / "scenarios-memcg-6.12-smp2.jsonl") if s.id == "E4b"
    )
    steps = [json.loads(json.dumps(step)) for step in story.steps]
    steps[5]["=>"] = 0  # the creation that did not fit
    differences = Replay(profile_named("6.12"), 2, 2 << 30).run(Scenario("x", "", tuple(steps)))
    assert [(d.op, d.recorded, d.emulated) for d in differences] == [("create", 0, "ENOMEM")]


def test_an_unknown_step_is_reported_rather_than_skipped() -> None:
    story = Scenario("x", "", ({"op": "teleport", "=>": 0},))
    assert [d.op for d in Replay(profile_named("6.12"), 1, 1 << 30).run(story)] == ["teleport"]


def test_every_odd_recording_names_a_step_that_exists() -> None:
    stories = {s.id: s for file in TARGETS for s in read_scenarios(RECORDED / file)}
    for odd in ODD_RECORDINGS:
        assert stories[odd.scenario].steps[odd.step]["op"] == "largest", odd
