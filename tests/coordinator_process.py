"""Real coordinator processes for tests, and waiting with a deadline instead of sleeping."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc
from grpc import aio
from redis_server import free_port

from bpfleet.v1.fleet_service_pb2_grpc import FleetServiceStub

T = TypeVar("T")


class CoordinatorProcess:
    """``python -m bpfleet.coordinator`` on a free port; ``kill`` is kill -9."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.target = f"127.0.0.1:{free_port()}"
        self._arguments = arguments
        self._log = directory / f"coordinator-{self.target.rpartition(':')[2]}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "bpfleet.coordinator", "--listen", self.target]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*command, *self._arguments], stderr=log, stdout=log)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """SIGSTOP."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def terminate(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self._process is not None, "start comes first"
        self._process.terminate()
        status = self._process.wait(240)
        self._process = None
        return status

    @property
    def output(self) -> str:
        return self._log.read_text()


async def until(look: Callable[[], Awaitable[T]], seconds: float = 240) -> T:
    """Asks again until the answer is true; calls that fail count as not yet."""
    deadline = time.monotonic() + seconds
    answer: Any = None
    while time.monotonic() < deadline:
        try:
            answer = await look()
            if answer:
                return answer
        except aio.AioRpcError as error:
            answer = error
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {answer}")


class Fleet:
    """Calls of FleetService to whichever of several coordinators leads."""

    def __init__(self, *targets: str) -> None:
        self._channels = [aio.insecure_channel(target) for target in targets]
        # Any: the asyncio stub's type exists for the type checker only.
        self._stubs: list[Any] = [FleetServiceStub(channel) for channel in self._channels]
        self.first = self._stubs[0]

    async def call(self, method: str, request: Any, seconds: float = 240) -> Any:
        """Retries UNAVAILABLE on every coordinator in turn, until one answers."""
        deadline = time.monotonic() + seconds
        turn = 0
        while True:
            stub = self._stubs[turn % len(self._stubs)]
            try:
                return await getattr(stub, method)(request, timeout=60)
            except aio.AioRpcError as error:
                away = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
                if error.code() not in away or time.monotonic() > deadline:
                    raise
            turn += 1
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()
