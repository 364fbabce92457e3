"""Health probe: asks one gRPC service whether it serves, and answers by exit status.

Container engines and Kubernetes run it inside the image, every few seconds; so it imports gRPC and
nothing else of ours.

    python -m bpfleet.launcher.probe                      # address from BPFLEET_PROBE
    python -m bpfleet.launcher.probe 127.0.0.1:7070

TLS comes from the variables that the service itself reads (BPFLEET_TLS_CA, ..._CERT, ..._KEY);
health needs no token.
"""

import os
import sys
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

__all__ = ["DEFAULT_ADDRESS", "main", "probe"]

DEFAULT_ADDRESS: Final = "127.0.0.1:7070"
DEADLINE_SECONDS: Final = 3.0


def probe(address: str, *, deadline_seconds: float = DEADLINE_SECONDS) -> str:
    """The serving status of the server at ``address`` by name, or the transport code that came
    instead.
    """
    request = health_pb2.HealthCheckRequest()
    with _channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(request, timeout=deadline_seconds)
        except grpc.RpcError as error:
            return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _channel(address: str) -> grpc.Channel:
    ca = _content("BPFLEET_TLS_CA")
    if ca is None:
        return grpc.insecure_channel(address)
    key, certificate = _content("BPFLEET_TLS_KEY"), _content("BPFLEET_TLS_CERT")
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, certificate))


def _content(variable: str) -> bytes | None:
    path = os.environ.get(variable)
    return Path(path).read_bytes() if path else None


def main(arguments: list[str] | None = None) -> int:
    """Print the status; 0 where the service serves, 1 where it does not."""
    given = sys.argv[1:] if arguments is None else arguments
    address = given[0] if given else os.environ.get("BPFLEET_PROBE", DEFAULT_ADDRESS)
    status = probe(address)
    print(f"{address} {status}")
    return 0 if status == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main())
