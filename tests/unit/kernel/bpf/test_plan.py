"""The numbers of a map without a kernel: published worked examples, and what a kernel really charges."""

import csv
from pathlib import Path

import pytest

from bpfleet.abi.bpf import F_MMAPABLE, F_NO_PREALLOC, MapType, map_type_from_name
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import LARGEST_COST_BYTES
from bpfleet.kernel.bpf.plan import cached_objects, map_cost, plan_map
from bpfleet.kernel.errors import KernelError
from bpfleet.kernel.profile import PROFILES, profile_named
from tests.kernels import ALL, MEMCG, boot, refused

RECORDED = Path(__file__).parents[3] / "oracle" / "recorded"


def _rows(name: str) -> list[dict[str, str]]:
    with (RECORDED / name).open(newline="") as lines:
        return list(csv.DictReader(lines))


def _attr(row: dict[str, str]) -> MapAttr:
    flags = int(row["flags"], 0)
    return MapAttr(
        map_type_from_name(row["type"]),
        int(row["key"]),
        int(row["value"]),
        int(row["max_entries"]),
        flags,
    )


@pytest.mark.parametrize(
    "row", _rows("worked-rlimit.csv"), ids=lambda r: f"{r['type']}-{r['max_entries']}"
)
def test_the_precharge_is_that_of_the_worked_example(row):
    perfmon = row["perfmon"] == "1"
    for cpus, column in ((1, "one_cpu"), (2, "two_cpus"), (4, "four_cpus")):
        cost = map_cost(_attr(row), PROFILES["5.10"], cpus, perfmon=perfmon)
        assert cost.precharge_bytes == cost.memlock_bytes == int(row[column]), cpus
        assert cost.created.total == 0, "nothing is charged to a cgroup"


@pytest.mark.parametrize(
    "row", _rows("worked-memcg.csv"), ids=lambda r: f"{r['kernel']}-{r['type']}-{r['max_entries']}"
)
def test_the_charge_is_that_of_the_worked_example(row):
    cost = map_cost(_attr(row), PROFILES[row["kernel"]], int(row["cpus"]))
    made = cost.created
    assert (made.slab, made.vmalloc, made.pages, made.percpu, made.total, cost.memlock_bytes) == (
        int(row["slab"]),
        int(row["vmalloc"]),
        int(row["pages"]),
        int(row["percpu"]),
        int(row["total"]),
        int(row["memlock"]),
    )


@pytest.mark.parametrize(
    ("kernel", "attr", "cpus", "slab", "percpu"),
    [
        ("5.11", MapAttr(MapType.HASH, 8, 8, 1000, 1), 8, 72000, 0),
        ("6.1", MapAttr(MapType.HASH, 8, 8, 1000, 1), 8, 109824, 0),
        ("6.12", MapAttr(MapType.HASH, 8, 8, 1000, 1), 8, 109824, 0),
        ("6.12", MapAttr(MapType.HASH, 16, 512, 1000, 1), 8, 1061928, 0),
        ("6.12", MapAttr(MapType.HASH, 8, 4000, 1000, 1), 8, 4112208, 0),
        ("5.11", MapAttr(MapType.PERCPU_HASH, 8, 16, 1000, 1), 8, 72000, 128000),
        ("6.1", MapAttr(MapType.PERCPU_HASH, 8, 16, 1000, 1), 8, 135168, 168960),
        ("6.12", MapAttr(MapType.PERCPU_HASH, 8, 16, 1000, 1), 8, 133824, 160000),
        ("6.12", MapAttr(MapType.PERCPU_HASH, 8, 16, 1000, 1), 64, 133824, 1056000),
        ("5.11", MapAttr(MapType.LPM_TRIE, 8, 8, 1000, 1), 8, 143928, 0),
        ("6.12", MapAttr(MapType.LPM_TRIE, 8, 8, 1000, 1), 8, 143928, 0),
        ("6.18", MapAttr(MapType.LPM_TRIE, 8, 8, 1000, 1), 8, 148608, 0),
        ("6.1", MapAttr(MapType.DEVMAP, 4, 8, 10), 8, 1040, 0),
        ("6.12", MapAttr(MapType.DEVMAP, 4, 8, 10), 8, 720, 0),
        ("6.12", MapAttr(MapType.CPUMAP, 4, 8, 8), 8, 3200, 7680),
        ("6.12", MapAttr(MapType.XSKMAP, 4, 4, 10), 8, 400, 0),
        ("6.12", MapAttr(MapType.SOCKHASH, 16, 8, 100), 8, 7200, 0),
    ],
)
def test_filling_a_map_charges_what_the_worked_example_says(kernel, attr, cpus, slab, percpu):
    cost = map_cost(attr, PROFILES[kernel], cpus)
    assert cost.full.slab - cost.created.slab == slab
    assert cost.full.percpu - cost.created.percpu == percpu


SHAPES = [
    MapAttr(MapType.HASH, 4, 8, 100),
    MapAttr(MapType.HASH, 12, 300, 100, F_NO_PREALLOC),
    MapAttr(MapType.HASH, 4, 8, 200, F_NO_PREALLOC),
    MapAttr(MapType.PERCPU_HASH, 4, 12, 64),
    MapAttr(MapType.PERCPU_HASH, 4, 12, 64, F_NO_PREALLOC),
    MapAttr(MapType.LRU_HASH, 4, 8, 101, 2),
    MapAttr(MapType.LRU_PERCPU_HASH, 4, 8, 101),
    MapAttr(MapType.ARRAY, 4, 100, 1000),
    MapAttr(MapType.ARRAY, 4, 8, 1000, 0x400),
    MapAttr(MapType.PERCPU_ARRAY, 4, 6, 77),
    MapAttr(MapType.PROG_ARRAY, 4, 4, 20),
    MapAttr(MapType.PERF_EVENT_ARRAY, 4, 4, 20),
    MapAttr(MapType.CGROUP_ARRAY, 4, 4, 20),
    MapAttr(MapType.LPM_TRIE, 8, 8, 200, F_NO_PREALLOC),
    MapAttr(MapType.QUEUE, 0, 13, 50),
    MapAttr(MapType.STACK, 0, 64, 2000),
    MapAttr(MapType.RINGBUF, 0, 0, 65536),
    MapAttr(MapType.STACK_TRACE, 4, 80, 300),
]


@pytest.mark.parametrize("profile", [*ALL, "6.12:nobpf", "6.12:nokmem"])
@pytest.mark.parametrize("attr", SHAPES, ids=lambda a: f"{MapType(a.map_type).name}-{a.map_flags}")
def test_a_kernel_charges_what_the_plan_says(profile, attr):
    kernel, task = boot(profile)
    known = attr.map_type in kernel.profile.map_types
    if not known or (attr.map_flags & F_MMAPABLE and not kernel.profile.has_mmap):
        with refused(Errno.EINVAL):
            kernel.bpf.map_create(task, attr)
        return
    cost = map_cost(attr, kernel.profile, kernel.host.possible_cpus)
    kernel.bpf.map_create(task, attr)
    bpf_map = kernel.bpf.maps()[-1]
    assert bpf_map.charged_bytes == cost.created.total
    assert bpf_map.memlock_bytes() == cost.memlock_bytes
    kernel.check()


@pytest.mark.parametrize("profile", MEMCG)
@pytest.mark.parametrize(
    "attr",
    [s for s in SHAPES if s.map_flags & F_NO_PREALLOC],
    ids=lambda a: f"{MapType(a.map_type).name}-{a.value_size}",
)
def test_a_full_map_is_charged_what_the_plan_says(profile, attr):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, attr).fd
    bpf_map = kernel.bpf.maps()[-1]
    for number in range(attr.max_entries):
        key = number.to_bytes(attr.key_size, "big")
        if attr.map_type == MapType.LPM_TRIE:
            key = (32).to_bytes(4, "little") + number.to_bytes(4, "big")
        kernel.bpf.map_update_elem(task, fd, key, bytes(bpf_map.user_value_size))
    cost = map_cost(attr, kernel.profile, kernel.host.possible_cpus)
    assert bpf_map.charged_bytes == cost.full.total
    assert bpf_map.memlock_bytes() == cost.memlock_full_bytes


def test_the_creation_time_percpu_memory_escapes_from_six_zero_on():
    attr = MapAttr(MapType.PERCPU_ARRAY, 4, 8, 1000)
    older, newer = (map_cost(attr, PROFILES[name], 4) for name in ("5.11", "6.1"))
    assert (older.created.percpu, older.created.uncharged) == (32000, 0)
    assert (newer.created.percpu, newer.created.uncharged) == (0, 32000)


def test_nobpf_leaves_the_pages_of_a_ring_buffer_charged():
    cost = map_cost(MapAttr(MapType.RINGBUF, 0, 0, 65536), profile_named("6.12:nobpf"), 2)
    assert (cost.created.pages, cost.created.slab) == (19 * 4096, 0)


def test_a_type_the_kernel_does_not_have_is_refused():
    with pytest.raises(KernelError) as refused:
        plan_map(MapAttr(MapType.ARENA, 0, 0, 1), PROFILES["6.1"], 2)
    assert refused.value.errno is Errno.EINVAL


def test_four_gigabytes_of_estimate_do_not_fit_the_precharge():
    largest = MapAttr(MapType.LPM_TRIE, 5, 1, 102261020, 1)
    assert plan_map(largest, PROFILES["5.10"], 4).estimate_bytes < LARGEST_COST_BYTES
    one_more = MapAttr(MapType.LPM_TRIE, 5, 1, 102261021, 1)
    assert plan_map(one_more, PROFILES["5.10"], 4).estimate_bytes >= LARGEST_COST_BYTES


@pytest.mark.parametrize("unit", [72, 264, 1064, 4096, 8192])
@pytest.mark.parametrize("profile", ["6.1", "6.12"])
def test_the_closed_form_of_refills_is_what_the_caches_do(unit, profile):
    kernel, task = boot(profile)
    value = unit - 8 - 48 - 8  # less the list node, the element's header and the key
    attr = MapAttr(MapType.HASH, 1, value, 256, F_NO_PREALLOC)
    fd = kernel.bpf.map_create(task, attr).fd
    caches = kernel.bpf.maps()[-1].site.mem_allocs[0]
    at_first = caches.objects
    for number in range(200):
        kernel.bpf.map_update_elem(task, fd, bytes([number]), bytes(attr.value_size))
        wanted = cached_objects(kernel.profile, unit, number + 1, percpu=False)
        assert caches.objects - at_first == wanted, number
        caches.check()
