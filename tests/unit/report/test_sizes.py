"""Sizes agree with golden vectors of real kernels and with what an application really is charged."""

import pytest

from bpfleet.abi.bpf import F_NO_PREALLOC, MapType, ProgType
from bpfleet.kernel import profile_named
from bpfleet.report.sizes import size_of_inventory, size_of_map, total_of
from bpfleet.workload.catalogue import inventory_for
from bpfleet.workload.spec import (
    Complexity,
    Inventory,
    MapDeclaration,
    NodeShape,
    ProgramDeclaration,
)

MIB = 1 << 20


def declared(kind: MapType, key: int, value: int, entries: int, flags: int = 0) -> MapDeclaration:
    inner = MapDeclaration(
        name="inner", map_type=MapType.ARRAY, key_size=4, value_size=8, max_entries=1
    )
    holds_maps = kind in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
    return MapDeclaration(
        name="m",
        map_type=kind,
        key_size=key,
        value_size=value,
        max_entries=entries,
        map_flags=flags,
        inner=inner if holds_maps else None,
        inner_count=2 if holds_maps else 0,
    )


@pytest.mark.parametrize(
    ("kind", "key", "value", "entries", "flags", "cpus", "profile", "shown"),
    [
        (MapType.LRU_HASH, 20, 1, 524288, 0, 4, "5.10", 50335744),
        (MapType.HASH, 8, 16, 65536, 0, 8, "5.10", 5771264),
        (MapType.PERCPU_HASH, 16, 8, 10000, 0, 2, "5.10", 1142784),
        (MapType.HASH, 20, 4, 16384, 1, 8, "6.1", 393216),
        (MapType.RINGBUF, 0, 0, 16777216, 0, 4, "6.1", 0),
        (MapType.LPM_TRIE, 24, 12, 512000, 1, 8, "6.1", 20480000),
        (MapType.LRU_HASH, 14, 56, 131073, 2, 2, "6.18", 19924080),
        (MapType.HASH, 8, 16, 65536, 1, 2, "6.18", 1049472),
    ],
)
def test_bpftool_would_show_what_it_showed_on_real_hosts(
    kind: MapType,
    key: int,
    value: int,
    entries: int,
    flags: int,
    cpus: int,
    profile: str,
    shown: int,
) -> None:
    size = size_of_map(declared(kind, key, value, entries, flags), profile_named(profile), cpus)
    assert size.memlock_bytes == shown


def test_a_trie_element_costs_its_node_and_an_intermediate_one() -> None:
    size = size_of_map(declared(MapType.LPM_TRIE, 24, 12, 512000, 1), profile_named("6.18"), 2)
    assert size.element_bytes == 144  # measured on a real 6.18
    nodes = size.full_bytes - size.charged_bytes
    assert 144 * 512000 <= nodes < 144 * 512000 + 64 * 72  # caches are refilled in batches


def test_a_sparse_hash_element_costs_its_kmalloc_class_and_an_objcg_slot() -> None:
    size = size_of_map(
        declared(MapType.HASH, 8, 16, 65536, F_NO_PREALLOC), profile_named("6.18"), 2
    )
    assert size.element_bytes == 104  # measured on a real 6.18


def test_preallocated_maps_are_full_from_the_start() -> None:
    size = size_of_map(declared(MapType.HASH, 8, 16, 65536), profile_named("6.12"), 4)
    assert size.element_bytes == 0
    assert size.full_bytes == size.charged_bytes


def test_per_cpu_values_escape_from_6_0_on_and_are_charged_before() -> None:
    per_cpu = declared(MapType.PERCPU_ARRAY, 4, 4096, 512)
    old = size_of_map(per_cpu, profile_named("5.11"), 16)
    new = size_of_map(per_cpu, profile_named("6.12"), 16)
    assert old.charged["percpu"] == pytest.approx(512 * 4096 * 16, rel=0.01)
    assert "percpu" not in new.charged
    assert new.uncharged_bytes >= 512 * 4096 * 16


def test_nothing_is_charged_with_nobpf() -> None:
    for kind, entries, flags in ((MapType.LPM_TRIE, 1024, 1), (MapType.ARENA, 16, 0x400)):
        key, value = (8, 8) if kind is MapType.LPM_TRIE else (0, 0)
        size = size_of_map(
            declared(kind, key, value, entries, flags), profile_named("6.12:nobpf"), 4
        )
        assert (size.charged_bytes, size.element_bytes, size.full_bytes) == (0, 0, 0)


def test_inner_maps_and_copies_are_counted() -> None:
    size = size_of_map(declared(MapType.ARRAY_OF_MAPS, 4, 4, 8), profile_named("6.12"), 2)
    assert size.count == 3


def test_a_refusal_is_kept_in_place_of_the_size() -> None:
    size = size_of_map(declared(MapType.RINGBUF, 0, 0, 1000), profile_named("6.12"), 2)
    assert size.refusal.startswith("EINVAL: ")
    assert size.charged_bytes == 0


def test_the_total_of_an_application_is_the_published_one() -> None:
    shape = NodeShape(possible_cpus=16, ram_bytes=16 << 30)
    inventory = inventory_for("calico", shape)
    maps_alone = Inventory(name="maps", maps=inventory.maps)
    locked = total_of(size_of_inventory(maps_alone, profile_named("5.10"), 16))
    charged = total_of(size_of_inventory(maps_alone, profile_named("6.12"), 16))
    assert locked.maps == 17
    assert locked.estimate_bytes / MIB == pytest.approx(389, abs=0.5)
    assert charged.charged_bytes / MIB == pytest.approx(159, abs=0.5)


def test_programs_are_charged_but_count_as_no_maps() -> None:
    program = ProgramDeclaration(
        name="p", prog_type=ProgType.CGROUP_SOCK_ADDR, insn_cnt=4000, count=3
    )
    total = total_of(
        size_of_inventory(Inventory(name="x", programs=(program,)), profile_named("6.12"), 2)
    )
    assert (total.maps, total.refused) == (0, 0)
    assert total.charged_bytes >= 3 * 8 * 4096


def test_verifying_counts_for_the_largest_program_from_6_17_on_and_as_a_range_where_little_is_known() -> (
    None
):
    known = {"small": Complexity(), "told": Complexity(branches=300)}
    programs = tuple(
        ProgramDeclaration(name=name, prog_type=ProgType.XDP, insn_cnt=1000, complexity=code)
        for name, code in known.items()
    )
    listed = ProgramDeclaration(
        name="listed",
        prog_type=ProgType.XDP,
        insn_cnt=1000,
        complexity=Complexity(verified_insns=40_000),
    )
    for profile, charged in (("6.16", False), ("6.17", True), ("7.3", True)):
        sizes = size_of_inventory(Inventory(name="x", programs=programs), profile_named(profile), 2)
        least, most = total_of(sizes).verifying_bytes
        assert least == most == max(size.verifying_bytes[0] for size in sizes)
        assert bool(least) is charged
        (unknown,) = size_of_inventory(
            Inventory(name="x", programs=(listed,)), profile_named(profile), 2
        )
        assert (unknown.verifying_bytes[0] < unknown.verifying_bytes[1]) is charged
