"""Clusters as containers of a Docker Engine, through the Docker SDK (imported nowhere else).

Everything that belongs to a cluster carries the label ``bpfleet.cluster``; nothing is remembered
elsewhere, so any machine that reaches the engine can look after the cluster. The engine is the one
``DOCKER_HOST`` and its companions name.
"""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final

import docker
import requests
from docker.errors import APIError, ContainerError, DockerException, ImageNotFound, NotFound
from docker.types import Healthcheck

from bpfleet.launcher.engine import Instance, InstanceState
from bpfleet.launcher.errors import LaunchError
from bpfleet.launcher.spec import (
    AGENT_PORT,
    COORDINATOR_PORT,
    LOAD_PORT,
    REDIS_PORT,
    WEB_PORT,
    ClusterSpec,
    Role,
    Service,
    plan,
    service_name,
)

__all__ = ["DockerEngine"]

LABEL: Final = "bpfleet.cluster"
SPEC_LABEL: Final = "bpfleet.spec"
_PROJECT: Final = "com.docker.compose.project"
STOP_SECONDS: Final = 10
ENGINE_SECONDS: Final = 60
_SECOND_NS: Final = 1_000_000_000
_PORTS: Final = {
    Role.REDIS: REDIS_PORT,
    Role.COORDINATOR: COORDINATOR_PORT,
    Role.AGENT: AGENT_PORT,
    Role.LOAD_MASTER: WEB_PORT,
    Role.LOAD_WORKER: LOAD_PORT,
}
_ROLES: Final = list(Role)
_LOCAL: Final = "http+unix://"
# The SDK has no types of its own.
Container = Any


class DockerEngine:
    """The engine the environment names. Raises ``LaunchError`` where none answers."""

    def __init__(self) -> None:
        try:
            _check_socket()
            self._client = _connected()
        except (DockerException, OSError) as error:  # those of requests are OSErrors
            raise LaunchError(
                f"no Docker Engine answers ({_first_line(error)}): start one, set DOCKER_HOST, "
                "or use --local for processes instead of containers"
            ) from error

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def plan(self, spec: ClusterSpec) -> tuple[Service, ...]:
        """Services reach each other by container name on the cluster's own network."""

        def address_of(role: Role, index: int) -> str:
            # Workers are told where the master is: nobody connects to a worker.
            host = Role.LOAD_MASTER if role is Role.LOAD_WORKER else role
            return f"{service_name(spec, host, index)}:{_PORTS[role]}"

        return plan(spec, address_of, lambda role, index: f"0.0.0.0:{_PORTS[role]}")

    def digest(self, service: Service) -> str:
        """Changes with the image behind the name, too."""
        return service.digest(self._image_id(service.image))

    def instances(self, cluster: str) -> list[Instance]:
        """Containers with the cluster's label, running or not."""
        with _engine_errors("list containers"):
            containers = self._client.containers.list(
                all=True, filters={"label": f"{LABEL}={cluster}"}, ignore_removed=True
            )
        found = [_instance(container) for container in containers]
        return sorted(found, key=lambda i: (_ROLES.index(i.role), i.index))

    def composed(self, project: str) -> list[Instance]:
        """Containers with Compose's own labels."""
        with _engine_errors("list containers"):
            containers = self._client.containers.list(
                all=True, filters={"label": f"{_PROJECT}={project}"}, ignore_removed=True
            )
        found = [each for each in map(_composed_instance, containers) if each is not None]
        return sorted(found, key=lambda i: (_ROLES.index(i.role), i.name))

    def address_of(self, host: str) -> str:
        """The address on the engine's network of the container that is called so there; empty where there is none."""
        with _engine_errors("list containers"):
            containers = self._client.containers.list(ignore_removed=True)
        for container in containers:
            networks = container.attrs["NetworkSettings"]["Networks"].values()
            hostname = container.attrs["Config"]["Hostname"]
            aliases = {alias for each in networks for alias in each.get("Aliases") or ()}
            if host in (container.name, hostname, container.short_id) or host in aliases:
                return next((each["IPAddress"] for each in networks if each["IPAddress"]), "")
        return ""

    def prepare(self, cluster: str) -> bool:
        """The cluster's network and the volume of its store."""
        with _engine_errors("create the network"):
            if self._client.networks.list(names=[f"^{cluster}$"]):
                return False
            labels = {LABEL: cluster}
            self._client.networks.create(cluster, driver="bridge", labels=labels)
            self._client.volumes.create(_volume(cluster), labels=labels)
        return True

    def remember(self, cluster: str, text: str) -> None:
        """A label of a volume that nothing mounts: labels cannot change, but it can be made anew."""
        with _engine_errors("note what was started"):
            self._forget(cluster)
            labels = {LABEL: cluster, SPEC_LABEL: text}
            self._client.volumes.create(f"{cluster}-spec", labels=labels)

    def recall(self, cluster: str) -> str | None:
        """The label of that volume."""
        with _engine_errors("read what was started"):
            noted = self._notes(cluster)
            return str(noted[0].attrs["Labels"][SPEC_LABEL]) if noted else None

    def _notes(self, cluster: str) -> list[Any]:
        filters = {"label": [f"{LABEL}={cluster}", SPEC_LABEL]}
        return list(self._client.volumes.list(filters=filters))

    def _forget(self, cluster: str) -> None:
        for volume in self._notes(cluster):
            volume.remove()

    def start(self, cluster: str, service: Service) -> None:
        """Create and start one container: hardened as in docker-compose.yml."""
        with _engine_errors(f"start {service.name}"):
            self._client.containers.run(**_options(cluster, service, self.digest(service)))

    def remove(self, cluster: str, name: str) -> None:
        """Asks it to end, then removes it."""

        def end(container: Container) -> None:
            if container.status == "paused":
                container.unpause()
            container.stop(timeout=STOP_SECONDS)
            container.remove(force=True, v=True)

        with _engine_errors(f"remove {name}", missing_is_fine=True):
            end(self._client.containers.get(name))

    def discard(self, cluster: str) -> None:
        """Removes network and volume."""
        filters = {"label": f"{LABEL}={cluster}"}
        with _engine_errors("remove the network"):
            for network in self._client.networks.list(filters=filters):
                network.remove()
            for volume in self._client.volumes.list(filters=filters):
                volume.remove()

    def logs(self, cluster: str, name: str, lines: int) -> Iterator[str]:
        """Standard output and error as the engine kept them."""
        text = self._with(name, "read the log of", lambda c: c.logs(tail=lines))
        yield from text.decode("utf-8", "replace").splitlines()

    def kill(self, cluster: str, name: str) -> None:
        """An engine restarts what fails, not what was killed through it: ``resume`` does."""
        self._with(name, "kill", lambda c: c.kill())

    def stop(self, cluster: str, name: str) -> None:
        """The engine leaves it stopped."""
        self._with(name, "stop", lambda c: c.stop(timeout=STOP_SECONDS))

    def resume(self, cluster: str, name: str) -> None:
        """Does nothing to what runs."""

        def go_on(container: Container) -> None:
            if container.status == "paused":
                container.unpause()
            elif container.status != "running":
                container.start()

        self._with(name, "resume", go_on)

    def pause(self, cluster: str, name: str) -> None:
        """The freezer cgroup."""
        self._with(name, "pause", lambda c: c.pause())

    def disconnect(self, cluster: str, name: str) -> None:
        """Takes the container's only network away."""
        with _engine_errors(f"disconnect {name}"):
            self._client.networks.get(cluster).disconnect(name)

    def reconnect(self, cluster: str, name: str) -> None:
        """The container gets its names back, perhaps another address."""
        with _engine_errors(f"reconnect {name}"):
            network = self._client.networks.get(cluster)
            network.reload()
            if name not in {container.name for container in network.containers}:
                network.connect(name)

    def run_module(self, cluster: str, service: Service, module: Sequence[str]) -> str:
        """A container of its own on the cluster's network; the engine removes it."""
        options = _options(cluster, service, "") | {"restart_policy": None, "detach": False}
        for name in ("name", "hostname", "labels", "ports", "mem_limit", "memswap_limit"):
            options.pop(name, None)
        options |= {"entrypoint": ["python", "-m"], "command": list(module), "remove": True}
        options["healthcheck"] = Healthcheck(test=["NONE"])
        with _engine_errors(f"run {module[0]}"):
            try:
                return bytes(
                    self._client.containers.run(**options, labels={LABEL: cluster})
                ).decode()
            except ContainerError as error:
                raise LaunchError(f"{module[0]}: {_last_line(error.stderr)}") from error

    def redis_command(self, cluster: str, arguments: Sequence[str]) -> str:
        """Runs redis-cli in the store's container."""

        def run(container: Container) -> str:
            result = container.exec_run(["redis-cli", *arguments])
            return str(result.output.decode().strip())

        answer: str = self._with(f"{cluster}-{Role.REDIS}-0", "ask", run)
        return answer

    def _with(self, name: str, verb: str, act: Callable[[Container], Any]) -> Any:
        with _engine_errors(f"{verb} {name}"):
            return act(self._client.containers.get(name))

    def _image_id(self, image: str) -> str:
        try:
            return str(self._client.images.get(image).id)
        except ImageNotFound as error:
            raise LaunchError(
                f"image {image} is not on the engine: build it with 'docker compose build', or "
                "name another with --image or --redis-image"
            ) from error


def _check_socket() -> None:
    """Raises ``OSError`` where nobody listens on the engine's local socket: the SDK would leave its own socket open."""
    address = docker.utils.parse_host(os.environ.get("DOCKER_HOST"))
    if address.startswith(_LOCAL):
        with socket.socket(socket.AF_UNIX) as trial:
            trial.settimeout(ENGINE_SECONDS)
            trial.connect(address.removeprefix(_LOCAL))


def _connected() -> Any:
    """A client of the engine, speaking the engine's version of the API.

    requests would let REQUESTS_CA_BUNDLE overrule the CA in DOCKER_CERT_PATH, were it not told to leave the
    environment alone; so the SDK must not ask for the version by itself.
    """
    version = docker.constants.DEFAULT_DOCKER_API_VERSION
    with closing(_client(version)) as asking:
        version = asking.api.version(api_version=False)["ApiVersion"]
    return _client(version)


def _client(version: str) -> Any:
    client = docker.from_env(version=version, timeout=ENGINE_SECONDS)
    client.api.trust_env = False
    return client


@contextmanager
def _engine_errors(doing: str, *, missing_is_fine: bool = False) -> Iterator[None]:
    try:
        yield
    except NotFound as error:
        if not missing_is_fine:
            raise LaunchError(f"cannot {doing}: {_first_line(error)}") from error
    except (APIError, requests.RequestException) as error:
        raise LaunchError(f"cannot {doing}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    explanation = getattr(error, "explanation", None) or str(error)
    return str(explanation).strip().splitlines()[0] if str(explanation).strip() else repr(error)


def _last_line(printed: bytes | None) -> str:
    lines = (printed or b"").decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


def _volume(cluster: str) -> str:
    return f"{cluster}-data"


def _options(cluster: str, service: Service, digest: str) -> dict[str, Any]:
    labels = {
        LABEL: cluster,
        "bpfleet.role": service.role.value,
        "bpfleet.index": str(service.index),
        "bpfleet.digest": digest,
        # Images that compose built hand its label down; these containers are not compose's.
        _PROJECT: "",
    }
    options: dict[str, Any] = {
        "image": service.image,
        "command": list(service.command),
        "name": service.name,
        "hostname": service.name,
        "labels": labels,
        "environment": dict(service.environment),
        "network": cluster,
        "detach": True,
        "init": True,
        "read_only": True,
        "tmpfs": {"/tmp": "mode=1777,size=64m"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart_policy": {"Name": "unless-stopped"},
        "log_config": docker.types.LogConfig(
            type="json-file", config={"max-size": "4m", "max-file": "2"}
        ),
        "healthcheck": _healthcheck(service),
    }
    if service.program not in ("", "bpfleet"):
        options["entrypoint"] = [service.program]
    if service.published_port:
        options["ports"] = {f"{service.port}/tcp": ("127.0.0.1", service.published_port)}
    if service.data_path:
        options["volumes"] = {_volume(cluster): {"bind": service.data_path, "mode": "rw"}}
    if service.user:
        options["user"] = service.user
    if service.cpus:
        options["nano_cpus"] = int(service.cpus * _SECOND_NS)
    if service.memory_bytes:
        # Without swap: the limit is the limit.
        options |= {"mem_limit": service.memory_bytes, "memswap_limit": service.memory_bytes}
    return options


def _healthcheck(service: Service) -> Healthcheck:
    if not service.health:
        return Healthcheck(test=["NONE"])
    return Healthcheck(
        test=["CMD", *service.health],
        interval=int(service.health_interval_seconds * _SECOND_NS),
        timeout=4 * _SECOND_NS,
        start_period=30 * _SECOND_NS,
        retries=6,
    )


def _instance(container: Container) -> Instance:
    facts, labels = container.attrs, container.labels
    state = facts["State"]
    ended = state["Status"] in ("exited", "dead")
    return Instance(
        name=container.name,
        role=Role(labels["bpfleet.role"]),
        index=int(labels["bpfleet.index"]),
        state=_state(state),
        digest=labels["bpfleet.digest"],
        restart_count=facts["RestartCount"],
        exit_code=state["ExitCode"] if ended else None,
        oom_killed=bool(state["OOMKilled"]),
        address=_published(facts),
        detail=state.get("Error", ""),
    )


def _composed_instance(container: Container) -> Instance | None:
    """A container of Compose's; None where it has none of our roles."""
    facts, labels = container.attrs, container.labels
    service, state = labels["com.docker.compose.service"], facts["State"]
    role = _composed_role(service)
    if role is None:
        return None
    ended = state["Status"] in ("exited", "dead")
    return Instance(
        name=container.name,
        role=role,
        index=int(labels.get("com.docker.compose.container-number", "1")) - 1,
        state=_state(state),
        digest="",
        restart_count=facts["RestartCount"],
        exit_code=state["ExitCode"] if ended else None,
        oom_killed=bool(state["OOMKilled"]),
        address=_published(facts),
        detail=state.get("Error", "") or f"of docker compose, service {service}",
    )


def _composed_role(service: str) -> Role | None:
    """The role of a service of docker-compose.yml by its name."""
    named = {"redis": Role.REDIS, "locust": Role.LOAD_MASTER, "locust-worker": Role.LOAD_WORKER}
    if service.startswith("agent"):
        return Role.AGENT
    return Role.COORDINATOR if service.startswith("coordinator") else named.get(service)


def _state(state: dict[str, Any]) -> InstanceState:
    if state["Status"] == "paused":
        return InstanceState.PAUSED
    if state["Status"] in ("exited", "dead"):
        return InstanceState.EXITED
    if state["Status"] != "running":
        return InstanceState.STARTING
    health = state.get("Health", {}).get("Status", "healthy")
    return {"starting": InstanceState.STARTING, "unhealthy": InstanceState.UNHEALTHY}.get(
        health, InstanceState.READY
    )


def _published(facts: dict[str, Any]) -> str:
    for offered in (facts["NetworkSettings"]["Ports"] or {}).values():
        for one in offered or ():
            return f"{one['HostIp']}:{one['HostPort']}"
    return ""
