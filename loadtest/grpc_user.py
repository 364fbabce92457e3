"""The base of all users: a script, a place on a node, one message per task, every verdict counted.

A verdict of the emulated kernel is a measurement: it is counted under ``model call errno``, without
an exception. Only a failure of the cluster itself is a failure in Locust's sense.
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
from loadtest.kinds import script_for
from loadtest.node_link import NodeLink, outcomes_of
from loadtest.run import LoadRun, run_of
from loadtest.scripts import RESTART, Call, Reply, Script
from loadtest.seats import Seat

__all__ = ["ScriptUser"]

_BACK_OFF_SECONDS: Final = 1.0
_REQUEST_TYPE: Final = "bpf"
_log = logging.getLogger("bpfleet.load")


class ScriptUser(User):
    """Plays the same script under every model, a message each in turn."""

    abstract = True
    # Locust's page asks for a host otherwise; ours are found through agents and coordinators.
    host = "bpfleet"
    kind = ""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.load: LoadRun = run_of(environment)
        self._players: list[_Player] = []
        self._turn = 0

    def wait_time(self) -> float:
        """The pause between two messages."""
        return self.load.options.think_seconds

    def on_start(self) -> None:
        """Takes a lane; the nodes are met with the first messages."""
        seats = self.load.take_lane(self.kind)
        self._players = [_Player(self, seat) for seat in seats]

    def on_stop(self) -> None:
        """Leaves the nodes as they were found."""
        for player in self._players:
            player.leave_node()
        if self._players:
            self.load.leave_lane(self.kind, self._players[0].seat.lane)

    def send_message(self) -> None:
        """The next message under the model whose turn it is; the task of every kind of user."""
        if not self._players:
            raise StopUser
        player = self._players[self._turn % len(self._players)]
        self._turn += 1
        player.send_message()


class _Player:
    """One seat: its place on a node and how far its script has come.

    When its process is killed, it starts over, as an agent would.
    """

    def __init__(self, user: ScriptUser, seat: Seat) -> None:
        self.seat: Final = seat
        self._user: Final = user
        self._load: Final = user.load
        self._fire: Final = user.environment.events.request.fire
        self._link: NodeLink | None = None
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
        link, self._link = self._link, None
        if link is None:
            return
        try:
            link.close()
        except CallError as error:
            _log.debug("a node was left behind as it was: %s", error)

    def _play(self) -> None:
        if self._link is None:
            self._enter_node()
        assert self._link is not None, "just entered"
        assert self._script is not None, "begun on entering"
        calls = next(self._script) if self._replies is None else self._script.send(self._replies)
        if calls[0] is RESTART:
            self._link.restart()
            self._replies = [Reply()]
            return
        started = time.perf_counter()
        replies = self._link.execute(calls)
        killed = self._count(calls, replies, time.perf_counter() - started)
        self._replies = replies
        if killed:
            self._link.restart()
            self._begin_script()

    def _enter_node(self) -> None:
        options = self._load.options
        self._link = NodeLink(
            self._load.client(self.seat.place.agent),
            self.seat,
            limit_bytes=options.limit_bytes,
            memlock_bytes=options.memlock_bytes,
        )
        self._begin_script()

    def _begin_script(self) -> None:
        self._script, self._replies = script_for(self.seat, self._load.options), None

    def _count(self, calls: Sequence[Call], replies: Sequence[Reply], seconds: float) -> bool:
        """Count each call; True where the process is gone."""
        milliseconds = seconds * 1000
        counted, killed = outcomes_of(self.seat.place.model, calls, replies)
        for outcome, elements in counted:
            self._load.outcomes.record(outcome, milliseconds=milliseconds, elements=elements)
            self._report(outcome.request_name, milliseconds, None)
        return killed

    def _count_failure(self, error: CallError, seconds: float) -> None:
        model, code = self.seat.place.model, error.code.name
        self._load.outcomes.record_transport_failure(model, code)
        self._report(f"{model} transport {code}", seconds * 1000, error)

    def _report(self, name: str, milliseconds: float, failure: CallError | None) -> None:
        self._fire(
            request_type=_REQUEST_TYPE,
            name=name,
            response_time=milliseconds,
            response_length=0,
            exception=failure,
            context={},
        )
