"""Who shares RLIMIT_MEMLOCK's counter with BPF, with which test and errno, and who only shares the limit's value."""

import pytest

from bpfleet.abi.bpf import Capability, MapType
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.kernel import Kernel
from bpfleet.kernel.proc.task import Task
from tests.kernels import boot, refused

MB = 1 << 20
USER_BPF = frozenset({Capability.BPF, Capability.NET_ADMIN, Capability.PERFMON})


def unprivileged(memlock: int, profile: str = "5.10") -> tuple[Kernel, Task]:
    """A process with what BPF needs and nothing that lifts the limit."""
    return boot(profile, uid=1000, caps=USER_BPF, memlock=(memlock, memlock))


def pages(kernel: Kernel, uid: int = 1000) -> int:
    return kernel.user(uid).locked_vm_pages


def test_a_perf_buffer_is_free_up_to_129_pages_a_cpu_yet_counts() -> None:
    kernel, task = unprivileged(64 << 10)
    for _ in range(2):
        kernel.locked.mmap_perf(task, kernel.objects.perf_event(task), 129)
    assert pages(kernel) == 258
    assert task.pinned_vm_pages == 0
    with refused(Errno.EPERM):  # BPF finds the counter beyond its limit already
        kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 1))
    kernel.exit(task.pid)
    assert pages(kernel) == 0
    kernel.check()


def test_a_perf_buffer_beyond_that_is_tested_against_the_process_alone() -> None:
    kernel, task = unprivileged(64 << 10)
    kernel.locked.mmap_perf(task, kernel.objects.perf_event(task), 257)
    kernel.locked.mmap_perf(task, kernel.objects.perf_event(task), 17)
    assert (pages(kernel), task.pinned_vm_pages) == (258, 16)
    with refused(Errno.EPERM):
        kernel.locked.mmap_perf(task, kernel.objects.perf_event(task), 2)
    kernel.locked.perf_event_paranoid = -1
    kernel.locked.mmap_perf(task, kernel.objects.perf_event(task), 2)
    assert task.pinned_vm_pages == 18
    kernel.check()


def test_cap_ipc_lock_lifts_the_perf_test_but_the_pages_still_count() -> None:
    kernel, task = boot("5.10", memlock=(0, 0))
    kernel.locked.mmap_perf(task, kernel.objects.perf_event(task), 513)
    assert (pages(kernel, 0), task.pinned_vm_pages) == (258, 255)


def test_what_is_no_perf_buffer_cannot_be_mapped_as_one() -> None:
    kernel, task = boot("5.10")
    with refused(Errno.EINVAL):
        kernel.locked.mmap_perf(task, kernel.objects.epoll(task), 1)
    with refused(Errno.EINVAL):
        kernel.locked.mmap_perf(task, kernel.objects.perf_event(task), 0)
    with refused(Errno.EINVAL):  # the data pages are no power of two
        kernel.locked.mmap_perf(task, kernel.objects.perf_event(task), 4)
    with refused(Errno.EBADF):
        kernel.locked.mmap_perf(task, 99, 1)


@pytest.mark.parametrize("profile", ["5.10", "6.12"])
def test_a_umem_answers_enobufs_and_goes_with_its_socket(profile: str) -> None:
    kernel, task = unprivileged(MB, profile)
    fd = kernel.objects.socket(task, "xsk")
    kernel.locked.register_umem(task, fd, MB)
    assert pages(kernel) == 256
    other = kernel.objects.socket(task, "xsk")
    with refused(Errno.ENOBUFS) as caught:
        kernel.locked.register_umem(task, other, 1)
    assert caught.value.numbers == {
        "uid": 1000,
        "limit_bytes": MB,
        "usage_bytes": MB,
        "requested_bytes": 4096,
    }
    kernel.close(task.pid, fd)
    assert pages(kernel) == 0


def test_cap_ipc_lock_neither_tests_nor_counts_a_umem() -> None:
    kernel, task = boot("5.10", memlock=(0, 0))
    kernel.locked.register_umem(task, kernel.objects.socket(task, "xsk"), MB)
    assert pages(kernel, 0) == 0


@pytest.mark.parametrize(("kind", "size"), [("tcp", MB), ("xsk", 0)])
def test_what_takes_no_umem(kind: str, size: int) -> None:
    kernel, task = boot("5.10")
    with refused(Errno.EINVAL):
        kernel.locked.register_umem(task, kernel.objects.socket(task, kind), size)


def test_io_uring_decides_at_set_up_who_is_unlimited() -> None:
    kernel, task = boot("5.10", memlock=(4096, 4096))
    ring = kernel.locked.io_uring_setup(task, 8)
    kernel.capset(task.pid, frozenset())
    kernel.locked.register_buffers(task, ring, MB)
    assert pages(kernel, 0) == 0
    limited = kernel.locked.io_uring_setup(task, 8)
    kernel.locked.register_buffers(task, limited, 4096)
    with refused(Errno.ENOMEM):
        kernel.locked.register_buffers(task, limited, 4096)
    kernel.close(task.pid, limited)
    assert pages(kernel, 0) == 0


def test_a_huge_page_counts_in_full_for_an_io_uring_buffer() -> None:
    kernel, task = unprivileged(8 * MB)
    ring = kernel.locked.io_uring_setup(task, 8)
    kernel.locked.register_buffers(task, ring, 0, huge_pages=2)
    assert pages(kernel) == 1024
    with refused(Errno.EINVAL):
        kernel.locked.register_buffers(task, ring, -1)
    with refused(Errno.EINVAL):
        kernel.locked.register_buffers(task, kernel.objects.epoll(task), 1)
    with refused(Errno.EINVAL):
        kernel.locked.io_uring_setup(task, 0)


def test_mlock_and_shm_lock_have_counters_of_their_own() -> None:
    kernel, task = unprivileged(64 << 10)
    kernel.locked.mlock(task, 64 << 10)
    kernel.locked.shm_lock(task, 64 << 10)
    assert pages(kernel) == 0
    kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 1))
    with refused(Errno.ENOMEM):
        kernel.locked.mlock(task, 1)
    with refused(Errno.ENOMEM):
        kernel.locked.shm_lock(task, 1)
    kernel.locked.munlock(task, 4096)
    kernel.locked.mlock(task, 4096)
    assert "VmLck:\t      64 kB\n" in kernel.read_proc(task.pid, "status")


def test_with_a_limit_of_zero_mlock_answers_eperm() -> None:
    kernel, task = unprivileged(0)
    with refused(Errno.EPERM):
        kernel.locked.mlock(task, 1)
    with refused(Errno.EPERM):
        kernel.locked.shm_lock(task, 1)
    root = kernel.spawn(memlock=(0, 0))
    kernel.locked.mlock(root, MB)
    kernel.locked.shm_lock(root, MB)
    assert kernel.user(0).locked_shm_pages == 256


@pytest.mark.parametrize("profile", ["5.11", "6.1", "6.12"])
def test_from_5_11_on_only_the_others_share_the_counter(profile: str) -> None:
    kernel, task = unprivileged(64 << 10, profile)
    kernel.locked.register_umem(task, kernel.objects.socket(task, "xsk"), 64 << 10)
    kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 1024, 1000))
    assert pages(kernel) == 16


def test_one_user_in_two_containers_has_one_budget() -> None:
    kernel, task = unprivileged(64 << 10)
    other = kernel.spawn(cgroup="/b", uid=1000, caps=USER_BPF, memlock=(64 << 10, 64 << 10))
    kernel.locked.register_umem(other, kernel.objects.socket(other, "xsk"), 64 << 10)
    with refused(Errno.EPERM) as caught:
        kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 1))
    held = kernel.explain(caught.value).holders
    assert held == ((f"AF_XDP umem of process {other.pid}", 64 << 10),)
    kernel.prlimit(other.pid, "memlock", 0, 64 << 10)
    with refused(Errno.EPERM):
        kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 1))


def test_an_unlimited_process_still_adds_to_the_counter() -> None:
    kernel, task = boot("5.10", memlock=(RLIM_INFINITY, RLIM_INFINITY))
    kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 1024, 100))
    assert pages(kernel, 0) > 0
