"""The whole system from docker-compose.yml: healthy, loaded, gone without a trace."""

import json
import os

import pytest
from docker_runs import leftovers, run
from redis_server import free_port

PROJECT = f"bpfleet-test-{os.getpid()}"
MODELS = {"5.10", "seed-v5", "5.11", "6.12", "6.12:nobpf"}

pytestmark = [pytest.mark.e2e, pytest.mark.docker, pytest.mark.slow]


@pytest.fixture(scope="module")
def compose(image):
    """Runs ``docker compose`` on a cluster that is up."""
    settings = {
        "BPFLEET_IMAGE": image,
        "BPFLEET_NODES_PER_AGENT": "20",
        "BPFLEET_WEB_PORT": str(free_port()),
        "BPFLEET_API_PORT": str(free_port()),
    }

    def command(*arguments: str, seconds: float = 120) -> str:
        return run("docker", "compose", "-p", PROJECT, *arguments, seconds=seconds, env=settings)

    try:
        command("up", "-d", "--wait", "--no-build", seconds=180)
        yield command
    finally:
        command("down", "-v", "--timeout", "5")
    assert leftovers(f"com.docker.compose.project={PROJECT}") == set()


def test_every_service_is_healthy_and_runs_as_somebody_else_than_root(compose) -> None:
    rows = [json.loads(line) for line in compose("ps", "--format", "json").splitlines()]
    assert len(rows) == 9
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


def test_the_root_file_system_cannot_be_written_and_holds_no_compiler(compose) -> None:
    script = "! touch /srv/x 2>/dev/null && touch /tmp/x && ! command -v cc gcc make pip-compile"
    compose("exec", "-T", "coordinator", "sh", "-c", script)
