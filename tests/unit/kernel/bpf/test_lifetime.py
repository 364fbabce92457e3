"""What keeps a map alive, and when its memory and charge come back."""

import pytest

from bpfleet.abi.bpf import F_RDONLY, F_WRONLY, AttachType, MapType, ProgType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.program import ProgAttr
from bpfleet.kernel.errors import KernelError
from tests.kernels import ALL, MEMCG, boot, charged, having, refused, settle, with_type

ARRAY = MapAttr(MapType.ARRAY, 4, 8, 100_000, map_name="kept")


def _alive(kernel):
    kernel.run_deferred()
    kernel.check()
    return [bpf_map.id for bpf_map in kernel.bpf.maps()]


@pytest.mark.parametrize("profile", ALL)
def test_the_last_of_several_descriptors_frees_the_map(profile):
    kernel, task = boot(profile)
    other = kernel.spawn(cgroup="/b")
    first = kernel.bpf.map_create(task, ARRAY).fd
    second = kernel.dup(task.pid, first)
    third = kernel.bpf.map_get_fd_by_id(other, 1)
    kernel.close(task.pid, first)
    kernel.close(task.pid, second)
    assert _alive(kernel) == [1]
    kernel.close(other.pid, third)
    assert _alive(kernel) == []
    assert not charged(kernel, "map")


@pytest.mark.parametrize("profile", ALL)
def test_exit_closes_descriptors_and_pins_survive_it(profile):
    kernel, task = boot(profile)
    kernel.bpf.map_create(task, ARRAY)
    pinned = kernel.bpf.map_create(task, ARRAY).fd
    kernel.bpf.obj_pin(task, "kept", pinned)
    kernel.exit(task.pid)
    assert _alive(kernel) == [2]
    later = kernel.spawn(cgroup="/b")
    fd = kernel.bpf.obj_get(later, "/sys/fs/bpf/kept")
    kernel.bpf.unlink(later, "kept")
    assert _alive(kernel) == [2]
    kernel.close(later.pid, fd)
    assert _alive(kernel) == []


def test_a_pinned_map_stays_charged_to_its_dead_creators_user():
    kernel, task = boot("5.10", uid=1000)
    kernel.host.unprivileged_bpf_disabled = 0
    root = kernel.spawn()
    fd = kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 1024)).fd
    kernel.bpf.obj_pin(task, "m", fd)
    kernel.exit(task.pid)
    kernel.run_deferred()
    assert kernel.user(1000).locked_vm_pages == 21
    kernel.bpf.unlink(root, "m")
    kernel.run_deferred()
    assert kernel.user(1000).locked_vm_pages == 0


@pytest.mark.parametrize("profile", ALL)
def test_an_outer_map_keeps_its_inner_map(profile):
    kernel, task = boot(profile)
    inner = kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 4)).fd
    outer = kernel.bpf.map_create(
        task, MapAttr(MapType.ARRAY_OF_MAPS, 4, 4, 2, inner_map_fd=inner)
    ).fd
    kernel.bpf.map_update_elem(task, outer, bytes(4), inner.to_bytes(4, "little"))
    kernel.close(task.pid, inner)
    assert _alive(kernel) == [1, 2]
    kernel.bpf.map_delete_elem(task, outer, bytes(4))
    assert _alive(kernel) == [2]
    settle(kernel)


@pytest.mark.parametrize("profile", ALL)
def test_a_socket_in_an_xskmap_keeps_the_map(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.XSKMAP, 4, 4, 4)).fd
    sock = kernel.objects.socket(task, "xsk")
    for slot in (0, 1):
        kernel.bpf.map_update_elem(task, fd, slot.to_bytes(4, "little"), sock.to_bytes(4, "little"))
    kernel.close(task.pid, fd)
    assert _alive(kernel) == [1]
    kernel.close(task.pid, sock)
    assert _alive(kernel) == []


@pytest.mark.parametrize("profile", with_type(MapType.RINGBUF))
def test_a_mapping_keeps_the_map_until_munmap_or_exit(profile):
    kernel, task = boot(profile)
    for way in ("munmap", "exit"):
        fd = kernel.bpf.map_create(task, MapAttr(MapType.RINGBUF, 0, 0, 4096)).fd
        address = kernel.bpf.mmap(task, fd, 4096)
        kernel.close(task.pid, fd)
        assert len(_alive(kernel)) == 1
        if way == "munmap":
            kernel.bpf.munmap(task, address)
        else:
            kernel.exit(task.pid)
        assert _alive(kernel) == []


@pytest.mark.parametrize("profile", having("redirect_value_holds_prog"))
def test_a_map_that_holds_a_program_keeps_it(profile):
    kernel, task = boot(profile)
    prog = kernel.bpf.prog_load(
        task, ProgAttr(ProgType.XDP, expected_attach_type=AttachType.XDP_DEVMAP)
    ).fd
    devmap = kernel.bpf.map_create(task, MapAttr(MapType.DEVMAP, 4, 8, 4)).fd
    value = (1).to_bytes(4, "little") + prog.to_bytes(4, "little")
    kernel.bpf.map_update_elem(task, devmap, bytes(4), value)
    kernel.close(task.pid, prog)
    kernel.run_deferred()
    assert [each.id for each in kernel.bpf.progs()] == [1]
    assert kernel.bpf.map_lookup_elem(task, devmap, bytes(4))[4:] == (1).to_bytes(4, "little")
    kernel.bpf.map_delete_elem(task, devmap, bytes(4))
    kernel.run_deferred()
    assert not kernel.bpf.progs()
    settle(kernel)


@pytest.mark.parametrize(
    ("map_type", "waits_ns"),
    [
        (MapType.ARRAY, 1_000_000),
        (MapType.CPUMAP, 10_000_000),
        (MapType.XSKMAP, 10_000_000),
        (MapType.DEVMAP, 20_000_000),
        (MapType.SOCKMAP, 20_000_000),
    ],
)
def test_the_budget_comes_back_when_the_type_has_waited(map_type, waits_ns):
    kernel, task = boot("5.10")
    value = 8 if map_type is MapType.ARRAY else 4
    fd = kernel.bpf.map_create(task, MapAttr(map_type, 4, value, 4)).fd
    kernel.close(task.pid, fd)
    assert not kernel.bpf.maps()
    if waits_ns > 1_000_000:
        kernel.advance(waits_ns - 1_000_000)
        assert kernel.user(0).locked_vm_pages == 1
    kernel.advance(1_000_000)
    assert kernel.user(0).locked_vm_pages == 0


def test_churn_at_the_limit_meets_the_pending_uncharge():
    kernel, task = boot("5.10", memlock=(21 * 4096,) * 2)
    attr = MapAttr(MapType.HASH, 4, 8, 1024)
    answers = []
    for _ in range(5):
        try:
            kernel.close(task.pid, kernel.bpf.map_create(task, attr).fd)
            answers.append("ok")
        except KernelError as error:
            answers.append(error.errno.name)
    assert answers == ["ok"] + ["EPERM"] * 4
    kernel.run_deferred()
    kernel.close(task.pid, kernel.bpf.map_create(task, attr).fd)


@pytest.mark.parametrize("profile", MEMCG)
def test_pinning_costs_the_pinner_a_dentry_and_an_inode(profile):
    kernel, task = boot(profile)
    pinner = kernel.spawn(cgroup="/b")
    kernel.bpf.map_create(task, ARRAY)
    fd = kernel.bpf.map_get_fd_by_id(pinner, 1)
    kernel.bpf.obj_pin(pinner, "m", fd)
    structs = kernel.profile.structs
    expected = structs.dentry + structs.inode + 16
    assert charged(kernel, "pin", "/b") == {"slab_reclaimable": expected}
    kernel.bpf.unlink(pinner, "m")
    assert not charged(kernel, "pin", "/b")
    settle(kernel)


@pytest.mark.parametrize("profile", ALL)
def test_pin_paths_and_their_errors(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, ARRAY).fd
    prog = kernel.bpf.prog_load(task, ProgAttr(ProgType.SOCKET_FILTER)).fd
    bpf = kernel.bpf
    bpf.mkdir(task, "dir")
    bpf.obj_pin(task, "dir/m", fd)
    bpf.obj_pin(task, "p", prog)
    assert kernel.bpf.maps()[0].pinned_paths == ("dir/m",)
    for path, errno in [
        ("dir/m", Errno.EEXIST),
        ("dir", Errno.EEXIST),
        ("no/m", Errno.ENOENT),
        ("a.b", Errno.EPERM),
        ("n" * 256, Errno.ENAMETOOLONG),
    ]:
        with refused(errno):
            bpf.obj_pin(task, path, fd)
    with refused(Errno.EINVAL if kernel.profile.pin_probes_every_kind else Errno.EBADF):
        bpf.obj_pin(task, "x", 99)
    with refused(Errno.EINVAL):
        bpf.obj_pin(task, "x", kernel.objects.epoll(task))
    with refused(Errno.ENOENT):
        bpf.obj_get(task, "x")
    with refused(Errno.EACCES):
        bpf.obj_get(task, "dir")
    with refused(Errno.EISDIR):
        bpf.unlink(task, "dir")
    with refused(Errno.EINVAL):
        bpf.obj_get(task, "dir/m", F_RDONLY | F_WRONLY)
    with refused(Errno.EINVAL):
        bpf.obj_get(task, "p", F_RDONLY)
    assert bpf.obj_get_info_by_fd(task, bpf.obj_get(task, "p")).id == 1
    reader = bpf.obj_get(task, "dir/m", F_RDONLY)
    with refused(Errno.EPERM):
        bpf.map_update_elem(task, reader, bytes(4), bytes(8))
    for path in ("dir/m", "p"):
        bpf.unlink(task, path)
    settle(kernel)


@pytest.mark.parametrize("profile", ALL)
def test_no_descriptor_left_undoes_everything(profile):
    kernel, task = boot(profile)
    prog = kernel.bpf.prog_load(task, ProgAttr(ProgType.SOCKET_FILTER)).fd
    kernel.bpf.obj_pin(task, "p", prog)
    task.nofile = 4
    for attempt in (
        lambda: kernel.bpf.obj_get(task, "p"),
        lambda: kernel.bpf.prog_get_fd_by_id(task, 1),
        lambda: kernel.bpf.prog_load(task, ProgAttr(ProgType.SOCKET_FILTER)).fd,
        lambda: kernel.bpf.btf_load(task, ()),
        lambda: kernel.objects.socket(task, "udp"),
    ):
        with refused(Errno.EMFILE):
            attempt()
    assert len(kernel.bpf.btf) == 0
    kernel.bpf.unlink(task, "p")
    settle(kernel)
    assert not kernel.bpf.progs()
