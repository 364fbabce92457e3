"""What commands that talk to a server share: where it is, how to reach it, and how its errors read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import grpc

from bpfleet.client.bpf import AgentClient
from bpfleet.client.fleet import FleetClient
from bpfleet.client.session import CallError, Session, Verdict
from bpfleet.rpc.channel import ChannelOptions
from bpfleet.rpc.errors import ApiError
from bpfleet.rpc.server import SettingsError

__all__ = ["agent", "agent_options", "fleet", "fleet_options"]

# click's decorators take and return functions of any kind.
Command = TypeVar("Command", bound=Callable[..., Any])

AGENT_ADDRESS: Final = "127.0.0.1:7071"
COORDINATOR_ADDRESS: Final = "127.0.0.1:7070"
EXIT_FAILED: Final = 1
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


def agent_options(command: Command) -> Command:
    """Adds the options that say which agent, to a command that takes ``server``."""
    return _options(command, "--agent", AGENT_ADDRESS, "BPFLEET_AGENT_ADDRESS", "Node agent.")


def fleet_options(command: Command) -> Command:
    """Adds the options that say which coordinator, to a command that takes ``server``."""
    return _options(
        command, "--coordinator", COORDINATOR_ADDRESS, "BPFLEET_COORDINATOR", "Coordinator."
    )


def _options(command: Command, flag: str, address: str, variable: str, text: str) -> Command:
    """The address, TLS and the token travel as one value named ``server``."""

    def gather(context: click.Context, parameter: click.Parameter, target: str) -> ChannelOptions:
        values = context.params
        token_file = values.pop("token_file", None)
        try:
            return ChannelOptions(
                target=target,
                ca_file=values.pop("tls_ca", None),
                token=token_file.read_text("utf-8").strip() if token_file else None,
            )
        except SettingsError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    for option in (
        click.option(
            flag,
            "server",
            default=address,
            envvar=variable,
            show_default=True,
            metavar="HOST:PORT",
            callback=gather,
            help=f"{text} [env: {variable}]",
        ),
        # Read before the address, whose callback takes them up.
        click.option(
            "--tls-ca",
            type=_FILE,
            envvar="BPFLEET_TLS_CA",
            is_eager=True,
            help="CA of the server (PEM); switches TLS on.",
        ),
        click.option(
            "--token-file",
            type=_FILE,
            envvar="BPFLEET_TOKEN_FILE",
            is_eager=True,
            help="File with the token the server asks for.",
        ),
    ):
        command = option(command)
    return command


@contextmanager
def agent(server: ChannelOptions) -> Iterator[AgentClient]:
    """A client of a node agent; its errors end the command with one line."""
    with _session(server, "agent") as session:
        yield AgentClient(session)


@contextmanager
def fleet(server: ChannelOptions) -> Iterator[FleetClient]:
    """A client of a coordinator; its errors end the command with one line."""
    with _session(server, "coordinator") as session:
        yield FleetClient(session)


@contextmanager
def _session(server: ChannelOptions, what: str) -> Iterator[Session]:
    try:
        with Session(server) as session:
            yield session
    except Verdict as error:
        raise _Failed(f"{error.errno.name} ({error.reason}): {error}") from None
    except CallError as error:
        raise _Failed(_in_words(error, server.target, what)) from None
    except ApiError as error:
        raise click.UsageError(error.message) from None


def _in_words(error: CallError, target: str, what: str) -> str:
    if error.code is grpc.StatusCode.UNAVAILABLE and not error.reason:
        return f"no {what} answers at {target}; start one, or name another with --{what}"
    if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"the {what} at {target} did not answer in time"
    if error.code is grpc.StatusCode.UNAUTHENTICATED:
        return f"the {what} at {target} asks for a token; give it with --token-file"
    if error.code is grpc.StatusCode.UNIMPLEMENTED:
        return f"{target} is no {what}: it does not know the call"
    return error.message or error.code.name


class _Failed(click.ClickException):
    """The server said no, or could not be reached."""

    exit_code = EXIT_FAILED

    def show(self, file: Any = None) -> None:
        """One line on standard error."""
        click.echo(f"bpfleet: {self.message}", err=True)
