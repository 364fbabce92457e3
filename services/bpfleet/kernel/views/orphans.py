"""Orphans: maps that live on without anyone who would answer for their memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.cgroup.tree import CgroupTree
from bpfleet.kernel.errors import KernelError
from bpfleet.kernel.mm.memory import Memory, Owner
from bpfleet.kernel.views.ledger import charged_by_owner

CGROUP_GONE: Final = "cgroup gone"
ONLY_PINNED: Final = "only pinned"


@dataclass(frozen=True, slots=True)
class Orphan:
    """One map, why it is an orphan, and who is charged for it now. ``charged_bytes`` are those of a memcg kernel."""

    map_id: int
    name: str
    map_type: str
    why: str
    created_in: str
    charged_to: str
    charged_bytes: int
    memlock_bytes: int
    pinned_paths: tuple[str, ...]


def find_orphans(maps: Iterable[BpfMap], cgroups: CgroupTree, memory: Memory) -> list[Orphan]:
    """Maps whose creator's cgroup has been removed, then maps that nothing but a pin holds; by id within each."""
    charges = charged_by_owner(memory, "map")
    gone, pinned = [], []
    for bpf_map in maps:
        if not _exists(bpf_map.creator_cgroup, cgroups):
            gone.append(_orphan(bpf_map, CGROUP_GONE, charges))
        elif bpf_map.pinned_paths and bpf_map.refs == len(bpf_map.pinned_paths):
            pinned.append(_orphan(bpf_map, ONLY_PINNED, charges))
    return gone + pinned


def _exists(path: str, cgroups: CgroupTree) -> bool:
    """Whether the cgroup still exists; another created under the same name counts as the same."""
    try:
        cgroups.find(path)
    except KernelError:
        return False
    return True


def _orphan(bpf_map: BpfMap, why: str, charges: dict[Owner, int]) -> Orphan:
    creator = bpf_map.site.creator
    payer = f"uid {bpf_map.charge.user.uid}" if bpf_map.charge.user is not None else "/"
    return Orphan(
        bpf_map.id,
        bpf_map.name,
        bpf_map.map_type.name.lower(),
        why,
        bpf_map.creator_cgroup,
        creator.memcg.path if creator is not None else payer,
        charges.get(bpf_map.site.owner, 0),
        bpf_map.memlock_bytes(),
        tuple(bpf_map.pinned_paths),
    )
