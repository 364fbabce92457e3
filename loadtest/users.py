"""The kinds of users: what each does to its node, or to the coordinator."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

from grpc import StatusCode
from locust import User, tag, task
from locust.exception import StopUser

from bpfleet.client.environment import channel_from_environment
from bpfleet.client.fleet import FleetClient
from bpfleet.client.session import CallError, Session
from bpfleet.v1 import workload_pb2
from bpfleet.workload.catalogue import inventory_for
from bpfleet.workload.seeding import SplitMix64
from bpfleet.workload.spec import Inventory, NodeShape
from loadtest.grpc_user import ScriptUser
from loadtest.run import LoadRun, run_of
from loadtest.scripts import Script, churn, fill_to_the_limit, open_and_close, rolling_restarts
from loadtest.seats import Seat

__all__ = [
    "BatchUser",
    "ElementUser",
    "FleetUser",
    "InventoryUser",
    "RollingRestartUser",
    "TenantUser",
]

_BATCHES_IN_A_MESSAGE_MAX = 8
_log = logging.getLogger("bpfleet.load")


def _inventories(run: LoadRun, seat: Seat) -> list[Inventory]:
    """The applications of this load test, sized for the node, beginning with the lane's own."""
    shape = NodeShape(possible_cpus=seat.place.possible_cpus, ram_bytes=seat.place.ram_bytes)
    names = run.options.applications
    turn = seat.lane % len(names)
    return [inventory_for(name, shape) for name in names[turn:] + names[:turn]]


class ElementUser(ScriptUser):
    """Churns an application's maps, one element per system call."""

    weight = 4
    kind = "element"

    @tag("element")
    @task
    def element(self) -> None:
        """Send the next message."""
        self.send_message()

    def make_script(self, seat: Seat) -> Script:
        return _churn(self.load, seat, batched=False)


class BatchUser(ScriptUser):
    """Churns an application's maps through the kernel's batch commands."""

    weight = 2
    kind = "batch"

    @tag("batch")
    @task
    def batch(self) -> None:
        """Send the next message."""
        self.send_message()

    def make_script(self, seat: Seat) -> Script:
        return _churn(self.load, seat, batched=True)


def _churn(run: LoadRun, seat: Seat, *, batched: bool) -> Script:
    options = run.options
    return churn(
        _inventories(run, seat)[0],
        seat.seed,
        cpus=seat.place.possible_cpus,
        calls=min(options.batch, _BATCHES_IN_A_MESSAGE_MAX) if batched else options.batch,
        elements=options.elements,
        batched=batched,
    )


class InventoryUser(ScriptUser):
    """Starts and stops whole applications, one after the other."""

    weight = 2
    kind = "inventory"

    @tag("inventory")
    @task
    def inventory(self) -> None:
        """Send the next message."""
        self.send_message()

    def make_script(self, seat: Seat) -> Script:
        inventories = _inventories(self.load, seat)
        cpus, elements = seat.place.possible_cpus, self.load.options.elements
        return open_and_close(inventories, cpus=cpus, elements=elements)


class TenantUser(ScriptUser):
    """Fills its cgroup until it is refused or killed."""

    weight = 2
    kind = "tenant"

    @tag("tenant")
    @task
    def tenant(self) -> None:
        """Send the next message."""
        self.send_message()

    def make_script(self, seat: Seat) -> Script:
        options = self.load.options
        return fill_to_the_limit(
            seat.seed,
            limit_bytes=options.limit_bytes,
            cpus=seat.place.possible_cpus,
            elements=options.elements,
        )


class RollingRestartUser(ScriptUser):
    """Replaces an agent that pins its maps, over and over."""

    weight = 1
    kind = "rolling"

    @tag("rolling")
    @task
    def rolling(self) -> None:
        """Send the next message."""
        self.send_message()

    def make_script(self, seat: Seat) -> Script:
        options = self.load.options
        return rolling_restarts(
            _inventories(self.load, seat)[0],
            seat.seed,
            cpus=seat.place.possible_cpus,
            calls=options.batch,
            elements=options.elements,
            prefix=seat.name,
        )


class FleetUser(User):
    """Submits, scales, watches and deletes workloads at the coordinator.

    Stops by itself where no coordinator is named: not every load test has one.
    """

    host = "bpfleet"
    weight = 1
    kind = "fleet"
    _numbers = itertools.count()

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.load: LoadRun = run_of(environment)
        self._number = next(FleetUser._numbers)
        self._random = SplitMix64(self.load.options.seed + self._number)
        self._coordinator = 0
        self._connected: FleetClient | None = None
        self._made: list[str] = []
        self._turn = 0

    def wait_time(self) -> float:
        """Fleet operations are rarer than system calls."""
        return max(self.load.options.think_seconds, 0.1)

    def on_stop(self) -> None:
        """Takes its workloads out of the fleet again."""
        for name in self._made:
            self._timed("delete_workload", partial(self._fleet.delete_workload, name))
        if self._connected is not None:
            self._connected.session.close()

    @tag("fleet")
    @task(3)
    def submit(self) -> None:
        """One more workload; beyond four the oldest goes."""
        self._turn += 1
        run_name = f"load-{id(self.environment) & 0xFFFF:x}-{self._number}-{self._turn}"
        names = self.load.options.applications
        spec = workload_pb2.WorkloadSpec(
            replicas=1 + self._random.below(3),
            application=names[self._random.below(len(names))],
            memory_request_bytes=16 << 20,
            memory_limit_bytes=256 << 20,
        )
        if self._timed("create_workload", lambda: self._fleet.create_workload(run_name, spec)):
            self._made.append(run_name)
        if len(self._made) > 4:
            oldest = self._made.pop(0)
            self._timed("delete_workload", lambda: self._fleet.delete_workload(oldest))

    @tag("fleet")
    @task(3)
    def scale(self) -> None:
        """Another number of replicas."""
        if self._made:
            name = self._made[self._random.below(len(self._made))]
            replicas = 1 + self._random.below(5)
            self._timed("scale_workload", lambda: self._fleet.scale_workload(name, replicas))

    @tag("fleet")
    @task(2)
    def look(self) -> None:
        """The fleet in numbers."""
        self._timed("fleet_status", self._fleet.status)

    @tag("fleet")
    @task(1)
    def watch(self) -> None:
        """Follows the fleet from its last revision until the first answer."""
        status = self._timed("fleet_status", self._fleet.status)
        if status is not None and status.revision:
            with closing(self._fleet.watch(status.revision)) as follow:
                self._timed("watch_fleet", lambda: next(follow))

    @property
    def _fleet(self) -> FleetClient:
        """Raises ``StopUser`` where no coordinator is named."""
        if self._connected is None:
            target = self.load.coordinator(self._coordinator)
            if target is None:
                raise StopUser
            self._connected = FleetClient(Session(channel_from_environment(target)))
        return self._connected

    def _ask_another(self) -> None:
        """The next call goes to the next coordinator: this one stands by or is away."""
        if self._connected is not None:
            self._connected.session.close()
        self._coordinator += 1
        self._connected = None

    def _timed(self, name: str, act: Callable[[], Any]) -> Any:
        """Carry out one call and report it; None where it failed or was refused.

        A refusal of the control plane (a workload that does not fit, one that is gone) is counted
        under its reason; only transport failures are failures.
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
                self.load.outcomes.record_transport_failure("fleet", error.code.name)
        self.environment.events.request.fire(
            request_type="fleet",
            name=f"fleet {name} {outcome}",
            response_time=(time.perf_counter() - started) * 1000,
            response_length=0,
            exception=failure,
            context={},
        )
        return answer
