"""Which user works on which node: seats, handed out in one place so that the number of Locust
workers does not matter.

Seat numbers go round the models: seats 0 to M-1 are lane 0 of models 1 to M, and so on. The seed
depends on the lane alone, so every model sees the same streams of operations.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bpfleet.workload.seeding import seed_for

__all__ = ["Place", "Seat", "Seating"]


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """An emulated node: its model, its name, the agent that carries it, its size."""

    model: str
    node: str
    agent: str
    possible_cpus: int
    ram_bytes: int


@dataclass(frozen=True, slots=True)
class Seat:
    """What one user of one kind works on."""

    kind: str
    number: int
    lane: int
    seed: int
    place: Place

    @property
    def name(self) -> str:
        """Unique over all kinds and numbers; fit for a cgroup and for pins."""
        return f"{self.kind}-{self.number}"

    def as_data(self) -> dict[str, Any]:
        """For a message between Locust's processes."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Seat:
        """From such a message."""
        return cls(**{**data, "place": Place(**data["place"])})


class Seating:
    """Hands out the lowest free seat of a kind; a seat that was left is handed out again."""

    def __init__(self, places: Iterable[Place], seed: int) -> None:
        self._by_model: dict[str, list[Place]] = {}
        for place in sorted(places):
            self._by_model.setdefault(place.model, []).append(place)
        self.models = list(self._by_model)
        self._seed = seed
        self._next: dict[str, int] = {}
        self._free: dict[str, list[int]] = {}
        self.used: set[Place] = set()

    def take(self, kind: str) -> Seat:
        """The lowest free seat. Raises ``LookupError`` where there is no node at all."""
        if not self.models:
            raise LookupError("there are no nodes to work on")
        free = self._free.setdefault(kind, [])
        if free:
            number = heapq.heappop(free)
        else:
            number = self._next.get(kind, 0)
            self._next[kind] = number + 1
        return self._seat(kind, number)

    def leave(self, kind: str, number: int) -> None:
        """Take a seat back."""
        heapq.heappush(self._free.setdefault(kind, []), number)

    def _seat(self, kind: str, number: int) -> Seat:
        lane, turn = divmod(number, len(self.models))
        places = self._by_model[self.models[turn]]
        place = places[lane % len(places)]
        self.used.add(place)
        return Seat(kind, number, lane, seed_for(self._seed, kind, lane), place)
