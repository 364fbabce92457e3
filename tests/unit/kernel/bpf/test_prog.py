"""Loading programs: what it costs, what refuses it, when it is given back."""

import pytest

from bpfleet.abi.bpf import AttachType, Capability, MapType, ProgType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.program import ProgAttr, ProgOp
from bpfleet.kernel.errors import Reason
from bpfleet.kernel.events import EventKind
from bpfleet.kernel.mm.memory import AllocKind
from tests.kernels import ALL, MEMCG, UNLIMITED, boot, charged, refused, settle

SOCKET_FILTER = ProgType.SOCKET_FILTER
PAGE = 4096


@pytest.mark.parametrize(
    ("insns", "pages"),
    [(2, 1), (505, 1), (506, 2), (1017, 2), (1018, 3), (4096, 9), (1_000_000, 1954)],
)
def test_5_10_precharges_the_image_in_pages(insns, pages):
    kernel, task = boot("5.10")
    kernel.bpf.prog_load(task, ProgAttr(SOCKET_FILTER, insns))
    assert kernel.user(0).locked_vm_pages == pages
    settle(kernel)
    assert kernel.user(0).locked_vm_pages == 0


@pytest.mark.parametrize(
    ("profile", "insns", "cpus", "vmalloc", "slab", "percpu"),
    [
        ("5.11", 2, 2, 4096, 1032, 32),
        ("5.11", 1000, 64, 8192, 1032, 1024),
        ("6.1", 503, 2, 4096, 2056, 144),
        ("6.1", 504, 2, 8192, 2056, 144),
        ("6.12", 1000, 64, 8192, 2056, 2376),
        ("6.12", 1_000_000, 8, 8003584, 2056, 360),
        ("6.18", 4096, 64, 36864, 2056, 2376),
    ],
)
def test_memcg_kernels_charge_image_aux_and_counters(profile, insns, cpus, vmalloc, slab, percpu):
    kernel, task = boot(profile, cpus=cpus)
    kernel.bpf.prog_load(task, ProgAttr(SOCKET_FILTER, insns))
    assert charged(kernel, "prog") == {"vmalloc": vmalloc, "slab": slab, "percpu": percpu}
    settle(kernel)


@pytest.mark.parametrize("profile", MEMCG)
def test_subprograms_have_an_image_and_aux_each_but_no_statistics(profile):
    kernel, task = boot(profile)
    kernel.bpf.prog_load(task, ProgAttr(SOCKET_FILTER))
    one = charged(kernel, "prog 1")
    kernel.bpf.prog_load(task, ProgAttr(SOCKET_FILTER, subprog_insns=(2, 2)))
    two = charged(kernel, "prog 2")
    assert two["vmalloc"] == 3 * one["vmalloc"]
    assert two["slab"] == 3 * one["slab"]
    assert two["percpu"] < 3 * one["percpu"]
    settle(kernel)


def test_subprograms_are_free_under_the_rlimit():
    kernel, task = boot("5.10")
    kernel.bpf.prog_load(task, ProgAttr(SOCKET_FILTER, 602, subprog_insns=(2,) * 200))
    assert kernel.user(0).locked_vm_pages == 2


@pytest.mark.parametrize(("room", "errno"), [(1, Errno.ENOMEM), (2, Errno.ENOMEM), (3, None)])
def test_growth_while_rewriting_is_charged_and_its_refusal_is_enomem(room, errno):
    kernel, task = boot("5.10", uid=1000, caps=frozenset(Capability), memlock=(room * PAGE,) * 2)
    attr = ProgAttr(SOCKET_FILTER, 304, largest_insn_cnt=1204)
    if errno is None:
        kernel.bpf.prog_load(task, attr)
        assert kernel.user(1000).locked_vm_pages == 3
        return
    with refused(errno) as caught:
        kernel.bpf.prog_load(task, attr)
    assert caught.value.reason is Reason.RLIMIT_MEMLOCK_EXCEEDED
    assert kernel.user(1000).locked_vm_pages == 0


def test_the_limit_comes_before_every_verifier_error():
    kernel, task = boot("5.10", memlock=(0, 0))
    with refused(Errno.EPERM):
        kernel.bpf.prog_load(task, ProgAttr(SOCKET_FILTER, map_fds=(99,), prog_name="bad name"))
    kernel.prlimit(task.pid, "memlock", *UNLIMITED)
    with refused(Errno.EINVAL):
        kernel.bpf.prog_load(task, ProgAttr(SOCKET_FILTER, map_fds=(99,), prog_name="bad name"))
    with refused(Errno.EBADF):
        kernel.bpf.prog_load(task, ProgAttr(SOCKET_FILTER, map_fds=(99,)))
    assert kernel.user(0).locked_vm_pages == 0


@pytest.mark.parametrize("leaks", [False, True])
@pytest.mark.parametrize(("room", "image", "leak"), [(5, 5, 0), (4, 2, 2), (3, 2, 1), (2, 2, 0)])
def test_jit_blinding_that_hits_the_limit_leaks_its_growth(room, image, leak, leaks):
    kernel, task = boot("5.10", memlock=(room * PAGE,) * 2)
    kernel.bpf.programs.blinding_leaks = leaks
    fd = kernel.bpf.prog_load(task, ProgAttr(SOCKET_FILTER, 702, blinded_insn_cnt=2104)).fd
    prog = kernel.bpf.progs()[0]
    assert (prog.image_pages, prog.jited) == (image, room == 5)
    kernel.close(task.pid, fd)
    kernel.run_deferred()
    assert kernel.user(0).locked_vm_pages == (leak if leaks else 0)
    events = [event for event in kernel.events.since(0) if event.kind is EventKind.CHARGE_LEAKED]
    assert len(events) == int(leaks and leak > 0)
    kernel.check()


def test_5_10_gives_the_budget_back_before_the_memory():
    kernel, task = boot("5.10")
    free = kernel.ram.free_bytes
    fd = kernel.bpf.prog_load(task, ProgAttr(SOCKET_FILTER)).fd
    kernel.close(task.pid, fd)
    assert kernel.user(0).locked_vm_pages == 1
    assert not kernel.bpf.progs()
    kernel.advance(10_000_000)  # the grace period
    assert kernel.user(0).locked_vm_pages == 0
    assert kernel.ram.free_bytes < free
    kernel.advance(1_000_000)  # the work item
    assert kernel.ram.free_bytes == free


@pytest.mark.parametrize("profile", ALL)
def test_a_program_keeps_its_maps_after_their_descriptors(profile):
    kernel, task = boot(profile)
    bpf_map = kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 4)).fd
    fd = kernel.bpf.prog_load(task, ProgAttr(SOCKET_FILTER, map_fds=(bpf_map,))).fd
    kernel.close(task.pid, bpf_map)
    kernel.run_deferred()
    assert [each.id for each in kernel.bpf.maps()] == [1]
    assert kernel.bpf.obj_get_info_by_fd(task, fd).map_ids == (1,)
    kernel.close(task.pid, fd)
    kernel.run_deferred()
    assert not kernel.bpf.maps()
    kernel.check()


@pytest.mark.parametrize("profile", ALL)
def test_one_cgroup_storage_map_of_a_kind(profile):
    kernel, task = boot(profile)
    first, second = (
        kernel.bpf.map_create(task, MapAttr(MapType.CGROUP_STORAGE, 16, 8)).fd for _ in range(2)
    )
    percpu = kernel.bpf.map_create(task, MapAttr(MapType.PERCPU_CGROUP_STORAGE, 16, 8)).fd
    kernel.bpf.prog_load(task, ProgAttr(ProgType.CGROUP_SKB, map_fds=(first, percpu, first)))
    with refused(Errno.EBUSY):
        kernel.bpf.prog_load(task, ProgAttr(ProgType.CGROUP_SKB, map_fds=(first, second)))


@pytest.mark.parametrize(("profile", "errno"), [("5.10", Errno.EINVAL), ("6.1", None)])
def test_perf_programs_and_sparse_hashes(profile, errno):
    kernel, task = boot(profile)
    sparse = kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 4, map_flags=1)).fd
    attr = ProgAttr(ProgType.PERF_EVENT, map_fds=(sparse,))
    if errno is None:
        kernel.bpf.prog_load(task, attr)
        return
    with refused(errno):
        kernel.bpf.prog_load(task, attr)


@pytest.mark.parametrize(
    ("attr", "errno"),
    [
        (ProgAttr(SOCKET_FILTER, 0), Errno.E2BIG),
        (ProgAttr(SOCKET_FILTER, 1_000_001), Errno.E2BIG),
        (ProgAttr(SOCKET_FILTER, prog_flags=1 << 20), Errno.EINVAL),
        (ProgAttr(99), Errno.EINVAL),
        (ProgAttr(ProgType.CGROUP_SKB, expected_attach_type=AttachType.XDP), Errno.EINVAL),
        (ProgAttr(ProgType.SK_LOOKUP), Errno.EINVAL),
        (ProgAttr(ProgType.EXT, expected_attach_type=1), Errno.EINVAL),
        (ProgAttr(SOCKET_FILTER, prog_name="x" * 16), Errno.EINVAL),
    ],
)
@pytest.mark.parametrize("profile", ALL)
def test_bad_attributes_leave_nothing(profile, attr, errno):
    kernel, task = boot(profile)
    with refused(errno):
        kernel.bpf.prog_load(task, attr)
    assert not charged(kernel, "prog")
    assert kernel.user(0).locked_vm_pages == 0
    settle(kernel)


def test_an_unprivileged_program_is_short_and_of_two_types():
    kernel, task = boot("5.10", uid=1000)
    kernel.host.unprivileged_bpf_disabled = 0
    kernel.bpf.prog_load(task, ProgAttr(SOCKET_FILTER, 4096))
    with refused(Errno.E2BIG):
        kernel.bpf.prog_load(task, ProgAttr(SOCKET_FILTER, 4097))
    with refused(Errno.EPERM):
        kernel.bpf.prog_load(task, ProgAttr(ProgType.XDP))


@pytest.mark.parametrize(("profile", "errno"), [("6.1", Errno.ENOMEM), ("6.12", Errno.EINVAL)])
@pytest.mark.parametrize("kind", [AllocKind.VMALLOC, AllocKind.SLAB, AllocKind.PERCPU])
def test_failed_memory_answers_einval_from_6_9(profile, errno, kind):
    kernel, task = boot(profile)
    kernel.memory.faults.fail_nth(kind, 1)
    with refused(errno) as caught:
        kernel.bpf.prog_load(task, ProgAttr(SOCKET_FILTER))
    assert caught.value.reason is Reason.FAULT_INJECTED
    assert not charged(kernel, "prog")
    settle(kernel)


def test_the_jit_limit_stops_the_unprivileged_only():
    kernel, root = boot("5.10")
    user = kernel.spawn(uid=1000, memlock=UNLIMITED)
    kernel.host.unprivileged_bpf_disabled = 0
    kernel.host.jit_limit_bytes = PAGE
    kernel.bpf.prog_load(root, ProgAttr(SOCKET_FILTER))
    kernel.bpf.prog_load(user, ProgAttr(SOCKET_FILTER))
    kernel.bpf.prog_load(root, ProgAttr(SOCKET_FILTER))
    assert [prog.jited for prog in kernel.bpf.progs()] == [True, False, True]
    assert kernel.bpf.programs.jit.charged_bytes == 2 * PAGE
    settle(kernel)
    assert kernel.bpf.programs.jit.charged_bytes == 0


def test_without_an_interpreter_the_jit_limit_is_errno_524():
    kernel, _ = boot("6.1")
    user = kernel.spawn(uid=1000, cgroup="/a")
    kernel.host.jit_limit_bytes = 0
    kernel.bpf.attachments.add_seccomp_filter(user, 20)
    kernel.host.jit_always_on = True
    with refused(Errno.ENOTSUPP) as caught:
        kernel.bpf.attachments.add_seccomp_filter(user, 20)
    assert caught.value.reason is Reason.JIT_LIMIT_EXCEEDED
    assert charged(kernel, "seccomp")["vmalloc"] == PAGE
    settle(kernel)


@pytest.mark.parametrize(
    ("profile", "payer"),
    [("seed-v5", "/b"), ("5.11", "/a"), ("6.1", "/a"), ("6.12", "/a"), ("6.18", "/a")],
)
def test_a_test_run_charges_whom_the_kernel_charges(profile, payer):
    kernel, creator = boot(profile)
    runner = kernel.spawn(cgroup="/b")
    sparse = kernel.bpf.map_create(creator, MapAttr(MapType.HASH, 8, 64, 4096, map_flags=1)).fd
    update = ProgOp("update", value=b"v")
    kernel.bpf.prog_load(creator, ProgAttr(SOCKET_FILTER, map_fds=(sparse,), ops=(update,)))
    before = {path: charged(kernel, "map", path)["slab"] for path in ("/a", "/b")}
    fd = kernel.bpf.prog_get_fd_by_id(runner, 1)
    result = kernel.bpf.prog_test_run(runner, fd, repeat=1000)
    assert (result.runs, result.failed_ops, kernel.bpf.progs()[0].run_cnt) == (1000, 0, 1000)
    grown = {path: charged(kernel, "map", path)["slab"] > before[path] for path in before}
    assert grown == {"/a": payer == "/a", "/b": payer == "/b"}
    settle(kernel)


def test_in_interrupt_context_the_series_charges_the_creator_too():
    kernel, creator = boot("seed-v5")
    runner = kernel.spawn(cgroup="/b")
    sparse = kernel.bpf.map_create(creator, MapAttr(MapType.HASH, 8, 64, 4096, map_flags=1)).fd
    update = ProgOp("update", value=b"v")
    kernel.bpf.prog_load(creator, ProgAttr(SOCKET_FILTER, map_fds=(sparse,), ops=(update,)))
    fd = kernel.bpf.prog_get_fd_by_id(runner, 1)
    kernel.bpf.prog_test_run(runner, fd, repeat=100, in_interrupt=True)
    assert not charged(kernel, "map", "/b")
    settle(kernel)


def test_a_run_reports_what_its_operations_were_refused():
    kernel, task = boot("6.12")
    full = kernel.bpf.map_create(task, MapAttr(MapType.HASH, 8, 8, 4)).fd
    ops = (
        ProgOp("update", value=b"v"),
        ProgOp("lookup", key=bytes(8)),
        ProgOp("delete", key=b"\x09" * 8),
    )
    fd = kernel.bpf.prog_load(task, ProgAttr(SOCKET_FILTER, map_fds=(full,), ops=ops)).fd
    result = kernel.bpf.prog_test_run(task, fd, repeat=6)
    assert (result.runs, result.failed_ops, result.errno) == (6, 2 + 6, Errno.ENOENT)


@pytest.mark.parametrize("profile", ALL)
def test_ids_rise_and_go_with_the_last_reference(profile):
    kernel, task = boot(profile)
    fds = [kernel.bpf.prog_load(task, ProgAttr(SOCKET_FILTER)).fd for _ in range(3)]
    assert [kernel.bpf.prog_get_next_id(task, start) for start in (0, 1, 2)] == [1, 2, 3]
    kernel.close(task.pid, fds[1])
    assert kernel.bpf.prog_get_next_id(task, 1) == 3
    with refused(Errno.ENOENT):
        kernel.bpf.prog_get_fd_by_id(task, 2)
    with refused(Errno.ENOENT):
        kernel.bpf.prog_get_next_id(task, 3)
    with refused(Errno.EINVAL):
        kernel.bpf.prog_get_next_id(task, (1 << 31) - 1)
    user = kernel.spawn(uid=1000, caps=frozenset({Capability.BPF}))
    with refused(Errno.EPERM):
        kernel.bpf.prog_get_fd_by_id(user, 1)
    settle(kernel)
