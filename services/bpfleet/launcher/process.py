"""Clusters as processes of this machine, on loopback: for machines without a Docker Engine.

What runs is remembered in a folder per cluster: a record and a log for each process. A process is
known by its id and its start time, so a reused id is never taken for one of ours.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from bpfleet.launcher.engine import Instance, InstanceState
from bpfleet.launcher.errors import LaunchError
from bpfleet.launcher.probe import probe
from bpfleet.launcher.spec import ClusterSpec, Role, Service, plan
from bpfleet.shipped import LOAD_TEST, shipped

__all__ = ["ProcessEngine", "default_folder"]

STOP_SECONDS: Final = 10.0
_PROBE_SECONDS: Final = 1.0
_MODULE_SECONDS: Final = 300.0
_ROLES: Final = list(Role)
_MODULES: Final = {"coordinator": "bpfleet.coordinator", "agent": "bpfleet.node_agent"}
# Ports after the coordinators': the API port of the spec plus these.
_REDIS_OFFSET: Final = 9
_LOAD_OFFSET: Final = 10
_AGENT_OFFSET: Final = 11
_SPEC_FILE: Final = "cluster.spec"


def default_folder() -> Path:
    """Where the records of clusters are kept: below XDG_STATE_HOME."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "bpfleet"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """What is known about a process after it was started."""

    name: str
    role: str
    index: int
    pid: int
    start_ticks: int
    digest: str
    port: int | None
    arguments: list[str]
    environment: dict[str, str]
    folder: str
    restart_count: int = 0


class ProcessEngine:
    """Processes below ``folder``; those this object started are its children until it ends."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or default_folder()
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def plan(self, spec: ClusterSpec) -> tuple[Service, ...]:
        """Everything on loopback, on the API port and those after it.

        Without a redis-server on the PATH a single coordinator keeps the fleet in memory.
        """
        if spec.memory_bytes or spec.cpus:
            raise LaunchError("--memory and --cpus limit containers: leave them out with --local")
        if spec.durable and not shutil.which("redis-server"):
            spec = replace(spec, durable=False)

        def address_of(role: Role, index: int) -> str:
            return f"127.0.0.1:{_port(spec, role, index)}"

        def listen_of(role: Role, index: int) -> str:
            page = role is Role.LOAD_MASTER
            return f"127.0.0.1:{spec.web_port}" if page else address_of(role, index)

        services = plan(spec, address_of, listen_of)
        return tuple(replace(s, port=_listens_on(spec, s)) for s in services)

    def digest(self, service: Service) -> str:
        """Changes with the interpreter, too."""
        return service.digest(sys.executable)

    def instances(self, cluster: str) -> list[Instance]:
        """Every process with a record, ended or not."""
        found = [self._instance(record) for record in self._records(cluster)]
        return sorted(found, key=lambda i: (_ROLES.index(i.role), i.index))

    def composed(self, project: str) -> list[Instance]:
        """Compose runs containers only."""
        return []

    def prepare(self, cluster: str) -> bool:
        """The folder of records and logs."""
        folder = self._folder / cluster
        if folder.exists():
            return False
        folder.mkdir(parents=True, mode=0o700)
        return True

    def remember(self, cluster: str, text: str) -> None:
        """A file beside the records."""
        (self._folder / cluster / _SPEC_FILE).write_text(text)

    def recall(self, cluster: str) -> str | None:
        """What the file holds."""
        path = self._folder / cluster / _SPEC_FILE
        return path.read_text() if path.exists() else None

    def start(self, cluster: str, service: Service) -> None:
        """Start one process in a session of its own, its output into its log."""
        if service.port is not None:
            _check_port_free(service.name, service.port)
        folder = self._folder / cluster
        record = _Record(
            name=service.name,
            role=service.role.value,
            index=service.index,
            pid=0,
            start_ticks=0,
            digest=self.digest(service),
            port=service.port,
            arguments=_arguments(service, folder),
            environment=dict(service.environment),
            folder=str(_working_folder(service, folder)),
        )
        self._launch(cluster, record)

    def remove(self, cluster: str, name: str) -> None:
        """SIGTERM, SIGKILL after ten seconds, then the record and the log go."""
        with contextlib.suppress(LaunchError):
            self.stop(cluster, name)
        for suffix in (".json", ".log"):
            (self._folder / cluster / f"{name}{suffix}").unlink(missing_ok=True)

    def discard(self, cluster: str) -> None:
        """Removes the folder."""
        shutil.rmtree(self._folder / cluster, ignore_errors=True)

    def logs(self, cluster: str, name: str, lines: int) -> Iterator[str]:
        """The end of the log file."""
        path = self._folder / cluster / f"{name}.log"
        if path.exists():
            yield from path.read_text("utf-8", "replace").splitlines()[-lines:]

    def kill(self, cluster: str, name: str) -> None:
        """Nobody restarts it: ``resume`` does."""
        record = self._record(cluster, name)
        self._signal(record, signal.SIGKILL)
        self._wait_gone(record, STOP_SECONDS)

    def stop(self, cluster: str, name: str) -> None:
        """Waits until it has ended."""
        record = self._record(cluster, name)
        self._signal(record, signal.SIGCONT)
        self._signal(record, signal.SIGTERM)
        if not self._wait_gone(record, STOP_SECONDS):
            self._signal(record, signal.SIGKILL)
            self._wait_gone(record, STOP_SECONDS)

    def resume(self, cluster: str, name: str) -> None:
        """SIGCONT for what lives, a new process for what ended."""
        record = self._record(cluster, name)
        if self._lives(record):
            self._signal(record, signal.SIGCONT)
        else:
            self._launch(cluster, replace(record, restart_count=record.restart_count + 1))

    def pause(self, cluster: str, name: str) -> None:
        """SIGSTOP."""
        self._signal(self._record(cluster, name), signal.SIGSTOP)

    def disconnect(self, cluster: str, name: str) -> None:
        """Always raises."""
        raise LaunchError(f"cannot disconnect {name}: processes share the network of this machine")

    def reconnect(self, cluster: str, name: str) -> None:
        """Nothing was cut."""

    def run_module(self, cluster: str, service: Service, module: Sequence[str]) -> str:
        """A child of this process."""
        done = subprocess.run(
            [sys.executable, "-m", *module],
            env={**os.environ, **service.environment},
            capture_output=True,
            text=True,
            timeout=_MODULE_SECONDS,
            check=False,
        )
        if done.returncode:
            raise LaunchError(f"{module[0]}: {_last_line(done.stderr)}")
        return done.stdout

    def redis_command(self, cluster: str, arguments: Sequence[str]) -> str:
        """Runs redis-cli against the cluster's store."""
        stores = [r for r in self._records(cluster) if r.role == Role.REDIS]
        if not stores or not shutil.which("redis-cli"):
            raise LaunchError("this cluster has no Redis that redis-cli could reach")
        command = ["redis-cli", "-p", str(stores[0].port), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        return done.stdout.strip()

    def _launch(self, cluster: str, record: _Record) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **record.environment}
        log_file = self._folder / cluster / f"{record.name}.log"
        # A process that was started and is not on record would be nobody's to stop.
        with log_file.open("ab") as log, _interrupts_held():
            child = subprocess.Popen(
                record.arguments,
                env=environment,
                cwd=record.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._children[child.pid] = child
            known = replace(record, pid=child.pid, start_ticks=_start_ticks(child.pid) or 0)
            path = self._folder / cluster / f"{record.name}.json"
            path.write_text(json.dumps(asdict(known)))

    def _records(self, cluster: str) -> list[_Record]:
        paths = sorted((self._folder / cluster).glob("*.json"))
        return [_Record(**json.loads(path.read_text())) for path in paths]

    def _record(self, cluster: str, name: str) -> _Record:
        for record in self._records(cluster):
            if record.name == name:
                return record
        raise LaunchError(f"no process named {name} in cluster {cluster}")

    def _lives(self, record: _Record) -> bool:
        lives = record.start_ticks != 0 and _start_ticks(record.pid) == record.start_ticks
        if not lives and (child := self._children.get(record.pid)) is not None:
            child.wait()
        return lives

    def _signal(self, record: _Record, number: int) -> None:
        if self._lives(record):
            with contextlib.suppress(ProcessLookupError):
                os.kill(record.pid, number)

    def _wait_gone(self, record: _Record, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._lives(record):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def _instance(self, record: _Record) -> Instance:
        lives = self._lives(record)
        child = self._children.get(record.pid)
        return Instance(
            name=record.name,
            role=Role(record.role),
            index=record.index,
            state=_state(record) if lives else InstanceState.EXITED,
            digest=record.digest,
            restart_count=record.restart_count,
            exit_code=child.returncode if child and not lives else None,
            address=f"127.0.0.1:{record.port}" if record.port else "",
            detail=f"pid {record.pid}",
        )


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Puts Ctrl-C and SIGTERM off until the block is done. Handlers are used because a mask would be inherited."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda got, frame: came.append(got)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


def _port(spec: ClusterSpec, role: Role, index: int) -> int:
    offset = {
        Role.COORDINATOR: 0,
        Role.REDIS: _REDIS_OFFSET,
        Role.LOAD_MASTER: _LOAD_OFFSET,
        Role.LOAD_WORKER: _LOAD_OFFSET,
        Role.AGENT: _AGENT_OFFSET,
    }[role]
    return spec.api_port + offset + index


def _listens_on(spec: ClusterSpec, service: Service) -> int | None:
    if service.role is Role.LOAD_WORKER:
        return None
    page = service.role is Role.LOAD_MASTER
    return spec.web_port if page else _port(spec, service.role, service.index)


def _check_port_free(name: str, port: int) -> None:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError as error:
            raise LaunchError(
                f"port {port} on 127.0.0.1, meant for {name}, is taken: choose others with "
                "--api-port and --web-port"
            ) from error


def _arguments(service: Service, folder: Path) -> list[str]:
    if service.role is Role.REDIS:
        data = folder / "redis"
        data.mkdir(exist_ok=True)
        place = ("--bind", "127.0.0.1", "--port", str(service.port), "--dir", str(data))
        return ["redis-server", *service.command, *place]
    if service.program == "locust":
        return [sys.executable, "-m", "locust", *service.command]
    return [sys.executable, "-m", _MODULES[service.command[0]], *service.command[1:]]


def _working_folder(service: Service, folder: Path) -> Path:
    if service.program != "locust":
        return folder
    # The command names loadtest/locustfile.py.
    return shipped(LOAD_TEST).parent


def _state(record: _Record) -> InstanceState:
    if _run_state(record.pid) == "T":
        return InstanceState.PAUSED
    return (
        InstanceState.READY
        if _READY[Role(record.role)](record.port or 0)
        else InstanceState.STARTING
    )


def _grpc_serves(port: int) -> bool:
    return probe(f"127.0.0.1:{port}", deadline_seconds=_PROBE_SECONDS) == "SERVING"


def _redis_answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_PROBE_SECONDS) as link:
            link.sendall(b"PING\r\n")
            return link.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _page_answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=_PROBE_SECONDS):
            return True
    except OSError:
        return False


def _lives_suffices(port: int) -> bool:
    return True


_READY: Final[dict[Role, Callable[[int], bool]]] = {
    Role.REDIS: _redis_answers,
    Role.COORDINATOR: _grpc_serves,
    Role.AGENT: _grpc_serves,
    Role.LOAD_MASTER: _page_answers,
    Role.LOAD_WORKER: _lives_suffices,
}


def _stat_fields(pid: int) -> list[Any]:
    """/proc/PID/stat after the name, which may hold spaces: state first, start time twentieth."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _run_state(pid: int) -> str:
    fields = _stat_fields(pid)
    return str(fields[0]) if fields else ""


def _start_ticks(pid: int) -> int | None:
    fields = _stat_fields(pid)
    if not fields or fields[0] == "Z":
        return None
    return int(fields[19])
