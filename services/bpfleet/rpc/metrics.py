"""Metrics that all our servers have: what was built, the process, Python, calls; and how they are shown."""

import platform
import threading
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any, Final, final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    make_wsgi_app,
)

from bpfleet.rpc.addresses import parse_address
from bpfleet.rpc.hosts import is_known_host
from bpfleet.rpc.server import ListenError
from bpfleet.rpc.tokens import Tokens
from bpfleet.version import __version__

__all__ = ["RpcMetrics", "add_common", "serve_metrics"]

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
# wsgiref's own names for what it hands over and what it takes.
_Environ = dict[str, Any]
_StartResponse = Callable[..., Any]


def add_common(registry: CollectorRegistry, program: str) -> None:
    """Adds what was built, what the process takes and what Python does to a registry."""
    info = Gauge(
        "bpfleet_build_info",
        "Always 1; the labels say what runs",
        ["version", "python", "program"],
        registry=registry,
    )
    info.labels(__version__, platform.python_version(), program).set(1)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)


@final
class RpcMetrics:
    """Calls by service, method and code, and how long they took, under the names that other gRPC libraries use.

    ``side`` is "server" or "client". Labels come from closed sets: methods that exist, codes of gRPC.
    """

    def __init__(self, registry: CollectorRegistry, side: str) -> None:
        labels = ["grpc_service", "grpc_method"]
        self._handled: Final = Counter(
            f"grpc_{side}_handled",
            f"Calls that ended on the {side}, by code",
            [*labels, "grpc_code"],
            registry=registry,
        )
        self._seconds: Final = Histogram(
            f"grpc_{side}_handling_seconds",
            f"How long calls took on the {side}; streams are not among them",
            labels,
            buckets=_SECONDS,
            registry=registry,
        )

    def ended(self, method: str, code: str, started: float | None) -> None:
        """A call of ``/package.Service/Method`` has ended; ``started`` is of ``perf_counter``, None for a stream."""
        service, _, name = method.strip("/").partition("/")
        self._handled.labels(service, name, code).inc()
        if started is not None:
            self._seconds.labels(service, name).observe(perf_counter() - started)


@final
class _Quiet(WSGIRequestHandler):
    """One line an event is the log's rule, and a scrape is none. A peer that says nothing is let go."""

    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        pass


@final
class _OneAtATime(WSGIServer):
    """Scrapes come one after the other; what a peer does to its own connection is no news."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


def serve_metrics(
    listen: str, registry: CollectorRegistry, *, tokens: Tokens | None, names: Iterable[str] = ()
) -> int:
    """Serves ``/metrics`` at host:port, to those with a token where there are tokens; returns the port.

    Raises ``ListenError``.
    """
    host, port = parse_address(listen)
    show = make_wsgi_app(registry)
    known = tuple(names)

    def app(environ: _Environ, respond: _StartResponse) -> Iterable[bytes]:
        def start_response(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            # Which Python runs here is nobody's business.
            return respond(status, [*headers, ("Server", "bpfleet")], *rest)

        if not is_known_host(environ.get("HTTP_HOST", ""), known):
            return _refuse(start_response, "421 Misdirected Request", "no such host here\n")
        given = environ.get("HTTP_AUTHORIZATION", "").encode("latin-1", "replace")
        if tokens is not None and tokens.caller(given) is None:
            return _refuse(start_response, "401 Unauthorized", "a token is needed\n")
        answer: Iterable[bytes] = show(environ, start_response)
        return answer

    try:
        server = make_server(host, port, app, _OneAtATime, handler_class=_Quiet)
    except OSError as error:
        raise ListenError(f"cannot serve metrics on {listen}: {error.strerror}") from None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_port)


def _refuse(start_response: _StartResponse, status: str, text: str) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain"), ("WWW-Authenticate", "Bearer")])
    return [text.encode()]
