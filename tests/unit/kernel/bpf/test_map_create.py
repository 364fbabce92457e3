"""Creating a map: which check wins, what is charged when, and what a refusal leaves."""

import pytest

from bpfleet.abi.bpf import (
    F_NO_PREALLOC,
    F_NUMA_NODE,
    F_RDONLY,
    F_WRONLY,
    F_ZERO_SEED,
    Capability,
    MapType,
)
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import NUMA_NO_NODE, MapAttr
from bpfleet.kernel.errors import Reason
from tests.kernels import ALL, boot, having, refused

HASH = MapAttr(MapType.HASH, 4, 8, 1024)
CENTRAL = having("capability_check_central")
IN_THE_TYPE = ["5.10", "seed-v5", "5.11", "6.1"]


def limited(pages, profile="5.10", **task):
    return boot(profile, memlock=(pages * 4096, pages * 4096), **task)


def test_the_precharge_is_refused_one_byte_below_what_it_needs():
    kernel, task = limited(21)
    kernel.bpf.map_create(task, HASH)
    kernel, task = boot("5.10", memlock=(21 * 4096 - 1, 21 * 4096))
    with refused(Errno.EPERM) as over:
        kernel.bpf.map_create(task, HASH)
    assert over.value.reason is Reason.RLIMIT_MEMLOCK_EXCEEDED
    assert over.value.numbers["requested_bytes"] == 21 * 4096
    assert over.value.numbers["uid"] == 0


@pytest.mark.parametrize(
    ("attr", "refused_at"),
    [
        (MapAttr(MapType.HASH, 4, 8), 765),
        (MapAttr(MapType.LRU_HASH, 4, 8), 765),
        (MapAttr(MapType.ARRAY, 4, 8), 8153),
        (MapAttr(MapType.PERCPU_ARRAY, 4, 8), 1631),
        (MapAttr(MapType.LPM_TRIE, 8, 8, 0, F_NO_PREALLOC), 1255),
    ],
    ids=lambda a: MapType(a.map_type).name if isinstance(a, MapAttr) else "",
)
def test_64_kib_and_four_cpus_allow_what_a_real_kernel_allows(attr, refused_at):
    kernel, task = boot("5.10", cpus=4, memlock=(65536, 65536))
    sized = {
        n: MapAttr(attr.map_type, attr.key_size, 8, n, attr.map_flags)
        for n in (refused_at - 1, refused_at)
    }
    kernel.close(task.pid, kernel.bpf.map_create(task, sized[refused_at - 1]).fd)
    kernel.run_deferred()
    with refused(Errno.EPERM):
        kernel.bpf.map_create(task, sized[refused_at])


def test_no_capability_helps_against_the_limit():
    kernel, task = limited(0)
    with refused(Errno.EPERM):
        kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 1))


def test_devmaps_hide_a_refused_precharge_behind_einval():
    kernel, task = limited(0)
    for map_type in (MapType.DEVMAP, MapType.DEVMAP_HASH):
        with refused(Errno.EINVAL) as hidden:
            kernel.bpf.map_create(task, MapAttr(map_type, 4, 4, 4))
        assert hidden.value.reason is Reason.RLIMIT_MEMLOCK_EXCEEDED


def test_four_gigabytes_are_e2big_before_the_limit_is_looked_at():
    kernel, task = limited(0, cpus=4)
    attr = MapAttr(MapType.LPM_TRIE, 5, 1, 102261021, F_NO_PREALLOC)
    with refused(Errno.E2BIG):
        kernel.bpf.map_create(task, attr)


def test_the_limit_wins_over_a_bad_name_and_a_bad_name_gives_everything_back():
    kernel, task = limited(20)
    bad = MapAttr(MapType.HASH, 4, 8, 1024, map_name="bad name")
    with refused(Errno.EPERM):
        kernel.bpf.map_create(task, bad)
    kernel.prlimit(task.pid, "memlock", 1 << 20, 1 << 20)
    with refused(Errno.EINVAL):
        kernel.bpf.map_create(task, bad)
    assert kernel.user(0).locked_vm_pages == 0
    kernel.check()


@pytest.mark.parametrize("profile", ALL)
def test_the_last_descriptor_that_cannot_be_had_frees_the_map(profile):
    kernel, task = boot(profile)
    task.nofile = 4
    kernel.bpf.map_create(task, HASH)
    with refused(Errno.EMFILE):
        kernel.bpf.map_create(task, HASH)
    kernel.run_deferred()
    assert len(kernel.bpf.maps()) == 1
    kernel.check()


@pytest.mark.parametrize("profile", IN_THE_TYPE)
def test_up_to_6_4_a_type_tests_its_capability_before_its_attributes(profile):
    kernel, _ = boot(profile)
    kernel.host.unprivileged_bpf_disabled = 0
    user = kernel.spawn(uid=1000, cgroup="/a")
    with refused(Errno.EPERM):
        kernel.bpf.map_create(user, MapAttr(MapType.QUEUE, 4, 8, 1))


@pytest.mark.parametrize("profile", CENTRAL)
def test_from_6_5_attributes_are_checked_before_capabilities(profile):
    kernel, _ = boot(profile)
    kernel.host.unprivileged_bpf_disabled = 0
    user = kernel.spawn(uid=1000, cgroup="/a")
    with refused(Errno.EINVAL):
        kernel.bpf.map_create(user, MapAttr(MapType.QUEUE, 4, 8, 1))
    with refused(Errno.EPERM):
        kernel.bpf.map_create(user, MapAttr(MapType.QUEUE, 0, 8, 1))
    with refused(Errno.EPERM):  # what map_alloc itself would refuse loses to the capability
        kernel.bpf.map_create(user, MapAttr(MapType.LPM_TRIE, 4, 8, 1))


@pytest.mark.parametrize("profile", ALL)
def test_a_zero_seed_needs_sys_admin(profile):
    kernel, _ = boot(profile)
    bpf_only = kernel.spawn(uid=1000, cgroup="/a", caps=frozenset({Capability.BPF}))
    with refused(Errno.EPERM):
        kernel.bpf.map_create(bpf_only, MapAttr(MapType.HASH, 4, 8, 4, F_ZERO_SEED))


@pytest.mark.parametrize("profile", ALL)
def test_nodes_and_access_flags(profile):
    kernel, task = boot(profile)
    for flags, node, errno in (
        (F_NUMA_NODE, 1, Errno.EINVAL),
        (F_RDONLY | F_WRONLY, 0, Errno.EINVAL),
    ):
        with refused(errno):
            kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 4, flags, numa_node=node))
    for node in (0, NUMA_NO_NODE):
        attr = MapAttr(MapType.HASH, 4, 8, 4, F_NUMA_NODE, numa_node=node)
        kernel.bpf.map_create(task, attr)


@pytest.mark.parametrize("profile", ALL)
def test_an_event_and_the_owner_record_say_who_made_a_map(profile):
    kernel, task = boot(profile, uid=0)
    kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 4, map_name="conns"))
    bpf_map = kernel.bpf.maps()[-1]
    event = kernel.events.since(0, limit=1000)[-1]
    assert (event.kind, event.fields["name"], event.fields["cgroup"]) == (
        "map_created",
        "conns",
        "/a",
    )
    assert (bpf_map.creator_uid, bpf_map.creator_cgroup, bpf_map.name) == (0, "/a", "conns")
    assert bpf_map.estimate_bytes > 0, "known under every model"


@pytest.mark.parametrize("profile", ["5.11", "6.1", "6.12", "6.18"])
def test_a_map_over_the_cgroups_limit_is_refused_and_nobody_is_killed(profile):
    kernel, task = boot(profile)
    kernel.write_file("/a", "memory.max", "8M")
    with refused(Errno.ENOMEM) as over:
        kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 8_000_000))
    assert over.value.reason is Reason.MEMCG_LIMIT_EXCEEDED
    assert "oom_kill 0" in kernel.read_file("/a", "memory.events")
    assert task.alive
    kernel.check()


@pytest.mark.parametrize("profile", ["6.1", "6.12", "6.18"])
def test_a_per_cpu_array_passes_any_limit_from_6_0_on(profile):
    kernel, task = boot(profile)
    kernel.write_file("/a", "memory.max", "8M")
    kernel.bpf.map_create(task, MapAttr(MapType.PERCPU_ARRAY, 4, 1024, 10_000))
    assert kernel.bpf.maps()[-1].charged_bytes < 1 << 20
    assert kernel.ram.used_bytes > 2 * 1024 * 10_000


def test_churn_at_the_limit_fails_while_uncharges_are_pending():
    kernel, task = limited(21)
    kernel.close(task.pid, kernel.bpf.map_create(task, HASH).fd)
    for _ in range(49):
        with refused(Errno.EPERM):
            kernel.bpf.map_create(task, HASH)
    kernel.run_deferred()
    kernel.bpf.map_create(task, HASH)
