"""Builds channels to our servers, blocking and asyncio: TLS, mutual TLS, token, message size."""

from dataclasses import replace
from time import perf_counter
from typing import Any, Final

import grpc
from grpc import aio

from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.rpc.interceptors import Ended
from bpfleet.rpc.server import MESSAGE_BYTES_MAX, read_secret
from bpfleet.rpc.tracing import aio_client_interceptors, traced_channel

__all__ = ["aio_channel", "blocking_channel", "without_token"]

_ARGUMENTS: Final = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # Come back within seconds of a server's return, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Also where it has another address since: gRPC would ask for it every half minute only.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    # One connection a channel: clients of the same target must not share their flow control.
    ("grpc.use_local_subchannel_pool", 1),
]


def without_token(options: ChannelOptions) -> ChannelOptions:
    """The same server, to be asked what needs no token."""
    return replace(options, token=None)


def blocking_channel(options: ChannelOptions) -> grpc.Channel:
    """A channel for threads and gevent. It connects at the first call."""
    credentials = _credentials(options)
    if credentials is None:
        channel = grpc.insecure_channel(options.target, options=_ARGUMENTS)
    else:
        channel = grpc.secure_channel(options.target, credentials, options=_ARGUMENTS)
    if options.token is not None:
        channel = grpc.intercept_channel(channel, _BlockingToken(options.token))
    return traced_channel(channel)


def aio_channel(options: ChannelOptions, ended: Ended | None = None) -> aio.Channel:
    """A channel for the running event loop. It connects at the first call. ``ended`` hears of every unary call."""
    credentials = _credentials(options)
    interceptors = [*aio_client_interceptors()]
    if ended is not None:
        interceptors.append(_AioCounted(ended))
    if options.token is not None:
        kinds = (_AioUnary, _AioServerStream, _AioBothStreams)
        interceptors += [make(options.token) for make in kinds]
    if credentials is None:
        return aio.insecure_channel(options.target, options=_ARGUMENTS, interceptors=interceptors)
    return aio.secure_channel(
        options.target, credentials, options=_ARGUMENTS, interceptors=interceptors
    )


def _credentials(options: ChannelOptions) -> grpc.ChannelCredentials | None:
    if options.ca_file is None:
        return None
    return grpc.ssl_channel_credentials(
        read_secret(options.ca_file),
        read_secret(options.key_file) if options.key_file else None,
        read_secret(options.certificate_file) if options.certificate_file else None,
    )


# Call credentials would be the obvious way, but gRPC sends them over TLS only; on loopback a token is useful without.
# gRPC types the parts of an interceptor as Any: one interceptor serves every method.
class _BlockingToken(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def __init__(self, token: str) -> None:
        self._token: Final = token

    def _call(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        metadata = _with_token(client_call_details.metadata, self._token)
        return continuation(_BlockingDetails(client_call_details, metadata), request)

    # The four shapes differ in their types only.
    intercept_unary_unary = _call
    intercept_unary_stream = _call
    intercept_stream_unary = _call  # type: ignore[assignment]
    intercept_stream_stream = _call  # type: ignore[assignment]


class _BlockingDetails(grpc.ClientCallDetails):
    def __init__(self, details: Any, metadata: tuple[tuple[str, str | bytes], ...]) -> None:
        self.method = details.method
        self.timeout = details.timeout
        self.metadata = metadata
        self.credentials = details.credentials
        self.wait_for_ready = getattr(details, "wait_for_ready", None)
        self.compression = getattr(details, "compression", None)


def _with_token(metadata: Any, token: str) -> tuple[tuple[str, str | bytes], ...]:
    return (*(metadata or ()), ("authorization", f"Bearer {token}"))


class _AioToken:
    def __init__(self, token: str) -> None:
        self._token: Final = token

    # The details are a named tuple, which the type stubs do not say.
    def _details(self, details: Any) -> Any:
        return details._replace(metadata=aio.Metadata(*_with_token(details.metadata, self._token)))


class _AioUnary(_AioToken, aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return await continuation(self._details(client_call_details), request)


class _AioServerStream(_AioToken, aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return await continuation(self._details(client_call_details), request)


class _AioBothStreams(_AioToken, aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await continuation(self._details(client_call_details), request_iterator)


class _AioCounted(aio.UnaryUnaryClientInterceptor):
    def __init__(self, ended: Ended) -> None:
        self._ended: Final = ended

    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        started = perf_counter()
        call = await continuation(client_call_details, request)
        code = await call.code()
        method = client_call_details.method
        name = method.decode() if isinstance(method, bytes) else method
        self._ended(name, code.name, started)
        return call
