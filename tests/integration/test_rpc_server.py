"""The server builder on loopback: what clients see of malformed messages, bugs, tokens, TLS and used ports."""

import asyncio
import contextlib
import subprocess
from collections import Counter
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from bpfleet.abi.errno import Errno
from bpfleet.kernel.errors import KernelError, Reason
from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.rpc.admission import Admission, Budget, Kind
from bpfleet.rpc.channel import aio_channel, blocking_channel
from bpfleet.rpc.errors import decode_rpc_error
from bpfleet.rpc.server import ListenError, RpcServer, ServerOptions, SettingsError
from bpfleet.rpc.tokens import Tokens
from bpfleet.v1 import node_service_pb2 as pb
from bpfleet.v1 import node_service_pb2_grpc as pb_grpc

SERVICE = "bpfleet.v1.NodeService"
METHOD = f"/{SERVICE}/GetNode"


class Misbehaving(pb_grpc.NodeServiceServicer):
    """Answers by what its request names: a node, a verdict, a bug."""

    async def GetNode(self, request, context):
        if request.name == "bug":
            raise ZeroDivisionError
        if request.name == "verdict":
            raise KernelError(
                Errno.EPERM, Reason.RLIMIT_MEMLOCK_EXCEEDED, "64 KiB", limit_bytes=65536
            )
        return pb.GetNodeResponse(node={"name": request.name})

    async def WatchEvents(self, request, context):
        yield pb.WatchEventsResponse(revision=1)
        if request.name == "bug":
            raise ZeroDivisionError
        raise KernelError(Errno.ENOENT, Reason.NO_SUCH_OBJECT, "no")


# The methods a test does not call keep the generated answer, UNIMPLEMENTED.
Misbehaving.__abstractmethods__ = frozenset()


@asynccontextmanager
async def serving(admission=None, **options):
    server = RpcServer(
        ServerOptions(**options),
        [lambda s: pb_grpc.add_NodeServiceServicer_to_server(Misbehaving(), s)],
        [SERVICE],
        admission=admission,
    )
    await server.start()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop(0)


def run(test, **options):
    async def main():
        async with serving(**options) as target:
            await asyncio.wait_for(test(target), 240)

    asyncio.run(main())


async def refusal(call):
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return decode_rpc_error(caught.value)


def test_a_verdict_reaches_the_client_with_its_numbers():
    async def test(target):
        async with aio_channel(ChannelOptions(target=target)) as channel:
            stub = pb_grpc.NodeServiceStub(channel)
            assert (await stub.GetNode(pb.GetNodeRequest(name="n"))).node.name == "n"
            seen = await refusal(stub.GetNode(pb.GetNodeRequest(name="verdict")))
            assert (seen.errno, seen.reason) == (Errno.EPERM, "RLIMIT_MEMLOCK_EXCEEDED")
            assert seen.metadata["limitBytes"] == "65536"

    run(test)


def test_a_bug_is_internal_without_its_details_and_the_server_goes_on(caplog):
    async def test(target):
        async with aio_channel(ChannelOptions(target=target)) as channel:
            stub = pb_grpc.NodeServiceStub(channel)
            seen = await refusal(stub.GetNode(pb.GetNodeRequest(name="bug")))
            assert (seen.code, seen.reason, seen.errno) == (
                grpc.StatusCode.INTERNAL,
                "INTERNAL",
                None,
            )
            assert "ZeroDivision" not in seen.message
            assert (await stub.GetNode(pb.GetNodeRequest(name="n"))).node.name == "n"

    run(test)
    assert f"event=internal_error method={METHOD}" in caplog.text


def test_a_stream_ends_with_a_rich_status_after_what_it_sent():
    async def test(target):
        async with aio_channel(ChannelOptions(target=target)) as channel:
            call = pb_grpc.NodeServiceStub(channel).WatchEvents(pb.WatchEventsRequest())
            assert (await call.read()).revision == 1
            seen = await refusal(call.read())
            assert (seen.code, seen.reason) == (grpc.StatusCode.NOT_FOUND, "NO_SUCH_OBJECT")

    run(test)


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff", b"\x0a\x02\xff\xfe"], ids=["no message", "text that is not UTF-8"]
)
def test_bytes_that_are_no_request_are_the_clients_fault(data):
    async def test(target):
        async with aio_channel(ChannelOptions(target=target)) as channel:
            seen = await refusal(channel.unary_unary(METHOD)(data))
            assert (seen.code, seen.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_REQUEST")

    run(test)


def test_a_message_over_the_limit_is_refused():
    async def test(target):
        async with aio_channel(ChannelOptions(target=target)) as channel:
            stub = pb_grpc.NodeServiceStub(channel)
            seen = await refusal(stub.GetNode(pb.GetNodeRequest(name="x" * 5000)))
            assert seen.code is grpc.StatusCode.RESOURCE_EXHAUSTED

    run(test, message_bytes_max=4096)


def test_health_and_reflection_are_served():
    async def test(target):
        async with aio_channel(ChannelOptions(target=target)) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for service in ("", SERVICE):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            listed = {s.name for s in (await call.read()).list_services_response.service}
            assert {SERVICE, "grpc.health.v1.Health"} <= listed
            await call.done_writing()

    run(test)


def test_a_token_is_asked_of_every_call_but_health_checks():
    async def test(target):
        async with aio_channel(ChannelOptions(target=target)) as channel:
            stub = pb_grpc.NodeServiceStub(channel)
            seen = await refusal(stub.GetNode(pb.GetNodeRequest(name="n")))
            assert seen.code is grpc.StatusCode.UNAUTHENTICATED
            assert "secret" not in seen.message
            seen = await refusal(stub.WatchEvents(pb.WatchEventsRequest()).read())
            assert seen.code is grpc.StatusCode.UNAUTHENTICATED
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        async with aio_channel(ChannelOptions(target=target, token="secret")) as channel:
            stub = pb_grpc.NodeServiceStub(channel)
            assert (await stub.GetNode(pb.GetNodeRequest(name="n"))).node.name == "n"
            assert (await stub.WatchEvents(pb.WatchEventsRequest()).read()).revision == 1

    run(test, tokens=Tokens(operator="secret"))


def test_blocking_clients_send_the_token_too():
    async def test(target):
        def calls():
            with blocking_channel(ChannelOptions(target=target, token="secret")) as channel:
                stub = pb_grpc.NodeServiceStub(channel)
                node = stub.GetNode(pb.GetNodeRequest(name="n"), timeout=240).node.name
                return node, next(stub.WatchEvents(pb.WatchEventsRequest(), timeout=240)).revision

        assert await asyncio.to_thread(calls) == ("n", 1)

    run(test, tokens=Tokens(operator="secret"))


def test_a_used_port_is_one_clear_sentence():
    async def test(target):
        with pytest.raises(
            ListenError, match=rf"^cannot listen on {target}: Address already in use; stop"
        ):
            async with serving(listen=target):
                pass

    run(test)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"listen": "7071"}, "'7071' is not an address"),
        ({"listen": "127.0.0.1:70000"}, "is not an address"),
        ({"certificate_file": "c.pem"}, "both a certificate and a key"),
        ({"client_ca_file": "ca.pem"}, "needs a server certificate"),
    ],
)
def test_settings_that_cannot_be_right_are_named(options, sentence):
    with pytest.raises(SettingsError, match=sentence):
        ServerOptions(**options)


def test_a_certificate_that_is_not_there_is_named(tmp_path):
    missing = tmp_path / "cert.pem"
    with pytest.raises(SettingsError, match=r"cannot read .*cert\.pem: No such file"):
        run(None, certificate_file=missing, key_file=missing)


def test_hosts_that_others_can_reach_are_told_from_loopback():
    assert ServerOptions(listen="127.0.0.1:1").is_loopback
    assert ServerOptions(listen="[::1]:1").is_loopback
    assert ServerOptions(listen="localhost:1").is_loopback
    assert not ServerOptions(listen="0.0.0.0:1").is_loopback


def openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=30)


@pytest.fixture
def certificates(tmp_path):
    """A CA, a server's and a client's certificate, made by openssl."""
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(
        tmp_path, "req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem",
        "-subj", "/CN=test CA", "-days", "2",
    )  # fmt: skip
    (tmp_path / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl(
            tmp_path, "req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr",
            "-subj", f"/CN={name}",
        )  # fmt: skip
        openssl(
            tmp_path, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-out", f"{name}.pem", "-days", "2", "-extfile", "names",
        )  # fmt: skip
    return tmp_path


@pytest.mark.slow
def test_mutual_tls_lets_in_who_has_a_certificate_and_nobody_else(certificates):
    async def test(target):
        trusting = {"target": target, "ca_file": certificates / "ca.pem"}
        known = {
            "certificate_file": certificates / "client.pem",
            "key_file": certificates / "client.key",
        }
        async with aio_channel(ChannelOptions(**trusting, **known, token="secret")) as channel:
            stub = pb_grpc.NodeServiceStub(channel)
            assert (await stub.GetNode(pb.GetNodeRequest(name="n"))).node.name == "n"
        for options in (ChannelOptions(**trusting), ChannelOptions(target=target)):
            async with aio_channel(options) as channel:
                stub = pb_grpc.NodeServiceStub(channel)
                seen = await refusal(stub.GetNode(pb.GetNodeRequest(name="n"), timeout=5))
                assert seen.code is grpc.StatusCode.UNAVAILABLE

    run(
        test,
        certificate_file=certificates / "server.pem",
        key_file=certificates / "server.key",
        client_ca_file=certificates / "ca.pem",
        tokens=Tokens(operator="secret"),
    )


def test_a_stopped_server_lets_a_running_call_finish():
    entered, leave = None, None

    class Slow(Misbehaving):
        async def GetNode(self, request, context):
            entered.set()
            await leave.wait()
            return pb.GetNodeResponse(node={"name": "late"})

    Slow.__abstractmethods__ = frozenset()

    async def main():
        nonlocal entered, leave
        entered, leave = asyncio.Event(), asyncio.Event()
        server = RpcServer(
            ServerOptions(),
            [lambda s: pb_grpc.add_NodeServiceServicer_to_server(Slow(), s)],
            [SERVICE],
        )
        await server.start()
        async with aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub = pb_grpc.NodeServiceStub(channel)
            call = stub.GetNode(pb.GetNodeRequest(name="n"))
            await entered.wait()
            stopping = asyncio.create_task(server.stop(10))
            health = health_pb2_grpc.HealthStub(channel)
            with contextlib.suppress(grpc.RpcError):
                while True:  # the stop is under way once new calls are refused
                    await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
            leave.set()
            assert (await call).node.name == "late"
            await stopping

    asyncio.run(asyncio.wait_for(main(), 240))


# -- admission


async def open_streams(make, count):
    """So many streams, of which each has answered or was refused."""
    calls = [make() for _ in range(count)]
    refused = []
    for call in calls:
        try:
            await call.read()
        except grpc.RpcError as error:
            refused.append(decode_rpc_error(error))
    return calls, refused


def test_idle_health_streams_take_no_calls_of_others():
    """Budgets of their own: without them the streams would use up the calls, and health checks with them."""
    small = Admission({Kind.CALL: Budget(8, 8), Kind.HEALTH_WATCH: Budget(4, 2)})

    async def test(target):
        async with aio_channel(ChannelOptions(target=target)) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            streams, refused = await open_streams(
                lambda: health.Watch(health_pb2.HealthCheckRequest()), 20
            )
            assert len(refused) == 18
            assert {error.reason for error in refused} == {"OVERLOADED"}
            assert {error.metadata["retryAfterMs"] for error in refused} == {"1000"}
            stub = pb_grpc.NodeServiceStub(channel)
            assert (await stub.GetNode(pb.GetNodeRequest(name="n"))).node.name == "n"
            await health.Check(health_pb2.HealthCheckRequest())
            for stream in streams:
                stream.cancel()

    run(test, admission=small)


def test_a_place_is_free_again_when_its_stream_ends():
    small = Admission({Kind.HEALTH_WATCH: Budget(1, 1)})

    async def test(target):
        async with aio_channel(ChannelOptions(target=target)) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for _ in range(3):
                stream = health.Watch(health_pb2.HealthCheckRequest())
                while True:
                    try:
                        await stream.read()
                        break
                    except grpc.RpcError:  # the one before has not quite gone
                        stream = health.Watch(health_pb2.HealthCheckRequest())
                stream.cancel()

    run(test, admission=small)


@pytest.mark.slow
def test_ten_thousand_calls_at_once_are_answered_or_told_to_come_again():
    async def test(target):
        async with contextlib.AsyncExitStack() as stack:
            stubs = [
                pb_grpc.NodeServiceStub(
                    await stack.enter_async_context(aio_channel(ChannelOptions(target=target)))
                )
                for _ in range(10)
            ]
            codes = Counter()

            async def call(number):
                try:
                    await stubs[number % 10].GetNode(pb.GetNodeRequest(name="n"), timeout=240)
                    codes["OK"] += 1
                except grpc.RpcError as error:
                    codes[error.code().name] += 1

            await asyncio.gather(*(call(number) for number in range(10_000)))
            assert sum(codes.values()) == 10_000
            assert set(codes) <= {"OK", "UNAVAILABLE", "RESOURCE_EXHAUSTED"}, codes
            assert codes["OK"] > 0

    async def main():
        async with serving() as target:
            await test(target)

    asyncio.run(main())
