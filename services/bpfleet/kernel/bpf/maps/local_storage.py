"""SK, INODE, TASK, CGRP storage: values that hang on an owner object [kernel/bpf/bpf_local_storage.c and its users].

Profiles: SK and INODE all, TASK from 5.11, CGRP from 6.2. Create: the struct and a bucket array (not charged from 6.0,
where helper allocations of a map under construction escape); TASK and CGRP from 6.4 also prefill two caches. Per
element: the element, and the owner's bpf_local_storage with its first one; GFP_ATOMIC, so forced over any limit.
Socket elements also count against the socket's option memory. Freed after a grace period: one element when it is
deleted or replaced, all of an owner's when it dies, all of a map's after two grace periods.
Gaps: no per-element cost of maple trees or tasks-trace grace periods beyond one RCU grace period.
"""

from typing import ClassVar, Final, TypeAlias, final

from bpfleet.abi.bpf import (
    BPF_EXIST,
    BPF_F_LOCK,
    BPF_NOEXIST,
    F_CLONE,
    F_NO_PREALLOC,
    Capability,
    MapType,
)
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How, struct_how
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.maps.base import BpfMap, KeyBtf, SpinLocks
from bpfleet.kernel.bpf.maps.slot import slot_of
from bpfleet.kernel.bpf.memalloc import BpfMemAlloc, prefill, unit_bytes
from bpfleet.kernel.bpf.refusals import key_exists, not_found, refuse, require_bpf
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.cgroup.tree import Cgroup
from bpfleet.kernel.deferred import RCU_GRACE_NS
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memory import Account, AllocSize, Owner
from bpfleet.kernel.proc.sockets import Inode, Socket, socket_of
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.units import roundup_pow_of_two

StorageOwner: TypeAlias = Socket | Inode | Task | Cgroup

CREATE_FLAGS: Final = F_NO_PREALLOC | F_CLONE
VALUE_SIZE_MAX: Final = 65535 - 128  # U16_MAX - sizeof(struct bpf_local_storage_elem)
ELEMENT_GFP: Final = GFP.GFP_ATOMIC | GFP.NOWARN


def _buckets_bytes(profile: KernelProfile, possible_cpus: int) -> int:
    buckets = max(2, roundup_pow_of_two(possible_cpus))
    return buckets * profile.structs.bpf_local_storage_map_bucket


def _element_bytes(attr: MapAttr, profile: KernelProfile) -> int:
    return profile.structs.bpf_local_storage_elem_header + attr.value_size


def _uses_mem_alloc(attr: MapAttr, profile: KernelProfile) -> bool:
    cached = attr.map_type in (MapType.TASK_STORAGE, MapType.CGRP_STORAGE)
    return cached and profile.task_storage_uses_mem_alloc


@final
class Pool:
    """Objects of one size: from kmalloc, or from the map's bpf_mem_alloc. A taken object is its account, or None."""

    __slots__ = ("_caches", "_site", "size")

    def __init__(self, site: AllocSite, size: AllocSize, caches: BpfMemAlloc | None) -> None:
        self._site: Final = site
        self._caches: Final = caches
        self.size: Final = size

    def take(self, context: OpContext) -> Account | None:
        """Takes one object. Raises ENOMEM."""
        if self._caches is not None:
            self._caches.alloc(context.task)
            return None
        return self._site.take_element(self.size, context, ELEMENT_GFP)

    def hand_over(self, taken: Account | None, owner: Owner) -> tuple[Account, AllocSize]:
        """Lets a taken object outlive the map, as ``owner``'s."""
        if self._caches is not None:
            return self._caches.hand_over(owner)
        assert taken is not None
        return self._site.memory.hand_over(taken, owner, self.size), self.size

    def give(self, taken: Account | None, cpu: int) -> None:
        """Gives it back: to the cache at once, to kmalloc after a grace period."""
        if self._caches is not None:
            self._caches.free(cpu)
        elif taken is not None:
            self._site.give_after_rcu(taken, self.size)


@final
class _Element:
    """struct bpf_local_storage_elem."""

    __slots__ = ("taken", "value")

    def __init__(self, value: bytes, taken: Account | None) -> None:
        self.value = value
        self.taken: Final = taken


@final
class LocalStorage:
    """struct bpf_local_storage: all values of one owner, by map.

    The block itself was taken from the map whose element came first, and goes back there. When that map is freed
    before, the block lives on by itself, charged to the same payer (``_orphaned``).
    """

    __slots__ = ("_maker", "_orphaned", "_taken", "elements", "owner")

    def __init__(
        self, owner: StorageOwner, maker: "LocalStorageMap", taken: Account | None
    ) -> None:
        self.owner: Final = owner
        self.elements: Final[dict[LocalStorageMap, _Element]] = {}
        self._maker: Final = maker
        self._taken: Final = taken
        self._orphaned: tuple[Account, AllocSize] | None = None

    def remove(self, storage_map: "LocalStorageMap", cpu: int) -> None:
        """Unlinks one map's element; with the last one the block goes too [bpf_selem_unlink]."""
        element = self.elements.pop(storage_map)
        storage_map.unlink(self.owner, element, cpu)
        if not self.elements:
            self.owner.bpf_storage = None
            self._free(storage_map, cpu)

    def _free(self, last: "LocalStorageMap", cpu: int) -> None:
        """bpf_local_storage_free. ``last`` is the map whose element was the last."""
        if self._orphaned is None:
            self._maker.give_storage(self, self._taken, cpu)
            return
        last.uncharge_owner(self.owner, last.storage_bytes)
        last.site.give_after_rcu(*self._orphaned)

    def outlive_maker(self) -> None:
        """The map that made the block is freed and other maps' elements remain."""
        self._orphaned = self._maker.hand_over_storage(self._taken)

    def destroy(self, cpu: int = 0) -> None:
        """The owner dies: all its elements go [bpf_local_storage_destroy]."""
        for storage_map in list(self.elements):
            self.remove(storage_map, cpu)


def destroy_storage(owner: StorageOwner, cpu: int = 0) -> None:
    """Frees what hangs on a dying owner, if anything."""
    storage = owner.bpf_storage
    if isinstance(storage, LocalStorage):
        storage.destroy(cpu)


class LocalStorageMap(BpfMap):
    """The common part; subclasses say what a key's descriptor refers to."""

    capability = Capability.BPF
    key_btf = KeyBtf.INT
    gap: ClassVar[str] = (
        "elements are freed after one grace period, also where Linux waits for two kinds"
    )
    free_delay_ns: ClassVar[int] = 2 * RCU_GRACE_NS

    @classmethod
    def check(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """bpf_local_storage_map_alloc_check. Raises EINVAL, EPERM (up to 6.4), E2BIG."""
        if (
            attr.map_flags & ~CREATE_FLAGS
            or not attr.map_flags & F_NO_PREALLOC
            or attr.max_entries
            or attr.key_size != 4
            or not attr.value_size
            or not attr.btf_key_type_id
            or not attr.btf_value_type_id
        ):
            raise refuse(
                Errno.EINVAL,
                "local storage needs BPF_F_NO_PREALLOC, 4-byte keys, a value, no entries, and BTF ids",
            )
        require_bpf(host, task)
        if attr.value_size > VALUE_SIZE_MAX:
            raise refuse(Errno.E2BIG, f"value size {attr.value_size} is over {VALUE_SIZE_MAX}")

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """The struct, the buckets, and the caches where the type has them.

        >>> from bpfleet.kernel.profile import PROFILES
        >>> plan = SkStorage.plan(Creation(MapAttr(24, 4, 8, map_flags=1), PROFILES["5.10"], 2))
        >>> plan.estimate_bytes, [a.size_bytes for a in plan.per_element]
        (352, [136, 168])
        """
        attr, profile = creation.attr, creation.profile
        structs = profile.structs
        buckets = _buckets_bytes(profile, creation.possible_cpus)
        element, storage = _element_bytes(attr, profile), structs.bpf_local_storage
        charged = profile.local_storage_buckets_charged
        allocations = [
            Allocation("bpf_local_storage_map", struct_how(profile), structs.bpf_local_storage_map),
            Allocation("buckets", How.KZALLOC if charged else How.HELPER_KMALLOC, buckets),
        ]
        how = How.HELPER_KMALLOC
        if _uses_mem_alloc(attr, profile):
            how = How.MEM_ALLOC
            allocations.append(prefill(profile, creation.possible_cpus, element, label="selem"))
            allocations.append(prefill(profile, creation.possible_cpus, storage, label="storage"))
            element = unit_bytes(element, percpu=False)
            storage = unit_bytes(storage, percpu=False)
        return CostPlan(
            structs.bpf_local_storage_map + buckets,
            tuple(allocations),
            precharge_at=1,
            per_element=(
                Allocation("bpf_local_storage_elem", how, element, gfp=ELEMENT_GFP),
                Allocation("bpf_local_storage", how, storage, gfp=ELEMENT_GFP),
            ),
        )

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """bpf_local_storage_map_mem_usage: elements are not counted."""
        return profile.structs.bpf_local_storage_map + _buckets_bytes(profile, possible_cpus)

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        memory, caches = site.memory, site.mem_allocs
        self._element_bytes: Final = _element_bytes(attr, host.profile)
        self.storage_bytes: Final = host.profile.structs.bpf_local_storage
        self._elements: Final = Pool(
            site, memory.slab_size(self._element_bytes), caches[0] if caches else None
        )
        self._storages: Final = Pool(
            site, memory.slab_size(self.storage_bytes), caches[1] if caches else None
        )
        self._owners: Final[dict[StorageOwner, None]] = {}
        self._made: Final[dict[LocalStorage, None]] = {}

    # -- what a key means ----------------------------------------------------------------------------------------

    def owner_of(self, key: bytes, task: Task) -> StorageOwner:
        """The object a key's descriptor refers to. Raises EBADF and the like."""
        raise NotImplementedError

    def updatable_owner_of(self, key: bytes, task: Task) -> StorageOwner:
        """The same for an update, which may need more of the owner."""
        return self.owner_of(key, task)

    # -- operations ----------------------------------------------------------------------------------------------

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """The owner's value. Raises ENOENT, and for a bad descriptor EBADF, ENOTSOCK."""
        element = self._find(self.owner_of(key, context.task))
        if element is None:
            raise not_found("the owner has no value of this map")
        return element.value

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Stores the owner's value. Raises EINVAL, EEXIST, ENOENT, ENOMEM, and for a bad descriptor EBADF, ENOTSOCK."""
        owner = self.updatable_owner_of(key, context.task)
        known = flags & ~BPF_F_LOCK
        if known > BPF_EXIST or (flags & BPF_F_LOCK and not self.has_spin_lock):
            raise refuse(Errno.EINVAL, f"update flags {flags:#x} are unknown or need a spin lock")
        old = self._find(owner)
        if old is not None and known == BPF_NOEXIST:
            raise key_exists()
        if old is None and known == BPF_EXIST:
            raise not_found("the owner has no value of this map")
        if old is not None and flags & BPF_F_LOCK:
            old.value = value
            return
        self._insert(owner, value, context, replaces=old is not None)

    def delete(self, key: bytes, context: OpContext) -> None:
        """Removes the owner's value. Raises ENOENT, and for a bad descriptor EBADF, ENOTSOCK."""
        owner = self.owner_of(key, context.task)
        if self._find(owner) is None:
            raise not_found("the owner has no value of this map")
        self._storage(owner).remove(self, context.cpu)

    def free(self, cpu: int) -> None:
        """Takes the map's elements off all owners."""
        for owner in list(self._owners):
            self._storage(owner).remove(self, cpu)
        for storage in self._made:
            storage.outlive_maker()
        self._made.clear()

    # -- inside --------------------------------------------------------------------------------------------------

    def _storage(self, owner: StorageOwner) -> LocalStorage:
        storage = owner.bpf_storage
        assert isinstance(storage, LocalStorage), owner
        return storage

    def _find(self, owner: StorageOwner) -> _Element | None:
        storage = owner.bpf_storage
        return storage.elements.get(self) if isinstance(storage, LocalStorage) else None

    def _insert(
        self, owner: StorageOwner, value: bytes, context: OpContext, *, replaces: bool
    ) -> None:
        charge = not replaces or self.host.profile.local_storage_charges_replacement
        if charge:
            self.charge_owner(owner, self._element_bytes)
        try:
            element = _Element(value, self._elements.take(context))
        except KernelError:
            if charge:
                self.uncharge_owner(owner, self._element_bytes)
            raise
        storage = owner.bpf_storage
        if storage is None:
            storage = self._new_storage(owner, element, context)
        assert isinstance(storage, LocalStorage)
        old = storage.elements.pop(self, None)
        storage.elements[self] = element
        self._owners[owner] = None
        if old is not None:
            self._elements.give(old.taken, context.cpu)
            if charge:
                self.uncharge_owner(owner, self._element_bytes)

    def _new_storage(
        self, owner: StorageOwner, element: _Element, context: OpContext
    ) -> LocalStorage:
        """bpf_local_storage_alloc; a failure takes the element with it."""
        charged = False
        try:
            self.charge_owner(owner, self.storage_bytes)
            charged = True
            storage = LocalStorage(owner, self, self._storages.take(context))
        except KernelError:
            if charged:
                self.uncharge_owner(owner, self.storage_bytes)
            self._elements.give(element.taken, context.cpu)
            self.uncharge_owner(owner, self._element_bytes)
            raise
        owner.bpf_storage = storage
        self._made[storage] = None
        self.watch_owner(owner)
        return storage

    def unlink(self, owner: StorageOwner, element: _Element, cpu: int) -> None:
        """An element of this map has been taken off its owner."""
        del self._owners[owner]
        self.uncharge_owner(owner, self._element_bytes)
        self._elements.give(element.taken, cpu)

    def give_storage(self, storage: LocalStorage, taken: Account | None, cpu: int) -> None:
        """A block made by this map is no longer needed."""
        del self._made[storage]
        self.uncharge_owner(storage.owner, self.storage_bytes)
        self._storages.give(taken, cpu)

    def hand_over_storage(self, taken: Account | None) -> tuple[Account, AllocSize]:
        """A block made by this map outlives it."""
        return self._storages.hand_over(taken, Owner("local-storage", self.id))

    # -- hooks of the types --------------------------------------------------------------------------------------

    def charge_owner(self, owner: StorageOwner, size_bytes: int) -> None:
        """Counts against the owner's own budget, where it has one. Raises ENOMEM."""

    def uncharge_owner(self, owner: StorageOwner, size_bytes: int) -> None:
        """Takes it off again."""

    def watch_owner(self, owner: StorageOwner) -> None:
        """Makes sure `destroy_storage` runs when the owner dies, where nobody else sees to it."""


@final
class SkStorage(LocalStorageMap):
    """SK_STORAGE: the key is a socket's descriptor [net/core/bpf_sk_storage.c]."""

    spin_locks = SpinLocks.ALWAYS

    def owner_of(self, key: bytes, task: Task) -> StorageOwner:
        """sockfd_lookup. Raises EBADF, ENOTSOCK."""
        return socket_of(task, slot_of(key))

    def charge_owner(self, owner: StorageOwner, size_bytes: int) -> None:
        """bpf_sk_storage_charge: option memory under optmem_max. Raises ENOMEM."""
        assert isinstance(owner, Socket)
        limit = self.host.profile.optmem_max_bytes
        if size_bytes > limit or owner.omem_bytes + size_bytes >= limit:
            raise KernelError(
                Errno.ENOMEM,
                Reason.OPTMEM_EXCEEDED,
                f"the socket holds {owner.omem_bytes} bytes of option memory, net.core.optmem_max is {limit}",
                limit_bytes=limit,
                usage_bytes=owner.omem_bytes,
                requested_bytes=size_bytes,
            )
        owner.omem_bytes += size_bytes

    def uncharge_owner(self, owner: StorageOwner, size_bytes: int) -> None:
        """bpf_sk_storage_uncharge."""
        assert isinstance(owner, Socket)
        owner.omem_bytes -= size_bytes

    def watch_owner(self, owner: StorageOwner) -> None:
        """The socket's close frees its storage."""
        assert isinstance(owner, Socket)
        owner.holders["bpf_sk_storage"] = destroy_storage


@final
class InodeStorage(LocalStorageMap):
    """INODE_STORAGE: the key is any descriptor, the owner its inode [kernel/bpf/bpf_inode_storage.c]."""

    spin_locks = SpinLocks.ALWAYS

    def owner_of(self, key: bytes, task: Task) -> StorageOwner:
        """file_inode; anonymous descriptors share one inode. Raises EBADF."""
        target = task.file(slot_of(key)).target
        if isinstance(target, Inode):
            return target
        return target.inode if isinstance(target, Socket) else self.host.anon_inode

    def updatable_owner_of(self, key: bytes, task: Task) -> StorageOwner:
        """Without the BPF LSM an inode has no room for storage. Raises EBADF."""
        owner = self.owner_of(key, task)
        if not self.host.profile.bpf_lsm_enabled:
            raise refuse(
                Errno.EBADF,
                "inodes have no BPF storage: the BPF LSM is off",
                Reason.OPERATION_UNSUPPORTED,
            )
        return owner


@final
class TaskStorage(LocalStorageMap):
    """TASK_STORAGE: the key is a pidfd [kernel/bpf/bpf_task_storage.c]."""

    spin_locks = SpinLocks.WITH_RECORDS

    def owner_of(self, key: bytes, task: Task) -> StorageOwner:
        """pidfd_get_pid, then the task. Raises EBADF for another descriptor, ENOENT for a dead task."""
        target = task.file(slot_of(key)).target
        if not isinstance(target, Task):
            raise refuse(
                Errno.EBADF, f"descriptor {slot_of(key)} is not a pidfd", Reason.BAD_FILE_DESCRIPTOR
            )
        if not target.alive:
            raise not_found(f"process {target.pid} is gone")
        return target


@final
class CgroupLocalStorage(LocalStorageMap):
    """CGRP_STORAGE: the key is a cgroup's descriptor [kernel/bpf/bpf_cgrp_storage.c]."""

    spin_locks = SpinLocks.WITH_RECORDS

    def owner_of(self, key: bytes, task: Task) -> StorageOwner:
        """cgroup_v1v2_get_from_fd. Raises EBADF."""
        target = task.file(slot_of(key)).target
        if not isinstance(target, Cgroup):
            raise refuse(
                Errno.EBADF,
                f"descriptor {slot_of(key)} is not a cgroup",
                Reason.BAD_FILE_DESCRIPTOR,
            )
        return target
