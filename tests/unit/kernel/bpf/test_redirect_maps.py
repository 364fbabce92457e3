"""DEVMAP, DEVMAP_HASH, CPUMAP, XSKMAP: checks, elements, who pays, what is left."""

import pytest

from bpfleet.abi.bpf import AttachType, Capability, MapType, ProgType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.fdinfo import fdinfo_text
from bpfleet.kernel.bpf.program import ProgAttr
from bpfleet.kernel.errors import Reason
from bpfleet.kernel.mm.memory import AllocKind
from tests.kernels import ALL, MEMCG, boot, charged, having, refused, settle

LO = (1).to_bytes(4, "little")


def _key(number):
    return number.to_bytes(4, "little")


@pytest.mark.parametrize("map_type", [MapType.DEVMAP, MapType.DEVMAP_HASH])
def test_5_10_hides_the_memlock_limit_behind_einval(map_type):
    kernel, task = boot("5.10", memlock=(0, 0))
    with refused(Errno.EINVAL) as caught:
        kernel.bpf.map_create(task, MapAttr(map_type, 4, 4, 4))
    assert caught.value.reason is Reason.RLIMIT_MEMLOCK_EXCEEDED
    with refused(Errno.EPERM):
        kernel.bpf.map_create(task, MapAttr(MapType.CPUMAP, 4, 4, 1))
    settle(kernel)


@pytest.mark.parametrize("profile", having("has_cap_bpf"))
@pytest.mark.parametrize(
    "map_type", [MapType.DEVMAP, MapType.DEVMAP_HASH, MapType.XSKMAP, MapType.SOCKMAP]
)
def test_they_need_cap_net_admin(profile, map_type):
    kernel, _ = boot(profile)
    user = kernel.spawn(uid=1000, caps=frozenset({Capability.BPF}))
    with refused(Errno.EPERM):
        kernel.bpf.map_create(user, MapAttr(map_type, 4, 4, 4))
    admin = kernel.spawn(uid=0, caps=frozenset({Capability.BPF, Capability.NET_ADMIN}))
    kernel.bpf.map_create(admin, MapAttr(map_type, 4, 4, 4))
    bad = MapAttr(map_type, 5, 4, 4)
    central = kernel.profile.capability_check_central
    early = Errno.EINVAL if central and "DEV" in map_type.name else Errno.EPERM
    with refused(early):  # devmap's attributes are checked before the central capability test
        kernel.bpf.map_create(user, bad)


@pytest.mark.parametrize("profile", ALL)
def test_devmap_hash_walks_its_buckets_newest_first(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.DEVMAP_HASH, 4, 4, 4)).fd
    for number in (9, 1, 5, 2):
        kernel.bpf.map_update_elem(task, fd, _key(number), LO)
    keys, key = [], None
    for _ in range(4):
        key = kernel.bpf.map_get_next_key(task, fd, key)
        keys.append(int.from_bytes(key, "little"))
    assert keys == [5, 1, 9, 2]
    with refused(Errno.ENOENT):
        kernel.bpf.map_get_next_key(task, fd, key)
    assert kernel.bpf.map_get_next_key(task, fd, _key(77)) == _key(5)
    with refused(Errno.E2BIG):
        kernel.bpf.map_update_elem(task, fd, _key(77), LO)
    kernel.bpf.map_update_elem(task, fd, _key(9), LO)  # replacing works in a full map
    settle(kernel)


@pytest.mark.parametrize("profile", MEMCG)
def test_a_replaced_device_is_freed_after_a_grace_period(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.DEVMAP, 4, 4, 4)).fd
    created = charged(kernel, "map")["slab"]
    kernel.bpf.map_update_elem(task, fd, _key(0), LO)
    one = charged(kernel, "map")["slab"] - created
    kernel.bpf.map_update_elem(task, fd, _key(0), LO)
    assert charged(kernel, "map")["slab"] == created + 2 * one
    kernel.run_deferred()
    assert charged(kernel, "map")["slab"] == created + one
    settle(kernel)


def test_a_wrong_program_is_einval_and_leaves_nothing():
    kernel, task = boot("6.12")
    fd = kernel.bpf.map_create(task, MapAttr(MapType.DEVMAP, 4, 8, 4)).fd
    created = charged(kernel, "map")
    plain = kernel.bpf.prog_load(task, ProgAttr(ProgType.XDP)).fd
    for prog in (plain, 99, fd):
        with refused(Errno.EINVAL):
            kernel.bpf.map_update_elem(task, fd, _key(0), LO + _key(prog))
    with refused(Errno.EINVAL):
        kernel.bpf.map_update_elem(task, fd, _key(0), bytes(4) + _key(plain))
    kernel.run_deferred()
    assert charged(kernel, "map") == created
    settle(kernel)


def _cpumap(kernel, task, entries=2):
    return kernel.bpf.map_create(task, MapAttr(MapType.CPUMAP, 4, 8, entries)).fd


@pytest.mark.parametrize("profile", MEMCG)
def test_a_cpumap_entry_charges_three_objects_and_takes_more(profile):
    kernel, task = boot(profile)
    fd = _cpumap(kernel, task)
    before, free = charged(kernel, "map"), kernel.ram.free_bytes
    kernel.bpf.map_update_elem(task, fd, _key(0), _key(2048) + _key(0))
    grown = charged(kernel, "map")
    grown.subtract(before)
    structs = kernel.profile.structs
    sizes = [kernel.memory.slab_size(n) for n in (structs.bpf_cpu_map_entry, structs.ptr_ring)]
    assert grown["slab"] == sum(size.charge for size in sizes)
    assert grown["percpu"] == kernel.memory.percpu_size(structs.xdp_bulk_queue).charge
    assert free - kernel.ram.free_bytes > 16384 + 16384  # the ring and the thread's stack
    kernel.bpf.map_delete_elem(task, fd, _key(0))
    kernel.run_deferred()
    assert kernel.ram.free_bytes == free
    settle(kernel)


@pytest.mark.parametrize(
    ("key", "value", "flags", "errno"),
    [
        (0, 192, 3, Errno.EINVAL),
        (9, 192, 0, Errno.E2BIG),
        (0, 192, 1, Errno.EEXIST),
        (0, 16385, 0, Errno.EOVERFLOW),
        (3, 192, 0, Errno.ENODEV),
    ],
)
def test_cpumap_refusals_in_order(key, value, flags, errno):
    kernel, task = boot("6.12")
    fd = kernel.bpf.map_create(task, MapAttr(MapType.CPUMAP, 4, 4, 8)).fd
    with refused(errno):
        kernel.bpf.map_update_elem(task, fd, _key(key), _key(value), flags)


def test_any_failure_of_a_cpumap_entry_is_enomem_and_undone():
    kernel, task = boot("6.12")
    fd = _cpumap(kernel, task)
    before, free = charged(kernel, "map"), kernel.ram.free_bytes
    with refused(Errno.ENOMEM):
        kernel.bpf.map_update_elem(task, fd, _key(0), _key(192) + _key(99))
    for kind in (AllocKind.SLAB, AllocKind.PERCPU, AllocKind.PAGES):
        kernel.memory.faults.fail_nth(kind, 1)
        with refused(Errno.ENOMEM):
            kernel.bpf.map_update_elem(task, fd, _key(0), _key(192) + _key(0))
    assert (charged(kernel, "map"), kernel.ram.free_bytes) == (before, free)
    prog = kernel.bpf.prog_load(
        task, ProgAttr(ProgType.XDP, expected_attach_type=AttachType.XDP_CPUMAP)
    ).fd
    kernel.bpf.map_update_elem(task, fd, _key(0), _key(192) + _key(prog))
    assert kernel.bpf.map_lookup_elem(task, fd, _key(0)) == _key(192) + _key(1)
    settle(kernel)
    assert not kernel.bpf.progs()


@pytest.mark.parametrize("profile", ALL)
def test_xskmap_slots(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, MapAttr(MapType.XSKMAP, 4, 4, 2)).fd
    first, second, udp = (kernel.objects.socket(task, kind) for kind in ("xsk", "xsk", "udp"))
    update = kernel.bpf.map_update_elem
    with refused(Errno.ENOENT):
        update(task, fd, _key(0), _key(first), 2)
    update(task, fd, _key(0), _key(first))
    update(task, fd, _key(0), _key(first), 1)  # the same socket again
    with refused(Errno.EEXIST):
        update(task, fd, _key(0), _key(second), 1)
    update(task, fd, _key(0), _key(second), 2)
    for value, errno in [(udp, Errno.EOPNOTSUPP), (fd, Errno.ENOTSOCK), (99, Errno.EBADF)]:
        with refused(errno):
            update(task, fd, _key(0), _key(value))
    with refused(Errno.EOPNOTSUPP):
        kernel.bpf.map_lookup_elem(task, fd, _key(0))
    kernel.bpf.map_delete_elem(task, fd, _key(0))
    kernel.bpf.map_delete_elem(task, fd, _key(0))
    with refused(Errno.EINVAL):
        kernel.bpf.map_delete_elem(task, fd, _key(2))
    settle(kernel)


@pytest.mark.parametrize("profile", ["5.11", "6.1", "6.12", "6.18"])
def test_xskmap_nodes_are_forced_over_the_limit(profile):
    kernel, task = boot(profile)
    task.nofile = 10_000
    fd = kernel.bpf.map_create(task, MapAttr(MapType.XSKMAP, 4, 4, 4096)).fd
    sockets = [kernel.objects.socket(task, "xsk") for _ in range(4)]
    kernel.write_file("/a", "memory.max", "64K")
    for slot in range(4096):
        kernel.bpf.map_update_elem(task, fd, _key(slot), _key(sockets[slot % 4]))
    memcg = kernel.cgroup("/a").memcg
    assert memcg.usage_bytes > memcg.limit_bytes
    settle(kernel)


def test_fdinfo_of_an_xskmap_counts_its_sockets():
    """xsk_map_mem_usage: the table, and a node for each entry."""
    kernel, task = boot("6.12")
    fd = kernel.bpf.map_create(task, MapAttr(MapType.XSKMAP, 4, 4, 8)).fd
    empty = _memlock(kernel, task, fd)
    for number in range(2):
        sock = kernel.objects.socket(task, "xsk")
        kernel.bpf.map_update_elem(task, fd, _key(number), _key(sock))
    node_bytes = kernel.profile.structs.xsk_map_node
    assert node_bytes
    assert _memlock(kernel, task, fd) - empty == 2 * node_bytes


def _memlock(kernel, task, fd):
    text = fdinfo_text(task.fds.get(fd), kernel.profile)
    lines = dict(line.split(":\t") for line in text.splitlines())
    return int(lines["memlock"])
