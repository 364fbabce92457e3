"""The longest turn of a server's event loop for the requests that cost most: nobody else is answered meanwhile.

    python benchmarks/turns.py
    python benchmarks/turns.py --only explain-fills --only create-replicas

Each request goes over a real socket to an agent or a coordinator that runs in a thread of this process. A turn is one
pass of its event loop; it is measured in CPU time of that thread, so that others on the machine change it little.
"""

import argparse
import asyncio
import gc
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
from figures import Figure, as_json, print_table
from google.protobuf.message import Message

from bpfleet.abi.bpf import F_NO_PREALLOC
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.client.bpf import AgentClient, Process
from bpfleet.client.session import Session
from bpfleet.coordinator.config import Timing
from bpfleet.coordinator.fleet_service import FleetServicer
from bpfleet.coordinator.node_client import GrpcAgents
from bpfleet.coordinator.reconcile import Coordinator
from bpfleet.coordinator.registry_service import RegistryServicer
from bpfleet.coordinator.store.memory import MemoryStore
from bpfleet.fleet.prediction import KernelEstimator
from bpfleet.fleet.records import Policy
from bpfleet.fleet.settings import FleetSettings
from bpfleet.kernel import profile_named
from bpfleet.node_agent.config import AgentSettings
from bpfleet.node_agent.node import NodeBoot
from bpfleet.node_agent.server import NodeAgent
from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.rpc.errors import decode_rpc_error
from bpfleet.rpc.server import RpcServer, ServerOptions
from bpfleet.v1 import (
    bpf_pb2,
    bpf_service_pb2,
    bpf_service_pb2_grpc,
    node_service_pb2,
    node_service_pb2_grpc,
    process_service_pb2,
    process_service_pb2_grpc,
    workload_pb2,
)
from bpfleet.v1 import fleet_service_pb2 as pb
from bpfleet.v1 import registry_service_pb2 as registry
from bpfleet.v1.fleet_service_pb2_grpc import FleetServiceStub, add_FleetServiceServicer_to_server
from bpfleet.v1.registry_service_pb2_grpc import (
    RegistryServiceStub,
    add_RegistryServiceServicer_to_server,
)

TARGET_SECONDS = 0.25
DEADLINE_SECONDS = 600.0
MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
HASH, PERCPU_HASH = bpf_pb2.MAP_TYPE_HASH, bpf_pb2.MAP_TYPE_PERCPU_HASH
UPDATE = bpf_pb2.ProgramOperation.KIND_UPDATE
LOOKUP = bpf_pb2.ProgramOperation.KIND_LOOKUP
MESSAGES = [
    ("grpc.max_send_message_length", 64 * MIB),
    ("grpc.max_receive_message_length", 64 * MIB),
]


class TurnLoop(asyncio.SelectorEventLoop):
    """An event loop that remembers its longest turn, in CPU seconds of its thread."""

    longest_seconds = 0.0

    def _run_once(self) -> None:
        began = time.thread_time()
        # asyncio's own name for a turn; the type checker does not know it.
        super()._run_once()  # type: ignore[misc]
        self.longest_seconds = max(self.longest_seconds, time.thread_time() - began)


class Served:
    """A loop in a thread, and a channel to what it serves."""

    def __init__(self) -> None:
        self.loop = TurnLoop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def wait(self, work: Any) -> Any:
        """The result of a coroutine on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(DEADLINE_SECONDS)

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Probe:
    """Makes calls and writes down the longest turn from the first call to the end."""

    def __init__(self, served: Served, target: str) -> None:
        self.channel = grpc.insecure_channel(target, options=MESSAGES)
        self._served = served
        self._sent_bytes = 0
        self._answers: dict[str, int] = {}

    def begin(self) -> None:
        """What was before does not count."""
        self._served.loop.longest_seconds = 0.0
        self._sent_bytes, self._answers = 0, {}

    # Any: stubs have no types of their own.
    def call(self, method: Any, request: Message) -> Any:
        """One call; its answer, or None where it is refused."""
        self._sent_bytes += request.ByteSize()
        try:
            answer, told = method(request, timeout=DEADLINE_SECONDS), "OK"
        except grpc.RpcError as error:
            answer, told = None, decode_rpc_error(error).reason
        self._answers[told] = self._answers.get(told, 0) + 1
        return answer

    # Any: the same.
    def stream(self, method: Any, request: Message) -> None:
        """One message of a stream, answered."""
        self.call(lambda each, timeout: list(method(iter([each]), timeout=timeout)), request)

    def figure(self, name: str) -> Figure:
        seconds = self._served.loop.longest_seconds
        answers = ", ".join(f"{count} x {told}" for told, count in self._answers.items())
        return Figure(
            name,
            f"{seconds:.3f} s",
            f"at most {TARGET_SECONDS} s",
            seconds <= TARGET_SECONDS,
            f"{self._sent_bytes:,} bytes; {answers}",
        )


# -- an agent


@contextmanager
def agent(*, possible_cpus: int = 4) -> Iterator[tuple[Probe, Process]]:
    """An agent with one node, which has a process that may lock all it wants."""
    boot = NodeBoot(
        profile=profile_named("6.12"), ram_bytes=16 * TIB, possible_cpus=possible_cpus, seed=0
    )
    settings = AgentSettings(agent_id="a", server=ServerOptions(), shape=boot, nodes=1)
    served = Served()

    async def start() -> NodeAgent:
        made = NodeAgent(settings)
        await made.start()
        return made

    made = served.wait(start())
    try:
        target = f"127.0.0.1:{made.server.port}"
        probe = Probe(served, target)
        with probe.channel, Session(target) as session:
            node = AgentClient(session).node("a-00001")
            process = node.create_process(memlock_bytes=RLIM_INFINITY)
            probe.begin()
            yield probe, process
    finally:
        served.wait(made.stop())
        served.end()


def run_key() -> Figure:
    """F1: a key longer than any number may be."""
    with agent() as (probe, process):
        array = process.create_map("array", key_size=4, value_size=8, max_entries=4)
        lookup = bpf_pb2.ProgramOperation(kind=LOOKUP, key=b"\xff" * 1786)
        loaded = process.load_program("socket_filter", 2, maps=[array], operations=[lookup])
        probe.begin()
        run_program(probe, process, loaded.fd, 1)
        return probe.figure("F1 RunProgram, key of 1,786 bytes")


def run_values(kind: str, *, cpus: int, value_size: int, times: int, runs: int = 1) -> Figure:
    """F3: one update a time, of values as large as they may be."""
    with agent(possible_cpus=cpus) as (probe, process):
        values = process.create_map(
            kind,
            key_size=4,
            value_size=value_size,
            max_entries=1 << 16,
            map_flags=F_NO_PREALLOC,
        )
        loaded = process.load_program(
            "xdp", 2, maps=[values], operations=[bpf_pb2.ProgramOperation(kind=UPDATE)]
        )
        probe.begin()
        for _ in range(runs):
            run_program(probe, process, loaded.fd, times)
        return probe.figure(f"F3 RunProgram, {times:,} x {cpus:,} x {value_size:,} bytes")


def run_program(probe: Probe, process: Process, fd: int, times: int) -> None:
    stub = bpf_service_pb2_grpc.BpfServiceStub(probe.channel)
    request = bpf_service_pb2.RunProgramRequest(caller=process.caller, fd=fd, repeat_count=times)
    probe.call(stub.RunProgram, request)


def allocate() -> Figure:
    """F5: all memory of a node of 16 TiB, in one call."""
    with agent() as (probe, process):
        stub = process_service_pb2_grpc.ProcessServiceStub(probe.channel)
        request = process_service_pb2.AllocateMemoryRequest(
            caller=process.caller, size_bytes=1 << 44
        )
        probe.call(stub.AllocateMemory, request)
        return probe.figure("F5 AllocateMemory of 16 TiB")


def profiles() -> Figure:
    """F6: 64 KiB of TOML, of the forms that parsers take long for."""
    most = 64 << 10
    texts = [
        "a" + ".a" * 30_000 + "=1",
        "".join(f"[a.b{number}]\n" for number in range(most // 10)),
        "".join(f"a.b{number}=1\n" for number in range(most // 11)),
        "a=" + "[" * 32_000 + "]" * 32_000,
        "a=" + "{a=" * 16_000 + "1" + "}" * 16_000,
        "a=[" + "1," * 32_000 + "]",
        'a="' + "x" * (most - 10) + '"',
        "a=" + "9" * (most - 10),
        'a="""' + '"' * (most - 10),
        "[[a]]\n" * (most // 6),
        "[" + "a." * 15 + "a]\n" * 1 + "".join(f"b{number}=1\n" for number in range(8_000)),
    ]
    with agent() as (probe, _):
        stub = node_service_pb2_grpc.NodeServiceStub(probe.channel)
        for text in texts:
            spec = node_service_pb2.NodeSpec(
                profile_file=text[:most], ram_bytes=GIB, possible_cpus=1
            )
            probe.call(stub.CreateNode, node_service_pb2.CreateNodeRequest(node="n", spec=spec))
        return probe.figure("F6 CreateNode with 64 KiB of TOML")


def deep_pins() -> Figure:
    """F20: a stream of pins as deep as directories go, 4,096 in a message."""
    with agent() as (probe, process):
        made = process.create_map("hash", key_size=4, value_size=8, max_entries=4)
        stub = bpf_service_pb2_grpc.BpfServiceStub(probe.channel)
        for depth in (2_000, 30):
            calls = [
                bpf_service_pb2.Syscall(
                    pin_object=bpf_service_pb2.PinOperation(
                        fd=made.fd, path=f"/sys/fs/bpf/{number}/" + "a/" * depth + "x"
                    )
                )
                for number in range(3_900 if depth < 100 else 60)
            ]
            request = bpf_service_pb2.ExecuteSyscallsRequest(caller=process.caller, syscalls=calls)
            probe.stream(stub.ExecuteSyscalls, request)
        return probe.figure("F20 60 pins of 2,000 directories, 3,900 of 30")


def many_cpus() -> Figure:
    """F20: nodes of 8,192 CPUs, as many as the agent takes."""
    with agent() as (probe, _):
        stub = node_service_pb2_grpc.NodeServiceStub(probe.channel)
        spec = node_service_pb2.NodeSpec(profile="6.12", ram_bytes=GIB, possible_cpus=8_192)
        for number in range(100):
            request = node_service_pb2.CreateNodeRequest(node=f"n{number}", spec=spec)
            probe.call(stub.CreateNode, request)
        return probe.figure("F20 CreateNode with 8,192 CPUs, 100 times")


def batches() -> Figure:
    """Batches as large as a message holds, on every CPU of a large node."""
    with agent(possible_cpus=256) as (probe, process):
        made = process.create_map("percpu_hash", key_size=4, value_size=8, max_entries=1 << 16)
        stub = bpf_service_pb2_grpc.BpfServiceStub(probe.channel)
        count = 7_000
        keys = b"".join(number.to_bytes(4, "little") for number in range(count))
        update = bpf_service_pb2.Syscall(
            update_batch=bpf_service_pb2.UpdateBatchOperation(
                fd=made.fd, keys=keys, values=bytes(2_048) * count, element_count=count
            )
        )
        request = bpf_service_pb2.ExecuteSyscallsRequest(caller=process.caller, syscalls=[update])
        probe.stream(stub.ExecuteSyscalls, request)
        return probe.figure("a batch of 14 MB")


# -- a coordinator


@contextmanager
def coordinator(
    nodes: int = 0, policy: Policy = Policy.LEAST_ALLOCATED, **fields: Any
) -> Iterator["Fleet"]:
    """A coordinator on the memory store with so many nodes of an agent that takes no orders."""
    served = Served()

    async def start() -> tuple[Coordinator, RpcServer, asyncio.Task[None]]:
        made = Coordinator(
            MemoryStore(),
            GrpcAgents(lambda target, agent: ChannelOptions(target=target)),
            identity="turns",
            fleet=FleetSettings(policy=policy),
            # So long that no lease ends however long a turn is: here it is about the turn.
            timing=Timing(lease_ms=3_600_000, leader_ttl_ms=3_600_000),
            estimator=KernelEstimator(),
        )
        server = RpcServer(
            ServerOptions(),
            [
                partial(add_FleetServiceServicer_to_server, FleetServicer(made)),
                partial(add_RegistryServiceServicer_to_server, RegistryServicer(made)),
            ],
            ["bpfleet.v1.FleetService"],
        )
        await server.start()
        work = asyncio.create_task(made.run())
        await made.leading.wait()
        return made, server, work

    async def stop() -> None:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await made.close()
        await server.stop(0)

    made, server, work = served.wait(start())
    try:
        probe = Probe(served, f"127.0.0.1:{server.port}")
        with probe.channel:
            fleet = Fleet(probe)
            fleet.register(nodes, **fields)
            probe.begin()
            yield fleet
    finally:
        served.wait(stop())
        served.end()


class Fleet:
    """What a coordinator is asked."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        # Any: stubs have no types of their own.
        self.fleet: Any = FleetServiceStub(probe.channel)
        self.registry: Any = RegistryServiceStub(probe.channel)

    def register(
        self,
        count: int,
        *,
        labels: Callable[[int], dict[str, str]] = lambda number: {},
        ram_bytes: Callable[[int], int] = lambda number: 64 * GIB,
    ) -> None:
        for start in range(0, count, 5_000):
            nodes = [
                registry.RegisteredNode(
                    node=f"n{number:06}",
                    profile="6.12",
                    possible_cpus=8,
                    ram_bytes=ram_bytes(number),
                    labels=labels(number),
                )
                for number in range(start, min(start + 5_000, count))
            ]
            request = registry.RegisterAgentRequest(
                agent="a", incarnation="1", address="127.0.0.1:1", nodes=nodes, partial=start > 0
            )
            self.probe.call(self.registry.RegisterAgent, request)

    def create(self, **spec: Any) -> None:
        spec.setdefault("inventory", workload_pb2.Inventory(name="app"))
        spec.setdefault("memory_request_bytes", MIB)
        spec = {"name": "w", **spec}
        request = pb.CreateWorkloadRequest(spec=workload_pb2.WorkloadSpec(**spec))
        self.probe.call(self.fleet.CreateWorkload, request)

    def explain(self, **spec: Any) -> None:
        spec = {"name": "w", "replicas": 1, **spec}
        request = pb.ExplainPlacementRequest(
            policy=pb.PLACEMENT_POLICY_KERNEL_AWARE, spec=workload_pb2.WorkloadSpec(**spec)
        )
        self.probe.call(self.fleet.ExplainPlacement, request)

    def until(self, done: Callable[[pb.GetFleetStatusResponse], bool]) -> None:
        """The ticks until then count, too."""
        while not done(self.fleet.GetFleetStatus(pb.GetFleetStatusRequest())):
            time.sleep(0.5)

    def placed(self, count: int) -> None:
        """Until so many replicas have a node."""
        self.until(lambda status: status.replicas["ASSIGNED"] >= count)


def explain_fills() -> Figure:
    """F2: a trial of maps with all elements, many maps, many CPUs, a large heap."""
    with coordinator(1) as fleet:
        for entries in (1 << 20, (1 << 32) - 1):
            for kind, count in ((HASH, 1), (HASH, 1_000), (PERCPU_HASH, 1_000)):
                declared = workload_pb2.MapDeclaration(
                    map_type=kind,
                    key_size=8,
                    value_size=8,
                    max_entries=entries,
                    fill_entries=entries,
                    count=count,
                    map_flags=F_NO_PREALLOC,
                )
                fleet.explain(
                    inventory=workload_pb2.Inventory(name="app", maps=[declared]),
                    user_memory_bytes=1 << 44,
                )
        return fleet.probe.figure("F2 ExplainPlacement, maps filled")


def explain_shapes() -> Figure:
    """F2: as many trials in one decision as the fleet has kinds of node."""
    with coordinator(1_000, ram_bytes=lambda number: 64 * GIB + number * MIB) as fleet:
        fleet.explain(application="cilium")
        return fleet.probe.figure("F2 ExplainPlacement, 1,000 kinds of node")


def create_shapes() -> Figure:
    """F2: the same when a workload is created under that policy."""
    kinds = {"ram_bytes": lambda number: 64 * GIB + number * MIB}
    with coordinator(1_000, Policy.KERNEL_AWARE, **kinds) as fleet:
        fleet.create(application="cilium", inventory=None, replicas=100)
        fleet.placed(100)
        return fleet.probe.figure("F2 CreateWorkload, kernel-aware, 1,000 kinds of node")


def create_replicas() -> Figure:
    """F7: the most replicas of the longest name; then each way in which many of them change at once."""
    with coordinator(5_000) as fleet:
        name = "w" + "x" * 49
        fleet.create(name=name, replicas=100_000)
        fleet.placed(100_000)
        return fleet.probe.figure("F7 CreateWorkload of 100,000 replicas, 5,000 nodes")


def change_replicas() -> Figure:
    with coordinator(5_000) as fleet:
        fleet.create(replicas=100_000)
        fleet.placed(100_000)
        fleet.probe.begin()
        wanted = workload_pb2.WorkloadSpec(
            name="w",
            replicas=100_000,
            memory_request_bytes=2 * MIB,
            inventory=workload_pb2.Inventory(name="app"),
        )
        call, update = fleet.probe.call, fleet.fleet.UpdateWorkload
        call(update, pb.UpdateWorkloadRequest(name="w", spec=wanted))
        fleet.until(lambda status: status.replicas["STOPPING"] >= 99_000)
        call(update, pb.UpdateWorkloadRequest(name="w", replicas=0))
        fleet.until(lambda status: status.replicas["STOPPING"] >= 100_000)
        return fleet.probe.figure("F7 UpdateWorkload of 100,000 replicas")


def look_at_replicas() -> Figure:
    with coordinator(5_000) as fleet:
        fleet.create(replicas=100_000)
        fleet.placed(100_000)
        fleet.probe.begin()
        call, stub = fleet.probe.call, fleet.fleet
        call(stub.GetWorkload, pb.GetWorkloadRequest(name="w", page_size=1_000))
        call(stub.ListWorkloads, pb.ListWorkloadsRequest(page_size=1_000))
        call(stub.ListFleetNodes, pb.ListFleetNodesRequest(page_size=1_000))
        call(stub.GetFleetStatus, pb.GetFleetStatusRequest())
        call(stub.ListFleetEvents, pb.ListFleetEventsRequest(page_size=1_000))
        return fleet.probe.figure("F7 reads beside 100,000 replicas")


def delete_replicas() -> Figure:
    with coordinator(5_000) as fleet:
        fleet.create(replicas=100_000)
        fleet.placed(100_000)
        fleet.probe.begin()
        fleet.probe.call(fleet.fleet.DeleteWorkload, pb.DeleteWorkloadRequest(name="w"))
        fleet.until(lambda status: status.replicas["STOPPING"] == 100_000)
        return fleet.probe.figure("F7 DeleteWorkload of 100,000 replicas")


def per_node() -> Figure:
    """One replica on each node: created, drained of, deleted."""
    with coordinator(20_000) as fleet:
        fleet.create(per_node=True)
        fleet.placed(20_000)
        fleet.probe.call(fleet.fleet.DeleteWorkload, pb.DeleteWorkloadRequest(name="w"))
        fleet.until(lambda status: status.replicas["STOPPING"] == 20_000)
        return fleet.probe.figure("one per node on 20,000 nodes, created and deleted")


def agent_leaves() -> Figure:
    """An agent of 5,000 nodes with 100,000 replicas leaves."""
    with coordinator(5_000) as fleet:
        fleet.create(replicas=100_000)
        fleet.placed(100_000)
        fleet.probe.begin()
        leave = registry.UnregisterAgentRequest(agent="a", incarnation="1")
        fleet.probe.call(fleet.registry.UnregisterAgent, leave)
        fleet.until(lambda status: not status.node_count)
        return fleet.probe.figure("UnregisterAgent with 100,000 replicas")


def many_conditions() -> Figure:
    """F13: 60 conditions of 64 values each over nodes of which no two have the same labels."""
    with coordinator(1_000, labels=lambda number: {"own": f"v{number}"}) as fleet:
        conditions = [
            workload_pb2.Requirement(
                # One looks at what tells the nodes apart.
                key=f"key{number}" if number else "own",
                operator=workload_pb2.LABEL_OPERATOR_NOT_IN,
                values=[f"value{number}-{each}" for each in range(64)],
            )
            for number in range(60)
        ]
        wishes = [workload_pb2.Preference(requirement=each, weight=1) for each in conditions]
        for gang in (False, True):
            fleet.create(
                name=f"w-{gang}".lower(),
                replicas=500,
                scheduling=workload_pb2.Scheduling(
                    required=conditions, preferred=wishes, gang=gang
                ),
            )
        fleet.placed(500)
        return fleet.probe.figure("F13 500 replicas, 120 conditions, 1,000 labels")


def register_labels() -> Figure:
    """The largest registration: 5,000 nodes of which each has labels as long as a message holds."""
    with coordinator() as fleet:
        fleet.register(
            5_000, labels=lambda number: {f"key{each}": f"{number:040}" for each in range(50)}
        )
        return fleet.probe.figure("RegisterAgent, 250,000 labels")


def report_verdicts() -> Figure:
    """F11: reports of 2,000 nodes with verdicts nobody knows."""
    with coordinator(2_000) as fleet:
        for turn in range(3):
            reports = [
                registry.NodeReport(
                    node=f"n{number:06}",
                    verdicts={f"E{turn}X{number}Y{each}": 1 for each in range(60)},
                )
                for number in range(2_000)
            ]
            request = registry.ReportNodesRequest(agent="a", incarnation="1", reports=reports)
            fleet.probe.call(fleet.registry.ReportNodes, request)
        return fleet.probe.figure("F11 ReportNodes, 360,000 unknown verdicts")


REQUESTS: dict[str, Callable[[], Figure]] = {
    "run-key": run_key,
    "run-values": partial(run_values, "hash", cpus=4, value_size=65_536, times=20_000),
    "run-most-values": partial(run_values, "hash", cpus=4, value_size=65_536, times=1_000),
    "run-small-values": partial(run_values, "hash", cpus=4, value_size=8, times=20_000),
    "run-cpus": partial(run_values, "percpu_hash", cpus=1_024, value_size=8_192, times=8, runs=5),
    "allocate": allocate,
    "profiles": profiles,
    "deep-pins": deep_pins,
    "many-cpus": many_cpus,
    "batches": batches,
    "explain-fills": explain_fills,
    "explain-shapes": explain_shapes,
    "create-shapes": create_shapes,
    "create-replicas": create_replicas,
    "change-replicas": change_replicas,
    "look-at-replicas": look_at_replicas,
    "delete-replicas": delete_replicas,
    "per-node": per_node,
    "agent-leaves": agent_leaves,
    "many-conditions": many_conditions,
    "register-labels": register_labels,
    "report-verdicts": report_verdicts,
}


def main() -> int:
    """Makes the requests one after the other, each to a server of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=list(REQUESTS), help="repeatable")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    # As the coordinator's program sets it: a full search for cycles walks the whole fleet.
    gc.set_threshold(50_000, 20, 100)
    # No agent of these fleets answers, and the coordinator says so again and again.
    logging.disable(logging.WARNING)
    figures = []
    for name in options.only or REQUESTS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        figures.append(REQUESTS[name]())
        print(f"{name}: {figures[-1].value}", file=sys.stderr, flush=True)
    if options.json:
        json.dump(as_json(figures), sys.stdout, indent=2)
    else:
        print_table(figures)
    return int(not all(figure.met for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
