"""What commands that talk to a server share: where it is, how to reach it, and how its errors read."""

import itertools
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import grpc
from click.core import ParameterSource

from bpfleet.cli.settings import setting
from bpfleet.client.bpf import AgentClient
from bpfleet.client.fleet import FleetClient
from bpfleet.client.session import CallError, Session, Verdict
from bpfleet.rpc.channel import ChannelOptions
from bpfleet.rpc.errors import ApiError
from bpfleet.rpc.server import SettingsError, parse_address
from bpfleet.rpc.tracing import start_tracing
from bpfleet.v1 import fleet_service_pb2

__all__ = ["agent", "agent_options", "fleet", "fleet_options"]

# click's decorators take and return functions of any kind.
Command = TypeVar("Command", bound=Callable[..., Any])

AGENT_ADDRESS: Final = "127.0.0.1:7071"
COORDINATOR_ADDRESS: Final = "127.0.0.1:7070"
EXIT_FAILED: Final = 1
EXIT_BAD_INPUT: Final = 2
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
# How long to look for the coordinator that leads; a take-over is done by then.
_LEADER_SECONDS: Final = 20.0
_LEADER_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Servers(ChannelOptions):
    """A server; ``others`` may lead in its place."""

    others: tuple[str, ...] = ()
    # Coordinators that know which agent carries a node.
    directory: tuple[str, ...] = ()


def agent_options(command: Command) -> Command:
    """Adds the options that say which agent, to a command that takes ``server``."""
    with_agent = _options(
        command, "--agent", "agent", AGENT_ADDRESS, "BPFLEET_AGENT_ADDRESS", "Node agent."
    )
    return click.option(
        "--coordinator",
        "directory",
        # A context that names an agent means it.
        default=lambda: None if setting("agent") else setting("coordinator"),
        show_default=False,
        envvar="BPFLEET_COORDINATOR",
        is_eager=True,
        metavar="HOST:PORT",
        help="Coordinator to ask which agent carries the node, instead. [env: BPFLEET_COORDINATOR]",
    )(with_agent)


def fleet_options(command: Command) -> Command:
    """Adds the options that say which coordinators, to a command that takes ``server``."""
    return _options(
        command,
        "--coordinator",
        "coordinator",
        COORDINATOR_ADDRESS,
        "BPFLEET_COORDINATOR",
        "Coordinator; several, separated by commas, to ask the one that leads.",
    )


def _options(
    command: Command, flag: str, key: str, address: str, variable: str, text: str
) -> Command:
    """The address, TLS and the token travel as one value named ``server``.

    What neither the command line nor the environment says comes from the configuration file.
    """

    def gather(context: click.Context, parameter: click.Parameter, targets: str) -> ChannelOptions:
        values = context.params
        token_file, ca_file = values.pop("token_file", None), values.pop("tls_ca", None)
        certificate, key = values.pop("tls_cert", None), values.pop("tls_key", None)
        directory = _directory(context, values.pop("directory", None))
        if (certificate or key) and not ca_file:
            raise click.BadParameter(
                "needs --tls-ca, which switches TLS on",
                context,
                param_hint="--tls-cert" if certificate else "--tls-key",
            )
        target, *others = targets.split(",") if flag == "--coordinator" else [targets]
        try:
            return _Servers(
                target=target.strip(),
                others=tuple(other.strip() for other in others),
                directory=directory,
                ca_file=ca_file,
                certificate_file=certificate if ca_file else None,
                key_file=key if ca_file else None,
                token=token_file.read_text("utf-8").strip() if token_file else None,
            )
        except SettingsError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    for option in (
        click.option(
            flag,
            "server",
            default=lambda: setting(key) or address,
            envvar=variable,
            show_default=address,
            metavar="HOST:PORT",
            callback=gather,
            help=f"{text} [env: {variable}]",
        ),
        # Read before the address, whose callback takes them up.
        click.option(
            "--tls-ca",
            type=_FILE,
            default=partial(setting, "tls_ca"),
            show_default=False,
            envvar="BPFLEET_TLS_CA",
            is_eager=True,
            help="CA of the server (PEM); switches TLS on.",
        ),
        click.option(
            "--tls-cert",
            type=_FILE,
            default=partial(setting, "tls_cert"),
            show_default=False,
            envvar="BPFLEET_TLS_CERT",
            is_eager=True,
            help="Certificate to show to a server that asks for one (PEM).",
        ),
        click.option(
            "--tls-key",
            type=_FILE,
            default=partial(setting, "tls_key"),
            show_default=False,
            envvar="BPFLEET_TLS_KEY",
            is_eager=True,
            help="Its key (PEM).",
        ),
        click.option(
            "--token-file",
            type=_FILE,
            default=partial(setting, "token_file"),
            show_default=False,
            envvar="BPFLEET_TOKEN_FILE",
            is_eager=True,
            help="File with the token the server asks for.",
        ),
    ):
        command = option(command)
    return command


def _directory(context: click.Context, coordinators: str | None) -> tuple[str, ...]:
    """The coordinators to ask for the agent; none where the user says which agent."""
    sources = {name: context.get_parameter_source(name) for name in ("server", "directory")}
    if not coordinators or sources["server"] is ParameterSource.ENVIRONMENT:
        return ()
    if sources["server"] is ParameterSource.COMMANDLINE:
        if sources["directory"] is ParameterSource.COMMANDLINE:
            raise click.UsageError("give --agent or --coordinator, not both", context)
        return ()
    return tuple(each.strip() for each in coordinators.split(","))


@contextmanager
def agent(server: ChannelOptions) -> Iterator[AgentClient]:
    """A client of a node agent; its errors end the command with one line."""
    server = _agent_of_the_node(server)
    with _errors_in_words(server.target, "agent"), _traced(server) as session:
        yield AgentClient(session)


def _agent_of_the_node(server: ChannelOptions) -> ChannelOptions:
    """Where the agent is that carries the node of this command, if a coordinator is to say so."""
    if not isinstance(server, _Servers) or not server.directory:
        return server
    node = click.get_current_context().params.get("node")
    if node is None:
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
    others = server.others if isinstance(server, _Servers) else ()
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
