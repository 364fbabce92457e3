"""The ledger, receipts, orphans and what each tool would say."""

import pytest

from bpfleet.abi.bpf import F_NO_PREALLOC, AttachType, MapType, ProgType
from bpfleet.abi.errno import Errno
from bpfleet.kernel import PROFILES, Kernel, Receipt
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.command import cost_on
from bpfleet.kernel.bpf.program import ProgAttr
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.views.orphans import CGROUP_GONE, ONLY_PINNED
from tests.kernels import ALL, MEMCG, boot, read_pages, refused

MB = 1 << 20
ARRAY = MapAttr(MapType.ARRAY, 4, 64, 1000, map_name="stats")


def key(number: int) -> bytes:
    return number.to_bytes(4, "little")


# -- ledger ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ALL)
def test_the_lines_of_a_subtree_sum_to_its_usage(profile: str) -> None:
    kernel, _ = boot(profile, cgroup="/")
    kernel.mkdir("/a/x")
    kernel.mkdir("/a/y")
    for cpu, path in enumerate(("/a/x", "/a/y")):
        task = kernel.spawn(cgroup=path, cpu=cpu, memlock=(1 << 62, 1 << 62))
        fd = kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 500, F_NO_PREALLOC)).fd
        kernel.bpf.map_create(task, MapAttr(MapType.PERCPU_ARRAY, 4, 8, 100))
        for number in range(300):
            kernel.bpf.map_update_elem(task, fd, key(number), bytes(8))
        kernel.touch(task.pid, 3 * MB + 5)
        read_pages(kernel, task.pid, f"/file{cpu}", MB)
    lines = kernel.ledger()
    for path in ("/a", "/a/x", "/a/y"):
        below = sum(x.bytes for x in lines if x.cgroup == path or x.cgroup.startswith(path + "/"))
        assert f"{below}\n" == kernel.read_file(path, "memory.current")
    assert lines == sorted(lines, key=lambda x: (x.cgroup, x.owner, x.kind))


@pytest.mark.parametrize("profile", MEMCG)
def test_charges_of_a_removed_cgroup_stand_under_the_one_that_answers_for_them(
    profile: str,
) -> None:
    kernel, _ = boot(profile, cgroup="/")
    kernel.mkdir("/a/x")
    task = kernel.spawn(cgroup="/a/x")
    fd = kernel.bpf.map_create(task, ARRAY).fd
    kernel.bpf.obj_pin(task, "pin", fd)
    kernel.exit(task.pid)
    kernel.rmdir("/a/x")
    kernel.run_deferred()
    lines = [line for line in kernel.ledger() if line.owner.startswith("map")]
    assert {line.cgroup for line in lines} == {"/a"}
    assert f"{sum(x.bytes for x in kernel.ledger())}\n" == kernel.read_file("/a", "memory.current")


def test_a_rlimit_kernel_charges_no_cgroup_for_maps() -> None:
    kernel, task = boot("5.10")
    kernel.bpf.map_create(task, ARRAY)
    assert not [line for line in kernel.ledger() if line.owner.startswith("map")]


# -- receipts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ALL)
def test_a_creation_has_an_estimate_a_charge_and_a_payer(profile: str) -> None:
    kernel, task = boot(profile, memlock=(8 * MB, 8 * MB))
    kernel.write_file("/a", "memory.max", "64M")
    made = kernel.bpf.map_create(task, ARRAY)
    receipt = kernel.receipt(made.cost)
    assert made.id == kernel.bpf.map_info(task, made.fd).id
    assert receipt.model == PROFILES[profile].model.value
    assert receipt.charged_bytes > 64_000
    if PROFILES[profile].is_rlimit:
        assert receipt.charged_to == "uid 0"
        assert receipt.estimate_bytes > 64_000
        assert receipt.charged_bytes == receipt.usage_bytes == kernel.user(0).locked_vm_pages * 4096
        assert receipt.limit_bytes == 8 * MB
    else:
        assert receipt.charged_to == "/a"
        assert receipt.usage_bytes == kernel.cgroup("/a").memcg.usage_bytes
        assert receipt.limit_bytes == 64 * MB


@pytest.mark.parametrize("profile", ["6.1", "6.12"])
def test_an_update_is_charged_to_the_maps_creator_and_a_delete_gives_back(profile: str) -> None:
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.LPM_TRIE, 8, 64, 100, F_NO_PREALLOC)).fd
    other = kernel.spawn(cgroup="/b")
    copy = kernel.files.dup(task, fd, other)
    entry = (32).to_bytes(4, "little") + key(1)
    charged = kernel.bpf.map_update_elem(other, copy, entry, bytes(64))
    receipt = receipt_on(kernel, other, copy, charged)
    assert receipt.charged_to == "/a"
    assert receipt.charged_bytes > 64
    assert receipt.estimate_bytes == 0
    if profile == "6.1":  # later, freed nodes wait in a cache
        charged = kernel.bpf.map_delete_elem(other, copy, entry)
        kernel.run_deferred()
        deleted = receipt_on(kernel, other, copy, charged)
        assert deleted.charged_bytes <= 0


def test_a_program_load_has_a_receipt_too() -> None:
    for profile, payer in (("5.10", "uid 0"), ("6.12", "/a")):
        kernel, task = boot(profile)
        made = kernel.bpf.prog_load(task, ProgAttr(ProgType.CGROUP_SKB, 2000))
        receipt = kernel.receipt(made.cost)
        assert receipt.charged_to == payer
        assert receipt.charged_bytes >= 16_000


def test_a_closed_map_gives_back_at_once_what_its_descriptor_held() -> None:
    kernel, task = boot("6.12")
    fd = kernel.bpf.map_create(task, ARRAY).fd
    cost = cost_on(task, fd, 0)
    assert cost is not None
    receipt = kernel.receipt(cost._replace(charged_bytes=kernel.close(task.pid, fd)))
    assert receipt.charged_to == "/a"
    assert receipt.charged_bytes < 0
    assert receipt.estimate_bytes == 0


def test_a_call_on_no_map_or_program_has_no_cost() -> None:
    kernel, task = boot("6.12")
    assert cost_on(task, kernel.objects.cgroup(task, kernel.cgroup("/a")), 0) is None
    assert cost_on(task, 99, 0) is None


def receipt_on(kernel: Kernel, task: Task, fd: int, charged_bytes: int) -> Receipt:
    cost = cost_on(task, fd, charged_bytes)
    assert cost is not None
    return kernel.receipt(cost)


# -- orphans ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ALL)
def test_maps_without_their_cgroup_come_first_then_those_only_a_pin_holds(profile: str) -> None:
    kernel, task = boot(profile)
    held = kernel.bpf.map_create(task, ARRAY).fd
    for path in ("gone", "pinned"):
        fd = kernel.bpf.map_create(task, ARRAY).fd
        kernel.bpf.obj_pin(task, path, fd)
        kernel.close(task.pid, fd)
        if path == "gone":
            kernel.move(task.pid, kernel.cgroup("/b"))
    assert [(o.map_id, o.why) for o in kernel.orphans()] == [(2, ONLY_PINNED), (3, ONLY_PINNED)]
    kernel.rmdir("/a")
    found = kernel.orphans()
    assert [(o.map_id, o.why) for o in found] == [
        (1, CGROUP_GONE),
        (2, CGROUP_GONE),
        (3, ONLY_PINNED),
    ]
    assert found[0].pinned_paths == ()
    assert found[1].created_in == "/a"
    assert found[2].created_in == "/b"
    assert found[2].charged_to == ("uid 0" if PROFILES[profile].is_rlimit else "/b")
    assert found[2].memlock_bytes > 0
    kernel.close(task.pid, held)
    kernel.run_deferred()
    assert len(kernel.orphans()) == 2


def test_a_map_in_use_by_a_program_is_no_orphan() -> None:
    kernel, task = boot("6.12")
    fd = kernel.bpf.map_create(task, ARRAY).fd
    kernel.bpf.obj_pin(task, "pin", fd)
    prog = kernel.bpf.prog_load(task, ProgAttr(ProgType.CGROUP_SKB, 20, map_fds=(fd,))).fd
    target = kernel.objects.cgroup(task, kernel.cgroup("/b"))
    kernel.bpf.prog_attach(task, target, prog, AttachType.CGROUP_INET_INGRESS)
    for each in (fd, prog, target):
        kernel.close(task.pid, each)
    assert kernel.orphans() == []


# -- tools -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ALL)
def test_every_tool_has_another_number(profile: str) -> None:
    kernel, task = boot(profile)
    kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 4000))
    kernel.bpf.map_create(task, MapAttr(MapType.PERCPU_ARRAY, 4, 8, 500))
    kernel.touch(task.pid, MB)
    read_pages(kernel, task.pid, "/file", 2 * MB)
    views = {(view.tool, view.field): view.bytes for view in kernel.tool_views("/a")}
    usage = kernel.cgroup("/a").memcg.usage_bytes
    assert views["memory.current", ""] == usage
    assert views["kubectl top", "working set"] == usage - 2 * MB
    assert views["ps, top", "rss"] == MB
    assert views["memory.stat", "anon + file"] == 3 * MB
    charged = [line.bytes for line in kernel.ledger() if line.owner.startswith("map")]
    assert views["ledger", "bpf maps"] == sum(charged)
    assert (sum(charged) == 0) is PROFILES[profile].is_rlimit
    assert views["bpftool map", "memlock"] == sum(m.memlock_bytes() for m in kernel.bpf.maps())
    assert (("memory.stat", "(missing)") in views) is (
        "kernel" not in PROFILES[profile].memory_stat_lines
    )


def test_tools_of_the_root_see_the_whole_node() -> None:
    kernel, task = boot("6.12")
    kernel.bpf.map_create(task, ARRAY)
    views = {(view.tool, view.field): view.bytes for view in kernel.tool_views("/")}
    assert views["memory.current", ""] == kernel.ram.used_bytes
    assert views["bpftool map", "memlock"] > 0
    with refused(Errno.ENOENT):
        kernel.tool_views("/nowhere")
