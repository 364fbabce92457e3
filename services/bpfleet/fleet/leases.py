"""Who still lives: one lease per agent, for all its nodes. Held by the leader in memory only.

A new leader gives every agent it knows a full lease: it cannot tell how long the others were silent.
"""

from collections.abc import Iterable

__all__ = ["Leases"]


class Leases:
    """Deadlines of agents, in milliseconds of the coordinator's clock."""

    def __init__(self, duration_ms: int) -> None:
        self.duration_ms = duration_ms
        self._deadlines: dict[str, tuple[str, int]] = {}

    def grant(self, agent: str, incarnation: str, now_ms: int) -> None:
        """Starts or restarts the lease of an agent."""
        self._deadlines[agent] = (incarnation, now_ms + self.duration_ms)

    def renew(self, agent: str, incarnation: str, now_ms: int) -> bool:
        """Prolongs a lease; False if this incarnation holds none, or no longer."""
        held = self._deadlines.get(agent)
        if held is None or held[0] != incarnation or held[1] < now_ms:
            return False
        self._deadlines[agent] = (incarnation, now_ms + self.duration_ms)
        return True

    def drop(self, agent: str) -> None:
        """Ends a lease."""
        self._deadlines.pop(agent, None)

    def expired(self, now_ms: int) -> list[str]:
        """Agents whose lease ran out, in name order."""
        return sorted(a for a, (_, deadline) in self._deadlines.items() if deadline < now_ms)

    def holders(self) -> Iterable[str]:
        """Agents with a lease."""
        return self._deadlines.keys()

    def __len__(self) -> int:
        return len(self._deadlines)
