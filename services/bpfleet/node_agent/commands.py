"""In which order an agent carries out the commands of its coordinators."""

from typing import Final, final

import grpc

from bpfleet.rpc.errors import ApiError, ControlReason

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

    def registered(self, epoch: int) -> None:
        """The agent has registered with the coordinator of ``epoch``: one that lost its memory counts anew."""
        if epoch <= self._last[0]:
            self._last = (epoch, _BEFORE_THE_FIRST)
