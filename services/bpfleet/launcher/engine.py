"""What the launcher needs of an engine, and what an engine tells about what runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from bpfleet.launcher.spec import ClusterSpec, Role, Service

__all__ = ["Engine", "Instance", "InstanceState"]


class InstanceState(StrEnum):
    """What an instance is doing."""

    STARTING = "starting"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    PAUSED = "paused"
    EXITED = "exited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One container or process of a cluster as its engine sees it now.

    ``oom_killed`` is the real kernel's doing, never the emulated one's. ``address`` is where the
    user's machine reaches it; empty where it is not offered outside the cluster.
    """

    name: str
    role: Role
    index: int
    state: InstanceState
    digest: str
    restart_count: int = 0
    exit_code: int | None = None
    oom_killed: bool = False
    address: str = ""
    detail: str = ""


class Engine(Protocol):
    """Starts, finds and stops the instances of clusters; one implementation per way to run them.

    Every method raises ``LaunchError`` where the engine refuses or does not answer.
    """

    def plan(self, spec: ClusterSpec) -> tuple[Service, ...]:
        """The services of a cluster with this engine's addresses."""

    def digest(self, service: Service) -> str:
        """What ``Instance.digest`` is for this service if it is started now."""

    def instances(self, cluster: str) -> list[Instance]:
        """Everything that is there, also what ended, in role and number order."""

    def composed(self, project: str) -> list[Instance]:
        """What Docker Compose runs under a project name, which the launcher shows and never changes."""

    def prepare(self, cluster: str) -> bool:
        """Make what the services share (network, data). False where it was there already."""

    def remember(self, cluster: str, text: str) -> None:
        """Keep one line about the cluster where the cluster is, in place of the one before."""

    def recall(self, cluster: str) -> str | None:
        """The line that was kept; None where there is none."""

    def start(self, cluster: str, service: Service) -> None:
        """Start a service; nothing of that name exists."""

    def remove(self, cluster: str, name: str) -> None:
        """Stop and forget an instance; fine where it is gone already."""

    def discard(self, cluster: str) -> None:
        """Remove what ``prepare`` made."""

    def logs(self, cluster: str, name: str, lines: int) -> Iterator[str]:
        """The last lines an instance printed."""

    def kill(self, cluster: str, name: str) -> None:
        """SIGKILL, without leave to clean up."""

    def stop(self, cluster: str, name: str) -> None:
        """SIGTERM, and SIGKILL if it has not ended ten seconds later."""

    def resume(self, cluster: str, name: str) -> None:
        """Start again what ended, let go on what was paused."""

    def pause(self, cluster: str, name: str) -> None:
        """Stop the clock of an instance: it neither answers nor ends."""

    def disconnect(self, cluster: str, name: str) -> None:
        """Cut an instance off the cluster's network. Raises where the engine has no network."""

    def reconnect(self, cluster: str, name: str) -> None:
        """Undo ``disconnect``."""

    def run_module(self, cluster: str, service: Service, module: Sequence[str]) -> str:
        """Run ``python -m module...`` once, where and with the settings ``service`` runs; returns what
        it printed. Raises ``LaunchError`` with its last line where it fails.
        """

    def redis_command(self, cluster: str, arguments: Sequence[str]) -> str:
        """Run one Redis command on the cluster's store and return the answer's text."""
