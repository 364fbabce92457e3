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

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = (0, _BEFORE_THE_FIRST)

    def admit(self, epoch: int, sequence: int) -> None:
        """Takes the next command. Raises ``ApiError`` (ABORTED, STALE_COMMAND) for one that comes too late.

        Epoch 0 is not checked: a person or a script.
        """
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
        if self._last == since or self._last < (epoch, void_sequence):
            self._last = (epoch, void_sequence)
