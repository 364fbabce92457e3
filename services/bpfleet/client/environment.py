"""How a client without flags of its own reaches our servers: from the variables that servers read, too."""

import os
from pathlib import Path

from bpfleet.rpc.channel import ChannelOptions

__all__ = ["channel_from_environment"]


def channel_from_environment(target: str) -> ChannelOptions:
    """Options for ``target`` from BPFLEET_TLS_CA, BPFLEET_TLS_CERT, BPFLEET_TLS_KEY and
    BPFLEET_TOKEN_FILE; plain text where there is no CA. Raises ``SettingsError``, ``OSError``.
    """
    ca_file = _path("BPFLEET_TLS_CA")
    token_file = _path("BPFLEET_TOKEN_FILE")
    return ChannelOptions(
        target=target,
        ca_file=ca_file,
        certificate_file=_path("BPFLEET_TLS_CERT") if ca_file else None,
        key_file=_path("BPFLEET_TLS_KEY") if ca_file else None,
        token=token_file.read_text("utf-8").strip() if token_file else None,
    )


def _path(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None
