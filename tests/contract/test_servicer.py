"""One story, told to the servicers in this process and over the wire: the same answers, the same refusals."""

import asyncio
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from node_agents import running

from bpfleet.kernel import KernelError, profile_named
from bpfleet.node_agent.agent import Agent
from bpfleet.node_agent.bpf_service import BpfServicer
from bpfleet.node_agent.cgroup_service import CgroupServicer
from bpfleet.node_agent.node import NodeBoot
from bpfleet.node_agent.node_service import NodeServicer
from bpfleet.node_agent.process_service import ProcessServicer
from bpfleet.node_agent.replicas import Replicas
from bpfleet.node_agent.watch import Watches
from bpfleet.rpc.errors import ApiError, status_of
from bpfleet.v1 import bpf_pb2
from bpfleet.v1 import bpf_service_pb2 as bpf
from bpfleet.v1 import bpf_service_pb2_grpc as bpf_grpc
from bpfleet.v1 import cgroup_service_pb2 as cgroup
from bpfleet.v1 import cgroup_service_pb2_grpc as cgroup_grpc
from bpfleet.v1 import node_service_pb2 as node
from bpfleet.v1 import node_service_pb2_grpc as node_grpc
from bpfleet.v1 import process_service_pb2 as process
from bpfleet.v1 import process_service_pb2_grpc as process_grpc

CALLER = bpf_pb2.Caller(node="nodes/a1-00001", pid=100)
HASH = bpf_pb2.MapSpec(
    map_type=bpf_pb2.MAP_TYPE_HASH, key_size_bytes=4, value_size_bytes=8, max_entries=4
)


def syscall(**operation):
    return bpf.Syscall(**operation)


STORY = [
    ("CreateCgroup", cgroup.CreateCgroupRequest(node="a1-00001", path="/app")),
    ("CreateCgroup", cgroup.CreateCgroupRequest(node="a1-00001", path="/app")),
    (
        "WriteControlFile",
        cgroup.WriteControlFileRequest(
            node="a1-00001", path="/app", file="memory.max", content="256K"
        ),
    ),
    ("CreateProcess", process.CreateProcessRequest(node="a1-00001", cgroup="/app", comm="app")),
    ("CreateMap", bpf.CreateMapRequest(caller=CALLER, spec=HASH, request_id="one")),
    ("CreateMap", bpf.CreateMapRequest(caller=CALLER, spec=HASH, request_id="one")),
    (
        "CreateMap",
        bpf.CreateMapRequest(
            caller=CALLER,
            spec=bpf_pb2.MapSpec(
                map_type=bpf_pb2.MAP_TYPE_ARRAY,
                key_size_bytes=4,
                value_size_bytes=4096,
                max_entries=1000,
            ),
        ),
    ),
    ("CreateMap", bpf.CreateMapRequest(caller=CALLER, spec=bpf_pb2.MapSpec(max_entries=-1))),
    ("UpdateElement", bpf.UpdateElementRequest(caller=CALLER, fd=3, key=bytes(4), value=bytes(8))),
    ("UpdateElement", bpf.UpdateElementRequest(caller=CALLER, fd=3, key=b"", value=bytes(8))),
    ("LookupElement", bpf.LookupElementRequest(caller=CALLER, fd=3, key=bytes(4))),
    ("LookupElement", bpf.LookupElementRequest(caller=CALLER, fd=9, key=bytes(4))),
    ("GetMapInfo", bpf.GetMapInfoRequest(caller=CALLER, fd=3)),
    ("ListMaps", bpf.ListMapsRequest(caller=bpf_pb2.Caller(node="a1-00001"))),
    (
        "ExecuteSyscalls",
        bpf.ExecuteSyscallsRequest(
            caller=CALLER,
            sequence=7,
            syscalls=[
                syscall(lookup_element=bpf.LookupElementOperation(fd=3, key=bytes(4))),
                syscall(delete_element=bpf.DeleteElementOperation(fd=3, key=bytes(4))),
                syscall(delete_element=bpf.DeleteElementOperation(fd=3, key=bytes(4))),
                syscall(create_map=HASH),
            ],
        ),
    ),
    ("AllocateMemory", process.AllocateMemoryRequest(caller=CALLER, size_bytes=8192)),
    ("GetProcess", process.GetProcessRequest(name="nodes/a1-00001/processes/100")),
    ("ReadProcFile", process.ReadProcFileRequest(node="a1-00001", pid=100, file="limits")),
    ("ReadProcFile", process.ReadProcFileRequest(node="a1-00001", pid=100, file="fdinfo/3")),
    ("GetCgroup", cgroup.GetCgroupRequest(node="a1-00001", path="/app")),
    ("AllocateMemory", process.AllocateMemoryRequest(caller=CALLER, size_bytes=1 << 20)),
    ("GetProcess", process.GetProcessRequest(name="nodes/a1-00001/processes/100")),
    ("RunDeferredWork", node.RunDeferredWorkRequest(name="a1-00001")),
    ("AdvanceClock", node.AdvanceClockRequest(name="a1-00001", duration_ns=10**9)),
    ("ListEvents", node.ListEventsRequest(name="a1-00001")),
    ("ListEvents", node.ListEventsRequest(name="a1-00001", page_token="forged")),
    ("CheckInvariants", node.CheckInvariantsRequest(name="a1-00001")),
    ("GetNode", node.GetNodeRequest(name="nodes/a1-00001")),
    ("GetNode", node.GetNodeRequest(name="nodes/nowhere")),
    ("ListNodes", node.ListNodesRequest(page_size=1)),
    ("DeleteCgroup", cgroup.DeleteCgroupRequest(node="a1-00001", path="/app")),
]


def refusal(status):
    """What a client can read of a refusal."""
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return status.code, status.message, info.domain, info.reason, dict(info.metadata)


class InProcess:
    """Calls servicers as a server would, without one."""

    def __init__(self, profile):
        shape = NodeBoot(profile=profile_named(profile), ram_bytes=8 << 30, possible_cpus=4, seed=0)
        self.agent = Agent("a1", call_ns=1000)
        for number in (1, 2):
            seeded = NodeBoot(
                profile=shape.profile, ram_bytes=shape.ram_bytes, possible_cpus=4, seed=number
            )
            self.agent.create(f"a1-0000{number}", seeded)
        replicas = Replicas(self.agent, churn_share=0.5)
        self.servicers = [
            BpfServicer(self.agent),
            CgroupServicer(self.agent),
            NodeServicer(self.agent, Watches(self.agent), replicas),
            ProcessServicer(self.agent),
        ]

    async def call(self, method, request):
        handler: Any = next(
            getattr(each, method) for each in self.servicers if hasattr(each, method)
        )
        try:
            if method != "ExecuteSyscalls":
                return await handler(request, None)
            return await anext(handler(_one(request), None))
        except (KernelError, ApiError) as error:
            return refusal(status_of(error, f"/bpfleet.v1.Any/{method}"))


async def _one(request):
    yield request


class OverTheWire:
    """The same calls through stubs and a server."""

    def __init__(self, channel):
        self.stubs = [
            bpf_grpc.BpfServiceStub(channel),
            cgroup_grpc.CgroupServiceStub(channel),
            node_grpc.NodeServiceStub(channel),
            process_grpc.ProcessServiceStub(channel),
        ]

    async def call(self, method, request):
        stub = next(getattr(each, method) for each in self.stubs if hasattr(each, method))
        try:
            if method != "ExecuteSyscalls":
                return stub(request, timeout=20)
            return next(stub(iter([request]), timeout=20))
        except grpc.RpcError as error:
            return refusal(rpc_status.from_call(error))


@contextmanager
def in_process(profile):
    yield InProcess(profile)


@contextmanager
def over_the_wire(profile):
    with running(profile=profile) as agent, grpc.insecure_channel(agent.target) as channel:
        yield OverTheWire(channel)


async def tell(teller):
    return [await teller.call(method, request) for method, request in STORY]


@pytest.mark.parametrize("profile", ["5.10", "5.11", "6.12"])
def test_the_wire_changes_nothing(profile):
    with in_process(profile) as teller:
        near = asyncio.run(tell(teller))
    with over_the_wire(profile) as teller:
        far = asyncio.run(tell(teller))
    for (method, request), one, other in zip(STORY, near, far, strict=True):
        assert one == other, (method, request)
    refused = [
        method for (method, _), answer in zip(STORY, near, strict=True) if isinstance(answer, tuple)
    ]
    assert len(refused) >= 6
