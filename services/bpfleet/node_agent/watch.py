"""Events of a node as they happen. The node's log is the buffer: a reader it has overtaken is sent away."""

from collections.abc import AsyncIterator
from typing import Final, final

import grpc

from bpfleet.fleet.reasons import ControlReason
from bpfleet.kernel.events import Event, EventKind
from bpfleet.node_agent.agent import Agent
from bpfleet.node_agent.node import HostedNode
from bpfleet.rpc.errors import ApiError, invalid

__all__ = ["Watches", "compacted"]

WATCHES_PER_NODE_MAX: Final = 64
WATCHES_MAX: Final = 2048
EVENTS_PER_MESSAGE: Final = 256


@final
class Watches:
    """All streams of events of one agent; ``close`` ends them, so that the server can stop."""

    def __init__(self, agent: Agent) -> None:
        self._agent: Final = agent
        self._closing = False
        self._open = 0

    def close(self) -> None:
        """Ends all watches with UNAVAILABLE; clients resume elsewhere or later."""
        self._closing = True
        for node in self._agent.all():
            node.notify()

    async def watch(
        self, node: HostedNode, start: int | None, kinds: frozenset[EventKind]
    ) -> AsyncIterator[tuple[int, list[Event]]]:
        """Pairs of (all events up to this revision were seen, the wanted ones among them).

        The first pair comes at once and tells where the watch stands. Raises ``ApiError``: REVISION_COMPACTED where
        ``start`` is no longer in the log, WATCH_LAGGED where the log has overtaken the reader, NODE_UNKNOWN where
        the node is deleted, SHUTTING_DOWN where the agent stops.
        """
        seen = told = _first(node, start)
        self._enter(node)
        try:
            yield seen, []
            while True:
                changed = node.next_change()
                events = _after(node, seen)
                if not events:
                    self._check(node)
                    await changed.wait()
                    continue
                seen = events[-1].revision
                wanted = [event for event in events if not kinds or event.kind in kinds]
                if wanted or seen - told >= EVENTS_PER_MESSAGE:
                    told = seen
                    yield seen, wanted
        finally:
            self._open -= 1
            node.watches -= 1

    def _enter(self, node: HostedNode) -> None:
        if node.watches >= WATCHES_PER_NODE_MAX or self._open >= WATCHES_MAX:
            raise ApiError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                ControlReason.TOO_MANY_WATCHES,
                f"node {node.node_id} has {node.watches} watches, the agent {self._open}; "
                f"the most are {WATCHES_PER_NODE_MAX} and {WATCHES_MAX}",
            )
        self._open += 1
        node.watches += 1

    def _check(self, node: HostedNode) -> None:
        if self._closing:
            raise ApiError(
                grpc.StatusCode.UNAVAILABLE,
                ControlReason.SHUTTING_DOWN,
                "the agent is stopping; watch again from the last revision",
            )
        if not self._agent.carries(node):
            self._agent.find(node.node_id)


def _first(node: HostedNode, start: int | None) -> int:
    """The revision before the first one wanted."""
    log = node.wake().events
    if start is None:
        return log.revision
    if not 1 <= start <= log.revision + 1:
        raise invalid(
            "start_revision", f"{start} is out of range; use 1 to {log.revision + 1}, the next one"
        )
    if start < log.oldest_revision:
        raise compacted(node, start)
    return start - 1


def _after(node: HostedNode, seen: int) -> list[Event]:
    log = node.wake().events
    try:
        return log.since(seen, EVENTS_PER_MESSAGE)
    except LookupError:
        raise ApiError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            ControlReason.WATCH_LAGGED,
            f"the reader is too slow: events {seen + 1} to {log.oldest_revision - 1} are gone; "
            "list the events, then watch again",
            next_revision=seen + 1,
            oldest_revision=log.oldest_revision,
        ) from None


def compacted(node: HostedNode, start: int) -> ApiError:
    """OUT_OF_RANGE: the events wanted are no longer in the log."""
    oldest = node.wake().events.oldest_revision
    return ApiError(
        grpc.StatusCode.OUT_OF_RANGE,
        ControlReason.REVISION_COMPACTED,
        f"start_revision: events before {oldest} are gone, {start} among them; start at {oldest}",
        oldest_revision=oldest,
    )
