"""The plan of a cluster: what it consists of, and when a service counts as changed."""

from dataclasses import replace

import pytest

from bpfleet.launcher.errors import LaunchError
from bpfleet.launcher.spec import ClusterSpec, Role, plan


def _address(role: Role, index: int) -> str:
    return f"{role}-{index}:7000"


def _plan(**wishes):
    return plan(ClusterSpec(**wishes), _address, lambda role, index: "0.0.0.0:7000")


def _only(services, role: Role):
    return [service for service in services if service.role is role]


def test_a_cluster_starts_in_the_order_of_its_dependencies() -> None:
    roles = list(dict.fromkeys(service.role for service in _plan()))
    assert roles == list(Role)


def test_agents_take_turns_with_the_models() -> None:
    agents = _only(_plan(agents=5, models=("5.10", "6.12")), Role.AGENT)
    profiles = [agent.environment["BPFLEET_KERNEL"] for agent in agents]
    assert profiles == ["5.10", "6.12", "5.10", "6.12", "5.10"]
    assert len({agent.name for agent in agents}) == 5


def test_agents_know_every_coordinator() -> None:
    (agent,) = _only(_plan(agents=1, coordinators=2), Role.AGENT)
    assert agent.environment["BPFLEET_COORDINATOR"] == "coordinator-0:7000,coordinator-1:7000"


def test_without_workers_there_is_no_load_generator() -> None:
    assert not _only(_plan(workers=0), Role.LOAD_MASTER)


def test_without_redis_the_coordinator_keeps_the_fleet_in_memory() -> None:
    services = _plan(durable=False)
    assert not _only(services, Role.REDIS)
    (coordinator,) = _only(services, Role.COORDINATOR)
    assert coordinator.environment["BPFLEET_REDIS"] == ""


def test_the_digest_changes_with_what_the_service_runs_and_with_nothing_else() -> None:
    (agent,) = _only(_plan(agents=1), Role.AGENT)
    assert agent.digest() == _only(_plan(agents=1, workers=7), Role.AGENT)[0].digest()
    changed = [
        replace(agent, command=("agent", "--verbose")),
        replace(agent, environment={**agent.environment, "BPFLEET_NODES": "7"}),
        replace(agent, memory_bytes=1 << 30),
        replace(agent, image="bpfleet:other"),
    ]
    digests = {service.digest() for service in changed} | {agent.digest("sha256:new")}
    assert len(digests) == 5
    assert agent.digest() not in digests


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"name": "Bad Name"}, "--name 'Bad Name': use lower-case letters"),
        ({"agents": 0}, "--agents 0: use 1 to 1000"),
        ({"nodes_per_agent": -1}, "--nodes-per-agent -1: use 0 to 1000000"),
        ({"models": ()}, "--kernel is empty"),
        ({"coordinators": 10}, "--coordinators 10: use 1 to 9"),
        ({"coordinators": 2, "durable": False}, "--coordinators 2 need a shared Redis"),
        ({"workers": -1}, "--workers -1"),
        ({"cpus": 0.0}, "--cpus 0: use 0.01 to 1024"),
        ({"memory_bytes": 1 << 20}, "--memory 1048576: an agent needs at least 32M"),
        ({"web_port": 70_000}, "--web-port 70000: use 1 to 65535"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(wish, says) -> None:
    with pytest.raises(LaunchError) as caught:
        ClusterSpec(**wish)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_a_spec_survives_being_written_down() -> None:
    spec = ClusterSpec(
        name="lab", agents=7, models=("6.12", "5.10"), cpus=0.5, memory_bytes=1 << 30
    )
    assert ClusterSpec.from_text(spec.as_text()) == spec


@pytest.mark.parametrize("text", ["", "{}", '{"models": ["6.12"], "hosts": 3}'])
def test_a_spec_of_another_version_is_refused(text) -> None:
    with pytest.raises(LaunchError, match="another version"):
        ClusterSpec.from_text(text)
