"""The base of all users: a script, a place on a node, one message per task, every verdict counted.

A verdict of the emulated kernel is a measurement: it is counted under ``model call errno``, without
an exception. Only a failure of the cluster itself is a failure in Locust's sense.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Final

import gevent
from locust import User
from locust.exception import StopUser

from bpfleet.abi.errno import Errno
from bpfleet.client.session import CallError
from loadtest.node_link import CALLER_KILLED, NodeLink
from loadtest.outcomes import OK, Outcome
from loadtest.run import LoadRun, run_of
from loadtest.scripts import RESTART, Call, Reply, Script
from loadtest.seats import Seat

__all__ = ["ScriptUser"]

_BACK_OFF_SECONDS: Final = 1.0
_REQUEST_TYPE: Final = "bpf"
_log = logging.getLogger("bpfleet.load")


class ScriptUser(User):
    """Plays a script on one seat. When its process is killed, it starts over, as an agent would."""

    abstract = True
    kind = ""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.load: LoadRun = run_of(environment)
        self.seat: Seat | None = None
        self._link: NodeLink | None = None
        self._script: Script | None = None
        self._replies: Sequence[Reply] | None = None

    @abstractmethod
    def make_script(self, seat: Seat) -> Script:
        """What this kind of user does on its seat."""

    def wait_time(self) -> float:
        """The pause between two messages."""
        return self.load.options.think_seconds

    def on_start(self) -> None:
        """Takes a seat; the node is met with the first message."""
        self.seat = self.load.take_seat(self.kind)

    def on_stop(self) -> None:
        """Leaves the node as it was found."""
        self._leave_node()
        if self.seat is not None:
            self.load.leave_seat(self.seat)

    def send_message(self) -> None:
        """The next message of the script; the task of every kind of user."""
        if self.seat is None:
            raise StopUser
        started = time.perf_counter()
        try:
            self._play(self.seat)
        except CallError as error:
            self._count_failure(self.seat, error, time.perf_counter() - started)
            self._leave_node()
            gevent.sleep(_BACK_OFF_SECONDS)

    def _play(self, seat: Seat) -> None:
        if self._link is None:
            self._enter_node(seat)
        assert self._link is not None, "just entered"
        assert self._script is not None, "begun on entering"
        calls = next(self._script) if self._replies is None else self._script.send(self._replies)
        if calls[0] is RESTART:
            self._link.restart()
            self._replies = [Reply()]
            return
        started = time.perf_counter()
        replies = self._link.execute(calls)
        killed = self._count(seat, calls, replies, time.perf_counter() - started)
        self._replies = replies
        if killed:
            self._link.restart()
            self._begin_script(seat)

    def _enter_node(self, seat: Seat) -> None:
        options = self.load.options
        self._link = NodeLink(
            self.load.client(seat.place.agent),
            seat,
            limit_bytes=options.limit_bytes,
            memlock_bytes=options.memlock_bytes,
        )
        self._begin_script(seat)

    def _begin_script(self, seat: Seat) -> None:
        self._script, self._replies = self.make_script(seat), None

    def _leave_node(self) -> None:
        link, self._link = self._link, None
        if link is None:
            return
        try:
            link.close()
        except CallError as error:
            _log.debug("a node was left behind as it was: %s", error)

    def _count(
        self, seat: Seat, calls: Sequence[Call], replies: Sequence[Reply], seconds: float
    ) -> bool:
        """Count each call; True where the process is gone. What follows its death did not happen."""
        model, milliseconds = seat.place.model, seconds * 1000
        fire = self.environment.events.request.fire
        for call, reply in zip(calls, replies, strict=True):
            if reply.errno == Errno.ESRCH:
                return True
            errno = Errno(reply.errno).name if reply.errno else OK
            outcome = Outcome(model, call.do.value, errno, reply.reason)
            self.load.outcomes.record(
                outcome, milliseconds=milliseconds, elements=_elements(call, reply)
            )
            fire(
                request_type=_REQUEST_TYPE,
                name=outcome.request_name,
                response_time=milliseconds,
                response_length=0,
                exception=None,
                context={},
            )
            if reply.reason == CALLER_KILLED:
                return True
        return False

    def _count_failure(self, seat: Seat, error: CallError, seconds: float) -> None:
        self.load.outcomes.record_transport_failure(seat.place.model, error.code.name)
        self.environment.events.request.fire(
            request_type=_REQUEST_TYPE,
            name=f"{seat.place.model} transport {error.code.name}",
            response_time=seconds * 1000,
            response_length=0,
            exception=error,
            context={},
        )


_ONE_ELEMENT: Final = frozenset({"map_lookup", "map_update", "map_delete", "map_pop"})


def _elements(call: Call, reply: Reply) -> int:
    """Map elements a call moved."""
    if call.do.value in _ONE_ELEMENT:
        return 0 if reply.errno else 1
    return reply.elements
