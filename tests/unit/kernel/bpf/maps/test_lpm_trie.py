"""LPM_TRIE: nodes and their memory, fullness, order."""

import pytest

from bpfleet.abi.bpf import BPF_EXIST, BPF_NOEXIST, F_NO_PREALLOC, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from tests.kernels import ALL, boot, having, refused

VALUE = bytes(8)
OWN_NODES = ["seed-v5", "5.11", "6.1", "6.12"]
IGNORES_FLAGS = having("lpm_ignores_update_flags")


def prefix(length, *octets):
    return length.to_bytes(4, "little") + bytes(octets).ljust(4, b"\0")


def trie(profile, entries=100):
    kernel, task = boot(profile)
    attr = MapAttr(MapType.LPM_TRIE, 8, 8, entries, F_NO_PREALLOC)
    return kernel, task, kernel.bpf.map_create(task, attr).fd


@pytest.mark.parametrize("profile", OWN_NODES)
def test_two_prefixes_that_part_share_an_intermediate_node(profile):
    kernel, task, fd = trie(profile)
    bpf_map = kernel.bpf.maps()[-1]
    empty = bpf_map.charged_bytes
    kernel.bpf.map_update_elem(task, fd, prefix(32, 10, 0, 0, 1), VALUE)
    leaf = bpf_map.charged_bytes - empty
    kernel.bpf.map_update_elem(task, fd, prefix(32, 10, 0, 0, 2), VALUE)
    assert (
        bpf_map.charged_bytes - empty == leaf * 2 + 72
    )  # 44 bytes are a 64-byte object and a pointer
    kernel.bpf.map_update_elem(task, fd, prefix(8, 10), VALUE)
    assert bpf_map.charged_bytes - empty == leaf * 3 + 72, "an ancestor needs none"
    kernel.bpf.map_delete_elem(task, fd, prefix(32, 10, 0, 0, 1))
    kernel.run_deferred()
    assert bpf_map.charged_bytes - empty == leaf * 2, "the leaf and the node above it are gone"


@pytest.mark.parametrize("profile", OWN_NODES)
def test_a_deleted_prefix_with_two_branches_keeps_its_node(profile):
    kernel, task, fd = trie(profile)
    for key in (prefix(8, 10), prefix(16, 10, 1), prefix(16, 10, 200)):
        kernel.bpf.map_update_elem(task, fd, key, VALUE)
    before = kernel.bpf.maps()[-1].charged_bytes
    kernel.bpf.map_delete_elem(task, fd, prefix(8, 10))
    kernel.run_deferred()
    assert kernel.bpf.maps()[-1].charged_bytes == before
    with refused(Errno.ENOENT):
        kernel.bpf.map_lookup_elem(task, fd, prefix(32, 10, 99))


@pytest.mark.parametrize("profile", ALL)
def test_the_longest_prefix_wins_and_a_short_key_asks_for_a_short_one(profile):
    kernel, task, fd = trie(profile)
    for length, octets in ((0, ()), (8, (10,)), (24, (10, 1, 2))):
        value = length.to_bytes(8, "little")
        kernel.bpf.map_update_elem(task, fd, prefix(length, *octets), value)
    found = [
        kernel.bpf.map_lookup_elem(task, fd, key)[0]
        for key in (
            prefix(32, 10, 1, 2, 3),
            prefix(32, 10, 9, 9, 9),
            prefix(32, 11),
            prefix(16, 10, 1),
        )
    ]
    assert found == [24, 8, 0, 8]


@pytest.mark.parametrize("profile", ALL)
def test_a_full_trie_answers_enospc(profile):
    kernel, task, fd = trie(profile, entries=2)
    for number in (1, 2):
        kernel.bpf.map_update_elem(task, fd, prefix(32, number), VALUE)
    with refused(Errno.ENOSPC):
        kernel.bpf.map_update_elem(task, fd, prefix(32, 3), VALUE)
    if kernel.profile.lpm_full_checked_first:
        with refused(Errno.ENOSPC):
            kernel.bpf.map_update_elem(task, fd, prefix(32, 1), VALUE)
    else:
        kernel.bpf.map_update_elem(task, fd, prefix(32, 1), VALUE)


@pytest.mark.parametrize("profile", ALL)
def test_update_flags(profile):
    kernel, task, fd = trie(profile)
    kernel.bpf.map_update_elem(task, fd, prefix(32, 1), VALUE)
    if profile in IGNORES_FLAGS:
        kernel.bpf.map_update_elem(task, fd, prefix(32, 1), VALUE, BPF_NOEXIST)
        kernel.bpf.map_update_elem(task, fd, prefix(32, 2), VALUE, BPF_EXIST)
        return
    with refused(Errno.EEXIST):
        kernel.bpf.map_update_elem(task, fd, prefix(32, 1), VALUE, BPF_NOEXIST)
    with refused(Errno.ENOENT):
        kernel.bpf.map_update_elem(task, fd, prefix(32, 2), VALUE, BPF_EXIST)
    with refused(Errno.EINVAL):
        kernel.bpf.map_update_elem(task, fd, prefix(33, 2), VALUE)


@pytest.mark.parametrize("profile", ALL)
def test_walking_is_post_order(profile):
    kernel, task, fd = trie(profile)
    keys = [prefix(24, 192, 168, 0), prefix(24, 192, 168, 1), prefix(24, 192, 168, 128)]
    keys.append(prefix(16, 192, 168))
    for key in reversed(keys):
        kernel.bpf.map_update_elem(task, fd, key, VALUE)
    seen, at = [], None
    for _ in keys:
        at = kernel.bpf.map_get_next_key(task, fd, at)
        seen.append(at)
    assert seen == keys
    with refused(Errno.ENOENT):
        kernel.bpf.map_get_next_key(task, fd, at)


def test_from_6_14_nodes_come_out_of_a_cache_and_return_after_two_grace_periods():
    kernel, task, fd = trie("6.18", entries=2000)
    for number in range(1000):
        kernel.bpf.map_update_elem(task, fd, prefix(32, number >> 8, number & 255), VALUE)
    caches = kernel.bpf.maps()[-1].site.mem_allocs[0]
    assert caches.in_use == 1999
    for number in range(1000):
        kernel.bpf.map_delete_elem(task, fd, prefix(32, number >> 8, number & 255))
    caches.check()
    full = caches.objects
    kernel.run_deferred()
    assert (caches.in_use, caches.objects) == (0, full - 1)  # the rest came while RCU was at work
    kernel.bpf.map_update_elem(task, fd, prefix(32, 0, 0), VALUE)
    kernel.bpf.map_delete_elem(task, fd, prefix(32, 0, 0))
    kernel.run_deferred()
    assert caches.objects < full - 1900
    kernel.check()
