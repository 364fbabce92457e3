"""Refusals of the control plane, before anything knows how they travel."""

from enum import StrEnum
from typing import Final

from bpfleet.fleet.reasons import ControlReason

__all__ = ["FleetError", "Refused"]


class Refused(StrEnum):
    """What kind of refusal it is; the adapter has one gRPC code for each."""

    INVALID = "INVALID"
    NOT_FOUND = "NOT_FOUND"
    EXISTS = "EXISTS"
    PRECONDITION = "PRECONDITION"
    CONFLICT = "CONFLICT"
    EXHAUSTED = "EXHAUSTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNAVAILABLE = "UNAVAILABLE"


class FleetError(Exception):
    """A call refused: nothing has changed.

    ``reason`` is for programs, the message for people: what was wrong and what to do. ``numbers``
    holds the values behind it.
    """

    def __init__(
        self, kind: Refused, reason: ControlReason, message: str, **numbers: int | str
    ) -> None:
        super().__init__(message)
        self.kind: Final = kind
        self.reason: Final = reason
        self.message: Final = message
        self.numbers: Final[dict[str, int | str]] = numbers
