"""Clusters on a real Docker Engine: up, up again, scale, chaos, down, and the real OOM killer."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from docker_runs import leftovers, run
from redis_server import free_port

from bpfleet.client.fleet import FleetClient
from bpfleet.client.session import CallError, Session
from bpfleet.launcher.chaos.checks import Acknowledged, check_all
from bpfleet.launcher.chaos.plan import parse_plan
from bpfleet.launcher.chaos.run import run_chaos
from bpfleet.launcher.cluster import down, ps, scale, up
from bpfleet.launcher.docker import LABEL, DockerEngine
from bpfleet.launcher.engine import InstanceState
from bpfleet.launcher.errors import LaunchError
from bpfleet.launcher.spec import ClusterSpec, Role
from bpfleet.launcher.survey import Survey, leading
from bpfleet.v1 import rlimit_pb2, workload_pb2

pytestmark = [pytest.mark.e2e, pytest.mark.docker, pytest.mark.slow]

CHAOS = """
seed = 2
duration_seconds = 14
settle_seconds = 60
[[faults]]
kind = "kill"
role = "agent"
at_seconds = [1]
for_seconds = 2
[[faults]]
kind = "disconnect"
role = "agent"
at_seconds = [2]
for_seconds = 4
[[faults]]
kind = "lose-leader"
at_seconds = [5]
for_seconds = 2
[[faults]]
kind = "fill-redis"
at_seconds = [9]
for_seconds = 2
"""

# An emulated OOM kill under agent 0, then a map under agent 1 that real memory cannot hold.
KILLS = """
import sys
from bpfleet.client.bpf import AgentClient
from bpfleet.client.session import CallError, Session, Verdict
node = AgentClient(Session(sys.argv[1])).node("agent-0-00001")
node.create_cgroup("/small", {"memory.max": "1M"})
try:
    node.create_process(cgroup="/small").allocate(4 << 20)
except Verdict:
    pass
print([event.WhichOneof("detail") for event in node.list_events()])
hungry = AgentClient(Session(sys.argv[2])).node("agent-1-00001").create_process()
values = hungry.create_map("hash", key_size=4, value_size=1 << 20, max_entries=1000)
try:
    for number in range(1000):
        values.update(number.to_bytes(4, "little"), b"x" * (1 << 20))
except CallError as error:
    print(error.code.name)
"""


@pytest.fixture
def engine(image):
    engine = DockerEngine()
    yield engine
    engine.close()


@pytest.fixture
def spec(image, engine):
    spec = ClusterSpec(
        name=f"test-{os.getpid()}",
        agents=2,
        nodes_per_agent=5,
        models=("5.10", "6.12"),
        coordinators=2,
        workers=0,
        image=image,
        redis_image=os.environ.get("REDIS_IMAGE", "redis:7"),
        api_port=free_port() % 20_000 + 10_000,
    )
    yield spec
    down(engine, spec.name)
    assert leftovers(f"{LABEL}={spec.name}") == set()


def _until(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)


def _survey(engine: DockerEngine, spec: ClusterSpec) -> Survey:
    agent = next(each for each in engine.plan(spec) if each.role is Role.AGENT)
    module = ("bpfleet.launcher.survey", agent.environment["BPFLEET_COORDINATOR"])
    return Survey.from_text(engine.run_module(spec.name, agent, module))


def _web(name: str, replicas: int, memory_bytes: int = 32 << 20) -> workload_pb2.WorkloadSpec:
    return workload_pb2.WorkloadSpec(
        name=name,
        replicas=replicas,
        application="katran",
        memlock=rlimit_pb2.RlimitValue(unlimited=True),
        memory_request_bytes=memory_bytes,
    )


def _lose_the_leader_during_a_rollout(engine: DockerEngine, spec: ClusterSpec) -> None:
    """The other coordinator finishes what the killed one has begun."""
    places = {i.address: i.name for i in ps(engine, spec.name) if i.role is Role.COORDINATOR}
    (leader,) = leading(list(places))
    (other,) = set(places) - {leader}
    with Session(leader) as session:
        fleet = FleetClient(session)
        fleet.create_workload(_web("rolled", 8))
        _until(lambda: fleet.workload("rolled").status.running_count == 8, "8 replicas run")
        fleet.update_workload(_web("rolled", 8, memory_bytes=48 << 20))
        engine.kill(spec.name, places[leader])
    with Session(other) as session:
        fleet = FleetClient(session)

        def rolled_out() -> bool:
            try:
                status = fleet.workload("rolled").status
            except CallError:
                return False
            return status.updated_count == status.running_count == 8

        _until(rolled_out, "the rollout is done")
        engine.resume(spec.name, places[leader])
        told = Acknowledged(replicas={"rolled": 8})
        _until(lambda: all(c.holds for c in check_all(_survey(engine, spec), told)), "all is true")
        fleet.delete_workload("rolled")
    _until(
        lambda: {i.state for i in ps(engine, spec.name)} == {InstanceState.READY}, "all are ready"
    )


def test_a_cluster_comes_up_survives_a_lost_leader_and_chaos_and_goes(engine, spec) -> None:
    assert len(up(engine, spec).started) == 5
    assert up(engine, spec).is_empty
    assert scale(engine, spec.name, 3).started == [f"{spec.name}-agent-2"]
    _lose_the_leader_during_a_rollout(engine, spec)
    report = run_chaos(engine, spec.name, parse_plan(CHAOS, "chaos"))
    assert report.clean, report.checks
    assert report.faults.total() == 4
    assert report.skipped == []
    assert {each.state for each in ps(engine, spec.name)} == {InstanceState.READY}


def test_an_agent_the_real_kernel_kills_is_named_as_that_and_nothing_stays(engine, spec) -> None:
    hungry = replace(spec, agents=1, nodes_per_agent=60_000, coordinators=1, memory_bytes=44 << 20)
    with pytest.raises(LaunchError, match="killed by the real OOM killer of this machine"):
        up(engine, hungry)
    assert leftovers(f"{LABEL}={spec.name}") == set()


def test_nodes_of_an_agent_the_real_kernel_kills_are_lost_and_come_back_with_the_truth(
    engine, spec
) -> None:
    spec = replace(spec, coordinators=1, memory_bytes=96 << 20)
    up(engine, spec)
    victim = f"{spec.name}-agent-1"
    # So that it stays away until the lease is over.
    run("docker", "update", "--restart", "no", victim)
    with Session(f"127.0.0.1:{spec.api_port}") as session:
        fleet = FleetClient(session)

        def ready_nodes(agent: str) -> int:
            return sum(node.ready for node in fleet.list_nodes() if node.agent == agent)

        def all_run() -> bool:
            return fleet.workload("web").status.running_count == 10

        fleet.create_workload(_web("web", 10))
        _until(all_run, "10 replicas run")
        addresses = [f"{spec.name}-agent-{number}:7071" for number in (0, 1)]
        told = run(
            *("docker", "exec", f"{spec.name}-coordinator-0", "python", "-c", KILLS, *addresses)
        )
        assert "oom_kill" in told
        assert told.splitlines()[-1] == "UNAVAILABLE"

        _until(lambda: ready_nodes("agent-1") == 0, "nodes of the dead agent are not ready")
        assert ready_nodes("agent-0") == 5
        killed = {each.name: each for each in ps(engine, spec.name) if each.oom_killed}
        assert set(killed) == {victim}
        assert (killed[victim].state, killed[victim].exit_code) == (InstanceState.EXITED, 137)

        assert up(engine, spec).replaced == [victim]
        _until(lambda: ready_nodes("agent-1") == 5, "its nodes are back")
        _until(all_run, "10 replicas run again")
        told = Acknowledged(replicas={"web": 10})
        _until(lambda: all(c.holds for c in check_all(_survey(engine, spec), told)), "all is true")
    assert not [each.name for each in ps(engine, spec.name) if each.oom_killed]


def test_ctrl_c_during_up_leaves_nothing(image, spec) -> None:
    size = ("--agents", "2", "--workers", "0", "--api-port", str(spec.api_port))
    images = ("--image", image, "--redis-image", spec.redis_image)
    command = [sys.executable, "-m", "bpfleet.cli.main", "up", "--name", spec.name, *size, *images]
    label = f"{LABEL}={spec.name}"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        _until(lambda: f"{spec.name}-coordinator-0" in leftovers(label), "a coordinator is there")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode not in (0, -signal.SIGINT), output
    assert b"Traceback" not in output
    assert leftovers(label) == set()
