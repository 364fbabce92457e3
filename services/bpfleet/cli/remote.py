"""What commands that talk to a server share: where it is, how to reach it, and how its errors read."""

import itertools
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Final

import click
import grpc
from click.core import ParameterSource

from bpfleet.cli.servers import Servers
from bpfleet.client.bpf import AgentClient
from bpfleet.client.fleet import FleetClient
from bpfleet.client.session import CallError, Session, Verdict
from bpfleet.rpc.addresses import ChannelOptions, parse_address
from bpfleet.rpc.errors import ApiError
from bpfleet.rpc.server import SettingsError
from bpfleet.rpc.tracing import start_tracing
from bpfleet.v1 import fleet_service_pb2

__all__ = ["agent", "fleet"]

EXIT_FAILED: Final = 1
EXIT_BAD_INPUT: Final = 2
# How long to look for the coordinator that leads; a take-over is done by then.
_LEADER_SECONDS: Final = 20.0
_LEADER_POLL_SECONDS: Final = 0.2


@contextmanager
def agent(server: ChannelOptions) -> Iterator[AgentClient]:
    """A client of a node agent; its errors end the command with one line."""
    server = _agent_of_the_node(server)
    with _errors_in_words(server.target, "agent"), _traced(server) as session:
        yield AgentClient(session)


def _agent_of_the_node(server: ChannelOptions) -> ChannelOptions:
    """Where the agent is that carries the node of this command, if a coordinator is to say so."""
    if not isinstance(server, Servers) or not server.directory:
        return server
    node = click.get_current_context().params.get("node")
    if node is None:
        source = click.get_current_context().get_parameter_source("directory")
        if source is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                "--coordinator finds the agent of one node; name the agent here with --agent"
                " (bpfleet fleet nodes -o json shows addresses)"
            )
        return server
    first, *others = server.directory
    with fleet(replace(server, target=first, others=tuple(others))) as client:
        address = client.node(node).agent_address
    if not address:
        raise _Failed(f"no agent carries {node} now; bpfleet fleet nodes shows the others")
    return replace(server, target=_reached(address, node, tls=server.ca_file is not None))


def _reached(address: str, node: str, *, tls: bool) -> str:
    """The address as this machine knows it. Names of containers are known to their engine."""
    host, port = parse_address(address)
    try:
        socket.getaddrinfo(host, port)
    except OSError:
        # A certificate would name the container, not its number.
        found = "" if tls else _on_the_engine(host)
        if not found:
            raise _Failed(
                f"the agent of {node} is at {address}, a name that this machine does not know: run the command inside"
                " the cluster, as with docker compose exec coordinator bpfleet ... --coordinator coordinator:7070"
            ) from None
        return f"{found}:{port}"
    return address


def _on_the_engine(host: str) -> str:
    # Only here, and only where nothing else helps: the engine's library takes its time to load.
    from bpfleet.launcher.docker import DockerEngine
    from bpfleet.launcher.errors import LaunchError

    try:
        with closing(DockerEngine()) as engine:
            return engine.address_of(host)
    except LaunchError:
        return ""


@contextmanager
def fleet(server: ChannelOptions) -> Iterator[FleetClient]:
    """A client of the coordinator that leads; its errors end the command with one line."""
    with _errors_in_words(server.target, "coordinator"), _leading(server) as session:
        yield FleetClient(session)


def _traced(server: ChannelOptions) -> Session:
    start_tracing("cli")
    return Session(server)


def _leading(server: ChannelOptions) -> Session:
    """A session with the coordinator that leads; with one of them where none is found in time.

    One name may stand for several coordinators, so each attempt connects anew.
    """
    start_tracing("cli")
    others = server.others if isinstance(server, Servers) else ()
    give_up_at, said = time.monotonic() + _LEADER_SECONDS, False
    for target in itertools.cycle((server.target, *others)):
        session = Session(replace(server, target=target))
        why = _why_not(session)
        another_may = why is not None and (why.reason == "NOT_LEADER" or others)
        if not another_may or time.monotonic() > give_up_at:
            return session
        if not said:
            click.echo(
                f"waiting up to {_LEADER_SECONDS:.0f} s for a coordinator that leads", err=True
            )
            said = True
        session.close()
        time.sleep(_LEADER_POLL_SECONDS)
    raise AssertionError("the cycle has no end")


def _why_not(session: Session) -> CallError | None:
    """What keeps a coordinator from answering; None where it leads."""
    request = fleet_service_pb2.GetFleetStatusRequest()
    try:
        session.call(FleetClient(session).stub.GetFleetStatus, request)
    except CallError as error:
        return error
    return None


@contextmanager
def _errors_in_words(target: str, what: str) -> Iterator[None]:
    try:
        yield
    except Verdict as error:
        raise _Failed(str(error)) from None
    except CallError as error:
        kind = _BadInput if error.code is grpc.StatusCode.INVALID_ARGUMENT else _Failed
        raise kind(_in_words(error, target, what)) from None
    except ApiError as error:
        raise click.UsageError(error.message) from None
    except SettingsError as error:
        raise _Failed(str(error)) from None


def _in_words(error: CallError, target: str, what: str) -> str:
    if error.code is grpc.StatusCode.UNAVAILABLE and not error.reason:
        return f"no {what} answers at {target}; start one, or name another with --{what}"
    if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"the {what} at {target} did not answer in time"
    if error.code is grpc.StatusCode.UNAUTHENTICATED:
        return f"the {what} at {target} asks for a token; give it with --token-file"
    if error.code is grpc.StatusCode.UNIMPLEMENTED:
        return f"{target} is not a {what}: it does not know this call"
    return error.message or error.code.name


class _Failed(click.ClickException):
    """The server said no, or could not be reached."""

    exit_code = EXIT_FAILED


class _BadInput(click.ClickException):
    """The server could not use what the user gave."""

    exit_code = EXIT_BAD_INPUT
