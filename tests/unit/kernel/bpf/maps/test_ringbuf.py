"""RINGBUF and USER_RINGBUF: shape, who pays for the pages, and the commands they do not have."""

import pytest

from bpfleet.abi.bpf import MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from tests.kernels import ALL, MEMCG, boot, charged, refused, with_type

PAGE = 4096


@pytest.mark.parametrize("profile", ALL)
@pytest.mark.parametrize("size", [0, PAGE // 2, 3 * PAGE, PAGE + 1])
def test_the_size_is_a_power_of_two_of_whole_pages(profile, size):
    kernel, task = boot(profile)
    with refused(Errno.EINVAL):
        kernel.bpf.map_create(task, MapAttr(MapType.RINGBUF, 0, 0, size))


@pytest.mark.parametrize("profile", MEMCG)
@pytest.mark.parametrize("pages", [1, 16, 512])
def test_three_pages_come_on_top_of_the_data(profile, pages):
    kernel, task = boot(profile)
    kernel.bpf.map_create(task, MapAttr(MapType.RINGBUF, 0, 0, pages * PAGE))
    assert charged(kernel, "map")["pages"] == (pages + 3) * PAGE


@pytest.mark.parametrize("profile", with_type(MapType.RINGBUF))
def test_every_element_command_is_refused(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.RINGBUF, 0, 0, PAGE)).fd
    for call in (
        lambda: kernel.bpf.map_lookup_elem(task, fd, None),
        lambda: kernel.bpf.map_update_elem(task, fd, None, b""),
        lambda: kernel.bpf.map_delete_elem(task, fd, None),
        lambda: kernel.bpf.map_get_next_key(task, fd, None),
    ):
        with refused(Errno.ENOTSUPP):
            call()


@pytest.mark.parametrize(("profile", "known"), [("5.11", False), ("6.1", True)])
def test_user_ring_buffers_came_with_6_1(profile, known):
    kernel, task = boot(profile)
    attr = MapAttr(MapType.USER_RINGBUF, 0, 0, PAGE)
    if known:
        assert kernel.bpf.map_create(task, attr).fd >= 0
    else:
        with refused(Errno.EINVAL):
            kernel.bpf.map_create(task, attr)
