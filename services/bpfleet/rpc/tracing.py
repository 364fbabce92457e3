"""Traces of calls by OpenTelemetry, where the standard OTEL_* variables ask for them and the extra ``otel`` is there.

Without them nothing of OpenTelemetry is imported, and calls cost what they cost.
"""

import importlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import grpc
from grpc import aio

from bpfleet.rpc.settings_error import SettingsError
from bpfleet.version import __version__

__all__ = [
    "Origins",
    "aio_client_interceptors",
    "server_interceptors",
    "start_tracing",
    "traced_channel",
]

_ASKS: Final = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)
_EXPORTERS: Final = {
    "otlp": ("opentelemetry.exporter.otlp.proto.grpc.trace_exporter", "OTLPSpanExporter"),
    "console": ("opentelemetry.sdk.trace.export", "ConsoleSpanExporter"),
}
_ORIGINS_MAX: Final = 10_000
_INSTRUMENTS: Final = "opentelemetry.instrumentation.grpc"

# Whether this process traces: decided once, when it starts.
_started: list[str] = []


def start_tracing(program: str) -> bool:
    """Traces from now on where the environment asks for it. Raises ``SettingsError`` where it cannot.

    ``program`` is the service's name unless OTEL_SERVICE_NAME is another.
    """
    if _started or not _wanted():
        return bool(_started)
    name = os.environ.get("OTEL_TRACES_EXPORTER", "otlp")
    if name not in _EXPORTERS:
        known = ", ".join(sorted(_EXPORTERS))
        raise SettingsError(f"OTEL_TRACES_EXPORTER: {name!r} is not known; use {known} or none")
    try:
        # Any: the extra may not be installed, so nothing of it has a type here.
        trace: Any = importlib.import_module("opentelemetry.trace")
        sdk: Any = importlib.import_module("opentelemetry.sdk.trace")
        export: Any = importlib.import_module("opentelemetry.sdk.trace.export")
        resources: Any = importlib.import_module("opentelemetry.sdk.resources")
        importlib.import_module(_INSTRUMENTS)
        module, kind = _EXPORTERS[name]
        exporter = getattr(importlib.import_module(module), kind)()
    except ImportError as error:
        text = f"traces are asked for by OTEL_*, and {error.name} is missing"
        raise SettingsError(f"{text}; install bpfleet[otel]") from None
    told = {"service.version": __version__}
    if "OTEL_SERVICE_NAME" not in os.environ:
        told["service.name"] = f"bpfleet-{program}"
    provider = sdk.TracerProvider(resource=resources.Resource.create(told))
    provider.add_span_processor(export.BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    _started.append(program)
    return True


def _wanted() -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(os.environ.get(name) for name in _ASKS)


def server_interceptors() -> Sequence[aio.ServerInterceptor]:
    """What a server puts before all else; nothing without tracing."""
    return [_instruments().aio_server_interceptor()] if _started else []


def aio_client_interceptors() -> Sequence[aio.ClientInterceptor]:
    """What an asyncio channel adds; nothing without tracing."""
    return list(_instruments().aio_client_interceptors()) if _started else []


def traced_channel(channel: grpc.Channel) -> grpc.Channel:
    """A blocking channel whose calls are spans; the same channel without tracing."""
    if not _started:
        return channel
    # It is no interceptor of gRPC's own kind: it has an ``intercept_channel`` of its own.
    ext: Any = importlib.import_module(f"{_INSTRUMENTS}.grpcext")
    traced: grpc.Channel = ext.intercept_channel(channel, _instruments().client_interceptor())
    return traced


class Origins:
    """Which call asked for something last: what carries it out later is part of that call's trace.

    Keeps the last 10,000; nothing without tracing.
    """

    def __init__(self) -> None:
        # Any: span contexts of OpenTelemetry, which may not be installed.
        self._contexts: dict[str, Any] = {}

    def note(self, name: str) -> None:
        """The call that is being answered asks for ``name``."""
        if not _started:
            return
        trace: Any = importlib.import_module("opentelemetry.trace")
        self._contexts.pop(name, None)
        self._contexts[name] = trace.get_current_span().get_span_context()
        if len(self._contexts) > _ORIGINS_MAX:
            del self._contexts[next(iter(self._contexts))]

    @contextmanager
    def follow(self, span: str, names: Iterable[str]) -> Iterator[None]:
        """What runs inside is a span of the trace that asked for the first of ``names``, linked to the others."""
        found = [self._contexts[name] for name in dict.fromkeys(names) if name in self._contexts]
        if not found:
            yield
            return
        trace: Any = importlib.import_module("opentelemetry.trace")
        parent = trace.set_span_in_context(trace.NonRecordingSpan(found[0]))
        links = [trace.Link(context) for context in found[1:]]
        with trace.get_tracer("bpfleet").start_as_current_span(span, context=parent, links=links):
            yield


def _instruments() -> Any:
    return importlib.import_module(_INSTRUMENTS)
