"""What a cluster consists of: a pure plan from a few wishes to named services.

``ClusterSpec`` is what a user asks for, ``plan`` turns it into ``Service`` records in the order in
which they start. An engine (``docker.py``, ``process.py``) makes a container or a process of each.
The digest of a service changes with anything that would make it run differently, so that a second
``up`` can leave alone what is the same.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Final

from bpfleet.kernel.profile import Use, used_by
from bpfleet.launcher.errors import LaunchError

__all__ = [
    "AGENT_PORT",
    "COORDINATOR_PORT",
    "LOAD_PORT",
    "REDIS_PORT",
    "WEB_PORT",
    "AddressOf",
    "ClusterSpec",
    "Role",
    "Service",
    "plan",
]

COORDINATOR_PORT: Final = 7070
AGENT_PORT: Final = 7071
REDIS_PORT: Final = 6379
LOAD_PORT: Final = 5557
WEB_PORT: Final = 8089

AGENTS_MAX: Final = 1000
NODES_PER_AGENT_MAX: Final = 1_000_000
COORDINATORS_MAX: Final = 9
WORKERS_MAX: Final = 256
_CLUSTER_NAME: Final = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")
_MEMORY_BYTES_MIN: Final = 32 << 20


class Role(StrEnum):
    """What a service does in the cluster."""

    REDIS = "redis"
    COORDINATOR = "coordinator"
    AGENT = "agent"
    LOAD_MASTER = "load"
    LOAD_WORKER = "load-worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """A cluster as its user asks for it. Raises ``LaunchError`` for what cannot be.

    Agent number n runs the model ``models[n % len(models)]``. ``cpus`` and ``memory_bytes`` are the
    real limits of each agent's container; ``workers`` 0 leaves the load generator out; without
    ``durable`` there is no Redis and the only coordinator keeps the fleet in memory.
    """

    name: str = "bpfleet"
    agents: int = 3
    nodes_per_agent: int = 100
    models: tuple[str, ...] = used_by(Use.CLUSTER)
    coordinators: int = 1
    workers: int = 1
    node_ram: str = "8G"
    node_cpus: int = 4
    seed: int = 0
    cpus: float | None = None
    memory_bytes: int | None = None
    durable: bool = True
    image: str = "bpfleet:local"
    redis_image: str = "redis:7"
    web_port: int = WEB_PORT
    api_port: int = COORDINATOR_PORT

    def __post_init__(self) -> None:
        if not _CLUSTER_NAME.fullmatch(self.name):
            raise LaunchError(
                f"--name {self.name!r}: use lower-case letters, digits and '-', at most 32"
            )
        if not self.models:
            raise LaunchError("--kernel is empty: name at least one kernel")
        _check("--agents", self.agents, 1, AGENTS_MAX)
        _check("--nodes-per-agent", self.nodes_per_agent, 0, NODES_PER_AGENT_MAX)
        _check("--coordinators", self.coordinators, 1, COORDINATORS_MAX)
        _check("--workers", self.workers, 0, WORKERS_MAX)
        _check("--node-cpus", self.node_cpus, 1, 8192)
        _check("--web-port", self.web_port, 1, 65_535)
        _check("--api-port", self.api_port, 1, 65_535)
        if self.coordinators > 1 and not self.durable:
            raise LaunchError(
                f"--coordinators {self.coordinators} need a shared Redis, and none is configured"
            )
        if self.cpus is not None and not 0.01 <= self.cpus <= 1024:
            raise LaunchError(f"--cpus {self.cpus:g}: use 0.01 to 1024")
        if self.memory_bytes is not None and self.memory_bytes < _MEMORY_BYTES_MIN:
            raise LaunchError(f"--memory {self.memory_bytes}: an agent needs at least 32M")

    def as_text(self) -> str:
        """The wishes as one line, for ``from_text``."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> "ClusterSpec":
        """The wishes ``as_text`` wrote. Raises ``LaunchError`` where another version wrote them."""
        try:
            facts = json.loads(text)
            return cls(**{**facts, "models": tuple(facts["models"])})
        except (ValueError, TypeError, KeyError) as error:
            raise LaunchError(
                "this cluster was started by another version of bpfleet: "
                "'bpfleet down' it with that one"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One container or process to be.

    ``command`` is what follows the image's entry point, or replaces it where ``program`` names
    another. ``port`` is what it listens on; ``published_port`` what the engine offers on loopback.
    """

    name: str
    role: Role
    index: int = 0
    program: str = "bpfleet"
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    image: str = ""
    port: int | None = None
    published_port: int | None = None
    health: tuple[str, ...] = ()
    health_interval_seconds: float = 3.0
    cpus: float | None = None
    memory_bytes: int | None = None
    data_path: str | None = None
    user: str | None = None

    def digest(self, image_id: str = "") -> str:
        """A short hash of everything that decides how the service runs."""
        facts = {name: getattr(self, name) for name in self.__slots__ if name != "environment"}
        facts |= {"environment": dict(sorted(self.environment.items())), "image_id": image_id}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


AddressOf = Callable[[Role, int], str]
"""Engines decide where a service is reached: ``host:port`` for a role and its number."""


def plan(spec: ClusterSpec, address_of: AddressOf, listen_of: AddressOf) -> tuple[Service, ...]:
    """The services of a cluster in the order they start: each depends only on those before it."""
    services = [_redis(spec)] if spec.durable else []
    services += [_coordinator(spec, n, address_of, listen_of) for n in range(spec.coordinators)]
    services += [_agent(spec, n, address_of, listen_of) for n in range(spec.agents)]
    if spec.workers:
        services.append(_load_master(spec, address_of, listen_of))
        services += [_load_worker(spec, n, address_of) for n in range(spec.workers)]
    return tuple(services)


def service_name(spec: ClusterSpec, role: Role, index: int) -> str:
    """Name of a container or process, unique on the engine; inside the cluster also its host name."""
    return f"{spec.name}-{role}-{index}"


def _redis(spec: ClusterSpec) -> Service:
    return Service(
        name=service_name(spec, Role.REDIS, 0),
        role=Role.REDIS,
        program="",
        command=("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
        image=spec.redis_image,
        port=REDIS_PORT,
        health=("redis-cli", "ping"),
        data_path="/data",
        user="redis",
    )


def _coordinator(
    spec: ClusterSpec, index: int, address_of: AddressOf, listen_of: AddressOf
) -> Service:
    listen = listen_of(Role.COORDINATOR, index)
    return Service(
        name=service_name(spec, Role.COORDINATOR, index),
        role=Role.COORDINATOR,
        index=index,
        command=("coordinator",),
        environment={
            "BPFLEET_LISTEN": listen,
            "BPFLEET_PROBE": _loopback(listen),
            "BPFLEET_ADVERTISE": address_of(Role.COORDINATOR, index),
            "BPFLEET_REDIS": f"redis://{address_of(Role.REDIS, 0)}/0" if spec.durable else "",
        },
        image=spec.image,
        port=COORDINATOR_PORT,
        published_port=spec.api_port + index,
        health=("python", "-m", "bpfleet.launcher.probe"),
    )


def _agent(spec: ClusterSpec, index: int, address_of: AddressOf, listen_of: AddressOf) -> Service:
    listen = listen_of(Role.AGENT, index)
    return Service(
        name=service_name(spec, Role.AGENT, index),
        role=Role.AGENT,
        index=index,
        command=("agent",),
        environment={
            "BPFLEET_LISTEN": listen,
            "BPFLEET_PROBE": _loopback(listen),
            "BPFLEET_ADVERTISE": address_of(Role.AGENT, index),
            "BPFLEET_AGENT": f"agent-{index}",
            "BPFLEET_COORDINATOR": _coordinators(spec, address_of),
            "BPFLEET_KERNEL": spec.models[index % len(spec.models)],
            "BPFLEET_NODES": str(spec.nodes_per_agent),
            "BPFLEET_NODE_RAM": spec.node_ram,
            "BPFLEET_NODE_CPUS": str(spec.node_cpus),
            "BPFLEET_SEED": str(spec.seed),
        },
        image=spec.image,
        port=AGENT_PORT,
        health=("python", "-m", "bpfleet.launcher.probe"),
        cpus=spec.cpus,
        memory_bytes=spec.memory_bytes,
    )


def _load_master(spec: ClusterSpec, address_of: AddressOf, listen_of: AddressOf) -> Service:
    web_host, web_port = listen_of(Role.LOAD_MASTER, 0).rsplit(":", 1)
    page = f"http://127.0.0.1:{web_port}/"
    return Service(
        name=service_name(spec, Role.LOAD_MASTER, 0),
        role=Role.LOAD_MASTER,
        program="locust",
        command=(
            *("-f", "loadtest/locustfile.py", "--master"),
            *("--web-host", web_host, "--web-port", web_port),
            *("--master-bind-port", _port(address_of(Role.LOAD_WORKER, 0))),
        ),
        environment=_load_environment(spec, address_of),
        image=spec.image,
        port=WEB_PORT,
        published_port=spec.web_port,
        health=("python", "-c", f"import urllib.request as u; u.urlopen({page!r}, timeout=3)"),
    )


def _load_worker(spec: ClusterSpec, index: int, address_of: AddressOf) -> Service:
    host, port = address_of(Role.LOAD_WORKER, 0).rsplit(":", 1)
    return Service(
        name=service_name(spec, Role.LOAD_WORKER, index),
        role=Role.LOAD_WORKER,
        index=index,
        program="locust",
        command=(
            *("-f", "loadtest/locustfile.py", "--worker"),
            *("--master-host", host, "--master-port", port),
        ),
        environment=_load_environment(spec, address_of),
        image=spec.image,
        health=(
            *("python", "-c"),
            f"import socket; socket.create_connection(({host!r}, {port}), 3)",
        ),
    )


def _load_environment(spec: ClusterSpec, address_of: AddressOf) -> dict[str, str]:
    return {
        "BPFLEET_COORDINATOR": _coordinators(spec, address_of),
        "BPFLEET_AGENTS": ",".join(address_of(Role.AGENT, n) for n in range(spec.agents)),
    }


def _coordinators(spec: ClusterSpec, address_of: AddressOf) -> str:
    return ",".join(address_of(Role.COORDINATOR, n) for n in range(spec.coordinators))


def _port(address: str) -> str:
    return address.rsplit(":", 1)[1]


def _loopback(listen: str) -> str:
    return f"127.0.0.1:{_port(listen)}"


def _check(option: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise LaunchError(f"{option} {value}: use {low} to {high}")
