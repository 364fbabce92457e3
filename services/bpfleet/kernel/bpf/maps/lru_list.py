"""LRU eviction: which element makes room for a new one [kernel/bpf/bpf_lru_list.c].

Shared form: one active, inactive and free list for all CPUs, and per CPU a short list of free nodes and one of pending
(just handed out) nodes. Per-CPU form (BPF_F_NO_COMMON_LRU): every CPU has its own active, inactive and free list with
its share of the nodes. New nodes are pushed at the front of a list; its tail is the oldest.

Nodes never handed out are only counted, so a map of millions of entries costs what its used entries cost. A list is a
ring around a head node, as in the kernel, because the rotation cursor may rest on that head.
"""

from collections.abc import Callable
from typing import Final, final

LOCAL_FREE_TARGET: Final = 128
LOCAL_SCANS: Final = LOCAL_FREE_TARGET
PERCPU_FREE_TARGET: Final = 4
PERCPU_SCANS: Final = PERCPU_FREE_TARGET

_ACTIVE: Final = 0
_INACTIVE: Final = 1
_FREE: Final = 2
_LOCAL_FREE: Final = 3
_LOCAL_PENDING: Final = 4


@final
class LruNode:
    """One element. ``ref``: used since it was last looked at. ``key`` None: not in the hash table.

    ``left`` is what its memory holds of the value it had last; empty where nobody can read that.
    """

    __slots__ = ("after", "before", "cpu", "key", "kind", "left", "ref")

    def __init__(self) -> None:
        self.before: LruNode = self
        self.after: LruNode = self
        self.kind = _FREE
        self.cpu = 0
        self.ref = False
        self.key: bytes | None = None
        self.left = b""


def _unlink(node: LruNode) -> None:
    node.before.after = node.after
    node.after.before = node.before


def _push(head: LruNode, node: LruNode) -> None:
    """list_add: in front."""
    first = head.after
    node.before, node.after = head, first
    head.after = first.before = node


@final
class _Lists:
    """Active, inactive and free list with the rotation cursor [struct bpf_lru_list].

    ``untouched`` are free nodes that were never handed out; they lie behind the free list's nodes.
    """

    __slots__ = ("active", "counts", "cursor", "free", "inactive", "untouched")

    def __init__(self, untouched: int) -> None:
        self.active: Final = LruNode()
        self.inactive: Final = LruNode()
        self.free: Final = LruNode()
        self.cursor = self.inactive
        self.counts: Final = [0, 0]
        self.untouched = untouched

    def head(self, kind: int) -> LruNode:
        """The ring of ``kind``."""
        return (self.active, self.inactive, self.free)[kind]

    def move(self, node: LruNode, kind: int) -> None:
        """Moves a node of these lists to the front of one of them, its reference bit cleared."""
        if node.kind < _FREE:
            self.counts[node.kind] -= 1
        if kind < _FREE:
            self.counts[kind] += 1
        node.kind = kind
        node.ref = False
        self._leave(node)
        _unlink(node)
        _push(self.head(kind), node)

    def hand_to(self, node: LruNode, head: LruNode, kind: int) -> None:
        """Moves a node of these lists to a CPU's local list, or to the free list of this one."""
        self._leave(node)
        if node.kind < _FREE:
            self.counts[node.kind] -= 1
        node.kind = kind
        _unlink(node)
        _push(head, node)

    def take_in(self, node: LruNode, kind: int) -> None:
        """Moves a node from a local list in here."""
        self.counts[kind] += 1
        node.kind = kind
        node.ref = False
        _unlink(node)
        _push(self.head(kind), node)

    def add_inactive(self, node: LruNode) -> None:
        """Puts an unlinked node at the front of the inactive list."""
        self.counts[_INACTIVE] += 1
        node.kind = _INACTIVE
        node.ref = False
        _push(self.inactive, node)

    def pop_free(self) -> LruNode | None:
        """Unlinks the front of the free list; makes a node for one never handed out."""
        node = self.free.after
        if node is not self.free:
            _unlink(node)
            return node
        if self.untouched:
            self.untouched -= 1
            return LruNode()
        return None

    def _leave(self, node: LruNode) -> None:
        if node is self.cursor:
            self.cursor = node.before

    # -- rotation ------------------------------------------------------------------------------------------------

    def rotate(self, scans: int) -> None:
        """Demotes unused active nodes when inactive ones are few, promotes used inactive ones."""
        if self.counts[_INACTIVE] < self.counts[_ACTIVE]:
            self._rotate_active(scans)
        self._rotate_inactive(scans)

    def _rotate_active(self, scans: int) -> None:
        first, node, seen = self.active.after, self.active.before, 0
        while node is not self.active:
            older = node.before
            self.move(node, _ACTIVE if node.ref else _INACTIVE)
            seen += 1
            if seen == scans or node is first:
                break
            node = older

    def _rotate_inactive(self, scans: int) -> None:
        head = self.inactive
        if head.after is head:
            return
        last = self.cursor.after
        if last is head:
            last = last.after
        current, following, seen = self.cursor, head, 0
        while seen < scans:
            if current is head:
                current = current.before
                continue
            following = current.before
            if current.ref:
                self.move(current, _ACTIVE)
            if current is last:
                break
            current = following
            seen += 1
        self.cursor = following

    # -- eviction ------------------------------------------------------------------------------------------------

    def shrink(
        self, wanted: int, scans: int, evict: Callable[[LruNode], bool], head: LruNode, kind: int
    ) -> int:
        """Hands up to ``wanted`` unused inactive nodes to ``head``; at least one if any can be evicted."""
        done = self._shrink_inactive(wanted, scans, evict, head, kind)
        if done:
            return done
        ring = self.inactive if self.inactive.after is not self.inactive else self.active
        node = ring.before
        while node is not ring:
            older = node.before
            if evict(node):
                self.hand_to(node, head, kind)
                return 1
            node = older
        return 0

    def _shrink_inactive(
        self, wanted: int, scans: int, evict: Callable[[LruNode], bool], head: LruNode, kind: int
    ) -> int:
        done, seen, node = 0, 0, self.inactive.before
        while node is not self.inactive:
            older = node.before
            if node.ref:
                self.move(node, _ACTIVE)
            elif evict(node):
                self.hand_to(node, head, kind)
                done += 1
                if done == wanted:
                    break
            seen += 1
            if seen == scans:
                break
            node = older
        return done


@final
class _Local:
    """One CPU's free and pending nodes in the shared form [struct bpf_lru_locallist]."""

    __slots__ = ("free", "pending", "steal")

    def __init__(self, cpu: int) -> None:
        self.free: Final = LruNode()
        self.pending: Final = LruNode()
        self.steal = cpu


class LruList:
    """What the hash table needs: a node for a new element, and a place for one it no longer uses.

    ``evict(node)`` removes the node's element from the hash table and says whether it was there to remove.
    """

    def get(self, cpu: int) -> LruNode | None:
        """A node to use, evicting others if need be; None when nothing can be evicted."""
        raise NotImplementedError

    def put(self, node: LruNode) -> None:
        """Takes back a node that is not in the hash table."""
        raise NotImplementedError


@final
class CommonLru(LruList):
    """One set of lists for all CPUs. ``target_free``: how many nodes a CPU fetches at once."""

    def __init__(
        self, nodes: int, cpus: int, target_free: int, evict: Callable[[LruNode], bool]
    ) -> None:
        self._lists: Final = _Lists(nodes)
        self._locals: Final = [_Local(cpu) for cpu in range(cpus)]
        self._target_free: Final = target_free
        self._evict: Final = evict

    def get(self, cpu: int) -> LruNode | None:
        """From the CPU's own free nodes, refilled from the shared lists, else stolen from any CPU."""
        local = self._locals[cpu]
        if local.free.after is local.free:
            self._refill(local)
        node: LruNode | None = local.free.after
        if node is local.free:
            node = self._steal(local)
            if node is None:
                return None
        else:
            assert node is not None
            _unlink(node)
        node.cpu = cpu
        node.kind = _LOCAL_PENDING
        node.ref = False
        _push(local.pending, node)
        return node

    def _refill(self, local: _Local) -> None:
        lists = self._lists
        node = local.pending.before
        while node is not local.pending:
            older = node.before
            lists.take_in(node, _ACTIVE if node.ref else _INACTIVE)
            node = older
        lists.rotate(LOCAL_SCANS)
        moved = 0
        while moved < self._target_free:
            free = lists.pop_free()
            if free is None:
                break
            free.kind = _LOCAL_FREE
            _push(local.free, free)
            moved += 1
        if moved < self._target_free:
            lists.shrink(
                self._target_free - moved, LOCAL_SCANS, self._evict, local.free, _LOCAL_FREE
            )

    def _steal(self, local: _Local) -> LruNode | None:
        cpu = first = local.steal
        node: LruNode | None = None
        while True:
            victim = self._locals[cpu]
            node = victim.free.after
            if node is not victim.free:
                _unlink(node)
            else:
                node = self._pop_pending(victim)
            cpu = (cpu + 1) % len(self._locals)
            if node is not None or cpu == first:
                break
        local.steal = cpu
        return node

    def _pop_pending(self, victim: _Local) -> LruNode | None:
        for ignore_ref in (False, True):
            node = victim.pending.before
            while node is not victim.pending:
                if (ignore_ref or not node.ref) and self._evict(node):
                    _unlink(node)
                    return node
                node = node.before
        return None

    def put(self, node: LruNode) -> None:
        """A pending node returns to its CPU's free list, another one to the shared free list."""
        if node.kind == _LOCAL_PENDING:
            node.kind = _LOCAL_FREE
            node.ref = False
            _unlink(node)
            _push(self._locals[node.cpu].free, node)
        else:
            self._lists.move(node, _FREE)


@final
class PercpuLru(LruList):
    """Own lists per CPU, each with an equal share of the nodes; a CPU evicts only from its own."""

    def __init__(self, nodes: int, cpus: int, evict: Callable[[LruNode], bool]) -> None:
        self._lists: Final = [_Lists(nodes // cpus) for _ in range(cpus)]
        self._evict: Final = evict

    def get(self, cpu: int) -> LruNode | None:
        """From the CPU's free list, after rotating; shrinks it when empty."""
        lists = self._lists[cpu]
        lists.rotate(PERCPU_SCANS)
        node = lists.pop_free()
        if node is None:
            lists.shrink(PERCPU_FREE_TARGET, PERCPU_SCANS, self._evict, lists.free, _FREE)
            node = lists.pop_free()
            if node is None:
                return None
        node.cpu = cpu
        lists.add_inactive(node)
        return node

    def put(self, node: LruNode) -> None:
        """To the front of the free list of the CPU that owns the node."""
        self._lists[node.cpu].move(node, _FREE)


def target_free(nodes: int, cpus: int, *, scaled: bool) -> int:
    """Nodes a CPU fetches at once: 128, or scaled to half its share from 6.16 (and in late stable kernels).

    >>> target_free(2, 2, scaled=False), target_free(2, 2, scaled=True), target_free(1000, 2, scaled=True)
    (128, 1, 128)
    """
    if not scaled:
        return LOCAL_FREE_TARGET
    return min(max(nodes // cpus // 2, 1), LOCAL_FREE_TARGET)
