"""What idle nodes cost: memory each in the agents, and whether many of them make a call dearer.

Every node gets 5 cgroups, 4 processes and 10 maps of common types over gRPC. Memory is the growth of the agents'
resident memory from no nodes at all, once idle nodes have gone to sleep. Calls are timed in CPU seconds of the agent
that carries the nodes, all of them awake.
"""

import asyncio
import time
from contextlib import ExitStack
from typing import Any

from agent_process import AgentProcess
from figures import Figure
from grpc import aio

from bpfleet.rpc.names import node_name
from bpfleet.v1 import bpf_pb2, cgroup_service_pb2, node_service_pb2, process_service_pb2
from bpfleet.v1 import bpf_service_pb2 as bpf
from bpfleet.v1.bpf_service_pb2_grpc import BpfServiceStub
from bpfleet.v1.cgroup_service_pb2_grpc import CgroupServiceStub
from bpfleet.v1.node_service_pb2_grpc import NodeServiceStub
from bpfleet.v1.process_service_pb2_grpc import ProcessServiceStub

AGENTS = 2
FEW = 10
TARGET_MIB_FOR_10_000 = 300
TARGET_MORE_PERCENT = 20
NODES_AT_ONCE = 32
IDLE_SECONDS = 30.0  # until the last ones sleep
ROUNDS = 6
MESSAGES_A_ROUND = 400
CALLS_A_MESSAGE = 64
GROUPS = ("/kubepods", "/kubepods/pod1", "/kubepods/pod2", "/kubepods/pod3", "/system")
# Type, key bytes, value bytes, entries: what network and security agents mostly have.
MAPS = (
    (bpf_pb2.MAP_TYPE_HASH, 4, 8, 4_096),
    (bpf_pb2.MAP_TYPE_ARRAY, 4, 64, 256),
    (bpf_pb2.MAP_TYPE_LRU_HASH, 40, 56, 8_192),
    (bpf_pb2.MAP_TYPE_PERCPU_ARRAY, 4, 8, 64),
    (bpf_pb2.MAP_TYPE_RINGBUF, 0, 0, 65_536),
)
MIB = 1 << 20


def measure(nodes: int) -> list[Figure]:
    """``nodes`` over all agents, and ten on one more."""
    with ExitStack() as stack:
        agents = [
            stack.enter_context(AgentProcess(agent_id=f"m{number}", nodes=0))
            for number in range(AGENTS)
        ]
        few = stack.enter_context(AgentProcess(agent_id="few", nodes=0))
        asyncio.run(_fill(few, FEW))
        before = [agent.rss_bytes() for agent in agents]
        for agent in agents:
            asyncio.run(_fill(agent, nodes // AGENTS))
        highest = sum(agent.rss_bytes() for agent in agents) - sum(before)
        time.sleep(IDLE_SECONDS)
        after = [agent.rss_bytes() for agent in agents]
        grown = sum(after) - sum(before)
        memory = grown / MIB * 10_000 / nodes
        small, large = asyncio.run(_compare(few, agents[0], nodes // AGENTS))
    more = (large / small - 1) * 100
    return [
        Figure(
            f"memory of {nodes:,} idle nodes in {AGENTS} agents",
            f"{grown / MIB:.0f} MiB",
            f"<= {TARGET_MIB_FOR_10_000} MiB for 10,000",
            memory <= TARGET_MIB_FOR_10_000,
            f"{grown / nodes / 1024:.1f} KiB a node; {highest / MIB:.0f} MiB when the last was made",
        ),
        Figure(
            f"CPU of a call with {nodes // AGENTS:,} nodes in the agent against {FEW}",
            f"{more:+.0f} %",
            f"<= +{TARGET_MORE_PERCENT} %",
            more <= TARGET_MORE_PERCENT,
            f"{large * 1e6:.1f} us against {small * 1e6:.1f} us",
        ),
    ]


async def _fill(agent: AgentProcess, nodes: int) -> None:
    async with aio.insecure_channel(agent.target) as channel:
        waiting = iter(range(nodes))
        seeds = _Stubs(channel)

        async def work() -> None:
            for number in waiting:
                await seeds.make_node(agent.node_id(number), number)

        await asyncio.gather(*(work() for _ in range(NODES_AT_ONCE)))


class _Stubs:
    # Any: the types of asyncio stubs exist for the type checker only.
    def __init__(self, channel: aio.Channel) -> None:
        self.nodes: Any = NodeServiceStub(channel)
        self.cgroups: Any = CgroupServiceStub(channel)
        self.processes: Any = ProcessServiceStub(channel)
        self.bpf: Any = BpfServiceStub(channel)

    async def make_node(self, node_id: str, seed: int) -> None:
        spec = node_service_pb2.NodeSpec(
            profile="6.12", ram_bytes=8 << 30, possible_cpus=4, seed=seed
        )
        await self.nodes.CreateNode(node_service_pb2.CreateNodeRequest(node=node_id, spec=spec))
        name = node_name(node_id)
        for path in GROUPS:
            await self.cgroups.CreateCgroup(
                cgroup_service_pb2.CreateCgroupRequest(node=name, path=path)
            )
        pids = [await self._spawn(name, path) for path in GROUPS[1:]]
        calls = [
            bpf.Syscall(pid=pids[number % len(pids)], create_map=_map(number))
            for number in range(10)
        ]
        await self.execute(name, pids[0], calls)

    async def _spawn(self, name: str, path: str) -> int:
        answer = await self.processes.CreateProcess(
            process_service_pb2.CreateProcessRequest(node=name, cgroup=path, comm="agent")
        )
        return int(answer.process.pid)

    async def execute(self, name: str, pid: int, calls: list[bpf.Syscall]) -> None:
        request = bpf.ExecuteSyscallsRequest(
            caller=bpf_pb2.Caller(node=name, pid=pid), syscalls=calls
        )
        stream = self.bpf.ExecuteSyscalls(iter([request]))
        async for answer in stream:
            failed = [result for result in answer.results if result.errno]
            assert not failed, failed[0]


def _map(number: int) -> bpf_pb2.MapSpec:
    kind, key, value, entries = MAPS[number % len(MAPS)]
    return bpf_pb2.MapSpec(
        map_type=kind,
        key_size_bytes=key,
        value_size_bytes=value,
        max_entries=entries,
        map_name=f"map_{number}",
    )


async def _compare(few: AgentProcess, many: AgentProcess, nodes: int) -> tuple[float, float]:
    """CPU seconds of one call in each agent, in turns so that both meet the same machine."""
    used = [0.0, 0.0]
    async with aio.insecure_channel(few.target) as one, aio.insecure_channel(many.target) as other:
        for agent, channel, count in ((few, one, FEW), (many, other, nodes)):
            for number in range(count):  # wakes all
                await _call(_Stubs(channel), agent, number, count, messages=1)
        for turn in range(ROUNDS):
            for at, (agent, channel, count) in enumerate(((few, one, FEW), (many, other, nodes))):
                before = agent.cpu_seconds()
                start = turn * MESSAGES_A_ROUND
                await _call(_Stubs(channel), agent, start, count, messages=MESSAGES_A_ROUND)
                used[at] += agent.cpu_seconds() - before
    calls = ROUNDS * MESSAGES_A_ROUND * CALLS_A_MESSAGE
    return used[0] / calls, used[1] / calls


async def _call(
    stubs: _Stubs, agent: AgentProcess, start: int, nodes: int, *, messages: int
) -> None:
    """Messages of updates of the hash map of one node after the other, far apart from each other."""
    calls = [
        bpf.Syscall(
            update_element=bpf.UpdateElementOperation(
                fd=3, key=number.to_bytes(4, "little"), value=bytes(8)
            )
        )
        for number in range(CALLS_A_MESSAGE)
    ]

    # The first process of a node has the number 100, its first map descriptor 3.
    for number in range(start, start + messages):
        await stubs.execute(node_name(agent.node_id(number * 7919 % nodes)), 100, calls)
