"""The base of all users: a script, a seat on a node, one message per task, every verdict counted.

A verdict of the emulated kernel is a measurement: it is counted under ``model call errno``, without an exception. Only
a failure of the cluster itself is a failure in Locust's sense.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Final

import gevent
from locust import User
from locust.exception import StopUser

from bpfleet.client.session import CallError
from bpfleet.v1.bpf_service_pb2 import Syscall
from loadtest.calls import RESTART, Reply
from loadtest.kinds import script_for
from loadtest.run import REQUEST_TYPE, LoadRun, run_of
from loadtest.scripts import Script
from loadtest.seat_process import SeatProcess, outcomes_of
from loadtest.seats import Seat

__all__ = ["LoadUser", "ScriptUser"]

_BACK_OFF_SECONDS: Final = 1.0
_log = logging.getLogger("bpfleet.load")


class LoadUser(User):
    """A user of ours; Locust knows it by its class, options and tables by its kind."""

    abstract = True
    # Locust's page asks for a host otherwise; ours are found through agents and coordinators.
    host = "bpfleet"
    kind = ""


class ScriptUser(LoadUser):
    """Plays the same script under every model, a message each in turn."""

    abstract = True

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.load: LoadRun = run_of(environment)
        self._seats: list[_Playing] = []
        self._turn = 0

    def wait_time(self) -> float:
        """The pause between two messages."""
        return self.load.options.think_seconds

    def on_start(self) -> None:
        """Takes a lane; the nodes are met with the first messages."""
        seats = self.load.take_lane(self.kind)
        self._seats = [_Playing(self, seat) for seat in seats]

    def on_stop(self) -> None:
        """Leaves the nodes as they were found."""
        for seat in self._seats:
            seat.leave_node()
        if self._seats:
            self.load.leave_lane(self.kind, self._seats[0].seat.lane)

    def send_message(self) -> None:
        """The next message under the model whose turn it is; the task of every kind of user."""
        if not self._seats:
            raise StopUser
        seat = self._seats[self._turn % len(self._seats)]
        self._turn += 1
        seat.send_message()


class _Playing:
    """A seat in use: its process on its node, and how far its script has come.

    When its process is killed, it starts over, as an agent would.
    """

    def __init__(self, user: ScriptUser, seat: Seat) -> None:
        self.seat: Final = seat
        self._user: Final = user
        self._load: Final = user.load
        self._fire: Final = user.environment.events.request.fire
        self._process: SeatProcess | None = None
        self._script: Script | None = None
        self._replies: Sequence[Reply] | None = None

    def send_message(self) -> None:
        """Send one message and count what came of it."""
        started = time.perf_counter()
        try:
            self._play()
        except CallError as error:
            self._count_failure(error, time.perf_counter() - started)
            self.leave_node()
            gevent.sleep(_BACK_OFF_SECONDS)

    def leave_node(self) -> None:
        """Clean up on the node, if it can be reached."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.close()
        except CallError as error:
            _log.debug("a node was left behind as it was: %s", error)

    def _play(self) -> None:
        if self._process is None:
            self._enter_node()
        assert self._process is not None, "just entered"
        assert self._script is not None, "begun on entering"
        calls = next(self._script) if self._replies is None else self._script.send(self._replies)
        if calls[0] is RESTART:
            self._process.restart()
            self._replies = [Reply()]
            return
        started = time.perf_counter()
        replies = self._process.execute(calls)
        killed = self._count(calls, replies, time.perf_counter() - started)
        self._replies = replies
        if killed:
            self._process.restart()
            self._begin_script()

    def _enter_node(self) -> None:
        options = self._load.options
        self._process = SeatProcess(
            self._load.client(self.seat.node.agent),
            self.seat,
            limit_bytes=options.limit_bytes,
            memlock_bytes=options.memlock_bytes,
        )
        self._begin_script()

    def _begin_script(self) -> None:
        self._script, self._replies = script_for(self.seat, self._load.options), None

    def _count(self, calls: Sequence[Syscall], replies: Sequence[Reply], seconds: float) -> bool:
        """Count each call; True where the process is gone."""
        milliseconds = seconds * 1000
        counted, killed = outcomes_of(self.seat.node.model, calls, replies)
        for outcome, elements in counted:
            self._load.outcomes.record(outcome, elements=elements)
            self._report(outcome.request_name, milliseconds, None)
        return killed

    def _count_failure(self, error: CallError, seconds: float) -> None:
        model, code = self.seat.node.model, error.code.name
        self._load.outcomes.record_transport_failure(model, code)
        self._report(f"{model} transport {code}", seconds * 1000, error)

    def _report(self, name: str, milliseconds: float, failure: CallError | None) -> None:
        self._fire(
            request_type=REQUEST_TYPE,
            name=name,
            response_time=milliseconds,
            response_length=0,
            exception=failure,
            context={},
        )
