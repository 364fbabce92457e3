"""HASH [kernel/bpf/hashtab.c], since 3.19, and what all hash types share. All profiles.

At create: struct, buckets (16 B each, a power of two), 5.11 - 6.15 eight per-CPU lock counters, then either all
elements and one spare per CPU, or (NO_PREALLOC, from 6.1) the prefill of the element caches. Per element: nothing when
preallocated, else one element: GFP_ATOMIC up to 5.19, GFP_NOWAIT in 6.0, through bpf_mem_alloc from 6.1. Replacing
takes a second element before the first is given back. Freed: with the map, up to 6.0 behind an rcu_barrier.
Known gap: none.
"""

from collections.abc import Collection, Sequence
from typing import Final

from bpfleet.abi.bpf import (
    BPF_EXIST,
    BPF_F_LOCK,
    BPF_NOEXIST,
    F_NO_COMMON_LRU,
    F_NO_PREALLOC,
    F_NUMA_NODE,
    F_ZERO_SEED,
    Capability,
    Cmd,
    MapType,
)
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import KMALLOC_MAX_SIZE, MAX_BPF_STACK, U32_MAX
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How, struct_how
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.jhash import jhash, jhash_many
from bpfleet.kernel.bpf.maps.array import ACCESS_MASK, check_flags, check_percpu_value, too_big
from bpfleet.kernel.bpf.maps.base import BATCH_ALL, BpfMap, SpinLocks, check_value_lock
from bpfleet.kernel.bpf.maps.hlist import HashLists
from bpfleet.kernel.bpf.memalloc import BpfMemAlloc, prefill, unit_bytes
from bpfleet.kernel.bpf.refusals import key_exists, map_full, not_found, refuse, require_bpf
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.deferred import RCU_GRACE_NS, WORK_ITEM_NS
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memory import Account
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.units import round_up_8, roundup_pow_of_two

POINTER_BYTES: Final = 8
MAP_LOCKED_COUNT: Final = 8
MAX_ENTRIES: Final = 1 << 31
MAX_BUCKETS: Final = U32_MAX // 16
_CREATE_FLAGS: Final = F_NO_PREALLOC | F_NO_COMMON_LRU | F_NUMA_NODE | ACCESS_MASK | F_ZERO_SEED
_LRU_TYPES: Final = (MapType.LRU_HASH, MapType.LRU_PERCPU_HASH)
_PERCPU_TYPES: Final = (MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH)


class HashTable(BpfMap):
    """Keys to values with the kernel's walking order. Subclasses say how an element gets its memory.

    The walking order is built on the first walk and kept from then on, so maps nobody walks pay nothing for it.
    """

    __slots__ = ("_bucket_mask", "_elements", "_order", "prealloc")

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        self._elements: dict[bytes, bytes] = {}
        self._order: HashLists | None = None
        self._bucket_mask: Final = roundup_pow_of_two(attr.max_entries) - 1
        self.prealloc: Final = not attr.map_flags & F_NO_PREALLOC

    def own_free_delay(self) -> int:
        """Behind an rcu_barrier up to 6.0; since then only the caches of elements on demand wait [htab_map_free]."""
        waits = not self.prealloc or not self.host.profile.hash_uses_mem_alloc
        return RCU_GRACE_NS if waits else WORK_ITEM_NS

    @classmethod
    def check(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """htab_map_alloc_check. Raises EPERM, EINVAL, ENOTSUPP, E2BIG."""
        check_hash(attr, host, task)

    @classmethod
    def check_alloc(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """E2BIG for more than 2^31 entries or a bucket array over 4 GiB."""
        entries = cls.effective(attr, host.possible_cpus).max_entries
        if entries > MAX_ENTRIES or roundup_pow_of_two(entries) > MAX_BUCKETS:
            raise refuse(Errno.E2BIG, f"{entries} entries need more buckets than 32 bits can size")

    # -- reading -------------------------------------------------------------------------------------------------

    def entries(self) -> int:
        """Keys in the map."""
        return len(self._elements)

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """Raises ENOENT."""
        value = self._elements.get(key)
        if value is None:
            raise not_found()
        return value

    def next_key(self, key: bytes | None) -> bytes:
        """Bucket order; an unknown key restarts at the first. Raises ENOENT at the end."""
        found = self.walk().after(key)
        if found is None:
            raise not_found("that was the last key")
        return found

    def lookup_and_delete(self, key: bytes, flags: int, context: OpContext) -> bytes:
        """Raises ENOENT."""
        value = self.lookup(key, context)
        self.delete(key, context)
        return value

    @classmethod
    def has_lookup_and_delete(cls, profile: KernelProfile) -> bool:
        """Since 5.14."""
        return profile.hash_lookup_and_delete

    @classmethod
    def batch_commands(cls, profile: KernelProfile) -> frozenset[Cmd]:
        """All four."""
        return BATCH_ALL

    # -- the walking order ---------------------------------------------------------------------------------------

    def walk(self) -> HashLists:
        """The keys in walking order, for batches and `next_key`."""
        order = self._order
        if order is None:
            order = self._order = HashLists()
            self._order_many(order, list(self._elements))
        return order

    def _bucket(self, key: bytes) -> int:
        return jhash(key, self.hash_seed) & self._bucket_mask

    def _order_many(self, order: HashLists, keys: Sequence[bytes]) -> None:
        mask = self._bucket_mask
        hashes = jhash_many(keys, self.hash_seed)
        order.add_many(zip(keys, [each & mask for each in hashes], strict=True))

    @property
    def buckets(self) -> int:
        """Number of hash buckets."""
        return self._bucket_mask + 1

    def values_of(self, keys: Sequence[bytes]) -> list[bytes]:
        """The values of existing keys, as user space reads them."""
        elements = self._elements
        return [elements[key] for key in keys]

    # -- storing -------------------------------------------------------------------------------------------------

    def _store_newest(self, key: bytes, value: bytes) -> None:
        """Puts ``key`` at the head of its bucket, whether it was there or not."""
        self._elements.pop(key, None)
        self._elements[key] = value
        if self._order is not None:
            self._order.add(key, self._bucket(key))

    def _drop(self, key: bytes) -> None:
        del self._elements[key]
        if self._order is not None:
            self._order.remove(key)

    def _store_many(self, fresh: dict[bytes, bytes], replaced: Collection[bytes]) -> None:
        """`_store_newest` of distinct keys in order; ``replaced`` are those that exist already."""
        elements = self._elements
        for key in replaced:
            del elements[key]
        elements.update(fresh)
        order = self._order_after(len(fresh))
        if order is not None:
            order.remove_many(replaced)
            self._order_many(order, list(fresh))

    def _drop_many(self, keys: Collection[bytes]) -> None:
        """`_drop` of distinct keys that are all there."""
        elements = self._elements
        for key in keys:
            del elements[key]
        order = self._order_after(len(keys))
        if order is not None:
            order.remove_many(keys)

    def _order_after(self, changes: int) -> HashLists | None:
        """The walking order, if it is kept: after a change of half the map it is rebuilt when needed."""
        if 2 * changes >= len(self._elements):
            self._order = None
        return self._order

    def _check_presence(self, present: bool, flags: int) -> None:
        """EEXIST or ENOENT as the flags ask [check_flags]."""
        if flags == BPF_NOEXIST and present:
            raise key_exists()
        if flags == BPF_EXIST and not present:
            raise not_found("BPF_EXIST was given and the key does not exist")


class HashMap(HashTable):
    """HASH. A preallocated map owns max_entries elements and one spare per CPU, swapped in on replace."""

    spin_locks = SpinLocks.ALWAYS
    __slots__ = ("_caches", "_element_size", "_payers")

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        size = element_bytes(attr)
        self._element_size: Final = site.memory.slab_size(size)
        self._caches: Final = site.mem_allocs[0] if site.mem_allocs else None
        self._payers: Final[dict[bytes, Account]] = {}

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """Table, then elements and spares or the caches' prefill."""
        attr, profile = creation.attr, creation.profile
        size = element_bytes(attr)
        table = table_allocations(attr, profile, creation.possible_cpus)
        estimate = hash_estimate(attr, profile, creation.possible_cpus)
        if attr.map_flags & F_NO_PREALLOC:
            caches, per_element = on_demand(profile, creation.possible_cpus, size)
            return CostPlan(estimate, table + caches, 1, per_element)
        spares = creation.possible_cpus if has_spares(attr, profile) else 0
        elements: tuple[Allocation, ...] = (
            Allocation("elements", How.AREA, size * (attr.max_entries + spares)),
        )
        elements += freelist(profile)
        if spares:
            elements += (Allocation("extra_elems", How.HELPER_PERCPU, POINTER_BYTES),)
        return CostPlan(estimate, table + elements, 1)

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """htab_map_mem_usage."""
        size, usage = element_bytes(attr), table_usage(attr, profile, possible_cpus)
        if attr.map_flags & F_NO_PREALLOC:
            return usage + (size + POINTER_BYTES) * entries
        spares = possible_cpus if has_spares(attr, profile) else 0
        return usage + size * (attr.max_entries + spares) + POINTER_BYTES * possible_cpus

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Raises EINVAL, EEXIST, ENOENT, E2BIG at max_entries keys, ENOMEM (NO_PREALLOC)."""
        present = key in self._elements
        if flags:
            if flags & ~BPF_F_LOCK > BPF_EXIST:
                raise refuse(Errno.EINVAL, f"unknown update flags {flags:#x}")
            check_value_lock(self, flags)
            self._check_presence(present, flags & ~BPF_F_LOCK)
            if flags & BPF_F_LOCK and present:
                self._elements[key] = value  # in place, under the element's own lock
                return
        if not present and len(self._elements) >= self.max_entries:
            raise map_full(Errno.E2BIG, self.max_entries)
        if not self.prealloc:
            self._take_element(key, present, context)
        self._store_newest(key, value)

    def delete(self, key: bytes, context: OpContext) -> None:
        """Raises ENOENT."""
        if key not in self._elements:
            raise not_found()
        self._drop(key)
        if not self.prealloc:
            self._give_element(key, context.cpu)

    def update_many(
        self, keys: Sequence[bytes], values: Sequence[bytes], flags: int, context: OpContext
    ) -> tuple[int, KernelError | None]:
        """As single updates; distinct keys that all fit are stored together."""
        fresh = dict(zip(keys, values, strict=True))
        replaced = self._elements.keys() & fresh.keys()
        room = self.max_entries - len(self._elements)
        if (
            flags
            or len(fresh) < len(keys)
            or len(fresh) - len(replaced) > room
            or type(self) is not HashMap
        ):
            return super().update_many(keys, values, flags, context)
        if not self.prealloc:
            caches = self._caches
            if caches is None or 0 < len(replaced) < len(fresh):
                return super().update_many(keys, values, flags, context)
            serve = caches.replace_many if replaced else caches.alloc_many
            done = serve(len(fresh), context.task)
            if done < len(fresh):
                return self._stored_in_part(keys[:done], values[:done], caches, context)
        self._store_many(fresh, replaced)
        return len(fresh), None

    def _stored_in_part(
        self,
        keys: Sequence[bytes],
        values: Sequence[bytes],
        caches: BpfMemAlloc,
        context: OpContext,
    ) -> tuple[int, KernelError]:
        """Stores the pairs that got an element, and asks for the next one to learn why it fails."""
        fresh = dict(zip(keys, values, strict=True))
        self._store_many(fresh, self._elements.keys() & fresh.keys())
        return len(fresh), caches.refusal(context.task)

    def delete_many(
        self, keys: Sequence[bytes], context: OpContext
    ) -> tuple[int, KernelError | None]:
        """As single deletions; distinct keys that are all there go together."""
        distinct = set(keys)
        if (
            len(distinct) < len(keys)
            or not self._elements.keys() >= distinct
            or type(self) is not HashMap
        ):
            return super().delete_many(keys, context)
        self._drop_many(keys)
        if not self.prealloc:
            self._give_elements(keys, context.cpu)
        return len(keys), None

    def free(self, cpu: int) -> None:
        """Gives back elements allocated on update; those of the caches go with the caches."""
        for account in self._payers.values():
            self.site.give_element(account, self._element_size, cpu)
        self._payers.clear()
        self._elements.clear()
        self._order = None

    # -- elements of NO_PREALLOC maps ----------------------------------------------------------------------------

    def _take_element(self, key: bytes, present: bool, context: OpContext) -> None:
        """Takes the new element; one it replaces goes back afterwards. Raises ENOMEM."""
        if self._caches is not None:
            self._caches.alloc(context.task)
            if present:
                self._caches.free(context.cpu)
            return
        site = self.site
        account = site.take_element(self._element_size, context, site.element_gfp())
        if present:
            site.give_after_rcu(self._payers[key], self._element_size)
        self._payers[key] = account

    def _give_element(self, key: bytes, cpu: int) -> None:
        self._give_elements((key,), cpu)

    def _give_elements(self, keys: Collection[bytes], cpu: int) -> None:
        if self._caches is not None:
            self._caches.free(cpu, len(keys))
            return
        for key in keys:
            self.site.give_after_rcu(self._payers.pop(key), self._element_size)


# -- shared by all hash types -----------------------------------------------------------------------------------------


def check_hash(attr: MapAttr, host: Host, task: Task) -> None:
    """htab_map_alloc_check. Raises EPERM, EINVAL, ENOTSUPP, E2BIG."""
    lru, percpu = attr.map_type in _LRU_TYPES, attr.map_type in _PERCPU_TYPES
    flags, profile = attr.map_flags, host.profile
    if lru:
        require_bpf(host, task)
    if flags & F_ZERO_SEED and not task.has(Capability.SYS_ADMIN):
        raise KernelError(
            Errno.EPERM, Reason.CAPABILITY_MISSING, "BPF_F_ZERO_SEED needs CAP_SYS_ADMIN"
        )
    check_flags(flags, _CREATE_FLAGS)
    if flags & F_NO_COMMON_LRU and not lru:
        raise refuse(Errno.EINVAL, "BPF_F_NO_COMMON_LRU is for LRU maps")
    if lru and flags & F_NO_PREALLOC:
        raise refuse(Errno.ENOTSUPP, "an LRU map is always preallocated")
    if flags & F_NUMA_NODE and (percpu or flags & F_NO_COMMON_LRU):
        raise refuse(Errno.EINVAL, "per-CPU values and per-CPU LRU lists have no NUMA node")
    if attr.max_entries == 0 or attr.key_size == 0 or attr.value_size == 0:
        raise refuse(Errno.EINVAL, "a hash needs entries, a key and a value")
    _check_sizes(attr, profile)
    if percpu:
        check_percpu_value(attr, profile)


def _check_sizes(attr: MapAttr, profile: KernelProfile) -> None:
    header = profile.structs.htab_elem
    if profile.hash_key_limited_to_stack:
        if attr.key_size > MAX_BPF_STACK:
            raise too_big(attr.key_size, MAX_BPF_STACK)
        limit = KMALLOC_MAX_SIZE - MAX_BPF_STACK - header
        if attr.value_size >= limit:
            raise too_big(attr.value_size, limit - 1)
    elif attr.key_size + attr.value_size >= KMALLOC_MAX_SIZE - header:
        raise too_big(attr.key_size + attr.value_size, KMALLOC_MAX_SIZE - header - 1)


def element_bytes(attr: MapAttr) -> int:
    """Bytes of struct htab_elem with key and value; per-CPU types hold a pointer instead of the value.

    >>> element_bytes(MapAttr(MapType.HASH, 4, 8, 1024)), element_bytes(MapAttr(MapType.PERCPU_HASH, 4, 100, 1))
    (64, 64)
    """
    percpu = attr.map_type in _PERCPU_TYPES
    value = POINTER_BYTES if percpu else round_up_8(attr.value_size)
    return 48 + round_up_8(attr.key_size) + value


def has_spares(attr: MapAttr, profile: KernelProfile) -> bool:
    """Whether a preallocated map owns one spare element per CPU."""
    if attr.map_type == MapType.HASH_OF_MAPS:
        return profile.hash_of_maps_spare_elements
    return attr.map_type == MapType.HASH


def hash_estimate(attr: MapAttr, profile: KernelProfile, possible_cpus: int) -> int:
    """The precharge up to 5.10; the same with NO_PREALLOC, and with spares also for LRU."""
    size, entries = element_bytes(attr), attr.max_entries
    table = profile.structs.bucket * roundup_pow_of_two(entries) + size * entries
    if attr.map_type in _PERCPU_TYPES:
        return table + round_up_8(attr.value_size) * possible_cpus * entries
    return table + size * possible_cpus


def table_allocations(
    attr: MapAttr, profile: KernelProfile, possible_cpus: int
) -> tuple[Allocation, ...]:
    """Struct, counters and buckets: what every hash type allocates first."""
    structs = profile.structs
    made: tuple[Allocation, ...] = (Allocation("htab", struct_how(profile), structs.bpf_htab),)
    if profile.hash_has_elem_count:
        made += (Allocation("elem_count", How.HELPER_PERCPU, 8),)
    buckets = structs.bucket * roundup_pow_of_two(attr.max_entries)
    made += (Allocation("buckets", How.AREA, buckets),)
    if profile.hash_has_map_locked:
        made += (Allocation("map_locked", How.HELPER_PERCPU, 4, MAP_LOCKED_COUNT),)
    return made


def table_usage(attr: MapAttr, profile: KernelProfile, possible_cpus: int) -> int:
    """The part of htab_map_mem_usage that every hash type has; the lock counters are in it without being there."""
    structs = profile.structs
    locks = 4 * MAP_LOCKED_COUNT * possible_cpus if profile.usage_counts_map_locked else 0
    return structs.bpf_htab + structs.bucket * roundup_pow_of_two(attr.max_entries) + locks


def freelist(profile: KernelProfile) -> tuple[Allocation, ...]:
    """The per-CPU heads of the free list of preallocated elements, not charged."""
    return (Allocation("freelist", How.PERCPU_UNCHARGED, profile.structs.pcpu_freelist_head),)


def on_demand(
    profile: KernelProfile, possible_cpus: int, size: int, percpu_value: int = 0
) -> tuple[tuple[Allocation, ...], tuple[Allocation, ...]]:
    """(at creation, per element) of a NO_PREALLOC map with elements of ``size`` bytes."""
    if not profile.hash_uses_mem_alloc:
        gfp = GFP.GFP_NOWAIT if profile.elements_nowait else GFP.GFP_ATOMIC
        made: tuple[Allocation, ...] = (Allocation("element", How.HELPER_KMALLOC, size, 1, gfp),)
        if percpu_value:
            made += (Allocation("value", How.HELPER_PERCPU, percpu_value, 1, gfp),)
        return (), made
    at_creation: tuple[Allocation, ...] = (prefill(profile, possible_cpus, size),)
    per_element: tuple[Allocation, ...] = (
        Allocation("element", How.MEM_ALLOC, unit_bytes(size, percpu=False)),
    )
    if percpu_value:
        at_creation += (prefill(profile, possible_cpus, percpu_value, percpu=True, label="value"),)
        per_element += (Allocation("value", How.MEM_ALLOC_PERCPU, percpu_value),)
    return at_creation, per_element
