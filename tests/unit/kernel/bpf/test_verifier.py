"""What verifying takes: charged from 6.17 on, while the load runs, and ended by limits."""

import pytest

from bpfleet.abi.bpf import ProgType
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel import Kernel, KernelError, TaskKilled, profile_named
from bpfleet.kernel.bpf.complexity import Complexity, walk
from bpfleet.kernel.bpf.program import ProgAttr
from bpfleet.kernel.bpf.verifier import bounds_bytes, peak_bytes
from bpfleet.kernel.profile import PROFILES

CHARGING = [name for name, profile in PROFILES.items() if profile.verifier_memory_charged]
STOCK_BYTES = 64 * 4096  # of one CPU: memory.peak counts what is charged ahead


def _loaded(profile: str, attr: ProgAttr, room_bytes: int = 0) -> tuple[str, int, int]:
    """The answer, the peak and what stays of a load, beside what the process had before."""
    kernel = Kernel(profile_named(profile), possible_cpus=2, ram_bytes=1 << 31)
    kernel.mkdir("/a")
    task = kernel.spawn(cgroup="/a", memlock=(RLIM_INFINITY, RLIM_INFINITY))
    before = int(kernel.read_file("/a", "memory.current"))
    if room_bytes:
        kernel.write_file("/a", "memory.max", str((before + room_bytes) // 4096 * 4096))
    try:
        kernel.bpf.prog_load(task, attr)
        answer = "ok"
    except TaskKilled:
        answer = "killed"
    except KernelError as error:
        answer = error.errno.name
    kernel.check()
    after = int(kernel.read_file("/a", "memory.current"))
    return answer, int(kernel.read_file("/a", "memory.peak")) - before, after - before


@pytest.mark.parametrize("profile", ["6.12", "6.16"])
def test_up_to_6_16_nobody_is_charged_for_verifying(profile: str) -> None:
    attr = ProgAttr(ProgType.SOCKET_FILTER, insn_cnt=100_000)
    answer, peak, _ = _loaded(profile, attr, 4 << 20)
    assert answer == "ok"
    assert peak <= 100_000 * 8 + STOCK_BYTES
    assert peak_bytes(profile_named(profile), 100_000, (), Complexity()) == 0


def test_on_6_18_the_peak_is_as_measured_and_goes_back() -> None:
    attr = ProgAttr(ProgType.SOCKET_FILTER, insn_cnt=100_000)
    answer, peak, kept = _loaded("6.18", attr)
    assert answer == "ok"
    assert abs(peak - 5_558_272) <= STOCK_BYTES  # measured on a host of 6.18.44
    assert kept < 806_912 + STOCK_BYTES


@pytest.mark.parametrize("room", [4 << 20, 32 << 20])
def test_a_load_that_does_not_fit_kills_its_loader(room: int) -> None:
    attr = ProgAttr(ProgType.SOCKET_FILTER, insn_cnt=100_000)
    assert _loaded("6.18", attr, room)[0] == ("killed" if room == 4 << 20 else "ok")


@pytest.mark.parametrize(
    ("profile", "loads"),
    [("6.16", 97), ("6.17", 90), ("6.18.15", 89), ("6.19", 89), ("7.0", 89), ("7.1", 18),
     ("7.2", 3), ("7.3", 0)],
)  # fmt: skip
def test_so_many_programs_fit_a_mebibyte_before_the_next_release_kills(
    profile: str, loads: int
) -> None:
    kernel = Kernel(profile_named(profile), possible_cpus=2, ram_bytes=2_019_744 << 10)
    kernel.mkdir("/g")
    kernel.write_file("/g", "memory.max", str(1 << 20))
    task = kernel.spawn(cgroup="/g")
    attr = ProgAttr(ProgType.SOCKET_FILTER, insn_cnt=1000)
    for _ in range(loads):
        kernel.bpf.prog_load(task, attr)
    with pytest.raises(TaskKilled):
        kernel.bpf.prog_load(task, attr)
    kernel.check()


@pytest.mark.parametrize("profile", CHARGING)
@pytest.mark.parametrize(
    "code",
    [Complexity(), Complexity(branches=100), Complexity(compared=100), Complexity(spills=100),
     Complexity(lookups=100), Complexity(loop_turns=5000)],
    ids=lambda code: next((n for n in code.__slots__ if getattr(code, n)), "straight"),
)  # fmt: skip
def test_all_goes_back_whatever_the_limit(profile: str, code: Complexity) -> None:
    """At each limit between too little and enough: the books agree, and nothing of the verifier is left."""
    attr = ProgAttr(ProgType.SOCKET_FILTER, 800, complexity=code)
    most = _loaded(profile, attr)[1]
    for room in range(8192, most + 65_536, max(most // 12, 4096)):
        kernel = Kernel(profile_named(profile), possible_cpus=2, ram_bytes=1 << 31)
        kernel.mkdir("/a")
        task = kernel.spawn(cgroup="/a")
        kernel.write_file("/a", "memory.max", str(room // 4096 * 4096))
        try:
            kernel.bpf.prog_load(task, attr)
        except KernelError:
            kernel.check()
        assert not [a for a in kernel.memory.accounts if a.owner.kind == "verifier" and a.count]


def test_the_walk_gives_up_where_linux_does() -> None:
    profile = profile_named("6.18")
    for code, text in (
        (Complexity(branches=8193), "8193 jumps"),
        (Complexity(loop_turns=400_000), "too large"),
    ):
        with pytest.raises(KernelError, match=text) as refused:
            walk(profile, 30_000, (), code)
        assert refused.value.errno is Errno.E2BIG


def test_comparing_one_value_stops_converging_with_7_2() -> None:
    code = Complexity(compared=499)
    kept = [
        (found.pending + found.remembered)
        for found in (walk(profile_named(name), 1001, (), code) for name in ("7.1", "7.2"))
    ]
    assert kept == [623, 1968]  # veristat: 1966 states on 7.3


@pytest.mark.parametrize(
    ("code", "insns", "states"),
    [
        (Complexity(branches=300), 903, 100),
        (Complexity(spills=500), 2002, 250),
        (Complexity(lookups=100), 704, 67),
        (Complexity(loop_turns=3000), 6, 301),
        (Complexity(compared=499), 1001, 124),
    ],
)
def test_states_are_left_as_often_as_the_verifier_says(
    code: Complexity, insns: int, states: int
) -> None:
    """As 6.18.15 counts them (log level 4), of branchy programs those of the first path."""
    assert abs(walk(profile_named("6.18.15"), insns, (), code).remembered - states) <= 2


def test_known_by_its_length_alone_a_program_has_a_range() -> None:
    profile = profile_named("7.2")
    told = bounds_bytes(profile, 1000, (), Complexity(branches=10, verified_insns=9000))
    assert told[0] == told[1]
    least, most = bounds_bytes(profile, 1000, (), Complexity(verified_insns=9000))
    assert least < most
    assert bounds_bytes(profile, 1000, (), Complexity(verified_insns=1000)) == (least, least)
    assert least <= peak_bytes(profile, 1000, (), Complexity(branches=300)) <= most


def test_more_states_from_veristat_weigh_more() -> None:
    profile = profile_named("6.18")
    few, many = (peak_bytes(profile, 1000, (), Complexity(states=n)) for n in (10, 1000))
    assert many - few > 990 * 2048


@pytest.mark.parametrize(
    ("insns", "branches", "peak", "after"),
    [
        (2, 0, 49_152, 8_192),
        (100, 0, 53_248, 8_192),
        (500, 0, 65_536, 8_192),
        (2_000, 0, 139_264, 20_480),
        (20_000, 0, 1_384_448, 167_936),
        (903, 300, 1_036_288, 12_288),
        (4_503, 1_500, 5_185_536, 40_960),
    ],
)
def test_the_kernel_memory_of_a_load_is_what_a_host_of_6_18_44_counted(
    insns: int, branches: int, peak: int, after: int
) -> None:
    """memory.kmem.max_usage_in_bytes and what stays; branches ask a helper's answer each."""
    kernel = Kernel(profile_named("6.18"), possible_cpus=2, ram_bytes=1 << 31)
    kernel.mkdir("/c1")
    task = kernel.spawn(cgroup="/c1")
    before = kernel.memory.charged_bytes_total
    code = Complexity(branches=branches)
    kernel.bpf.prog_load(task, ProgAttr(ProgType.SOCKET_FILTER, insns, complexity=code))
    kept = kernel.memory.charged_bytes_total - before
    pages_4 = 4 * 4096
    assert abs(kept - after) <= pages_4
    assert abs(kept + peak_bytes(profile_named("6.18"), insns, (), code) - peak) <= pages_4


def test_a_load_at_the_limit_kills_the_neighbour_with_the_heap_and_succeeds() -> None:
    """Six of six times on 6.18.44: the container is nine pages below its limit, and nothing can be reclaimed."""
    kernel = Kernel(profile_named("6.18"), possible_cpus=2, ram_bytes=1 << 31)
    kernel.mkdir("/c1")
    kernel.write_file("/c1", "memory.max", str(4 << 20))
    heap, loader = kernel.spawn(cgroup="/c1"), kernel.spawn(cgroup="/c1")
    kernel.touch(heap.pid, 4_157_440)
    assert kernel.bpf.prog_load(loader, ProgAttr(ProgType.SOCKET_FILTER, insn_cnt=2000)).fd > 0
    assert (heap.alive, loader.alive) == (False, True)
    assert "oom_kill 1" in kernel.read_file("/c1", "memory.events").splitlines()
