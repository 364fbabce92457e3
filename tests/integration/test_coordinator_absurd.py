"""Whatever a client or an agent sends, a coordinator answers with a clear refusal: never INTERNAL, never a hang."""

import random
from contextlib import suppress

import grpc
import pytest
from absurd_messages import fill
from grpc import aio
from test_coordinator_service import Bench, serve, with_agent

from bpfleet.rpc.errors import decode_rpc_error
from bpfleet.rpc.paging import page_token
from bpfleet.v1 import fleet_service_pb2 as pb
from bpfleet.v1 import registry_service_pb2 as registry
from bpfleet.v1 import workload_pb2
from bpfleet.workload.catalogue import applications

METHODS = [
    (module, side, method.name)
    for module, side in ((pb, "fleet"), (registry, "registry"))
    for method in next(iter(module.DESCRIPTOR.services_by_name.values())).methods
]
TEXTS = [
    "", "web", "n1", "nodes/n1", "workloads/web", "a", "x" * 300, "\0", "é", "../..", "6.12", "bpfleet/node", "node",
    "zone", "-", "CAP_BPF", "127.0.0.1:1", "1", "RUNNING",
]  # fmt: skip
LIKELY = {
    "name": ["web", "n1", "nodes/n1"],
    "workload": ["web", "other", "w1", "w2", "w3", ""],
    "node": ["n1", "n2"],
    "agent": ["a", "b"],
    "incarnation": ["1", "2", ""],
    "address": ["127.0.0.1:1"],
    "profile": ["5.10", "6.12"],
    "application": ["", applications()[0]],
    "replica": ["web-0", "web-1"],
    "key": ["zone", "tier", "node"],
    "label": ["zone", "bpfleet/node"],
    "weight": [1, 100],
    "ram_bytes": [1 << 30],
    "possible_cpus": [1, 4],
    "page_token": ["", page_token("5"), page_token("\N{SUPERSCRIPT TWO}"), page_token("9" * 5000)],
    "request_id": ["", "once"],
    "expected_revision": [0],
    "capabilities": ["CAP_BPF"],
    "replicas": [0, 1, 3],
    "memory_request_bytes": [0, 1 << 20],
}
REQUESTS = 150
SPEC = workload_pb2.WorkloadSpec(
    name="new",
    replicas=2,
    application=applications()[0],
    spread=workload_pb2.Spread(topology_key="zone", max_skew=1),
)
NODE = registry.RegisteredNode(node="n9", profile="5.10", possible_cpus=1, ram_bytes=1 << 30)
# What is right to begin with, so that few wrong fields are met behind the first check.
RIGHT = {
    "CreateWorkload": pb.CreateWorkloadRequest(spec=SPEC),
    "UpdateWorkload": pb.UpdateWorkloadRequest(name="new", spec=SPEC),
    "ExplainPlacement": pb.ExplainPlacementRequest(spec=SPEC),
    "RegisterAgent": registry.RegisterAgentRequest(
        agent="b", incarnation="1", address="127.0.0.1:1", nodes=[NODE]
    ),
    "ReportNodes": registry.ReportNodesRequest(agent="a", incarnation="1"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("module", "side", "method"), METHODS, ids=[n for *_, n in METHODS])
def test_absurd_requests_are_refused_and_the_coordinator_lives_on(module, side, method):
    chance = random.Random(method)

    async def body(bench: Bench, agent) -> None:
        await bench.create("web", replicas=2)
        call = getattr(getattr(bench, side), method)
        request_type = getattr(module, f"{method}Request")
        for _ in range(REQUESTS):
            request = request_type()
            share = 0.65
            if method in RIGHT and chance.random() < 0.7:
                request.CopyFrom(RIGHT[method])
                share = 0.1
            fill(request, chance, LIKELY, TEXTS, share)
            refusal = await answer(call, request, method)
            if refusal is None:
                continue
            said = (refusal, str(request))
            assert refusal.code not in (
                grpc.StatusCode.INTERNAL,
                grpc.StatusCode.UNKNOWN,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            ), said
            assert refusal.message, said
            assert refusal.reason, said
        bench.coordinator.state.check()
        await bench.create("after")

    serve(with_agent(body))


async def answer(call, request, method):
    """The refusal of one call; None where it succeeded."""
    try:
        if method == "WatchFleet":
            stream = call(request, timeout=20)
            with suppress(TimeoutError):
                await stream.read()
            stream.cancel()
        else:
            await call(request, timeout=20)
    except aio.AioRpcError as error:
        return decode_rpc_error(error)
    return None
