"""Which user works on which node, decided in one process so that the number of Locust workers does not matter.

A *kind* is a kind of user. Each user of a kind has a *lane*, a number, and in it one *seat* under every model: a node
it works on. The seed depends on kind and lane alone, so every model sees the same streams of operations, however many
users there are.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bpfleet.workload.seeding import seed_for

__all__ = ["Seat", "SeatNode", "Seating"]


@dataclass(frozen=True, slots=True, order=True)
class SeatNode:
    """The node of a seat: its model, its name, the agent that carries it, its size."""

    model: str
    name: str
    agent: str
    possible_cpus: int
    ram_bytes: int


@dataclass(frozen=True, slots=True)
class Seat:
    """What one user of one kind works on under one model."""

    kind: str
    lane: int
    seed: int
    node: SeatNode

    @property
    def name(self) -> str:
        """Unique on its node over all kinds and lanes; fit for a cgroup and for pins."""
        return f"{self.kind}-{self.lane}"

    def as_data(self) -> dict[str, Any]:
        """For a message between Locust's processes."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Seat:
        """From such a message."""
        return cls(**{**data, "node": SeatNode(**data["node"])})


class Seating:
    """Hands out the lowest free lane of a kind; a lane that was left is handed out again."""

    def __init__(self, nodes: Iterable[SeatNode], seed: int) -> None:
        self._by_model: dict[str, list[SeatNode]] = {}
        for node in sorted(nodes):
            self._by_model.setdefault(node.model, []).append(node)
        self.models = list(self._by_model)
        self._seed = seed
        self._next: dict[str, int] = {}
        self._free: dict[str, list[int]] = {}

    def take(self, kind: str) -> list[Seat]:
        """The seats of the lowest free lane, one for each model. Raises ``LookupError`` where there is no node."""
        if not self.models:
            raise LookupError("there are no nodes to work on")
        free = self._free.setdefault(kind, [])
        if free:
            lane = heapq.heappop(free)
        else:
            lane = self._next.get(kind, 0)
            self._next[kind] = lane + 1
        seed = seed_for(self._seed, kind, lane)
        nodes = [by[lane % len(by)] for by in self._by_model.values()]
        return [Seat(kind, lane, seed, node) for node in nodes]

    def leave(self, kind: str, lane: int) -> None:
        """Take a lane back."""
        heapq.heappush(self._free.setdefault(kind, []), lane)
