"""BTF as sizes: what map creation asks of it."""

import pytest

from bpfleet.abi.bpf import F_NO_PREALLOC, F_RDONLY_PROG, F_WRONLY_PROG, Capability, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.btf import BTF_MAX_SIZE, BtfKind, BtfType
from tests.kernels import ALL, boot, refused, settle

INT4, INT8 = BtfType(BtfKind.INT, 4), BtfType(BtfKind.INT, 8)
LOCKED = BtfType(BtfKind.STRUCT, 8, 2, has_spin_lock=True)
STRUCT8 = BtfType(BtfKind.STRUCT, 8, 2)
STRUCT16 = BtfType(BtfKind.STRUCT, 16, 2)
SECTION = BtfType(BtfKind.DATASEC, 8)


def _create(kernel, task, map_type, key, value, *, key_type=INT4, value_type=INT8, **changes):
    btf = kernel.bpf.btf_load(task, (key_type, value_type))
    ids = {"btf_key_type_id": 1, "btf_value_type_id": 2}
    attr = {"max_entries": 4, "btf_fd": btf, **ids, **changes}
    return kernel.bpf.map_create(task, MapAttr(map_type, key, value, **attr)).fd


@pytest.mark.parametrize("profile", ALL)
def test_loading_needs_cap_bpf_and_costs_nothing_but_the_descriptor(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.btf_load(task, (INT4,), 1 << 20)
    assert {line.owner for line in kernel.ledger() if line.cgroup == "/a"} <= {
        "cpu stock",
        "file 1 btf",
    }
    with refused(Errno.E2BIG):
        kernel.bpf.btf_load(task, (), BTF_MAX_SIZE + 1)
    user = kernel.spawn(uid=1000, caps=frozenset({Capability.PERFMON}))
    with refused(Errno.EPERM):
        kernel.bpf.btf_load(user, ())
    kernel.close(task.pid, fd)
    assert len(kernel.bpf.btf) == 0


@pytest.mark.parametrize("profile", ALL)
def test_a_map_keeps_its_btf(profile):
    kernel, task = boot(profile)
    fd = _create(kernel, task, MapType.HASH, 4, 8)
    kernel.close(task.pid, fd - 1)
    assert len(kernel.bpf.btf) == 1
    kernel.close(task.pid, fd)
    kernel.run_deferred()
    assert len(kernel.bpf.btf) == 0


@pytest.mark.parametrize(
    ("map_type", "key", "value", "options", "errno"),
    [
        (MapType.HASH, 4, 8, {}, None),
        (MapType.HASH, 8, 8, {}, Errno.EINVAL),  # the key's type has another size
        (MapType.HASH, 4, 16, {}, Errno.EINVAL),
        (MapType.HASH, 4, 8, {"btf_value_type_id": 9}, Errno.EINVAL),
        (MapType.ARRAY, 4, 8, {"key_type": BtfType(BtfKind.STRUCT, 4)}, Errno.EINVAL),
        (MapType.ARRAY, 4, 8, {"value_type": SECTION, "btf_key_type_id": 0}, Errno.EINVAL),
        (
            MapType.ARRAY,
            4,
            8,
            {"value_type": SECTION, "btf_key_type_id": 0, "max_entries": 1},
            None,
        ),
        (MapType.HASH, 4, 8, {"btf_key_type_id": 0, "btf_value_type_id": 2}, Errno.EINVAL),
        (MapType.DEVMAP, 4, 8, {}, Errno.ENOTSUPP),
        (MapType.STACK_TRACE, 4, 8, {}, Errno.ENOTSUPP),
        (MapType.LPM_TRIE, 8, 8, {"key_type": INT8, "map_flags": F_NO_PREALLOC}, Errno.EINVAL),
        (MapType.LPM_TRIE, 8, 8, {"key_type": STRUCT8, "map_flags": F_NO_PREALLOC}, None),
        (MapType.CGROUP_STORAGE, 8, 8, {"key_type": INT8, "max_entries": 0}, None),
        (MapType.CGROUP_STORAGE, 16, 8, {"key_type": STRUCT16, "max_entries": 0}, None),
        (MapType.CGROUP_STORAGE, 8, 8, {"key_type": STRUCT8, "max_entries": 0}, Errno.EINVAL),
    ],
)
@pytest.mark.parametrize("profile", ["5.10", "6.12"])
def test_types_must_fit_the_map(profile, map_type, key, value, options, errno):
    kernel, task = boot(profile)
    if errno is None:
        _create(kernel, task, map_type, key, value, **options)
    else:
        with refused(errno):
            _create(kernel, task, map_type, key, value, **options)
    settle(kernel)
    assert len(kernel.bpf.btf) == 0


@pytest.mark.parametrize(
    ("profile", "map_type", "flags", "errno"),
    [
        ("5.10", MapType.HASH, 0, None),
        ("5.10", MapType.PERCPU_HASH, 0, Errno.ENOTSUPP),
        ("6.12", MapType.PERCPU_HASH, 0, Errno.EOPNOTSUPP),
        ("5.10", MapType.HASH, F_RDONLY_PROG, Errno.EACCES),
        ("5.10", MapType.HASH, F_WRONLY_PROG, None),
        ("6.12", MapType.HASH, F_WRONLY_PROG, Errno.EACCES),
    ],
)
def test_spin_locks(profile, map_type, flags, errno):
    kernel, task = boot(profile)
    options = {"value_type": LOCKED, "map_flags": flags}
    if errno is None:
        fd = _create(kernel, task, map_type, 4, 8, **options)
        kernel.bpf.map_update_elem(task, fd, bytes(4), bytes(8), 4)
        with refused(Errno.ENOTSUPP):
            kernel.bpf.mmap(task, fd, 4096)
    else:
        with refused(errno):
            _create(kernel, task, map_type, 4, 8, **options)
    settle(kernel)


def test_bad_descriptors_of_btf():
    kernel, task = boot("6.12")
    other = kernel.objects.epoll(task)
    for btf_fd, errno in [(99, Errno.EBADF), (other, Errno.EINVAL), (None, Errno.EINVAL)]:
        attr = MapAttr(MapType.HASH, 4, 8, 4, btf_fd=btf_fd, btf_key_type_id=1, btf_value_type_id=1)
        with refused(errno):
            kernel.bpf.map_create(task, attr)
    settle(kernel)
