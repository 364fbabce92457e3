"""Health probe: asks one gRPC service whether it serves, and answers by exit status.

Container engines and Kubernetes run it inside the image:

    python -m bpfleet.launcher.probe                      # address from BPFLEET_PROBE
    python -m bpfleet.launcher.probe 127.0.0.1:7070
"""

import os
import sys
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
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(request, timeout=deadline_seconds)
        except grpc.RpcError as error:
            return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main(arguments: list[str] | None = None) -> int:
    """Print the status; 0 where the service serves, 1 where it does not."""
    given = sys.argv[1:] if arguments is None else arguments
    address = given[0] if given else os.environ.get("BPFLEET_PROBE", DEFAULT_ADDRESS)
    status = probe(address)
    print(f"{address} {status}")
    return 0 if status == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main())
