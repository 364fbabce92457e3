"""Builds a gRPC server: where it listens, what protects it, health, reflection, and a stop that waits for calls."""

import asyncio
import contextlib
import ipaddress
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from bpfleet.rpc.addresses import parse_address
from bpfleet.rpc.admission import Admission
from bpfleet.rpc.interceptors import Ended, ErrorInterceptor, TokenInterceptor
from bpfleet.rpc.settings_error import SettingsError
from bpfleet.rpc.tokens import Tokens
from bpfleet.rpc.tracing import server_interceptors

__all__ = ["ListenError", "RpcServer", "ServerOptions", "SettingsError", "parse_address"]

MESSAGE_BYTES_MAX: Final = 16 << 20
STREAMS_PER_CONNECTION_MAX: Final = 1024
PENDING_MAX: Final = 1 << 20

Register = Callable[[aio.Server], None]


class ListenError(OSError):
    """The server cannot listen where it was told to, in one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Where a server listens and what protects it.

    With ``client_ca_file`` clients must show a certificate signed by it (mutual TLS). ``tokens`` are what clients send
    as bearer tokens; without TLS they travel in the clear, so keep that to loopback.
    """

    listen: str = "127.0.0.1:0"
    certificate_file: Path | None = None
    key_file: Path | None = None
    client_ca_file: Path | None = None
    tokens: Tokens | None = None
    message_bytes_max: int = MESSAGE_BYTES_MAX
    stop_grace_seconds: float = 5.0

    def __post_init__(self) -> None:
        parse_address(self.listen)
        if (self.certificate_file is None) != (self.key_file is None):
            raise SettingsError("TLS needs both a certificate and a key; give both or neither")
        if self.client_ca_file is not None and self.certificate_file is None:
            raise SettingsError("a client CA needs a server certificate and key; give them too")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        host, _ = parse_address(self.listen)
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(host).is_loopback
        return host == "localhost"


class RpcServer:
    """A server with our interceptors, health and reflection.

    Life: build, ``start``, then ``run_until_signal`` or ``stop``.
    """

    def __init__(
        self,
        options: ServerOptions,
        register: Sequence[Register],
        services: Sequence[str],
        *,
        admission: Admission | None = None,
        ended: Ended = lambda method, code, started: None,
    ) -> None:
        self._options: Final = options
        self._services: Final = tuple(services)
        # The token comes first: what follows keeps handlers, and a handler must not be reached without a token.
        interceptors: list[aio.ServerInterceptor] = [
            ErrorInterceptor(admission or Admission(), ended)
        ]
        if options.tokens is not None:
            interceptors.insert(0, TokenInterceptor(options.tokens))
        interceptors[:0] = server_interceptors()
        self._server: Final = aio.server(
            interceptors=interceptors,
            options=[
                # More wait at the client. What one connection may not have at once, `Admission` need not refuse.
                ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
                # gRPC itself would cancel calls that come too fast, without a word; `Admission` says why.
                ("grpc.server.max_pending_requests", PENDING_MAX),
                ("grpc.server.max_pending_requests_hard_limit", PENDING_MAX),
                ("grpc.max_receive_message_length", options.message_bytes_max),
                ("grpc.max_send_message_length", options.message_bytes_max),
                # Without this a second server on a used port would start and share its calls.
                ("grpc.so_reuseport", 0),
            ],
        )
        for add in register:
            add(self._server)
        self._health: Final = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self.port = 0

    async def start(self, *, serving: bool = True) -> int:
        """Listens and serves; returns the port. Raises ``ListenError`` or ``SettingsError`` in one sentence.

        Without ``serving``, health checks are told to wait until ``announce``.
        """
        _check_free(self._options.listen)
        credentials = _credentials(self._options)
        try:
            if credentials is None:
                self.port = self._server.add_insecure_port(self._options.listen)
            else:
                self.port = self._server.add_secure_port(self._options.listen, credentials)
        except RuntimeError as error:
            raise ListenError(f"cannot listen on {self._options.listen}: {error}") from None
        await self._server.start()
        for service in ("", *self._services):
            await self.set_serving(service, serving)
        return self.port

    async def announce(self) -> None:
        """Tells health checks that the server is ready."""
        for service in ("", *self._services):
            await self.set_serving(service, True)

    async def set_serving(self, service: str, serving: bool) -> None:
        """What health checks are told about ``service`` ("" for the whole server)."""
        status = health_pb2.HealthCheckResponse
        await self._health.set(service, status.SERVING if serving else status.NOT_SERVING)

    async def stop(self, grace_seconds: float | None = None) -> None:
        """Takes no more calls, waits up to ``grace_seconds`` for those that run, then ends them."""
        await self._health.enter_graceful_shutdown()
        grace = self._options.stop_grace_seconds if grace_seconds is None else grace_seconds
        await self._server.stop(grace)

    async def run_until_signal(self, before_stop: Callable[[], Awaitable[None]]) -> None:
        """Serves until SIGTERM or SIGINT, then awaits ``before_stop`` and stops. A second signal ends at once."""
        await wait_for_signal()
        await before_stop()
        await self.stop()


async def wait_for_signal() -> None:
    """Returns at the first SIGTERM or SIGINT, and leaves the next one to the default handler."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    try:
        await stopped.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _check_free(listen: str) -> None:
    """Binds and lets go: the operating system's own words beat gRPC's "failed to bind"."""
    host, port = parse_address(listen)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        hint = "; stop what listens there or choose another port" if error.errno == 98 else ""
        raise ListenError(f"cannot listen on {listen}: {error.strerror}{hint}") from None


def _credentials(options: ServerOptions) -> grpc.ServerCredentials | None:
    if options.certificate_file is None or options.key_file is None:
        return None
    pair = (read_secret(options.key_file), read_secret(options.certificate_file))
    clients = read_secret(options.client_ca_file) if options.client_ca_file else None
    return grpc.ssl_server_credentials([pair], clients, require_client_auth=clients is not None)


def read_secret(path: Path) -> bytes:
    """The bytes of a certificate, key or token file. Raises ``SettingsError`` naming it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
