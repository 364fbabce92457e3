"""SOCKMAP, SOCKHASH: redirect targets by socket [net/core/sock_map.c].

Profiles: all. Create: the struct, then 8 bytes per slot (hash: 16 per bucket). Up to 5.10 the precharge is the slots,
or buckets and elements; SOCKHASH answers EINVAL to one of 4 GiB. Per element: nothing for SOCKMAP, one bpf_shtab_elem
for SOCKHASH, GFP_ATOMIC in all versions, freed after a grace period. A closed socket leaves its maps. Freed after two
grace periods.
Gaps: the socket's sk_psock and link, charged to nobody, are not modelled; no program is attached to the map.
"""

from typing import ClassVar, Final, final

from bpfleet.abi.bpf import BPF_EXIST, BPF_NOEXIST, F_NUMA_NODE, F_RDONLY, F_WRONLY, Capability
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import MAX_BPF_STACK, U32_MAX
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import (
    LARGEST_COST_BYTES,
    Allocation,
    CostPlan,
    Creation,
    How,
    struct_how,
)
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.jhash import jhash
from bpfleet.kernel.bpf.maps.base import BpfMap, KeyBtf
from bpfleet.kernel.bpf.maps.hlist import HashLists
from bpfleet.kernel.bpf.maps.slot import next_slot, slot_of, slot_out_of_range
from bpfleet.kernel.bpf.refusals import key_exists, map_full, not_found, refuse, require_net_admin
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.deferred import RCU_GRACE_NS
from bpfleet.kernel.errors import Reason
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memory import Account
from bpfleet.kernel.proc.sockets import Family, Protocol, Socket, SocketState, socket_of
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.units import round_up_8, roundup_pow_of_two

POINTER_BYTES: Final = 8
INT_MAX: Final = (1 << 31) - 1
FLAGS: Final = F_NUMA_NODE | F_RDONLY | F_WRONLY
ELEMENT_GFP: Final = GFP.GFP_ATOMIC | GFP.NOWARN


def cookie_of(sock: Socket | None, value_size: int) -> bytes:
    """What user space reads of a socket: its cookie, in 8-byte values only. Raises ENOSPC, ENOENT."""
    if value_size != 8:
        raise refuse(
            Errno.ENOSPC, "a socket's cookie needs a value of 8 bytes", Reason.OPERATION_UNSUPPORTED
        )
    if sock is None:
        raise not_found("no socket there")
    return sock.cookie().to_bytes(8, "little")


def socket_in_value(value: bytes, task: Task) -> Socket:
    """The socket whose descriptor a value holds. Raises EINVAL over INT_MAX, EBADF, ENOTSOCK."""
    fd = int.from_bytes(value, "little")
    if fd > INT_MAX:
        raise refuse(Errno.EINVAL, f"descriptor {fd} is over {INT_MAX}")
    return socket_of(task, fd)


def _suitable(sock: Socket, profile: KernelProfile) -> bool:
    kind = sock.kind
    if kind.protocol in (Protocol.TCP, Protocol.UDP):
        return True
    return kind.family is Family.UNIX and profile.sockmap_takes_any_psock


def _state_allowed(sock: Socket) -> bool:
    kind = sock.kind
    if kind.protocol is Protocol.TCP:
        return kind.state in (SocketState.ESTABLISHED, SocketState.LISTEN)
    if kind.protocol is Protocol.UDP:
        return kind.hashed
    return kind.state is SocketState.ESTABLISHED


class _SockMapBase(BpfMap):
    """What both types share: checks of attributes and sockets, and leaving when a socket closes."""

    capability = Capability.NET_ADMIN
    key_btf = KeyBtf.REFUSED
    gap: ClassVar[str] = (
        "sk_psock and link, charged to nobody, are not counted; no program is attached"
    )
    free_delay_ns: ClassVar[int] = 2 * RCU_GRACE_NS

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        self._sockets: Final[dict[bytes, Socket]] = {}

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """sock_map_update_elem_sys. Raises EINVAL, EBADF, ENOTSOCK, EOPNOTSUPP, E2BIG, EEXIST, ENOENT, ENOMEM."""
        sock = socket_in_value(value, context.task)
        if not _suitable(sock, self.host.profile) or not _state_allowed(sock):
            raise refuse(
                Errno.EOPNOTSUPP,
                "not a socket that can be redirected to: TCP established or listening, UDP bound",
                Reason.OPERATION_UNSUPPORTED,
            )
        if flags > BPF_EXIST:
            raise refuse(Errno.EINVAL, f"update flags {flags:#x} are unknown")
        self._check_key(key)
        old = self._sockets.get(key)
        if old is not None and flags == BPF_NOEXIST:
            raise key_exists()
        if old is None and flags == BPF_EXIST:
            raise not_found("no socket there")
        self._store(key, context)
        self._sockets[key] = sock
        sock.holders[self] = self._forget
        if old is not None and old is not sock:
            self._unlink(old)

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """The socket's cookie. Raises ENOSPC for 4-byte values, ENOENT."""
        return cookie_of(self._sockets.get(key), self.value_size)

    def free(self, cpu: int) -> None:
        """Lets go of every socket."""
        for key in list(self._sockets):
            self._drop(key)

    def _check_key(self, key: bytes) -> None:
        """Refuses a key beyond the map."""

    def _store(self, key: bytes, context: OpContext) -> None:
        """Makes room for ``key`` (and gives back what an old element of it took)."""

    def _drop(self, key: bytes) -> None:
        self._unlink(self._sockets.pop(key))

    def _unlink(self, sock: Socket) -> None:
        if not any(other is sock for other in self._sockets.values()):
            sock.holders.pop(self, None)

    def _forget(self, sock: Socket) -> None:
        for key in [key for key, held in self._sockets.items() if held is sock]:
            self._drop(key)


@final
class SockMap(_SockMapBase):
    """SOCKMAP: slots by index."""

    @classmethod
    def check_alloc(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """Start of sock_map_alloc. Raises EPERM (up to 6.4), EINVAL."""
        require_net_admin(host, task)
        limited = host.profile.sockmap_entries_limited and attr.max_entries > INT_MAX
        if attr.max_entries == 0 or limited or attr.key_size != 4 or attr.value_size not in (4, 8):
            raise refuse(
                Errno.EINVAL, "a sockmap has 4-byte keys, values of 4 or 8 bytes, and slots"
            )
        if attr.map_flags & ~FLAGS:
            raise refuse(Errno.EINVAL, f"flags {attr.map_flags & ~FLAGS:#x} are not for sockmaps")

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """The struct, then the slots; elements cost nothing.

        >>> from bpfleet.kernel.profile import PROFILES
        >>> SockMap.plan(Creation(MapAttr(15, 4, 4, 1024), PROFILES["5.10"], 2)).estimate_bytes
        8192
        """
        attr, profile = creation.attr, creation.profile
        slots_bytes = POINTER_BYTES * attr.max_entries
        return CostPlan(
            slots_bytes,
            (
                Allocation("bpf_stab", struct_how(profile), profile.structs.bpf_stab),
                Allocation("slots", How.AREA, slots_bytes),
            ),
            precharge_at=1,
        )

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """sock_map_mem_usage."""
        return profile.structs.bpf_stab + POINTER_BYTES * attr.max_entries

    def delete(self, key: bytes, context: OpContext) -> None:
        """Empties a slot. Raises EINVAL beyond the map and for an empty slot."""
        if key not in self._sockets:
            raise refuse(
                Errno.EINVAL,
                f"slot {slot_of(key)} of {self.max_entries} holds no socket",
                Reason.KEY_NOT_FOUND,
            )
        self._drop(key)

    def next_key(self, key: bytes | None) -> bytes:
        """The next slot, used or not. Raises ENOENT after the last."""
        return next_slot(key, self.max_entries)

    def _check_key(self, key: bytes) -> None:
        if slot_of(key) >= self.max_entries:
            raise slot_out_of_range(slot_of(key), self.max_entries)


def _buckets(attr: MapAttr) -> int:
    """buckets_num, a u32: 0 when max_entries is over 2^31."""
    return roundup_pow_of_two(attr.max_entries) & U32_MAX


@final
class SockHash(_SockMapBase):
    """SOCKHASH: any key up to 512 bytes; buckets by jhash without a seed, newest first."""

    @classmethod
    def check_alloc(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """Start of sock_hash_alloc. Raises EPERM (up to 6.4), EINVAL, E2BIG for a long key."""
        require_net_admin(host, task)
        if attr.max_entries == 0 or attr.key_size == 0 or attr.value_size not in (4, 8):
            raise refuse(Errno.EINVAL, "a sockhash has a key, values of 4 or 8 bytes, and entries")
        if attr.map_flags & ~FLAGS:
            raise refuse(Errno.EINVAL, f"flags {attr.map_flags & ~FLAGS:#x} are not for sockhashes")
        if attr.key_size > MAX_BPF_STACK:
            raise refuse(Errno.E2BIG, f"key size {attr.key_size} is over {MAX_BPF_STACK}")
        buckets = _buckets(attr)
        if not 0 < buckets <= U32_MAX // host.profile.structs.bpf_shtab_bucket:
            raise refuse(Errno.EINVAL, f"max_entries {attr.max_entries} needs too many buckets")
        if host.profile.is_rlimit:
            creation = Creation(attr, host.profile, host.possible_cpus)
            cost = cls.plan(creation).estimate_bytes
            if cost >= LARGEST_COST_BYTES:
                raise refuse(Errno.EINVAL, f"the estimate of {cost} bytes does not fit 32 bits")

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """The struct, then the buckets; elements when inserted.

        >>> from bpfleet.kernel.profile import PROFILES
        >>> plan = SockHash.plan(Creation(MapAttr(18, 4, 8, 1024), PROFILES["5.10"], 2))
        >>> plan.estimate_bytes, plan.per_element[0].size_bytes
        (73728, 56)
        """
        attr, profile = creation.attr, creation.profile
        structs = profile.structs
        element = structs.bpf_shtab_elem + round_up_8(attr.key_size)
        buckets_bytes = structs.bpf_shtab_bucket * _buckets(attr)
        return CostPlan(
            buckets_bytes + element * attr.max_entries,
            (
                Allocation("bpf_shtab", struct_how(profile), structs.bpf_shtab),
                Allocation("buckets", How.AREA, buckets_bytes),
            ),
            precharge_at=1,
            per_element=(
                Allocation("bpf_shtab_elem", How.HELPER_KMALLOC, element, gfp=ELEMENT_GFP),
            ),
        )

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """sock_hash_mem_usage."""
        structs = profile.structs
        element = structs.bpf_shtab_elem + round_up_8(attr.key_size)
        return structs.bpf_shtab + structs.bpf_shtab_bucket * _buckets(attr) + entries * element

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        element = host.profile.structs.bpf_shtab_elem + round_up_8(attr.key_size)
        self._size: Final = site.memory.slab_size(element)
        self._accounts: Final[dict[bytes, Account]] = {}
        self._order: Final = HashLists()
        self._mask: Final = _buckets(attr) - 1

    def entries(self) -> int:
        """Sockets in the map."""
        return len(self._accounts)

    def delete(self, key: bytes, context: OpContext) -> None:
        """Removes a key. Raises ENOENT."""
        if key not in self._sockets:
            raise not_found()
        self._drop(key)

    def next_key(self, key: bytes | None) -> bytes:
        """Buckets ascending, newest first in each; an unknown key restarts. Raises ENOENT."""
        found = self._order.after(key)
        if found is None:
            raise not_found("no key follows")
        return found

    def _store(self, key: bytes, context: OpContext) -> None:
        old = self._accounts.get(key)
        if old is None and len(self._accounts) >= self.max_entries:
            raise map_full(Errno.E2BIG, self.max_entries)
        account = self.site.take_element(self._size, context, ELEMENT_GFP)
        self._accounts[key] = account
        self._order.add(key, jhash(key, 0) & self._mask)
        if old is not None:
            self.site.give_after_rcu(old, self._size)

    def _drop(self, key: bytes) -> None:
        super()._drop(key)
        self._order.remove(key)
        self.site.give_after_rcu(self._accounts.pop(key), self._size)
