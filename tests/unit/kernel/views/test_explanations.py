"""What a refusal means: numbers, who holds the counter, where it would have passed, what libraries print."""

import re

import pytest

from bpfleet.abi.bpf import F_NO_PREALLOC, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel import PROFILES, TaskKilled
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.views.explain import explain
from bpfleet.kernel.views.hints import libbpf_hint, size_text
from tests.kernels import MEMCG, boot, refused

MB = 1 << 20
ARRAY = MapAttr(MapType.ARRAY, 4, 1024, 1000)


def test_an_eperm_that_is_a_limit_says_so() -> None:
    kernel, task = boot("5.10", memlock=(64 << 10, 64 << 10))
    with refused(Errno.EPERM) as caught:
        kernel.bpf.map_create(task, ARRAY)
    found = kernel.explain(caught.value)
    assert "no capability is missing" in found.headline
    assert found.numbers["limit_bytes"] == 64 << 10
    assert any("5.11 and later" in line for line in found.elsewhere)
    assert any("ulimit -l" in line and "64.0 KiB" in line for line in found.tool_messages)
    assert any("consider rlimit.RemoveMemlock" in line for line in found.tool_messages)


def test_an_eperm_that_is_a_capability_says_so_too() -> None:
    kernel, task = boot("5.10", uid=1000, caps=frozenset())
    with refused(Errno.EPERM) as caught:
        kernel.bpf.map_create(task, MapAttr(MapType.LPM_TRIE, 8, 8, 10, F_NO_PREALLOC))
    found = kernel.explain(caught.value)
    assert "a permission is missing" in found.headline
    assert any("RLIMIT_MEMLOCK" in line and "does not help" in line for line in found.facts)
    assert not any("ulimit" in line for line in found.tool_messages)


def test_device_maps_disguise_the_limit() -> None:
    kernel, task = boot("5.10", memlock=(4096, 4096))
    with refused(Errno.EINVAL) as caught:
        kernel.bpf.map_create(task, MapAttr(MapType.DEVMAP, 4, 4, 10_000))
    found = kernel.explain(caught.value)
    assert any("device maps" in line for line in found.facts)
    assert found.tool_messages == ()


@pytest.mark.parametrize("profile", ["6.1", "6.12"])
def test_a_full_cgroup_names_the_limit_and_who_fills_it(profile: str) -> None:
    kernel, task = boot(profile)
    kernel.write_file("/a", "memory.max", "2M")
    kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 1024, 1000, map_name="first"))
    with refused(Errno.ENOMEM) as caught:
        for _ in range(3):
            kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 1024, 1000, map_name="next"))
    found = kernel.explain(caught.value)
    assert found.numbers["cgroup"] == "/a"
    assert "first" in found.holders[0][0]
    assert any(line.startswith("held: ") for line in found.lines())
    assert any("up to 5.10" in line for line in found.elsewhere)


@pytest.mark.parametrize("profile", MEMCG)
def test_a_limit_above_is_told_from_the_payers_own(profile: str) -> None:
    kernel, _ = boot(profile, cgroup="/")
    kernel.mkdir("/a/x")
    kernel.write_file("/a", "memory.max", "512k")
    task = kernel.spawn(cgroup="/a/x", oom_score_adj=-1000)
    with refused(Errno.ENOMEM) as caught:
        kernel.bpf.map_create(task, ARRAY)
    found = kernel.explain(caught.value)
    assert found.numbers["cgroup"] == "/a"
    assert found.numbers["charged_cgroup"] == "/a/x"
    assert any("ancestor" in line for line in found.facts)


def test_many_holders_are_summed_up() -> None:
    kernel, task = boot("5.10", memlock=(MB, MB))
    with refused(Errno.EPERM) as caught:
        for _ in range(1000):
            kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 1024, 50))
    found = kernel.explain(caught.value)
    held = [line for line in found.lines() if line.startswith("held: ")]
    assert len(held) == 6
    assert re.fullmatch(r"held: \d+ others, \d+ bytes", held[-1])
    assert sum(size for _, size in found.holders) == found.numbers["usage_bytes"]


def test_a_killed_caller_is_explained() -> None:
    kernel, task = boot("6.12")
    kernel.write_file("/a", "memory.max", "1M")
    with pytest.raises(TaskKilled) as caught:
        kernel.touch(task.pid, 2 * MB)
    assert "137" in " ".join(kernel.explain(caught.value).lines())


@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize("profile", ["5.10", "6.12"])
def test_every_reason_has_an_explanation(profile: str, reason: Reason) -> None:
    error = KernelError(Errno.ENOMEM, reason, "the detail")
    lines = explain(error, PROFILES[profile]).lines()
    assert lines[0].startswith(("ENOMEM: ", "killed: "))


def test_libbpf_hints_only_root_with_a_finite_limit_and_eperm() -> None:
    assert libbpf_hint(Errno.EPERM, 0, 65536) is not None
    assert libbpf_hint(Errno.EPERM, 1000, 65536) is None
    assert libbpf_hint(Errno.ENOMEM, 0, 65536) is None
    assert libbpf_hint(Errno.EPERM, 0, (1 << 64) - 1) is None


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (MB, "1.0 MiB"),
        (1 << 30, "1024.0 MiB"),
    ],
)
def test_limits_are_printed_as_libbpf_does(size: int, text: str) -> None:
    assert size_text(size) == text
