"""The whole system from the compose files, with two coordinators: healthy, loaded, one killed, gone without a trace."""

import json
import os
import subprocess
import sys
import time

import pytest
from docker_runs import leftovers, run
from redis_server import free_port

from bpfleet.client.fleet import FleetClient
from bpfleet.client.session import Session
from bpfleet.launcher.chaos.checks import Acknowledged, check_all
from bpfleet.launcher.survey import Survey, leading
from bpfleet.v1 import fleet_service_pb2, rlimit_pb2, workload_pb2

PROJECT = f"bpfleet-test-{os.getpid()}"
FILES = ("-f", "docker-compose.yml", "-f", "deploy/compose.standby.yml")
MODELS = {"5.10", "seed-v5", "5.11", "6.12", "6.12:nobpf"}
DEADLINE_SECONDS = 60.0

pytestmark = [pytest.mark.e2e, pytest.mark.docker, pytest.mark.slow]


@pytest.fixture(scope="module")
def ports():
    """Of both coordinators, on loopback: by the name of the service."""
    return {"coordinator": free_port(), "coordinator-2": free_port()}


@pytest.fixture(scope="module")
def compose(image, ports):
    """Runs ``docker compose`` on a cluster that is up."""
    settings = {
        "BPFLEET_IMAGE": image,
        "BPFLEET_NODES_PER_AGENT": "20",
        "BPFLEET_WEB_PORT": str(free_port()),
        "BPFLEET_API_PORT": str(ports["coordinator"]),
        "BPFLEET_LIVE_PORT": str(free_port()),
        "BPFLEET_STANDBY_API_PORT": str(ports["coordinator-2"]),
        "BPFLEET_STANDBY_LIVE_PORT": str(free_port()),
    }

    def command(*arguments: str, seconds: float = 120) -> str:
        return run(
            "docker", "compose", *FILES, "-p", PROJECT, *arguments, seconds=seconds, env=settings
        )

    try:
        command("up", "-d", "--wait", "--no-build", seconds=180)
        yield command
    finally:
        command("down", "-v", "--timeout", "5")
    assert leftovers(f"com.docker.compose.project={PROJECT}") == set()


def test_every_service_is_healthy_and_runs_as_somebody_else_than_root(compose) -> None:
    rows = [json.loads(line) for line in compose("ps", "--format", "json").splitlines()]
    assert len(rows) == 10
    for row in rows:
        assert row["Health"] == "healthy", row["Name"]
        user = run("docker", "exec", row["Name"], "id", "-u").strip()
        assert user != "0", row["Name"]


def test_a_headless_run_loads_every_model_without_a_transport_failure(compose) -> None:
    load = ("locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary")
    size = ("-u", "15", "-r", "15", "-t", "8s", "--outcomes", "/tmp/outcomes.json")
    show = "import pathlib; print(pathlib.Path('/tmp/outcomes.json').read_text())"
    compose("exec", "-T", "locust", *load, *size)
    data = json.loads(compose("exec", "-T", "locust", "python", "-c", show))
    rows = {row["model"]: row for row in data["models"]}
    assert set(rows) == MODELS
    assert all(row["calls"] > 0 for row in rows.values())
    assert sum(row["transport_failures"] for row in rows.values()) == 0


def test_the_root_file_system_cannot_be_written_and_holds_no_build_tools(compose) -> None:
    script = """
    ! touch /srv/x 2>/dev/null && touch /tmp/x || exit 1
    for tool in cc gcc ld make pip pip3; do ! command -v $tool || exit 1; done
    ! python -m pip --version && ! /usr/bin/env -i python3 -m pip --version
    """
    compose("exec", "-T", "coordinator", "sh", "-c", script)


def test_a_standby_ends_the_rollout_whose_leader_is_killed(compose, ports) -> None:
    by_target = {f"127.0.0.1:{port}": service for service, port in ports.items()}
    (leader,) = leading(list(by_target))
    (standby,) = set(by_target) - {leader}
    spec = workload_pb2.WorkloadSpec(
        name="web",
        application="bcc-execsnoop",
        replicas=40,
        memory_request_bytes=128 << 20,
        memory_limit_bytes=256 << 20,
        memlock=rlimit_pb2.RlimitValue(bytes=1 << 30),
    )
    with Session(leader) as session:
        fleet = FleetClient(session)
        fleet.create_workload(spec)
        _until(lambda: _status(fleet).running_count == 40)
        spec.memory_limit_bytes = 320 << 20
        fleet.update_workload(spec)
        _until(lambda: _status(fleet).updated_count >= 3)
        spec.name = "last"
        fleet.create_workload(spec)
        compose("kill", by_target[leader])
    _until(lambda: leading([standby]))
    with Session(standby) as session:
        fleet = FleetClient(session)
        assert _status(fleet).updated_count < 40, "the rollout was over before the leader died"
        _until(lambda: _status(fleet).updated_count == 40)
        _until(lambda: fleet.workload("last").status.running_count == 40)
    told = Acknowledged(replicas={"web": 40, "last": 40})
    text = ("exec", "-T", "locust", "python", "-m", "bpfleet.launcher.survey")
    survey = Survey.from_text(compose(*text, "coordinator:7070,coordinator-2:7070"))
    assert [check for check in check_all(survey, told) if not check.holds] == []


def _bpfleet(*arguments: str) -> str:
    return run(sys.executable, "-m", "bpfleet.cli.main", *arguments)


def test_the_host_sees_the_cluster_and_reaches_the_nodes_of_its_agents(compose, ports) -> None:
    rows = json.loads(_bpfleet("ps", "--name", PROJECT, "--json"))
    roles = [row["role"] for row in rows]
    assert {role: roles.count(role) for role in roles} == {
        "redis": 1,
        "coordinator": 2,
        "agent": 5,
        "load": 1,
        "load-worker": 1,
    }
    # One of the coordinators was killed by the test before, and leads no more.
    states = {role: {row["state"] for row in rows if row["role"] == role} for role in roles}
    assert states.pop("coordinator") >= {"ready"}
    assert all(found == {"ready"} for found in states.values()), states
    shown = {row["name"]: row["address"] for row in rows if row["state"] == "ready"}
    known = {f"{PROJECT}-{name}-1": f"127.0.0.1:{port}" for name, port in ports.items()}
    leading = shown.keys() & known.keys()
    assert leading
    assert all(shown[name] == known[name] for name in leading)
    assert "agent" in _bpfleet("logs", f"{PROJECT}-agent-v6-12-1", "--name", PROJECT)
    coordinators = ",".join(f"127.0.0.1:{port}" for port in ports.values())
    node = ("agent-v6-12-00001", "--coordinator", coordinators, "--json")
    assert json.loads(_bpfleet("node", "show", *node))["spec"]["profile"] == "6.12"
    assert isinstance(json.loads(_bpfleet("map", "list", *node)), list)
    assert any(c["path"] == "/" for c in json.loads(_bpfleet("cgroup", "list", *node)))


def test_the_launcher_leaves_the_cluster_of_compose_alone(compose) -> None:
    for command in (("scale", "2"), ("up", "--agents", "1", "--nodes-per-agent", "1")):
        done = subprocess.run(
            [sys.executable, "-m", "bpfleet.cli.main", *command, "--name", PROJECT],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode != 0
        assert "docker compose runs" in done.stderr, done.stderr


def _status(fleet: FleetClient) -> fleet_service_pb2.WorkloadStatus:
    return fleet.workload("web").status


def _until(condition) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS:g} s"
        time.sleep(0.02)
