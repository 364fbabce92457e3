"""What every call of a server passes: malformed messages, verdicts and bugs become statuses; tokens are checked."""

import hmac
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from grpc import aio
from grpc_status import rpc_status

from bpfleet.fleet.reasons import ControlReason
from bpfleet.kernel.errors import KernelError
from bpfleet.rpc.errors import ApiError, status_of

__all__ = ["ErrorInterceptor", "TokenInterceptor"]

_log: Final = logging.getLogger(__name__)
_HEALTH_PREFIX: Final = "/grpc.health.v1.Health/"

# gRPC's own types for handlers, requests and contexts are Any: one handler serves messages of every type.
_Handler = Any
_Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]]


class _Malformed:
    """Stands for a request whose bytes are not a message of its type (or hold text that is not UTF-8)."""

    __slots__ = ("problem",)

    def __init__(self, problem: str) -> None:
        self.problem: Final = problem


class ErrorInterceptor(aio.ServerInterceptor):
    """Turns ``KernelError`` and ``ApiError`` into rich statuses and everything else into INTERNAL with a log line.

    Requests that cannot be decoded are INVALID_ARGUMENT; gRPC by itself would answer INTERNAL.
    """

    def __init__(self) -> None:
        self._wrapped: Final[dict[str, _Handler]] = {}  # bounded by the methods of the server

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler:
        """The handler of the method, wrapped once; None (UNIMPLEMENTED) for methods that do not exist."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[method] = _wrap(handler, method)
        return wrapped


def _wrap(handler: _Handler, method: str) -> _Handler:
    inner = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    guarded = _guard_stream if inspect.isasyncgenfunction(inner) else _guard_unary
    return _MAKERS[handler.request_streaming, handler.response_streaming](
        guarded(inner, method),
        request_deserializer=_tolerant(handler.request_deserializer),
        response_serializer=handler.response_serializer,
    )


_MAKERS: Final = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _tolerant(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def deserialize(data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError as error:
            return _Malformed(str(error))

    return deserialize


def _guard_unary(inner: Callable[..., Awaitable[Any]], method: str) -> Callable[..., Any]:
    async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await inner(_well_formed(request), context)
        except (KernelError, ApiError) as error:
            await _refuse(context, error, method)
        except (aio.AbortError, aio.BaseError):
            raise
        except Exception:
            await _give_up(context, method)

    return call


def _guard_stream(inner: Callable[..., AsyncIterator[Any]], method: str) -> Callable[..., Any]:
    async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            async for response in inner(_well_formed(request), context):
                yield response
        except (KernelError, ApiError) as error:
            await _refuse(context, error, method)
        except (aio.AbortError, aio.BaseError):
            raise
        except Exception:
            await _give_up(context, method)

    return call


def _well_formed(request: Any) -> Any:
    if isinstance(request, _Malformed):
        raise _malformed(request)
    if hasattr(request, "__aiter__"):
        return _well_formed_stream(request)
    return request


async def _well_formed_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        if isinstance(request, _Malformed):
            raise _malformed(request)
        yield request


def _malformed(request: _Malformed) -> ApiError:
    return ApiError(
        grpc.StatusCode.INVALID_ARGUMENT,
        ControlReason.BAD_REQUEST,
        f"request: not a message of the type this method takes ({request.problem})",
    )


async def _refuse(
    context: aio.ServicerContext[Any, Any], error: KernelError | ApiError, method: str
) -> None:
    await context.abort_with_status(rpc_status.to_status(status_of(error, method)))


async def _give_up(context: aio.ServicerContext[Any, Any], method: str) -> None:
    _log.exception("event=internal_error method=%s", method)
    error = ApiError(
        grpc.StatusCode.INTERNAL,
        ControlReason.INTERNAL,
        "the server failed; its log has the details",
    )
    await context.abort_with_status(rpc_status.to_status(status_of(error, method)))


class TokenInterceptor(aio.ServerInterceptor):
    """Refuses calls without ``authorization: Bearer TOKEN``. Health checks need none."""

    def __init__(self, token: str) -> None:
        self._expected: Final = f"Bearer {token}".encode()
        self._refusal: _Handler = grpc.unary_unary_rpc_method_handler(_unauthenticated)

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler:
        """The handler where the token is right, else one that answers UNAUTHENTICATED."""
        if handler_call_details.method.startswith(_HEALTH_PREFIX):
            return await continuation(handler_call_details)
        metadata = dict(handler_call_details.invocation_metadata or ())
        given = metadata.get("authorization", "")
        raw = given if isinstance(given, bytes) else given.encode()
        if hmac.compare_digest(raw, self._expected):
            return await continuation(handler_call_details)
        return self._refusal


async def _unauthenticated(request: bytes, context: aio.ServicerContext[bytes, bytes]) -> None:
    error = ApiError(
        grpc.StatusCode.UNAUTHENTICATED,
        ControlReason.UNAUTHENTICATED,
        "no valid token; send metadata 'authorization: Bearer TOKEN'",
    )
    await context.abort_with_status(rpc_status.to_status(status_of(error, "")))
