"""The fidelity table of the page is about the recordings that are there."""

from pathlib import Path

from bpfleet.report.fidelity import measured_fidelity

RECORDED = Path(__file__).parents[2] / "oracle" / "recorded"


def test_only_recordings_that_are_there_are_reported() -> None:
    recorded = {path.stem for path in RECORDED.glob("*.jsonl")}
    measured = {row["file"] for row in measured_fidelity()}
    assert measured <= recorded
    assert {"errno", "create-5.10-smp2", "create-6.1-smp2", "create-6.12-smp2"} <= measured


def test_cases_are_exact_differing_or_unsupported() -> None:
    for row in measured_fidelity():
        assert row["cases"] == row["exact"] + row["mismatches"] + row["unsupported"]
        assert row["cases"] > 0
