"""What each agent has to be told, without I/O. Filled from what is stored, never from mere decisions.

Orders are repeated until the truth follows: a start until the replica runs or fails, a stop until it
is gone. Agents take repeated orders calmly, so nothing is lost when an answer is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from bpfleet.fleet.records import FleetNode, Record, RecordKind, Replica
from bpfleet.workload.phase import Phase

__all__ = ["Dispatch", "Orders"]

ORDERS_MAX = 500

T = TypeVar("T", bound=str | tuple[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """One batch for one agent. ``sequence`` rises with every batch of the process."""

    agent: str
    sequence: int
    runs: tuple[Replica, ...] = ()
    stops: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class _Outbox:
    runs: dict[str, Replica] = field(default_factory=dict)
    stops: dict[tuple[str, str], bool] = field(default_factory=dict)
    waiting: dict[object, int] = field(default_factory=dict)


class Dispatch:
    """The outboxes of all agents. ``nodes`` is the state's table; times are the coordinator's, in ms.

    ``given`` counts the orders: it goes on where an earlier dispatch of the same process ended, because
    a leader that reads its state anew leads the same term, in which agents refuse lower numbers.
    """

    def __init__(self, nodes: Mapping[str, FleetNode], *, repeat_ms: int, given: int = 0) -> None:
        self.given = given
        self._nodes = nodes
        self._repeat_ms = repeat_ms
        self._outboxes: dict[str, _Outbox] = {}
        self._where: dict[str, tuple[str, str]] = {}

    def follow(self, changes: Mapping[tuple[RecordKind, str], Record | None]) -> set[str]:
        """Takes in what a commit changed; returns the agents that have new orders."""
        agents = set()
        for (kind, name), record in changes.items():
            if kind is RecordKind.REPLICA:
                agent = self._follow(name, record)  # type: ignore[arg-type]  # kind says so
                if agent:
                    agents.add(agent)
        return agents

    def stray(self, strays: Iterable[tuple[str, str]], agent: str) -> None:
        """Has replicas stopped that are on a node and should not be."""
        outbox = self._outbox(agent)
        for node, replica in strays:
            outbox.stops[node, replica] = True

    def reset(self, agent: str, replicas: Iterable[Replica]) -> None:
        """Starts an agent's outbox anew, from all replicas bound to its nodes: it just registered.

        What nobody knows is still to be stopped: an agent may register in several calls.
        """
        old = self._outbox(agent)
        strays = {key: True for key, stray in old.stops.items() if stray}
        self._outboxes[agent] = _Outbox(stops=strays)
        for replica in replicas:
            self._follow(replica.name, replica)

    def drop(self, agent: str) -> None:
        """An agent is away: it gets no orders until it registers."""
        self._outboxes.pop(agent, None)

    def agents(self) -> list[str]:
        """Agents that have orders, due or not."""
        return [name for name, outbox in self._outboxes.items() if outbox.runs or outbox.stops]

    def take(self, agent: str, now_ms: int) -> Orders | None:
        """The orders due for an agent; None if there are none. They stay until the truth follows."""
        outbox = self._outboxes.get(agent)
        if outbox is None:
            return None
        runs = self._due(outbox, outbox.runs, now_ms)
        stops = self._due(outbox, outbox.stops, now_ms)
        if not runs and not stops:
            return None
        self.given += 1
        return Orders(
            agent=agent,
            sequence=self.given,
            runs=tuple(outbox.runs[name] for name in runs),
            stops=tuple(stops),
        )

    def retry(self, orders: Orders) -> None:
        """Orders that did not get through are due again at once."""
        outbox = self._outbox(orders.agent)
        for key in (*(replica.name for replica in orders.runs), *orders.stops):
            outbox.waiting.pop(key, None)

    def stopped(self, agent: str, stops: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """The agent confirms stops; returns those the state still has to hear about."""
        outbox = self._outbox(agent)
        known = []
        for key in stops:
            if outbox.stops.get(key) is False:
                known.append(key)
            else:
                outbox.stops.pop(key, None)
                outbox.waiting.pop(key, None)
        return known

    # Any key type: names of runs and pairs of stops share the clock of repetition.
    def _due(self, outbox: _Outbox, orders: Mapping[T, object], now_ms: int) -> list[T]:
        due = []
        for key in orders:
            if outbox.waiting.get(key, 0) > now_ms:
                continue
            outbox.waiting[key] = now_ms + self._repeat_ms
            due.append(key)
            if len(due) == ORDERS_MAX:
                break
        return due

    def _follow(self, name: str, replica: Replica | None) -> str:
        """Puts a replica into the right outbox and takes it out of the others; returns the agent."""
        where = self._where.pop(name, None)
        if where is not None:
            self._forget(name, where)
        if replica is None:
            return ""
        node = self._nodes.get(replica.node)
        if node is None:
            return ""
        outbox = self._outbox(node.agent)
        if replica.phase is Phase.STOPPING:
            outbox.stops[replica.node, name] = False
        elif replica.phase is Phase.ASSIGNED and not replica.waits_for:
            outbox.runs[name] = replica
        else:
            return ""
        self._where[name] = (node.agent, replica.node)
        return node.agent

    def _forget(self, name: str, where: tuple[str, str]) -> None:
        agent, node = where
        outbox = self._outbox(agent)
        outbox.runs.pop(name, None)
        outbox.waiting.pop(name, None)
        outbox.stops.pop((node, name), None)
        outbox.waiting.pop((node, name), None)

    def _outbox(self, agent: str) -> _Outbox:
        return self._outboxes.setdefault(agent, _Outbox())
