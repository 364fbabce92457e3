"""Clusters on a real Docker Engine: up, up again, scale, storm, down, and the real OOM killer."""

import os
from dataclasses import replace

import pytest
from docker_runs import leftovers
from redis_server import free_port

from bpfleet.launcher.chaos import parse_scenario
from bpfleet.launcher.cluster import down, ps, scale, up
from bpfleet.launcher.docker import LABEL, DockerEngine
from bpfleet.launcher.engine import State
from bpfleet.launcher.errors import LaunchError
from bpfleet.launcher.spec import ClusterSpec
from bpfleet.launcher.storm import run_storm

pytestmark = [pytest.mark.e2e, pytest.mark.docker, pytest.mark.slow]

STORM = """
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


def test_a_cluster_comes_up_survives_a_storm_and_goes(engine, spec) -> None:
    assert len(up(engine, spec).started) == 5
    assert up(engine, spec).is_empty
    assert scale(engine, spec.name, 3).started == [f"{spec.name}-agent-2"]
    report = run_storm(engine, spec.name, parse_scenario(STORM, "storm"))
    assert report.clean, report.checks
    assert report.faults.total() == 4
    assert report.skipped == []
    assert {each.state for each in ps(engine, spec.name)} == {State.READY}


def test_an_agent_the_real_kernel_kills_is_named_as_that_and_nothing_stays(engine, spec) -> None:
    hungry = replace(spec, agents=1, nodes_per_agent=60_000, coordinators=1, memory_bytes=44 << 20)
    with pytest.raises(LaunchError, match="killed by the real OOM killer of this machine"):
        up(engine, hungry)
    assert leftovers(f"{LABEL}={spec.name}") == set()
