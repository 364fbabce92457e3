"""Who uses a simulated fleet: clients of workloads, operators of nodes, and watchers. All insist until answered."""

import asyncio
from collections.abc import Callable, Mapping
from itertools import count
from random import Random
from typing import Any, Final, Protocol

from bpfleet.coordinator.fleet_service import FleetServicer
from bpfleet.rpc.errors import ApiError
from bpfleet.rpc.revision import highest_revision, revision_metadata
from bpfleet.sim.checkers import (
    AcknowledgedIsStored,
    OperatorsMarks,
    Progress,
    Promise,
    Violation,
    WatchedEvents,
)
from bpfleet.sim.mix import KINDS, spec_of
from bpfleet.sim.network import Network, SimProcess, Unreachable
from bpfleet.sim.transport import CallContext
from bpfleet.v1 import fleet_service_pb2 as pb
from bpfleet.v1 import workload_pb2

__all__ = ["Users"]

_VERSIONS: Final = 4
_TOGGLES: Final = 6
_GONE: Final = ("NOT_FOUND",)


class Server(Protocol):
    """A coordinator as its users see it."""

    @property
    def process(self) -> SimProcess:
        """What can crash."""

    @property
    def fleet(self) -> FleetServicer:
        """What users call. Raises ``Unreachable``."""


class Users(SimProcess):
    """``answered`` counts acknowledged commands; ``behind`` says which watcher has not seen every event."""

    def __init__(
        self,
        random: Random,
        network: Network,
        servers: Mapping[str, Server],
        *,
        nodes: Mapping[str, str],
        promises: AcknowledgedIsStored,
        marks: OperatorsMarks,
        progress: Progress,
        now_ms: Callable[[], int],
        events: WatchedEvents,
        exists: Callable[[str], bool],
        fails: Callable[[BaseException], None],
    ) -> None:
        super().__init__("users", random)
        self.answered = 0
        self._network: Final = network
        self._servers: Final = list(servers.values())
        self._nodes: Final = nodes
        self._promises: Final = promises
        self._marks: Final = marks
        self._progress: Final = progress
        self._now_ms: Final = now_ms
        self._events: Final = events
        self._exists: Final = exists
        self._fails: Final = fails
        self._requests = 0
        self._watched: dict[int, int] = {}
        # The highest revision each client was told.
        self._seen: dict[str, int] = {}

    def begin(self, *, quiet: bool) -> list[asyncio.Task[Any]]:
        """Starts everybody; the tasks returned come to an end, watchers do not. ``quiet``: hardly anything is asked."""
        self.start()
        self.spawn(self._read("reader"))
        if quiet:
            return [self.spawn(self._client("plain", 1)), self.spawn(self._toggle())]
        for number in range(2):
            self.spawn(self._watch(number))
        return [
            *(self.spawn(self._client(name, self._random.randint(2, 6))) for name in KINDS),
            self.spawn(self._operator()),
            self.spawn(self._toggle()),
        ]

    @property
    def behind(self) -> str:
        """Who has not seen the last event yet; empty for nobody."""
        late = [n for n, after in self._watched.items() if after < self._events.last]
        return f"watchers {late} have not seen event {self._events.last}" if late else ""

    # -- clients

    async def _client(self, name: str, requests: int) -> None:
        """Creates, changes and deletes one workload, one request after the other."""
        random = self._random
        exists: Promise | None = None
        for _ in range(requests):
            await asyncio.sleep(3 * random.random())
            wanted = Promise(
                random.randint(0, KINDS[name].replicas_max), random.randrange(_VERSIONS)
            )
            if exists is None:
                await self._create(name, wanted)
                exists = wanted
            elif random.random() < 0.25:
                await self._delete(name)
                exists = None
            else:
                await self._update(name, wanted)
                exists = wanted
            if random.random() < 0.5:
                await self._look("client", name)

    async def _create(self, name: str, wanted: Promise) -> None:
        self._promises.asked(name, wanted)
        request = pb.CreateWorkloadRequest(
            spec=spec_of(name, wanted), request_id=self._request_id()
        )
        self._acknowledged(name, wanted, await self._insist("CreateWorkload", request))

    async def _update(self, name: str, wanted: Promise) -> None:
        self._promises.asked(name, wanted)
        request = pb.UpdateWorkloadRequest(
            name=name, spec=spec_of(name, wanted), request_id=self._request_id()
        )
        self._acknowledged(name, wanted, await self._insist("UpdateWorkload", request))

    async def _delete(self, name: str) -> None:
        """Deletes, and sees whether an update would bring it back. A name is free once its workload is gone."""
        self._promises.asked(name, None)
        request = pb.DeleteWorkloadRequest(name=name, request_id=self._request_id())
        await self._insist("DeleteWorkload", request)
        self._promises.acknowledged(name)
        self._answer()
        again = pb.UpdateWorkloadRequest(name=name, spec=spec_of(name, Promise(1, 0)))
        refusals = ("NOT_FOUND", "FAILED_PRECONDITION")
        if await self._insist("UpdateWorkload", again, refusals, once=True) is not None:
            raise Violation(f"{name} is deleted, and was updated all the same")
        while self._exists(name):
            await asyncio.sleep(0.5)

    async def _read(self, client: str) -> None:
        """Reads one workload after the other, of whichever coordinator answers."""
        try:
            while True:
                await self._look(client, self._random.choice(list(KINDS)))
                await asyncio.sleep(self._random.random())
        except Violation as violation:
            self._fails(violation)

    async def _look(self, client: str, name: str) -> None:
        """*reads tell the truth*."""
        began = self._promises.begin_read(name)
        request = pb.GetWorkloadRequest(name=name)
        response = await self._insist("GetWorkload", request, once=True, client=client)
        found = None
        if response is not None and not response.workload.deleting:
            spec = response.workload.spec
            found = Promise(spec.replicas, int(spec.labels["version"]))
        self._promises.read(client, name, found, began)

    # Any: a response that carries the workload.
    def _acknowledged(self, name: str, wanted: Promise, response: Any) -> None:
        self._promises.acknowledged(name)
        self._answer()
        if response is None:
            raise Violation(f"{name} is not found, and nobody deleted it")
        spec = response.workload.spec
        told = Promise(spec.replicas, int(spec.labels["version"]))
        if told != wanted:
            raise Violation(f"{name} was to be {wanted}, the answer says {told}")

    def _answer(self) -> None:
        self.answered += 1
        self._progress.acknowledged(self._now_ms())

    def _request_id(self) -> str:
        self._requests += 1
        return f"request-{self._requests}"

    # Any: the request's type depends on the method.
    async def _insist(
        self,
        method: str,
        request: Any,
        refusals: tuple[str, ...] = _GONE,
        *,
        once: bool = False,
        client: str = "",
    ) -> Any:
        """Repeats a request on one coordinator after the other until it is answered; None for an expected refusal.

        ``once``: the network delivers it neither twice nor late, for requests that are not safe to repeat.
        """
        turn = self._random.randrange(len(self._servers))
        while True:
            server = self._servers[turn % len(self._servers)]

            context = CallContext(revision_metadata(self._seen.get(client, 0)))

            async def work(server: Server = server, context: CallContext = context) -> Any:
                return await getattr(server.fleet, method)(request, context)

            try:
                answer = await self._network.call(self, server.process, work, once=once)
                told = highest_revision(context.told)
                self._seen[client] = max(self._seen.get(client, 0), told)
                return answer
            except Unreachable:
                turn += 1
            except ApiError as error:
                if error.code.name in refusals:
                    return None
                if error.code.name != "UNAVAILABLE":
                    raise
                turn += 1
            await asyncio.sleep(0.2 + 0.4 * self._random.random())

    # -- operators

    async def _operator(self) -> None:
        """Names zones, cordons, drains, marks and brings back; in the end one node is left draining."""
        for node, zone in self._nodes.items():
            await self._label(node, "zone", zone)
        nodes = list(self._nodes)
        for _ in range(self._random.randint(1, 4)):
            await asyncio.sleep(6 * self._random.random())
            name = self._random.choice(nodes)
            for method, request in (
                ("CordonNode", pb.CordonNodeRequest(name=name, request_id=self._request_id())),
                ("DrainNode", pb.DrainNodeRequest(name=name, request_id=self._request_id())),
                ("UncordonNode", pb.UncordonNodeRequest(name=name, request_id=self._request_id())),
            ):
                if self._random.random() < 0.7 or method == "UncordonNode":
                    await self._insist(method, request)
                    await asyncio.sleep(4 * self._random.random())
            await self._repair(self._random.choice(nodes))
        last = pb.DrainNodeRequest(name=nodes[0], request_id=self._request_id())
        await self._insist("DrainNode", last)

    async def _repair(self, node: str) -> None:
        """Moves a node to another duty, and throws everything off it for a while."""
        await self._label(node, "duty", str(self._random.randrange(3)))
        taint = workload_pb2.Taint(key="repair", effect=workload_pb2.TAINT_EFFECT_NO_EXECUTE)
        await self._set_mark(node, "repair", "", pb.TaintNodeRequest(taints=[taint]))
        await asyncio.sleep(3 * self._random.random())
        await self._set_mark(node, "repair", None, pb.TaintNodeRequest(removed_taints=[taint]))

    async def _label(self, node: str, key: str, value: str) -> None:
        request = pb.LabelNodeRequest(labels={key: value}, overwrite=True)
        await self._set_mark(node, key, value, request)

    async def _set_mark(
        self,
        node: str,
        mark: str,
        value: str | None,
        request: pb.LabelNodeRequest | pb.TaintNodeRequest,
    ) -> None:
        request.name, request.request_id = node, self._request_id()
        self._marks.asked(node, mark, value)
        method = type(request).__name__.removesuffix("Request")
        while await self._insist(method, request) is None:
            await asyncio.sleep(0.5)  # the node has yet to register
        self._marks.acknowledged(node, mark)
        self._answer()

    async def keep_marking(self, node: str) -> None:
        """Writes all the time."""
        for number in count():
            await self._label(node, "beat", str(number))
            await asyncio.sleep(0.2)

    async def _toggle(self) -> None:
        """Sets a label and takes that back at once, without request ids: of two that both think they lead, the one
        that is behind would find it as it should be.
        """
        node = self._random.choice(list(self._nodes))
        for _ in range(_TOGGLES):
            await asyncio.sleep(4 * self._random.random())
            for value in ("1", "0"):
                request = pb.LabelNodeRequest(name=node, labels={"toggle": value}, overwrite=True)
                self._marks.asked(node, "toggle", value)
                while await self._insist("LabelNode", request, once=True) is None:
                    await asyncio.sleep(0.5)
                self._marks.acknowledged(node, "toggle")
                self._answer()

    # -- watchers

    async def _watch(self, number: int) -> None:
        """Watches one coordinator for a while, then goes on where it stopped, with it or the other one."""
        self._watched[number] = 0
        while True:
            server = self._random.choice(self._servers)
            request = pb.WatchFleetRequest(start_revision=self._watched[number] + 1)
            context: Any = CallContext()
            try:
                async with asyncio.timeout(0.5 + 4 * self._random.random()):
                    async for response in server.fleet.WatchFleet(request, context):
                        self._see(number, response)
            except Violation as violation:
                self._fails(violation)
            except (TimeoutError, ApiError, Unreachable):
                pass
            await asyncio.sleep(0.1 + self._random.random())

    def _see(self, number: int, response: pb.WatchFleetResponse) -> None:
        for event in response.events:
            after = self._watched[number]
            self._events.seen(event.revision, event.kind, event.replica, event.node, after=after)
            self._watched[number] = event.revision
