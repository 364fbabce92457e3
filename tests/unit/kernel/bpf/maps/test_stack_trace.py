"""STACK_TRACE: programs store stacks, user space reads, walks and removes them."""

import pytest

from bpfleet.abi.bpf import F_STACK_BUILD_ID, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from tests.kernels import ALL, boot, refused


def made(profile, entries=64):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.STACK_TRACE, 4, 80, entries)).fd
    return kernel, task, fd, kernel.bpf.maps()[-1]


def stack(number):
    return number.to_bytes(8, "little") * 3


@pytest.mark.parametrize("profile", ALL)
def test_equal_stacks_share_an_id_and_values_are_padded(profile):
    kernel, task, fd, stacks = made(profile)
    ident = stacks.record(stack(1))
    assert stacks.record(stack(1)) == ident
    value = kernel.bpf.map_lookup_elem(task, fd, ident.to_bytes(4, "little"))
    assert value == stack(1) + bytes(56)


@pytest.mark.parametrize("profile", ALL)
def test_a_full_map_takes_no_more_and_colliding_stacks_keep_the_older(profile):
    _, _, _, stacks = made(profile, entries=1)
    stacks.record(stack(1))
    with refused(Errno.EEXIST):
        stacks.record(stack(2))


@pytest.mark.parametrize("profile", ALL)
def test_walking_starts_over_from_an_unused_id(profile):
    kernel, task, fd, stacks = made(profile)
    idents = sorted({stacks.record(stack(number)) for number in range(5)})
    seen, at = [], None
    for _ in idents:
        at = kernel.bpf.map_get_next_key(task, fd, at)
        seen.append(int.from_bytes(at, "little"))
    assert seen == idents
    with refused(Errno.ENOENT):
        kernel.bpf.map_get_next_key(task, fd, at)
    first = idents[0].to_bytes(4, "little")
    assert kernel.bpf.map_get_next_key(task, fd, (1 << 20).to_bytes(4, "little")) == first


@pytest.mark.parametrize("profile", ALL)
def test_user_space_cannot_store_but_remove(profile):
    kernel, task, fd, stacks = made(profile)
    ident = stacks.record(stack(1)).to_bytes(4, "little")
    with refused(Errno.EINVAL):
        kernel.bpf.map_update_elem(task, fd, ident, bytes(80))
    kernel.bpf.map_delete_elem(task, fd, ident)
    with refused(Errno.ENOENT):
        kernel.bpf.map_delete_elem(task, fd, ident)
    with refused(Errno.E2BIG):
        kernel.bpf.map_delete_elem(task, fd, (64).to_bytes(4, "little"))


@pytest.mark.parametrize("profile", ALL)
@pytest.mark.parametrize(
    ("value", "flags", "allowed"),
    [
        (8, 0, True),
        (127 * 8, 0, True),
        (128 * 8, 0, False),
        (12, 0, False),
        (0, 0, False),
        (32, F_STACK_BUILD_ID, True),
        (40, F_STACK_BUILD_ID, False),
    ],
)
def test_values_are_1_to_127_frames(profile, value, flags, allowed):
    kernel, task = boot(profile)
    attr = MapAttr(MapType.STACK_TRACE, 4, value, 16, flags)
    if allowed:
        assert kernel.bpf.map_create(task, attr).fd >= 0
    else:
        with refused(Errno.EINVAL):
            kernel.bpf.map_create(task, attr)
