"""Scenario files that name a listing or a capture for a workload, and pools with kernels of their own."""

import json
from pathlib import Path

import pytest

from bpfleet.captures.document import write_document
from bpfleet.report.compare import compare
from bpfleet.report.models import OWN
from bpfleet.report.scenario_file import scenario_from_file
from bpfleet.workload.errors import SpecError
from bpfleet.workload.scenario import Scenario
from tests.captured_hosts import MIB, host

HEAD = """
name = "mine"
steps = 1
[[nodes]]
name = "old"
kernel = "5.10"
[[nodes]]
name = "new"
kernel = "6.12"
"""
MAP = {"id": 1, "type": "hash", "name": "flows", "flags": 0, "bytes_key": 8, "bytes_value": 64,
       "max_entries": 65536}  # fmt: skip


def read(folder: Path, workload: str) -> Scenario:
    path = folder / "fleet.toml"
    path.write_text(f"{HEAD}\n[[workloads]]\nper_node = true\n{workload}")
    return scenario_from_file(path)


def test_a_listing_beside_the_file_is_what_the_workload_creates(tmp_path: Path) -> None:
    (tmp_path / "maps.json").write_text(json.dumps([MAP]))
    scenario = read(tmp_path, 'name = "cni"\nlisting = "maps.json"\nuser_memory_bytes = "10M"')
    (workload,) = scenario.workloads
    assert workload.inventory is not None
    assert [each.name for each in workload.inventory.maps] == ["flows"]
    assert workload.user_memory_bytes == 10 * MIB


def test_a_container_of_a_capture_brings_its_limits_and_the_file_overrides_them(
    tmp_path: Path,
) -> None:
    (tmp_path / "host.json").write_bytes(write_document(host("h", limit=64 * MIB, heap=MIB)))
    (plain,) = read(tmp_path, 'name = "agent"\ncapture = "host.json"').workloads
    assert plain.memory_limit_bytes == 64 * MIB
    assert plain.inventory is not None
    assert plain.inventory.user_memory_bytes == MIB
    text = 'name = "agent"\ncapture = "host.json"\nmemory_limit_bytes = "1G"'
    (raised,) = read(tmp_path, text).workloads
    assert raised.memory_limit_bytes == 1 << 30


@pytest.mark.parametrize(
    ("workload", "said"),
    [
        ('name = "w"\nlisting = 3', "workloads[0].listing"),
        ('name = "w"\nlisting = "maps.json"\ncapture = "host.json"', "do not go together"),
        ('name = "w"\ncontainer = "x"', "do not go together"),
        ('name = "w"\ncapture = "host.json"\ncontainer = "nobody"', "no such container"),
        ('name = "w"\nlisting = "maps.json"\napplication = "falco"', "exactly one"),
    ],
)
def test_what_does_not_go_together_is_said(tmp_path: Path, workload: str, said: str) -> None:
    (tmp_path / "maps.json").write_text(json.dumps([MAP]))
    (tmp_path / "host.json").write_bytes(write_document(host("h")))
    with pytest.raises(SpecError, match=said.replace("[", r"\[")):
        read(tmp_path, workload)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"):
        read(tmp_path, 'name = "w"\nlisting = "gone.json"')


def test_own_is_the_kernel_of_each_pool(tmp_path: Path) -> None:
    (tmp_path / "maps.json").write_text(json.dumps([MAP]))
    scenario = read(tmp_path, 'name = "cni"\nlisting = "maps.json"')
    result = compare(scenario, (OWN, "5.10", "6.12"))
    own, old, new = result.totals
    assert own.kind == "mixed"
    by_node = {node.group: node.models for node in result.nodes}
    for pool, model in (("old", "5.10"), ("new", "6.12")):
        assert by_node[pool][OWN].charged_bytes == by_node[pool][model].charged_bytes
    assert own.charged_bytes * 2 == old.charged_bytes + new.charged_bytes
    assert result.kernels[OWN].startswith("old 5.10 recorded")


def test_own_needs_every_pool_to_say_its_kernel(tmp_path: Path) -> None:
    (tmp_path / "maps.json").write_text(json.dumps([MAP]))
    scenario = read(tmp_path, 'name = "cni"\nlisting = "maps.json"\n[[nodes]]\nname = "third"')
    with pytest.raises(ValueError, match=r"nodes\[2\].kernel: missing"):
        compare(scenario, (OWN,))
