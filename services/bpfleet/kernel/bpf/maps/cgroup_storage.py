"""CGROUP_STORAGE, PERCPU_CGROUP_STORAGE: values per cgroup and attach type [kernel/bpf/local_storage.c].

Profiles: all. Create: the struct, which is also the precharge up to 5.10. Per element: made when a program that uses
the map is attached to a cgroup; up to 5.10 charged to the creator against the attacher's limit, a refusal being ENOMEM.
An element outlives the attachment: it goes when the cgroup is removed or the map is freed. User space cannot make one.
Gaps: none known.
"""

import struct
from collections.abc import Callable
from typing import ClassVar, Final, final

from bpfleet.abi.bpf import (
    BPF_ANY,
    BPF_EXIST,
    BPF_F_LOCK,
    F_NUMA_NODE,
    F_RDONLY,
    F_RDONLY_PROG,
    F_WRONLY,
    F_WRONLY_PROG,
    MapType,
)
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import PAGE_SIZE, PCPU_MIN_UNIT_SIZE
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How, struct_how
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.maps.base import BpfMap, KeyBtf, SpinLocks, onto_cpus, takes_one_value
from bpfleet.kernel.bpf.maps.local_storage import VALUE_SIZE_MAX
from bpfleet.kernel.bpf.refusals import not_found, refuse
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.errors import KernelError
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memory import Account, AllocSize
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.units import pages_for, round_up_8

FLAGS: Final = F_NUMA_NODE | F_RDONLY | F_WRONLY | F_RDONLY_PROG | F_WRONLY_PROG
BOTH_PROG: Final = F_RDONLY_PROG | F_WRONLY_PROG
ISOLATED_KEY_BYTES: Final = 16  # struct bpf_cgroup_storage_key: inode id, attach type, padding
ATTACH_GFP: Final = GFP.GFP_USER


def _value_limit(attr: MapAttr, profile: KernelProfile) -> int:
    if profile.cgroup_storage_value_limit_page:
        return PAGE_SIZE
    percpu = attr.map_type == MapType.PERCPU_CGROUP_STORAGE
    return PCPU_MIN_UNIT_SIZE if percpu else VALUE_SIZE_MAX


@final
class _Storage:
    """struct bpf_cgroup_storage and its buffer."""

    __slots__ = ("buffer", "head", "key", "pages", "value")

    def __init__(
        self, key: bytes, head: Account, buffer: Account, pages: int, value: bytes
    ) -> None:
        self.key: Final = key
        self.head: Final = head
        self.buffer = buffer
        self.pages: Final = pages
        self.value = value


def _ignore(storage_map: "CgroupStorageMap") -> None:
    """Stands in until something is attached."""


class CgroupStorageMap(BpfMap):
    """CGROUP_STORAGE; the per-CPU variant below differs in its buffer."""

    key_btf = KeyBtf.CGROUP
    spin_locks = SpinLocks.ALWAYS

    @classmethod
    def check_alloc(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """Start of cgroup_storage_map_alloc. Raises EINVAL, E2BIG. No capability is asked for."""
        shared = attr.key_size == 8 and host.profile.cgroup_storage_key_takes_id
        if not shared and attr.key_size != ISOLATED_KEY_BYTES:
            raise refuse(
                Errno.EINVAL,
                f"key size {attr.key_size} is not 16, or from 5.9 on 8 for all programs",
            )
        if attr.value_size == 0:
            raise refuse(Errno.EINVAL, "the value size is 0")
        limit = _value_limit(attr, host.profile)
        if attr.value_size > limit:
            raise refuse(Errno.E2BIG, f"value size {attr.value_size} is over {limit}")
        if attr.map_flags & ~FLAGS or attr.map_flags & BOTH_PROG == BOTH_PROG:
            raise refuse(Errno.EINVAL, f"flags {attr.map_flags:#x} are not for cgroup storage")
        if attr.max_entries:
            raise refuse(Errno.EINVAL, "max_entries must be 0")

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """The struct; storages when programs are attached.

        >>> from bpfleet.kernel.profile import PROFILES
        >>> CgroupStorageMap.plan(Creation(MapAttr(19, 16, 64), PROFILES["5.10"], 2)).estimate_bytes
        320
        """
        attr, profile = creation.attr, creation.profile
        structs = profile.structs
        buffer = structs.bpf_storage_buffer + attr.value_size
        if attr.map_type == MapType.PERCPU_CGROUP_STORAGE:
            data = Allocation("percpu_buf", How.HELPER_PERCPU, attr.value_size)
        else:
            data = Allocation("bpf_storage_buffer", How.HELPER_KMALLOC, buffer)
        size = structs.bpf_cgroup_storage_map
        return CostPlan(
            size,
            (Allocation("bpf_cgroup_storage_map", struct_how(profile), size),),
            per_element=(
                Allocation("bpf_cgroup_storage", How.HELPER_KMALLOC, structs.bpf_cgroup_storage),
                data,
            ),
        )

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """cgroup_storage_map_usage: storages are not counted."""
        return profile.structs.bpf_cgroup_storage_map

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        structs = host.profile.structs
        self._storages: Final[dict[bytes, _Storage]] = {}  # oldest first
        self._head_size: Final = site.memory.slab_size(structs.bpf_cgroup_storage)
        self._buffer_size: Final = self._make_buffer_size()
        self.on_freed: Callable[[CgroupStorageMap], None] = _ignore

    def _make_buffer_size(self) -> AllocSize:
        structs = self.host.profile.structs
        return self.site.memory.slab_size(structs.bpf_storage_buffer + self.value_size)

    # -- element commands ----------------------------------------------------------------------------------------

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """The storage's value. Raises ENOENT where nothing was attached."""
        return self._find(key).value

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Replaces the value of an existing storage. Raises EINVAL, ENOENT, ENOMEM."""
        if flags & ~(BPF_F_LOCK | BPF_EXIST) or (flags & BPF_F_LOCK and not self.has_spin_lock):
            raise refuse(Errno.EINVAL, f"update flags {flags:#x} are unknown or need a spin lock")
        storage = self._find(key)
        if not flags & BPF_F_LOCK:
            new = self.site.take_element(self._buffer_size, context, self.site.element_gfp())
            self.site.give_after_rcu(storage.buffer, self._buffer_size)
            storage.buffer = new
        storage.value = value

    def delete(self, key: bytes, context: OpContext) -> None:
        """Never allowed. Raises EINVAL."""
        raise refuse(Errno.EINVAL, "cgroup storage cannot be deleted from user space")

    def next_key(self, key: bytes | None) -> bytes:
        """Newest first. Raises ENOENT at the end and for an unknown key."""
        keys = [storage.key for storage in reversed(self._storages.values())]
        position = 0 if key is None else self._position(keys, key)
        if position >= len(keys):
            raise not_found("no key follows")
        return keys[position]

    def free(self, cpu: int) -> None:
        """Frees every storage, attached or not."""
        for kept in list(self._storages):
            self._drop(kept)
        self.on_freed(self)

    # -- attachment ----------------------------------------------------------------------------------------------

    def key_for(self, cgroup_id: int, attach_type: int) -> bytes:
        """The key of a cgroup; with 16-byte keys each attach type has its own."""
        if self.key_size == ISOLATED_KEY_BYTES:
            return struct.pack("<QII", cgroup_id, attach_type, 0)
        return struct.pack("<Q", cgroup_id)

    def has(self, key: bytes) -> bool:
        """Whether the storage exists."""
        return self._kept(key) in self._storages

    def allocate(self, key: bytes, task: Task) -> None:
        """bpf_cgroup_storage_alloc. Raises ENOMEM, also when the precharge is refused."""
        pages = self._charge_pages()
        accounting = self.site.accounting
        try:
            if pages:
                accounting.grow(self.charge, task, pages)
            self._allocate(key, task, pages)
        except KernelError as error:
            raise KernelError(Errno.ENOMEM, error.reason, error.detail, **error.numbers) from error

    def drop_cgroup(self, cgroup_id: int) -> None:
        """The cgroup is gone: its storages go."""
        mark = struct.pack("<Q", cgroup_id)
        for kept in [kept for kept in self._storages if kept.startswith(mark)]:
            self._drop(kept)

    def drop_key(self, key: bytes) -> None:
        """Takes back a storage that `allocate` has just made."""
        self._drop(self._kept(key))

    # -- inside --------------------------------------------------------------------------------------------------

    def _kept(self, key: bytes) -> bytes:
        return key[:12]

    def _find(self, key: bytes) -> _Storage:
        storage = self._storages.get(self._kept(key))
        if storage is None:
            raise not_found("no program with this map is attached to the cgroup")
        return storage

    def _position(self, keys: list[bytes], key: bytes) -> int:
        found = self._storages.get(self._kept(key))
        return keys.index(found.key) + 1 if found is not None else len(keys)

    def _charge_pages(self) -> int:
        if not self.host.profile.is_rlimit:
            return 0
        structs = self.host.profile.structs
        return pages_for(structs.bpf_cgroup_storage + structs.bpf_storage_buffer + self.value_size)

    def _allocate(self, key: bytes, task: Task, pages: int) -> None:
        site, context = self.site, OpContext(task)
        heads: list[Account] = []
        try:
            heads.append(site.take_element(self._head_size, context, ATTACH_GFP))
            buffer = site.take_element(self._buffer_size, context, ATTACH_GFP)
        except KernelError:
            for head in heads:
                site.give_element(head, self._head_size, task.cpu)
            if pages:
                site.accounting.shrink(self.charge, pages)
            raise
        value = bytes(self.user_value_size)
        self._storages[self._kept(key)] = _Storage(key, heads[0], buffer, pages, value)

    def _drop(self, kept: bytes) -> None:
        """bpf_cgroup_storage_free: the precharge goes at once, the memory after a grace period."""
        storage = self._storages.pop(kept)
        if storage.pages and self.charge.pages:
            self.site.accounting.shrink(self.charge, storage.pages)
        self.site.give_after_rcu(storage.buffer, self._buffer_size)
        self.site.give_after_rcu(storage.head, self._head_size)


@final
class PercpuCgroupStorageMap(CgroupStorageMap):
    """PERCPU_CGROUP_STORAGE: updates write in place."""

    spin_locks = SpinLocks.NEVER
    percpu_values: ClassVar[bool] = True

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Replaces the values of an existing storage. Raises EINVAL, ENOENT."""
        one_cpu = takes_one_value(self, flags)
        if not one_cpu and flags not in (BPF_ANY, BPF_EXIST):
            raise refuse(Errno.EINVAL, f"update flags {flags:#x} are unknown")
        storage = self._find(key)
        storage.value = onto_cpus(storage.value, value, flags) if one_cpu else value

    def _make_buffer_size(self) -> AllocSize:
        return self.site.memory.percpu_size(self.value_size)

    def _charge_pages(self) -> int:
        if not self.host.profile.is_rlimit:
            return 0
        return pages_for(round_up_8(self.value_size) * self.host.possible_cpus)
