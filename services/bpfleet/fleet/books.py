"""The coordinator's books: what is bound where, kept in the order placement asks for it.

Derived from the records alone and rebuilt from them after a restart. Nodes that differ only in name,
bookings and labels nobody asks for form a *shape*; labels and taints are judged once per shape, and
within a shape nodes are kept sorted by free memory, so that a decision looks at shapes, not at nodes.
There is an *index* of shapes for every set of labels that workloads look at: a fleet whose every node
has a label of its own stays fast for all who do not look at that one.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from heapq import merge
from typing import Final, TypeVar
from zlib import crc32

from bpfleet.fleet.constraints import implied_labels
from bpfleet.fleet.invariant import require
from bpfleet.fleet.reasons import NodeReason
from bpfleet.fleet.records import FleetNode, Replica
from bpfleet.workload.phase import Phase

K = TypeVar("K")

__all__ = ["FleetBooks", "NodeBook", "Shape", "WorkloadBook", "share"]

ShapeKey = tuple[object, ...]
# The labels an index tells apart, sorted.
LabelKeys = tuple[str, ...]
_LEVELS_MAX: Final = 8
_INDEXES_MAX: Final = 16
# Fewer nodes that are alike are sorted when they are asked for.
_ALIKE_MIN: Final = 64
_SHARE_BITS: Final = 32
# Above every priority: what a victim holds is promised already, nobody can preempt it again.
_PROMISED: Final = 1 << 62


class NodeBook:
    """What is booked on one node."""

    __slots__ = (
        "booked_bytes",
        "by_priority",
        "locked_bytes",
        "node",
        "replicas",
        "shapes",
        "slots_used",
        "workloads",
    )

    def __init__(self, node: FleetNode) -> None:
        self.node = node
        self.shapes: dict[LabelKeys, Shape] = {}
        self.booked_bytes = 0
        self.slots_used = 0
        self.replicas: dict[str, Replica] = {}
        self.by_priority: dict[int, int] = {}
        self.locked_bytes: dict[int, int] = {}
        self.workloads: dict[str, int] = {}

    @property
    def free_bytes(self) -> int:
        """Memory that may still be booked."""
        return self.node.allocatable_bytes - self.booked_bytes

    @property
    def slots_free(self) -> int:
        """Replicas the node still takes."""
        return self.node.max_replicas - self.slots_used

    def free_above(self, priority: int) -> int:
        """Memory that would be free without the replicas of a priority below ``priority``."""
        kept = sum(size for level, size in self.by_priority.items() if level >= priority)
        return self.node.allocatable_bytes - kept

    def add(self, replica: Replica) -> None:
        """Books a bound replica, without what it still waits for."""
        self.replicas[replica.name] = replica
        self._count(replica, 1)

    def remove(self, replica: Replica) -> None:
        """Undoes ``add`` of the same record."""
        del self.replicas[replica.name]
        self._count(replica, -1)

    def _count(self, replica: Replica, sign: int) -> None:
        if replica.phase is not Phase.STOPPING:
            _add(self.workloads, replica.workload, sign)
        size_bytes = replica.booked_bytes - replica.held_bytes
        self.booked_bytes += sign * size_bytes
        self.slots_used += sign
        level = _PROMISED if replica.yields else replica.priority
        _add(self.by_priority, level, sign * size_bytes)
        if replica.locked_bytes:
            _add(self.locked_bytes, replica.uid, sign * replica.locked_bytes)


def share(name: str, seed: int) -> int:
    """By what equally good nodes are shared out among replicas: the least share wins."""
    return crc32(name.encode(), seed)


class _Alike:
    """Names in the order of their shares for any seed, without looking at all of them.

    The CRC of names of one length under two seeds differs by the same bits for all of them. So sorted codes are, for
    each bit from the top, two ranges, and the seed says which of them comes first.
    """

    __slots__ = ("_codes",)

    def __init__(self, names: Iterable[str]) -> None:
        self._codes: dict[int, list[tuple[int, str]]] = {}
        for name in names:
            self._codes.setdefault(len(name.encode()), []).append((share(name, 0), name))
        for codes in self._codes.values():
            codes.sort()

    def add(self, name: str) -> None:
        """Takes a name in."""
        insort(self._codes.setdefault(len(name.encode()), []), (share(name, 0), name))

    def remove(self, name: str) -> None:
        """Takes a name out."""
        codes = self._codes[len(name.encode())]
        del codes[bisect_left(codes, (share(name, 0), name))]

    def by_share(self, seed: int) -> Iterator[str]:
        """Names by share, then name."""
        orders = [
            _in_order(codes, crc32(bytes(length), seed) ^ crc32(bytes(length)))
            for length, codes in self._codes.items()
            if codes
        ]
        for _, name in orders[0] if len(orders) == 1 else merge(*orders):
            yield name


def _in_order(codes: list[tuple[int, str]], mask: int) -> Iterator[tuple[int, str]]:
    """Sorted ``codes`` by ``code ^ mask``, lazily."""
    ranges = [(0, len(codes), _SHARE_BITS - 1)]
    while ranges:
        low, high, bit = ranges.pop()
        if high - low == 1 or bit < 0:
            for code, name in codes[low:high]:
                yield code ^ mask, name
            continue
        first = codes[low][0] >> (bit + 1) << (bit + 1) | 1 << bit
        middle = bisect_left(codes, (first,), low, high)
        halves = [(low, middle, bit - 1), (middle, high, bit - 1)]
        if not mask >> bit & 1:
            halves.reverse()
        ranges += [each for each in halves if each[0] < each[1]]


class Shape:
    """Nodes that differ only in name and bookings, sorted by free memory, then by free slots: so replicas
    that request no memory are spread or packed as the others are.

    ``order`` has the nodes that take replicas; ``full`` those without a free slot. ``levels`` sorts
    all of them by what preemption could free, per priority, once somebody asked. ``version`` changes with them.
    """

    __slots__ = ("_alike", "full", "levels", "number", "order", "sample", "version")

    def __init__(self, number: int, sample: FleetNode) -> None:
        self.number = number
        self.sample = sample
        self.version = 0
        self.order: list[tuple[int, int, str]] = []
        self.full: dict[str, None] = {}
        self.levels: dict[int, list[tuple[int, str]]] = {}
        # Nodes with equal memory and slots free, where they are many and somebody asked.
        self._alike: dict[tuple[int, int], _Alike] = {}

    def __len__(self) -> int:
        return len(self.order) + len(self.full)

    def insert(self, book: NodeBook) -> None:
        """Takes a node in."""
        self.version += 1
        name = book.node.name
        if book.slots_free > 0:
            place = _place(book)
            insort(self.order, place)
            alike = self._alike.get(place[:2])
            if alike is not None:
                alike.add(name)
        else:
            self.full[name] = None
        for priority, order in self.levels.items():
            insort(order, (book.free_above(priority), name))

    def append(self, book: NodeBook) -> None:
        """Takes a node in without keeping the order; no level may have been asked for yet."""
        self.version += 1
        if book.slots_free > 0:
            self.order.append(_place(book))
        else:
            self.full[book.node.name] = None

    def discard(self, book: NodeBook) -> None:
        """Takes a node out; its bookings must be those it was inserted with."""
        self.version += 1
        name = book.node.name
        if book.slots_free > 0:
            place = _place(book)
            del self.order[bisect_left(self.order, place)]
            alike = self._alike.get(place[:2])
            if alike is not None:
                alike.remove(name)
        else:
            del self.full[name]
        for priority, order in self.levels.items():
            del order[bisect_left(order, (book.free_above(priority), name))]

    def fitting_from(self, size_bytes: int) -> int:
        """Position in ``order`` of the first node with that much free."""
        return bisect_left(self.order, (size_bytes, 0, ""))

    def by_share(self, first: int, end: int, seed: int) -> Iterable[str]:
        """The nodes at these positions of ``order``, which have equal memory and slots free, by their shares."""
        if end - first < _ALIKE_MIN:
            names = [name for *_, name in self.order[first:end]]
            return sorted(names, key=lambda name: (share(name, seed), name))
        key = self.order[first][:2]
        alike = self._alike.get(key)
        if alike is None:
            if len(self._alike) >= _LEVELS_MAX:
                self._alike.clear()
            alike = self._alike[key] = _Alike(name for *_, name in self.order[first:end])
        return alike.by_share(seed)


class WorkloadBook:
    """The replicas of one workload by phase and age."""

    __slots__ = ("generations", "pending", "phases", "replacing", "replicas")

    def __init__(self) -> None:
        self.replicas: dict[str, Replica] = {}
        self.phases: dict[Phase, int] = {}
        self.generations: dict[int, dict[str, None]] = {}
        self.pending: dict[str, None] = {}
        self.replacing: dict[str, str] = {}

    def count(self, phase: Phase) -> int:
        """Replicas in a phase."""
        return self.phases.get(phase, 0)

    @property
    def live(self) -> int:
        """Replicas that count towards what the user asked for."""
        return len(self.replicas) - self.count(Phase.STOPPING)

    def add(self, replica: Replica) -> None:
        """Counts a replica."""
        self.replicas[replica.name] = replica
        _add(self.phases, replica.phase, 1)
        if replica.phase is Phase.PENDING:
            self.pending[replica.name] = None
        if not replica.live:
            return
        self.generations.setdefault(replica.generation, {})[replica.name] = None
        if replica.replaces:
            self.replacing[replica.name] = replica.replaces

    def remove(self, replica: Replica) -> None:
        """Undoes ``add`` of the same record."""
        del self.replicas[replica.name]
        _add(self.phases, replica.phase, -1)
        self.pending.pop(replica.name, None)
        self.replacing.pop(replica.name, None)
        if replica.live:
            of_age = self.generations[replica.generation]
            del of_age[replica.name]
            if not of_age:
                del self.generations[replica.generation]


class FleetBooks:
    """All books together; kept in step with the records by the tables."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeBook] = {}
        self.workloads: dict[str, WorkloadBook] = {}
        self._indexes: dict[LabelKeys, dict[ShapeKey, Shape]] = {}
        self.agents: dict[str, dict[str, None]] = {}
        self.closed: dict[NodeReason, int] = {}
        self.draining: dict[str, None] = {}
        self.pending: dict[str, None] = {}
        self.priorities: dict[int, int] = {}
        self.capacity_version = 0
        self._shape_number = 0

    def workload(self, name: str) -> WorkloadBook:
        """The book of a workload, empty if nothing is in it."""
        book = self.workloads.get(name)
        return book if book is not None else WorkloadBook()

    def set_node(self, old: FleetNode | None, new: FleetNode | None) -> None:
        """Follows a change of a node's record."""
        if old is not None:
            self._leave(self.nodes[old.name])
            self.draining.pop(old.name, None)
            self.agents[old.agent].pop(old.name)
            if not self.agents[old.agent]:
                del self.agents[old.agent]
        if new is None:
            if old is None:
                return
            require(not self.nodes[old.name].replicas, f"{old.name} goes while replicas are bound")
            del self.nodes[old.name]
            return
        book = self.nodes.get(new.name)
        if book is None:
            book = self.nodes[new.name] = NodeBook(new)
        book.node = new
        if new.draining:
            self.draining[new.name] = None
        self.agents.setdefault(new.agent, {})[new.name] = None
        self._enter(book)
        self.capacity_version += 1

    def load(self, nodes: Iterable[FleetNode], replicas: Iterable[Replica]) -> None:
        """Fills empty books at once: nodes are sorted once, not after every replica."""
        for node in nodes:
            self.nodes[node.name] = NodeBook(node)
        for replica in replicas:
            self.set_replica(None, replica)
        for book in self.nodes.values():
            if book.node.draining:
                self.draining[book.node.name] = None
            self.agents.setdefault(book.node.agent, {})[book.node.name] = None
            self._enter(book, sort=False)
        for shape in self._all_shapes():
            shape.order.sort()
        self.capacity_version += 1

    def shapes(self, keys: LabelKeys) -> dict[ShapeKey, Shape]:
        """The nodes that take replicas, told apart by what all workloads look at and by these labels.

        It is kept from now on, until many other sets of labels were asked for. Those whose every node has a value of
        its own for one of them are as many as the nodes.
        """
        index = self._indexes.get(keys)
        if index is not None:
            return index
        if len(self._indexes) >= _INDEXES_MAX:
            oldest = next(iter(self._indexes))
            del self._indexes[oldest]
            for book in self.nodes.values():
                book.shapes.pop(oldest, None)
        index = self._indexes[keys] = {}
        for book in self.nodes.values():
            if book.node.schedulable:
                shape = book.shapes[keys] = self._shape(index, keys, book.node)
                shape.append(book)
        for shape in index.values():
            shape.order.sort()
        return index

    def _all_shapes(self) -> Iterator[Shape]:
        for index in self._indexes.values():
            yield from index.values()

    def set_replica(self, old: Replica | None, new: Replica | None) -> None:
        """Follows a change of a replica's record."""
        replica = new if new is not None else old
        assert replica is not None, "a change has a record before or after"
        self._rebook(old, new)
        book = self.workloads.get(replica.workload)
        if book is None:
            book = self.workloads[replica.workload] = WorkloadBook()
        if old is not None:
            book.remove(old)
        if new is not None:
            book.add(new)
        if book.pending:
            self.pending[replica.workload] = None
        else:
            self.pending.pop(replica.workload, None)
        if not book.replicas:
            del self.workloads[replica.workload]

    def ask_level(self, shapes: Iterable[Shape], priority: int) -> None:
        """Keeps nodes sorted by what preempting below ``priority`` would free, from now on.

        At most a few levels are kept; another one takes the place of the one asked for first.
        """
        for shape in shapes:
            if priority in shape.levels:
                continue
            if len(shape.levels) >= _LEVELS_MAX:
                shape.levels.pop(next(iter(shape.levels)))
            names = [name for *_, name in shape.order] + list(shape.full)
            shape.levels[priority] = sorted(
                (self.nodes[name].free_above(priority), name) for name in names
            )

    def _rebook(self, old: Replica | None, new: Replica | None) -> None:
        was = old if old is not None and old.bound else None
        now = new if new is not None and new.bound else None
        if was is not None and now is not None and was.node == now.node and _books_alike(was, now):
            self.nodes[was.node].replicas[now.name] = now
            return
        if was is not None:
            self._change(was, add=False)
            self.capacity_version += 1
        if now is not None:
            self._change(now, add=True)

    def _change(self, replica: Replica, *, add: bool) -> None:
        book = self.nodes[replica.node]
        for shape in book.shapes.values():
            shape.discard(book)
        _add(self.priorities, replica.priority, 1 if add else -1)
        if add:
            book.add(replica)
        else:
            book.remove(replica)
        for shape in book.shapes.values():
            shape.insert(book)

    def _enter(self, book: NodeBook, *, sort: bool = True) -> None:
        if not book.node.schedulable:
            _add(self.closed, closed_reason(book.node), 1)
            return
        for keys, index in self._indexes.items():
            shape = book.shapes[keys] = self._shape(index, keys, book.node)
            if sort:
                shape.insert(book)
            else:
                shape.append(book)

    def _shape(self, index: dict[ShapeKey, Shape], keys: LabelKeys, node: FleetNode) -> Shape:
        key = _shape_key(node, keys)
        shape = index.get(key)
        if shape is None:
            self._shape_number += 1
            shape = index[key] = Shape(self._shape_number, node)
        return shape

    def _leave(self, book: NodeBook) -> None:
        if not book.node.schedulable:
            _add(self.closed, closed_reason(book.node), -1)
            return
        for keys, shape in book.shapes.items():
            shape.discard(book)
            if not len(shape):
                del self._indexes[keys][_shape_key(book.node, keys)]
        book.shapes = {}

    def check(self) -> None:
        """Asserts that the books say what the replicas they list say."""
        for name, book in self.nodes.items():
            fresh = NodeBook(book.node)
            for replica in book.replicas.values():
                fresh.add(replica)
            assert fresh.booked_bytes == book.booked_bytes, f"{name}: booked differs"
            assert fresh.slots_used == book.slots_used, f"{name}: slots differ"
            assert fresh.locked_bytes == book.locked_bytes, f"{name}: locked differs"
            assert fresh.by_priority == book.by_priority, f"{name}: levels differ"
            assert fresh.workloads == book.workloads, f"{name}: workloads differ"
            listed = self._indexes.keys() if book.node.schedulable else set()
            assert book.shapes.keys() == listed, f"{name}: in the wrong lists"
        for shape in self._all_shapes():
            assert shape.order == sorted(shape.order), "a shape is out of order"
            for place in shape.order:
                assert _place(self.nodes[place[-1]]) == place, f"{place[-1]}: sorted by old figures"


def _place(book: NodeBook) -> tuple[int, int, str]:
    """Where a node stands in the order of its shape."""
    return book.free_bytes, book.slots_free, book.node.name


def closed_reason(node: FleetNode) -> NodeReason:
    """Why nothing new goes to a node that is not schedulable."""
    if not node.ready:
        return NodeReason.NODE_NOT_READY
    if node.draining:
        return NodeReason.NODE_DRAINING
    if node.cordoned:
        return NodeReason.NODE_CORDONED
    return NodeReason.MEMORY_PRESSURE


def _shape_key(node: FleetNode, keys: LabelKeys) -> ShapeKey:
    """All that matters to a workload that looks at the labels ``keys``."""
    labels = implied_labels(node) if keys else {}
    return (
        node.profile,
        node.possible_cpus,
        node.ram_bytes,
        node.allocatable_bytes,
        node.max_replicas,
        node.taints,
        *(labels.get(key) for key in keys),
    )


def _books_alike(one: Replica, other: Replica) -> bool:
    return (
        one.booked_bytes == other.booked_bytes
        and one.held_bytes == other.held_bytes
        and one.yields == other.yields
        and one.locked_bytes == other.locked_bytes
        and one.uid == other.uid
        and one.priority == other.priority
        and (one.phase is Phase.STOPPING) == (other.phase is Phase.STOPPING)
    )


def _add(counts: dict[K, int], key: K, by: int) -> None:
    total = counts.get(key, 0) + by
    if total:
        counts[key] = total
    else:
        counts.pop(key, None)
