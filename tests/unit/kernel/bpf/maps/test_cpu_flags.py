"""BPF_F_CPU and BPF_F_ALL_CPUS: values of one CPU in per-CPU maps, from 7.0 on."""

import pytest

from bpfleet.abi.bpf import BPF_F_ALL_CPUS, BPF_F_CPU, F_NO_COMMON_LRU, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from tests.kernels import ALL, boot, having, refused

KEY = bytes(4)
PER_CPU = (MapType.PERCPU_ARRAY, MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH)
WITH_FLAGS = having("has_cpu_flags")


def on_cpu(number):
    return BPF_F_CPU | number << 32


def made(profile, map_type):
    kernel, task = boot(profile, cpus=4)
    fd = kernel.bpf.map_create(task, MapAttr(map_type, 4, 8, 4)).fd
    return kernel.bpf, task, fd


@pytest.mark.parametrize("profile", WITH_FLAGS)
@pytest.mark.parametrize("map_type", PER_CPU)
def test_one_value_goes_to_one_cpu_or_to_all(profile, map_type):
    bpf, task, fd = made(profile, map_type)
    bpf.map_update_elem(task, fd, KEY, b"everyone", BPF_F_ALL_CPUS)
    bpf.map_update_elem(task, fd, KEY, b"only one", on_cpu(2))
    assert bpf.map_lookup_elem(task, fd, KEY) == b"everyone" * 2 + b"only one" + b"everyone"
    assert bpf.map_lookup_elem(task, fd, KEY, on_cpu(2)) == b"only one"
    read = bpf.map_lookup_batch(task, fd, None, 4, on_cpu(3))
    assert read.values[:8] == b"everyone"
    assert len(read.values) == 8 * read.count


@pytest.mark.parametrize("profile", WITH_FLAGS)
def test_what_is_refused(profile):
    bpf, task, fd = made(profile, MapType.PERCPU_ARRAY)
    for errno, flags in [
        (Errno.ERANGE, on_cpu(4)),
        (Errno.EINVAL, BPF_F_CPU | BPF_F_ALL_CPUS),
        (Errno.EINVAL, 1 << 32),
        (Errno.EINVAL, 32),
    ]:
        with refused(errno):
            bpf.map_update_elem(task, fd, KEY, b"a value.", flags)
    with refused(Errno.EINVAL):
        bpf.map_lookup_elem(task, fd, KEY, BPF_F_ALL_CPUS)
    with refused(Errno.EINVAL):  # a value of each CPU where one is asked for
        bpf.map_update_elem(task, fd, KEY, bytes(32), on_cpu(0))
    with refused(Errno.ERANGE):
        bpf.map_lookup_batch(task, fd, None, 4, on_cpu(4))
    plain = bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 4)).fd
    with refused(Errno.EINVAL):
        bpf.map_update_elem(task, plain, KEY, bytes(8), on_cpu(0))


@pytest.mark.parametrize("profile", [name for name in ALL if name not in WITH_FLAGS])
@pytest.mark.parametrize("map_type", PER_CPU)
def test_older_kernels_know_none_of_it(profile, map_type):
    bpf, task, fd = made(profile, map_type)
    for flags in (on_cpu(0), BPF_F_ALL_CPUS):
        with refused(Errno.EINVAL):
            bpf.map_update_elem(task, fd, KEY, bytes(32), flags)
    with refused(Errno.EINVAL):
        bpf.map_lookup_elem(task, fd, KEY, on_cpu(0))


def percpu_lru(profile):
    kernel, task = boot(profile, cpus=2)
    fd = kernel.bpf.map_create(
        task, MapAttr(MapType.LRU_PERCPU_HASH, 4, 8, 4, map_flags=F_NO_COMMON_LRU)
    ).fd
    return kernel.bpf, task, fd


@pytest.mark.parametrize(
    ("profile", "other"), [("7.0", b"a"), ("7.1", b"a"), ("7.2", b"\0"), ("7.3", b"\0")]
)
def test_an_insert_for_one_cpu_shows_what_an_evicted_element_held_on_the_others(profile, other):
    """An update takes a node before it looks for the key, and here evicts the very element it is for."""
    bpf, task, fd = percpu_lru(profile)
    bpf.map_update_elem(task, fd, b"one.", b"." * 8, on_cpu(0))
    bpf.map_update_elem(task, fd, b"two.", b"a" * 16)
    bpf.map_update_elem(task, fd, b"two.", b"b" * 8, on_cpu(0))
    assert bpf.map_lookup_elem(task, fd, b"two.") == b"b" * 8 + other * 8


@pytest.mark.parametrize(("profile", "other"), [("7.1", b"a"), ("7.2", b"\0")])
def test_an_insert_for_one_cpu_shows_what_a_deleted_element_held_on_the_others(profile, other):
    bpf, task, fd = percpu_lru(profile)
    bpf.map_update_elem(task, fd, b"one.", b"a" * 16)
    bpf.map_delete_elem(task, fd, b"one.")
    bpf.map_update_elem(task, fd, b"two.", b"b" * 8, on_cpu(1))
    assert bpf.map_lookup_elem(task, fd, b"two.") == other * 8 + b"b" * 8


@pytest.mark.parametrize(("profile", "other"), [("7.1", b"a"), ("7.2", b"\0")])
def test_a_preallocated_element_is_taken_from_where_it_was_put_back(profile, other):
    """The freelist is a stack for each CPU: what was deleted here last is taken here first."""
    kernel, task = boot(profile, cpus=2)
    bpf = kernel.bpf
    fd = bpf.map_create(task, MapAttr(MapType.PERCPU_HASH, 4, 8, 4)).fd
    bpf.map_update_elem(task, fd, b"one.", b"a" * 16)
    bpf.map_delete_elem(task, fd, b"one.")
    bpf.map_update_elem(task, fd, b"two.", b"b" * 8, on_cpu(1))
    assert bpf.map_lookup_elem(task, fd, b"two.") == other * 8 + b"b" * 8
    bpf.map_update_elem(task, fd, b"new.", b"c" * 8, on_cpu(1))
    assert bpf.map_lookup_elem(task, fd, b"new.") == bytes(8) + b"c" * 8


def test_an_element_is_taken_from_another_cpu_when_this_one_has_none():
    kernel, task = boot("7.1", cpus=2)
    bpf = kernel.bpf
    fd = bpf.map_create(task, MapAttr(MapType.PERCPU_HASH, 4, 8, 3)).fd
    for key in (b"one.", b"two.", b"six."):
        bpf.map_update_elem(task, fd, key, key * 4)
    for key in (b"one.", b"two.", b"six."):
        bpf.map_delete_elem(task, fd, key)
    found = []
    for key in (b"new1", b"new2", b"new3"):
        bpf.map_update_elem(task, fd, key, b"c" * 8, on_cpu(0))
        found.append(bpf.map_lookup_elem(task, fd, key)[8:12])
    assert found == [b"six.", b"two.", b"one."]
