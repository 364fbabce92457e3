"""Attaching programs: cgroup storage and who pays for it, hooks, and what the end of a cgroup or task takes along."""

import pytest

from bpfleet.abi.bpf import (
    BPF_F_ALLOW_MULTI,
    BPF_F_ALLOW_OVERRIDE,
    AttachType,
    Capability,
    MapType,
    ProgType,
)
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.program import ProgAttr, ProgOp
from bpfleet.kernel.errors import Reason
from tests.kernels import ALL, MEMCG, UNLIMITED, boot, charged, having, refused, settle

INGRESS, EGRESS = AttachType.CGROUP_INET_INGRESS, AttachType.CGROUP_INET_EGRESS
SKB = ProgType.CGROUP_SKB


def _storage_prog(kernel, task, map_type=MapType.CGROUP_STORAGE, value=8, key=16):
    storage = kernel.bpf.map_create(task, MapAttr(map_type, key, value)).fd
    prog = kernel.bpf.prog_load(task, ProgAttr(SKB, map_fds=(storage,))).fd
    return storage, prog


def _target(kernel, task, path="/b"):
    return kernel.objects.cgroup(task, kernel.cgroup(path))


@pytest.mark.parametrize(
    ("map_type", "value", "per_attach"),
    [
        (MapType.CGROUP_STORAGE, 8, 1),
        (MapType.CGROUP_STORAGE, 64, 1),
        (MapType.CGROUP_STORAGE, 4096, 2),
        (MapType.PERCPU_CGROUP_STORAGE, 8, 1),
        (MapType.PERCPU_CGROUP_STORAGE, 4096, 2),
    ],
)
def test_5_10_charges_storage_at_attach_until_the_cgroup_goes(map_type, value, per_attach):
    kernel, task = boot("5.10")
    storage, prog = _storage_prog(kernel, task, map_type, value)
    target = _target(kernel, task)
    sizes = [kernel.bpf.map_info(task, storage).memlock_bytes]
    for kind in (INGRESS, EGRESS):
        kernel.bpf.prog_attach(task, target, prog, kind)
        sizes.append(kernel.bpf.map_info(task, storage).memlock_bytes)
    kernel.bpf.prog_detach(task, target, prog, INGRESS)
    sizes.append(kernel.bpf.map_info(task, storage).memlock_bytes)
    kernel.bpf.prog_detach(task, target, prog, EGRESS)
    kernel.rmdir("/b")
    sizes.append(kernel.bpf.map_info(task, storage).memlock_bytes)
    assert [size // 4096 for size in sizes] == [
        1, 1 + per_attach, 1 + 2 * per_attach, 1 + 2 * per_attach, 1
    ]  # fmt: skip
    settle(kernel)


def test_5_10_charges_the_creator_against_the_attachers_limit_and_says_enomem():
    kernel, root = boot("5.10")
    user = kernel.spawn(
        uid=1000, caps=frozenset({Capability.BPF, Capability.NET_ADMIN}), memlock=UNLIMITED
    )
    storage = kernel.bpf.map_create(user, MapAttr(MapType.CGROUP_STORAGE, 16, 4096)).fd
    kernel.bpf.obj_pin(user, "m", storage)
    mine = kernel.bpf.obj_get(root, "m")
    prog = kernel.bpf.prog_load(root, ProgAttr(SKB, map_fds=(mine,))).fd
    kernel.prlimit(root.pid, "memlock", 4096, 4096)
    with refused(Errno.ENOMEM) as caught:
        kernel.bpf.prog_attach(root, _target(kernel, root), prog, INGRESS)
    assert caught.value.reason is Reason.RLIMIT_MEMLOCK_EXCEEDED
    kernel.prlimit(root.pid, "memlock", 3 * 4096, 3 * 4096)
    kernel.bpf.prog_attach(root, _target(kernel, root), prog, INGRESS)
    assert (kernel.user(1000).locked_vm_pages, kernel.user(0).locked_vm_pages) == (3, 1)


@pytest.mark.parametrize("profile", MEMCG)
@pytest.mark.parametrize(
    ("map_type", "kinds"),
    [
        (MapType.CGROUP_STORAGE, {"slab": 128 + 8 + 32 + 8}),
        (MapType.PERCPU_CGROUP_STORAGE, {"slab": 128 + 8, "percpu": None}),
    ],
)
def test_the_maps_owner_pays_for_storage_not_the_attacher(profile, map_type, kinds):
    kernel, creator = boot(profile)
    storage = kernel.bpf.map_create(creator, MapAttr(map_type, 16, 16)).fd
    kernel.bpf.obj_pin(creator, "m", storage)
    attacher = kernel.spawn(cgroup="/b")
    mine = kernel.bpf.obj_get(attacher, "m")
    prog = kernel.bpf.prog_load(attacher, ProgAttr(SKB, map_fds=(mine,))).fd
    before = charged(kernel, "map 1", "/a")
    kernel.bpf.prog_attach(attacher, _target(kernel, attacher), prog, INGRESS)
    payer = "/b" if profile == "seed-v5" else "/a"
    grown = charged(kernel, "map 1", payer)
    if payer == "/a":
        grown.subtract(before)
    grown = +grown
    assert set(grown) == set(kinds)
    for kind, size in kinds.items():
        assert size is None or grown[kind] == size, (kind, grown)
    settle(kernel)


@pytest.mark.parametrize("profile", ALL)
def test_storage_exists_where_something_was_attached(profile):
    kernel, task = boot(profile)
    storage, prog = _storage_prog(kernel, task)
    kernel.bpf.prog_attach(task, _target(kernel, task), prog, INGRESS)
    kernel.bpf.prog_attach(task, _target(kernel, task), prog, EGRESS)
    ident = kernel.cgroup("/b").id.to_bytes(8, "little")
    ingress, egress = (ident + kind.to_bytes(4, "little") + bytes(4) for kind in (0, 1))
    first = kernel.bpf.map_get_next_key(task, storage, None)
    assert [first, kernel.bpf.map_get_next_key(task, storage, first)] == [egress, ingress]
    with refused(Errno.ENOENT):
        kernel.bpf.map_get_next_key(task, storage, ingress)
    kernel.bpf.map_update_elem(task, storage, egress, b"12345678")
    assert kernel.bpf.map_lookup_elem(task, storage, egress) == b"12345678"
    assert kernel.bpf.map_lookup_elem(task, storage, ingress) == bytes(8)
    settle(kernel)


@pytest.mark.parametrize("profile", having("cgroup_storage_key_takes_id"))
def test_short_keys_share_one_storage_between_attach_types(profile):
    kernel, task = boot(profile)
    storage, prog = _storage_prog(kernel, task, key=8)
    for kind in (INGRESS, EGRESS):
        kernel.bpf.prog_attach(task, _target(kernel, task), prog, kind)
    key = kernel.bpf.map_get_next_key(task, storage, None)
    assert key == kernel.cgroup("/b").id.to_bytes(8, "little")
    with refused(Errno.ENOENT):
        kernel.bpf.map_get_next_key(task, storage, key)


def test_the_rules_of_attach_flags():
    kernel, task = boot("6.12")
    kernel.mkdir("/b/c")
    first, second = (kernel.bpf.prog_load(task, ProgAttr(SKB)).fd for _ in range(2))
    parent, child = _target(kernel, task), _target(kernel, task, "/b/c")
    attach = kernel.bpf.prog_attach
    with refused(Errno.EINVAL):
        attach(task, parent, first, INGRESS, BPF_F_ALLOW_MULTI | BPF_F_ALLOW_OVERRIDE)
    attach(task, parent, first, INGRESS)
    with refused(Errno.EPERM):
        attach(task, child, second, INGRESS)
    with refused(Errno.EPERM):
        attach(task, parent, second, INGRESS, BPF_F_ALLOW_MULTI)
    attach(task, parent, second, INGRESS)
    assert kernel.bpf.attachments.attached(kernel.cgroup("/b")) == [(INGRESS, 2)]
    attach(task, parent, first, EGRESS, BPF_F_ALLOW_MULTI)
    attach(task, parent, second, EGRESS, BPF_F_ALLOW_MULTI)
    attach(task, child, second, EGRESS)
    with refused(Errno.EINVAL):
        attach(task, parent, second, EGRESS, BPF_F_ALLOW_MULTI)
    with refused(Errno.EINVAL):
        kernel.bpf.prog_detach(task, parent, None, EGRESS)
    kernel.bpf.prog_detach(task, parent, first, EGRESS)
    with refused(Errno.ENOENT):
        kernel.bpf.prog_detach(task, parent, first, EGRESS)
    kernel.bpf.prog_detach(task, parent, None, INGRESS)
    with refused(Errno.ENOENT):
        kernel.bpf.prog_detach(task, parent, None, INGRESS)
    settle(kernel)


def test_what_cannot_be_attached():
    kernel, task = boot("6.12")
    skb = kernel.bpf.prog_load(task, ProgAttr(SKB)).fd
    sock = kernel.bpf.prog_load(task, ProgAttr(ProgType.CGROUP_SOCK)).fd
    target = _target(kernel, task)
    attach = kernel.bpf.prog_attach
    with refused(Errno.EBADF):
        attach(task, skb, skb, INGRESS)
    with refused(Errno.EBADF):
        attach(task, target, 99, INGRESS)
    with refused(Errno.EINVAL):
        attach(task, target, sock, INGRESS)
    with refused(Errno.EINVAL):
        attach(task, target, sock, AttachType.CGROUP_INET_SOCK_RELEASE)
    with refused(Errno.EINVAL):
        attach(task, target, skb, AttachType.XDP)
    attach(task, target, sock, AttachType.CGROUP_INET_SOCK_CREATE)
    user = kernel.spawn(uid=1000, caps=frozenset({Capability.BPF}))
    mine = kernel.bpf.prog_load(user, ProgAttr(SKB)).fd
    with refused(Errno.EINVAL):
        attach(user, _target(kernel, user), mine, INGRESS)


@pytest.mark.parametrize("profile", ALL)
def test_an_attachment_keeps_the_program_until_the_cgroup_goes(profile):
    kernel, task = boot(profile)
    _, prog = _storage_prog(kernel, task)
    kernel.bpf.prog_attach(task, _target(kernel, task), prog, INGRESS)
    kernel.exit(task.pid)
    kernel.run_deferred()
    assert len(kernel.bpf.progs()) == len(kernel.bpf.maps()) == 1
    kernel.rmdir("/b")
    kernel.run_deferred()
    assert not kernel.bpf.progs()
    assert not kernel.bpf.maps()
    kernel.check()


@pytest.mark.parametrize("profile", ALL)
def test_a_storage_map_can_go_while_its_cgroup_stays(profile):
    kernel, task = boot(profile)
    storage, prog = _storage_prog(kernel, task)
    target = _target(kernel, task)
    kernel.bpf.prog_attach(task, target, prog, INGRESS)
    kernel.bpf.prog_detach(task, target, prog, INGRESS)
    kernel.close(task.pid, prog)
    kernel.close(task.pid, storage)
    kernel.run_deferred()
    assert not kernel.bpf.maps()
    assert kernel.user(0).locked_vm_pages == 0
    settle(kernel)


@pytest.mark.parametrize(("prog_type", "payer"), [(17, "/b"), (7, "/a")])
def test_a_hook_runs_as_whoever_meets_it_perf_events_as_an_interrupt(prog_type, payer):
    kernel, creator = boot("seed-v5")
    other = kernel.spawn(cgroup="/b")
    hash_map = kernel.bpf.map_create(creator, MapAttr(MapType.LPM_TRIE, 8, 8, 64, map_flags=1)).fd
    key = (32).to_bytes(4, "little") + b"abcd"
    attr = ProgAttr(prog_type, map_fds=(hash_map,), ops=(ProgOp("update", key=key),))
    link = kernel.bpf.open_hook(
        creator, "sys_enter", kernel.bpf.prog_load(creator, attr).fd, other.pid
    )
    before = charged(kernel, "map", "/a")
    assert kernel.bpf.fire("sys_enter", creator).runs == 0
    assert kernel.bpf.fire("sys_enter", other, 3).runs == 3
    assert bool(charged(kernel, "map", "/b")) is (payer == "/b")
    assert (charged(kernel, "map", "/a") != before) is (payer == "/a")
    kernel.close(creator.pid, link)
    assert kernel.bpf.fire("sys_enter", other).runs == 0
    settle(kernel)


def test_only_tracing_programs_go_on_hooks():
    kernel, task = boot("6.12")
    with refused(Errno.EINVAL):
        kernel.bpf.open_hook(task, "sys_enter", kernel.bpf.prog_load(task, ProgAttr(SKB)).fd)
