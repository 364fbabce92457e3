"""Chaos plans: what is understood, what is refused, and schedules that repeat."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfleet.launcher.chaos.plan import FaultKind, parse_plan, schedule
from bpfleet.launcher.errors import LaunchError
from bpfleet.launcher.spec import Role

TARGETS = {
    Role.REDIS: ["redis-0"],
    Role.COORDINATOR: ["coordinator-0", "coordinator-1"],
    Role.AGENT: ["agent-0", "agent-1", "agent-2"],
}
SHIPPED = sorted((Path(__file__).parents[3] / "deploy" / "chaos").glob("*.toml"))


def _plan(*faults: str, seed: int = 1, duration: float = 60):
    text = f"seed = {seed}\nduration_seconds = {duration}\n"
    return parse_plan(text + "".join(f"[[faults]]\n{fault}\n" for fault in faults), "x.toml")


KILL = 'kind = "kill"\nrole = "agent"\nevery_seconds = 5\nfor_seconds = 2'


@given(seed=st.integers(0, 2**32))
def test_a_schedule_follows_from_its_seed(seed) -> None:
    first, again = (schedule(_plan(KILL, seed=seed), TARGETS) for _ in range(2))
    assert first == again
    assert len(first) >= 9


def test_another_seed_strikes_others_at_other_times() -> None:
    assert schedule(_plan(KILL, seed=1), TARGETS) != schedule(_plan(KILL, seed=2), TARGETS)


@given(seed=st.integers(0, 2**32))
def test_a_service_is_struck_by_one_fault_at_a_time_and_all_end_in_time(seed) -> None:
    pause = 'kind = "pause"\nrole = "agent"\nevery_seconds = 3\nfor_seconds = 10'
    actions = schedule(_plan(KILL, pause, seed=seed), TARGETS)
    assert list(actions) == sorted(actions, key=lambda action: action.at_seconds)
    until: dict[str, float] = {}
    for action in actions:
        assert until.get(action.target, -1) < action.at_seconds <= action.until_seconds <= 60
        until[action.target] = action.until_seconds


def test_times_that_are_given_are_kept() -> None:
    fault = 'kind = "fill-redis"\nat_seconds = [7, 3, 99]\nfor_seconds = 1'
    actions = schedule(_plan(fault), TARGETS)
    assert [(a.at_seconds, a.until_seconds, a.target) for a in actions] == [
        (3, 4, "redis-0"),
        (7, 8, "redis-0"),
    ]


def test_the_leader_is_only_known_when_the_time_has_come() -> None:
    (action,) = schedule(_plan('kind = "lose-leader"\nat_seconds = [5]'), TARGETS)
    assert (action.kind, action.target) == (FaultKind.LOSE_LEADER, "")


def test_a_role_that_is_not_there_is_refused() -> None:
    fault = 'kind = "kill"\nrole = "load"\nat_seconds = [5]'
    with pytest.raises(LaunchError, match="kill: the cluster has no load"):
        schedule(_plan(fault), TARGETS)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_plans_that_are_shipped_are_valid(path) -> None:
    plan = parse_plan(path.read_text(), path.name)
    assert schedule(plan, TARGETS)
    assert parse_plan(path.read_text(), path.name, seed=9).seed == 9


def test_one_of_them_has_every_kind_of_fault() -> None:
    (path,) = [path for path in SHIPPED if path.name == "every-fault.toml"]
    actions = schedule(parse_plan(path.read_text(), path.name), TARGETS)
    assert {action.kind for action in actions} == set(FaultKind)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed = ", "x.toml: not TOML"),
        ("sed = 1", "x.toml: unknown field 'sed'; known: duration_seconds, faults"),
        ("seed = 1", "x.toml: faults: give 1 to 100"),
        ("duration_seconds = -3", "x.toml.duration_seconds: -3: use a number from 0.1"),
        ('duration_seconds = "long"', "x.toml.duration_seconds: 'long'"),
        ("seed = true", "x.toml.seed: True"),
        ('[[faults]]\nkind = "burn"', "x.toml: faults[0].kind: 'burn': use one of disconnect"),
        ('[[faults]]\nkind = "kill"', "x.toml: faults[0].role: None: use one of agent"),
        (
            '[[faults]]\nkind = "kill"\nrole = "agent"\nat_seconds = 3',
            "x.toml: faults[0].at_seconds: 3: give a list",
        ),
        (
            '[[faults]]\nkind = "kill"\nrole = "agent"',
            "x.toml: faults[0]: give either at_seconds or every_seconds",
        ),
        (
            '[[faults]]\nkind = "kill"\nrole = "agent"\nevery_seconds = 0.001',
            "x.toml: faults[0].every_seconds: 0.001: use 1 or more",
        ),
        (
            '[[faults]]\nkind = "pause"\nrole = "agent"\nevery_seconds = 5',
            "x.toml: faults[0].for_seconds: say how long pause lasts",
        ),
        (
            '[[faults]]\nkind = "lose-leader"\nrole = "agent"\nat_seconds = [1]',
            "x.toml: faults[0].role: lose-leader always strikes coordinator",
        ),
        ("faults = [1]", "x.toml: faults[0]: not a table"),
    ],
)
def test_a_bad_plan_is_refused_in_one_line(text, says) -> None:
    with pytest.raises(LaunchError) as caught:
        parse_plan(text, "x.toml")
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)
