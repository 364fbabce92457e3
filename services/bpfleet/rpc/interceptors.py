"""What every call of a server passes: malformed messages, verdicts and bugs become statuses; tokens are checked."""

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from time import perf_counter
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from grpc import aio
from grpc_status import rpc_status

from bpfleet.fleet.reasons import ControlReason
from bpfleet.kernel.errors import KernelError
from bpfleet.rpc.admission import Admission
from bpfleet.rpc.errors import ApiError, status_of
from bpfleet.rpc.tokens import Caller, Tokens, may_call

__all__ = ["Ended", "ErrorInterceptor", "TokenInterceptor", "caller_of"]

_log: Final = logging.getLogger(__name__)
_HEALTH_PREFIX: Final = "/grpc.health.v1.Health/"
_PROOF: Final = "/bpfleet.v1.RuntimeService/ProveAddress"

# gRPC's own types for handlers, requests and contexts are Any: one handler serves messages of every type.
_Handler = Any
_Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]]


class _Malformed:
    """Stands for a request whose bytes are not a message of its type (or hold text that is not UTF-8)."""

    __slots__ = ("problem",)

    def __init__(self, problem: str) -> None:
        self.problem: Final = problem


# Method, code, and when it began: None for a stream.
Ended = Callable[[str, str, float | None], None]


def _nobody(method: str, code: str, started: float | None) -> None:
    """Nobody counts calls."""


class ErrorInterceptor(aio.ServerInterceptor):
    """Turns ``KernelError`` and ``ApiError`` into rich statuses and everything else into INTERNAL with a log line.

    Requests that cannot be decoded are INVALID_ARGUMENT; gRPC by itself would answer INTERNAL. Calls beyond what
    ``admission`` has room for are UNAVAILABLE. ``ended`` hears of every call.
    """

    def __init__(self, admission: Admission, ended: Ended = _nobody) -> None:
        self._admission: Final = admission
        self._ended: Final = ended
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
            wrapped = self._wrapped[method] = _wrap(handler, method, self._admission, self._ended)
        return wrapped


def _wrap(handler: _Handler, method: str, admission: Admission, ended: Ended) -> _Handler:
    inner = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    if inspect.isasyncgenfunction(inner):
        guarded = _counted_stream(_guard_stream(inner, method, admission), method, ended)
    else:
        streams = handler.request_streaming or handler.response_streaming
        guarded = _counted(_guard_unary(inner, method, admission), method, ended, streams=streams)
    return _MAKERS[handler.request_streaming, handler.response_streaming](
        guarded,
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


def _guard_unary(
    inner: Callable[..., Awaitable[Any]], method: str, admission: Admission
) -> Callable[..., Any]:
    async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
        try:
            with admission.enter(method, context.peer()):
                return await inner(_well_formed(request), context)
        except (KernelError, ApiError) as error:
            await _refuse(context, error, method)
        except (aio.AbortError, aio.BaseError):
            raise
        except Exception:
            await _give_up(context, method)

    return call


def _guard_stream(
    inner: Callable[..., AsyncIterator[Any]], method: str, admission: Admission
) -> Callable[..., Any]:
    async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            with admission.enter(method, context.peer()):
                async for response in inner(_well_formed(request), context):
                    yield response
        except (KernelError, ApiError) as error:
            await _refuse(context, error, method)
        except (aio.AbortError, aio.BaseError):
            raise
        except Exception:
            await _give_up(context, method)

    return call


def _counted(
    inner: Callable[..., Awaitable[Any]], method: str, ended: Ended, *, streams: bool
) -> Callable[..., Any]:
    async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
        started = None if streams else perf_counter()
        try:
            return await inner(request, context)
        finally:
            ended(method, _code_name(context), started)

    return call


def _counted_stream(
    inner: Callable[..., AsyncIterator[Any]], method: str, ended: Ended
) -> Callable[..., Any]:
    async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            async for response in inner(request, context):
                yield response
        finally:
            ended(method, _code_name(context), None)

    return call


def _code_name(context: aio.ServicerContext[Any, Any]) -> str:
    """The code a call ended with; gRPC hands it out as a number or as what was set."""
    code: Any = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _CODE_NAMES.get(code or 0, "UNKNOWN")


_CODE_NAMES: Final = {code.value[0]: code.name for code in grpc.StatusCode}


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
    """Refuses calls without ``authorization: Bearer TOKEN``, and those that the token's role may not make.

    Health checks need none, nor does the question whether an agent is where it says.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens: Final = tokens
        self._stranger: _Handler = grpc.unary_unary_rpc_method_handler(_unauthenticated)
        self._forbidden: _Handler = grpc.unary_unary_rpc_method_handler(_not_for_the_role)

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler:
        """The handler where the token is right, else one that answers UNAUTHENTICATED or PERMISSION_DENIED."""
        method = handler_call_details.method
        if method.startswith(_HEALTH_PREFIX) or method == _PROOF:
            return await continuation(handler_call_details)
        caller = caller_of(handler_call_details.invocation_metadata, self._tokens)
        if caller is None:
            return self._stranger
        if not may_call(caller, method, own_agent=self._tokens.own_agent):
            return self._forbidden
        return await continuation(handler_call_details)


# Any: gRPC types metadata in three ways.
def caller_of(metadata: Any, tokens: Tokens) -> Caller | None:
    """Who shows a token in the metadata of a call."""
    return tokens.caller(dict(metadata or ()).get("authorization", ""))


async def _unauthenticated(request: bytes, context: aio.ServicerContext[bytes, bytes]) -> None:
    error = ApiError(
        grpc.StatusCode.UNAUTHENTICATED,
        ControlReason.UNAUTHENTICATED,
        "no valid token; send metadata 'authorization: Bearer TOKEN'",
    )
    await context.abort_with_status(rpc_status.to_status(status_of(error, "")))


async def _not_for_the_role(request: bytes, context: aio.ServicerContext[bytes, bytes]) -> None:
    error = ApiError(
        grpc.StatusCode.PERMISSION_DENIED,
        ControlReason.ROLE_FORBIDDEN,
        "the token is one of a role that may not make this call",
    )
    await context.abort_with_status(rpc_status.to_status(status_of(error, "")))
