"""The ledger: every live charge with its payer and owner."""

from dataclasses import dataclass

from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm.memcg import Memcg
from bpfleet.kernel.mm.memory import Account, Memory, Owner
from bpfleet.kernel.proc.user import UserTable
from bpfleet.kernel.units import bytes_of


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """Live charges of one owner against one cgroup, in bytes as charged.

    ``cgroup`` pays ("/" pays nothing). ``owner`` and ``kind`` say for what; the owner ``cpu stock`` is memory that was
    charged ahead and that CPUs hold ready.
    """

    cgroup: str
    owner: str
    kind: str
    count: int
    bytes: int


def ledger(memory: Memory) -> list[LedgerLine]:
    """All lines by cgroup, owner and kind. Those of a cgroup and below sum exactly to its memory.current.

    Charges that outlive their cgroup stand under the cgroup that answers for them now.
    """
    lines: dict[tuple[str, str, str], tuple[int, int]] = {}
    for account in memory.accounts.values():
        if account.objcg is not None and account.count:
            key = (
                _living(account.objcg.memcg).path,
                repr(account.owner),
                account.kind.name.lower(),
            )
            count, held = lines.get(key, (0, 0))
            lines[key] = (count + account.count, held + account.charged_bytes)
    for memcg in memory.controller.root.pre_order()[1:]:
        stocked = bytes_of(memory.controller.stocked_pages(memcg))
        stocked += sum(memory.controller.stocked_bytes(objcg) for objcg in memcg.objcgs)
        if stocked:
            key = (_living(memcg).path, "cpu stock", "stock")
            lines[key] = (1, lines.get(key, (0, 0))[1] + stocked)
    return [
        LedgerLine(cgroup, owner, kind, count, held)
        for (cgroup, owner, kind), (count, held) in sorted(lines.items())
    ]


def _living(memcg: Memcg) -> Memcg:
    """The nearest memcg that still has a directory."""
    while not memcg.online and memcg.parent is not None:
        memcg = memcg.parent
    return memcg


def charged_by_owner(memory: Memory, kind: str) -> dict[Owner, int]:
    """Bytes charged now for each owner of a kind (``map``, ``prog``), over all payers."""
    held: dict[Owner, int] = {}
    for account in memory.accounts.values():
        if account.owner.kind == kind and account.objcg is not None:
            held[account.owner] = held.get(account.owner, 0) + account.charged_bytes
    return held


def holders_of(error: KernelError, memory: Memory, users: UserTable) -> list[tuple[str, int]]:
    """Who holds the counter that an error names, largest first, in bytes; empty when it names none."""
    held: dict[str, int] = {}
    if error.reason is Reason.RLIMIT_MEMLOCK_EXCEEDED and "uid" in error.numbers:
        user = users.get(int(error.numbers["uid"]))
        held = {what: bytes_of(pages) for what, pages in user.holders.items()}
    elif error.reason is Reason.MEMCG_LIMIT_EXCEEDED and "cgroup" in error.numbers:
        path = str(error.numbers["cgroup"])
        for account in memory.accounts.values():
            if account.charged_bytes and _is_charged_below(account, path):
                name = repr(account.owner)
                held[name] = held.get(name, 0) + account.charged_bytes
    return sorted(held.items(), key=lambda item: (-item[1], item[0]))


def _is_charged_below(account: Account, path: str) -> bool:
    memcg = account.objcg.memcg if account.objcg is not None else None
    while memcg is not None and memcg.path != path:
        memcg = memcg.parent
    return memcg is not None
