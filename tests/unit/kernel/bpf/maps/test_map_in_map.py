"""Maps of maps: what may go in, who holds what, and when an inner map is freed."""

import pytest

from bpfleet.abi.bpf import F_INNER_MAP, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.deferred import RCU_GRACE_NS, WORK_ITEM_NS
from tests.kernels import ALL, boot, having, refused

INNER = MapAttr(MapType.ARRAY, 4, 8, 4)


def key(number):
    return number.to_bytes(4, "little")


def outer(kernel, task, map_type, inner, entries=4):
    attr = MapAttr(map_type, 4, 4, entries, inner_map_fd=inner)
    return kernel.bpf.map_create(task, attr).fd


@pytest.mark.parametrize("profile", ALL)
@pytest.mark.parametrize("map_type", [MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS])
def test_an_inner_map_lives_as_long_as_the_outer_one_holds_it(profile, map_type):
    kernel, task = boot(profile)
    inner = kernel.bpf.map_create(task, INNER).fd
    fd = outer(kernel, task, map_type, inner)
    kernel.bpf.map_update_elem(task, fd, key(1), key(inner))
    kernel.close(task.pid, inner)
    kernel.run_deferred()
    assert kernel.bpf.map_lookup_elem(task, fd, key(1)) == key(1), "the id of the inner map"
    kernel.close(task.pid, fd)
    kernel.run_deferred()
    assert not kernel.bpf.maps()
    kernel.check()


@pytest.mark.parametrize("profile", ALL)
@pytest.mark.parametrize("map_type", [MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS])
def test_a_replaced_inner_map_waits_for_programs_before_it_is_freed(profile, map_type):
    kernel, task = boot(profile)
    first, second = (kernel.bpf.map_create(task, INNER).fd for _ in range(2))
    fd = outer(kernel, task, map_type, first)
    kernel.bpf.map_update_elem(task, fd, key(0), key(first))
    kernel.close(task.pid, first)
    kernel.bpf.map_update_elem(task, fd, key(0), key(second))
    assert [m.id for m in kernel.bpf.maps()] == [2, 3], "its id is gone at once"
    kernel.advance(WORK_ITEM_NS)
    assert 1 in kernel.bpf.map_table.dying
    kernel.advance(RCU_GRACE_NS)
    assert 1 not in kernel.bpf.map_table.dying


@pytest.mark.parametrize("profile", having("array_takes_inner_map_flag"))
def test_only_maps_like_the_first_one_fit(profile):
    kernel, task = boot(profile)
    model = kernel.bpf.map_create(task, INNER).fd
    fd = outer(kernel, task, MapType.ARRAY_OF_MAPS, model)
    for other in (
        MapAttr(MapType.ARRAY, 4, 16, 4),
        MapAttr(MapType.ARRAY, 4, 8, 5),
        MapAttr(MapType.ARRAY, 4, 8, 4, F_INNER_MAP),
        MapAttr(MapType.HASH, 4, 8, 4),
    ):
        candidate = kernel.bpf.map_create(task, other).fd
        with refused(Errno.EINVAL):
            kernel.bpf.map_update_elem(task, fd, key(0), key(candidate))
    with refused(Errno.EBADF):
        kernel.bpf.map_update_elem(task, fd, key(0), key(900))
    with refused(Errno.EINVAL):
        kernel.bpf.map_update_elem(task, fd, key(0), key(fd))


@pytest.mark.parametrize("profile", having("array_takes_inner_map_flag"))
def test_sizes_of_hashes_and_of_inner_arrays_made_for_it_may_differ(profile):
    kernel, task = boot(profile)
    for small, large in (
        (MapAttr(MapType.HASH, 4, 8, 4), MapAttr(MapType.HASH, 4, 8, 400)),
        (
            MapAttr(MapType.ARRAY, 4, 8, 4, F_INNER_MAP),
            MapAttr(MapType.ARRAY, 4, 8, 400, F_INNER_MAP),
        ),
    ):
        fd = outer(kernel, task, MapType.HASH_OF_MAPS, kernel.bpf.map_create(task, small).fd)
        kernel.bpf.map_update_elem(task, fd, key(0), key(kernel.bpf.map_create(task, large).fd))


@pytest.mark.parametrize("profile", ALL)
def test_a_refused_insert_gives_the_inner_map_back(profile):
    kernel, task = boot(profile)
    inner = kernel.bpf.map_create(task, INNER).fd
    fd = outer(kernel, task, MapType.HASH_OF_MAPS, inner, entries=1)
    kernel.bpf.map_update_elem(task, fd, key(0), key(inner))
    refs = kernel.bpf.maps()[0].refs
    with refused(Errno.E2BIG):
        kernel.bpf.map_update_elem(task, fd, key(1), key(inner))
    assert kernel.bpf.maps()[0].refs == refs


@pytest.mark.parametrize("profile", ALL)
def test_what_cannot_be_compared_or_nests_deeper_cannot_be_inner(profile):
    kernel, task = boot(profile)
    progs = kernel.bpf.map_create(task, MapAttr(MapType.PROG_ARRAY, 4, 4, 4)).fd
    with refused(Errno.ENOTSUPP):
        outer(kernel, task, MapType.ARRAY_OF_MAPS, progs)
    nested = outer(kernel, task, MapType.ARRAY_OF_MAPS, kernel.bpf.map_create(task, INNER).fd)
    with refused(Errno.EINVAL):
        outer(kernel, task, MapType.HASH_OF_MAPS, nested)
    with refused(Errno.EBADF):
        outer(kernel, task, MapType.HASH_OF_MAPS, 900)
