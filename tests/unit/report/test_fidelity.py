"""The fidelity table of the page is about the recordings that are there."""

from pathlib import Path

from bpfleet.report.fidelity import measured_fidelity

RECORDED = Path(__file__).parents[2] / "oracle" / "recorded"


def test_every_recording_is_measured() -> None:
    recorded = {path.stem for path in RECORDED.glob("*.jsonl")}
    assert {row["file"] for row in measured_fidelity()} == recorded


def test_cases_are_exact_differing_or_unsupported() -> None:
    for row in measured_fidelity():
        assert row["cases"] == row["exact"] + row["mismatches"] + row["unsupported"]
        assert row["cases"] > 0
