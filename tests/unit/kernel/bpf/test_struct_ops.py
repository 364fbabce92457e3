"""STRUCT_OPS: creation, registration, the reference a registered table holds on its map."""

import pytest

from bpfleet.abi.bpf import F_LINK, MapType, ProgType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.program import ProgAttr
from tests.kernels import boot, refused, settle, with_type

KEY = bytes(4)
VALUE = bytes(64) + b"\1" * 192


def _create(kernel, task, **changes):
    kernel.bpf.prog_load(task, ProgAttr(ProgType.SOCKET_FILTER))
    btf = kernel.bpf.btf_load(task, ())
    fields = {"value_size": 256, "max_entries": 1, "btf_vmlinux_value_type_id": 1, **changes}
    return kernel.bpf.map_create(task, MapAttr(MapType.STRUCT_OPS, 4, btf_fd=btf, **fields)).fd


@pytest.mark.parametrize("profile", with_type(MapType.STRUCT_OPS))
def test_registration_and_its_end(profile):
    kernel, task = boot(profile)
    fd = _create(kernel, task)
    bpf = kernel.bpf
    with refused(Errno.ENOENT):
        bpf.map_delete_elem(task, fd, KEY)
    assert bpf.map_lookup_elem(task, fd, KEY) == bytes(256)
    for value, errno in [(bytes(256), Errno.EINVAL), (b"\1" + VALUE[1:], Errno.EINVAL)]:
        with refused(errno):
            bpf.map_update_elem(task, fd, KEY, value)
    with refused(Errno.E2BIG):
        bpf.map_update_elem(task, fd, b"\1\0\0\0", VALUE)
    with refused(Errno.EINVAL):
        bpf.map_update_elem(task, fd, KEY, VALUE, 1)
    bpf.map_update_elem(task, fd, KEY, VALUE)
    with refused(Errno.EBUSY):
        bpf.map_update_elem(task, fd, KEY, VALUE)
    assert bpf.map_lookup_elem(task, fd, KEY)[:8] == b"\1\0\0\0\1\0\0\0"  # one holder, in use
    assert bpf.map_get_next_key(task, fd, None) == KEY
    with refused(Errno.ENOENT):
        bpf.map_get_next_key(task, fd, KEY)
    bpf.map_delete_elem(task, fd, KEY)
    with refused(Errno.EINPROGRESS):
        bpf.map_delete_elem(task, fd, KEY)
    settle(kernel)
    assert not kernel.bpf.maps()


def test_a_registered_table_keeps_its_map():
    kernel, task = boot("6.12")
    fd = _create(kernel, task)
    kernel.bpf.map_update_elem(task, fd, KEY, VALUE)
    kernel.close(task.pid, fd)
    kernel.run_deferred()
    assert len(kernel.bpf.maps()) == 1
    again = kernel.bpf.map_get_fd_by_id(task, 1)
    kernel.bpf.map_delete_elem(task, again, KEY)
    settle(kernel)
    assert not kernel.bpf.maps()


def test_tables_behind_a_link_are_not_deleted():
    kernel, task = boot("6.12")
    fd = _create(kernel, task, map_flags=F_LINK)
    kernel.bpf.map_update_elem(task, fd, KEY, VALUE)
    with refused(Errno.EOPNOTSUPP):
        kernel.bpf.map_delete_elem(task, fd, KEY)
    settle(kernel)
    assert not kernel.bpf.maps()


@pytest.mark.parametrize(
    ("changes", "errno"),
    [
        ({"max_entries": 2}, Errno.EINVAL),
        ({"map_flags": 1}, Errno.EINVAL),
        ({"btf_vmlinux_value_type_id": 99}, Errno.ENOTSUPP),
        ({"value_size": 255}, Errno.EINVAL),
        ({"btf_key_type_id": 1}, Errno.EINVAL),
    ],
)
@pytest.mark.parametrize("profile", with_type(MapType.STRUCT_OPS))
def test_bad_attributes(profile, changes, errno):
    kernel, task = boot(profile)
    with refused(errno):
        _create(kernel, task, **changes)
    settle(kernel)


@pytest.mark.parametrize(("profile", "known"), [("5.10", False), ("6.12", True)])
def test_before_the_first_program_old_kernels_know_no_table(profile, known):
    kernel, task = boot(profile)
    btf = kernel.bpf.btf_load(task, ())
    attr = MapAttr(MapType.STRUCT_OPS, 4, 256, 1, btf_fd=btf, btf_vmlinux_value_type_id=1)
    if known:
        kernel.bpf.map_create(task, attr)
        return
    with refused(Errno.ENOTSUPP):
        kernel.bpf.map_create(task, attr)
