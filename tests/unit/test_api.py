"""The library: what ``import bpfleet`` offers, and that results are tables."""

import json
from pathlib import Path

import pytest

import bpfleet
from bpfleet.captures.document import write_document
from bpfleet.workload.errors import SpecError
from tests.captured_hosts import MIB, host


def test_every_name_is_there_and_documented() -> None:
    for name in bpfleet.__all__:
        found = getattr(bpfleet, name)
        assert name == "__version__" or (found.__doc__ or "").strip(), name
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = bpfleet.nothing_of_the_kind


def test_a_comparison_is_a_row_per_model_and_replicas_below() -> None:
    result = bpfleet.compare("edge", ["5.10", "6.12"], nodes=2, steps=1)
    assert [row["model"] for row in result] == ["5.10", "6.12"]
    assert result.verdict.startswith("Of ")
    replicas = result.replicas()
    assert len(replicas) == 2 * result[0]["placed"]
    assert json.loads(json.dumps(result.to_dict()))["verdict"] == result.verdict
    assert result.verdict in result.to_markdown()
    again = bpfleet.compare("edge", ["5.10", "6.12"], nodes=2, steps=1, jobs=2)
    assert again.to_dict() == result.to_dict()


def test_captures_are_answered(tmp_path: Path) -> None:
    path = tmp_path / "h.json"
    path.write_bytes(write_document(host("h", entries=200_000, limit=8 * MIB, heap=MIB)))
    taken = bpfleet.capture(path)
    assert taken.kernel.name == "5.10"
    assert len(taken.maps()) == len(taken.document.maps)
    result = bpfleet.compare_captures([taken], "6.12")
    assert result.new_failures == 1
    assert result[0]["change"] == "fails anew"
    assert bpfleet.compare_captures([path], ["6.12"]).to_dict()["rows"] == result.to_dict()["rows"]
    copy = tmp_path / "copy.json"
    taken.save(copy)
    assert bpfleet.capture(copy).document == taken.document


def test_sizes_and_limits_are_those_of_the_command_line() -> None:
    (row,) = bpfleet.size("hash", key=8, value=16, entries=1000, kernels=["6.12"])
    assert row["charged_bytes"] > row["memlock_bytes"] > 0
    rows = bpfleet.size(application="falco", cpus=4, kernels=["5.10", "6.12"])
    assert {each["kernel"] for each in rows} == {"5.10", "6.12"}
    memory, locked = bpfleet.limit("falco", kernels=["5.10"])
    assert (memory["setting"], locked["setting"]) == ("memory.max", "LimitMEMLOCK")


def test_what_is_wrong_is_a_value_error() -> None:
    for call in (
        lambda: bpfleet.size(),
        lambda: bpfleet.size("hasch"),
        lambda: bpfleet.limit("falko"),
        lambda: bpfleet.compare("edge", ["9.9"]),
        lambda: bpfleet.compare("edge", []),
        lambda: bpfleet.explain(),
        lambda: bpfleet.compare("nosuch"),
    ):
        with pytest.raises((ValueError, SpecError)):
            call()


def test_results_show_themselves() -> None:
    table = bpfleet.size("array", entries=10, kernels=["5.10"])
    assert "4 KiB" in repr(table)
    html = table._repr_html_()
    assert html.startswith("<table><caption>array on 16 CPUs")
    assert "<td" in html
    assert bpfleet.explain("no such words at all").rows == ()


def test_a_frame_of_pandas_has_the_columns() -> None:
    pytest.importorskip("pandas")
    frame = bpfleet.limit("falco", kernels=["6.12"]).to_frame()
    assert frame.loc[0, "setting"] == "memory.max"
