"""What every engine promises, on a Redis as the service: once as a process, once as a container."""

import os
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import uuid4

import pytest

from bpfleet.launcher.docker import DockerEngine
from bpfleet.launcher.engine import Engine, Instance, InstanceState
from bpfleet.launcher.errors import LaunchError
from bpfleet.launcher.process import ProcessEngine
from bpfleet.launcher.spec import Role, Service

READY_SECONDS = 30.0

pytestmark = pytest.mark.slow


@dataclass
class Place:
    """An engine with an empty cluster name and a service it can start."""

    engine: Engine
    cluster: str
    service: Service
    has_network: bool

    def instance(self) -> Instance:
        (found,) = self.engine.instances(self.cluster)
        return found

    def wait_for(self, state: InstanceState) -> Instance:
        deadline = time.monotonic() + READY_SECONDS
        while self.instance().state is not state:
            assert time.monotonic() < deadline, self.instance()
            time.sleep(0.05)
        return self.instance()

    def started(self) -> Instance:
        self.engine.prepare(self.cluster)
        self.engine.start(self.cluster, self.service)
        return self.wait_for(InstanceState.READY)


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def _service(cluster: str, port: int) -> Service:
    return Service(
        name=f"{cluster}-redis-0",
        role=Role.REDIS,
        program="",
        command=("--save", ""),
        image=os.environ.get("REDIS_IMAGE", "redis:7"),
        port=port,
        health=("redis-cli", "ping"),
        health_interval_seconds=0.5,
        data_path="/data",
        user="redis",
    )


@pytest.fixture(
    params=[
        pytest.param("process", marks=pytest.mark.redis),
        pytest.param("docker", marks=pytest.mark.docker),
    ]
)
def place(request, tmp_path) -> Iterator[Place]:
    cluster = f"test-{uuid4().hex[:8]}"
    if request.param == "process":
        if not shutil.which("redis-server"):
            pytest.skip("no redis-server on the PATH")
        engine, port = ProcessEngine(tmp_path), _free_port()
    else:
        engine, port = _docker_engine(), 6379
    yield Place(engine, cluster, _service(cluster, port), request.param == "docker")
    for instance in engine.instances(cluster):
        engine.remove(cluster, instance.name)
    engine.discard(cluster)
    if isinstance(engine, DockerEngine):
        engine.close()


def _docker_engine() -> DockerEngine:
    try:
        engine = DockerEngine()
    except LaunchError as error:
        pytest.skip(str(error))
    try:
        engine.digest(_service("any", 6379))
    except LaunchError as error:
        engine.close()
        pytest.skip(str(error))
    return engine


def test_what_was_started_is_found_with_its_digest_and_removed_without_a_trace(place) -> None:
    assert place.engine.instances(place.cluster) == []
    instance = place.started()
    assert instance.name == place.service.name
    assert instance.role is Role.REDIS
    assert instance.digest == place.engine.digest(place.service)
    assert not instance.oom_killed
    place.engine.remove(place.cluster, instance.name)
    place.engine.remove(place.cluster, instance.name)
    assert place.engine.instances(place.cluster) == []


def test_preparing_twice_changes_nothing_until_it_is_discarded(place) -> None:
    assert place.engine.prepare(place.cluster) is True
    assert place.engine.prepare(place.cluster) is False
    place.engine.discard(place.cluster)
    assert place.engine.prepare(place.cluster) is True


def test_one_line_is_kept_with_the_cluster_until_it_is_discarded(place) -> None:
    place.engine.prepare(place.cluster)
    assert place.engine.recall(place.cluster) is None
    for text in ('{"agents": 3}', '{"agents": 5}'):
        place.engine.remember(place.cluster, text)
        assert place.engine.recall(place.cluster) == text
    assert place.engine.instances(place.cluster) == []
    place.engine.discard(place.cluster)
    assert place.engine.recall(place.cluster) is None


def test_a_paused_instance_is_seen_as_paused_and_goes_on(place) -> None:
    name = place.started().name
    place.engine.pause(place.cluster, name)
    place.wait_for(InstanceState.PAUSED)
    place.engine.resume(place.cluster, name)
    place.wait_for(InstanceState.READY)


def test_a_stopped_instance_stays_known_and_starts_again(place) -> None:
    name = place.started().name
    place.engine.stop(place.cluster, name)
    assert place.wait_for(InstanceState.EXITED).name == name
    place.engine.resume(place.cluster, name)
    place.wait_for(InstanceState.READY)


def test_a_paused_instance_can_be_removed(place) -> None:
    name = place.started().name
    place.engine.pause(place.cluster, name)
    place.engine.remove(place.cluster, name)
    assert place.engine.instances(place.cluster) == []


def test_the_log_holds_what_the_instance_printed(place) -> None:
    name = place.started().name
    lines = list(place.engine.logs(place.cluster, name, 50))
    assert any("Ready to accept connections" in line for line in lines)
    assert len(list(place.engine.logs(place.cluster, name, 1))) == 1


def test_the_store_answers_commands(place) -> None:
    place.started()
    assert place.engine.redis_command(place.cluster, ["set", "key", "value"]) == "OK"
    assert place.engine.redis_command(place.cluster, ["get", "key"]) == "value"


def test_only_an_engine_with_networks_cuts_instances_off(place) -> None:
    name = place.started().name
    if not place.has_network:
        with pytest.raises(LaunchError, match="share the network"):
            place.engine.disconnect(place.cluster, name)
        return
    place.engine.disconnect(place.cluster, name)
    place.engine.reconnect(place.cluster, name)
    place.engine.reconnect(place.cluster, name)
    place.wait_for(InstanceState.READY)


def test_an_unknown_instance_is_refused_by_name(place) -> None:
    place.started()
    with pytest.raises(LaunchError, match="nobody"):
        place.engine.pause(place.cluster, "nobody")
