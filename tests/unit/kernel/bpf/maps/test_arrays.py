"""ARRAY, PERCPU_ARRAY and the arrays of descriptors."""

import pytest

from bpfleet.abi.bpf import F_PRESERVE_ELEMS, MapType, ProgType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.host import OpContext
from bpfleet.kernel.bpf.program import ProgAttr
from tests.kernels import ALL, boot, having, refused


def key(number):
    return number.to_bytes(4, "little")


@pytest.mark.parametrize("profile", ALL)
def test_an_array_of_33_million_entries_holds_only_what_was_written(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 33_000_000)).fd
    kernel.bpf.map_update_elem(task, fd, key(32_999_999), b"the last")
    assert kernel.bpf.map_lookup_elem(task, fd, key(0)) == bytes(8)
    assert kernel.bpf.map_lookup_elem(task, fd, key(32_999_999)) == b"the last"


@pytest.mark.parametrize("profile", ALL)
def test_a_creator_without_perfmon_pays_for_a_power_of_two(profile):
    kernel, root = boot(profile)
    kernel.host.unprivileged_bpf_disabled = 0
    user = kernel.spawn(uid=1000, cgroup="/a", memlock=(1 << 30, 1 << 30))
    kernel.bpf.map_create(root, MapAttr(MapType.ARRAY, 4, 8, 5000))
    kernel.bpf.map_create(user, MapAttr(MapType.ARRAY, 4, 8, 5000))
    exact, rounded = (sum(b.size.requested for b in m.site.blocks) for m in kernel.bpf.maps())
    assert rounded - exact == (8192 - 5000) * 8


@pytest.mark.parametrize("profile", ALL)
def test_a_program_writes_its_own_cpus_value_only(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.PERCPU_ARRAY, 4, 4, 2)).fd
    task.cpu = 1
    kernel.bpf.maps()[-1].update(key(1), b"abcd", 0, OpContext(task, from_prog=True))
    assert kernel.bpf.map_lookup_elem(task, fd, key(1)) == bytes(8) + b"abcd" + bytes(4)


@pytest.mark.parametrize("profile", having("has_batch"))
def test_a_batch_stops_at_the_first_bad_index(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 4)).fd
    keys = b"".join(map(key, (0, 1, 9, 2)))
    result = kernel.bpf.map_update_batch(task, fd, keys, b"".join([b"12345678"] * 4), 4)
    assert (result.count, result.errno) == (2, Errno.E2BIG)
    read = kernel.bpf.map_lookup_batch(task, fd, None, 10)
    assert (read.count, read.errno, read.out_batch) == (4, Errno.ENOENT, key(3))
    assert read.values[16:] == bytes(16), "what came after the bad index was not stored"


@pytest.mark.parametrize("profile", ALL)
def test_a_program_array_takes_one_kind_and_lets_go_with_its_last_descriptor(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.PROG_ARRAY, 4, 4, 4)).fd
    bpf_map = kernel.bpf.maps()[-1]
    first = kernel.bpf.prog_load(task, ProgAttr(ProgType.SOCKET_FILTER, 2)).fd
    other = kernel.bpf.prog_load(task, ProgAttr(ProgType.XDP, 2)).fd
    kernel.bpf.map_update_elem(task, fd, key(0), key(first))
    with refused(Errno.EINVAL):
        kernel.bpf.map_update_elem(task, fd, key(1), key(other))
    kernel.close(task.pid, first)
    kernel.run_deferred()
    assert len(kernel.bpf.progs()) == 2, "the array holds it"
    bpf_map.get()  # as a program that uses the array would
    kernel.close(task.pid, fd)
    kernel.run_deferred()
    assert len(kernel.bpf.progs()) == 1, "no descriptor is left: the slots are emptied"
    bpf_map.put()
    kernel.run_deferred()
    kernel.check()


@pytest.mark.parametrize("profile", having("perf_event_array_keeps_entries"))
@pytest.mark.parametrize("preserved", [False, True])
def test_events_leave_with_the_descriptor_they_came_through(profile, preserved):
    kernel, task = boot(profile)
    flags = F_PRESERVE_ELEMS if preserved else 0
    kept = kernel.bpf.map_create(task, MapAttr(MapType.PERF_EVENT_ARRAY, 4, 4, 4, flags)).fd
    second = kernel.bpf.map_get_fd_by_id(task, 1)
    event = kernel.objects.perf_event(task)
    kernel.bpf.map_update_elem(task, second, key(0), key(event))
    kernel.close(task.pid, event)
    kernel.close(task.pid, second)
    kernel.run_deferred()
    if preserved:
        kernel.bpf.map_delete_elem(task, kept, key(0))
    else:
        with refused(Errno.ENOENT):
            kernel.bpf.map_delete_elem(task, kept, key(0))
    kernel.close(task.pid, kept)
    kernel.run_deferred()
    kernel.check()


@pytest.mark.parametrize("profile", ALL)
def test_lookups_in_arrays_of_events_and_cgroups_are_not_supported(profile):
    kernel, task = boot(profile)
    for map_type in (MapType.PERF_EVENT_ARRAY, MapType.CGROUP_ARRAY):
        fd = kernel.bpf.map_create(task, MapAttr(map_type, 4, 4, 4)).fd
        with refused(Errno.ENOTSUPP):
            kernel.bpf.map_lookup_elem(task, fd, key(0))
