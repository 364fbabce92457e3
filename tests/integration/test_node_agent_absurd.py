"""Whatever a client sends, an agent answers with a clear refusal: never INTERNAL, never a hang, and it lives on."""

import random
from itertools import islice

import grpc
import pytest
from absurd_messages import fill
from node_agents import connected

from bpfleet.client.session import CallError, Verdict
from bpfleet.rpc.errors import CONTROL_DOMAIN, KERNEL_DOMAIN, decode_rpc_error
from bpfleet.rpc.paging import page_token
from bpfleet.v1 import (
    bpf_service_pb2,
    bpf_service_pb2_grpc,
    cgroup_service_pb2,
    cgroup_service_pb2_grpc,
    node_service_pb2,
    node_service_pb2_grpc,
    process_service_pb2,
    process_service_pb2_grpc,
    runtime_service_pb2,
    runtime_service_pb2_grpc,
)

SERVICES = [
    (bpf_service_pb2, bpf_service_pb2_grpc.BpfServiceStub),
    (cgroup_service_pb2, cgroup_service_pb2_grpc.CgroupServiceStub),
    (node_service_pb2, node_service_pb2_grpc.NodeServiceStub),
    (process_service_pb2, process_service_pb2_grpc.ProcessServiceStub),
    (runtime_service_pb2, runtime_service_pb2_grpc.RuntimeServiceStub),
]
METHODS = [
    (module, stub, method.name)
    for module, stub in SERVICES
    for method in next(iter(module.DESCRIPTOR.services_by_name.values())).methods
]
TEXTS = [
    "", "a1-00001", "nodes/a1-00001", "nodes/a1-00001/processes/100", "/", "/app", "memory.max",
    "memory.current", "max", "64K", "hash", "katran", "counter-0", "../..", "x" * 300, "\0", "é",
    "a1-00002", "limits", "fdinfo/3", "slab", "/sys/fs/bpf/x", "tcp_est", "CAP_BPF", "6.12", "cgroup.kill",
]  # fmt: skip
LIKELY = {
    "node": ["a1-00001"],
    "name": ["nodes/a1-00001", "nodes/a1-00001/processes/100"],
    "pid": [100],
    "fd": [3, 4, 5],
    "map_fds": [3, 4],
    "page_token": ["", page_token("\N{SUPERSCRIPT TWO}"), page_token("9" * 5000)],
    "request_id": ["", "once"],
    "duration_ns": [0, 1, 10**9],
    "cgroup": ["", "/", "/app"],
    "path": ["/app", "/sys/fs/bpf/x"],
    "comm": ["x"],
    "map_name": ["", "m"],
    "program_name": ["", "p"],
    "profile": ["5.10", "6.12"],
    "key": [bytes(4), b"\1\0\0\0"],
    "keys": [bytes(4), bytes(8)],
    "value": [bytes(8), bytes(64)],
    "values": [bytes(8), bytes(16), bytes(64)],
    "ram_bytes": [1 << 30],
    "possible_cpus": [1, 4],
    "attach_type": [0, 1, 2],
    "capabilities": ["CAP_BPF", "CAP_SYS_ADMIN"],
}


def furnish(client):
    """A node with a process (100) that has a hash (3), an array (4) and a program (5)."""
    node = client.node("a1-00001")
    node.create_cgroup("/app", {"memory.max": "256M"})
    process = node.create_process(cgroup="/app", memlock_bytes=1 << 40)
    assert process.pid == 100
    process.create_map("hash", key_size=4, value_size=8, max_entries=64)
    process.create_map("array", key_size=4, value_size=64, max_entries=8)
    process.load_program("xdp", 10)


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["5.10", "6.12"])
@pytest.mark.parametrize(
    ("module", "stub", "method"), METHODS, ids=[f"{m.__name__[11:-12]}-{n}" for m, _, n in METHODS]
)
def test_absurd_requests_are_refused_and_the_agent_lives_on(module, stub, method, profile):
    chance = random.Random(f"{profile} {method}")
    with connected(profile=profile, nodes=1) as (_, client):
        furnish(client)
        call = getattr(stub(client.session.channel), method)
        request_type = getattr(module, f"{method}Request")
        for _ in range(60):
            request = fill(request_type(), chance, LIKELY, TEXTS)
            refusal = answer(call, request, method)
            if refusal is None:
                continue
            assert refusal.domain in (KERNEL_DOMAIN, CONTROL_DOMAIN), (refusal, request)
            assert refusal.code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), (
                refusal,
                request,
            )
            assert refusal.message
        furnished_again(client)


def answer(call, request, method):
    """The refusal of one call; None where it succeeded."""
    try:
        if method == "ExecuteSyscalls":
            list(call(iter([request]), timeout=240))
        elif method == "WatchEvents":
            stream = call(request, timeout=240)
            list(islice(stream, 1))
            stream.cancel()
        else:
            call(request, timeout=240)
    except grpc.RpcError as error:
        return decode_rpc_error(error)
    return None


def furnished_again(client):
    """The agent still boots nodes and serves them."""
    process = client.create_node("fresh").create_process()
    process.create_map("hash", key_size=4, value_size=8, max_entries=64)


def test_sizes_no_message_could_carry_are_refused_at_once():
    with connected(nodes=1, possible_cpus=8192, ram_bytes=1 << 40) as (_, client):
        process = client.node("a1-00001").create_process()
        wide = process.create_map("percpu_array", key_size=4, value_size=8192, max_entries=1)
        with pytest.raises(CallError) as caught:
            wide.lookup(bytes(4))
        assert caught.value.reason == "RESPONSE_TOO_LARGE"
        assert wide.info().spec.value_size_bytes == 8192


def test_the_largest_maps_are_answered_without_being_built():
    with connected(nodes=1, ram_bytes=1 << 34) as (_, client):
        process = client.node("a1-00001").create_process()
        for map_type, flags in (("hash", 0), ("hash", 1), ("array", 0), ("lru_hash", 0)):
            with pytest.raises(Verdict):
                process.create_map(
                    map_type, key_size=4, value_size=8, max_entries=2**32 - 1, map_flags=flags
                )
