"""mmap(2) of maps: which, how, and what touching an arena costs."""

import pytest

from bpfleet.abi.bpf import F_MMAPABLE, F_RDONLY, F_RDONLY_PROG, F_SEGV_ON_FAULT, F_WRONLY, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from tests.kernels import boot, charged, having, refused, settle

READ, WRITE = 1, 3


def _array(kernel, task, flags=F_MMAPABLE):
    return kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 1024, flags)).fd


@pytest.mark.parametrize("profile", having("has_mmap"))
def test_the_access_rules_of_an_array(profile):
    kernel, task = boot(profile)
    mmap = kernel.bpf.mmap
    plain = _array(kernel, task, 0)
    with refused(Errno.EINVAL):
        mmap(task, plain, 4096)
    fd = _array(kernel, task)
    assert mmap(task, fd, 8192, prot=WRITE) % 4096 == 0
    with refused(Errno.EINVAL):
        mmap(task, fd, 8193)
    with refused(Errno.EINVAL):
        mmap(task, fd, 8192, offset=4096)
    with refused(Errno.EINVAL):
        mmap(task, fd, 0)
    with refused(Errno.EINVAL):
        mmap(task, fd, 4096, shared=False)
    with refused(Errno.EINVAL):  # a read-only file cannot be mapped shared
        mmap(task, _array(kernel, task, F_MMAPABLE | F_RDONLY), 4096)
    with refused(Errno.EACCES):
        mmap(task, _array(kernel, task, F_MMAPABLE | F_WRONLY), 4096)
    with refused(Errno.EACCES):
        mmap(task, _array(kernel, task, F_MMAPABLE | F_RDONLY_PROG), 4096, prot=WRITE)
    with refused(Errno.ENODEV):
        mmap(task, kernel.objects.epoll(task), 4096)
    with refused(Errno.ENOTSUPP):
        mmap(task, kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 4)).fd, 4096)
    settle(kernel)


@pytest.mark.parametrize("profile", having("has_mmap"))
def test_a_writable_mapping_and_freezing_exclude_each_other(profile):
    kernel, task = boot(profile)
    fd = _array(kernel, task)
    address = kernel.bpf.mmap(task, fd, 4096, prot=WRITE)
    with refused(Errno.EBUSY):
        kernel.bpf.map_freeze(task, fd)
    kernel.bpf.munmap(task, address)
    kernel.bpf.munmap(task, address)  # nothing there: fine
    kernel.bpf.map_freeze(task, fd)
    with refused(Errno.EPERM):
        kernel.bpf.mmap(task, fd, 4096, prot=WRITE)
    kernel.bpf.mmap(task, fd, 4096)
    settle(kernel)


def _arena(kernel, task, pages=1024, **attr):
    flags = attr.pop("flags", F_MMAPABLE)
    return kernel.bpf.map_create(
        task, MapAttr(MapType.ARENA, max_entries=pages, map_flags=flags, **attr)
    ).fd


@pytest.mark.parametrize("profile", ["6.12", "6.18"])
def test_arena_pages_are_charged_to_the_creator_and_stay_after_munmap(profile):
    kernel, creator = boot(profile)
    other = kernel.spawn(cgroup="/b")
    fd = _arena(kernel, creator)
    kernel.bpf.obj_pin(creator, "arena", fd)
    mine = kernel.bpf.obj_get(other, "arena")
    address = kernel.bpf.mmap(other, mine, 1024 * 4096, prot=WRITE)
    kernel.bpf.touch_arena(other, address, 600)
    kernel.bpf.touch_arena(other, address, 600)
    assert charged(kernel, "map", "/a")["pages"] == 600 * 4096
    assert charged(kernel, "mm", "/b")["pages"] == 2 * 4096  # page tables of the one who touches
    kernel.bpf.munmap(other, address)
    assert not charged(kernel, "mm", "/b")
    assert charged(kernel, "map", "/a")["pages"] == 600 * 4096
    kernel.bpf.unlink(other, "arena")
    settle(kernel)


def test_an_arena_has_one_user_range():
    kernel, task = boot("6.12")
    fd = _arena(kernel, task, pages=10)
    address = kernel.bpf.mmap(task, fd, 4096, prot=WRITE)
    with refused(Errno.E2BIG):
        kernel.bpf.mmap(task, fd, 40960)
    with refused(Errno.EINVAL):
        kernel.bpf.mmap(task, fd, 4096, offset=4096)
    with refused(Errno.EINVAL):
        kernel.bpf.mmap(task, fd, 4096)
    other = kernel.spawn()
    kernel.bpf.obj_pin(task, "a", fd)
    assert kernel.bpf.mmap(other, kernel.bpf.obj_get(other, "a"), 4096, address=address) == address
    fixed = _arena(kernel, task, pages=4, map_extra=1 << 40)
    assert kernel.bpf.mmap(task, fixed, 4 * 4096, address=1 << 40) == 1 << 40
    kernel.bpf.unlink(task, "a")
    settle(kernel)


def test_faults_that_end_in_a_signal():
    kernel, task = boot("6.12")
    fd = _arena(kernel, task, pages=4, flags=F_MMAPABLE | F_SEGV_ON_FAULT)
    address = kernel.bpf.mmap(task, fd, 4 * 4096, prot=WRITE)
    with refused(Errno.EFAULT):
        kernel.bpf.touch_arena(task, address, 1)
    with refused(Errno.EFAULT):
        kernel.bpf.touch_arena(task, address, 5)
    with refused(Errno.EFAULT):
        kernel.bpf.touch_arena(task, 4096, 1)
    settle(kernel)


@pytest.mark.parametrize(
    ("attr", "errno"),
    [
        ({"pages": 0}, Errno.EINVAL),
        ({"flags": 0}, Errno.EINVAL),
        ({"map_extra": 1}, Errno.EINVAL),
        ({"pages": (1 << 20) + 1}, Errno.E2BIG),
        ({"pages": 2, "map_extra": (1 << 32) - 4096}, Errno.ERANGE),
    ],
)
def test_bad_arenas(attr, errno):
    kernel, task = boot("6.12")
    with refused(errno):
        _arena(kernel, task, **attr)
