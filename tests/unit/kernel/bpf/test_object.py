"""Ids and the freeing that comes later: gone for new users at once, memory and charge with the work item."""

import pytest

from bpfleet.abi.bpf import F_NO_PREALLOC, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.object import IdTable
from bpfleet.kernel.events import EventKind
from tests.kernels import MEMCG, boot, charged, refused

HASH = MapAttr(MapType.HASH, 4, 8, 1024)


def test_ids_grow_and_are_not_reused():
    table = IdTable("map")
    assert [table.add(name) for name in "abc"] == [1, 2, 3]
    table.remove(3)
    table.remove(1)
    assert table.add("d") == 4
    assert table.all() == ["b", "d"]
    assert [table.after(0), table.after(2), table.after(3)] == [2, 4, 4]
    for missing in (lambda: table.get(1), lambda: table.after(4)):
        with refused(Errno.ENOENT):
            missing()


@pytest.mark.parametrize("profile", MEMCG)
def test_the_last_descriptor_takes_the_id_and_only_later_the_memory(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, HASH).fd
    ident = kernel.bpf.map_get_next_id(task, 0)
    kernel.close(task.pid, fd)
    with refused(Errno.ENOENT):
        kernel.bpf.map_get_fd_by_id(task, ident)
    assert any(line.owner.startswith("map") for line in kernel.ledger())
    kernel.run_deferred()
    assert not any(line.owner.startswith("map") for line in kernel.ledger())
    assert kernel.bpf.map_create(task, HASH).fd >= 0
    assert kernel.bpf.map_get_next_id(task, 0) == ident + 1


@pytest.mark.parametrize("profile", MEMCG)
def test_a_second_descriptor_keeps_map_and_charge(profile):
    kernel, task = boot(profile)
    fd = kernel.bpf.map_create(task, HASH).fd
    other = kernel.spawn(cgroup="/b")
    theirs = kernel.bpf.map_get_fd_by_id(other, kernel.bpf.map_get_next_id(other, 0))
    kernel.close(task.pid, fd)
    kernel.exit(task.pid)
    kernel.run_deferred()
    assert charged(kernel, "map", "/a").total() > 0
    kernel.close(other.pid, theirs)
    kernel.run_deferred()
    assert charged(kernel, "map", "/a").total() == 0


def test_an_rlimit_charge_is_returned_with_the_work_item_not_with_close():
    kernel, task = boot("5.10", memlock=(1 << 20, 1 << 20))
    array = MapAttr(MapType.ARRAY, 4, 8, 100_000)
    fd = kernel.bpf.map_create(task, array).fd
    kernel.close(task.pid, fd)
    with refused(Errno.EPERM):
        kernel.bpf.map_create(task, array)
    kernel.run_deferred()
    assert kernel.bpf.map_create(task, array).fd >= 0


def test_a_map_with_on_demand_elements_is_freed_whole():
    kernel, task = boot("6.1")
    fd = kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 1024, F_NO_PREALLOC)).fd
    for number in range(200):
        kernel.bpf.map_update_elem(task, fd, number.to_bytes(4, "little"), bytes(8))
    kernel.close(task.pid, fd)
    kernel.run_deferred()
    assert charged(kernel, "map").total() == 0
    kernel.check()


def test_freeing_is_told_by_id_type_and_name():
    kernel, task = boot("6.12")
    fd = kernel.bpf.map_create(task, MapAttr(MapType.HASH, 4, 8, 16, 0, map_name="conns")).fd
    kernel.close(task.pid, fd)
    kernel.run_deferred()
    freed = [event for event in kernel.events.since(0) if event.kind is EventKind.MAP_FREED]
    assert [(e.fields["type"], e.fields["name"]) for e in freed] == [("hash", "conns")]
