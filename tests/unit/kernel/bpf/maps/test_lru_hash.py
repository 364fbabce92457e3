"""LRU eviction: the sizes that real kernels leave behind, and who is evicted."""

import pytest

from bpfleet.abi.bpf import BPF_EXIST, F_NO_COMMON_LRU, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.host import OpContext
from bpfleet.kernel.bpf.maps.lru_hash import LruHashMap
from tests.kernels import ALL, boot, refused

VALUE = bytes(8)


def key(number):
    return number.to_bytes(4, "little")


def filled(profile, entries, inserts, *, flags=0, cpus=2):
    kernel, task = boot(profile, cpus=cpus)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.LRU_HASH, 4, 8, entries, flags)).fd
    for number in range(inserts):
        kernel.bpf.map_update_elem(task, fd, key(number), VALUE)
    return kernel, task, fd


def left(kernel):
    return kernel.bpf.maps()[-1].entries()


@pytest.mark.parametrize(
    ("entries", "inserts", "remain"),
    [
        (10, 11, 1),
        (128, 129, 1),
        (200, 129, 73),
        (200, 300, 116),
        (256, 257, 129),
        (1000, 1000, 976),
    ],
)
def test_a_shared_list_evicts_in_batches_of_128_up_to_6_15(entries, inserts, remain):
    kernel, _, _ = filled("5.10", entries, inserts)
    assert left(kernel) == remain


@pytest.mark.parametrize("profile", ALL)
def test_one_cpu_uses_its_own_share_of_per_cpu_lists_only(profile):
    kernel, _, _ = filled(profile, 1000, 1000, flags=F_NO_COMMON_LRU)
    assert left(kernel) == 500


def test_a_scaled_target_keeps_small_maps_nearly_full():
    kernel, _, _ = filled("6.12", 10, 11)
    assert left(kernel) == 9


@pytest.mark.parametrize("profile", ALL)
def test_per_cpu_lists_round_the_entries_up_to_equal_shares(profile):
    for cpus, entries in ((1, 1001), (2, 1002), (4, 1004)):
        attr = LruHashMap.effective(MapAttr(MapType.LRU_HASH, 4, 8, 1001, F_NO_COMMON_LRU), cpus)
        assert attr.max_entries == entries
    almost = MapAttr(MapType.LRU_HASH, 4, 8, 4294967295, F_NO_COMMON_LRU)
    assert LruHashMap.effective(almost, 4).max_entries == 4294967292, (
        "rounded down where 32 bits wrap"
    )


@pytest.mark.parametrize("profile", ALL)
def test_an_update_protects_an_entry_and_a_lookup_by_system_call_does_not(profile):
    kernel, task, fd = filled(profile, 300, 128)
    kernel.bpf.map_update_elem(task, fd, key(3), VALUE)
    for _ in range(3):
        kernel.bpf.map_lookup_elem(task, fd, key(4))
    for number in range(1000, 1300):
        kernel.bpf.map_update_elem(task, fd, key(number), VALUE)
    assert kernel.bpf.map_lookup_elem(task, fd, key(3)) == VALUE
    with refused(Errno.ENOENT):
        kernel.bpf.map_lookup_elem(task, fd, key(4))


@pytest.mark.parametrize("profile", ALL)
def test_a_lookup_by_a_program_protects_an_entry(profile):
    kernel, task, fd = filled(profile, 300, 128)
    kernel.bpf.maps()[-1].lookup(key(4), OpContext(task, from_prog=True))
    for number in range(1000, 1300):
        kernel.bpf.map_update_elem(task, fd, key(number), VALUE)
    assert kernel.bpf.map_lookup_elem(task, fd, key(4)) == VALUE


def test_a_refused_insert_may_evict_all_the_same():
    kernel, task, fd = filled("5.10", 10, 10)
    with refused(Errno.ENOENT):
        kernel.bpf.map_update_elem(task, fd, key(77), VALUE, BPF_EXIST)
    assert left(kernel) == 0, "room was made before the flag was looked at"


def test_a_cpu_without_nodes_steals_from_another():
    kernel, task, fd = filled("5.10", 4, 4)
    task.cpu = 1
    kernel.bpf.map_update_elem(task, fd, key(100), VALUE)
    assert kernel.bpf.map_lookup_elem(task, fd, key(100)) == VALUE
    assert left(kernel) == 4, "one was taken out for it"


def test_a_map_of_eight_million_entries_costs_what_is_used():
    kernel, task = boot("6.12")
    fd = kernel.bpf.map_create(task, MapAttr(MapType.LRU_HASH, 4, 8, 8_000_000)).fd
    kernel.bpf.map_update_elem(task, fd, key(1), VALUE)
    bpf_map = kernel.bpf.maps()[-1]
    assert bpf_map.entries() == 1
    assert bpf_map.charged_bytes > 600 << 20


@pytest.mark.parametrize("profile", ALL)
def test_replacing_may_evict_the_very_key_it_replaces(profile):
    # htab_lru_map_update_elem takes an element before it looks the key up.
    kernel, task, fd = filled(profile, 2, 2, cpus=1, flags=F_NO_COMMON_LRU)
    assert left(kernel) == 2
    with refused(Errno.ENOENT):
        kernel.bpf.map_update_elem(task, fd, key(0), VALUE, BPF_EXIST)
    assert left(kernel) == 0  # per-CPU lists make room for four
