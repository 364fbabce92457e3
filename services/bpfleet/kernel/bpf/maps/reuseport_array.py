"""REUSEPORT_SOCKARRAY: sockets of a SO_REUSEPORT group by index [kernel/bpf/reuseport_array.c].

Profiles: all. Create: one area, struct and 8 bytes per slot, which is also the precharge up to 5.10. Per element:
nothing; a socket can be in one such map only and leaves it when closed. Freed from a work item.
Gaps: none in cost; no program ever selects a socket.
"""

from typing import ClassVar, final

from bpfleet.abi.bpf import BPF_EXIST, BPF_NOEXIST, Capability
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.maps.array import check_array
from bpfleet.kernel.bpf.maps.slot import SlotMap, slot_of
from bpfleet.kernel.bpf.maps.sock_map import INT_MAX, POINTER_BYTES, cookie_of
from bpfleet.kernel.bpf.refusals import key_exists, not_found, refuse, require_bpf
from bpfleet.kernel.errors import Reason
from bpfleet.kernel.proc.sockets import Family, Protocol, Socket, socket_of
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile


@final
class ReuseportArray(SlotMap[Socket]):
    """REUSEPORT_SOCKARRAY."""

    capability = Capability.BPF
    gap: ClassVar[str] = "no program selects a socket"
    delete_beyond = Errno.E2BIG
    delete_needs_entry = True

    @classmethod
    def check(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """reuseport_array_alloc_check: the value, then as ARRAY. Raises EINVAL, E2BIG."""
        if attr.value_size not in (4, 8):
            raise refuse(Errno.EINVAL, f"value size {attr.value_size} is not 4 or 8")
        check_array(attr, host.profile)

    @classmethod
    def check_alloc(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """Start of reuseport_array_alloc. Raises EPERM (up to 6.4)."""
        require_bpf(host, task)

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """One area, never rounded for index masking.

        >>> from bpfleet.kernel.profile import PROFILES
        >>> ReuseportArray.plan(Creation(MapAttr(20, 4, 8, 1000), PROFILES["5.10"], 2)).estimate_bytes
        8256
        """
        attr, profile = creation.attr, creation.profile
        size = profile.structs.reuseport_array + POINTER_BYTES * attr.max_entries
        return CostPlan(size, (Allocation("reuseport_array", How.AREA, size),))

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """reuseport_array_mem_usage."""
        return profile.structs.reuseport_array + POINTER_BYTES * attr.max_entries

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """The socket's cookie. Raises ENOSPC for 4-byte values, ENOENT."""
        return cookie_of(self.slots.get(slot_of(key)), self.value_size)

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Puts a bound SO_REUSEPORT socket into a slot.

        Raises EINVAL, E2BIG, EBADF, ENOTSOCK, EEXIST, ENOENT, 524 for other protocols, EBUSY for a socket in use.
        """
        index = self.slot_to_update(key, flags)
        fd = int.from_bytes(value, "little")
        if self.value_size == 8 and fd > INT_MAX:
            raise refuse(Errno.EINVAL, f"descriptor {fd} is over {INT_MAX}")
        sock = socket_of(context.task, fd)
        old = self.slots.get(index)
        if old is not None and flags == BPF_NOEXIST:
            raise key_exists()
        if old is None and flags == BPF_EXIST:
            raise not_found("the slot is empty")
        self._check_socket(sock)
        if old is not None:
            self.let_go(old, context)
        self.slots[index] = sock
        sock.reuseport_array = self
        sock.holders[self] = self._forget

    def let_go(self, entry: Socket, context: OpContext | None = None) -> None:
        """The socket may enter an array again."""
        entry.reuseport_array = None
        entry.holders.pop(self, None)

    def free(self, cpu: int) -> None:
        """Lets go of every socket."""
        while self.slots:
            self.let_go(self.slots.popitem()[1])

    def _check_socket(self, sock: Socket) -> None:
        """reuseport_array_update_check, the part about the new socket."""
        kind = sock.kind
        if kind.family is not Family.INET or kind.protocol is Protocol.NONE:
            raise refuse(
                Errno.ENOTSUPP, "only TCP and UDP sockets fit", Reason.OPERATION_UNSUPPORTED
            )
        if not kind.hashed or not kind.reuseport:
            raise refuse(Errno.EINVAL, "the socket is not bound with SO_REUSEPORT")
        if sock.reuseport_array is not None:
            raise refuse(Errno.EBUSY, "the socket is in an array already", Reason.OBJECT_BUSY)

    def _forget(self, sock: Socket) -> None:
        for index in [index for index, held in self.slots.items() if held is sock]:
            self.let_go(self.slots.pop(index))
