"""The options that say where a server is and how to reach it. They need no gRPC; `remote` makes the connection."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from bpfleet.captures.document import Document
from bpfleet.cli.settings import setting
from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.rpc.settings_error import SettingsError

__all__ = [
    "AGENT_ADDRESS",
    "COORDINATOR_ADDRESS",
    "Servers",
    "agent_options",
    "document_of",
    "fleet_options",
]

# click's decorators take and return functions of any kind.
Command = TypeVar("Command", bound=Callable[..., Any])

AGENT_ADDRESS: Final = "127.0.0.1:7071"
COORDINATOR_ADDRESS: Final = "127.0.0.1:7070"
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers(ChannelOptions):
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
        help="Coordinator that says which agent carries the node, instead of --agent. [env: BPFLEET_COORDINATOR]",
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
            return Servers(
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


def document_of(server: ChannelOptions, node: str) -> Document:
    """The capture of an emulated node. Only this needs gRPC."""
    from bpfleet.cli.emulated import capture_node
    from bpfleet.cli.remote import agent

    with agent(server) as client:
        return capture_node(client.node(node))
