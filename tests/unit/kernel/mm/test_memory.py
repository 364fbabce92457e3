"""Allocation with its charge: all or nothing, given back where it was charged, whatever fails on the way."""

import pytest

from bpfleet.abi.errno import Errno
from bpfleet.kernel import Kernel, KernelError, Reason, profile_named
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memory import AllocKind, Memory, Owner
from bpfleet.kernel.proc.task import Task
from tests.kernels import ALL

OWNER = Owner("test", 1)


def node(profile: str = "6.12", *, limit: str = "max", ram: int = 1 << 30) -> tuple[Kernel, Task]:
    kernel = Kernel(profile_named(profile), ram_bytes=ram)
    kernel.mkdir("/a")
    kernel.write_file("/a", "memory.max", limit)
    return kernel, kernel.spawn(cgroup="/a")


@pytest.mark.parametrize("profile", ALL)
def test_every_allocator_gives_back_exactly_what_it_took(profile: str) -> None:
    kernel, task = node(profile)
    memory: Memory = kernel.memory
    used = kernel.ram.used_bytes
    gfp = GFP.GFP_KERNEL
    blocks = [
        memory.kmalloc(100, gfp, task.objcg, task, OWNER),
        memory.kmalloc(20_000, gfp, task.objcg, task, OWNER),
        memory.vmalloc(100_000, gfp, task.objcg, task, OWNER),
        memory.alloc_percpu(64, 10, gfp, task.objcg, task, OWNER),
        memory.alloc_pages(5, gfp, task.objcg, task, OWNER),
    ]
    kernel.check()
    for block in blocks:
        memory.free(block)
    kernel.check()
    kernel.controller.drain_stocks()
    assert (kernel.ram.used_bytes, kernel.cgroup("/a").memcg.usage_bytes) == (used, 0)


def test_a_block_is_freed_once_however_often_it_is_asked() -> None:
    kernel, task = node()
    block = kernel.memory.kmalloc(100, GFP.GFP_KERNEL, task.objcg, task, OWNER)
    kernel.memory.free(block)
    kernel.memory.free(block)
    kernel.check()


def test_an_area_over_the_limit_leaves_nothing() -> None:
    kernel, task = node(limit="64K")
    with pytest.raises(KernelError) as caught:
        kernel.memory.vmalloc(1 << 20, GFP.GFP_KERNEL | GFP.RETRY_MAYFAIL, task.objcg, task, OWNER)
    assert caught.value.reason is Reason.MEMCG_LIMIT_EXCEEDED
    assert caught.value.numbers["requested_bytes"] == 1 << 20
    kernel.controller.drain_stocks()
    assert kernel.cgroup("/a").memcg.usage_bytes == 0
    kernel.check()


def test_whichever_ends_first_is_the_reason() -> None:
    gfp = GFP.GFP_KERNEL | GFP.RETRY_MAYFAIL
    for limit, reason in (("1M", Reason.MEMCG_LIMIT_EXCEEDED), ("15M", Reason.NODE_OUT_OF_MEMORY)):
        kernel, task = node(limit=limit, ram=8 << 20)
        with pytest.raises(KernelError) as caught:
            kernel.memory.alloc_pages(4096, gfp, task.objcg, task, OWNER)
        assert caught.value.reason is reason
        kernel.check()


@pytest.mark.parametrize(
    ("size", "allocate"),
    [(4 << 20 | 1, "kmalloc"), (1 << 40, "vmalloc"), (32769, "alloc_percpu")],
)
def test_what_no_allocator_can_give_fails_at_once(size: int, allocate: str) -> None:
    kernel, task = node()
    arguments = (1,) if allocate == "alloc_percpu" else ()
    with pytest.raises(KernelError) as caught:
        getattr(kernel.memory, allocate)(size, *arguments, GFP.GFP_KERNEL, task.objcg, task, OWNER)
    assert (caught.value.errno, caught.value.reason) == (Errno.ENOMEM, Reason.ALLOCATION_TOO_LARGE)


def test_an_area_falls_back_to_whole_pages_when_the_slab_is_refused() -> None:
    kernel, task = node(limit="20K")
    block = kernel.memory.area(16_500, task.objcg, task, OWNER)
    assert (block.size.kind, block.charged_bytes) == (AllocKind.VMALLOC, 20480)


@pytest.mark.parametrize("kind", ["slab", "percpu", "vmalloc", "page"])
def test_the_nth_allocation_of_a_kind_can_be_made_to_fail_once(kind: str) -> None:
    kernel, task = node()
    memory, gfp = kernel.memory, GFP.GFP_KERNEL
    allocate = {
        "slab": lambda: memory.kmalloc(64, gfp, task.objcg, task, OWNER),
        "percpu": lambda: memory.alloc_percpu(8, 1, gfp, task.objcg, task, OWNER),
        "vmalloc": lambda: memory.vmalloc(8192, gfp, task.objcg, task, OWNER),
        "page": lambda: memory.alloc_pages(1, gfp, task.objcg, task, OWNER),
    }[kind]
    kernel.inject_fault(kind, 2)
    allocate()
    with pytest.raises(KernelError) as caught:
        allocate()
    assert caught.value.reason is Reason.FAULT_INJECTED
    allocate()
    kernel.check()


def test_recharging_moves_every_kind_of_charge_and_nothing_when_it_does_not_fit() -> None:
    kernel, task = node()
    kernel.mkdir("/b")
    kernel.mkdir("/full")
    kernel.write_file("/full", "memory.max", "8K")
    gfp, memory = GFP.GFP_KERNEL, kernel.memory
    for size in (100, 9000):
        memory.kmalloc(size, gfp, task.objcg, task, OWNER)
    memory.vmalloc(50_000, gfp, task.objcg, task, OWNER)
    memory.alloc_percpu(16, 3, gfp, task.objcg, task, OWNER)
    before = kernel.ledger()
    with pytest.raises(KernelError):
        memory.recharge(OWNER, kernel.cgroup("/full").memcg.objcg, task)
    kernel.check()
    assert [line for line in kernel.ledger() if line.owner == repr(OWNER)] == [
        line for line in before if line.owner == repr(OWNER)
    ]
    memory.recharge(OWNER, kernel.cgroup("/b").memcg.objcg, task)
    kernel.check()
    assert {line.cgroup for line in kernel.ledger() if line.owner == repr(OWNER)} == {"/b"}


def test_an_object_over_the_limit_takes_nothing_of_the_node() -> None:
    kernel, task = node(limit="64K")
    used = kernel.ram.used_bytes
    with pytest.raises(KernelError):
        kernel.memory.kmalloc(1 << 20, GFP.GFP_KERNEL | GFP.RETRY_MAYFAIL, task.objcg, task, OWNER)
    assert kernel.ram.used_bytes == used
    kernel.check()
