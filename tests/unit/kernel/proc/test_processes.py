"""Processes: starting, limits, credentials, moving, ending."""

import pytest

from bpfleet.abi.bpf import ALL_CAPABILITIES, Capability, MapType
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel import PROFILES, TaskKilled
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.events import EventKind
from bpfleet.kernel.mm.memcg import Stat
from bpfleet.kernel.proc.processes import PID_MAX
from tests.kernels import ALL, boot, refused, since

MB = 1 << 20


# -- starting --------------------------------------------------------------------------------------------------------


def test_root_starts_with_every_capability_and_others_with_none() -> None:
    kernel, root = boot("6.12")
    assert root.caps == ALL_CAPABILITIES
    assert kernel.spawn(uid=1000).caps == frozenset()
    assert kernel.spawn(uid=1000, caps=frozenset({Capability.BPF})).caps == {Capability.BPF}


@pytest.mark.parametrize("profile", ALL)
def test_the_default_limit_is_the_kernels(profile: str) -> None:
    kernel, _ = boot(profile)
    task = kernel.spawn()
    assert task.memlock_soft_bytes == task.memlock_hard_bytes
    assert task.memlock_soft_bytes == PROFILES[profile].default_memlock_bytes
    assert task.memlock_soft_bytes == (8 << 20 if profile in since("5.16") else 64 << 10)


@pytest.mark.parametrize(
    "arguments",
    [
        {"uid": -1},
        {"uid": 1 << 32},
        {"memlock": (2, 1)},
        {"memlock": (-1, 5)},
        {"memlock": (0, RLIM_INFINITY + 1)},
        {"oom_score_adj": -1001},
        {"oom_score_adj": 1001},
        {"cpu": 2},
        {"cpu": -1},
    ],
)
def test_arguments_out_of_range_start_nothing(arguments: dict[str, object]) -> None:
    kernel, _ = boot("6.12")
    with refused(Errno.EINVAL):
        kernel.spawn(**arguments)  # type: ignore[arg-type]
    assert len(kernel.tasks()) == 1


def test_starting_charges_nothing() -> None:
    kernel, task = boot("6.12")
    assert kernel.cgroup("/a").memcg.usage_bytes == 0
    assert task.rss_bytes == 0


def test_pids_rise_and_run_out() -> None:
    kernel, task = boot("6.12")
    assert kernel.spawn().pid == task.pid + 1
    kernel.processes._next_pid = PID_MAX
    with refused(Errno.EAGAIN):
        kernel.spawn()


def test_names_have_fifteen_bytes() -> None:
    kernel, _ = boot("6.12")
    assert kernel.spawn(comm="a-very-long-process-name").comm == "a-very-long-pro"


# -- limits ----------------------------------------------------------------------------------------------------------


def test_lowering_a_limit_needs_no_privilege_and_raising_the_soft_one_neither() -> None:
    kernel, task = boot("5.10", uid=1000, memlock=(1 * MB, 2 * MB))
    kernel.prlimit(task.pid, "memlock", 2 * MB, 2 * MB)
    kernel.prlimit(task.pid, "memlock", 0, 1 * MB)
    assert (task.memlock_soft_bytes, task.memlock_hard_bytes) == (0, 1 * MB)
    with refused(Errno.EPERM) as caught:
        kernel.prlimit(task.pid, "memlock", 0, 2 * MB)
    assert caught.value.numbers["limit_bytes"] == 1 * MB
    assert caught.value.numbers["requested_bytes"] == 2 * MB
    assert (task.memlock_soft_bytes, task.memlock_hard_bytes) == (0, 1 * MB)


def test_cap_sys_resource_raises_the_hard_limit_and_cap_bpf_does_not() -> None:
    kernel, _ = boot("5.10")
    for capability, allowed in ((Capability.SYS_RESOURCE, True), (Capability.BPF, False)):
        task = kernel.spawn(uid=1000, caps=frozenset({capability}), memlock=(MB, MB))
        if allowed:
            kernel.prlimit(task.pid, "memlock", RLIM_INFINITY, RLIM_INFINITY)
        else:
            with refused(Errno.EPERM):
                kernel.prlimit(task.pid, "memlock", RLIM_INFINITY, RLIM_INFINITY)


def test_a_limit_below_what_is_held_refuses_only_new_charges() -> None:
    kernel, task = boot("5.10", uid=0, memlock=(4 * MB, 4 * MB))
    fd = kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 1024, 1000)).fd
    held = kernel.user(0).locked_vm_pages
    kernel.prlimit(task.pid, "memlock", 4096, 4 * MB)
    assert kernel.user(0).locked_vm_pages == held
    with refused(Errno.EPERM):
        kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 1))
    kernel.close(task.pid, fd)
    kernel.run_deferred()
    kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 1))


@pytest.mark.parametrize("values", [(2, 1), (-1, 1), (0, RLIM_INFINITY + 1)])
def test_impossible_limits(values: tuple[int, int]) -> None:
    kernel, task = boot("6.12")
    with refused(Errno.EINVAL):
        kernel.prlimit(task.pid, "memlock", *values)


def test_other_resources_are_not_emulated() -> None:
    kernel, task = boot("6.12")
    with refused(Errno.EINVAL):
        kernel.prlimit(task.pid, "nproc", 1, 1)


def test_descriptors_are_limited_too() -> None:
    kernel, task = boot("6.12")
    kernel.prlimit(task.pid, "nofile", 5, 4096)
    for _ in range(2):
        kernel.objects.epoll(task)
    with refused(Errno.EMFILE):
        kernel.objects.epoll(task)
    with refused(Errno.EPERM):
        kernel.prlimit(task.pid, "nofile", 5, (1 << 20) + 1)
    kernel.check()


# -- credentials -----------------------------------------------------------------------------------------------------


def test_new_charges_go_to_the_new_real_uid_and_old_ones_stay() -> None:
    kernel, task = boot("5.10")
    attr = MapAttr(MapType.ARRAY, 4, 8, 100)
    first = kernel.bpf.map_create(task, attr).fd
    before = kernel.user(0).locked_vm_pages
    kernel.setresuid(task.pid, ruid=1000)  # root's capabilities stay: the effective uid is 0
    kernel.bpf.map_create(task, attr)
    assert kernel.user(0).locked_vm_pages == before
    assert kernel.user(1000).locked_vm_pages == before
    kernel.close(task.pid, first)
    kernel.run_deferred()
    assert kernel.user(0).locked_vm_pages == 0
    assert kernel.user(1000).locked_vm_pages == before


def test_leaving_uid_0_costs_the_capabilities() -> None:
    kernel, task = boot("6.12")
    kernel.setresuid(task.pid, euid=1000)
    assert task.caps == frozenset()
    assert task.permitted == ALL_CAPABILITIES
    kernel.setresuid(task.pid, euid=0)
    assert task.caps == ALL_CAPABILITIES
    kernel.setresuid(task.pid, ruid=1000, euid=1000)
    assert task.permitted == frozenset()
    with refused(Errno.EPERM):
        kernel.setresuid(task.pid, euid=0)


def test_an_unprivileged_process_may_only_take_ids_it_holds() -> None:
    kernel, task = boot("6.12", uid=1000)
    kernel.setresuid(task.pid, ruid=1000, euid=1000)
    with refused(Errno.EPERM):
        kernel.setresuid(task.pid, ruid=1001)
    with refused(Errno.EINVAL):
        kernel.setresuid(task.pid, ruid=1 << 32)
    assert task.uid == 1000


def test_capabilities_are_only_ever_given_up() -> None:
    kernel, task = boot("6.12", uid=1000, caps=frozenset({Capability.BPF, Capability.NET_ADMIN}))
    kernel.capset(task.pid, frozenset({Capability.BPF}))
    assert task.caps == {Capability.BPF}
    with refused(Errno.EPERM) as caught:
        kernel.capset(task.pid, frozenset({Capability.BPF, Capability.NET_ADMIN}))
    assert "CAP_NET_ADMIN" in caught.value.detail


def test_lowering_oom_score_adj_needs_cap_sys_resource() -> None:
    kernel, task = boot("6.12", uid=1000)
    kernel.processes.set_oom_score_adj(task.pid, 500)
    kernel.processes.set_oom_score_adj(task.pid, 300)  # its own doing, taken back in part
    with refused(Errno.EACCES):
        kernel.processes.set_oom_score_adj(task.pid, -1)
    with refused(Errno.EINVAL):
        kernel.processes.set_oom_score_adj(task.pid, 1001)
    assert task.oom_score_adj == 300


def test_what_somebody_with_the_right_wrote_is_the_lowest_oom_score_adj_without_it() -> None:
    kernel, root = boot("6.12")
    task = kernel.spawn(uid=1000, oom_score_adj=900)
    with refused(Errno.EACCES):
        kernel.processes.set_oom_score_adj(task.pid, 899)
    kernel.processes.set_oom_score_adj(task.pid, 100, writer=root)
    kernel.processes.set_oom_score_adj(task.pid, 500)
    kernel.processes.set_oom_score_adj(task.pid, 100)
    with refused(Errno.EACCES):
        kernel.processes.set_oom_score_adj(task.pid, 99)


# -- moving and ending -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ALL)
def test_charges_stay_where_they_were_made(profile: str) -> None:
    kernel, task = boot(profile)
    kernel.touch(task.pid, MB)
    kernel.move(task.pid, kernel.cgroup("/b"))
    kernel.touch(task.pid, MB)
    anon = {line.cgroup: line.bytes for line in kernel.ledger() if line.kind == "anon"}
    assert anon == {"/a": MB, "/b": MB}
    kernel.release(task.pid, MB + 4096)  # the newest pages first
    anon = {line.cgroup: line.bytes for line in kernel.ledger() if line.kind == "anon"}
    assert anon == {"/a": MB - 4096}


def test_moving_what_is_not_there() -> None:
    kernel, task = boot("6.12")
    with refused(Errno.ESRCH):
        kernel.move(999, kernel.cgroup("/b"))
    kernel.exit(task.pid)
    with refused(Errno.ESRCH):
        kernel.exit(task.pid)
    with refused(Errno.ESRCH):
        kernel.task(task.pid)


@pytest.mark.parametrize("profile", ALL)
def test_the_end_of_a_process_gives_everything_back(profile: str) -> None:
    kernel, task = boot(profile)
    used_bytes = kernel.ram.used_bytes
    kernel.touch(task.pid, 3 * MB)
    kernel.touch(task.pid, MB, shared=True)
    for _ in range(3):
        kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 64, 512))
    kernel.exit(task.pid)
    assert kernel.bpf.maps() == []
    kernel.run_deferred()
    kernel.check()
    assert kernel.ram.used_bytes == used_bytes
    assert kernel.user(0).locked_vm_pages == 0


def test_a_descriptor_elsewhere_keeps_a_map_when_its_creator_ends() -> None:
    kernel, task = boot("6.12")
    fd = kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 1)).fd
    other = kernel.spawn(cgroup="/b")
    copy = kernel.files.dup(task, fd, other)
    kernel.exit(task.pid)
    kernel.run_deferred()
    assert len(kernel.bpf.maps()) == 1
    kernel.close(other.pid, copy)
    assert kernel.bpf.maps() == []


@pytest.mark.parametrize("signal", [0, 65, -9])
def test_signals_that_there_are_not(signal: int) -> None:
    kernel, task = boot("6.12")
    with refused(Errno.EINVAL):
        kernel.kill(task.pid, signal)
    assert task.alive


def test_how_a_process_ended_is_an_event() -> None:
    kernel, task = boot("6.12", comm="agent", uid=7)
    kernel.kill(task.pid, 15)
    (event,) = [e for e in kernel.events.since(0) if e.kind is EventKind.PROCESS_EXITED]
    assert event.fields == {
        "pid": task.pid,
        "uid": 7,
        "comm": "agent",
        "cgroup": "/a",
        "status": 15,
        "reason": "killed by signal 15",
    }
    assert (task.alive, task.exit_status) == (False, 15)


# -- threads ---------------------------------------------------------------------------------------------------------


def test_a_thread_costs_its_stack_its_structures_and_a_page_table() -> None:
    kernel, task = boot("6.18")
    before = kernel.cgroup("/a").memcg.stat[Stat.KERNEL_PAGES]
    kernel.clone_threads(task.pid, 50)
    each = (kernel.cgroup("/a").memcg.stat[Stat.KERNEL_PAGES] - before) * 4096 / 50
    assert 26_000 < each < 29_000  # 28,600 measured with Python's arenas
    assert f"kernel_stack {50 * 16384}\n" in kernel.read_file("/a", "memory.stat")
    kernel.exit(task.pid)
    assert "kernel_stack 0\n" in kernel.read_file("/a", "memory.stat")
    kernel.run_deferred()
    kernel.check()


def test_threads_that_do_not_fit_leave_those_before() -> None:
    kernel, task = boot("6.18")
    kernel.write_file("/a", "memory.max", "1M")
    with pytest.raises(TaskKilled):
        kernel.clone_threads(task.pid, 100)
    kernel.check()


# -- what a process costs itself -------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["5.4", "5.10", "6.1", "6.12", "6.18", "7.3", "el8.10"])
def test_a_process_that_starts_in_its_cgroup_pays_for_its_task_and_its_address_space(
    profile: str,
) -> None:
    kernel, task = boot(profile)
    memcg = kernel.cgroup("/a").memcg
    before = memcg.stat[Stat.KERNEL_PAGES]
    kernel.execve(task.pid)
    charged = (memcg.stat[Stat.KERNEL_PAGES] - before) * 4096
    assert 90_000 < charged < 102_400  # measured on 6.18: 90,112 to 102,400 for sleep(1)
    shown = kernel.read_file("/a", "memory.stat")
    assert "kernel_stack 16384\n" in shown
    assert memcg.stat[Stat.PGTABLE_PAGES] == 11
    kernel.check()
    kernel.exit(task.pid)
    kernel.run_deferred()
    assert memcg.stat[Stat.PGTABLE_PAGES] == 0
    assert memcg.stat[Stat.SLAB_UNRECLAIMABLE] == 0
    kernel.check()


def test_a_process_is_killed_where_its_own_start_does_not_fit() -> None:
    kernel, task = boot("6.12")
    kernel.write_file("/a", "memory.max", "64K")
    with pytest.raises(TaskKilled):
        kernel.execve(task.pid)
    assert not task.alive
    kernel.run_deferred()
    kernel.check()
