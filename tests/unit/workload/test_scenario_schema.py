"""The JSON Schema of scenario files says what the reader takes, and every field has its meaning."""

import tomllib
from importlib.resources import files

import pytest
from jsonschema import Draft202012Validator

from bpfleet.workload.errors import SpecError
from bpfleet.workload.scenario import builtin_scenarios, scenario_from_toml
from bpfleet.workload.scenario_schema import scenario_fields, scenario_schema

WORKLOAD = files("bpfleet.workload")


def errors(data: object) -> list[str]:
    return [error.message for error in Draft202012Validator(scenario_schema()).iter_errors(data)]


@pytest.mark.parametrize(
    "name", [*(f"scenarios/{name}.toml" for name in builtin_scenarios()), "scenario_template.toml"]
)
def test_what_comes_with_the_package_is_valid_and_read(name: str) -> None:
    text = WORKLOAD.joinpath(name).read_text("utf-8")
    assert errors(tomllib.loads(text)) == []
    assert scenario_from_toml(text, name).workloads


@pytest.mark.parametrize(
    "text",
    [
        'name = "x"\ncolour = 1',
        'name = "x"\nnodes = [{ name = "a", profile = "5.10" }]',
        'name = "x"\nnodes = [{ name = "a" }]\nworkloads = [{ name = "w", replicas = "three" }]',
        'name = "x"\nnodes = [{ name = "a" }]\n[[events]]\nstep = 1\nworkload = "w"\naction = "explode"',
        "steps = 3",
    ],
)
def test_schema_and_reader_refuse_alike(text: str) -> None:
    assert errors(tomllib.loads(text))
    with pytest.raises(SpecError):
        scenario_from_toml(text, "test")


def test_every_field_is_explained() -> None:
    rows = list(scenario_fields())
    assert len(rows) > 90
    assert all(row.meaning.endswith(".") for row in rows)
    assert {row.table for row in rows} >= {"Scenario", "NodeGroup", "WorkloadSpec", "Churn"}
