"""Where a server is and how it is reached: plain values, which need no gRPC."""

from dataclasses import dataclass
from pathlib import Path

from bpfleet.rpc.settings_error import SettingsError

__all__ = ["ChannelOptions", "parse_address"]


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[::1]:port``. Raises ``SettingsError``."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"{text!r} is not an address; write host:port, port 0 to 65535")
    return host, int(port)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOptions:
    """Where a server is and what it asks for. ``ca_file`` switches TLS on; certificate and key are the client's."""

    target: str
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    token: str | None = None

    def __post_init__(self) -> None:
        parse_address(self.target)
        if (self.certificate_file is None) != (self.key_file is None):
            raise SettingsError("a client certificate needs its key; give both or neither")
        if self.certificate_file is not None and self.ca_file is None:
            raise SettingsError("a client certificate needs the CA of the server; give it too")
