"""Where a replica goes, and why: filters, scores, preemption and explanation. Pure.

A ``Search`` answers for one workload at a time. It walks the shapes of the fleet (see ``books``), not
its nodes: labels and taints are judged once per shape, and the nodes of a shape come sorted, so that
the best one is usually the first. The answer does not depend on the order in which nodes registered.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from itertools import islice
from typing import Final, Protocol
from zlib import crc32

from bpfleet.fleet.books import FleetBooks, NodeBook, Shape, closed_reason, share
from bpfleet.fleet.constraints import (
    Eligibility,
    Judge,
    Refusal,
    constraint_key,
    is_node_key,
    label_of,
    named_nodes_allow,
    names_nodes,
)
from bpfleet.fleet.invariant import require
from bpfleet.fleet.reasons import NodeReason
from bpfleet.fleet.records import Decision, FleetNode, Policy, Replica, Workload
from bpfleet.workload.phase import Phase

__all__ = [
    "Choice",
    "EligibilityCache",
    "Estimator",
    "Need",
    "NodeScore",
    "Preemption",
    "RequestEstimator",
    "Search",
    "SparingEstimator",
    "summary",
]

_PACKING: Final = frozenset({Policy.MOST_ALLOCATED, Policy.KERNEL_AWARE})
_SAMPLE_MAX: Final = 32
_DRAWS_MAX: Final = 8
_PREEMPTION_CANDIDATES: Final = 2
_PREEMPTION_COMPARED: Final = 32
_NEEDS_MAX: Final = 10_000
_VERDICTS_MAX: Final = 200_000

# Rank, node, need there, victims.
_Plan = tuple[tuple[int, int, str], str, "Need", tuple[Replica, ...]]
EligibilityCache = dict[tuple[object, int], Eligibility]


@dataclass(frozen=True, slots=True)
class Need:
    """What one replica takes of a node of a given shape.

    ``memlock_limit_bytes`` None: nothing is locked, or without limit. ``refusal`` is set where the
    replica could not live on that shape at all, however empty it is.
    """

    booked_bytes: int
    predicted_bytes: int = 0
    locked_bytes: int = 0
    memlock_limit_bytes: int | None = None
    refusal: Refusal | None = None


_UNTRIED: Final = Need(
    0,
    refusal=Refusal(
        NodeReason.NOT_TRIED_YET, "what the replica takes here is still being tried out"
    ),
)


class Estimator(Protocol):
    """Says what a replica of a workload takes of a node."""

    def need(self, workload: Workload, node: FleetNode) -> Need:
        """The need on nodes with the profile, CPUs and RAM of ``node``."""

    def effort(self, workload: Workload, node: FleetNode) -> int:
        """How much work ``need`` would be; 0 where it is known."""


class RequestEstimator:
    """Takes the user's word: a replica needs what it requests."""

    def __init__(self) -> None:
        self._needs: dict[int, Need] = {}

    def need(self, workload: Workload, node: FleetNode) -> Need:
        """The memory request, on every node."""
        size_bytes = workload.spec.memory_request_bytes
        need = self._needs.get(size_bytes)
        if need is None:
            if len(self._needs) >= _NEEDS_MAX:
                self._needs.clear()
            need = self._needs[size_bytes] = Need(size_bytes)
        return need

    def effort(self, workload: Workload, node: FleetNode) -> int:
        """None."""
        return 0


class SparingEstimator:
    """Makes another estimator work ``effort_max`` at most; what is not known by then is refused for the time being."""

    def __init__(self, estimator: Estimator, effort_max: int) -> None:
        self._estimator = estimator
        self._left = self._effort_max = effort_max

    def need(self, workload: Workload, node: FleetNode) -> Need:
        """What the other says, or a refusal because it is enough for one turn."""
        effort = self._estimator.effort(workload, node)
        # The first is made however large it is: later there would be no more room for it.
        if effort > self._left < self._effort_max:
            self._left = 0
            return _UNTRIED
        self._left = max(0, self._left - effort)
        return self._estimator.need(workload, node)

    def effort(self, workload: Workload, node: FleetNode) -> int:
        """What is left to be done."""
        return self._estimator.effort(workload, node)


@dataclass(frozen=True, slots=True)
class Choice:
    """The outcome of a search: a node and what it books, or None and the reasons."""

    node: str | None
    need: Need
    decision: Decision


@dataclass(frozen=True, slots=True)
class Preemption:
    """A node that would fit once ``victims`` are gone."""

    node: str
    need: Need
    victims: tuple[Replica, ...]
    decision: Decision


@dataclass(frozen=True, slots=True)
class NodeScore:
    """One line of an explanation."""

    node: str
    score: float
    need: Need
    free_bytes: int
    refusal: Refusal | None


class Search:
    """Looks for nodes for the replicas of one workload.

    Valid until the workload's spec or the set of nodes changes; bookings may change, as long as
    ``placed`` is told about each replica bound meanwhile.
    """

    def __init__(
        self,
        books: FleetBooks,
        workload: Workload,
        *,
        policy: Policy,
        estimator: Estimator,
        verdicts: EligibilityCache,
        now_ms: int,
    ) -> None:
        self._books = books
        self._workload = workload
        self._policy = policy
        self._estimator = estimator
        self._verdicts = verdicts
        self._key = constraint_key(workload)
        # Hashing long conditions for every node and replica would cost more than all else.
        self._judged: dict[int, Eligibility] = {}
        self._judge_of = Judge(workload)
        self._heads: dict[int, _Head] = {}
        self._labels = _labels_looked_at(workload)
        self._avoided = {node for node, until_ms in workload.avoid if until_ms > now_ms}
        self._spread = _Spreading(books, workload, self._eligible_shapes)
        self._by_name = names_nodes(workload)

    def choose(self, replica: str) -> Choice:
        """The best node for one more replica; ``replica`` seeds the draws of power-of-two-choices, and shares equally
        good nodes out.

        Nodes where the workload kept failing are taken only if no other qualifies.
        """
        choice = self._choose(replica)
        if choice.node is None and self._spread.relax():
            choice = self._choose(replica)
        if choice.node is None and self._avoided:
            avoided, self._avoided = self._avoided, set()
            choice = self._choose(replica)
            self._avoided = avoided
        self._spread.tighten()
        return choice

    def known(self) -> bool:
        """Whether it is known what the workload needs on every kind of node that it may go to.

        Finds out what one turn allows; ask again in the next one.
        """
        return all(
            self._need(shape.sample) is not _UNTRIED
            for shape in self._books.shapes(self._labels).values()
            if self._judge(shape.sample, shape.number).refusal is None
        )

    def placed(self, node: str) -> None:
        """Counts a replica just bound to ``node`` towards the spread constraint."""
        self._spread.add(self._books.nodes[node].node)

    def admit(self, node: str) -> NodeScore:
        """The verdict on one node."""
        return self._verdict(self._books.nodes[node])

    def decide(self, verdict: NodeScore) -> Decision:
        """The decision for a node that was not chosen among others: the only one it could be."""
        require(verdict.refusal is None, f"{verdict.node} was ruled out: {verdict.refusal}")
        return self._decision(verdict.score, 1, {}, verdict.need)

    def explain(self) -> list[NodeScore]:
        """The verdict on every node: those that qualify by score, then the others by name.

        Of equally good ones the next replica's comes first.
        """
        verdicts = [self._verdict(book) for book in self._books.nodes.values()]
        shares = self._policy is not Policy.POWER_OF_TWO_CHOICES
        chosen = self.choose(self._next_replica()).node if shares else None

        def rank(verdict: NodeScore) -> tuple[bool, float, int, bool, str]:
            tie = _tie(self._policy, self._books.nodes[verdict.node])
            name = verdict.node
            return verdict.refusal is not None, -verdict.score, tie, name != chosen, name

        return sorted(verdicts, key=rank)

    def _next_replica(self) -> str:
        return f"{self._workload.name}-{self._workload.next_serial}"

    def preempt(self) -> Preemption | None:
        """The node where the least important replicas would have to go, or None.

        The most important victim is as unimportant as can be. Among the nodes where that holds, a few
        that fit tightest are compared: by the number of victims, then what they hold, then name.
        """
        priority = self._workload.spec.priority
        lower = sorted(level for level in self._books.priorities if level < priority)
        eligible = self._eligible_shapes()
        for level in lower:
            self._books.ask_level(eligible, level + 1)
            found: list[_Plan] = []
            for shape in eligible:
                found.extend(islice(self._plans(shape, level + 1), _PREEMPTION_CANDIDATES))
                if len(found) >= _PREEMPTION_COMPARED:
                    break
            if found:
                _, node, need, victims = min(found, key=lambda plan: plan[0])
                decision = self._decision(0.0, 0, {NodeReason.PREEMPTED: len(victims)}, need)
                return Preemption(node, need, victims, decision)
        return None

    # -- the search proper

    def _choose(self, replica: str) -> Choice:
        rejections: dict[NodeReason, int] = dict(self._books.closed)
        seed = crc32(replica.encode())
        heads: list[_Head] = []
        feasible = 0
        for shape in self._books.shapes(self._labels).values():
            head = self._head(shape, rejections)
            if head is not None:
                heads.append(head)
                feasible += head.fitting
        if self._policy is Policy.POWER_OF_TWO_CHOICES:
            opened = [(lane.next(), lane) for lane in (self._open(head, seed) for head in heads)]
            drawn = self._draw(replica, [lane for _, lane in sorted(opened, key=_by_name)])
            if drawn is not None:
                return self._chosen(*drawn, feasible=feasible, rejections=rejections)
        # Which node of a shape is the best is looked up where the score of the best matters: fleets have many shapes,
        # and a decision needs few of them.
        waiting: list[tuple[float, int, int, str, int, _Head | _Lane]] = [
            (head.score, head.tie, -1, "", head.shape.number, head) for head in heads
        ]
        heapify(waiting)
        while waiting:
            score, _, _, name, number, lane = waiting[0]
            if isinstance(lane, _Head):
                lane = self._open(lane, seed)
            else:
                refusal = self._refusal(self._books.nodes[name], lane.need)
                if refusal is None:
                    return self._chosen(
                        name, -score, lane.need, feasible=feasible, rejections=rejections
                    )
                feasible -= 1
                rejections[refusal.reason] = rejections.get(refusal.reason, 0) + 1
            entry = lane.next()
            if entry is None:
                heappop(waiting)
            else:
                heapreplace(waiting, (*entry, number, lane))
        need = Need(self._workload.spec.memory_request_bytes)
        return Choice(None, need, self._decision(0.0, 0, rejections, need))

    def _chosen(
        self,
        name: str,
        score: float,
        need: Need,
        *,
        feasible: int,
        rejections: dict[NodeReason, int],
    ) -> Choice:
        return Choice(name, need, self._decision(self._final(score), feasible, rejections, need))

    def _decision(
        self, score: float, feasible: int, rejections: dict[NodeReason, int], need: Need
    ) -> Decision:
        return Decision(
            policy=self._policy,
            score=score,
            node_count=len(self._books.nodes),
            feasible_count=feasible,
            rejections=tuple(sorted(rejections.items())),
            predicted_bytes=need.predicted_bytes,
        )

    def _head(self, shape: Shape, rejections: dict[NodeReason, int]) -> "_Head | None":
        """The best of the shape's candidates by score; None, counting why, if there are none."""
        head = self._heads.get(shape.number)
        if head is None or head.version != shape.version:
            head = self._heads[shape.number] = self._looked_up(shape)
        refusal = head.refusal or self._spread.shape_refusal(shape)
        if refusal is not None:
            rejections[refusal.reason] = rejections.get(refusal.reason, 0) + len(shape)
            return None
        if head.start:
            rejections[NodeReason.INSUFFICIENT_MEMORY] = (
                rejections.get(NodeReason.INSUFFICIENT_MEMORY, 0) + head.start
            )
        if shape.full:
            rejections[NodeReason.NO_FREE_SLOT] = rejections.get(NodeReason.NO_FREE_SLOT, 0) + len(
                shape.full
            )
        return head if head.fitting else None

    def _looked_up(self, shape: Shape) -> "_Head":
        verdict = self._judge(shape.sample, shape.number)
        need = self._need(shape.sample)
        start = shape.fitting_from(need.booked_bytes)
        head = _Head(shape, need, verdict.refusal or need.refusal, start, verdict.bonus)
        if head.fitting and head.refusal is None:
            head.score, head.tie, *_ = self._open(head, 0).best()
        return head

    def _open(self, head: "_Head", seed: int) -> "_Lane":
        return _Lane(self._books, head, policy=self._policy, seed=seed)

    def _draw(self, replica: str, lanes: list["_Lane"]) -> tuple[str, float, Need] | None:
        """The emptier of two nodes drawn by the replica's name, where both draws can be had."""
        total = sum(lane.fitting for lane in lanes)
        drawn: list[tuple[float, int, str, Need]] = []
        for attempt in range(_DRAWS_MAX if total else 0):
            position = _hash(replica, attempt) % total
            for lane in lanes:
                if position < lane.fitting:
                    break
                position -= lane.fitting
            score, tie, _, name = lane.at(position)
            if self._refusal(self._books.nodes[name], lane.need) is None:
                drawn.append((score, tie, name, lane.need))
            if len(drawn) == 2:
                break
        if not drawn:
            return None
        score, _, name, need = min(drawn, key=lambda item: item[:3])
        return name, -score, need

    # -- what one node says

    def _verdict(self, book: NodeBook) -> NodeScore:
        node = book.node
        shape = book.shapes.get(self._labels)
        number = shape.number if shape is not None else 0
        judged = self._judge(node, number)
        need = self._need(node)
        refusal = self._standing_refusal(book, judged, need) or self._refusal(book, need)
        score = 0.0
        if refusal is None:
            score = self._final(_score(self._policy, book, need) + judged.bonus)
        return NodeScore(node.name, score, need, book.free_bytes, refusal)

    def _standing_refusal(self, book: NodeBook, judged: Eligibility, need: Need) -> Refusal | None:
        if not book.node.schedulable:
            reason = closed_reason(book.node)
            return Refusal(reason, _CLOSED_TEXT[reason])
        if judged.refusal is not None or need.refusal is not None:
            return judged.refusal or need.refusal
        if book.slots_free <= 0:
            return Refusal(
                NodeReason.NO_FREE_SLOT, f"all {book.node.max_replicas} replica slots are taken"
            )
        if book.free_bytes < need.booked_bytes:
            text = f"needs {need.booked_bytes} bytes, {book.free_bytes} are free"
            return Refusal(NodeReason.INSUFFICIENT_MEMORY, text)
        return None

    def _refusal(self, book: NodeBook, need: Need) -> Refusal | None:
        """What only this very node can say: its name, its history, its neighbours, its users."""
        name = book.node.name
        if self._by_name and not named_nodes_allow(self._workload, name):
            return Refusal(NodeReason.NODE_NAME, "the workload names other nodes")
        if name in self._avoided:
            return Refusal(
                NodeReason.RECENTLY_FAILED, "replicas of this workload kept failing here"
            )
        if need.memlock_limit_bytes is not None:
            locked = book.locked_bytes.get(self._workload.spec.uid, 0)
            if locked + need.locked_bytes > need.memlock_limit_bytes:
                text = (
                    f"would lock {need.locked_bytes} bytes for uid {self._workload.spec.uid}, "
                    f"{locked} of {need.memlock_limit_bytes} are locked"
                )
                return Refusal(NodeReason.MEMLOCK_HEADROOM, text)
        return self._spread.refusal(book.node)

    def _judge(self, node: FleetNode, number: int) -> Eligibility:
        if not number:
            return self._judge_of.verdict(node)
        verdict = self._judged.get(number)
        if verdict is None:
            key = (self._key, number)
            verdict = self._verdicts.get(key)
            if verdict is None:
                if len(self._verdicts) >= _VERDICTS_MAX:
                    self._verdicts.clear()
                verdict = self._verdicts[key] = self._judge_of.verdict(node)
            self._judged[number] = verdict
        return verdict

    @property
    def shape_count(self) -> int:
        """How many shapes one search has to look at."""
        return len(self._books.shapes(self._labels))

    def _need(self, node: FleetNode) -> Need:
        return self._estimator.need(self._workload, node)

    def _final(self, score: float) -> float:
        """0 to 100: with wished-for labels, half policy and half wishes."""
        halves = 2 if self._workload.spec.scheduling.preferred else 1
        return round(min(100.0, max(0.0, score / halves)), 2)

    def _eligible_shapes(self) -> list[Shape]:
        return [
            shape
            for shape in self._books.shapes(self._labels).values()
            if self._judge(shape.sample, shape.number).refusal is None
            and self._need(shape.sample).refusal is None
        ]

    # -- preemption

    def _plans(self, shape: Shape, level: int) -> "Iterator[_Plan]":
        """Nodes of the shape that would fit without the replicas below ``level``, tightest first."""
        need = self._need(shape.sample)
        order = shape.levels[level]
        for _, name in islice(order, bisect_left(order, (need.booked_bytes, "")), None):
            book = self._books.nodes[name]
            if self._refusal(book, need) is not None:
                continue
            victims = _victims(book, need, level)
            if victims:
                held_bytes = sum(victim.booked_bytes for victim in victims)
                yield (len(victims), held_bytes, name), name, need, victims


class _Head:
    """What one version of a shape has for a workload. Score and tie are those of the best node, whatever the seed."""

    __slots__ = ("bonus", "need", "refusal", "score", "shape", "start", "tie", "version")

    def __init__(
        self, shape: Shape, need: Need, refusal: Refusal | None, start: int, bonus: float
    ) -> None:
        self.shape = shape
        self.version = shape.version
        self.need = need
        self.refusal = refusal
        self.start = start
        self.bonus = bonus
        self.score = 0.0
        self.tie = 0

    @property
    def fitting(self) -> int:
        """Nodes with room and a free slot."""
        return len(self.shape.order) - self.start


class _Lane:
    """The nodes of one shape that fit, best first; equally good ones in an order of ``seed``'s own."""

    __slots__ = (
        "_bonus",
        "_books",
        "_names",
        "_order",
        "_policy",
        "_seed",
        "_shape",
        "_start",
        "fitting",
        "need",
    )

    def __init__(self, books: FleetBooks, head: _Head, *, policy: Policy, seed: int) -> None:
        self._seed = seed
        self._books = books
        self._shape = head.shape
        self._order = head.shape.order
        self._start = head.start
        self._policy = policy
        self._bonus = head.bonus
        self.need = head.need
        self.fitting = head.fitting
        self._names = self._best_first()

    def next(self) -> tuple[float, int, int, str] | None:
        """The next candidate as (negated score, tie, share, name); None after the last."""
        name = next(self._names, None)
        return None if name is None else self._entry(name)

    def best(self) -> tuple[float, int, int, str]:
        """Score and tie of the best candidate; which of equally good ones it is depends on the seed."""
        if self._policy is Policy.BALANCED:
            return min(self.at(position - self._start) for position in self._sample())
        return self.at(0 if self._policy in _PACKING else self.fitting - 1)

    def at(self, offset: int) -> tuple[float, int, int, str]:
        """The candidate at an offset among those that fit."""
        *_, name = self._order[self._start + offset]
        return self._entry(name)

    def _entry(self, name: str) -> tuple[float, int, int, str]:
        book = self._books.nodes[name]
        score = _score(self._policy, book, self.need) + self._bonus
        return -score, _tie(self._policy, book), share(name, self._seed), name

    def _best_first(self) -> Iterator[str]:
        if self._policy in _PACKING:
            return self._upwards()
        if self._policy is Policy.BALANCED:
            return self._balanced()
        return self._downwards()

    def _sample(self) -> range:
        """Positions to score: the order by memory says nothing about slots, and kube-scheduler samples large fleets."""
        return range(self._start, len(self._order), max(1, self.fitting // _SAMPLE_MAX))

    def _balanced(self) -> Iterator[str]:
        sample = [self.at(position - self._start) for position in self._sample()]
        taken = set()
        for *_, name in sorted(sample):
            taken.add(name)
            yield name
        yield from (name for name in self._downwards() if name not in taken)

    def _upwards(self) -> Iterator[str]:
        order, first = self._order, self._start
        while first < len(order):
            free_bytes, slots, _ = order[first]
            end = bisect_left(order, (free_bytes, slots + 1, ""))
            yield from self._shape.by_share(first, end, self._seed)
            first = end

    def _downwards(self) -> Iterator[str]:
        order, end = self._order, len(self._order)
        while end > self._start:
            free_bytes, slots, _ = order[end - 1]
            first = max(self._start, bisect_left(order, (free_bytes, slots, "")))
            yield from self._shape.by_share(first, end, self._seed)
            end = first


_NO_DOMAIN: Final = Refusal(
    NodeReason.SPREAD_LABEL, "lacks the label used by the spread constraint"
)
_CROWDED_DOMAIN: Final = Refusal(NodeReason.SPREAD, "its domain has more replicas than others")


class _Spreading:
    """The workload's spread constraint: how many replicas each domain has, and the fewest."""

    def __init__(
        self, books: FleetBooks, workload: Workload, eligible: Callable[[], list[Shape]]
    ) -> None:
        self._spread = workload.spec.spread
        self._best_effort = self._spread is not None and self._spread.best_effort
        self._relaxed = False
        self._counts: dict[str, int] = {}
        self._domains: dict[int, str | None] = {}
        self._fewest_known: int | None = None
        self._empty = 0
        if self._spread is None:
            return
        key, shapes = self._spread.topology_key, eligible()
        self._by_node = is_node_key(key)
        if self._by_node:
            self._empty = sum(len(shape) for shape in shapes)
        else:
            domains = {label_of(shape.sample, key) for shape in shapes} - {None}
            self._counts = dict.fromkeys(sorted(str(d) for d in domains), 0)
        for replica in books.workload(workload.name).replicas.values():
            if replica.node and replica.phase is not Phase.STOPPING:
                self.add(books.nodes[replica.node].node)

    def add(self, node: FleetNode) -> None:
        """Counts one more replica in the node's domain."""
        domain = self._domain(node)
        if domain is None:
            return
        if self._by_node and domain not in self._counts:
            self._empty -= 1
        self._counts[domain] = self._counts.get(domain, 0) + 1
        self._fewest_known = None

    def refusal(self, node: FleetNode) -> Refusal | None:
        """Why one more replica on ``node`` would make the domains too unequal; None if it would not."""
        if self._spread is None or self._relaxed:
            return None
        domain = self._domain(node)
        if domain is None:
            return Refusal(NodeReason.SPREAD_LABEL, f"has no label {self._spread.topology_key}")
        count = self._counts.get(domain, 0)
        if self._allows(count):
            return None
        text = f"{count} replicas are in {domain} already, {self._fewest()} in the emptiest domain"
        return Refusal(NodeReason.SPREAD, text)

    def shape_refusal(self, shape: Shape) -> Refusal | None:
        """The refusal that all nodes of a shape share, because they share the label's value."""
        if self._spread is None or self._by_node or self._relaxed:
            return None
        if shape.number not in self._domains:
            self._domains[shape.number] = self._domain(shape.sample)
        domain = self._domains[shape.number]
        if domain is None:
            return _NO_DOMAIN
        return None if self._allows(self._counts.get(domain, 0)) else _CROWDED_DOMAIN

    def relax(self) -> bool:
        """Lets the constraint go where it is best effort; False where it is not, or is none."""
        self._relaxed = self._spread is not None and self._best_effort
        return self._relaxed

    def tighten(self) -> None:
        """Takes ``relax`` back."""
        self._relaxed = False

    def _allows(self, count: int) -> bool:
        """Whether a domain with ``count`` replicas may get one more."""
        assert self._spread is not None, "without a constraint nobody asks"
        return count == 0 or count + 1 - self._fewest() <= self._spread.max_skew

    def _fewest(self) -> int:
        if self._by_node and self._empty > 0:
            return 0
        if self._fewest_known is None:
            self._fewest_known = min(self._counts.values(), default=0)
        return self._fewest_known

    def _domain(self, node: FleetNode) -> str | None:
        return label_of(node, self._spread.topology_key) if self._spread is not None else None


def _labels_looked_at(workload: Workload) -> tuple[str, ...]:
    """The labels of nodes that can make a difference. Taints always do; conditions on a node's own name are looked at
    node by node, but wishes for one are not.
    """
    spec = workload.spec
    named = [*spec.node_selector, *(each.key for each in spec.scheduling.required)]
    if spec.spread is not None:
        named.append(spec.spread.topology_key)
    keys = {key for key in named if not is_node_key(key)}
    return tuple(sorted(keys.union(wish.requirement.key for wish in spec.scheduling.preferred)))


def summary(decision: Decision, node: str | None) -> str:
    """The decision as one sentence."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in decision.rejections)
    if node is None:
        return f"no node qualifies among {decision.node_count}: {reasons or 'the fleet is empty'}"
    text = (
        f"{node} is best by {decision.policy} with score {decision.score:g} "
        f"among {decision.feasible_count} of {decision.node_count} nodes"
    )
    return f"{text}; ruled out: {reasons}" if reasons else text


def _score(policy: Policy, book: NodeBook, need: Need) -> float:
    """0 to 100 by the policy, for the node as it would be with the replica on it."""
    size_bytes = max(1, book.node.allocatable_bytes)
    free = (book.free_bytes - need.booked_bytes) / size_bytes
    if policy in _PACKING:
        return 100.0 * (1.0 - free)
    if policy is Policy.BALANCED:
        slots_free = (book.slots_free - 1) / max(1, book.node.max_replicas)
        return 100.0 * (1.0 - abs(free - slots_free))
    return 100.0 * free


def _tie(policy: Policy, book: NodeBook) -> int:
    """Decides between equal scores, lowest first: fewer replicas where a policy spreads, more where it packs."""
    return -book.slots_used if policy in _PACKING else book.slots_used


def _victims(book: NodeBook, need: Need, priority: int) -> tuple[Replica, ...]:
    """The least important replicas whose going makes room, as few as possible; empty if it cannot."""
    lower = [r for r in book.replicas.values() if r.priority < priority and not r.yields]
    lower.sort(key=lambda r: (r.phase is not Phase.STOPPING, r.priority, -r.serial, r.name))
    chosen: list[Replica] = []
    free_bytes, slots = book.free_bytes, book.slots_free
    for replica in lower:
        if free_bytes >= need.booked_bytes and slots > 0:
            break
        chosen.append(replica)
        free_bytes += replica.booked_bytes
        slots += 1
    if free_bytes < need.booked_bytes or slots <= 0:
        return ()
    for replica in reversed(list(chosen)):
        if free_bytes - replica.booked_bytes >= need.booked_bytes and slots > 1:
            chosen.remove(replica)
            free_bytes -= replica.booked_bytes
            slots -= 1
    return tuple(chosen)


def _by_name(entry: tuple[tuple[float, int, int, str] | None, _Lane]) -> tuple[float, int, str]:
    """Score, tie and name of a lane's best node: the order of lanes for draws."""
    first, _ = entry
    assert first is not None, "a lane that is opened has a node"
    score, tie, _, name = first
    return score, tie, name


def _hash(text: str, salt: int) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8, salt=salt.to_bytes(4, "little"))
    return int.from_bytes(digest.digest(), "little")


_CLOSED_TEXT: Final = {
    NodeReason.NODE_NOT_READY: "its agent's lease ran out",
    NodeReason.NODE_DRAINING: "it is being drained",
    NodeReason.NODE_CORDONED: "it is cordoned",
    NodeReason.MEMORY_PRESSURE: "it is short of memory",
}
