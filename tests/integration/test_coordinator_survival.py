"""kill -9 of coordinators and of Redis: nothing acknowledged is lost, nothing runs twice."""

import asyncio
from collections.abc import Callable, Coroutine

import grpc
import pytest
from coordinator_process import CoordinatorProcess, Fleet, until
from grpc import aio
from obedient_agent import GIB, ObedientAgent, nodes_named
from redis_server import RedisServer, needs_redis

from bpfleet.rpc.errors import decode_rpc_error
from bpfleet.v1 import fleet_service_pb2 as pb
from bpfleet.v1 import workload_pb2

pytestmark = [pytest.mark.redis, pytest.mark.slow, needs_redis]

ARGUMENTS = ("--lease", "3", "--leader-ttl", "1.5")


def run(body: Callable[[], Coroutine[object, object, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(90):
            await body()

    asyncio.run(main())


def workload(name: str, replicas: int = 2) -> pb.CreateWorkloadRequest:
    return pb.CreateWorkloadRequest(
        request_id=f"create-{name}",
        spec=workload_pb2.WorkloadSpec(
            name=name,
            replicas=replicas,
            memory_request_bytes=GIB // 10,
            inventory=workload_pb2.Inventory(name="app"),
        ),
    )


async def create_until(fleet: Fleet, acknowledged: list[str], stop: asyncio.Event) -> None:
    """A client that retries with the same request id, as clients should."""
    number = 0
    while not stop.is_set():
        name = f"w{number}"
        await fleet.call("CreateWorkload", workload(name))
        acknowledged.append(name)
        number += 1


async def everything_runs(fleet: Fleet, agent: ObedientAgent, names: list[str]) -> bool:
    """Every workload exists with both replicas running, and the agent runs exactly those."""
    expected = set()
    for name in names:
        answer = await fleet.call("GetWorkload", pb.GetWorkloadRequest(name=name))
        if answer.workload.status.running_count != 2:
            return False
        expected |= {(r.node, r.replica) for r in answer.workload.replicas}
    status = await fleet.call("GetFleetStatus", pb.GetFleetStatusRequest())
    return expected == set(agent.running) and status.workload_count == len(names)


def test_acknowledged_commands_survive_kill_9_of_the_only_coordinator(tmp_path):
    async def body() -> None:
        with RedisServer(tmp_path) as redis:
            coordinator = CoordinatorProcess(tmp_path, "--redis", redis.url, *ARGUMENTS)
            coordinator.start()
            agent = ObedientAgent("a", nodes_named(["n1", "n2"]), [coordinator.target])
            await agent.start()
            fleet = Fleet(coordinator.target)
            acknowledged: list[str] = []
            stop = asyncio.Event()
            try:
                await until(lambda: _is_registered(agent))
                await fleet.call("LabelNode", pb.LabelNodeRequest(name="n1", labels={"tier": "x"}))
                client = asyncio.create_task(create_until(fleet, acknowledged, stop))
                for target in (10, 20):
                    await until(lambda t=target: _at_least(acknowledged, t))
                    coordinator.kill()
                    coordinator.start()
                await until(lambda: _at_least(acknowledged, 30))
                stop.set()
                await client
                await until(lambda: everything_runs(fleet, agent, acknowledged))
                assert agent.registrations == 1, "a lease outlives its coordinator"
                answer = await fleet.call("GetFleetNode", pb.GetFleetNodeRequest(name="n1"))
                assert dict(answer.node.labels) == {"tier": "x"}
            finally:
                await fleet.close()
                await agent.stop()
                coordinator.kill()

    run(body)


def test_a_standby_takes_over_without_losing_or_doubling_anything(tmp_path):
    async def body() -> None:
        with RedisServer(tmp_path) as redis:
            pair = [
                CoordinatorProcess(tmp_path, "--redis", redis.url, *ARGUMENTS) for _ in range(2)
            ]
            targets = [coordinator.target for coordinator in pair]
            pair[0].start()
            fleet = Fleet(*targets)
            await fleet.call("GetFleetStatus", pb.GetFleetStatusRequest())
            pair[1].start()
            agent = ObedientAgent("a", nodes_named(["n1", "n2", "n3"]), targets)
            await agent.start()
            standby = Fleet(targets[1])
            acknowledged: list[str] = []
            stop = asyncio.Event()
            try:
                refusal = await until(lambda: _refusal(standby))
                assert refusal.reason == "NOT_LEADER"
                assert refusal.metadata["leader"].startswith(targets[0])
                client = asyncio.create_task(create_until(fleet, acknowledged, stop))
                await until(lambda: _at_least(acknowledged, 15))
                pair[0].kill()
                goal = len(acknowledged) + 10
                await until(lambda: _at_least(acknowledged, goal))
                stop.set()
                await client
                await until(lambda: everything_runs(fleet, agent, acknowledged))
                status = await fleet.call("GetFleetStatus", pb.GetFleetStatusRequest())
                assert status.leader_epoch == 2
            finally:
                await fleet.close()
                await standby.close()
                await agent.stop()
                for coordinator in pair:
                    coordinator.kill()

    run(body)


def test_without_redis_reads_work_and_writes_change_nothing(tmp_path):
    async def body() -> None:
        with RedisServer(tmp_path) as redis:
            coordinator = CoordinatorProcess(tmp_path, "--redis", redis.url, *ARGUMENTS)
            coordinator.start()
            agent = ObedientAgent("a", nodes_named(["n1", "n2"]), [coordinator.target])
            await agent.start()
            fleet = Fleet(coordinator.target)
            try:
                await fleet.call("CreateWorkload", workload("before"))
                await until(lambda: everything_runs(fleet, agent, ["before"]))
                redis.kill()
                with pytest.raises(aio.AioRpcError) as failure:
                    await fleet.first.CreateWorkload(workload("during"), timeout=60)
                told = decode_rpc_error(failure.value)
                assert told.code is grpc.StatusCode.UNAVAILABLE
                assert told.reason == "STORE_UNAVAILABLE"
                assert int(told.metadata["retryAfterMs"]) > 0
                status = await fleet.first.GetFleetStatus(pb.GetFleetStatusRequest(), timeout=60)
                assert not status.store_available
                assert status.workload_count == 1
                got = await fleet.first.GetWorkload(
                    pb.GetWorkloadRequest(name="before"), timeout=60
                )
                assert got.workload.status.running_count == 2
                assert len(agent.running) == 2, "agents keep their nodes running"
                redis.start()
                await fleet.call("CreateWorkload", workload("after"))
                await until(lambda: everything_runs(fleet, agent, ["before", "after"]))
                assert agent.registrations == 1
            finally:
                await fleet.close()
                await agent.stop()
                coordinator.kill()

    run(body)


def test_what_was_acknowledged_survives_kill_9_of_redis_and_coordinator_together(tmp_path):
    async def body() -> None:
        with RedisServer(tmp_path) as redis:
            coordinator = CoordinatorProcess(tmp_path, "--redis", redis.url, *ARGUMENTS)
            coordinator.start()
            agent = ObedientAgent("a", nodes_named(["n1", "n2"]), [coordinator.target])
            await agent.start()
            fleet = Fleet(coordinator.target)
            acknowledged: list[str] = []
            stop = asyncio.Event()
            try:
                client = asyncio.create_task(create_until(fleet, acknowledged, stop))
                await until(lambda: _at_least(acknowledged, 15))
                redis.kill()
                coordinator.kill()
                redis.start()
                coordinator.start()
                goal = len(acknowledged) + 10
                await until(lambda: _at_least(acknowledged, goal))
                stop.set()
                await client
                await until(lambda: everything_runs(fleet, agent, acknowledged))
            finally:
                await fleet.close()
                await agent.stop()
                coordinator.kill()

    run(body)


async def _is_registered(agent: ObedientAgent) -> bool:
    return agent.registrations > 0


async def _at_least(names: list[str], count: int) -> bool:
    return len(names) >= count


async def _refusal(fleet: Fleet):
    try:
        await fleet.first.GetFleetStatus(pb.GetFleetStatusRequest(), timeout=60)
    except aio.AioRpcError as error:
        told = decode_rpc_error(error)
        return told if told.metadata.get("leader") else None
    return None


def test_a_leader_that_wakes_up_denies_nothing_that_another_acknowledged(tmp_path):
    async def body() -> None:
        with RedisServer(tmp_path) as redis:
            processes = [
                CoordinatorProcess(tmp_path, "--redis", redis.url, *ARGUMENTS) for _ in range(2)
            ]
            for process in processes:
                process.start()
            both = Fleet(*(process.target for process in processes))
            alone = [Fleet(process.target) for process in processes]
            try:
                for round_ in range(4):
                    await both.call("CreateWorkload", workload(f"before-{round_}"))
                    leader = await until(lambda: _leader(alone))
                    sleeper, other = processes[leader], alone[1 - leader]
                    sleeper.pause()
                    name = f"while-asleep-{round_}"
                    await other.call("CreateWorkload", workload(name))
                    asked = pb.GetWorkloadRequest(name=name)
                    queued = [
                        asyncio.ensure_future(alone[leader].first.GetWorkload(asked, timeout=20))
                        for _ in range(5)
                    ]
                    await asyncio.sleep(0)
                    sleeper.resume()
                    answers = await asyncio.gather(*queued, return_exceptions=True)
                    for answer in answers:
                        if isinstance(answer, aio.AioRpcError):
                            told = decode_rpc_error(answer)
                            assert told.code is grpc.StatusCode.UNAVAILABLE, told
                        else:
                            assert answer.workload.name == f"workloads/{name}"
            finally:
                for fleet in (both, *alone):
                    await fleet.close()
                for process in processes:
                    process.resume()
                    process.kill()

    run(body)


async def _leader(alone: list[Fleet]) -> int | None:
    """Which of them leads; 0 counts as an answer by its place in a list."""
    for number, fleet in enumerate(alone):
        try:
            await fleet.first.GetFleetStatus(pb.GetFleetStatusRequest(), timeout=5)
        except aio.AioRpcError:
            continue
        return _Place(number)
    return None


class _Place(int):
    """A number that is true."""

    def __bool__(self) -> bool:
        return True
