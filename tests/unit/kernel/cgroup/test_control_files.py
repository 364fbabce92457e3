"""Which control files a directory has, on which kernel, and which of them can be read and written."""

import pytest

from bpfleet.abi.errno import Errno
from bpfleet.kernel import PROFILES
from bpfleet.kernel.cgroup.files import CONTROL_FILES
from tests.kernels import ALL, boot, read_pages, refused, since

WRITE_ONLY = {"memory.reclaim", "cgroup.kill"}
READ_ONLY = {
    "cgroup.controllers",
    "cgroup.events",
    "cgroup.freeze",
    "cgroup.stat",
    "cgroup.type",
    "memory.current",
    "memory.events",
    "memory.events.local",
    "memory.stat",
    "memory.swap.current",
    "memory.swap.events",
    "memory.swap.peak",
}
ROOT_FILES = {
    "cgroup.controllers",
    "cgroup.max.depth",
    "cgroup.max.descendants",
    "cgroup.procs",
    "cgroup.stat",
    "cgroup.subtree_control",
    "cgroup.threads",
    "memory.pressure",
    "memory.stat",
}


@pytest.mark.parametrize("profile", ALL)
def test_every_file_there_is_can_be_read_or_says_so(profile: str) -> None:
    kernel, _ = boot(profile)
    for name in kernel.list_files("/a"):
        if name in WRITE_ONLY:
            with refused(Errno.EINVAL):
                kernel.read_file("/a", name)
        else:
            text = kernel.read_file("/a", name)
            assert text == "" or text.endswith("\n")


@pytest.mark.parametrize("profile", ALL)
def test_read_only_files_refuse_a_write_but_not_an_empty_one(profile: str) -> None:
    kernel, _ = boot(profile)
    resets = {"memory.swap.peak"} if PROFILES[profile].memory_peak_resets else set()
    for name in (READ_ONLY & set(kernel.list_files("/a"))) - resets:
        with refused(Errno.EINVAL):
            kernel.write_file("/a", name, "1")
        assert kernel.write_file("/a", name, "") == 0


@pytest.mark.parametrize("profile", ALL)
def test_peaks_are_reset_for_who_has_them_open(profile: str) -> None:
    kernel, _ = boot(profile)
    for name in {"memory.peak", "memory.swap.peak"} & set(kernel.list_files("/a")):
        before = kernel.read_file("/a", name)
        if PROFILES[profile].memory_peak_resets:
            assert kernel.write_file("/a", name, "reset") == 5
        else:
            with refused(Errno.EINVAL):
                kernel.write_file("/a", name, "reset")
        assert kernel.read_file("/a", name) == before


@pytest.mark.parametrize("profile", ALL)
def test_the_root_has_few_files(profile: str) -> None:
    kernel, _ = boot(profile)
    reclaim = {"memory.reclaim"} if PROFILES[profile].has_memory_reclaim else set()
    assert set(kernel.list_files("/")) == ROOT_FILES | reclaim
    with refused(Errno.ENOENT):
        kernel.read_file("/", "memory.current")


@pytest.mark.parametrize("profile", ALL)
def test_without_the_controller_there_are_no_memory_files_but_pressure(profile: str) -> None:
    kernel, _ = boot(profile, cgroup="/")
    kernel.mkdir("/a/plain", delegate=False)
    memory = [name for name in kernel.list_files("/a/plain") if name.startswith("memory.")]
    assert memory == ["memory.pressure"]


@pytest.mark.parametrize(
    ("name", "first", "backported"),
    [
        ("memory.peak", "5.19", {"el8.10", "el9.6"}),
        ("memory.reclaim", "5.19", {"el8.10", "el9.6"}),
        ("memory.swap.peak", "6.5", {"el8.10", "el9.6"}),
        ("cgroup.kill", "5.14", set()),
    ],
)
def test_files_appear_with_their_kernels(name: str, first: str, backported: set[str]) -> None:
    for profile in ALL:
        kernel, _ = boot(profile)
        assert (name in kernel.list_files("/a")) is (profile in {*since(first), *backported}), (
            profile
        )


def test_unknown_files_are_not_there() -> None:
    kernel, _ = boot("6.12")
    for name in ("memory.kmem.limit_in_bytes", "pids.max", "", "memory.max/"):
        with refused(Errno.ENOENT):
            kernel.read_file("/a", name)
        with refused(Errno.ENOENT):
            kernel.write_file("/a", name, "1")


def test_a_write_returns_the_bytes_it_took() -> None:
    kernel, _ = boot("6.12")
    assert kernel.write_file("/a", "memory.max", "64M\n") == 4


def test_names_are_listed_in_order() -> None:
    assert list(CONTROL_FILES) == sorted(CONTROL_FILES)


@pytest.mark.parametrize("profile", ALL)
def test_the_oom_group_kill_line_came_with_5_17(profile: str) -> None:
    kernel, _ = boot(profile)
    keys = [line.split()[0] for line in kernel.read_file("/a", "memory.events").splitlines()]
    expected = ["low", "high", "max", "oom", "oom_kill"]
    if PROFILES[profile].has_oom_group_kill_event:
        expected.append("oom_group_kill")
    assert keys == expected
    assert PROFILES[profile].has_oom_group_kill_event is (profile in {*since("5.17"), "el9.6"})


def test_events_count_above_too_and_local_ones_do_not() -> None:
    kernel, _ = boot("6.12", cgroup="/")
    kernel.mkdir("/a/b")
    kernel.write_file("/a/b", "memory.max", "0")
    task = kernel.spawn(cgroup="/a/b")
    with pytest.raises(Exception, match="killed"):
        kernel.touch(task.pid, 4096)
    assert "oom_kill 1\n" in kernel.read_file("/a", "memory.events")
    assert "oom_kill 1\n" in kernel.read_file("/a/b", "memory.events.local")
    assert "oom_kill 0\n" in kernel.read_file("/a", "memory.events.local")


def test_a_limit_change_is_an_event_with_the_usage_it_met() -> None:
    kernel, task = boot("6.12")
    kernel.touch(task.pid, 1 << 20)
    before = kernel.events.revision
    kernel.write_file("/a", "memory.max", "8M")
    (event,) = kernel.events.since(before)
    assert event.fields["cgroup"] == "/a"
    assert event.fields["file"] == "memory.max"
    assert event.fields["value"] == "8388608"
    assert int(event.fields["usage_bytes"]) >= 1 << 20


def test_reclaim_takes_swappiness_on_6_12_alone() -> None:
    for profile, taken in (("6.1", False), ("6.12", True)):
        kernel, task = boot(profile)
        read_pages(kernel, task.pid, "/file", 4 << 20)
        text = "1M swappiness=60"
        if taken:
            assert kernel.write_file("/a", "memory.reclaim", text) == len(text)
        else:
            with refused(Errno.EINVAL):
                kernel.write_file("/a", "memory.reclaim", text)


@pytest.mark.parametrize(
    "text", ["", "max", "1M swappiness=201", "1M swappiness=", "1M fast", "M M"]
)
def test_reclaim_refuses_what_it_does_not_know(text: str) -> None:
    kernel, task = boot("6.12")
    read_pages(kernel, task.pid, "/file", 4 << 20)
    before = kernel.read_file("/a", "memory.current")
    if text:
        with refused(Errno.EINVAL):
            kernel.write_file("/a", "memory.reclaim", text)
    assert kernel.read_file("/a", "memory.current") == before


def test_pressure_has_no_triggers() -> None:
    kernel, _ = boot("6.12")
    with refused(Errno.EOPNOTSUPP):
        kernel.write_file("/a", "memory.pressure", "some 150000 1000000")


def test_swap_limits_are_kept() -> None:
    kernel, _ = boot("6.12")
    for name in ("memory.swap.max", "memory.swap.high"):
        assert kernel.read_file("/a", name) == "max\n"
        kernel.write_file("/a", name, "1M")
        assert kernel.read_file("/a", name) == f"{1 << 20}\n"
