"""The answer: one row per kind of container, worst first; grouping changes nothing; limits become patches."""

import json
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from bpfleet.abi.bpf import F_NO_PREALLOC
from bpfleet.api.host_kernel import own_kernel
from bpfleet.calibrate.containers import host_input, replaced, with_fill
from bpfleet.captures.document import Cgroup, Document
from bpfleet.kernel.profile import PROFILES, profile_named
from bpfleet.report.answer import (
    Answer,
    HostCase,
    answer_data,
    answer_for,
    row_cells,
    to_csv,
    to_markdown,
)
from bpfleet.report.answer_page import answer_page
from bpfleet.report.patches import patch_files
from tests.captured_hosts import MIB, host

KIB = 1 << 10


def case(document: Document, before: str = "5.10") -> HostCase:
    found = host_input(document)
    return HostCase(
        source="f",
        document=document,
        before=found,
        after=found,
        kernel=PROFILES[before],
    )


def ask(
    *documents: Document, before: str = "5.10", after: str = "6.12", grouping: bool = True
) -> Answer:
    cases = [case(each, before) for each in documents]
    targets = [profile_named(name) for name in after.split(",")]
    return answer_for(cases, targets, grouping=grouping)


def test_a_limit_that_counted_no_maps_fails_anew() -> None:
    answer = ask(host("big", entries=200_000, limit=8 * MIB, heap=MIB), host("small", entries=100))
    (row,) = answer.rows
    assert (row.container, row.change, row.hosts, row.affected) == (
        "agent.service",
        "fails anew",
        2,
        1,
    )
    assert (row.before, row.when, row.host) == ("ok", "at start", "big")
    assert row.set_bytes > 8 * MIB
    assert row.decides.startswith("maps and programs")
    assert answer.new_failures == 1


def test_memlock_that_was_used_up_stops_failing() -> None:
    (row,) = ask(host("h", memlock=64 * KIB)).rows
    assert (row.change, row.before, row.after) == ("stops failing", "EPERM", "ok")


def test_going_back_to_a_kernel_that_charges_users_needs_memlock() -> None:
    document = host("h", release="6.12.1", profile="6.12", memlock=64 * KIB)
    (row,) = ask(document, before="6.12", after="5.10").rows
    assert (row.change, row.after, row.set_limit) == ("fails anew", "EPERM", "LimitMEMLOCK")
    assert row.limit_bytes == 64 * KIB


def test_worst_rows_come_first() -> None:
    fits = host("a", comm="fits", path="/fits")
    fails = host("b", comm="fails", path="/fails", entries=200_000, limit=8 * MIB, heap=MIB)
    assert [row.container for row in ask(fits, fails).rows] == ["fails", "fits"]


def test_alike_hosts_are_emulated_once_with_the_same_answer() -> None:
    documents = [host(f"h{n}", path=f"/kubepods/pod{n}/c", cpus=2 + 2 * (n % 2)) for n in range(6)]
    grouped, single = ask(*documents), ask(*documents, grouping=False)
    assert grouped.groups == 2
    assert grouped == single


def test_hosts_of_several_kernels_are_one_fleet() -> None:
    old, new = host("old"), host("new", release="6.1.5", profile="6.1")
    answer = answer_for([case(old), case(new, before="6.1")], [PROFILES["6.12"]])
    assert list(answer.kernels) == ["5.10", "6.1"]
    assert [row.hosts for row in answer.rows] == [2]


def test_a_new_release_of_an_agent_needs_room_beside_its_old_pins() -> None:
    document = host(
        "h",
        release="6.12.1",
        profile="6.12",
        entries=100_000,
        limit=24 * MIB,
        heap=MIB,
        pinned=True,
    )
    found = host_input(document)
    grown = (
        host_input(host("n", release="6.12.1", profile="6.12", entries=120_000))
        .containers[0]
        .inventory
    )
    one = HostCase(
        source="f",
        document=document,
        before=found,
        after=replaced(found, "agent.service", grown),
        kernel=PROFILES["6.12"],
    )
    (row,) = answer_for([one], [PROFILES["6.12"]]).rows
    assert (row.change, row.after) == ("fails anew", "ENOMEM")


def reading_btf(*, peak: int | None, limit: int) -> Document:
    """An agent of 4 MiB heap whose programs have BTF, and what its cgroup told of it."""
    document = host("h", release="6.12.1", profile="6.12", limit=limit)
    stat = {"anon": 4 * MIB, "kernel": 1_540_000, "kernel_stack": 0, "pagetables": 40960}
    cgroup = replace(document.cgroups[1], peak=peak, stat=stat)
    program = replace(document.programs[0], btf_id=5)
    return replace(document, programs=(program,), cgroups=(document.cgroups[0], cgroup))


@pytest.mark.parametrize(
    ("peak", "limit", "least", "most"),
    [
        (None, 64 * MIB, 15 * MIB, 16 * MIB),  # some 10 MB for the kernel's BTF
        (32 * MIB, 64 * MIB, 17 * MIB, 18 * MIB),  # and never more than 12
        (8 * MIB, 64 * MIB, 7 * MIB, 9 * MIB),  # it never used more than 8 MiB
        (None, 8 * MIB, 7 * MIB, 9 * MIB),  # it starts today, so its start fits today
    ],
)
def test_a_start_needs_what_its_peak_shows(
    peak: int | None, limit: int, least: int, most: int
) -> None:
    (row,) = ask(reading_btf(peak=peak, limit=limit), before="6.12", after="6.12").rows
    assert row.change == "fits"
    assert least < row.need_bytes < most


def test_the_kernel_memory_of_processes_counts_against_the_limit() -> None:
    document = reading_btf(peak=None, limit=64 * MIB)
    stat = {**document.cgroups[1].stat, "kernel": 6_540_000, "kernel_stack": 5_000_000}
    cgroup = replace(document.cgroups[1], stat=stat)
    heavy = replace(document, cgroups=(document.cgroups[0], cgroup))
    light, more = (ask(each, before="6.12").rows[0] for each in (document, heavy))
    # Without it, what an emulated process costs itself counts.
    assert 4_900_000 <= more.need_bytes - light.need_bytes <= 5_100_000
    assert (light.room_after or 0) - (more.room_after or 0) >= 4_900_000


POD = "/kubepods/pod7"


def pod(pod_limit: int | None, **options: Any) -> Document:
    """A host whose agent runs in a pod that has a limit too."""
    document = host("h", path=f"{POD}/{'a' * 64}", comm="agent", pinned=True, **options)
    return replace(document, cgroups=(*document.cgroups, Cgroup(path=POD, max=pod_limit)))


def test_a_selected_cgroup_pays_for_pins_instead_of_the_container() -> None:
    document = pod(None, entries=100_000, limit=8 * MIB, heap=MIB)
    merged, selectable = ask(document, after="6.12,6.12:selectable").rows
    assert (merged.target, merged.change, merged.after) == ("6.12", "fails anew", "ENOMEM")
    assert (selectable.target, selectable.change) == ("6.12:selectable", "fits")
    assert selectable.need_bytes < 8 * MIB


def test_the_limit_of_the_selected_cgroup_counts() -> None:
    (row,) = ask(pod(8 * MIB, entries=100_000, limit=None, heap=MIB), after="6.12:selectable").rows
    assert (row.change, row.after) == ("fails anew", "ENOMEM")
    assert f"memory.max of {POD}" in row.why


def test_what_ifs_stand_beside_each_other() -> None:
    names = ("6.12:recharge", "6.12:nocharge", "6.12:selectable")
    answer = ask(pod(None), after=",".join(names))
    assert tuple(answer.targets) == names
    assert [row.target for row in answer.rows] == list(names)


def test_a_container_that_is_not_reproduced_is_marked() -> None:
    (row,) = ask(host("h", off=1 << 20)).rows
    assert row_cells(row)[2].endswith("(not reproduced)")


def test_filled_maps_need_more_where_elements_are_allocated() -> None:
    document = host("h")
    sparse = replace(document.maps[0], flags=F_NO_PREALLOC)
    for maps, filled in ((document.maps, 0), ((sparse,), 1000)):
        found = with_fill(host_input(replace(document, maps=maps)), 0.1)
        assert found.containers[0].inventory.maps[0].fill_entries == filled


def test_every_form_carries_the_rows() -> None:
    answer = ask(host("big", entries=200_000, limit=8 * MIB, heap=MIB))
    assert json.loads(json.dumps(answer_data(answer)))["rows"][0]["change"] == "fails anew"
    assert "agent.service" in to_csv(answer)
    assert "### Calibration" in to_markdown(answer)
    page = answer_page(answer, "bpfleet compare <x>")
    assert "prefers-color-scheme: dark" in page
    assert "bpfleet compare &lt;x&gt;" in page
    assert "<script" not in page


@pytest.mark.parametrize(
    ("path", "comm", "name", "words"),
    [
        (
            "/system.slice/agent.service",
            "a",
            "systemd/agent.service.d/50-bpfleet.conf",
            "MemoryMax=",
        ),
        ("/kubepods/pod7/" + "a" * 64, "cilium-agent", "kubernetes/cilium-agent.yaml", "memory: "),
        ("/docker/" + "a" * 64, "web", "compose.override.yml", "mem_limit: "),
    ],
)
def test_limits_are_written_as_patches(path: str, comm: str, name: str, words: str) -> None:
    document = host("h", entries=200_000, limit=8 * MIB, heap=MIB, path=path, comm=comm)
    files = patch_files(ask(document).rows)
    assert list(files) == [name]
    assert words in files[name]
    if name.endswith((".yaml", ".yml")):
        assert yaml.safe_load(files[name])


def test_the_limit_that_decides_may_be_one_above_the_container() -> None:
    inner = ask(pod(64 * MIB, entries=200_000, limit=8 * MIB, heap=MIB)).rows[0]
    assert (inner.limit_path, inner.limit_bytes) == (inner.path, 8 * MIB)
    outer = ask(pod(8 * MIB, entries=200_000, limit=64 * MIB, heap=MIB)).rows[0]
    assert (outer.change, outer.limit_path, outer.limit_bytes) == ("fails anew", POD, 8 * MIB)
    assert row_cells(outer)[6] == f"8 MiB of {POD}"
    assert f"of {POD}" in row_cells(outer)[9]
    assert answer_data(ask(pod(8 * MIB, limit=None)))["rows"][0]["limit_path"] == POD


def test_neighbours_take_their_part_of_a_limit_above() -> None:
    one = host("h", path="/app.slice/a.service", limit=40 * MIB, heap=4 * MIB)
    agent = ask(one, before="5.10", after="6.12").rows[0]
    assert agent.limit_path == "/app.slice/a.service"
    two = host("h", path="/app.slice/b.service", limit=None, heap=30 * MIB)
    shared = Cgroup(path="/app.slice", max=36 * MIB)
    maps = tuple(replace(m, id=3, name="more", holders=(11,)) for m in two.maps)
    processes = tuple(replace(p, pid=11, maps=(3,), programs=()) for p in two.processes)
    both = replace(
        one,
        maps=one.maps + maps,
        processes=one.processes + processes,
        cgroups=(*one.cgroups, two.cgroups[1], shared),
    )
    row = next(r for r in ask(both).rows if r.container == "a.service")
    assert (row.limit_path, row.limit_bytes) == ("/app.slice", 36 * MIB)
    assert row.decides.startswith("its neighbours")
    assert row.room_after is not None
    assert row.room_after < 3 * MIB
    (text,) = patch_files([replace(row, change="may fail", set_bytes=40 * MIB)]).items()
    assert text[0] == "systemd/app.slice.d/50-bpfleet.conf"
    assert "[Slice]\nMemoryMax=41943040" in text[1]


@pytest.mark.parametrize("release", ["5.10.200", "6.12.1"])
def test_the_threads_that_a_capture_saw_are_charged(release: str) -> None:
    kernel = release.rpartition(".")[0]
    single = host("h", release=release, profile=kernel, heap=MIB)
    threads = tuple(replace(each, threads=51) for each in single.processes)
    others = replace(single.cgroups[1].others, processes=2, threads=12)
    cgroup = replace(single.cgroups[1], others=others)
    many = replace(single, processes=threads, cgroups=(single.cgroups[0], cgroup))
    assert host_input(many).containers[0].threads == 61
    few, more = (ask(each, before=kernel).rows[0] for each in (single, many))
    assert 60 * 24 * KIB < more.need_bytes - few.need_bytes < 60 * 30 * KIB
    assert (few.room_after or 0) - (more.room_after or 0) == more.need_bytes - few.need_bytes


def test_threads_alone_can_meet_the_limit_at_the_start() -> None:
    document = host("h", release="6.12.1", profile="6.12", heap=MIB, limit=3 * MIB)
    processes = tuple(replace(each, threads=200) for each in document.processes)
    (row,) = ask(replace(document, processes=processes), before="6.12").rows
    assert (row.before, row.after) == ("OOM kill", "OOM kill")
    assert row.why.startswith("clone threads")


# -- machines and swap -------------------------------------------------------------------------------------------------


def on_arm64(document: Document, page_size: int) -> Document:
    """The same host with other pages."""
    return replace(document, host=replace(document.host, machine="aarch64", page_size=page_size))


def test_a_host_is_emulated_with_its_own_pages_before_and_after() -> None:
    plain = host("h", release="6.12.1", profile="6.12", entries=100)
    small, large = (ask(each, before="6.12").rows[0] for each in (plain, on_arm64(plain, 64 * KIB)))
    assert large.need_bytes > small.need_bytes + 500 * KIB  # eleven page tables and a stack alone
    assert own_kernel(on_arm64(plain, 64 * KIB), {}).name == "6.12:64k"
    assert own_kernel(on_arm64(plain, 4 * KIB), {}).name == "6.12:arm64"


def test_a_machine_that_is_not_known_gets_its_pages_and_is_nearest() -> None:
    plain = host("h", release="6.12.1", profile="6.12", entries=100)
    power = replace(plain, host=replace(plain.host, machine="ppc64le", page_size=64 * KIB))
    kernel = own_kernel(power, {})
    assert (kernel.arch, kernel.page_bytes) == ("ppc64le", 64 * KIB)
    assert kernel.known_by == "nearest (6.12.107)"


def test_where_a_host_swaps_a_limit_refuses_later() -> None:
    """8 MiB of heap and 15 MiB of maps under 20 MiB: the heap can go out, the maps cannot."""
    document = host("h", entries=200_000, limit=32 * MIB, heap=24 * MIB)
    swaps = replace(document, host=replace(document.host, swap_bytes=1 << 30))
    forbidden = replace(swaps.cgroups[1], swap_max=0)
    none = replace(swaps, cgroups=(swaps.cgroups[0], forbidden))
    started = [ask(each).rows[0].after for each in (document, swaps, none)]
    assert started[0] != "ok"
    assert started[1] == "ok"
    assert started[2] == started[0]
