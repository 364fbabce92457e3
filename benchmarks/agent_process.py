"""A node agent as a process of its own, and what it uses: CPU time and memory from /proc."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from bpfleet.client.bpf import AgentClient
from bpfleet.client.session import Session

START_SECONDS = 60


class AgentProcess:
    """Runs for the length of a ``with``."""

    def __init__(self, *, agent_id: str = "b1", nodes: int = 1, model: str = "6.12") -> None:
        self.agent_id = agent_id
        self.nodes = nodes
        self.target = f"127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "bpfleet.node_agent", "--listen", self.target]
        command += ["--agent-id", agent_id, "--nodes", str(nodes), "--kernel", model]
        self._process = subprocess.Popen([*command, "--log-level", "error"])
        self.session = Session(self.target, deadline_seconds=START_SECONDS)
        self.client = AgentClient(self.session)

    def __enter__(self) -> Self:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                next(iter(self.client.list_nodes()), None)
                return self
            except Exception:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self.stop()
                    raise
                time.sleep(0.05)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self.session.close()
        self._process.terminate()
        self._process.wait(30)

    def node_id(self, number: int) -> str:
        """The id of node ``number``, counted from 0."""
        return f"{self.agent_id}-{number + 1:05}"

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        text = Path(f"/proc/{self._process.pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> int:
        """Resident memory."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
