"""Conservation laws over all subsystems of a node, by the names of docs/ARCHITECTURE.md. A breach is our bug."""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final

from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.kernel.cgroup.tree import CgroupTree
from bpfleet.kernel.mm.memcg import Memcg, Stat
from bpfleet.kernel.mm.memory import Memory
from bpfleet.kernel.mm.swapfile import SwapEntries, SwapSpace
from bpfleet.kernel.proc.processes import Processes
from bpfleet.kernel.proc.user import UserTable
from bpfleet.kernel.units import bytes_of

BPF_KINDS: Final = frozenset({"map", "prog"})


def check_single_owner(memory: Memory) -> None:
    """*single owner*: every ledger line holds something, and all of them together are the RAM in use."""
    taken = 0
    for account in memory.accounts.values():
        owner, kind = account.owner, account.kind
        assert account in owner.lines(), (owner, kind)
        assert account.count > 0 or not account.charged_bytes, (owner, kind, account.count)
        assert account.taken_bytes >= 0, (owner, kind, account.taken_bytes)
        taken += account.taken_bytes
    assert taken == memory.node.used_bytes, (taken, memory.node.used_bytes)
    assert memory.node.used_bytes <= memory.node.ram_bytes, memory.node.used_bytes


def check_charge_conservation(memory: Memory, cgroups: CgroupTree) -> None:
    """*charge conservation*: usage = live charges of the memcg and below + what CPUs hold in stock for them."""
    controller = memory.controller
    own: Counter[Memcg] = Counter()
    lines: Counter[int] = Counter()
    for account in memory.accounts.values():
        if account.objcg is not None and account.count:
            own[account.objcg.memcg] += account.charged_bytes
            lines[id(account.objcg)] += 1
    known = controller.root.pre_order()
    for memcg in known:
        own[memcg] += bytes_of(controller.stocked_pages(memcg))
        own[memcg] += sum(controller.stocked_bytes(objcg) for objcg in memcg.objcgs)
        for objcg in (*memcg.objcgs, memcg.css_ref):
            assert objcg.memcg is memcg, (objcg.memcg.path, memcg.path)
            assert objcg.accounts == lines[id(objcg)], (memcg.path, objcg.accounts)
    for memcg in reversed(known):  # children before parents: each passes its subtree's charges on
        if memcg.parent is None:
            continue
        own[memcg.parent] += own[memcg]
        assert not memcg.online or bytes_of(memcg.memory.usage) == own[memcg], (
            f"charge conservation: {memcg.path} counts {bytes_of(memcg.memory.usage)} bytes,"
            f" its charges are {own[memcg]}"
        )
    assert all(cgroup.memcg.online for cgroup in cgroups.root.pre_order()), (
        "a cgroup lost its memcg"
    )


def check_hierarchy(memory: Memory) -> None:
    """*hierarchy*: no memcg counts less than its children together.

    Removed children are left out: what was charged to them is taken off their parent alone.
    """
    for memcg in memory.controller.root.pre_order()[1:]:
        below = sum(child.memory.usage for child in memcg.children if child.online)
        assert memcg.memory.usage >= below, (memcg.path, memcg.memory.usage, below)


def check_limit(memory: Memory) -> None:
    """*limit*: usage <= max, except after a forced charge or a limit set below usage."""
    for memcg in memory.controller.root.pre_order()[1:]:
        counter = memcg.memory
        if counter.usage <= counter.max:
            counter.exceeded_by_rule = False
        assert counter.usage <= counter.max or counter.exceeded_by_rule, (
            f"limit: {memcg.path} uses {bytes_of(counter.usage)} of {bytes_of(counter.max)} bytes"
        )


def check_memlock_conservation(users: UserTable) -> None:
    """*memlock conservation*: a user's counter = what its holders hold, leaks among them."""
    for user in users.all():
        held = sum(user.holders.values())
        assert all(pages > 0 for pages in user.holders.values()), user.holders
        assert user.locked_vm_pages == held, (user.uid, user.locked_vm_pages, held)


def check_no_orphan(
    memory: Memory, processes: Processes, live_bpf: Collection[tuple[str, int]]
) -> None:
    """*no orphan*: with no work deferred, what is charged belongs to something that exists.

    ``live_bpf`` are the (kind, id) of all maps and programs there are.
    """
    for account in memory.accounts.values():
        owner = account.owner
        if owner.kind in BPF_KINDS and account.count:
            assert (owner.kind, owner.ident) in live_bpf, f"{owner} is gone but still holds memory"
        if owner.kind == "process" and account.count:
            processes.find(owner.ident)


def check_swap(swap: SwapSpace | None, entries: Iterable[SwapEntries], memory: Memory) -> None:
    """*swap conservation*: what is used = the entries of all owners; a counter = its entries and those below it."""
    own: Counter[Memcg] = Counter()
    for each in entries:
        held = [pages for line in each.lines.values() for pages in line.values()]
        assert all(pages > 0 for pages in held), held
        assert sum(held) == each.pages, (held, each.pages)
        for line in each.lines.values():
            own.update(line)
    used, total = (0, 0) if swap is None else (swap.used_pages, swap.total_pages)
    assert used == own.total() <= total, (used, own.total(), total)
    for memcg in reversed(memory.controller.root.pre_order()):
        assert memcg.stat[Stat.SWAP_PAGES] == own[memcg], (memcg.path, own[memcg])
        if memcg.parent is None:
            continue
        assert memcg.swap.usage == own[memcg], (memcg.path, memcg.swap.usage, own[memcg])
        own[memcg.parent] += own[memcg]


def check_stats(memory: Memory) -> None:
    """*charge conservation*, of memory.stat: the kernel field is never below what its parts sum to, beyond a page."""
    for memcg in memory.controller.root.pre_order()[1:]:
        assert all(value >= 0 for value in memcg.stat), (memcg.path, memcg.stat)
        assert memcg.usage_bytes % PAGE_SIZE == 0, memcg.usage_bytes
