"""One connection to an agent or a coordinator: deadlines, retries, and errors that carry errno and reason."""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, Self, TypeVar

import grpc

from bpfleet.abi.errno import Errno
from bpfleet.client.failover import FailoverChannel
from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.rpc.channel import blocking_channel
from bpfleet.rpc.errors import RemoteError, decode_rpc_error

__all__ = [
    "CallError",
    "Session",
    "Verdict",
    "channel_from_environment",
    "new_request_id",
    "raise_typed",
]

DEADLINE_SECONDS: Final = 10.0
_ATTEMPTS_MAX: Final = 5
_BACK_OFF_SECONDS: Final = 0.1
_NOT_LEADER: Final = "NOT_LEADER"

Request = TypeVar("Request")
Response = TypeVar("Response")


class CallError(Exception):
    """A call that failed: the network, the service itself, or a request it could not use.

    ``code`` is the gRPC status, ``reason`` a word for programs (empty where a transport failed), ``facts`` what else
    the service told.
    """

    def __init__(self, remote: RemoteError) -> None:
        super().__init__(f"{remote.code.name}: {remote.message}")
        self.code: Final = remote.code
        self.reason: Final = remote.reason
        self.message: Final = remote.message
        self.facts: Final = dict(remote.metadata)


class Verdict(CallError):
    """The emulated kernel said no. This is a measurement, not a failure of the cluster.

    ``errno`` is what the program sees, ``reason`` the true cause, ``call`` the system call.
    """

    def __init__(self, remote: RemoteError) -> None:
        super().__init__(remote)
        errno = remote.errno
        assert errno is not None, "verdicts are made of errors with an errno"
        self.errno: Final[Errno] = errno
        self.call: Final = remote.call

    def __str__(self) -> str:
        return self.message


def new_request_id() -> str:
    """An id that makes a creation safe to repeat."""
    return uuid.uuid4().hex


def raise_typed(error: grpc.RpcError) -> NoReturn:
    """Raises ``Verdict`` or ``CallError`` for what a stub raised."""
    remote = decode_rpc_error(error)
    raise (Verdict(remote) if remote.is_verdict else CallError(remote)) from None


class Session:
    """A channel with manners. Use it as a context manager, or ``close`` it.

    A target may name several servers, ``a:7070,b:7070``: calls go on to the next where one does not answer or does
    not lead. Not safe to share between threads that close it; calls may come from any thread or greenlet.
    """

    def __init__(
        self, target: str | ChannelOptions, *, deadline_seconds: float = DEADLINE_SECONDS
    ) -> None:
        servers = (
            [ChannelOptions(target=each.strip()) for each in target.split(",")]
            if isinstance(target, str)
            else [target]
        )
        self.target: Final = ",".join(each.target for each in servers)
        self.channel: Final = FailoverChannel([blocking_channel(each) for each in servers])
        self.deadline_seconds: Final = deadline_seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and every stream on it."""
        self.channel.close()

    def call(
        self,
        method: Callable[..., Response],
        request: Any,  # the message this method takes; stubs check it
        *,
        repeatable: bool = False,
        deadline_seconds: float | None = None,
    ) -> Response:
        """One call within its deadline. Raises ``Verdict`` or ``CallError``.

        ``repeatable`` calls (they change nothing, or carry a request id) are repeated while the service is UNAVAILABLE
        or says when to try again, and there is time left; others are not, since they may have been carried out, unless
        the server says that it does not lead and there is another one.
        """
        seconds = self.deadline_seconds if deadline_seconds is None else deadline_seconds
        give_up_at = time.monotonic() + seconds
        servers = len(self.channel)
        for attempt in range(1, _ATTEMPTS_MAX * servers + 1):
            left = max(0.001, give_up_at - time.monotonic())
            try:
                return method(request, timeout=left)
            except grpc.RpcError as error:
                remote = decode_rpc_error(error)
                told = remote.retry_after_seconds
                pause = max(_BACK_OFF_SECONDS * 2 ** ((attempt - 1) // servers), told or 0.0)
                away = remote.code is grpc.StatusCode.UNAVAILABLE or told is not None
                follows = remote.reason == _NOT_LEADER and servers > 1
                again = (follows or (repeatable and away)) and attempt < _ATTEMPTS_MAX * servers
                if again and remote.code is grpc.StatusCode.UNAVAILABLE and servers > 1:
                    self.channel.turn()
                    if attempt % servers:
                        pause = 0.0  # of the others none has been asked yet
                if not again or time.monotonic() + pause >= give_up_at:
                    raise_typed(error)
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def pages(self, method: Callable[..., Response], request: Any) -> Iterator[Response]:
        """All pages of a list, one call each. ``request`` is advanced from page to page."""
        while True:
            response: Any = self.call(method, request, repeatable=True)
            yield response
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token


def channel_from_environment(target: str) -> ChannelOptions:
    """How a client without flags of its own reaches a server: by the variables that servers read, too.

    BPFLEET_TLS_CA, BPFLEET_TLS_CERT, BPFLEET_TLS_KEY and BPFLEET_TOKEN_FILE; plain text where there is no CA. Raises
    ``SettingsError``, ``OSError``.
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
