"""In which order an agent carries out the commands of its coordinators."""

from typing import Final, final

import grpc

from bpfleet.fleet.reasons import ControlReason
from bpfleet.rpc.errors import ApiError

__all__ = ["CommandOrder"]

_BEFORE_THE_FIRST: Final = -1


@final
class CommandOrder:
    """The highest (epoch, sequence) carried out; late, repeated and deposed coordinators' commands are not above it."""

    __slots__ = ("_last", "_member", "_registered")

    def __init__(self, *, member: bool = False) -> None:
        self._last = (0, _BEFORE_THE_FIRST)
        self._member: Final = member
        self._registered = False

    def admit(self, epoch: int, sequence: int) -> None:
        """Takes the next command. Raises ``ApiError`` (ABORTED, STALE_COMMAND) for one that comes too late.

        A ``member`` of a fleet that has not registered yet takes none: it cannot tell the present term from old ones.
        Epoch 0, a person or a script, is for agents that stand alone.
        """
        if self._member and (not epoch or not self._registered):
            raise ApiError(
                grpc.StatusCode.ABORTED,
                ControlReason.STALE_COMMAND,
                "this agent belongs to a fleet: only the coordinator it has registered with commands it",
                leader_epoch=epoch,
                sequence=sequence,
            )
        if not epoch:
            return
        if (epoch, sequence) <= self._last:
            raise ApiError(
                grpc.StatusCode.ABORTED,
                ControlReason.STALE_COMMAND,
                f"command {epoch}.{sequence} comes after {self._last[0]}.{self._last[1]}",
                leader_epoch=self._last[0],
                sequence=self._last[1],
            )
        self._last = (epoch, sequence)

    @property
    def position(self) -> tuple[int, int]:
        """What was carried out last; tell ``registered`` what it was before the agent began to register."""
        return self._last

    def registered(self, epoch: int, void_sequence: int, *, since: tuple[int, int]) -> None:
        """The agent has registered: commands of this term up to ``void_sequence`` come too late from now on.

        The coordinator counts, not what was carried out before (``since``): one that lost its memory begins anew. What
        came while the agent registered is newer than the answer.
        """
        self._registered = True
        if self._last == since or self._last < (epoch, void_sequence):
            self._last = (epoch, void_sequence)
