"""Batch commands: partial counts, cursors, and what is refused before anything is counted."""

import pytest

from bpfleet.abi.bpf import F_RDONLY, F_ZERO_SEED, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import Address, MapAttr
from tests.kernels import boot, having, refused

BATCHES = having("has_batch")
LATER = having("lpm_has_batch")


def key(number):
    return number.to_bytes(4, "little")


def table(profile, entries=16, flags=F_ZERO_SEED):
    kernel, task = boot(profile)
    return kernel, task, kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, entries, flags)).fd


def store(kernel, task, fd, numbers):
    keys = b"".join(map(key, numbers))
    return kernel.bpf.map_update_batch(task, fd, keys, bytes(8 * len(numbers)), len(numbers))


@pytest.mark.parametrize("profile", BATCHES)
def test_an_update_batch_counts_what_went_in_before_the_map_was_full(profile):
    kernel, task, fd = table(profile, 10)
    result = store(kernel, task, fd, range(12))
    assert (result.count, result.errno) == (10, Errno.E2BIG)


@pytest.mark.parametrize("profile", BATCHES)
def test_a_delete_batch_counts_what_went_out_before_the_missing_key(profile):
    kernel, task, fd = table(profile)
    store(kernel, task, fd, range(10))
    keys = b"".join(map(key, (8, 9, 10, 0)))
    result = kernel.bpf.map_delete_batch(task, fd, keys, 4)
    assert (result.count, result.errno) == (2, Errno.ENOENT)
    assert kernel.bpf.maps()[-1].entries() == 8


@pytest.mark.parametrize("profile", BATCHES)
def test_a_hash_is_read_by_whole_buckets(profile):
    kernel, task, fd = table(profile, 4)
    store(kernel, task, fd, range(4))
    cursor, seen = None, []
    for _ in range(10):
        result = kernel.bpf.map_lookup_batch(task, fd, cursor, 2)
        if result.errno == Errno.ENOSPC:
            result = kernel.bpf.map_lookup_batch(task, fd, cursor, 4)
        seen += [result.keys[i : i + 4] for i in range(0, len(result.keys), 4)]
        cursor = result.out_batch
        if result.errno == Errno.ENOENT:
            break
    assert sorted(seen) == [key(n) for n in range(4)]


@pytest.mark.parametrize("profile", BATCHES)
def test_reading_and_removing_empties_the_map(profile):
    kernel, task, fd = table(profile)
    store(kernel, task, fd, range(9))
    result = kernel.bpf.map_lookup_and_delete_batch(task, fd, None, 100)
    assert (result.count, result.errno) == (9, Errno.ENOENT)
    assert kernel.bpf.maps()[-1].entries() == 0


@pytest.mark.parametrize("profile", BATCHES)
def test_a_cursor_beyond_the_last_bucket_is_the_end(profile):
    kernel, task, fd = table(profile)
    result = kernel.bpf.map_lookup_batch(task, fd, key(16), 4)
    assert (result.count, result.errno) == (0, Errno.ENOENT)


@pytest.mark.parametrize("profile", BATCHES)
def test_bad_pointers_leave_a_count_of_zero(profile):
    kernel, task, fd = table(profile)
    store(kernel, task, fd, [1])
    results = [
        kernel.bpf.map_update_batch(task, fd, Address.BAD, bytes(8), 1),
        kernel.bpf.map_delete_batch(task, fd, Address.BAD, 1),
        kernel.bpf.map_lookup_batch(task, fd, Address.BAD, 1),
        kernel.bpf.map_lookup_batch(task, fd, None, 1, out=Address.BAD),
    ]
    assert [(r.count, r.errno) for r in results] == [(0, Errno.EFAULT)] * 4


@pytest.mark.parametrize("profile", BATCHES)
def test_nothing_to_do_is_done(profile):
    kernel, task, fd = table(profile)
    assert kernel.bpf.map_update_batch(task, fd, b"", b"", 0).errno == 0
    assert kernel.bpf.map_delete_batch(task, fd, b"", 0).errno == 0
    assert kernel.bpf.map_lookup_batch(task, fd, None, 0).errno == 0


@pytest.mark.parametrize("profile", BATCHES)
def test_flags_access_and_types_are_refused_before_anything_is_counted(profile):
    kernel, task, fd = table(profile)
    with refused(Errno.EINVAL):
        kernel.bpf.map_update_batch(task, fd, key(1), bytes(8), 1, elem_flags=1)
    with refused(Errno.EINVAL):
        kernel.bpf.map_lookup_batch(task, fd, None, 1, flags=1)
    readable = kernel.bpf.map_get_fd_by_id(task, 1, F_RDONLY)
    with refused(Errno.EPERM):
        kernel.bpf.map_delete_batch(task, readable, key(1), 1)
    queue = kernel.bpf.map_create(task, MapAttr(MapType.QUEUE, 0, 8, 4)).fd
    with refused(Errno.ENOTSUPP):
        kernel.bpf.map_lookup_batch(task, queue, None, 1)
    with refused(Errno.EINVAL):
        kernel.bpf.map_update_batch(task, fd, key(1), bytes(7), 1)


@pytest.mark.parametrize("profile", BATCHES)
def test_tries_and_per_cpu_arrays_have_batches_from_5_13_on(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.PERCPU_ARRAY, 4, 8, 4)).fd
    if profile in LATER:
        read = kernel.bpf.map_lookup_batch(task, fd, None, 10)
        assert (read.count, read.errno) == (4, Errno.ENOENT)
    else:
        with refused(Errno.ENOTSUPP):
            kernel.bpf.map_lookup_batch(task, fd, None, 10)
