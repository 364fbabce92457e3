"""The text of /proc files, column by column."""

import pytest

from bpfleet.abi.bpf import Capability, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from tests.kernels import UNLIMITED, boot, read_pages, refused, write_tmpfs

MB = 1 << 20


def test_limits_are_in_columns_as_proc_pid_limits_prints_them() -> None:
    kernel, task = boot("6.12", memlock=(65536, UNLIMITED[1]))
    lines = kernel.read_proc(task.pid, "limits").splitlines()
    assert (
        lines[0] == "Limit                     Soft Limit           Hard Limit           Units     "
    )
    assert "Max locked memory         65536                unlimited            bytes     " in lines
    assert "Max open files            1024                 4096                 files     " in lines
    assert "Max nice priority         0                    0                    " in lines
    assert len(lines) == 17


def test_status_reports_memory_in_kib_and_capabilities_in_hex() -> None:
    kernel, task = boot(
        "6.12", uid=1000, caps=frozenset({Capability.BPF, Capability.NET_ADMIN}), comm="agent"
    )
    kernel.touch(task.pid, 3 * MB)
    kernel.touch(task.pid, MB, shared=True)
    kernel.release(task.pid, 2 * MB)
    status = dict(line.split(":\t") for line in kernel.read_proc(task.pid, "status").splitlines())
    assert status["Name"] == "agent"
    assert status["Uid"] == "1000\t1000\t1000\t1000"
    assert status["VmHWM"] == "    4096 kB"
    assert status["VmRSS"] == "    2048 kB"
    assert status["RssAnon"] == "    1024 kB"
    assert status["RssShmem"] == "    1024 kB"
    assert status["CapEff"] == "0000008000001000"
    assert status["FDSize"] == "64"


def test_the_descriptor_table_doubles() -> None:
    kernel, task = boot("6.12")
    for _ in range(70):
        kernel.objects.epoll(task)
    assert "FDSize:\t128\n" in kernel.read_proc(task.pid, "status")


def test_small_files() -> None:
    kernel, task = boot("6.12", comm="agent", oom_score_adj=-5)
    assert kernel.read_proc(task.pid, "comm") == "agent\n"
    assert kernel.read_proc(task.pid, "cgroup") == "0::/a\n"
    assert kernel.read_proc(task.pid, "oom_score_adj") == "-5\n"


def test_fdinfo_of_a_map_reports_its_memlock() -> None:
    kernel, task = boot("6.12")
    fd = kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 100)).fd
    text = kernel.read_proc(task.pid, f"fdinfo/{fd}")
    assert "max_entries:\t100\n" in text
    assert f"memlock:\t{kernel.bpf.maps()[0].memlock_bytes()}\n" in text
    with refused(Errno.EBADF):
        kernel.read_proc(task.pid, "fdinfo/77")


def test_meminfo_adds_up() -> None:
    kernel, task = boot("6.12")
    kernel.touch(task.pid, 8 * MB)
    read_pages(kernel, task.pid, "/file", 4 * MB)
    write_tmpfs(kernel, task.pid, "/shm", 2 * MB)
    info = {}
    for line in kernel.read_proc(None, "meminfo").splitlines():
        name, value = line.split(":")
        info[name] = int(value.removesuffix(" kB"))
        assert len(line) == len("MemTotal:        1048576 kB")
    assert info["MemTotal"] == 1 << 20
    assert info["AnonPages"] == 8 << 10
    assert info["Cached"] == 6 << 10
    assert info["Shmem"] == 2 << 10
    assert info["MemAvailable"] == info["MemFree"] + (4 << 10)
    assert info["MemFree"] == kernel.ram.free_bytes >> 10


@pytest.mark.parametrize("name", ["maps", "fdinfo", "fdinfo/x", "stat", ""])
def test_other_files_are_not_emulated(name: str) -> None:
    kernel, task = boot("6.12")
    with refused(Errno.ENOENT) as caught:
        kernel.read_proc(task.pid, name)
    assert "limits" in caught.value.detail
    with refused(Errno.ENOENT):
        kernel.read_proc(None, "stat")
    with refused(Errno.ESRCH):
        kernel.read_proc(1, "limits")
