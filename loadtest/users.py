"""The kinds of users: what each does to its node, or to the coordinator."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from grpc import StatusCode
from locust import tag, task
from locust.exception import StopUser

from bpfleet.client.fleet import FleetClient, SeenRevision
from bpfleet.client.session import CallError, Session, channel_from_environment
from bpfleet.v1 import workload_pb2
from loadtest.grpc_user import LoadUser, ScriptUser
from loadtest.run import FLEET, LoadRun, run_of
from loadtest.scripts import FleetDo, FleetStep, fleet_steps, selector_of
from loadtest.seats import Seat

__all__ = [
    "BatchUser",
    "ElementUser",
    "FleetUser",
    "InventoryUser",
    "RollingRestartUser",
    "TenantUser",
]

_log = logging.getLogger("bpfleet.load")


class ElementUser(ScriptUser):
    """Churns an application's maps, one element per system call."""

    weight = 4
    kind = "element"

    @tag("element")
    @task
    def element(self) -> None:
        """Send the next message."""
        self.send_message()


class BatchUser(ScriptUser):
    """Churns an application's maps through the kernel's batch commands."""

    weight = 2
    kind = "batch"

    @tag("batch")
    @task
    def batch(self) -> None:
        """Send the next message."""
        self.send_message()


class InventoryUser(ScriptUser):
    """Starts and stops whole applications, one after the other."""

    weight = 2
    kind = "inventory"

    @tag("inventory")
    @task
    def inventory(self) -> None:
        """Send the next message."""
        self.send_message()


class TenantUser(ScriptUser):
    """Fills its cgroup until it is refused or killed."""

    weight = 2
    kind = "tenant"

    @tag("tenant")
    @task
    def tenant(self) -> None:
        """Send the next message."""
        self.send_message()


class RollingRestartUser(ScriptUser):
    """Replaces an agent that pins its maps, over and over."""

    weight = 1
    kind = "rolling"

    @tag("rolling")
    @task
    def rolling(self) -> None:
        """Send the next message."""
        self.send_message()


class FleetUser(LoadUser):
    """Submits, scales, watches and deletes workloads at the coordinator.

    Stops by itself where no coordinator is named: not every load test has one.
    """

    weight = 1
    kind = FLEET

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.load: LoadRun = run_of(environment)
        self._coordinator = 0
        self._connected: FleetClient | None = None
        self._seen = SeenRevision()
        self._lane: Seat | None = None
        self._steps: Iterator[FleetStep] = iter(())
        self._made: list[str] = []

    def wait_time(self) -> float:
        """Fleet operations are rarer than system calls."""
        return max(self.load.options.think_seconds, 0.1)

    def on_start(self) -> None:
        """Takes a lane, whose seed decides what this user does, in whichever process it runs."""
        if not self.load.options.coordinators:
            raise StopUser
        seats = self.load.take_lane(self.kind)
        if not seats:
            raise StopUser
        self._lane = seats[0]
        self._steps = fleet_steps(self._lane.seed, self.load.options.applications)

    def on_stop(self) -> None:
        """Takes its workloads out of the fleet again."""
        for name in self._made:
            self._timed(FleetDo.DELETE, partial(self._fleet.delete_workload, name))
        if self._connected is not None:
            self._connected.session.close()
        if self._lane is not None:
            self.load.leave_lane(self.kind, self._lane.lane)

    @tag("fleet")
    @task
    def fleet(self) -> None:
        """The next step."""
        step = next(self._steps)
        name = self._name(step.workload)
        if step.do is FleetDo.SUBMIT:
            self._made.append(name)
            spec = _workload(name, step, self.load.options.pin)
            self._timed(step.do, lambda: self._fleet.create_workload(spec))
        elif step.do is FleetDo.DELETE:
            self._made.remove(name)
            self._timed(step.do, lambda: self._fleet.delete_workload(name))
        elif step.do is FleetDo.SCALE:
            self._timed(step.do, lambda: self._fleet.scale_workload(name, step.replicas))
        elif step.do is FleetDo.STATUS:
            self._timed(step.do, self._fleet.status)
        else:
            self._watch()

    def _watch(self) -> None:
        """Follows the fleet from its last revision until the first answer."""
        status = self._timed(FleetDo.STATUS, self._fleet.status)
        if status is not None and status.revision:
            with closing(self._fleet.watch(status.revision)) as follow:
                self._timed(FleetDo.WATCH, lambda: next(follow))

    def _name(self, workload: int) -> str:
        assert self._lane is not None, "taken at the start"
        return f"load-{self.load.options.seed:x}-{self._lane.lane}-{workload}"

    @property
    def _fleet(self) -> FleetClient:
        """Raises ``StopUser`` where no coordinator is named."""
        if self._connected is None:
            target = self.load.coordinator(self._coordinator)
            if target is None:
                raise StopUser
            session = Session(channel_from_environment(target))
            self._connected = FleetClient(session, self._seen)
        return self._connected

    def _ask_another(self) -> None:
        """The next call goes to the next coordinator: this one stands by or is away."""
        if self._connected is not None:
            self._connected.session.close()
        self._coordinator += 1
        self._connected = None

    def _timed(self, name: FleetDo, act: Callable[[], Any]) -> Any:
        """Carry out one call and report it; None where it failed or was refused.

        A refusal of the control plane (a workload that does not fit, one that is gone) is counted under its reason;
        only transport failures are failures.
        """
        started = time.perf_counter()
        outcome, failure, answer = "OK", None, None
        try:
            answer = act()
        except CallError as error:
            outcome = error.reason or error.code.name
            if error.code is StatusCode.UNAVAILABLE:
                self._ask_another()
            failure = None if error.reason else error
            if failure is not None:
                self.load.outcomes.record_transport_failure(FLEET, error.code.name)
        self.environment.events.request.fire(
            request_type=FLEET,
            name=f"{FLEET} {name} {outcome}",
            response_time=(time.perf_counter() - started) * 1000,
            response_length=0,
            exception=failure,
            context={},
        )
        return answer


def _workload(name: str, step: FleetStep, pin: Sequence[str]) -> workload_pb2.WorkloadSpec:
    return workload_pb2.WorkloadSpec(
        name=name,
        replicas=step.replicas,
        application=step.application,
        memory_request_bytes=16 << 20,
        memory_limit_bytes=256 << 20,
        node_selector=selector_of(step, pin),
    )
