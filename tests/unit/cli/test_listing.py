"""One list of rows in every form a listing has."""

import csv
import io
import json
from dataclasses import asdict, dataclass

import click
import pytest
import yaml
from click.testing import CliRunner

from bpfleet.cli.listing import BYTES, COUNT, FORMATS, Column, listing
from bpfleet.cli.main import main


@dataclass(frozen=True)
class Row:
    name: str
    size: int
    note: str


ROWS = [
    Row("b", 2048, "a long note that no narrow terminal shows as a whole, however it tries"),
    Row("a", 1_000_000, "short"),
    Row("c", 7, "ünïcode ✓"),
]


@click.command()
@listing(
    Column("name", lambda r: r.name),
    Column("size", lambda r: r.size, COUNT),
    Column("note", lambda r: r.note, shrinks=True),
    Column("twice as much", lambda r: r.size * 2, BYTES, wide=True),
    data=asdict,
)
def rows():
    """Rows."""
    return ROWS


def run(*arguments, columns=""):
    result = CliRunner().invoke(rows, arguments, env={"COLUMNS": columns or None})
    return result.exit_code, result.output


def test_a_table_has_a_head_and_aligned_numbers():
    status, text = run()
    lines = text.splitlines()
    assert (status, len(lines)) == (0, 4)
    assert lines[0].split() == ["name", "size", "note"]
    assert lines[2].startswith("a     1,000,000  short")


def test_wide_shows_what_a_table_leaves_out_and_cuts_nothing():
    _, text = run("-o", "wide", columns="40")
    assert "twice as much" in text
    assert "however it tries" in text


@pytest.mark.parametrize("width", [30, 40, 80])
def test_a_table_keeps_to_the_width_of_the_terminal_and_cuts_no_number(width):
    _, text = run(columns=str(width))
    assert max(map(len, text.splitlines())) <= width
    assert "1,000,000" in text


def test_json_yaml_and_csv_hold_the_values_themselves():
    wanted = [asdict(row) for row in ROWS]
    assert json.loads(run("-o", "json")[1]) == json.loads(run("--json")[1]) == wanted
    assert yaml.safe_load(run("-o", "yaml")[1]) == wanted
    read = list(csv.DictReader(io.StringIO(run("-o", "csv")[1])))
    assert [int(row["size"]) for row in read] == [row.size for row in ROWS]


def test_names_are_one_a_line():
    assert run("-o", "name")[1] == "b\na\nc\n"


def test_rows_are_sorted_by_value_and_filtered_by_what_is_shown():
    assert run("-o", "name", "--sort-by", "size")[1] == "c\nb\na\n"
    assert run("-o", "name", "--sort-by", "name")[1] == "a\nb\nc\n"
    assert run("-o", "name", "--filter", "size=1,000")[1] == "a\n"
    assert run("-o", "name", "--filter", "note=SHORT", "--filter", "name=a")[1] == "a\n"


@pytest.mark.parametrize("form", FORMATS)
def test_no_row_is_no_error(form):
    status, text = run("-o", form, "--filter", "name=nobody")
    assert status == 0
    assert len(text.splitlines()) <= 1


def test_without_headers_only_rows_are_printed():
    assert len(run("--no-headers")[1].splitlines()) == 3
    assert run("-o", "csv", "--no-headers")[1].startswith("b,2048,")


@pytest.mark.parametrize("text", ["nosuch=x", "name", "=x"])
def test_a_bad_filter_names_the_columns(text):
    status, output = run("--filter", text)
    assert status == 2
    assert "name, size, note, twice-as-much" in output


@pytest.mark.parametrize(
    "arguments",
    [
        ["profile", "show", "6.12"],
        ["application", "show", "falco"],
        ["incident", "show", "s09"],
        ["explain", "--errno", "EPERM"],
        ["profile", "list"],
    ],
)
def test_what_is_json_is_yaml_too(arguments, capsys):
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert main([*arguments, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == told
    assert main([*arguments, "-o", "yaml"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == told
