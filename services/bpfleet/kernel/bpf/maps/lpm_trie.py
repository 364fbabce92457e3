"""LPM_TRIE [kernel/bpf/lpm_trie.c], since 4.11. All profiles.

At create: the struct only (the 5.10 precharge counts all nodes); from 6.14 the prefill of a node cache. Per element: a
node with data and value, and an intermediate node (data only; from 6.14 of the same size) where two prefixes part.
Replacing takes the new node first. Nodes go back after a grace period, all with the map. Known gap: none.
"""

from typing import Final, TypeAlias, final

from bpfleet.abi.bpf import BPF_EXIST, BPF_NOEXIST, F_NO_PREALLOC, F_NUMA_NODE, Capability, Cmd
from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import KMALLOC_MAX_SIZE
from bpfleet.kernel.bpf.attr import MapAttr
from bpfleet.kernel.bpf.cost import Allocation, CostPlan, Creation, How, struct_how
from bpfleet.kernel.bpf.host import Host, OpContext
from bpfleet.kernel.bpf.maps.array import ACCESS_MASK, check_flags
from bpfleet.kernel.bpf.maps.base import BATCH_NO_LOOKUP_AND_DELETE, BATCH_NONE, BpfMap, KeyBtf
from bpfleet.kernel.bpf.memalloc import prefill, unit_bytes
from bpfleet.kernel.bpf.refusals import key_exists, map_full, not_found, refuse, require_bpf
from bpfleet.kernel.bpf.site import AllocSite
from bpfleet.kernel.errors import KernelError
from bpfleet.kernel.mm import gfp as GFP
from bpfleet.kernel.mm.memory import Account, AllocSize
from bpfleet.kernel.proc.task import Task
from bpfleet.kernel.profile import KernelProfile

PREFIX_BYTES: Final = 4  # the u32 prefix length in front of the data
DATA_SIZE_MIN: Final = 1
DATA_SIZE_MAX: Final = 256


_NodeMemory: TypeAlias = tuple[Account, AllocSize]


@final
class _Node:
    """A prefix: ``bits`` are all data bits as one big-endian number, ``value`` None marks an intermediate node.

    ``memory`` is what the node's object was taken from, None when it came out of the map's caches.
    """

    __slots__ = ("bits", "children", "memory", "prefixlen", "value")

    def __init__(
        self, prefixlen: int, bits: int, value: bytes | None, memory: _NodeMemory | None
    ) -> None:
        self.prefixlen: Final = prefixlen
        self.bits: Final = bits
        self.value = value
        self.memory: Final = memory
        self.children: list[_Node | None] = [None, None]


class LpmTrieMap(BpfMap):
    """Longest-prefix match over keys of a prefix length and data bytes."""

    capability = Capability.BPF
    key_btf = KeyBtf.STRUCT

    def __init__(self, attr: MapAttr, host: Host, site: AllocSite) -> None:
        super().__init__(attr, host, site)
        self._data_bits: Final = (attr.key_size - PREFIX_BYTES) * 8
        self._root: _Node | None = None
        self._count = 0
        memory = site.memory
        self._leaf_size: Final = memory.slab_size(leaf_bytes(attr, host.profile))
        self._inner_size: Final = memory.slab_size(leaf_bytes(attr, host.profile) - attr.value_size)
        self._caches: Final = site.mem_allocs[0] if site.mem_allocs else None

    @classmethod
    def check_alloc(cls, attr: MapAttr, host: Host, task: Task) -> None:
        """trie_alloc. Raises EPERM, EINVAL."""
        require_bpf(host, task)
        flags, data = attr.map_flags, attr.key_size - PREFIX_BYTES
        if attr.max_entries == 0 or not flags & F_NO_PREALLOC:
            raise refuse(Errno.EINVAL, "an LPM trie needs entries and BPF_F_NO_PREALLOC")
        check_flags(flags, F_NO_PREALLOC | F_NUMA_NODE | ACCESS_MASK)
        value_max = KMALLOC_MAX_SIZE - DATA_SIZE_MAX - host.profile.structs.lpm_trie_node
        if not DATA_SIZE_MIN <= data <= DATA_SIZE_MAX or not 1 <= attr.value_size <= value_max:
            raise refuse(
                Errno.EINVAL,
                f"key size {attr.key_size} (5..260) or value size {attr.value_size}"
                f" (1..{value_max}) is out of range",
            )

    @classmethod
    def plan(cls, creation: Creation) -> CostPlan:
        """The struct, allocated before the precharge of all possible nodes."""
        attr, profile = creation.attr, creation.profile
        structs, leaf = profile.structs, leaf_bytes(attr, profile)
        trie = Allocation("trie", struct_how(profile), structs.lpm_trie)
        estimate = structs.lpm_trie + attr.max_entries * leaf
        if profile.lpm_uses_mem_alloc:
            caches = prefill(profile, creation.possible_cpus, leaf, label="node")
            unit = unit_bytes(leaf, percpu=False)
            node = Allocation("node", How.MEM_ALLOC, unit, 2)
            return CostPlan(estimate, (trie, caches), 1, (node,))
        gfp = GFP.GFP_NOWAIT if profile.elements_nowait else GFP.GFP_ATOMIC
        made = (
            Allocation("leaf", How.HELPER_KMALLOC, leaf, 1, gfp),
            Allocation("intermediate", How.HELPER_KMALLOC, leaf - attr.value_size, 1, gfp),
        )
        return CostPlan(estimate, (trie,), 1, made)

    @classmethod
    def mem_usage(
        cls, attr: MapAttr, profile: KernelProfile, possible_cpus: int, entries: int
    ) -> int:
        """trie_mem_usage: nodes with a value only; neither the struct nor intermediate nodes."""
        return leaf_bytes(attr, profile) * entries

    @classmethod
    def batch_commands(cls, profile: KernelProfile) -> frozenset[Cmd]:
        """Since "bpf: Add support for batched ops in LPM trie maps" (5.13)."""
        return BATCH_NO_LOOKUP_AND_DELETE if profile.lpm_has_batch else BATCH_NONE

    def entries(self) -> int:
        """Prefixes with a value."""
        return self._count

    # -- operations ----------------------------------------------------------------------------------------------

    def lookup(self, key: bytes, context: OpContext) -> bytes:
        """The value of the longest stored prefix of ``key``, no longer than the key's own. Raises ENOENT."""
        prefixlen, bits = self._parse(key)
        found: bytes | None = None
        node = self._root if prefixlen <= self._data_bits else None
        while node is not None:
            if self._match(node, prefixlen, bits) < node.prefixlen:
                break
            if node.value is not None:
                found = node.value
            if node.prefixlen == self._data_bits:
                break
            node = node.children[self._bit(bits, node.prefixlen)]
        if found is None:
            raise not_found("no stored prefix matches")
        return found

    def update(self, key: bytes, value: bytes, flags: int, context: OpContext) -> None:
        """Raises EINVAL, ENOSPC at max_entries prefixes, EEXIST, ENOENT, ENOMEM."""
        prefixlen, bits = self._parse(key)
        if flags > BPF_EXIST:
            raise refuse(Errno.EINVAL, f"unknown update flags {flags:#x}")
        if prefixlen > self._data_bits:
            raise self._prefix_too_long(prefixlen)
        profile = self.host.profile
        if profile.lpm_full_checked_first and self._count == self.max_entries:
            raise map_full(Errno.ENOSPC, self.max_entries)
        new = _Node(prefixlen, bits, value, self._take(self._leaf_size, context))
        try:
            self._insert(new, 0 if profile.lpm_ignores_update_flags else flags, context)
        except KernelError:
            self._give_at_once(new, context.cpu)
            raise

    def _insert(self, new: _Node, flags: int, context: OpContext) -> None:
        """Finds the slot of ``new`` and puts it there, above or beside what is in it."""
        parent, side, node = self._descend(new.prefixlen, new.bits, stop_at_end=True)
        if node is None:
            self._admit(flags)
            self._hang(parent, side, new)
            return
        matched = self._match(node, new.prefixlen, new.bits)
        if node.prefixlen == matched:
            if node.value is None:
                self._admit(flags)
            elif flags == BPF_NOEXIST:
                raise key_exists()
            new.children = node.children
            self._hang(parent, side, new)
            self._give_after_rcu(node, context.cpu)
            return
        self._admit(flags)
        if matched == new.prefixlen:
            new.children[self._bit(node.bits, matched)] = node
            self._hang(parent, side, new)
            return
        try:
            inner = _Node(matched, node.bits, None, self._take(self._inner_size, context))
        except KernelError:
            self._count -= 1
            raise
        newer = self._bit(new.bits, matched)
        inner.children[newer], inner.children[1 - newer] = new, node
        self._hang(parent, side, inner)

    def _admit(self, flags: int) -> None:
        """Counts one more prefix. Raises ENOENT for BPF_EXIST, ENOSPC when full [trie_check_add_elem]."""
        if flags == BPF_EXIST:
            raise not_found("BPF_EXIST was given and the prefix does not exist")
        if self._count == self.max_entries:
            raise map_full(Errno.ENOSPC, self.max_entries)
        self._count += 1

    def delete(self, key: bytes, context: OpContext) -> None:
        """Exact length and bits. Raises EINVAL for too long a prefix, ENOENT."""
        prefixlen, bits = self._parse(key)
        if prefixlen > self._data_bits:
            raise self._prefix_too_long(prefixlen)
        path = self._path(prefixlen, bits)
        node = path[-1] if path else None
        if node is None or node.value is None or node.prefixlen != prefixlen:
            raise not_found()
        self._count -= 1
        left, right = node.children
        if left is not None and right is not None:
            node.value = None  # becomes an intermediate node; its memory stays
            return
        parent = path[-2] if len(path) > 1 else None
        if parent is not None and parent.value is None and left is None and right is None:
            sibling = parent.children[1 if parent.children[0] is node else 0]
            self._replace(path[-3] if len(path) > 2 else None, parent, sibling)
            self._give_after_rcu(parent, context.cpu)
        else:
            self._replace(parent, node, left if left is not None else right)
        self._give_after_rcu(node, context.cpu)

    def next_key(self, key: bytes | None) -> bytes:
        """Post-order: longer prefixes before shorter, 0-branch first. Raises ENOENT after the last, and when empty."""
        if self._root is None:
            raise not_found("the trie is empty")
        if key is None:
            return self._key_of(self._leftmost(self._root))
        prefixlen, bits = self._parse(key)
        path = self._path(prefixlen, bits) if prefixlen <= self._data_bits else []
        if not path or path[-1].value is None:
            return self._key_of(self._leftmost(self._root))
        node = path.pop()
        while path:
            parent = path.pop()
            right = parent.children[1]
            if parent.children[0] is node and right is not None:
                return self._key_of(self._leftmost(right))
            if parent.value is not None:
                return self._key_of(parent)
            node = parent
        raise not_found("that was the last prefix")

    def free(self, cpu: int) -> None:
        """Frees all nodes."""
        pending = [self._root] if self._root is not None else []
        while pending:
            node = pending.pop()
            pending.extend(child for child in node.children if child is not None)
            if node.memory is not None:
                self.site.give_element(*node.memory, cpu)
        self._root = None
        self._count = 0

    # -- walking -------------------------------------------------------------------------------------------------

    def _parse(self, key: bytes) -> tuple[int, int]:
        prefixlen = int.from_bytes(key[:PREFIX_BYTES], "little")
        return prefixlen, int.from_bytes(key[PREFIX_BYTES:], "big")

    def _key_of(self, node: _Node) -> bytes:
        data = node.bits.to_bytes(self._data_bits // 8, "big")
        return node.prefixlen.to_bytes(PREFIX_BYTES, "little") + data

    def _bit(self, bits: int, index: int) -> int:
        return bits >> (self._data_bits - 1 - index) & 1

    def _match(self, node: _Node, prefixlen: int, bits: int) -> int:
        """Leading bits that agree, at most the shorter of the two prefixes [longest_prefix_match]."""
        agree = self._data_bits - (node.bits ^ bits).bit_length()
        return min(agree, node.prefixlen, prefixlen)

    def _descend(
        self, prefixlen: int, bits: int, *, stop_at_end: bool
    ) -> tuple[_Node | None, int, _Node | None]:
        """(parent, which child, node there) where a walk for the prefix ends."""
        parent: _Node | None = None
        side, node = 0, self._root
        while node is not None:
            matched = self._match(node, prefixlen, bits)
            if node.prefixlen != matched or node.prefixlen == prefixlen:
                break
            if stop_at_end and node.prefixlen == self._data_bits:
                break
            side = self._bit(bits, node.prefixlen)
            parent, node = node, node.children[side]
        return parent, side, node

    def _path(self, prefixlen: int, bits: int) -> list[_Node]:
        """Nodes from the root to the one with exactly this prefix; empty if no node has it."""
        path: list[_Node] = []
        node = self._root
        while node is not None:
            path.append(node)
            matched = self._match(node, prefixlen, bits)
            if node.prefixlen != matched:
                return []
            if node.prefixlen == prefixlen:
                return path
            node = node.children[self._bit(bits, node.prefixlen)]
        return []

    def _leftmost(self, root: _Node) -> _Node:
        node: _Node | None = root
        last = root
        while node is not None:
            last = node
            if node.value is None or node.children[0] is not None:
                node = node.children[0]
            else:
                node = node.children[1]
        return last

    def _hang(self, parent: _Node | None, side: int, node: _Node | None) -> None:
        if parent is None:
            self._root = node
        else:
            parent.children[side] = node

    def _replace(self, parent: _Node | None, old: _Node, new: _Node | None) -> None:
        side = 0 if parent is None or parent.children[0] is old else 1
        self._hang(parent, side, new)

    def _prefix_too_long(self, prefixlen: int) -> KernelError:
        return refuse(Errno.EINVAL, f"prefix length {prefixlen} is over {self._data_bits}")

    # -- memory of nodes -----------------------------------------------------------------------------------------

    def _take(self, size: AllocSize, context: OpContext) -> _NodeMemory | None:
        """One node; caches hold one size for both kinds. Raises ENOMEM."""
        if self._caches is not None:
            self._caches.alloc(context.task)
            return None
        gfp = self.site.element_gfp() | GFP.NOWARN
        return self.site.take_element(size, context, gfp), size

    def _give_at_once(self, node: _Node, cpu: int) -> None:
        if node.memory is not None:
            self.site.give_element(*node.memory, cpu)
        elif self._caches is not None:
            self._caches.free(cpu)

    def _give_after_rcu(self, node: _Node, cpu: int) -> None:
        if node.memory is not None:
            self.site.give_after_rcu(*node.memory)
        elif self._caches is not None:
            self._caches.free_rcu(cpu)


def leaf_bytes(attr: MapAttr, profile: KernelProfile) -> int:
    """Bytes of a node with data and value.

    >>> from bpfleet.kernel.profile import PROFILES
    >>> leaf_bytes(MapAttr(11, 8, 8), PROFILES["6.1"]), leaf_bytes(MapAttr(11, 8, 8), PROFILES["6.18"])
    (52, 36)
    """
    return profile.structs.lpm_trie_node + attr.key_size - PREFIX_BYTES + attr.value_size
