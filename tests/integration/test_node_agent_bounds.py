"""What one request may make an agent take: turns of its event loop, and memory of the machine."""

import asyncio

import grpc
import pytest
from node_agents import connected, settings

from bpfleet.client.session import CallError, Verdict
from bpfleet.node_agent.agent import Agent
from bpfleet.node_agent.budget import Budget, measured_bytes
from bpfleet.node_agent.node import NodeBoot
from bpfleet.node_agent.process_service import ProcessServicer
from bpfleet.node_agent.server import NodeAgent
from bpfleet.rpc.errors import ApiError
from bpfleet.v1 import bpf_pb2, bpf_service_pb2, node_service_pb2, process_service_pb2

UPDATE = bpf_pb2.ProgramOperation.KIND_UPDATE
LOOKUP = bpf_pb2.ProgramOperation.KIND_LOOKUP
HUGE = {"ram_bytes": 1 << 44}


def _run(client, process, fd, times):
    request = bpf_service_pb2.RunProgramRequest(caller=process.caller, fd=fd, repeat_count=times)
    return client.session.call(client.bpf.RunProgram, request)


@pytest.mark.parametrize("kind", ["array", "percpu_array", "stack_trace", "devmap", "hash"])
def test_a_program_with_a_key_of_another_length_is_refused_and_the_node_lives(kind):
    with connected(nodes=1) as (_, client):
        process = client.node("a1-00001").create_process()
        value_size = 8 if kind in ("stack_trace", "array", "percpu_array", "hash") else 4
        found = process.create_map(kind, key_size=4, value_size=value_size, max_entries=4)
        for key in (b"\xff" * 1786, bytes(8), b""):
            operation = bpf_pb2.ProgramOperation(kind=LOOKUP, key=key)
            loaded = process.load_program("socket_filter", 2, maps=[found], operations=[operation])
            with pytest.raises(Verdict) as caught:
                _run(client, process, loaded.fd, 1)
            assert caught.value.errno.name == "EINVAL"
        assert client.node("a1-00001").info().status.crash_message == ""


def test_runs_of_a_program_take_no_more_real_memory_than_the_node_may_hold():
    with connected(nodes=1, possible_cpus=1024, **HUGE) as (agent, client):
        process = client.node("a1-00001").create_process(memlock_bytes=1 << 50)
        flows = process.create_map("percpu_hash", key_size=4, value_size=8192, max_entries=1 << 16)
        update = bpf_pb2.ProgramOperation(kind=UPDATE)
        loaded = process.load_program("xdp", 2, maps=[flows], operations=[update])
        with pytest.raises(CallError) as caught:
            _run(client, process, loaded.fd, 300)
        assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.reason == "REAL_MEMORY_EXHAUSTED"
        for _ in range(3):
            _run(client, process, loaded.fd, 8)
        with pytest.raises(CallError, match="may hold"):
            _run(client, process, loaded.fd, 8)
        budget = agent.node_agent.settings.node_memory_budget_bytes
        assert agent.inside(lambda a: a.agent.find("a1-00001").held_bytes) <= budget
        flows.close()
        process.kill()
        heir = client.node("a1-00001").create_process(memlock_bytes=1 << 50)
        client.node("a1-00001").advance(10**10)
        assert heir.create_map("hash", key_size=4, value_size=8, max_entries=8)


def test_what_was_freed_is_given_back_to_the_budget():
    with connected(nodes=1, node_memory_budget_bytes=4 << 20) as (agent, client):
        process = client.node("a1-00001").create_process(memlock_bytes=1 << 40)
        flows = process.create_map("hash", key_size=4, value_size=64 << 10, max_entries=64)
        for _ in range(200):  # three times the budget, one element at a time
            flows.update(bytes(4), bytes(64 << 10))
            flows.delete(bytes(4))
        held = agent.inside(lambda a: a.agent.find("a1-00001").held_bytes)
        assert held <= 4 << 20


def test_an_agent_takes_no_more_nodes_than_its_memory_holds():
    budget = Budget(agent_bytes=5 << 19, node_bytes=5 << 19)
    agent = Agent("a1", call_ns=1, budget=budget)
    shape = NodeBoot(
        profile=settings().shape.profile, ram_bytes=1 << 30, possible_cpus=4096, seed=0
    )
    agent.create("n0", shape)
    agent.create("n1", shape)
    with pytest.raises(ApiError) as caught:
        agent.create("n2", shape)
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    agent.delete("n0")
    agent.create("again", shape)
    assert budget.held_bytes == sum(measured_bytes(node.wake()) for node in agent.all())


def test_a_pin_deep_in_directories_is_refused():
    with connected(nodes=1) as (_, client):
        process = client.node("a1-00001").create_process()
        flows = process.create_map("hash", key_size=4, value_size=8, max_entries=4)
        with pytest.raises(CallError, match="directories deep"):
            flows.pin("a/" * 2000 + "x")


def test_while_memory_is_allocated_others_get_their_turn():
    """2 TiB are 32 slices, and between them somebody else counts."""

    async def story():
        chosen = settings(nodes=1, **HUGE)
        agent = NodeAgent(chosen)
        await agent.start()
        servicer = ProcessServicer(agent.agent)
        node = agent.agent.find("a1-00001")
        with node.guard() as kernel:
            pid = kernel.spawn(cgroup="/").pid
        turns = 0

        async def count():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        request = process_service_pb2.AllocateMemoryRequest(
            caller=bpf_pb2.Caller(node="a1-00001", pid=pid), size_bytes=2 << 40
        )
        await servicer.AllocateMemory(request, None)
        counting.cancel()
        pages = node.wake().task(pid).mm.rss_pages
        await agent.stop()
        return turns, pages

    turns, pages = asyncio.run(story())
    assert turns >= 31
    assert pages == (2 << 40) // 4096


def test_a_stream_allocates_in_small_steps_only():
    with connected(nodes=1, **HUGE) as (_, client):
        process = client.node("a1-00001").create_process()
        touch = bpf_service_pb2.Syscall(
            allocate_memory=bpf_service_pb2.MemoryOperation(size_bytes=1 << 44)
        )
        request = bpf_service_pb2.ExecuteSyscallsRequest(caller=process.caller, syscalls=[touch])
        (answer,) = client.bpf.ExecuteSyscalls(iter([request]), timeout=20)
        assert answer.results[0].reason == "BAD_REQUEST"


def test_a_profile_whose_keys_nest_without_end_is_refused_before_it_is_read():
    with connected(nodes=0) as (_, client):
        spec = node_service_pb2.NodeSpec(
            profile_file="a" + ".a" * 30_000 + "=1", ram_bytes=1 << 30, possible_cpus=1
        )
        request = node_service_pb2.CreateNodeRequest(node="n1", spec=spec)
        with pytest.raises(CallError, match="nests deeper"):
            client.session.call(client.nodes.CreateNode, request)
