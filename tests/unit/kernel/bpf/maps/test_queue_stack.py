"""QUEUE and STACK: order, fullness, and the commands they do not have."""

import pytest

from bpfleet.abi.bpf import BPF_EXIST, BPF_NOEXIST, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from tests.kernels import ALL, boot, refused

VALUES = [bytes([number]) * 4 for number in range(3)]


def made(profile, map_type, entries=3):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(map_type, 0, 4, entries)).fd
    for value in VALUES:
        kernel.bpf.map_update_elem(task, fd, None, value)
    return kernel, task, fd


@pytest.mark.parametrize("profile", ALL)
@pytest.mark.parametrize(
    ("map_type", "order"), [(MapType.QUEUE, VALUES), (MapType.STACK, VALUES[::-1])]
)
def test_a_queue_gives_the_oldest_and_a_stack_the_newest(profile, map_type, order):
    kernel, task, fd = made(profile, map_type)
    for value in order:
        assert kernel.bpf.map_lookup_elem(task, fd, None) == value
        assert kernel.bpf.map_lookup_and_delete_elem(task, fd, None).value == value
    for call in (kernel.bpf.map_lookup_elem, kernel.bpf.map_lookup_and_delete_elem):
        with refused(Errno.ENOENT):
            call(task, fd, None)


@pytest.mark.parametrize("profile", ALL)
@pytest.mark.parametrize("map_type", [MapType.QUEUE, MapType.STACK])
def test_pushing_into_a_full_map_drops_the_oldest_only_with_bpf_exist(profile, map_type):
    kernel, task, fd = made(profile, map_type)
    with refused(Errno.E2BIG):
        kernel.bpf.map_update_elem(task, fd, None, b"more")
    kernel.bpf.map_update_elem(task, fd, None, b"more", BPF_EXIST)
    left = [kernel.bpf.map_lookup_and_delete_elem(task, fd, None).value for _ in range(3)]
    assert sorted(left) == sorted([*VALUES[1:], b"more"])


@pytest.mark.parametrize("profile", ALL)
def test_noexist_deleting_and_walking_make_no_sense(profile):
    kernel, task, fd = made(profile, MapType.QUEUE)
    with refused(Errno.EINVAL):
        kernel.bpf.map_update_elem(task, fd, None, VALUES[0], BPF_NOEXIST)
    with refused(Errno.EINVAL):
        kernel.bpf.map_delete_elem(task, fd, None)
    with refused(Errno.EINVAL):
        kernel.bpf.map_get_next_key(task, fd, None)
