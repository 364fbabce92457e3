"""Calibration: real tools are reproduced, spoilt captures are not, and what runs today runs in today's emulation."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bpfleet.abi.bpf import MapType, ProgType
from bpfleet.calibrate.containers import host_input, normalised
from bpfleet.calibrate.emulate import emulate_host
from bpfleet.calibrate.verdict import Calibration, calibrate
from bpfleet.capture.document import SCHEMA, Cgroup, Document, Host, Map, Payer, Process, Program
from bpfleet.kernel.profile import PROFILES
from bpfleet.workload.errors import SpecError
from tests.captured_hosts import host

TOOLS = sorted(Path(__file__).with_name("tools").glob("*.json"))
PAYER = Payer(kind="cgroup", path="/tool", read=True)


def of_tool(path: Path) -> Document:
    tool = json.loads(path.read_text())
    maps = tuple(
        Map(
            id=each["id"],
            type=MapType[each["type"].upper()],
            name=each.get("name", ""),
            key_size=each["bytes_key"],
            value_size=each["bytes_value"],
            max_entries=each["max_entries"],
            flags=each["flags"],
            memlock_bytes=each["bytes_memlock"],
            frozen=bool(each["frozen"]),
            payer=PAYER,
        )
        for each in tool["maps"]
    )
    programs = tuple(
        Program(
            id=each["id"],
            type=ProgType[each["type"].upper()],
            insn_cnt=each["bytes_xlated"] // 8,
            payer=PAYER,
        )
        for each in tool["programs"]
    )
    process = Process(
        pid=1, comm=tool["tool"], cgroup="/tool", vm_pte=tool["VmPTE_kB"] << 10, descriptors=12
    )
    return Document(
        schema=SCHEMA,
        host=Host(
            name="vm", release=tool["kernel"], machine="x86_64", possible_cpus=2, ram_bytes=4 << 30
        ),
        maps=maps,
        programs=programs,
        processes=(process,),
        cgroups=(Cgroup(path="/tool", version=1, kmem=tool["kmem_usage_bytes"][0]),),
    )


def line_of(document: Document, profile: str) -> Calibration:
    found = host_input(document)
    (line,) = calibrate(document, found.containers, emulate_host(found, PROFILES[profile]))
    return line


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.stem)
def test_real_tools_are_reproduced(path: Path) -> None:
    line = line_of(of_tool(path), "6.18")
    assert (line.verdict, line.reproduced) == ("reproduced", True)
    assert line.exact_maps == line.maps
    assert line.emulated_bytes <= (line.seen_bytes or 0)


def test_a_memlock_of_another_build_is_off_and_said_which_map() -> None:
    line = line_of(host("h", off=4096 * 100), "5.10")
    assert not line.reproduced
    assert line.verdict.startswith("off by ")
    (differing,) = line.differing
    assert (differing.name, differing.seen - differing.most) == ("flows", 409_600)


def test_an_unknown_map_type_cannot_be_reproduced() -> None:
    document = host("h")
    odd = replace(document.maps[0], id=7, type=999)
    line = line_of(replace(document, maps=(*document.maps, odd)), "5.10")
    assert (
        line.verdict == "cannot be reproduced because of 1: map flows: type 999 is not known here"
    )


def test_kernel_memory_that_nothing_explains_is_said() -> None:
    document = host("h", release="6.12.1", profile="6.12")
    cgroup = replace(document.cgroups[1], stat={"anon": 4 << 20, "kernel": 64 << 20})
    line = line_of(replace(document, cgroups=(document.cgroups[0], cgroup)), "6.12")
    assert "other kernel memory" in line.verdict
    assert line.unexplained_bytes is not None
    assert line.unexplained_bytes > 60 << 20


@pytest.mark.parametrize("profile", ["5.10", "5.11", "6.1", "6.12", "6.18"])
def test_what_runs_on_a_host_runs_in_its_emulation(profile: str) -> None:
    document = host("h", release=f"{profile}.9", profile=profile, pinned=True)
    found = host_input(document)
    (outcome,) = emulate_host(found, PROFILES[profile])
    assert (outcome.start, outcome.restart) == ("ok", "ok")
    assert line_of(document, profile).exact_maps == 1


def test_a_process_that_dropped_its_capabilities_had_them() -> None:
    document = host("h")
    bare = replace(document.processes[0], capabilities="0")
    (container,) = host_input(replace(document, processes=(bare,))).containers
    assert any("no capability" in text for text in container.assumptions)
    assert line_of(replace(document, processes=(bare,)), "5.10").reproduced


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.integers(0, 40),
            "key_size": st.integers(0, 1 << 33),
            "value_size": st.integers(0, 1 << 33),
            "max_entries": st.integers(0, 1 << 33),
            "flags": st.integers(0, 1 << 33),
            "extra": st.integers(0, 1 << 40),
            "elements": st.none() | st.integers(0, 100),
            "frozen": st.booleans(),
            "name": st.text(max_size=20),
            "memlock_bytes": st.integers(0, 1 << 50),
        },
    ),
    st.text(max_size=30),
    st.none() | st.integers(0, 1 << 60),
    st.sampled_from(["5.10", "5.11", "6.1", "6.12", "6.18"]),
)
@settings(deadline=None)
def test_no_document_stops_the_calibration(
    change: dict[str, object], path: str, limit: int | None, profile: str
) -> None:
    document = host(
        "h", release=f"{profile}.1", profile=profile, entries=10, limit=limit, path="/" + path
    )
    document = replace(document, maps=(replace(document.maps[0], **change),))
    with contextlib.suppress(SpecError):
        line_of(document, profile)


def test_names_of_pods_do_not_tell_hosts_apart() -> None:
    one = host("a", path="/kubepods/pod1/x")
    other = host("b", path="/kubepods/pod2/y")
    assert host_input(one) != host_input(other)
    assert normalised(host_input(one)) == normalised(host_input(other))
