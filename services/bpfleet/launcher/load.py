"""The load generator of a running cluster: start it, stop it, read what it counted."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Final

from bpfleet.launcher.errors import LaunchError

__all__ = ["outcomes", "start", "stop", "wait_for_workers"]

_SECONDS: Final = 15.0
_WORKER_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.2


def start(address: str, users: int) -> None:
    """Ask Locust for that many users, once a worker has found it. Raises ``LaunchError`` where it
    does not answer, or no worker comes.
    """
    wait_for_workers(address, 1)
    _ask(address, "/swarm", {"user_count": str(users), "spawn_rate": str(max(users // 5, 1))})


def wait_for_workers(address: str, wanted: int) -> None:
    """Return once that many workers found Locust's master. Raises ``LaunchError`` where they do not in time."""
    deadline = time.monotonic() + _WORKER_SECONDS
    while (found := len(json.loads(_ask(address, "/stats/requests", None))["workers"])) < wanted:
        if time.monotonic() > deadline:
            raise LaunchError(
                f"{found} of {wanted} workers of the load generator at {address} are connected"
            )
        time.sleep(_POLL_SECONDS)


def stop(address: str) -> None:
    """Ask Locust to stop."""
    _ask(address, "/stop", {})


def outcomes(address: str) -> list[dict[str, Any]]:
    """One row per model, as loadtest/page.py serves them."""
    rows: list[dict[str, Any]] = json.loads(_ask(address, "/models.json", None))["models"]
    return rows


def _ask(address: str, path: str, form: dict[str, str] | None) -> str:
    body = None if form is None else urllib.parse.urlencode(form).encode()
    request = urllib.request.Request(f"http://{address}{path}", data=body)
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return str(answer.read().decode())
    except (OSError, urllib.error.URLError) as error:
        raise LaunchError(f"the load generator at {address} does not answer: {error}") from error
