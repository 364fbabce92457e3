"""Which Host headers our pages answer to.

A page that answers to any name can be read by a stranger's page, whose name was made to point here (DNS rebinding). An
address cannot be made to point elsewhere, so addresses are fine; names have to be known.
"""

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

__all__ = ["is_known_host"]


def is_known_host(header: str, names: Iterable[str] = ()) -> bool:
    """Whether a Host header is an address, ``localhost``, this host's own name, or one of ``names``."""
    try:
        host = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    if host in ("localhost", socket.gethostname().lower(), *(name.lower() for name in names)):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
