"""Command-line options that all our servers share, each with its environment variable."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.rpc.logs import LOG_FORMATS
from bpfleet.rpc.server import ServerOptions, SettingsError, read_secret
from bpfleet.rpc.tokens import Tokens

__all__ = ["channel_options", "server_flags", "server_options", "server_tokens"]

# click's decorators take and return functions of any kind.
Command = TypeVar("Command", bound=Callable[..., Any])

_FILE: Final = click.Path(dir_okay=False, path_type=Path)
_SERVER_FLAGS: Final = (
    click.option("--tls-cert", type=_FILE, envvar="BPFLEET_TLS_CERT", help="Certificate of this server (PEM)."),
    click.option("--tls-key", type=_FILE, envvar="BPFLEET_TLS_KEY", help="Its private key (PEM)."),
    click.option(
        "--tls-client-ca",
        type=_FILE,
        envvar="BPFLEET_TLS_CLIENT_CA",
        help="Ask clients for a certificate signed by this CA (mutual TLS).",
    ),
    click.option(
        "--tls-ca",
        type=_FILE,
        envvar="BPFLEET_TLS_CA",
        help="CA of the servers this program calls; switches TLS on for them.",
    ),
    click.option(
        "--token-file",
        type=_FILE,
        envvar="BPFLEET_TOKEN_FILE",
        help="File with the operator's token, which may do everything. It is sent to nobody.",
    ),
    click.option(
        "--user-token-file",
        type=_FILE,
        envvar="BPFLEET_USER_TOKEN_FILE",
        help="File with the token of users: workloads and emulated nodes, no cordons, no agents.",
    ),
    click.option(
        "--agent-token-file",
        type=_FILE,
        envvar="BPFLEET_AGENT_TOKEN_FILE",
        help="File with the secret that tokens of agents are made of, or with one agent's token;"
        " the operator's token where it is not given.",
    ),
    click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
        envvar="BPFLEET_LOG_LEVEL",
        show_default=True,
    ),
    click.option(
        "--log-format",
        type=click.Choice(list(LOG_FORMATS)),
        default="text",
        envvar="BPFLEET_LOG_FORMAT",
        show_default=True,
        help="One line an event: key=value, or JSON.",
    ),
)  # fmt: skip


def server_flags(command: Command) -> Command:
    """Adds the options for TLS, token and logging to a click command."""
    for flag in reversed(_SERVER_FLAGS):
        command = flag(command)
    return command


def server_options(listen: str, flags: dict[str, Any], *, own_agent: str = "") -> ServerOptions:
    """What protects a server, from the values of ``server_flags``. Raises ``SettingsError``."""
    return ServerOptions(
        listen=listen,
        certificate_file=flags["tls_cert"],
        key_file=flags["tls_key"],
        client_ca_file=flags["tls_client_ca"],
        tokens=server_tokens(flags, own_agent=own_agent),
    )


def server_tokens(flags: dict[str, Any], *, own_agent: str = "") -> Tokens | None:
    """The tokens that a server takes; None where it asks for none. Raises ``SettingsError``."""
    operator, user, agent = (
        _token(flags[name]) for name in ("token_file", "user_token_file", "agent_token_file")
    )
    if operator is None and own_agent and agent is not None:
        # An agent need not know the operator's token: nobody is one there.
        operator = secrets.token_hex(32)
    if operator is None:
        if user is not None or agent is not None:
            raise SettingsError("tokens of users and agents need one of the operator: --token-file")
        return None
    return Tokens(operator=operator, user=user or "", agent_secret=agent or "", own_agent=own_agent)


def channel_options(target: str, flags: dict[str, Any], token: str | None) -> ChannelOptions:
    """How this program calls another server of ours, from the same values. Raises ``SettingsError``."""
    tls = flags["tls_ca"] is not None
    return ChannelOptions(
        target=target,
        ca_file=flags["tls_ca"],
        certificate_file=flags["tls_cert"] if tls else None,
        key_file=flags["tls_key"] if tls else None,
        token=token,
    )


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    token = read_secret(path).decode("ascii", "replace").strip()
    if not token:
        raise SettingsError(f"{path} holds no token")
    return token
