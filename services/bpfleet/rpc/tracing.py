"""Traces of calls by OpenTelemetry, where the standard OTEL_* variables ask for them and the extra ``otel`` is there.

Without them nothing of OpenTelemetry is imported, and calls cost what they cost.
"""

import importlib
import os
from collections.abc import Sequence
from typing import Any, Final

import grpc
from grpc import aio

from bpfleet import __version__
from bpfleet.rpc.settings_error import SettingsError

__all__ = ["aio_client_interceptors", "server_interceptors", "start_tracing", "traced_channel"]

_ASKS: Final = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)
_EXPORTERS: Final = {
    "otlp": ("opentelemetry.exporter.otlp.proto.grpc.trace_exporter", "OTLPSpanExporter"),
    "console": ("opentelemetry.sdk.trace.export", "ConsoleSpanExporter"),
}
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


def _instruments() -> Any:
    return importlib.import_module(_INSTRUMENTS)
