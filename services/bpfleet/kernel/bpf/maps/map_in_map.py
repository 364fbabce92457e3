"""ARRAY_OF_MAPS and HASH_OF_MAPS [kernel/bpf/map_in_map.c, arraymap.c, hashtab.c], since 4.12. All profiles.

At create: as an array of pointers, or as HASH with 8-byte values (no spares from 6.15), and a template of the inner map
that nobody is charged for. Per element: as HASH for a NO_PREALLOC outer hash, else nothing; the inner map is held.
Freed: inner maps are let go with the outer map. An inner map removed by delete or replace waits for a grace period
more before it is freed. Known gap: none.
"""

from typing import Final

from bpfleet.abi.bpf import BPF_EXIST, F_INNER_MAP, Cmd, MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.maps.array import check_slots
from bpfleet.kernel.bpf.maps.base import (
    BATCH_ALL,
    BATCH_LOOKUP_UPDATE,
    BATCH_NONE,
    BpfMap,
    KeyBtf,
    SpinLocks,
)
from bpfleet.kernel.bpf.maps.fd_array import FdArrayMap, HeldObject, check_fd_array
from bpfleet.kernel.bpf.maps.hash import HashMap, check_hash
from bpfleet.kernel.bpf.refusals import refuse
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile

# Types without map_meta_equal: two maps of them never count as alike.
_NEVER_INNER: Final = (
    MapType.PROG_ARRAY,
    MapType.CGROUP_STORAGE,
    MapType.PERCPU_CGROUP_STORAGE,
    MapType.STRUCT_OPS,
    MapType.INSN_ARRAY,
)
_ENTRIES_COMPARED: Final = (MapType.ARRAY, MapType.XSKMAP)


class InnerTemplate:
    """What every inner map must look like, taken from the one given at creation [inner_map_meta]."""

    __slots__ = ("any_entries", "key_size", "map_flags", "map_type", "max_entries", "value_size")

    def __init__(self, model: BpfMap) -> None:
        self.map_type: Final = model.map_type
        self.key_size: Final = model.key_size
        self.value_size: Final = model.value_size
        self.map_flags: Final = model.map_flags
        self.max_entries: Final = model.max_entries
        # Few types compare their size, arrays only without BPF_F_INNER_MAP [array_map_meta_equal].
        self.any_entries: Final = (
            model.map_type not in _ENTRIES_COMPARED or model.map_flags & F_INNER_MAP != 0
        )

    def check(self, candidate: BpfMap) -> None:
        """Raises EINVAL when ``candidate`` differs."""
        same = (
            self.map_type == candidate.map_type
            and self.key_size == candidate.key_size
            and self.value_size == candidate.value_size
            and self.map_flags == candidate.map_flags
            and (self.any_entries or self.max_entries == candidate.max_entries)
        )
        if not same:
            raise refuse(
                Errno.EINVAL,
                f"map {candidate.id} differs from the inner map given at creation"
                f" ({self.map_type.name.lower()}, key {self.key_size}, value {self.value_size},"
                f" {self.max_entries} entries, flags {self.map_flags:#x})",
            )


class ArrayOfMaps(FdArrayMap):
    """Inner maps by index."""

    key_btf = KeyBtf.REFUSED

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        self.template: InnerTemplate | None = None

    @classmethod
    def check(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """fd_array_map_alloc_check. Raises EINVAL, E2BIG."""
        check_fd_array(attr, host.profile)

    @classmethod
    def check_alloc(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """The inner map first, then the slots. Raises EBADF, EINVAL, ENOTSUPP, E2BIG."""
        inner_model(attr, task)
        check_slots(attr, task)

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """The template, then the slots."""
        profile = creation.profile
        array = super().plan(creation)
        return CostPlan(array.estimate_bytes, (template(profile), *array.allocations), 1)

    @classmethod
    def batch_commands(cls, profile: KernelProfile) -> frozenset[Cmd]:
        """Since "bpf: Add map-in-map batch ops for arrays" (5.18)."""
        return BATCH_LOOKUP_UPDATE if profile.map_in_map_has_batch else BATCH_NONE

    def after_alloc(self, task: Task) -> None:
        """Keeps the shape of the inner map given at creation."""
        self.template = InnerTemplate(inner_model(self.attr, task))

    def acquire(self, fd: int, context: OpContext) -> HeldObject:
        """A map like the template. Raises EBADF, EINVAL."""
        return acquire_inner(self.template, fd, context)

    def dispose(self, held: HeldObject, *, deferred: bool) -> None:
        """Lets an inner map go."""
        assert isinstance(held, BpfMap)
        release_inner(held, deferred=deferred)


class HashOfMaps(HashMap):
    """Inner maps by key."""

    key_btf = KeyBtf.REFUSED
    spin_locks = SpinLocks.NEVER
    holds_fds = True

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        self.template: InnerTemplate | None = None
        self.inner: Final[dict[bytes, BpfMap]] = {}

    @classmethod
    def check(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """fd_htab_map_alloc_check. Raises EINVAL, EPERM, E2BIG."""
        if attr.value_size != 4:
            raise refuse(Errno.EINVAL, f"value size {attr.value_size}: descriptors are 4 bytes")
        check_hash(attr, host, task)

    @classmethod
    def check_alloc(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """The inner map first, then the table. Raises EBADF, EINVAL, ENOTSUPP, E2BIG."""
        inner_model(attr, task)
        super().check_alloc(attr, host, task)

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """The template, then as HASH."""
        profile = creation.profile
        table = super().plan(creation)
        return CostPlan(
            table.estimate_bytes, (template(profile), *table.allocations), 2, table.per_element
        )

    @classmethod
    def has_lookup_and_delete(cls, profile: KernelProfile) -> bool:
        """Never: the value would be an id of a map that may be gone."""
        return False

    @classmethod
    def batch_commands(cls, profile: KernelProfile) -> frozenset[Cmd]:
        """Since "bpf: Add map-in-map batch ops for hash" (5.18)."""
        return BATCH_ALL if profile.map_in_map_has_batch else BATCH_NONE

    def after_alloc(self, task: Task) -> None:
        """Keeps the shape of the inner map given at creation."""
        self.template = InnerTemplate(inner_model(self.attr, task))

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """The descriptor first (EBADF, EINVAL), then as HASH."""
        inner = acquire_inner(self.template, int.from_bytes(value, "little"), context)
        try:
            self._store(key, inner.id.to_bytes(4, "little"), flags, context)
        except KernelError:
            release_inner(inner, deferred=False)
            raise
        old = self.inner.get(key)
        self.inner[key] = inner
        if old is not None:
            release_inner(old, deferred=True)

    def _store(self, key: bytes, ident: bytes, flags: int, context: OpContext) -> None:
        """As HASH up to 6.14; later an existing key changes in place, without a second element."""
        if self.host.profile.hash_of_maps_spare_elements or key not in self.inner:
            super().update(key, ident, flags, context)
            return
        if flags > BPF_EXIST:
            raise refuse(Errno.EINVAL, f"unknown update flags {flags:#x}")
        self._check_presence(present=True, flags=flags)
        self._elements[key] = ident

    def delete(self, key: bytes, context: OpContext) -> None:
        """Raises ENOENT."""
        super().delete(key, context)
        release_inner(self.inner.pop(key), deferred=True)

    def free(self, cpu: int) -> None:
        """Lets the inner maps go, then as HASH."""
        held = list(self.inner.values())
        self.inner.clear()
        for inner in held:
            release_inner(inner, deferred=False)
        super().free(cpu)


def inner_maps(outer: BpfMap) -> list[BpfMap]:
    """The maps in the slots of a map of maps; none of any other."""
    if isinstance(outer, HashOfMaps):
        return list(outer.inner.values())
    if isinstance(outer, ArrayOfMaps):
        return [held for held in outer.slots.values() if isinstance(held, BpfMap)]
    return []


def map_of(task: Task, fd: int) -> BpfMap:
    """The map behind a descriptor. Raises EBADF, EINVAL for anything else [__bpf_map_get]."""
    file = task.file(fd)
    if not isinstance(file.target, BpfMap):
        raise KernelError(
            Errno.EINVAL,
            Reason.BAD_FILE_DESCRIPTOR,
            f"descriptor {fd} is a {file.kind}, not a map",
        )
    return file.target


def inner_model(attr: MapAttr, task: Task) -> BpfMap:
    """The map an outer map is made after. Raises EBADF, EINVAL, ENOTSUPP [bpf_map_meta_alloc]."""
    if attr.inner_map_fd is None:
        raise refuse(
            Errno.EINVAL,
            "inner_map_fd is missing: descriptor 0 is not a map",
            Reason.BAD_FILE_DESCRIPTOR,
        )
    model = map_of(task, attr.inner_map_fd)
    if isinstance(model, ArrayOfMaps | HashOfMaps):
        raise refuse(Errno.EINVAL, "an inner map cannot hold maps itself")
    if model.map_type in _NEVER_INNER:
        raise KernelError(
            Errno.ENOTSUPP,
            Reason.OPERATION_UNSUPPORTED,
            f"a {model.map_type.name.lower()} cannot be an inner map",
        )
    return model


def acquire_inner(shape: InnerTemplate | None, fd: int, context: OpContext) -> BpfMap:
    """A map like ``shape``, with a reference. Raises EBADF, EINVAL [bpf_map_fd_get_ptr]."""
    assert shape is not None, "an outer map without a template"
    inner = map_of(context.task, fd)
    shape.check(inner)
    inner.get()
    return inner


def release_inner(inner: BpfMap, *, deferred: bool) -> None:
    """Drops the reference; ``deferred``: programs may still read it for a grace period [bpf_map_fd_put_ptr]."""
    if deferred:
        inner.freed_after_grace = True
    inner.put()


def template(profile: KernelProfile) -> Allocation:
    """The inner map's template: struct bpf_array holds either kind."""
    return Allocation("inner_map_meta", How.KMALLOC_UNCHARGED, profile.structs.bpf_array)
