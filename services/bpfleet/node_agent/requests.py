"""Answers kept by request id, so that a creation repeated after a lost answer does not create twice."""

import hashlib
from collections import OrderedDict
from typing import Final, TypeVar, final

import grpc
from google.protobuf.message import Message

from bpfleet.fleet.reasons import ControlReason
from bpfleet.rpc.errors import ApiError, invalid

__all__ = ["AnswerLog"]

ANSWERS_MAX: Final = 256
REQUEST_ID_CHARS_MAX: Final = 64

Answer = TypeVar("Answer", bound=Message)


@final
class AnswerLog:
    """The answers to the last 256 creations of one node. Refusals are not kept: they created nothing."""

    __slots__ = ("_answers",)

    def __init__(self) -> None:
        self._answers: OrderedDict[str, tuple[bytes, Message]] | None = None

    def find(self, request_id: str, request: Message, kind: type[Answer]) -> Answer | None:
        """The answer given before to the same request; None for a new id, or none at all.

        Raises ``ApiError`` where the id was used for another request, or is too long.
        """
        if len(request_id) > REQUEST_ID_CHARS_MAX:
            raise invalid("request_id", f"longer than {REQUEST_ID_CHARS_MAX} characters")
        kept = self._answers.get(request_id) if self._answers and request_id else None
        if kept is None:
            return None
        before, answer = kept
        if before != _fingerprint(request) or not isinstance(answer, kind):
            raise ApiError(
                grpc.StatusCode.ALREADY_EXISTS,
                ControlReason.REQUEST_ID_REUSED,
                f"request_id: {request_id!r} was used for another request; choose a new one",
            )
        return answer

    def keep(self, request_id: str, request: Message, answer: Answer) -> Answer:
        """Keeps ``answer`` where the request has an id; returns it."""
        if request_id:
            if self._answers is None:
                self._answers = OrderedDict()
            self._answers[request_id] = (_fingerprint(request), answer)
            if len(self._answers) > ANSWERS_MAX:
                self._answers.popitem(last=False)
        return answer


def _fingerprint(request: Message) -> bytes:
    """A digest: requests may be megabytes, and their answers are kept long after what they created is gone."""
    kind = request.DESCRIPTOR.full_name.encode()
    return hashlib.sha256(kind + b"\0" + request.SerializeToString(deterministic=True)).digest()
