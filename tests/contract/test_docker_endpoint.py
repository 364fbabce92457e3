"""The engine over https, with the certificates of the environment: the same engine behind a small TLS end."""

import asyncio
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import free_port

from bpfleet.launcher.docker import DockerEngine
from bpfleet.launcher.errors import LaunchError

ISSUE = Path(__file__).resolve().parents[2] / "deploy" / "tls" / "issue.sh"
SOCKET = Path("/var/run/docker.sock")

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.skipif(not SOCKET.is_socket(), reason=f"no Docker Engine at {SOCKET}"),
]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Named as Docker wants them: ca.pem, cert.pem, key.pem."""
    directory = tmp_path_factory.mktemp("tls")
    subprocess.run([ISSUE, directory, "cert"], check=True, capture_output=True)
    (directory / "cert.key").rename(directory / "key.pem")
    return directory


@pytest.fixture(scope="module")
def address(certificates: Path) -> Iterator[str]:
    """Where the engine is reached by those who show a certificate."""
    context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.pem")
    )
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    start = asyncio.start_server(_pass_on, "127.0.0.1", 0, ssl=context)
    server = asyncio.run_coroutine_threadsafe(start, loop).result(30)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    asyncio.run_coroutine_threadsafe(_end(server), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    from_engine, to_engine = await asyncio.open_unix_connection(str(SOCKET))
    await asyncio.gather(_copy(reader, to_engine), _copy(from_engine, writer))


async def _end(server: asyncio.Server) -> None:
    server.close()
    connections = asyncio.all_tasks() - {asyncio.current_task()}
    for task in connections:
        task.cancel()
    await asyncio.gather(*connections, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@pytest.mark.parametrize("scheme", ["tcp", "https"])
def test_the_ca_of_the_engine_counts_not_the_one_for_the_rest_of_the_world(
    address: str, certificates: Path, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", os.devnull)
    monkeypatch.setenv("DOCKER_HOST", f"{scheme}://{address}")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(certificates))
    engine = DockerEngine()
    try:
        assert engine.instances("nobody") == []
    finally:
        engine.close()


def test_an_engine_that_cannot_be_reached_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")
    with pytest.raises(LaunchError, match=r"no Docker Engine answers.*set DOCKER_HOST"):
        DockerEngine()
