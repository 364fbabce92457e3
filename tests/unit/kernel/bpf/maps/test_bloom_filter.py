"""BLOOM_FILTER: what was pushed is found, and the size of the bit set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfleet.abi.bpf import BPF_EXIST, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.maps.bloom_filter import filter_bits
from tests.kernels import boot, refused, with_type

NEWER = with_type(MapType.BLOOM_FILTER)


@pytest.mark.parametrize("profile", NEWER)
def test_a_pushed_value_is_always_found_and_an_empty_filter_finds_nothing(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.BLOOM_FILTER, 0, 6, 50)).fd
    bloom = kernel.bpf.maps()[-1]
    with refused(Errno.ENOENT):
        bloom.peek(b"absent")
    for number in range(50):
        kernel.bpf.map_update_elem(task, fd, None, b"%06d" % number)
    for number in range(50):
        bloom.peek(b"%06d" % number)
    with refused(Errno.EINVAL):
        kernel.bpf.map_update_elem(task, fd, None, b"000000", BPF_EXIST)


@pytest.mark.parametrize("profile", NEWER)
def test_it_has_no_keys(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.BLOOM_FILTER, 0, 8, 50)).fd
    with refused(Errno.EOPNOTSUPP):
        kernel.bpf.map_delete_elem(task, fd, None)
    with refused(Errno.EOPNOTSUPP):
        kernel.bpf.map_get_next_key(task, fd, None)


@pytest.mark.parametrize("profile", ["5.10", "seed-v5", "5.11"])
def test_older_kernels_do_not_know_the_type(profile):
    kernel, task = boot(profile)
    with refused(Errno.EINVAL):
        kernel.bpf.map_create(task, MapAttr(MapType.BLOOM_FILTER, 0, 8, 50))


@pytest.mark.parametrize(
    ("entries", "extra", "bits"),
    [
        (1, 0, 64),  # the least there is
        (100, 0, 1024),
        (100, 1, 256),
        (0xFFFFFFFF, 1, 1 << 32),  # more than 2^31 bits wanted
        (0xFFFFFFFF, 5, 1 << 32),  # the product does not fit 32 bits
    ],
)
def test_bits(entries, extra, bits):
    assert filter_bits(MapAttr(MapType.BLOOM_FILTER, 0, 8, entries, map_extra=extra)) == bits


@given(st.integers(1, 0xFFFFFFFF), st.integers(0, 15))
def test_bits_are_a_power_of_two_with_room_for_every_entry(entries, extra):
    bits = filter_bits(MapAttr(MapType.BLOOM_FILTER, 0, 8, entries, map_extra=extra))
    assert bits & (bits - 1) == 0
    assert 64 <= bits <= 1 << 32
    assert bits == 1 << 32 or bits >= entries * (extra or 5) // 5 * 7
