"""DEVMAP, DEVMAP_HASH: redirect targets by network device [kernel/bpf/devmap.c].

Profiles: all. Create: the struct, then 8 bytes per slot (hash: per bucket). Up to 5.10 the precharge is the slots
alone, and a refused precharge answers EINVAL. Per element: one bpf_dtab_netdev, freed after a grace period; forced up
to 5.19, failing at the limit from 6.0. Freed after synchronize_rcu and rcu_barrier.
Gaps: devices are the numbers in ``Host.ifindexes``; no packet is ever redirected.
"""

import struct
from typing import ClassVar, Final, final

from bpfleet.abi.bpf import (
    BPF_EXIST,
    BPF_NOEXIST,
    F_NUMA_NODE,
    F_RDONLY,
    F_RDONLY_PROG,
    F_WRONLY,
    AttachType,
    Capability,
    MapType,
)
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How, struct_how
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.maps.base import KeyBtf
from bpfleet.kernel.bpf.maps.hlist import HashLists
from bpfleet.kernel.bpf.maps.slot import (
    SlotMap,
    empty_slot,
    flush_lists_bytes,
    redirect_value_sizes,
    slot_of,
)
from bpfleet.kernel.bpf.program import BpfProg, xdp_prog_for
from bpfleet.kernel.bpf.refusals import key_exists, map_full, not_found, refuse, require_net_admin
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.deferred import RCU_GRACE_NS
from bpfleet.kernel.errors import KernelError
from bpfleet.kernel.mm.memory import Account
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.units import roundup_pow_of_two

POINTER_BYTES: Final = 8
HASH_MAX_ENTRIES: Final = 1 << 31
FLAGS: Final = F_NUMA_NODE | F_RDONLY | F_WRONLY


@final
class _Entry:
    """struct bpf_dtab_netdev."""

    __slots__ = ("account", "ifindex", "prog")

    def __init__(self, ifindex: int, prog: BpfProg | None, account: Account) -> None:
        self.ifindex: Final = ifindex
        self.prog: Final = prog
        self.account: Final = account


def _slots(attr: MapAttr) -> int:
    if attr.map_type == MapType.DEVMAP_HASH:
        return roundup_pow_of_two(attr.max_entries)
    return attr.max_entries


class DevMap(SlotMap[_Entry]):
    """DEVMAP; the hash variant below shares its entries."""

    capability = Capability.NET_ADMIN
    key_btf = KeyBtf.REFUSED
    gap: ClassVar[str] = "the node's devices are numbers; no packet is redirected"
    charge_errno: ClassVar[Errno | None] = Errno.EINVAL
    free_delay_ns: ClassVar[int] = 2 * RCU_GRACE_NS

    @classmethod
    def check(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """dev_map_alloc_check. Raises EPERM (up to 6.4), EINVAL."""
        require_net_admin(host, task)
        sizes = redirect_value_sizes(host.profile)
        if attr.max_entries == 0 or attr.key_size != 4 or attr.value_size not in sizes:
            raise refuse(
                Errno.EINVAL,
                "a devmap has 4-byte keys, values of 4 bytes (from 5.8 also 8), and slots",
            )
        if attr.map_flags & ~FLAGS:
            raise refuse(Errno.EINVAL, f"flags {attr.map_flags & ~FLAGS:#x} are not for devmaps")
        if attr.map_type == MapType.DEVMAP_HASH and attr.max_entries > HASH_MAX_ENTRIES:
            raise refuse(Errno.EINVAL, f"max_entries {attr.max_entries} is over 2^31")

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """The struct, then the slots or buckets.

        >>> from bpfleet.kernel.profile import PROFILES
        >>> plan = DevMap.plan(Creation(MapAttr(25, 4, 4, 1000), PROFILES["6.12"], 2))
        >>> plan.estimate_bytes, [a.size_bytes for a in plan.allocations]
        (8192, [296, 8192])
        """
        attr, profile = creation.attr, creation.profile
        structs = profile.structs
        slots_bytes = POINTER_BYTES * _slots(attr)
        return CostPlan(
            slots_bytes + flush_lists_bytes(profile, creation.possible_cpus),
            (
                Allocation("bpf_dtab", struct_how(profile), structs.bpf_dtab),
                Allocation("slots", How.AREA, slots_bytes),
            ),
            precharge_at=1,
            per_element=(
                Allocation("bpf_dtab_netdev", How.HELPER_KMALLOC, structs.bpf_dtab_netdev),
            ),
        )

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """dev_map_mem_usage."""
        structs = profile.structs
        return structs.bpf_dtab + POINTER_BYTES * _slots(attr) + entries * structs.bpf_dtab_netdev

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        self.map_flags |= F_RDONLY_PROG
        self._items = 0  # dtab->items, which only the memlock line shows
        self._size: Final = site.memory.slab_size(host.profile.structs.bpf_dtab_netdev)

    def entries(self) -> int:
        """dtab->items, which may exceed the devices in the map.

        It rises with every update of an empty slot, also with one that leaves it empty, and falls only with a delete.
        """
        return self._items

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """The device's number, and the program's id in 8-byte values. Raises ENOENT."""
        entry = self.slots.get(slot_of(key))
        if entry is None:
            raise empty_slot(slot_of(key))
        prog_id = entry.prog.id if entry.prog is not None else 0
        return struct.pack("<II", entry.ifindex, prog_id)[: self.value_size]

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Points a slot at a device; device 0 empties it. Raises EINVAL, E2BIG, EEXIST, ENOMEM."""
        index = self.slot_to_update(key, flags)
        if flags == BPF_NOEXIST:
            raise key_exists()
        ifindex, prog_fd = _parse(value)
        if ifindex:
            old = self._replace(index, self._make(ifindex, prog_fd, context))
        elif prog_fd > 0:
            raise refuse(Errno.EINVAL, "a program needs a device")
        else:
            old = self._replace(index, None)
        if not old:
            self._items += 1

    def let_go(self, entry: _Entry, context: OpContext) -> None:
        """The entry goes after a grace period."""
        self._items -= 1
        self._free_after_rcu(entry)

    def free(self, cpu: int) -> None:
        """Drops all entries at once; a grace period has passed."""
        for entry in self.slots.values():
            self._drop_prog(entry)
            self.site.give_element(entry.account, self._size, cpu)
        self.slots.clear()

    def _make(self, ifindex: int, prog_fd: int, context: OpContext) -> _Entry:
        """__dev_map_alloc_node: memory first, then the device and the program. Raises ENOMEM, EINVAL."""
        account = self.site.take_element(self._size, context, self.site.element_gfp())
        try:
            if ifindex not in self.host.ifindexes:
                raise refuse(Errno.EINVAL, f"network device {ifindex} does not exist")
            prog = self._prog(prog_fd, context.task)
        except KernelError:
            self.site.give_element(account, self._size, context.cpu)
            raise
        return _Entry(ifindex, prog, account)

    def _prog(self, fd: int, task: Task) -> BpfProg | None:
        if fd <= 0:
            return None
        try:
            prog = xdp_prog_for(task, fd, AttachType.XDP_DEVMAP)
        except KernelError as error:  # any failure becomes EINVAL
            raise KernelError(Errno.EINVAL, error.reason, error.detail) from error
        prog.get()
        return prog

    def _replace(self, index: int, entry: _Entry | None) -> bool:
        """Changes a slot; returns whether something was in it."""
        old = self.slots.pop(index, None)
        if entry is not None:
            self.slots[index] = entry
        if old is not None:
            self._free_after_rcu(old)
        return old is not None

    def _free_after_rcu(self, entry: _Entry) -> None:
        self._drop_prog(entry)
        self.site.give_after_rcu(entry.account, self._size)

    def _drop_prog(self, entry: _Entry) -> None:
        if entry.prog is not None:
            entry.prog.put()


@final
class DevMapHash(DevMap):
    """DEVMAP_HASH: any u32 key; buckets by its low bits, newest first."""

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        self._order: Final = HashLists()
        self._mask: Final = _slots(attr) - 1

    def entries(self) -> int:
        """Devices in the map."""
        return len(self.slots)

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Stores a device; BPF_EXIST does not ask for the key to exist. Raises EINVAL, EEXIST, E2BIG, ENOMEM."""
        ifindex, prog_fd = _parse(value)
        if flags > BPF_EXIST or not ifindex:
            raise refuse(Errno.EINVAL, f"flags {flags:#x}, device {ifindex}: unknown, or no device")
        index = slot_of(key)
        known = index in self.slots
        if known and flags & BPF_NOEXIST:
            raise key_exists()
        entry = self._make(ifindex, prog_fd, context)
        if not known and len(self.slots) >= self.max_entries:
            self._free_after_rcu(entry)
            raise map_full(Errno.E2BIG, self.max_entries)
        self._order.add(key, index & self._mask)
        self._replace(index, entry)

    def delete(self, key: bytes, context: OpContext) -> None:
        """Removes a key. Raises ENOENT."""
        if slot_of(key) not in self.slots:
            raise not_found()
        self._order.remove(key)
        self._replace(slot_of(key), None)

    def next_key(self, key: bytes | None) -> bytes:
        """Buckets ascending, newest first in each; an unknown key restarts. Raises ENOENT."""
        found = self._order.after(key)
        if found is None:
            raise not_found("no key follows")
        return found


def _parse(value: bytes) -> tuple[int, int]:
    """(ifindex, program descriptor) of struct bpf_devmap_val; -1 when the value has no program."""
    ifindex = int.from_bytes(value[:4], "little")
    fd = int.from_bytes(value[4:8], "little", signed=True) if len(value) == 8 else -1
    return ifindex, fd
