"""Traces, told to a real collector of OTLP over gRPC: one trace from the command line to the agent."""

import os
import subprocess
import sys
from concurrent import futures

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from redis_server import free_port

from bpfleet.rpc import tracing
from bpfleet.rpc.settings_error import SettingsError

pytestmark = pytest.mark.slow


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps (service, trace, span's name)."""

    def __init__(self):
        self.spans = []

    def Export(self, request, context):
        for resource in request.resource_spans:
            told = {a.key: a.value.string_value for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.append((told["service.name"], span.trace_id, span.name))
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector():
    made = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(made, server)
    made.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield made
    server.stop(0).wait()


def test_a_call_is_one_trace_from_the_command_line_to_the_agent(collector, tmp_path):
    environment = {
        **os.environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
    }
    target, there = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    python = [sys.executable, "-m"]
    agent = [*python, "bpfleet.node_agent", "--listen", there, "--coordinator", target]
    processes = [
        subprocess.Popen([*python, "bpfleet.coordinator", "--listen", target], env=environment),
        subprocess.Popen(agent, env=environment),
    ]
    command = [*python, "bpfleet.cli.main"]

    def run(*arguments):
        return subprocess.run(
            [*command, *arguments, "--coordinator", target],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def until(text, *arguments):
        for _ in range(200):
            done = run(*arguments)
            if done.returncode == 0 and text in done.stdout:
                return
        raise AssertionError(done.stdout + done.stderr)

    try:
        until('"agent_count": 1', "fleet", "status", "--json")
        asked = tmp_path / "ask.toml"
        asked.write_text(
            '[[workloads]]\nname = "web"\napplication = "bcc-execsnoop"\nmemlock_bytes = "unlimited"\n'
        )
        applied = run("fleet", "apply", str(asked))
        assert applied.returncode == 0, applied.stderr
        until('"RUNNING": 1', "fleet", "status", "--json")
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)
    of_trace = {}
    for service, trace, _ in collector.spans:
        of_trace.setdefault(trace, set()).add(service)
    assert {"bpfleet-cli", "bpfleet-coordinator"} in of_trace.values()
    assert {"bpfleet-agent", "bpfleet-coordinator"} in of_trace.values()
    assert any("GetFleetStatus" in name for _, _, name in collector.spans)
    # What an agent is told to start belongs to the call that asked for it.
    everywhere = {"bpfleet-cli", "bpfleet-coordinator", "bpfleet-agent"}
    assert everywhere in of_trace.values()
    started = {trace for _, trace, name in collector.spans if "RunReplicas" in name}
    asked = {trace for _, trace, name in collector.spans if "CreateWorkload" in name}
    assert started & asked


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"},
    ],
)
def test_without_being_asked_nothing_is_traced(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert tracing.start_tracing("test") is False
    assert not tracing.server_interceptors()


def test_an_exporter_that_is_not_known_is_named(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    with pytest.raises(SettingsError, match="'zipkin' is not known"):
        tracing.start_tracing("test")
