"""Instruction arrays: what they take and cost, from 6.19 on."""

from struct import pack

import pytest

from bpfleet.abi.bpf import (
    BPF_EXIST,
    BPF_NOEXIST,
    F_NUMA_NODE,
    F_RDONLY,
    F_RDONLY_PROG,
    Capability,
    MapType,
    creation_flags,
)
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.btf import BtfKind, BtfType
from tests.kernels import ALL, boot, refused, since

KERNELS = since("6.19")
KEY = bytes(4)


def attr(entries=64, **other):
    return MapAttr(MapType.INSN_ARRAY, 4, 16, entries, **other)


@pytest.mark.parametrize("profile", [name for name in ALL if name not in KERNELS])
def test_older_kernels_have_no_such_type(profile):
    kernel, task = boot(profile)
    with refused(Errno.EINVAL):
        kernel.bpf.map_create(task, attr())


@pytest.mark.parametrize("profile", KERNELS)
def test_it_costs_its_area_which_bpftool_shows(profile):
    """struct bpf_map, a counter, a pointer, and 24 bytes an entry."""
    kernel, task = boot(profile, cpus=2)
    kernel.bpf.map_create(task, attr())
    (found,) = kernel.bpf.maps()
    assert found.memlock_bytes() == kernel.profile.structs.bpf_map + 16 + 64 * 24
    assert found.charged_bytes == 2048 + 8  # kmalloc-2k, and a pointer to who pays
    assert creation_flags(MapType.INSN_ARRAY, found.map_flags) == 0
    assert found.map_flags == F_RDONLY_PROG


@pytest.mark.parametrize("profile", KERNELS)
@pytest.mark.parametrize(
    "wrong",
    [
        MapAttr(MapType.INSN_ARRAY, 4, 16, 0),
        MapAttr(MapType.INSN_ARRAY, 8, 16, 4),
        MapAttr(MapType.INSN_ARRAY, 4, 8, 4),
        *(attr(map_flags=flags) for flags in (F_RDONLY, F_NUMA_NODE, F_RDONLY_PROG)),
    ],
)
def test_what_creation_refuses(profile, wrong):
    kernel, task = boot(profile)
    with refused(Errno.EINVAL):
        kernel.bpf.map_create(task, wrong)


@pytest.mark.parametrize("profile", KERNELS)
def test_no_types_fit_it(profile):
    """The value must be an integer of 8 bytes, and has 16."""
    kernel, task = boot(profile)
    for size in (8, 16):
        btf = kernel.bpf.btf_load(task, (BtfType(BtfKind.INT, 4), BtfType(BtfKind.INT, size)))
        with refused(Errno.EINVAL):
            kernel.bpf.map_create(task, attr(btf_fd=btf, btf_key_type_id=1, btf_value_type_id=2))


@pytest.mark.parametrize("profile", KERNELS)
def test_it_needs_cap_bpf(profile):
    kernel, _ = boot(profile)
    other = kernel.spawn(uid=1000, caps=frozenset({Capability.PERFMON}))
    with refused(Errno.EPERM):
        kernel.bpf.map_create(other, attr())


@pytest.mark.parametrize("profile", KERNELS)
def test_what_user_space_may_do_with_its_elements(profile):
    kernel, task = boot(profile)
    bpf = kernel.bpf
    fd = bpf.map_create(task, attr()).fd
    assert bpf.map_lookup_elem(task, fd, KEY) == bytes(16)
    bpf.map_update_elem(task, fd, KEY, pack("=4I", 7, 0, 0, 9), BPF_EXIST)
    assert bpf.map_lookup_elem(task, fd, KEY) == pack("=4I", 7, 0, 0, 0)
    for errno, key, value, flags in (
        (Errno.E2BIG, pack("=I", 64), bytes(16), 0),
        (Errno.EEXIST, KEY, bytes(16), BPF_NOEXIST),
        (Errno.EINVAL, KEY, pack("=4I", 1, 2, 0, 0), 0),
        (Errno.EINVAL, KEY, pack("=4I", 1, 0, 2, 0), 0),
    ):
        with refused(errno):
            bpf.map_update_elem(task, fd, key, value, flags)
    with refused(Errno.ENOENT):
        bpf.map_lookup_elem(task, fd, pack("=I", 64))
    with refused(Errno.EINVAL):
        bpf.map_delete_elem(task, fd, KEY)
    assert bpf.map_get_next_key(task, fd, KEY) == pack("=I", 1)
    with refused(Errno.ENOTSUPP):
        bpf.map_lookup_batch(task, fd, None, 4)


@pytest.mark.parametrize("profile", KERNELS)
def test_it_is_never_an_inner_map(profile):
    kernel, task = boot(profile)
    inner = kernel.bpf.map_create(task, attr()).fd
    with refused(Errno.ENOTSUPP):
        kernel.bpf.map_create(task, MapAttr(MapType.ARRAY_OF_MAPS, 4, 4, 4, inner_map_fd=inner))
