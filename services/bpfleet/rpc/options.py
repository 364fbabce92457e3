"""Command-line options that all our servers share, each with its environment variable."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from bpfleet.rpc.channel import ChannelOptions
from bpfleet.rpc.logs import LOG_FORMATS
from bpfleet.rpc.server import ServerOptions, SettingsError, read_secret

__all__ = ["channel_options", "server_flags", "server_options"]

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
        help="File with the token that clients must send, and that is sent to servers.",
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


def server_options(listen: str, flags: dict[str, Any]) -> ServerOptions:
    """What protects a server, from the values of ``server_flags``. Raises ``SettingsError``."""
    return ServerOptions(
        listen=listen,
        certificate_file=flags["tls_cert"],
        key_file=flags["tls_key"],
        client_ca_file=flags["tls_client_ca"],
        token=_token(flags["token_file"]),
    )


def channel_options(target: str, flags: dict[str, Any]) -> ChannelOptions:
    """How this program calls another server of ours, from the same values. Raises ``SettingsError``."""
    tls = flags["tls_ca"] is not None
    return ChannelOptions(
        target=target,
        ca_file=flags["tls_ca"],
        certificate_file=flags["tls_cert"] if tls else None,
        key_file=flags["tls_key"] if tls else None,
        token=_token(flags["token_file"]),
    )


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    token = read_secret(path).decode("ascii", "replace").strip()
    if not token:
        raise SettingsError(f"{path} holds no token")
    return token
