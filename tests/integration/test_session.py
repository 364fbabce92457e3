"""What the blocking client does when a server asks it to come again."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
import pytest

from bpfleet.client.session import CallError, Session
from bpfleet.fleet.reasons import ControlReason
from bpfleet.rpc.errors import ApiError
from bpfleet.rpc.server import RpcServer, ServerOptions
from bpfleet.v1 import fleet_service_pb2 as pb
from bpfleet.v1.fleet_service_pb2_grpc import (
    FleetServiceServicer,
    FleetServiceStub,
    add_FleetServiceServicer_to_server,
)


class Busy(FleetServiceServicer):
    """Refuses so many calls, then answers. ``facts`` go with the refusal."""

    def __init__(self, refusals: int, **facts: int) -> None:
        self.refusals = refusals
        self.calls = 0
        self._facts = facts

    async def GetFleetStatus(self, request: Any, context: Any) -> pb.GetFleetStatusResponse:
        self.calls += 1
        if self.calls <= self.refusals:
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            raise ApiError(code, ControlReason.OVERLOADED, "too much at once", **self._facts)
        return pb.GetFleetStatusResponse(node_count=7)


@contextmanager
def serving(servicer: Busy) -> Iterator[str]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> tuple[RpcServer, int]:
        add = partial(add_FleetServiceServicer_to_server, servicer)
        server = RpcServer(ServerOptions(), [add], ["bpfleet.v1.FleetService"])
        return server, await server.start()

    server, port = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(0), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def ask(target: str, *, repeatable: bool) -> int:
    with Session(target, deadline_seconds=60) as session:
        status = FleetServiceStub(session.channel).GetFleetStatus
        request = pb.GetFleetStatusRequest()
        return session.call(status, request, repeatable=repeatable).node_count


def test_a_call_is_repeated_when_the_server_says_when_to_come_again() -> None:
    busy = Busy(2, retryAfterMs=1)
    with serving(busy) as target:
        assert ask(target, repeatable=True) == 7
    assert busy.calls == 3


@pytest.mark.parametrize(("facts", "repeatable"), [({}, True), ({"retryAfterMs": 1}, False)])
def test_a_refusal_that_says_nothing_of_it_and_a_call_that_may_have_worked_are_not_repeated(
    facts: dict[str, int], repeatable: bool
) -> None:
    busy = Busy(1, **facts)
    with serving(busy) as target, pytest.raises(CallError, match="too much"):
        ask(target, repeatable=repeatable)
    assert busy.calls == 1


class Standby(Busy):
    """Does not lead."""

    async def GetFleetStatus(self, request: Any, context: Any) -> pb.GetFleetStatusResponse:
        self.calls += 1
        code = grpc.StatusCode.UNAVAILABLE
        raise ApiError(code, ControlReason.NOT_LEADER, "this coordinator stands by")


@pytest.mark.parametrize("repeatable", [True, False])
def test_of_several_servers_the_one_that_leads_is_asked(repeatable: bool) -> None:
    standby, leader = Standby(0), Busy(0)
    with (
        serving(standby) as first,
        serving(leader) as second,
        Session(f"{first}, {second}", deadline_seconds=60) as session,
    ):
        status = FleetServiceStub(session.channel).GetFleetStatus
        for _ in range(2):
            answer = session.call(status, pb.GetFleetStatusRequest(), repeatable=repeatable)
            assert answer.node_count == 7
    assert (standby.calls, leader.calls) == (1, 2)


def test_where_one_server_is_gone_the_other_answers() -> None:
    leader = Busy(0)
    with serving(Busy(0)) as gone:
        pass
    with serving(leader) as target:
        assert ask(f"{gone},{target}", repeatable=True) == 7
