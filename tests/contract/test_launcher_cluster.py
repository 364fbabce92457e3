"""Whole clusters as processes: up, up again, scale, chaos, down, and what a failure leaves behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace

import pytest

from bpfleet.client.fleet import FleetClient
from bpfleet.client.session import Session
from bpfleet.launcher.chaos.plan import parse_plan
from bpfleet.launcher.chaos.run import run_chaos
from bpfleet.launcher.cluster import down, find, ps, scale, up
from bpfleet.launcher.engine import InstanceState
from bpfleet.launcher.errors import LaunchError
from bpfleet.launcher.process import ProcessEngine
from bpfleet.launcher.spec import ClusterSpec, Role

PORTS = 16  # a coordinator, a standby, Redis, Locust and the agents

pytestmark = [
    pytest.mark.slow,
    pytest.mark.redis,
    pytest.mark.skipif(not shutil.which("redis-server"), reason="no redis-server on the PATH"),
]


def _free_ports() -> int:
    """The first of a run of free ports."""
    for first in range(10_000 + os.getpid() % 5_000, 16_000, PORTS):
        if all(_is_free(port) for port in range(first, first + PORTS)):
            return first
    pytest.skip("no run of free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as trial:
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


SMALL = ClusterSpec(
    name="lab", agents=2, nodes_per_agent=3, models=("5.10", "6.12"), workers=0, node_ram="1G"
)


@pytest.fixture
def engine(tmp_path):
    engine = ProcessEngine(tmp_path)
    yield engine
    down(engine, "lab")


@pytest.fixture
def spec() -> ClusterSpec:
    return replace(SMALL, api_port=_free_ports())


def test_a_cluster_comes_up_changes_only_what_differs_and_goes(engine, spec, tmp_path) -> None:
    first = up(engine, spec)
    assert len(first.started) == 4
    with Session(f"127.0.0.1:{spec.api_port}") as session:
        assert FleetClient(session).status().node_count == 6
    assert up(engine, spec).is_empty
    before = {each.name: each.detail for each in ps(engine, "lab")}
    changed = up(engine, replace(spec, models=("5.10", "6.1")))
    assert changed.replaced == ["lab-agent-1"]
    after = {each.name: each.detail for each in ps(engine, "lab")}
    assert {name for name in after if after[name] != before[name]} == {"lab-agent-1"}
    assert len(down(engine, "lab")) == 4
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LaunchError, match="no cluster named 'lab' runs here"):
        ps(engine, "lab")


def test_the_workers_of_the_load_are_there_when_up_returns(engine, spec) -> None:
    up(engine, replace(spec, agents=1, workers=2, web_port=spec.api_port + PORTS - 1))
    page = find(ps(engine, "lab"), "load-0").address
    with urllib.request.urlopen(f"http://{page}/stats/requests") as answer:
        assert len(json.load(answer)["workers"]) == 2


def test_scaling_adds_and_removes_agents_alone(engine, spec) -> None:
    up(engine, spec)
    assert scale(engine, "lab", 3).started == ["lab-agent-2"]
    shrunk = scale(engine, "lab", 1)
    assert sorted(shrunk.removed) == ["lab-agent-1", "lab-agent-2"]
    assert [each.role for each in ps(engine, "lab")].count(Role.AGENT) == 1


def test_what_died_is_started_again_by_the_next_up(engine, spec) -> None:
    up(engine, spec)
    engine.kill("lab", "lab-agent-0")
    assert find(ps(engine, "lab"), "agent-0").state is InstanceState.EXITED
    assert up(engine, spec).replaced == ["lab-agent-0"]


def test_a_failed_up_leaves_nothing_behind(engine, spec, tmp_path) -> None:
    with pytest.raises(LaunchError, match=r"lab-agent-0 ended with status 2.*nearest is 5\.4"):
        up(engine, replace(spec, agents=1, models=("4.19",)))
    assert engine.instances("lab") == []
    assert list(tmp_path.iterdir()) == []


def test_a_failed_change_keeps_what_ran(engine, spec) -> None:
    up(engine, spec)
    with pytest.raises(LaunchError):
        up(engine, replace(spec, agents=3, models=("5.10", "6.12", "4.19")))
    assert {each.state for each in ps(engine, "lab")} == {InstanceState.READY}
    assert len(ps(engine, "lab")) == 4


def test_a_port_that_is_taken_is_named(engine, spec) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", spec.api_port))
        taken.listen()
        with pytest.raises(LaunchError, match=f"port {spec.api_port} .* is taken: choose others"):
            up(engine, spec)
    assert engine.instances("lab") == []


def test_an_interrupted_up_cleans_up(tmp_path, spec) -> None:
    command = [sys.executable, "-m", "bpfleet.cli.main", "up", "--local", "--name", "lab"]
    command += ["--agents", "2", "--nodes-per-agent", "60000", "--workers", "0"]
    command += ["--api-port", str(spec.api_port)]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        folder = tmp_path / "bpfleet" / "lab"
        deadline = time.monotonic() + 240
        while not list(folder.glob("lab-agent-*.json")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert "Traceback" not in process.stderr.read()
    assert not folder.exists()


def test_chaos_over_two_coordinators_breaks_nothing(engine, spec) -> None:
    up(engine, replace(spec, coordinators=2))
    text = """
        seed = 5
        duration_seconds = 8
        settle_seconds = 40
        [[faults]]
        kind = "kill"
        role = "agent"
        at_seconds = [1]
        for_seconds = 1
        [[faults]]
        kind = "lose-leader"
        at_seconds = [2]
        for_seconds = 2
        [[faults]]
        kind = "slow-redis"
        at_seconds = [5]
        for_seconds = 1
        [[faults]]
        kind = "disconnect"
        role = "agent"
        at_seconds = [6]
        for_seconds = 1
    """
    report = run_chaos(engine, "lab", parse_plan(text, "chaos"))
    assert report.clean, report.checks
    assert dict(report.faults) == {"kill": 1, "lose-leader": 1, "slow-redis": 1}
    (skipped,) = report.skipped
    assert "processes share the network" in skipped
    assert report.told.writes > 5
    assert {each.state for each in ps(engine, "lab")} == {InstanceState.READY}


def test_limits_of_containers_are_refused_for_processes(engine) -> None:
    with pytest.raises(LaunchError, match="--memory and --cpus limit containers"):
        up(engine, replace(SMALL, memory_bytes=64 << 20))
