"""Compose files, the Swarm stack, the dashboard: what they promise, read as data."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
MODELS = {"5.10", "seed-v5", "5.11", "6.12", "6.12:nobpf"}

needs_compose = pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(
        ["docker", "compose", "version"], capture_output=True, check=False
    ).returncode,
    reason="no docker compose to read the files with",
)


def _composed(*files: str) -> dict:
    """The merged files as compose understands them; no engine is asked."""
    arguments = [part for file in files for part in ("-f", file)]
    command = ["docker", "compose", *arguments, "--profile", "*", "config", "--format", "json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def compose() -> dict:
    return _composed("docker-compose.yml")


@needs_compose
def test_compose_runs_one_agent_per_model(compose) -> None:
    profiles = [
        service["environment"]["BPFLEET_KERNEL"]
        for name, service in compose["services"].items()
        if name.startswith("agent-")
    ]
    assert len(profiles) == len(MODELS)
    assert set(profiles) == MODELS


@needs_compose
@pytest.mark.parametrize(
    "files",
    [
        ("docker-compose.yml",),
        ("docker-compose.yml", "deploy/compose.scale.yml"),
        ("docker-compose.yml", "deploy/compose.standby.yml"),
        ("docker-compose.yml", "deploy/compose.observability.yml"),
    ],
    ids=["alone", "scale", "standby", "observability"],
)
def test_every_container_is_confined_and_says_how_it_is(files) -> None:
    for name, service in _composed(*files)["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("user") != "root", name
        image_has_one = "healthcheck" not in service and service["image"].startswith("bpfleet")
        assert image_has_one or not service["healthcheck"].get("disable"), name
        assert not service.get("privileged"), name
        assert service["pids_limit"], name
        assert service["mem_limit"], name


@needs_compose
def test_nobody_but_coordinators_reaches_redis() -> None:
    composed = _composed("docker-compose.yml", "deploy/compose.standby.yml")
    stack = yaml.safe_load((DEPLOY / "swarm" / "stack.yml").read_text())
    for services in (composed["services"], stack["services"]):
        there = {n for n, service in services.items() if "store" in service.get("networks", ())}
        assert there - {"coordinator-2"} == {"redis", "coordinator"}
        assert list(services["redis"]["networks"]) == ["store"]
    assert composed["networks"]["store"]["internal"] is True


@needs_compose
def test_only_the_pages_and_the_coordinator_are_published_and_on_loopback_alone(compose) -> None:
    published = {
        (name, port["host_ip"], port["published"])
        for name, service in compose["services"].items()
        for port in service.get("ports", ())
    }
    assert published == {
        ("coordinator", "127.0.0.1", "7070"),
        ("coordinator", "127.0.0.1", "8080"),
        ("locust", "127.0.0.1", "8089"),
    }


@needs_compose
def test_with_a_standby_everybody_knows_both_coordinators() -> None:
    services = _composed("docker-compose.yml", "deploy/compose.standby.yml")["services"]
    clients = {name for name in services if name not in ("redis", "coordinator", "coordinator-2")}
    for name in clients:
        known = services[name]["environment"]["BPFLEET_COORDINATOR"]
        assert known == "coordinator:7070,coordinator-2:7070", name
    first, second = services["coordinator"], services["coordinator-2"]
    assert second["environment"] == {
        **first["environment"],
        "BPFLEET_ADVERTISE": "coordinator-2:7070",
    }
    assert {port["host_ip"] for port in second["ports"]} == {"127.0.0.1"}


@needs_compose
def test_the_public_images_are_the_default_and_the_environment_decides(monkeypatch) -> None:
    for name in ("PYTHON_IMAGE", "REDIS_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    services = _composed("docker-compose.yml")["services"]
    assert services["redis"]["image"] == "redis:7"
    assert services["coordinator"]["build"]["args"]["PYTHON_IMAGE"] == "python:3.11-slim"
    monkeypatch.setenv("REDIS_IMAGE", "mirror/redis:7")
    assert _composed("docker-compose.yml")["services"]["redis"]["image"] == "mirror/redis:7"


@needs_compose
def test_scaled_agents_are_named_after_their_containers(monkeypatch) -> None:
    monkeypatch.setenv("BPFLEET_AGENTS_PER_MODEL", "3")
    services = _composed("docker-compose.yml", "deploy/compose.scale.yml")["services"]
    agents = [service for name, service in services.items() if name.startswith("agent-")]
    assert len(agents) == len(MODELS)
    for agent in agents:
        assert agent["deploy"]["replicas"] == 3
        assert "$$(hostname)" in agent["entrypoint"][-1]


def test_the_stack_keeps_secrets_in_secrets_and_updates_coordinators_one_by_one() -> None:
    stack = yaml.safe_load((DEPLOY / "swarm" / "stack.yml").read_text())
    coordinator = stack["services"]["coordinator"]
    update = coordinator["deploy"]["update_config"]
    assert coordinator["deploy"]["replicas"] == 2
    assert (update["parallelism"], update["order"]) == (1, "start-first")
    assert update["failure_action"] == "rollback"
    assert all(secret["external"] for secret in stack["secrets"].values())
    profiles = {
        service["environment"]["BPFLEET_KERNEL"]
        for name, service in stack["services"].items()
        if name.startswith("agent-")
    }
    assert profiles == MODELS
    for name, service in stack["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "ports" not in service, "swarm publishes on every address of a host"
        for variable, value in service.get("environment", {}).items():
            assert "PASSWORD" not in variable or value.startswith("/run/secrets/")


def test_in_the_stack_each_part_has_the_token_of_its_role_and_no_other() -> None:
    stack = yaml.safe_load((DEPLOY / "swarm" / "stack.yml").read_text())
    tokens = {
        name: {each["source"] for each in service["secrets"] if each["source"].endswith("-token")}
        for name, service in stack["services"].items()
    }
    given = {"operator-token", "user-token", "agent-token"}
    assert {name: held for name, held in tokens.items() if not name.startswith("agent-")} == {
        "redis": set(),
        "coordinator": given,
        "locust": {"user-token"},
        "locust-worker": {"user-token"},
    }
    agents = [held for name, held in tokens.items() if name.startswith("agent-")]
    assert agents == [given - {"operator-token"}] * 5
    for name, service in stack["services"].items():
        files = [v for k, v in service.get("environment", {}).items() if k.endswith("TOKEN_FILE")]
        assert {Path(file).name for file in files} == tokens[name], name
    script = (DEPLOY / "swarm" / "secrets.sh").read_text()
    assert 'roles="operator user agent"' in script


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "fleet.json").read_text())
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        taken = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        cells |= taken


@needs_compose
def test_prometheus_asks_every_service_of_compose_that_serves_metrics() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    asked = {
        name
        for job in config["scrape_configs"]
        for discovery in job["dns_sd_configs"]
        for name in discovery["names"]
    }
    reached: set[str] = set()
    for name, service in _composed("docker-compose.yml", "deploy/compose.standby.yml")[
        "services"
    ].items():
        if "BPFLEET_METRICS" in service.get("environment", {}):
            aliases = (service["networks"]["fleet"] or {}).get("aliases", [])
            assert asked & {name, *aliases}, name
            reached |= {name, *aliases}
    assert asked <= reached


def test_the_lock_file_holds_every_dependency_at_or_above_its_floor() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    own = (each for name in ("fleet", "docker", "load", "otel") for each in extras[name])
    wanted = [*project["dependencies"], *(each for each in own if not each.startswith("bpfleet["))]
    locked = dict(re.findall(r"^([A-Za-z0-9_.-]+)==([\w.]+)", _lock(), re.MULTILINE))
    for requirement in map(Requirement, wanted):
        assert requirement.name in locked, f"{requirement}: run the command at the lock file's head"
        assert requirement.specifier.contains(locked[requirement.name]), requirement


def _lock() -> str:
    return (DEPLOY / "requirements.lock").read_text()


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-build.lock"])
def test_every_locked_requirement_is_pinned_and_hashed(name) -> None:
    text = (DEPLOY / name).read_text()
    entries = re.split(r"\n(?=[A-Za-z0-9])", "\n".join(_without_comments(text)))
    assert len(entries) > 3
    for entry in entries:
        assert re.match(r"[A-Za-z0-9_.-]+==[\w.]+", entry), entry
        assert "--hash=sha256:" in entry, entry


def _without_comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]
