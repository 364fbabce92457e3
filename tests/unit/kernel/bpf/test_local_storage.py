"""Values on sockets, inodes, tasks and cgroups: owners, their end, option memory, who pays."""

import pytest

from bpfleet.abi.bpf import F_NO_PREALLOC, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel import PROFILES
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.btf import BtfKind, BtfType
from bpfleet.kernel.errors import Reason
from bpfleet.kernel.mm.memory import AllocKind
from tests.kernels import boot, charged, refused, settle

TYPES = [
    MapType.SK_STORAGE,
    MapType.INODE_STORAGE,
    MapType.TASK_STORAGE,
    MapType.CGRP_STORAGE,
]
PAIRS = [
    (name, map_type)
    for name, profile in PROFILES.items()
    for map_type in TYPES
    if map_type in profile.map_types
    and (profile.bpf_lsm_enabled or map_type is not MapType.INODE_STORAGE)
]


def _create(kernel, task, map_type, value=8, **changes):
    btf = kernel.bpf.btf_load(task, (BtfType(BtfKind.INT, 4), BtfType(BtfKind.STRUCT, value)))
    fields = {"key_size": 4, "value_size": value, "map_flags": F_NO_PREALLOC, **changes}
    attr = MapAttr(map_type, **fields, btf_fd=btf, btf_key_type_id=1, btf_value_type_id=2)
    return kernel.bpf.map_create(task, attr).fd


def _owner(kernel, task, map_type):
    """(descriptor of an owner, what ends the owner)."""
    if map_type is MapType.SK_STORAGE:
        fd = kernel.objects.socket(task, "udp")
        return fd, lambda: kernel.close(task.pid, fd)
    if map_type is MapType.TASK_STORAGE:
        other = kernel.spawn()
        return kernel.objects.pidfd(task, other), lambda: kernel.exit(other.pid)
    if map_type is MapType.CGRP_STORAGE:
        return kernel.objects.cgroup(task, kernel.cgroup("/b")), lambda: kernel.rmdir("/b")
    return kernel.objects.file(task, "/f"), lambda: None


@pytest.mark.parametrize(("profile", "map_type"), PAIRS)
def test_values_follow_update_flags_and_go_on_delete(profile, map_type):
    kernel, task = boot(profile)
    fd = _create(kernel, task, map_type)
    key = _owner(kernel, task, map_type)[0].to_bytes(4, "little")
    bpf = kernel.bpf
    with refused(Errno.ENOENT):
        bpf.map_update_elem(task, fd, key, bytes(8), 2)
    bpf.map_update_elem(task, fd, key, b"1" * 8, 1)
    with refused(Errno.EEXIST):
        bpf.map_update_elem(task, fd, key, b"2" * 8, 1)
    bpf.map_update_elem(task, fd, key, b"3" * 8)
    assert bpf.map_lookup_elem(task, fd, key) == b"3" * 8
    with refused(Errno.EINVAL):
        bpf.map_update_elem(task, fd, key, bytes(8), 4)
    with refused(Errno.ENOTSUPP):
        bpf.map_get_next_key(task, fd, None)
    bpf.map_delete_elem(task, fd, key)
    with refused(Errno.ENOENT):
        bpf.map_delete_elem(task, fd, key)
    settle(kernel)


@pytest.mark.parametrize(("profile", "map_type"), PAIRS)
def test_the_creator_pays_and_the_end_of_the_owner_frees(profile, map_type):
    kernel, creator = boot(profile)
    fd = _create(kernel, creator, map_type, value=100)
    kernel.bpf.obj_pin(creator, "m", fd)
    updater = kernel.spawn(cgroup="/a")
    mine = kernel.bpf.obj_get(updater, "m")
    owner, end = _owner(kernel, updater, map_type)
    before = charged(kernel, "map")
    kernel.bpf.map_update_elem(updater, mine, owner.to_bytes(4, "little"), bytes(100))
    in_caches = bool(kernel.bpf.maps()[0].site.mem_allocs)
    grown = charged(kernel, "map")["slab"] - before["slab"]
    header = kernel.profile.structs.bpf_local_storage_elem_header
    storage = kernel.profile.structs.bpf_local_storage
    sizes = [kernel.memory.slab_size(size).charge for size in (header + 100, storage)]
    if kernel.profile.is_rlimit:
        assert grown == 0
    elif not in_caches:
        assert grown == sum(sizes)
    end()
    kernel.run_deferred()
    if map_type is not MapType.INODE_STORAGE and not in_caches:
        assert charged(kernel, "map") == before
    kernel.bpf.unlink(updater, "m")
    settle(kernel)


@pytest.mark.parametrize(("profile", "map_type"), PAIRS)
def test_freeing_the_map_takes_its_values_off_every_owner(profile, map_type):
    kernel, task = boot(profile)
    first, second = (_create(kernel, task, map_type) for _ in range(2))
    key = _owner(kernel, task, map_type)[0].to_bytes(4, "little")
    for fd in (first, second):
        kernel.bpf.map_update_elem(task, fd, key, bytes(8))
    kernel.close(task.pid, first)  # it made the owner's block
    kernel.run_deferred()
    assert kernel.bpf.map_lookup_elem(task, second, key) == bytes(8)
    kernel.check()
    kernel.bpf.map_delete_elem(task, second, key)
    kernel.bpf.map_update_elem(task, second, key, b"x" * 8)
    settle(kernel)


@pytest.mark.parametrize(("profile", "fits"), [("5.10", 20183), ("6.12", None)])
def test_socket_storage_counts_against_option_memory(profile, fits):
    kernel, task = boot(profile)
    sock = kernel.objects.socket(task, "udp").to_bytes(4, "little")
    if fits is None:
        limit = kernel.profile.optmem_max_bytes
        assert limit == 131072
        return
    small, large = (_create(kernel, task, MapType.SK_STORAGE, value=v) for v in (fits, fits + 1))
    with refused(Errno.ENOMEM) as caught:
        kernel.bpf.map_update_elem(task, large, sock, bytes(fits + 1))
    assert caught.value.reason is Reason.OPTMEM_EXCEEDED
    kernel.bpf.map_update_elem(task, small, sock, bytes(fits))
    assert kernel.user(0).locked_vm_pages == 2
    kernel.bpf.map_update_elem(task, small, sock, bytes(fits))  # a replacement is not charged twice
    settle(kernel)


@pytest.mark.parametrize(("profile", "map_type"), [p for p in PAIRS if p[0] in ("5.11", "6.1")])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_failed_first_element_leaves_nothing(profile, map_type, nth):
    kernel, task = boot(profile)
    fd = _create(kernel, task, map_type)
    before = charged(kernel, "map")
    key = _owner(kernel, task, map_type)[0].to_bytes(4, "little")
    kernel.memory.faults.fail_nth(AllocKind.SLAB, nth)
    with refused(Errno.ENOMEM):
        kernel.bpf.map_update_elem(task, fd, key, bytes(8))
    kernel.run_deferred()
    assert charged(kernel, "map") == before
    kernel.bpf.map_update_elem(task, fd, key, bytes(8))
    settle(kernel)


@pytest.mark.parametrize(
    ("changes", "errno"),
    [
        ({"map_flags": 0}, Errno.EINVAL),
        ({"map_flags": F_NO_PREALLOC | 2}, Errno.EINVAL),
        ({"key_size": 8}, Errno.EINVAL),
        ({"max_entries": 1}, Errno.EINVAL),
        ({"value_size": 0}, Errno.EINVAL),
        ({"value_size": 65408}, Errno.E2BIG),
        ({"value_size": 16}, Errno.EINVAL),
    ],
)
@pytest.mark.parametrize("profile", ["5.10", "6.12"])
def test_bad_attributes(profile, changes, errno):
    kernel, task = boot(profile)
    with refused(errno):
        _create(kernel, task, MapType.SK_STORAGE, **changes)
    settle(kernel)


def test_keys_that_are_no_owner():
    kernel, task = boot("6.12")
    epoll = kernel.objects.epoll(task).to_bytes(4, "little")
    expected = {
        MapType.SK_STORAGE: Errno.ENOTSOCK,
        MapType.TASK_STORAGE: Errno.EBADF,
        MapType.CGRP_STORAGE: Errno.EBADF,
    }
    for map_type, errno in expected.items():
        fd = _create(kernel, task, map_type)
        with refused(errno):
            kernel.bpf.map_update_elem(task, fd, epoll, bytes(8))
        with refused(Errno.EBADF):
            kernel.bpf.map_lookup_elem(task, fd, (99).to_bytes(4, "little"))
    inodes = _create(kernel, task, MapType.INODE_STORAGE)
    kernel.bpf.map_update_elem(task, inodes, epoll, b"anonymous"[:8])
    other = kernel.objects.perf_event(task).to_bytes(4, "little")
    assert kernel.bpf.map_lookup_elem(task, inodes, other) == b"anonymou"
    settle(kernel)


def test_without_the_bpf_lsm_inodes_have_no_room():
    kernel, task = boot("5.10")
    fd = _create(kernel, task, MapType.INODE_STORAGE)
    key = kernel.objects.file(task, "/f").to_bytes(4, "little")
    with refused(Errno.EBADF):
        kernel.bpf.map_update_elem(task, fd, key, bytes(8))
    with refused(Errno.ENOENT):
        kernel.bpf.map_lookup_elem(task, fd, key)


def test_a_dead_task_is_not_found():
    kernel, task = boot("6.12")
    fd = _create(kernel, task, MapType.TASK_STORAGE)
    owner, end = _owner(kernel, task, MapType.TASK_STORAGE)
    end()
    with refused(Errno.ENOENT):
        kernel.bpf.map_update_elem(task, fd, owner.to_bytes(4, "little"), bytes(8))
