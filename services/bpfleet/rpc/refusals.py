"""Refusals of the state machine as statuses of gRPC: the only place that knows both."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc

from bpfleet.fleet.errors import FleetError, Refused
from bpfleet.rpc.errors import ApiError

__all__ = ["api_errors"]

_CODES: Final = {
    Refused.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Refused.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Refused.EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Refused.PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    Refused.CONFLICT: grpc.StatusCode.ABORTED,
    Refused.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Refused.OUT_OF_RANGE: grpc.StatusCode.OUT_OF_RANGE,
    Refused.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}


@contextmanager
def api_errors() -> Iterator[None]:
    """Turns a ``FleetError`` raised inside into an ``ApiError``."""
    try:
        yield
    except FleetError as error:
        raise ApiError(_CODES[error.kind], error.reason, error.message, **error.numbers) from None
