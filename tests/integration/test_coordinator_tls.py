"""Coordinator, real agent and client with mutual TLS and a token, certificates from our own small CA."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from coordinator_process import CoordinatorProcess, until
from grpc import aio
from redis_server import RedisServer, free_port, needs_redis

from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.rpc.channel import aio_channel
from bpfleet.rpc.errors import decode_rpc_error
from bpfleet.v1 import fleet_service_pb2 as pb
from bpfleet.v1 import workload_pb2
from bpfleet.v1.fleet_service_pb2_grpc import FleetServiceStub

ISSUE = Path(__file__).parents[2] / "deploy" / "tls" / "issue.sh"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    for arguments in ([], ["coordinator"], ["agent"], ["user"], ["--token"]):
        subprocess.run([ISSUE, directory, *arguments], check=True, capture_output=True)
    stranger = directory / "stranger"
    subprocess.run([ISSUE, stranger, "user"], check=True, capture_output=True)
    return directory


def flags(directory: Path, name: str) -> list[str]:
    return [
        *(
            "--tls-cert",
            str(directory / f"{name}.pem"),
            "--tls-key",
            str(directory / f"{name}.key"),
        ),
        *("--tls-client-ca", str(directory / "ca.pem"), "--tls-ca", str(directory / "ca.pem")),
        *("--token-file", str(directory / "token")),
    ]


def options(target: str, directory: Path, name: str | None, token: str | None) -> ChannelOptions:
    return ChannelOptions(
        target=target,
        ca_file=directory / "ca.pem",
        certificate_file=directory / f"{name}.pem" if name else None,
        key_file=directory / f"{name}.key" if name else None,
        token=token,
    )


def command_line(target: str, directory: Path) -> str:
    """``bpfleet fleet status`` as a member of the fleet who does not know which coordinator leads."""
    settings = {
        "BPFLEET_COORDINATOR": f"127.0.0.1:{free_port()}, {target}",
        "BPFLEET_TLS_CA": str(directory / "ca.pem"),
        "BPFLEET_TLS_CERT": str(directory / "user.pem"),
        "BPFLEET_TLS_KEY": str(directory / "user.key"),
        "BPFLEET_TOKEN_FILE": str(directory / "token"),
    }
    command = [sys.executable, "-m", "bpfleet.cli.main", "fleet", "status", "--json"]
    done = subprocess.run(
        command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def status(target: str, directory: Path, name: str | None, token: str | None):
    async with aio_channel(options(target, directory, name, token)) as channel:
        return await FleetServiceStub(channel).GetFleetStatus(
            pb.GetFleetStatusRequest(), timeout=60
        )


async def refusal(*arguments):
    with pytest.raises(aio.AioRpcError) as failure:
        await status(*arguments)
    return decode_rpc_error(failure.value)


@pytest.mark.slow
def test_a_fleet_under_mutual_tls_works_for_those_who_belong_to_it(certificates, tmp_path):
    async def body() -> None:
        token = (certificates / "token").read_text().strip()
        coordinator = CoordinatorProcess(tmp_path, *flags(certificates, "coordinator"))
        coordinator.start()
        command = [sys.executable, "-m", "bpfleet.node_agent", "--nodes", "2"]
        command += ["--listen", f"127.0.0.1:{free_port()}", "--coordinator", coordinator.target]
        with (tmp_path / "agent.log").open("wb") as log:
            agent = subprocess.Popen(
                [*command, *flags(certificates, "agent")], stdout=log, stderr=log
            )
        try:
            async with asyncio.timeout(300):
                await until(lambda: _nodes(coordinator.target, certificates, token, 2))
                good = options(coordinator.target, certificates, "user", token)
                async with aio_channel(good) as channel:
                    stub = FleetServiceStub(channel)
                    spec = workload_pb2.WorkloadSpec(name="web", replicas=2, application="falco")
                    await stub.CreateWorkload(pb.CreateWorkloadRequest(spec=spec), timeout=60)

                    async def runs() -> bool:
                        request = pb.GetWorkloadRequest(name="web")
                        got = await stub.GetWorkload(request, timeout=60)
                        return got.workload.status.running_count == 2

                    await until(runs)
                said = await asyncio.to_thread(command_line, coordinator.target, certificates)
                assert json.loads(said)["ready_node_count"] == 2
                await _strangers_are_refused(coordinator.target, certificates, token)
        finally:
            agent.kill()
            agent.wait()
            coordinator.kill()

    asyncio.run(body())


async def _nodes(target: str, directory: Path, token: str, count: int) -> bool:
    told = await status(target, directory, "user", token)
    return told.ready_node_count == count


async def _strangers_are_refused(target: str, certificates: Path, token: str) -> None:
    for wrong in (None, "wrong"):
        told = await refusal(target, certificates, "user", wrong)
        assert told.code is grpc.StatusCode.UNAUTHENTICATED
        assert "token" in told.message
        assert token not in told.message
        assert not {"leader", "node"} & told.metadata.keys()
    no_certificate = await refusal(target, certificates, None, token)
    assert no_certificate.code is grpc.StatusCode.UNAVAILABLE
    stranger = ChannelOptions(
        target=target,
        ca_file=certificates / "ca.pem",
        certificate_file=certificates / "stranger" / "user.pem",
        key_file=certificates / "stranger" / "user.key",
        token=token,
    )
    async with aio_channel(stranger) as channel:
        with pytest.raises(aio.AioRpcError) as failure:
            await FleetServiceStub(channel).GetFleetStatus(pb.GetFleetStatusRequest(), timeout=60)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--redis", "redis://127.0.0.1:1/0"], "Redis does not answer"),
        (["--redis", "http://127.0.0.1"], "is not a URL"),
        (["--redis", "redis://u:secret@127.0.0.1/0"], "--redis-password-file"),
        (["--redis", "http://u:secret@127.0.0.1/0"], "is not a URL"),
        (["--listen", "nowhere"], "not an address"),
        (["--lease", "nan"], "--lease"),
        (["--eviction-soft", "100M"], "not above --eviction-available"),
        (["--tls-cert", "missing.pem"], "give both or neither"),
        (["--tls-cert", "missing.pem", "--tls-key", "missing.key"], "cannot read"),
        (["--metrics", "1.2.3.4.5"], "not an address"),
    ],
)
def test_a_coordinator_that_cannot_start_says_why_in_one_line(arguments, complaint):
    command = [sys.executable, "-m", "bpfleet.coordinator", "--listen", "127.0.0.1:0"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=240)
    assert done.returncode == (1 if "does not answer" in complaint else 2)
    said = [line for line in done.stderr.splitlines() if "level=" not in line]
    assert len(said) == 1, done.stderr
    assert complaint in said[0]
    assert "secret" not in done.stderr


@needs_redis
@pytest.mark.redis
@pytest.mark.slow
def test_a_coordinator_that_may_wait_begins_once_redis_is_there(tmp_path):
    store = RedisServer(tmp_path)
    coordinator = CoordinatorProcess(tmp_path, "--redis", store.url, "--redis-wait", "60")
    coordinator.start()

    async def body() -> None:
        async def waits() -> bool:
            return "event=waiting_for_store" in coordinator.output

        await until(waits)
        await asyncio.to_thread(store.start)
        async with aio.insecure_channel(coordinator.target) as channel:
            stub = FleetServiceStub(channel)
            told = await until(lambda: stub.GetFleetStatus(pb.GetFleetStatusRequest(), timeout=60))
        assert told.store == "redis"

    try:
        asyncio.run(body())
    finally:
        coordinator.kill()
        store.kill()


@pytest.mark.slow
def test_sigterm_ends_a_coordinator_cleanly(tmp_path):
    async def body() -> None:
        coordinator = CoordinatorProcess(tmp_path)
        coordinator.start()
        async with aio.insecure_channel(coordinator.target) as channel:
            stub = FleetServiceStub(channel)

            async def leads() -> bool:
                await stub.GetFleetStatus(pb.GetFleetStatusRequest(), timeout=60)
                return True

            await until(leads)
            watch = stub.WatchFleet(pb.WatchFleetRequest())
            await watch.read()
            assert await asyncio.to_thread(coordinator.terminate) == 0
        assert "Traceback" not in coordinator.output, coordinator.output

    asyncio.run(body())
