"""What installed packages bring by entry points is there as what bpfleet has itself."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bpfleet
from bpfleet.runtime.profiles import profile_from
from bpfleet.workload.catalogue import _entry, applications, inventory_for
from bpfleet.workload.errors import SpecError
from bpfleet.workload.scenario import builtin_scenario, builtin_scenarios
from bpfleet.workload.spec import NodeShape

MODULE = '''
APPLICATION = """
title = "Ours"
user_memory_bytes = "8M"
[[maps]]
name = "flows"
map_type = "hash"
key_size = 4
value_size = 8
max_entries = { rule = "times_cpus", each = 100 }
"""
SCENARIO = """
name = "ours"
nodes = [{ name = "a" }]
workloads = [{ name = "w", application = "our-agent", per_node = true, memlock_bytes = "unlimited" }]
"""


def profile():
    return 'name = "our-kernel"\\nrelease = "6.12.9"\\nbase = "6.12"\\n[structs]\\nbpf_array = 512\\n'


NO_TEXT = 7
'''
ENTRIES = """
[bpfleet.applications]
our-agent = ours:APPLICATION
broken = ours:NO_TEXT
[bpfleet.scenarios]
ours = ours:SCENARIO
[bpfleet.profiles]
our-kernel = ours:profile
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "ours.py").write_text(MODULE)
    info = tmp_path / "ours-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    caches = (applications, _entry, builtin_scenario)
    for cached in caches:
        cached.cache_clear()
    yield
    sys.modules.pop("ours", None)
    for cached in caches:
        cached.cache_clear()


@pytest.mark.usefixtures("package")
def test_an_installed_package_brings_applications_scenarios_and_profiles() -> None:
    assert "our-agent" in applications()
    shape = NodeShape(possible_cpus=4, ram_bytes=1 << 30)
    assert inventory_for("our-agent", shape).maps[0].max_entries == 400
    assert "ours" in builtin_scenarios()
    result = bpfleet.compare("ours", ["6.12", "our-kernel"], steps=0)
    assert [row["running"] for row in result] == [1, 1]
    assert profile_from("our-kernel").structs.bpf_array == 512


@pytest.mark.usefixtures("package")
def test_an_entry_that_is_no_text_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match="broken"):
        inventory_for("broken", NodeShape(possible_cpus=4, ram_bytes=1 << 30))
