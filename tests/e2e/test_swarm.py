"""deploy/swarm/stack.yml on a swarm of one engine: mutual TLS, and an update under load that loses nothing."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from docker_runs import leftovers, run

from bpfleet.launcher.chaos.checks import Acknowledged, Check, check_all
from bpfleet.launcher.survey import Survey

pytestmark = [pytest.mark.e2e, pytest.mark.docker, pytest.mark.slow]

STACK = f"bpfleet-test-{os.getpid()}"
LABEL = f"com.docker.stack.namespace={STACK}"
NODES, REPLICAS, USERS = 20, 16, 5

# The stack as it is, but two agents instead of five, and an update that pauses for a second instead of five.
SMALLER = """
version: "3.8"
services:
  coordinator:
    healthcheck: {interval: 1s}
    deploy: {update_config: {delay: 1s, monitor: 1s}}
  agent-seed-v5: {deploy: {replicas: 0}}
  agent-v5-11: {deploy: {replicas: 0}}
  agent-v6-12-nobpf: {deploy: {replicas: 0}}
"""
LOAD = "import json; from bpfleet.launcher import load; page = '127.0.0.1:8089'; "


def _until(holds: Callable[[], object], what: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what()}"
        time.sleep(0.2)


# The engine makes this bridge for a swarm and keeps it.
BRIDGE = "docker_gwbridge"


def _has_bridge() -> bool:
    return bool(run("docker", "network", "ls", "-q", "-f", f"name=^{BRIDGE}$"))


@pytest.fixture(scope="module")
def swarm() -> Iterator[None]:
    """This engine as a swarm of its own, on loopback; left afterwards."""
    state = run("docker", "info", "--format", "{{.Swarm.LocalNodeState}}").strip()
    if state != "inactive":
        pytest.skip(f"this engine belongs to a swarm already ({state})")
    had_bridge = _has_bridge()
    run("docker", "swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1")
    try:
        yield
    finally:
        run("docker", "swarm", "leave", "--force")
        if _has_bridge() and not had_bridge:
            run("docker", "network", "rm", BRIDGE)


@pytest.fixture(scope="module")
def stack(image: str, swarm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The stack, all its nodes ready; yields the container that clients run in."""
    directory = tmp_path_factory.mktemp("swarm")
    smaller = directory / "smaller.yml"
    smaller.write_text(SMALLER)
    settings = {
        "BPFLEET_IMAGE": image,
        "BPFLEET_NODES_PER_AGENT": str(NODES // 2),
        "BPFLEET_SECRETS": STACK,
    }
    secrets = "deploy/swarm/secrets.sh"
    run(secrets, "create", str(directory / "tls"), STACK)
    files = ("-c", "deploy/swarm/stack.yml", "-c", str(smaller))
    try:
        run("docker", "stack", "deploy", *files, "--resolve-image", "never", STACK, env=settings)
        _until(lambda: _status().get("ready_node_count") == NODES, _services)
        yield _client()
    finally:
        run("docker", "stack", "rm", STACK)
        _until(lambda: leftovers(LABEL) <= {f"{STACK}_redis"}, lambda: leftovers(LABEL))
        run("docker", "volume", "rm", f"{STACK}_redis")
        run(secrets, "remove", STACK)
    assert leftovers(LABEL) == set()
    assert run("docker", "secret", "ls", "-q") == ""


def _services() -> str:
    return run("docker", "stack", "ps", "--no-trunc", STACK)


def _client() -> str:
    return run("docker", "ps", "-q", "-f", f"name={STACK}_locust.1").strip()


def _status() -> dict[str, object]:
    """What `bpfleet fleet status` says in the stack; nothing where it cannot say."""
    command = ["docker", "exec", _client(), "bpfleet", "fleet", "status", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def _survey(client: str) -> Survey:
    tasks = run("docker", "ps", "--format", "{{.Names}}", "-f", f"name={STACK}_coordinator")
    coordinators = [f"{t.rpartition('.')[2]}.coordinator.bpfleet:7070" for t in tasks.split()]
    module = ("python", "-m", "bpfleet.launcher.survey", ",".join(coordinators))
    return Survey.from_text(run("docker", "exec", client, *module))


def _places(survey: Survey) -> tuple[set[tuple[str, str]], list[tuple[str, str]]]:
    """Where the books have each replica of web, and where the agents run it."""
    booked = {(r.replica, r.node) for r in survey.booked if r.workload == "web"}
    running = sorted(
        (r.replica, r.node)
        for r in survey.running
        if r.replica.startswith("web-") and r.phase == "RUNNING"
    )
    return booked, running


def _load(client: str, act: str) -> str:
    """Tells Locust's master, which runs in the same container."""
    return run("docker", "exec", client, "python", "-c", LOAD + act)


def _calls(client: str) -> dict[str, int]:
    """Calls to the agents so far by model; none has failed for lack of transport."""
    rows = json.loads(_load(client, "print(json.dumps(load.outcomes(page)))"))
    assert sum(row["transport_failures"] for row in rows if row["model"] != "fleet") == 0
    return {row["model"]: row["calls"] for row in rows if row["model"] != "fleet"}


def test_an_update_of_the_coordinators_under_load_keeps_every_replica_where_it_is(
    stack: str, image: str
) -> None:
    size = ("--replicas", str(REPLICAS), "--memory-request", "32M", "--memlock", "unlimited")
    run(
        "docker",
        "exec",
        stack,
        "bpfleet",
        "fleet",
        "create",
        "web",
        "--application",
        "katran",
        *size,
    )
    surveys = [_survey(stack)]

    def look(holds: Callable[[Survey], bool]) -> Callable[[], bool]:
        def again() -> bool:
            surveys[-1] = _survey(stack)
            return holds(surveys[-1])

        return again

    _until(look(lambda seen: len(_places(seen)[1]) == REPLICAS), lambda: surveys[-1].booked)
    before = _places(surveys[-1])
    _load(stack, f"load.start(page, {USERS})")
    _until(lambda: set(_calls(stack)) == {"5.10", "6.12"}, lambda: "calls under both models")
    calls = _calls(stack)
    old = run("docker", "service", "ps", "-q", f"{STACK}_coordinator").split()
    new_image = f"{image}-new"
    run("docker", "tag", image, new_image)
    try:
        update = ("--image", new_image, "--no-resolve-image", "--detach=false")
        run("docker", "service", "update", *update, f"{STACK}_coordinator")
    finally:
        run("docker", "rmi", new_image)
    assert all(count > calls[model] for model, count in _calls(stack).items())
    _load(stack, "load.stop(page)")

    running = ("--filter", "desired-state=running", f"{STACK}_coordinator")
    new = run("docker", "service", "ps", "-q", *running).split()
    assert len(new) == 2
    assert not set(new) & set(old)
    told = Acknowledged(replicas={"web": REPLICAS})

    def broken() -> list[Check]:
        return [check for check in check_all(surveys[-1], told) if not check.holds]

    _until(look(lambda seen: not broken()), broken)
    assert _places(surveys[-1]) == before


@pytest.mark.parametrize(
    ("without", "command"),
    [
        (("BPFLEET_TLS_CERT=", "BPFLEET_TLS_KEY="), "fleet status"),
        (
            ("BPFLEET_TLS_CA=", "BPFLEET_TLS_CERT=", "BPFLEET_TLS_KEY="),
            "node list --agent v6-12-1.agent.bpfleet:7071",
        ),
    ],
    ids=["no certificate", "no TLS"],
)
def test_strangers_are_not_answered(stack: str, without: tuple[str, ...], command: str) -> None:
    settings = [part for variable in without for part in ("-e", variable)]
    whole = ["docker", "exec", *settings, stack, "bpfleet", *command.split()]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "answers at" in done.stderr
