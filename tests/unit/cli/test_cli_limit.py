"""``bpfleet limit``: one road for applications, listings, workloads and captures, and forms that can be pasted."""

import json
from pathlib import Path

import pytest
import yaml

from bpfleet.captures.document import write_document
from bpfleet.cli.main import main
from tests.captured_hosts import host

MIB = 1 << 20


def rows(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, object]]:
    assert main(["limit", "--json", *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


def test_an_application_gets_the_least_and_the_recommended_limit_with_parts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (row,) = rows(capsys, "falco", "--cpus", 16)
    assert row["setting"] == "memory.max"
    assert 150 * MIB < row["least_bytes"] < row["recommended_bytes"]
    assert row["parts"]["heap"] == 110 * MIB
    assert "recorded" in row["confidence"]


def test_up_to_5_10_the_limit_of_locked_memory_is_said_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    memory, locked = rows(capsys, "falco", "--kernel", "5.10")
    assert (memory["setting"], locked["setting"]) == ("memory.max", "LimitMEMLOCK")
    assert memory["parts"]["maps"] < MIB < locked["least_bytes"] < locked["recommended_bytes"]


def test_a_workload_of_a_scenario_has_its_limits_of_today(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = rows(capsys, "--scenario", "mixed-fleet", "falco")
    assert {row["host"] for row in found} == {
        "2 CPUs, 4 GiB",
        "16 CPUs, 64 GiB",
        "64 CPUs, 256 GiB",
    }
    assert {row["now_bytes"] for row in found} == {320 * MIB}


def test_a_listing_counts_the_heap_that_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = tmp_path / "maps.json"
    entry = {"id": 1, "type": "hash", "name": "flows", "flags": 0, "bytes_key": 8, "bytes_value": 64,
             "max_entries": 65536}  # fmt: skip
    listing.write_text(json.dumps([entry]))
    (bare,) = rows(capsys, listing, "--cpus", 4)
    (with_heap,) = rows(capsys, listing, "--cpus", 4, "--heap", "100M")
    assert with_heap["least_bytes"] == bare["least_bytes"] + 100 * MIB


def test_a_capture_answers_for_its_own_kernel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "here.json"
    path.write_bytes(write_document(host("h1", profile="6.12", release="6.12.0")))
    found = rows(capsys, path)
    assert found
    assert all(row["recommended_bytes"] >= row["least_bytes"] for row in found)


def test_the_forms_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["limit", "falco", "tetragon", "-o", "kubernetes"]) == 0
    first, second = yaml.safe_load_all(capsys.readouterr().out)
    (container,) = first["spec"]["template"]["spec"]["containers"]
    assert container["name"] == "falco"
    assert container["resources"]["limits"]["memory"].endswith("Mi")
    assert second["metadata"]["name"] == "tetragon"
    assert main(["limit", "falco", "tetragon", "--kernel", "5.10", "-o", "compose"]) == 0
    services = yaml.safe_load(capsys.readouterr().out)["services"]
    assert set(services) == {"falco", "tetragon"}
    assert set(services["falco"]) == {"mem_limit", "ulimits"}
    assert main(["limit", "falco", "-o", "systemd"]) == 0
    assert "\n[Service]\nMemoryMax=" in capsys.readouterr().out


def test_what_is_neither_a_file_nor_an_application_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["limit", "falko"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "falko" in line
    assert "did you mean 'falco'?" in line
