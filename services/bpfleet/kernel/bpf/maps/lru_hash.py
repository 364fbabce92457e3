"""LRU_HASH and LRU_PERCPU_HASH [kernel/bpf/hashtab.c], since 4.10. All profiles.

At create: the table as HASH and all elements, always preallocated and without spares (the 5.10 precharge counts them
all the same); LRU_PERCPU_HASH adds one per-CPU value per entry. With BPF_F_NO_COMMON_LRU the entries are rounded up to
a multiple of the possible CPUs. Per element: nothing; a full map evicts. Freed as HASH.
Known gap: none.
"""

from dataclasses import replace
from typing import Final

from bpfleet.abi.bpf import BPF_EXIST, F_NO_COMMON_LRU, Capability, MapType
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import U32_MAX
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.maps.base import onto_cpus, splice_cpu, takes_one_value, zeroes
from bpfleet.kernel.bpf.maps.hash import (
    HashTable,
    element_bytes,
    hash_estimate,
    table_allocations,
    table_usage,
)
from bpfleet.kernel.bpf.maps.lru_list import (
    CommonLru,
    LruList,
    LruNode,
    PercpuLru,
    target_free,
)
from bpfleet.kernel.bpf.maps.percpu_hash import preallocated
from bpfleet.kernel.bpf.refusals import not_found, refuse
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.kernel.profile import KernelProfile
from bpfleet.kernel.units import round_up_8


class LruHashMap(HashTable):
    """A hash that makes room by itself. The order of eviction is in lru_list.py."""

    capability = Capability.BPF
    __slots__ = ("_lists", "_nodes")

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        self._nodes: Final[dict[bytes, LruNode]] = {}
        self._lists: LruList | None = None  # made for the first element

    @property
    def _lru(self) -> LruList:
        lists = self._lists
        if lists is None:
            lists = self._lists = self._make_lists()
        return lists

    def _make_lists(self) -> LruList:
        cpus, entries = self.host.possible_cpus, self.max_entries
        if self.map_flags & F_NO_COMMON_LRU:
            return PercpuLru(entries, cpus, self._evict)
        scaled = self.host.profile.lru_target_free_scaled
        return CommonLru(entries, cpus, target_free(entries, cpus, scaled=scaled), self._evict)

    @classmethod
    def effective(cls, attr: MapAttr, possible_cpus: int) -> MapAttr:
        """Equal shares for per-CPU lists: rounded up in 32 bits, down where that wraps."""
        if not attr.map_flags & F_NO_COMMON_LRU:
            return attr
        entries = attr.max_entries
        rounded = ((entries + possible_cpus - 1) & U32_MAX) // possible_cpus * possible_cpus
        if rounded < entries:
            rounded = entries // possible_cpus * possible_cpus
        return replace(attr, max_entries=rounded)

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """Table, elements, values (per-CPU type), and the lists' per-CPU heads, which nobody is charged for."""
        attr, profile = creation.attr, creation.profile
        size, value = element_bytes(attr), round_up_8(attr.value_size)
        table = table_allocations(attr, profile, creation.possible_cpus)
        if attr.map_type == MapType.LRU_PERCPU_HASH:
            elements = preallocated(attr, size, value)
        else:
            elements = (Allocation("elements", How.AREA, size * attr.max_entries),)
        structs = profile.structs
        own_lists = attr.map_flags & F_NO_COMMON_LRU
        lists = structs.bpf_lru_list if own_lists else structs.bpf_lru_locallist
        elements += (Allocation("lru", How.PERCPU_UNCHARGED, lists),)
        return CostPlan(hash_estimate(attr, profile, creation.possible_cpus), table + elements, 1)

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """htab_map_mem_usage."""
        each = element_bytes(attr)
        if attr.map_type == MapType.LRU_PERCPU_HASH:
            each += round_up_8(attr.value_size) * possible_cpus
        return table_usage(attr, profile, possible_cpus) + each * attr.max_entries

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """Raises ENOENT. A program's lookup marks the element as used, a system call's does not."""
        value = self._elements.get(key)
        if value is None:
            raise not_found()
        if context.from_prog:
            self._nodes[key].ref = True
        return value

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Takes a node first, which may evict, then looks at the flags. Raises EINVAL, EEXIST, ENOENT, ENOMEM."""
        if flags > BPF_EXIST:
            raise refuse(Errno.EINVAL, f"unknown update flags {flags:#x}")
        node = self._node(context.cpu)
        old = self._nodes.get(key)  # after the eviction, which may have taken this very key
        try:
            self._check_presence(old is not None, flags)
        except KernelError:
            self._lru.put(node)
            raise
        node.key = key
        if old is not None:
            node.ref = True
            old.key = None
            self._lru.put(old)
        self._nodes[key] = node
        self._store_newest(key, value)

    def delete(self, key: bytes, context: OpContext) -> None:
        """Raises ENOENT."""
        node = self._nodes.pop(key, None)
        if node is None:
            raise not_found()
        self._drop(key)
        node.key = None
        self._lru.put(node)

    def free(self, cpu: int) -> None:
        """Elements live in the preallocated area."""
        self._elements.clear()
        self._nodes.clear()
        self._order = None

    def _node(self, cpu: int) -> LruNode:
        node = self._lru.get(cpu)
        if node is None:
            raise KernelError(
                Errno.ENOMEM,
                Reason.MAP_FULL,
                f"no element of CPU {cpu} can be evicted",
                max_entries=self.max_entries,
            )
        return node

    def _evict(self, node: LruNode) -> bool:
        """Removes the node's element from the table; False when it is not in there [htab_lru_map_delete_node]."""
        key = node.key
        if key is None:
            return False
        del self._nodes[key]
        self._drop(key)
        node.key = None
        return True


class LruPercpuHashMap(LruHashMap):
    """An LRU hash whose values exist once per possible CPU; existing keys are updated in place.

    In 7.0 and 7.1 an insert with BPF_F_CPU leaves to the other CPUs what the element held before [pcpu_init_value].
    """

    __slots__ = ("_zero",)

    percpu_values = True

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        self._zero: Final = zeroes(self.user_value_size)

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Takes a node first unless BPF_EXIST was given. Raises EINVAL, EEXIST, ENOENT, ENOMEM."""
        one_cpu = takes_one_value(self, flags)
        node = self._node(context.cpu) if flags != BPF_EXIST else None
        old = self._nodes.get(key)
        try:
            self._check_presence(old is not None, flags)
        except KernelError:
            if node is not None:
                self._lru.put(node)
            raise
        if one_cpu:
            left = self._zero if node is None else node.left or self._zero
            value = onto_cpus(self._elements.get(key, left), value, flags)
        elif context.from_prog:
            value = splice_cpu(self._elements.get(key, self._zero), value, context.cpu)
        if old is not None:
            old.ref = True
            self._elements[key] = value
            if node is not None:
                self._lru.put(node)
            return
        assert node is not None
        node.key = key
        self._nodes[key] = node
        self._store_newest(key, value)

    def delete(self, key: bytes, context: OpContext) -> None:
        """Raises ENOENT."""
        self._leave(self._nodes.get(key))
        super().delete(key, context)

    def _evict(self, node: LruNode) -> bool:
        self._leave(node)
        return super()._evict(node)

    def _leave(self, node: LruNode | None) -> None:
        """The memory of a node that leaves the table keeps its value."""
        if self.host.profile.cpu_insert_leaves_others and node is not None and node.key is not None:
            node.left = self._elements[node.key]
