"""Calibration: real tools are reproduced, spoilt captures are not, and what runs today runs in today's emulation."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bpfleet.abi.bpf import MapType, ProgType
from bpfleet.calibrate.containers import host_input, normalised
from bpfleet.calibrate.emulate import emulate_host
from bpfleet.calibrate.verdict import Calibration, calibrate
from bpfleet.captures.document import SCHEMA, Cgroup, Document, Host, Map, Payer, Process, Program
from bpfleet.kernel.profile import PROFILES
from bpfleet.workload.errors import SpecError
from tests.captured_hosts import host

TOOLS = sorted(Path(__file__).with_name("tools").glob("*.json"))
RECORDED = sorted(Path(__file__).with_name("tools").glob("*.jsonl"))
PAYER = Payer(kind="cgroup", path="/tool", read=True)
KIB = 1 << 10


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


def of_recording(tool: dict[str, Any], release: str) -> Document:
    """A tool as memory.stat and the fdinfo of its descriptors showed it in a guest with cgroup v2."""
    maps = tuple(
        Map(
            id=number,
            type=each["map_type"],
            name=f"map{number}",
            key_size=each["key_size"],
            value_size=each["value_size"],
            max_entries=each["max_entries"],
            flags=each["map_flags"],
            memlock_bytes=each["memlock"],
            frozen=bool(each["frozen"]),
            payer=PAYER,
        )
        for number, each in enumerate(tool["maps"], 1)
    )
    programs = tuple(
        Program(
            id=number,
            type=each["prog_type"],
            insn_cnt=each.get("verified_insns", 1),
            memlock_bytes=each["memlock"],
            payer=PAYER,
        )
        for number, each in enumerate(tool["programs"], 1)
    )
    process = Process(
        pid=1,
        comm=tool["tool"],
        cgroup="/tool",
        vm_pte=tool["VmPTE_kB"] * KIB,
        threads=tool["threads"],
        descriptors=tool["fds"],
        maps=tuple(each.id for each in maps),
        programs=tuple(each.id for each in programs),
        rss_anon=tool["RSS_kB"][0] * KIB,
    )
    cgroup = Cgroup(path="/tool", peak=tool["peak"], current=tool["current"], stat=tool["stat"])
    return Document(
        schema=SCHEMA,
        host=Host(name="vm", release=release, machine="x86_64", possible_cpus=2, ram_bytes=2 << 30),
        maps=maps,
        programs=programs,
        processes=(process,),
        cgroups=(cgroup,),
    )


def line_of(document: Document, profile: str) -> Calibration:
    found, kernel = host_input(document), PROFILES[profile]
    (line,) = calibrate(document, found.containers, emulate_host(found, kernel), kernel)
    return line


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.stem)
def test_real_tools_are_reproduced(path: Path) -> None:
    line = line_of(of_tool(path), "6.18")
    assert (line.verdict, line.reproduced) == ("reproduced", True)
    assert line.exact_maps == line.maps
    assert line.emulated_bytes <= (line.seen_bytes or 0)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_what_stays_unexplained_of_a_tool_is_within_the_tolerance(path: Path) -> None:
    profile = path.stem.removeprefix("tools-").removesuffix("-smp2")
    tools = [json.loads(line) for line in path.read_text().splitlines()]
    for tool in tools:
        if not tool["maps"]:
            continue  # the sleeper
        line = line_of(of_recording(tool, f"{profile}.1"), profile)
        assert (line.verdict, line.exact_maps) == ("reproduced", line.maps), (tool["tool"], line)
        assert abs(line.unexplained_bytes or 0) <= 16 * KIB, (tool["tool"], line)


def recorded(tool: str, profile: str) -> dict[str, Any]:
    (path,) = [each for each in RECORDED if each.stem == f"tools-{profile}-smp2"]
    found = map(json.loads, path.read_text().splitlines())
    return next(each for each in found if each["tool"] == tool)


def test_every_part_beside_bpf_is_named() -> None:
    line = line_of(of_recording(recorded("opensnoop", "6.12"), "6.12.1"), "6.12")
    assert set(line.told) == {"pagetables", "other pages"}
    assert line.told["other pages"] >= 64 * KIB  # a pipe that nobody read
    assert set(line.modelled) == {"processes", "descriptors", "program tables"}


def test_functions_of_a_program_are_programs_of_their_own() -> None:
    told = of_recording(recorded("mountsnoop", "6.12"), "6.12.1")
    assert line_of(told, "6.12").modelled["functions"] == 4 * (4096 + 2056)
    programs = tuple(replace(each, functions=1, lines=10) for each in told.programs)
    assert "functions" not in line_of(replace(told, programs=programs), "6.12").modelled


def test_sizes_of_the_host_go_before_known_ones() -> None:
    document = of_recording(recorded("bitesize", "6.12"), "6.12.1")
    large = replace(document, host=replace(document.host, slabs={"vm_area_struct": 1024}))
    process = replace(document.processes[0], vmas=100)
    more = replace(document, processes=(process,))
    known = line_of(document, "6.12").modelled["processes"]
    vma = sum(size + 8 for size in PROFILES["6.12"].file_vma_slab_bytes)
    assert line_of(large, "6.12").modelled["processes"] == known + 35 * (1032 - vma)
    assert line_of(more, "6.12").modelled["processes"] == known + 65 * vma


def test_kills_that_the_emulation_has_room_for_are_said() -> None:
    document = host("h", release="6.12.1", profile="6.12")
    stat = {"anon": 4 << 20, "kernel": 1_540_000, "kernel_stack": 0, "pagetables": 40960}
    cgroup = replace(
        document.cgroups[1], events={"max": 9, "oom_kill": 3}, peak=64 << 20, stat=stat
    )
    line = line_of(replace(document, cgroups=(document.cgroups[0], cgroup)), "6.12")
    assert (line.seen_events, line.seen_peak_bytes) == ({"max": 9, "oom_kill": 3}, 64 << 20)
    assert line.verdict == "off: 3 OOM kills seen, but the emulation has room"
    assert not line.reproduced
    tight = replace(cgroup, max=5_775_360)
    line = line_of(replace(document, cgroups=(document.cgroups[0], tight)), "6.12")
    assert line.verdict == "reproduced"


def test_a_kernel_that_does_not_tell_vmalloc_is_compared_in_what_it_tells() -> None:
    document = host("h", release="5.15.1", profile="5.15", entries=100_000)
    told = {"anon": 4 << 20, "kernel_stack": 0, "pagetables": 40960, "percpu": 0, "sock": 0}
    cgroup = replace(document.cgroups[1], stat={**told, "slab": 20_000})
    line = line_of(replace(document, cgroups=(document.cgroups[0], cgroup)), "5.15")
    assert line.emulated_bytes < 16 * KIB
    assert line.verdict == "reproduced"


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


def test_a_map_in_many_slots_is_there_once() -> None:
    document = host("h", release="6.12.1", profile="6.12")
    inner = replace(document.maps[0], id=5, name="inner", max_entries=4)
    outer = replace(
        document.maps[0],
        id=6,
        name="outer",
        type=MapType.HASH_OF_MAPS,
        value_size=4,
        inner=(5,) * 900,
    )
    (container,) = host_input(replace(document, maps=(inner, outer))).containers
    assert [(each.name, each.inner_count) for each in container.inventory.maps] == [("outer", 1)]


def test_cgroup_v1_cannot_tell_cached_dentries() -> None:
    document = of_tool(next(path for path in TOOLS if path.stem == "biolatency"))
    cgroup = replace(document.cgroups[0], kmem=(document.cgroups[0].kmem or 0) + (20 << 20))
    line = line_of(replace(document, cgroups=(cgroup,)), "6.18")
    assert line.verdict.endswith("which cgroup v1 does not tell apart: mostly dentries and inodes)")
