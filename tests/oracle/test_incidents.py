"""The incident museum: every incident under every model, and a museum that can tell when it is wrong."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bpfleet.cli.incident import command
from bpfleet.oracle.incidents.files import (
    Incident,
    IncidentError,
    matches,
    read_incident,
    read_incidents,
    run_incident,
)

MUSEUM = Path(__file__).parents[2] / "loadtest" / "scenarios" / "incidents"
INCIDENTS = read_incidents(MUSEUM)


@pytest.mark.slow
@pytest.mark.parametrize("incident", INCIDENTS, ids=lambda incident: incident.name)
def test_an_incident_shows_what_it_showed_in_the_field(incident: Incident) -> None:
    findings = list(run_incident(incident))
    assert {finding.model for finding in findings} == set(incident.models)
    assert not [finding for finding in findings if not finding.agrees]


def test_the_museum_has_every_incident_of_the_catalogue() -> None:
    assert [incident.id for incident in INCIDENTS] == [f"S{number:02}" for number in range(1, 34)]


def test_every_incident_names_a_public_source() -> None:
    for incident in INCIDENTS:
        assert any(mark in incident.source for mark in ("#", ".c", "docs.", "measured", "Shao")), (
            incident.id
        )


@pytest.mark.parametrize(
    ("expected", "observed", "agrees"),
    [
        ("ENOMEM", "ENOMEM", True),
        ("ENOMEM", "ok", False),
        ("1M..2M", 1 << 20, True),
        ("1M..2M", (2 << 20) + 1, False),
        (">=1G", 1 << 30, True),
        ("<=1K", 1025, False),
        ("~100", 102, True),
        ("~100", 103, False),
        (["ok", "ENOMEM"], "ENOMEM", True),
        (True, True, True),
        (0, 1, False),
    ],
)
def test_an_expectation_is_equality_or_a_range(
    expected: object, observed: object, agrees: bool
) -> None:
    assert matches(expected, observed) is agrees


GOOD = """
id = "T1"
title = "t"
source = "s#1"
story = "story"

[[steps]]
do = "spawn"
process = "a"
memlock = "64K"

[[steps]]
do = "create"
process = "a"
type = "hash"
key = 8
value = 16
entries = 10240
answer = { R = "EPERM", memcg = "ok" }
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "t1.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (GOOD.replace('source = "s#1"', ""), "source is missing"),
        (GOOD.replace('do = "create"', 'do = "invent"'), "do = 'invent' is unknown"),
        (GOOD.replace("id =", "id = ="), "not TOML"),
        (GOOD.replace('title = "t"', 'title = "t"\nmodels = ["4.4"]'), "unknown kernel"),
    ],
)
def test_a_file_that_is_no_incident_says_why(tmp_path: Path, broken: str, complaint: str) -> None:
    with pytest.raises(IncidentError, match=complaint):
        read_incident(write(tmp_path, broken))


def test_an_expectation_nothing_observes_is_an_error(tmp_path: Path) -> None:
    incident = read_incident(write(tmp_path, GOOD.replace("answer = {", "anwser = {")))
    with pytest.raises(IncidentError, match="nothing is observed as 'anwser'"):
        list(run_incident(incident))


def test_running_an_incident_that_differs_exits_with_1(tmp_path: Path) -> None:
    write(tmp_path, GOOD.replace('R = "EPERM"', 'R = "ok"'))
    result = CliRunner().invoke(
        command, ["run", "t1", "--directory", str(tmp_path)], standalone_mode=False
    )
    assert result.return_value == 1
    assert "DIFFERS" in result.output


def test_running_one_incident_prints_expected_beside_observed() -> None:
    result = CliRunner().invoke(command, ["run", "S01", "--kernel", "5.10"], standalone_mode=False)
    assert result.return_value == 0
    assert "EPERM" in result.output
    assert "DIFFERS" not in result.output
    assert result.output.splitlines()[-1] == "5.10: recorded (5.10.262)"


def test_an_incident_runs_under_a_captured_profile(tmp_path: Path) -> None:
    captured = tmp_path / "host.toml"
    captured.write_text('name = "6.1@host"\nrelease = "6.1.0"\nbase = "6.1"\n')
    result = CliRunner().invoke(
        command, ["run", "S04", "--kernel", str(captured), "--json"], standalone_mode=False
    )
    assert result.return_value == 0
    assert {finding["model"] for finding in json.loads(result.output)[0]["findings"]} == {
        "6.1@host"
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "--all", "s01"],
        ["run", "s99"],
        ["show", "s"],
        ["run", "s01", "--kernel", "4.4"],
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments: list[str]) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert "Error: " in result.output


def test_an_incident_can_be_listed_and_shown() -> None:
    listed = CliRunner().invoke(command, ["list"]).output
    assert "s30-what-if-payers" in listed
    shown = CliRunner().invoke(command, ["show", "s04"]).output
    assert "Correction: " in shown
