"""The checks after a chaos run: each finds the damage it is for, and none where there is none."""

from dataclasses import replace

import pytest

from bpfleet.launcher.chaos.checks import Acknowledged, check_all
from bpfleet.launcher.survey import Booked, Running, Survey

WELL = Survey(
    leaders=1,
    workloads={"web": 2, "db": 1},
    booked=[
        Booked("web-0", "web", "n1", "RUNNING"),
        Booked("web-1", "web", "n2", "BACK_OFF"),
        Booked("db-0", "db", "n1", "RUNNING"),
    ],
    running=[
        Running("web-0", "n1", "a1", "RUNNING"),
        Running("web-1", "n2", "a2", "FAILED"),
        Running("db-0", "n1", "a1", "RUNNING"),
    ],
    nodes=2,
    nodes_checked=2,
)
TOLD = Acknowledged(replicas={"web": 2, "db": 1}, deleted={"old"}, writes=4)


def _broken(survey: Survey, told: Acknowledged = TOLD) -> dict[str, str]:
    return {check.name: check.detail for check in check_all(survey, told) if not check.holds}


def test_a_cluster_that_is_well_passes() -> None:
    assert _broken(WELL) == {}
    assert len(check_all(WELL, TOLD)) == 7


def test_a_survey_survives_being_written_down() -> None:
    assert Survey.from_text(WELL.as_text()) == WELL


@pytest.mark.parametrize(
    ("name", "survey", "says"),
    [
        ("one leader", replace(WELL, leaders=2), "2 coordinators lead"),
        (
            "acknowledged is visible",
            replace(WELL, workloads={"web": 3, "db": 1}),
            "web should have 2 replicas and has 3",
        ),
        (
            "acknowledged is visible",
            replace(WELL, workloads={**WELL.workloads, "old": 0}),
            "old was deleted and is there",
        ),
        ("no replica lost", replace(WELL, booked=WELL.booked[:2]), "db wants 1 replicas and has 0"),
        (
            "no replica lost",
            replace(WELL, running=WELL.running[:2]),
            "db-0 runs on n1 by the books, and does not",
        ),
        (
            "no replica doubled",
            replace(WELL, running=[*WELL.running, Running("db-0", "n2", "a2", "RUNNING")]),
            "db-0 runs on n1 and n2",
        ),
        (
            "no replica doubled",
            replace(WELL, running=[*WELL.running, Running("ghost", "n2", "a2", "RUNNING")]),
            "ghost runs on n2, where the books do not have it",
        ),
        (
            "no replica doubled",
            replace(WELL, booked=[*WELL.booked, WELL.booked[0]]),
            "web-0 is booked 2 times",
        ),
        ("ledgers conserved", replace(WELL, broken=["n1: 4096 != 0"]), "n1: 4096 != 0"),
        ("nodes came back", replace(WELL, nodes_not_ready=["n2"]), "n2 is not ready"),
        ("nodes came back", replace(WELL, unreachable=["a1 at x:1: away"]), "a1 at x:1: away"),
    ],
)
def test_each_damage_is_found_by_its_check(name, survey, says) -> None:
    assert says in _broken(survey)[name]


def test_a_write_without_an_answer_may_have_happened_or_not() -> None:
    told = replace(TOLD, unsure={"web", "old"})
    assert "acknowledged is visible" not in _broken(replace(WELL, workloads={"db": 1}), told)


def test_a_long_list_of_damage_is_cut() -> None:
    survey = replace(WELL, nodes_not_ready=[f"n{n}" for n in range(10)])
    assert _broken(survey)["nodes came back"].endswith("n2 is not ready and 7 more")


def test_a_client_that_waits_too_long_breaks_progress() -> None:
    assert "writes go on" in _broken(WELL, replace(TOLD, longest_wait_seconds=61.0))
