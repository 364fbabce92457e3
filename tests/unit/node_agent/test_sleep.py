"""A node that slept goes on as one that did not."""

import pytest

from bpfleet.abi.bpf import F_NO_PREALLOC, MapType, ProgType
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.kernel import KernelError, profile_named
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.program import ProgAttr
from bpfleet.kernel.kernel import Kernel
from bpfleet.node_agent.node import HostedNode, NodeBoot
from bpfleet.node_agent.sleep import ELEMENTS_MAX, freeze, thaw

PROFILES = ["5.10", "5.11", "6.1", "6.12", "6.18", "6.12:nobpf"]
TYPES = (
    (MapType.HASH, 0),
    (MapType.HASH, F_NO_PREALLOC),
    (MapType.ARRAY, 0),
    (MapType.LRU_HASH, 0),
    (MapType.PERCPU_HASH, F_NO_PREALLOC),
    (MapType.PERCPU_ARRAY, 0),
    (MapType.QUEUE, 0),
)


def hosted(profile: str) -> HostedNode:
    shape = NodeBoot(profile=profile_named(profile), ram_bytes=1 << 30, possible_cpus=2, seed=3)
    node = HostedNode("n1", shape, call_ns=1000, dirty=set())
    kernel = node.wake()
    kernel.mkdir("/pods")
    kernel.mkdir("/pods/one")
    kernel.write_file("/pods/one", "memory.max", "16M")
    kernel.spawn(cgroup="/pods/one", memlock=(RLIM_INFINITY,) * 2)
    kernel.spawn(uid=7)
    return node


def work(kernel: Kernel, start: int) -> list[object]:
    """Some of everything; returns all that can be seen of it."""
    task = kernel.tasks()[0]
    seen: list[object] = []
    for kind, flags in TYPES:
        key = 0 if kind is MapType.QUEUE else 4
        fd = kernel.bpf.map_create(task, MapAttr(kind, key, 8, 32, flags)).fd
        width = 16 if kind in (MapType.PERCPU_HASH, MapType.PERCPU_ARRAY) else 8
        for number in range(start, start + 40):
            name = number.to_bytes(4, "little") if key else None
            try:
                kernel.bpf.map_update_elem(task, fd, name, bytes([number]) * width)
            except KernelError as error:
                seen.append((kind, number, error.errno, error.reason))
    kernel.touch(task.pid, 3 << 20)
    fd = kernel.bpf.prog_load(task, ProgAttr(ProgType.SOCKET_FILTER, 2)).fd
    kernel.close(task.pid, fd)
    kernel.advance(10**9)
    return [*seen, kernel.ledger(), kernel.now_ns, kernel.events.since(0, 500)]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_node_that_slept_between_calls_does_what_one_that_did_not_does(profile):
    awake, sleepy = hosted(profile), hosted(profile)
    for start in (0, 20, 60):
        assert sleepy.fall_asleep()
        assert sleepy.asleep
        assert sleepy.used_bytes == awake.used_bytes
        assert sleepy.bpf_charged_by_class == awake.bpf_charged_by_class
        assert work(sleepy.wake(), start) == work(awake.wake(), start)
        sleepy.wake().check()
    for node in (awake, sleepy):
        for task in list(node.wake().tasks()):
            node.wake().kill(task.pid)
        node.wake().run_deferred()
        node.wake().check()
    assert sleepy.wake().ledger() == awake.wake().ledger()


def test_a_sleeping_node_takes_a_few_kib():
    node = hosted("6.12")
    task = node.wake().tasks()[0]
    for _ in range(10):
        node.wake().bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 64))
    assert 0 < len(freeze(node.wake())) < 8 << 10


def test_deferred_work_many_elements_watchers_and_a_crash_keep_a_node_awake():
    node = hosted("6.12")
    kernel, task = node.wake(), node.wake().tasks()[0]
    fd = kernel.bpf.map_create(task, MapAttr(MapType.ARRAY, 4, 8, 1)).fd
    kernel.close(task.pid, fd)
    assert not node.fall_asleep()
    kernel.run_deferred()
    node.watches = 1
    assert not node.fall_asleep()
    node.watches = 0
    fd = kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 2 * ELEMENTS_MAX)).fd
    keys = b"".join(n.to_bytes(4, "little") for n in range(ELEMENTS_MAX + 1))
    kernel.bpf.map_update_batch(task, fd, keys, bytes(2 * len(keys)), ELEMENTS_MAX + 1)
    assert not node.fall_asleep()
    kernel.bpf.map_delete_batch(task, fd, keys, ELEMENTS_MAX + 1)
    assert node.fall_asleep()
    node.wake().crash("it was asked to")
    assert not node.fall_asleep()
    assert node.crash_message == "it was asked to"


def test_a_node_where_nothing_was_started_stays_awake():
    kernel = Kernel(profile_named("6.12"))
    assert not freeze(kernel)


def test_what_nodes_share_is_shared_again_after_sleep():
    node = hosted("6.12")
    kernel = thaw(freeze(node.wake()), node.shape.profile)
    assert kernel.profile is node.wake().profile
    assert kernel.tasks()[0].caps is node.wake().tasks()[0].caps
