"""XSKMAP: redirect targets by AF_XDP socket [net/xdp/xskmap.c].

Profiles: all. Create: one area, struct and 8 bytes per slot, which is also the precharge up to 5.10. Per element: a
32-byte node on the socket's list, GFP_ATOMIC in all versions, so it is forced over any limit. A node holds a reference
on the map: a closed map lives until its sockets leave it. Freed after synchronize_net.
Gaps: no packet is ever redirected.
"""

from typing import ClassVar, Final, final

from bpfleet.abi.bpf import BPF_EXIST, BPF_NOEXIST, F_NUMA_NODE, F_RDONLY, F_WRONLY, Capability
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.maps.base import KeyBtf
from bpfleet.kernel.bpf.maps.slot import SlotMap, flush_lists_bytes, slot_of
from bpfleet.kernel.bpf.refusals import key_exists, not_found, refuse, require_net_admin
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.deferred import RCU_GRACE_NS
from bpfleet.kernel.errors import Reason
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memory import Account
from bpfleet.kernel.proc.sockets import Family, Socket, socket_of
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile

POINTER_BYTES: Final = 8
FLAGS: Final = F_NUMA_NODE | F_RDONLY | F_WRONLY
NODE_GFP: Final = GFP.GFP_ATOMIC | GFP.NOWARN


@final
class XskMap(SlotMap[tuple[Socket, Account]]):
    """XSKMAP."""

    capability = Capability.NET_ADMIN
    key_btf = KeyBtf.REFUSED
    gap: ClassVar[str] = "no packet is redirected"
    free_delay_ns: ClassVar[int] = RCU_GRACE_NS

    @classmethod
    def check_alloc(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """Start of xsk_map_alloc. Raises EPERM (up to 6.4), EINVAL."""
        require_net_admin(host, task)
        if attr.max_entries == 0 or attr.key_size != 4 or attr.value_size != 4:
            raise refuse(Errno.EINVAL, "an xskmap has 4-byte keys and values, and slots")
        if attr.map_flags & ~FLAGS:
            raise refuse(Errno.EINVAL, f"flags {attr.map_flags & ~FLAGS:#x} are not for xskmaps")

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """One area.

        >>> from bpfleet.kernel.profile import PROFILES
        >>> XskMap.plan(Creation(MapAttr(17, 4, 4, 1024), PROFILES["5.10"], 2)).estimate_bytes
        8512
        """
        attr, profile = creation.attr, creation.profile
        structs = profile.structs
        slots_bytes = POINTER_BYTES * attr.max_entries
        size = structs.xsk_map + slots_bytes
        lists = flush_lists_bytes(profile, creation.possible_cpus)
        return CostPlan(
            slots_bytes + lists if lists else size,
            (Allocation("xsk_map", How.AREA, size),),
            per_element=(
                Allocation("xsk_map_node", How.HELPER_KMALLOC, structs.xsk_map_node, gfp=NODE_GFP),
            ),
        )

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """xsk_map_mem_usage."""
        structs = profile.structs
        return structs.xsk_map + POINTER_BYTES * attr.max_entries + entries * structs.xsk_map_node

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        self._size: Final = site.memory.slab_size(host.profile.structs.xsk_map_node)

    def entries(self) -> int:
        """Sockets in the map."""
        return len(self.slots)

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """Never answers user space. Raises EOPNOTSUPP."""
        raise refuse(
            Errno.EOPNOTSUPP,
            "an xskmap cannot be read from user space",
            Reason.OPERATION_UNSUPPORTED,
        )

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Puts a socket into a slot; the same socket again is fine.

        Raises EINVAL, E2BIG, EBADF, ENOTSOCK, EOPNOTSUPP, EEXIST, ENOENT, ENOMEM.
        """
        index = self.slot_to_update(key, flags)
        sock = socket_of(context.task, slot_of(value))
        if sock.kind.family is not Family.XDP:
            raise refuse(Errno.EOPNOTSUPP, "the socket is not AF_XDP", Reason.OPERATION_UNSUPPORTED)
        account = self.site.take_element(self._size, context, NODE_GFP)
        old = self.slots.get(index)
        same = old is not None and old[0] is sock
        if same or (old and flags == BPF_NOEXIST) or (old is None and flags == BPF_EXIST):
            self.site.give_element(account, self._size, context.cpu)
            if same:
                return
            raise key_exists() if old else not_found("the slot is empty")
        self.get()
        self.slots[index] = (sock, account)
        sock.holders[self] = self._forget
        if old is not None:
            self._release(old, context.cpu)

    def let_go(self, entry: tuple[Socket, Account], context: OpContext) -> None:
        """The node goes at once."""
        self._release(entry, context.cpu)

    def free(self, cpu: int) -> None:
        """Nothing is left: every node held a reference."""
        assert not self.slots, len(self.slots)

    def _release(self, slot: tuple[Socket, Account], cpu: int) -> None:
        """xsk_map_sock_delete: the node goes at once, and with it a reference on the map."""
        sock, account = slot
        if not any(other is sock for other, _ in self.slots.values()):
            sock.holders.pop(self, None)
        self.site.give_element(account, self._size, cpu)
        self.put()

    def _forget(self, sock: Socket) -> None:
        """The socket was closed: it leaves all its slots."""
        for index in [index for index, held in self.slots.items() if held[0] is sock]:
            self._release(self.slots.pop(index), 0)
