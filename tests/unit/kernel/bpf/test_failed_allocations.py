"""An allocation fails anywhere in the life of a map: the call says ENOMEM and nothing stays charged."""

import pytest

from bpfleet.abi.bpf import F_MMAPABLE, F_NO_COMMON_LRU, F_NO_PREALLOC, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.btf import BtfKind, BtfType
from bpfleet.kernel.bpf.map_create import class_of
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.verbs.stage import answer_of
from tests.kernels import ALL, boot

KINDS = ("slab", "percpu", "vmalloc", "page")
NESTED = (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
STORAGES = (
    MapType.SK_STORAGE,
    MapType.INODE_STORAGE,
    MapType.TASK_STORAGE,
    MapType.CGRP_STORAGE,
)
SHAPES = [
    *(MapAttr(t, 4, 8, 600) for t in (MapType.HASH, MapType.PERCPU_HASH, MapType.ARRAY)),
    *(MapAttr(t, 4, 8, 600, F_NO_PREALLOC) for t in (MapType.HASH, MapType.PERCPU_HASH)),
    *(MapAttr(t, 4, 8, 600) for t in (MapType.LRU_HASH, MapType.LRU_PERCPU_HASH)),
    MapAttr(MapType.LRU_HASH, 4, 8, 600, F_NO_COMMON_LRU),
    MapAttr(MapType.ARRAY, 4, 8, 600, F_MMAPABLE),
    MapAttr(MapType.PERCPU_ARRAY, 4, 8, 600),
    *(
        MapAttr(t, 4, 4, 16)
        for t in (
            MapType.PROG_ARRAY,
            MapType.PERF_EVENT_ARRAY,
            MapType.CGROUP_ARRAY,
            MapType.ARRAY_OF_MAPS,
            MapType.HASH_OF_MAPS,
            MapType.DEVMAP,
            MapType.DEVMAP_HASH,
            MapType.CPUMAP,
            MapType.XSKMAP,
            MapType.SOCKMAP,
            MapType.SOCKHASH,
            MapType.REUSEPORT_SOCKARRAY,
        )
    ),
    MapAttr(MapType.HASH_OF_MAPS, 4, 4, 16, F_NO_PREALLOC),
    MapAttr(MapType.LPM_TRIE, 8, 8, 600, F_NO_PREALLOC),
    *(MapAttr(t, 0, 8, 600) for t in (MapType.QUEUE, MapType.STACK, MapType.BLOOM_FILTER)),
    *(MapAttr(t, 0, 0, 65536) for t in (MapType.RINGBUF, MapType.USER_RINGBUF)),
    MapAttr(MapType.STACK_TRACE, 4, 80, 600),
    *(MapAttr(t, 16, 8, 0) for t in (MapType.CGROUP_STORAGE, MapType.PERCPU_CGROUP_STORAGE)),
    *(MapAttr(t, 4, 8, 0, F_NO_PREALLOC) for t in STORAGES),
    MapAttr(MapType.ARENA, 0, 0, 4, F_MMAPABLE),
    MapAttr(MapType.INSN_ARRAY, 4, 16, 600),
]


def _named(attr):
    return f"{MapType(attr.map_type).name.lower()}-{attr.map_flags:#x}"


def _prepared(profile, attr):
    """A kernel, the task, and attributes with the descriptors the type needs; None without type or flag."""
    kernel, task = boot(profile)
    if attr.map_flags & F_MMAPABLE and not kernel.profile.has_mmap:
        return None
    try:
        class_of(attr.map_type, kernel.profile)
    except KernelError:
        return None
    inner = btf = None
    if attr.map_type in NESTED:
        inner = kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 4)).fd
    if attr.map_type in STORAGES:
        btf = kernel.bpf.btf_load(
            task, (BtfType(BtfKind.INT, 4), BtfType(BtfKind.STRUCT, 8, members=1))
        )
    return (
        kernel,
        task,
        MapAttr(
            attr.map_type,
            attr.key_size,
            attr.value_size,
            attr.max_entries,
            attr.map_flags,
            inner_map_fd=inner,
            btf_fd=btf,
            btf_key_type_id=1 if btf else 0,
            btf_value_type_id=2 if btf else 0,
        ),
    )


def _held(kernel):
    """What a failed creation must leave as it was: charges, RAM, precharged pages, descriptors."""
    return (
        kernel.memory.charged_bytes_total,
        kernel.ram.used_bytes,
        kernel.user(0).locked_vm_pages,
        {task.pid: sorted(task.fds) for task in kernel.tasks()},
        [bpf_map.id for bpf_map in kernel.bpf.maps()],
    )


def _created(kernel, task, attr):
    """(descriptor, None) or (-1, the refusal)."""
    try:
        return kernel.bpf.map_create(task, attr).fd, None
    except KernelError as refused:
        return -1, refused


@pytest.mark.parametrize("profile", ALL)
@pytest.mark.parametrize("attr", SHAPES, ids=_named)
def test_a_failure_at_any_allocation_of_a_creation_leaves_nothing(profile, attr):
    prepared = _prepared(profile, attr)
    if prepared is None:
        return  # refused before anything is allocated
    kernel, task, attr = prepared
    struck = 0
    for kind in KINDS:
        for nth in range(1, 60):
            before = _held(kernel)
            kernel.inject_fault(kind, nth)
            fd, refusal = _created(kernel, task, attr)
            if refusal is not None:
                assert refusal.errno is Errno.ENOMEM
                assert refusal.reason is Reason.FAULT_INJECTED
                kernel.run_deferred()
                assert _held(kernel) == before
                kernel.check()
                struck += 1
                continue
            missed = bool(kernel.memory.faults)
            kernel.clear_faults()
            kernel.close(task.pid, fd)
            kernel.run_deferred()
            assert _held(kernel) == before
            if missed:
                break  # there are fewer allocations of this kind
            struck += 1  # absorbed: a smaller prefill, or vmalloc instead of kmalloc
        else:
            pytest.fail(f"more than 60 {kind} allocations")
    assert struck, "no allocation was hit"


@pytest.mark.parametrize("profile", ALL)
@pytest.mark.parametrize(
    "attr",
    [s for s in SHAPES if s.map_flags & F_NO_PREALLOC and s.max_entries == 600],
    ids=_named,
)
def test_a_failure_while_elements_are_made_leaves_the_map_whole(profile, attr):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, attr).fd
    bpf_map = kernel.bpf.maps()[-1]
    value = bytes(bpf_map.user_value_size)
    present = 0
    for number in range(200):
        if number % 3 == 0:
            kernel.inject_fault(KINDS[number % 2], 1 + number % 5)
        key = (32).to_bytes(4, "little") if attr.map_type == MapType.LPM_TRIE else b""
        key += number.to_bytes(4, "big")
        answer = answer_of(lambda k=key: kernel.bpf.map_update_elem(task, fd, k, value)).word or 0
        assert answer in (0, "ENOMEM")
        present += answer == 0
        assert bpf_map.entries() == present
        kernel.check()
    kernel.clear_faults()
    kernel.close(task.pid, fd)
    kernel.run_deferred()
    assert not [a for a in kernel.memory.accounts.values() if a.owner is bpf_map.site.owner]
    kernel.check()
