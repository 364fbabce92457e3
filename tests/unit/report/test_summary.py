"""A comparison as text, CSV and Markdown."""

import csv
import io

import pytest
from sample_fleet import small_scenario

from bpfleet.report.compare import Comparison, compare
from bpfleet.report.summary import ROWS, divergence_lines, headings, to_csv, to_markdown


@pytest.fixture(scope="module")
def result() -> Comparison:
    return compare(small_scenario(), ("5.10", "6.12"))


def test_the_rows_are_those_of_the_question(result: Comparison) -> None:
    labels = [row.label for row in ROWS]
    for wanted in ("running", "crash-looping", "EPERM", "ENOMEM", "E2BIG", "OOM kills"):
        assert wanted in labels
    assert all(row.note for row in ROWS)
    assert headings(result)["replicas"] == "on 3 nodes, 40 s"
    shown = {row.label: [row.shown(t) for t in result.totals] for row in ROWS}
    assert shown["placed"] == ["7", "7"]
    assert shown["charged"][0].endswith("MiB")


def test_a_divergence_names_place_call_errno_counter_and_limit(result: Comparison) -> None:
    assert result.first_divergence is not None
    text = "\n".join(divergence_lines(result.first_divergence))
    for part in ("MAP_CREATE", "start", "5.10: ", "6.12: ", "EPERM", "of 64 KiB", "cause: "):
        assert part in text


def test_csv_has_one_line_per_replica_and_model(result: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv([result]))))
    assert len(rows) == 7 * 2
    first = rows[0]
    assert first["model"] == "5.10"
    assert int(first["ram_bytes"]) == 8 << 30
    assert {row["phase"] for row in rows} >= {"RUNNING", "BACK_OFF"}


def test_markdown_is_a_table_with_causes_and_the_way_to_repeat_it(result: Comparison) -> None:
    text = to_markdown(result)
    lines = text.splitlines()
    assert lines[2].startswith("Of 7 replicas on 3 nodes in trouble: ")
    assert lines[4].startswith("- Replicas that cannot start because of EPERM: ")
    head = lines.index("| | 5.10 | 6.12 | |")
    assert lines[head + 1] == "|---|---:|---:|---|"
    assert lines[head + 2].startswith("| **on 3 nodes, ")
    assert any(line.startswith("| EPERM | ") for line in lines)
    assert "EPERM under 5.10" in text
    assert "seed 3" in text
