"""Keeps an agent registered: announces its nodes, renews their lease, reports what changed. One call for all nodes."""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final, TypeVar, final

from grpc import aio

from bpfleet.fleet.commands import NodeAnnouncement, NodeUsage
from bpfleet.fleet.reasons import ControlReason
from bpfleet.kernel.units import bytes_of
from bpfleet.node_agent.agent import Agent
from bpfleet.node_agent.commands import CommandOrder
from bpfleet.node_agent.node import HostedNode
from bpfleet.node_agent.replicas import Attempt, Key, Replicas
from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.rpc.channel import aio_channel
from bpfleet.rpc.errors import decode_rpc_error
from bpfleet.rpc.fleet import announcement_message, usage_message
from bpfleet.rpc.interceptors import Ended
from bpfleet.v1 import registry_service_pb2 as pb
from bpfleet.v1 import registry_service_pb2_grpc as pb_grpc
from bpfleet.version import __version__

if TYPE_CHECKING:
    # The asyncio stub is a name of the type stubs alone.
    from bpfleet.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub

__all__ = ["Connect", "Registration", "over_grpc"]

_log: Final = logging.getLogger(__name__)

NODES_PER_CALL: Final = 2_000
CALL_SECONDS: Final = 10.0
BACK_OFF_FIRST_SECONDS: Final = 0.2
BACK_OFF_MAX_SECONDS: Final = 1.0
# News about replicas is reported at once, but not more often than this.
REPORT_SECONDS_MIN: Final = 0.1
_RENEWALS_PER_LEASE: Final = 3
_LEASE_SECONDS_DEFAULT: Final = 10.0

Item = TypeVar("Item")


class _Expired(Exception):
    """The coordinator no longer knows this agent: register again."""


# How a coordinator is reached: a stub that is good inside the context.
Connect = Callable[[ChannelOptions], "AbstractAsyncContextManager[RegistryServiceAsyncStub]"]


def over_grpc(ended: Ended | None = None) -> Connect:
    """The usual way; ``ended`` hears of every call."""

    @contextlib.asynccontextmanager
    async def connect(target: ChannelOptions) -> AsyncIterator["RegistryServiceAsyncStub"]:
        async with aio_channel(target, ended) as channel:
            yield pb_grpc.RegistryServiceStub(channel)

    return connect


@final
class Registration:
    """Talks to the coordinators for as long as the agent lives. While none answers, the nodes keep running.

    Each start of the agent is an incarnation of its own, so that a coordinator can tell a restart from a hiccup.
    """

    def __init__(
        self,
        agent: Agent,
        replicas: Replicas,
        commands: CommandOrder,
        coordinators: Sequence[ChannelOptions],
        address: str,
        *,
        connect: Connect | None = None,
        incarnation: str = "",
    ) -> None:
        self._agent: Final = agent
        self._replicas: Final = replicas
        self._commands: Final = commands
        self._coordinators: Final = tuple(coordinators)
        self._address: Final = address
        self._connect: Final = connect or over_grpc()
        self._incarnation: Final = incarnation or uuid.uuid4().hex
        # Of announcements: the coordinator refuses one that comes after a later one.
        self._calls = 0
        self._stub: RegistryServiceAsyncStub | None = None
        self._announced: frozenset[str] = frozenset()
        # Nodes the coordinator has yet to hear are deleted.
        self._deleted: set[str] = set()
        self.registered = asyncio.Event()
        self._leaving = False

    async def run(self) -> None:
        """Registers, renews and reports until the agent leaves; tries the coordinators in turn, with back-off."""
        delay = BACK_OFF_FIRST_SECONDS
        turn = 0
        while not self._leaving:
            target = self._coordinators[turn % len(self._coordinators)]
            registered = False
            try:
                async with self._connect(target) as self._stub:
                    before = self._commands.position
                    lease = await self._register()
                    registered = True
                    self.registered.set()
                    self._commands.registered(lease.leader_epoch, lease.void_sequence, since=before)
                    _log.info(
                        "event=registered coordinator=%s nodes=%d",
                        target.target,
                        len(self._agent.node_ids),
                    )
                    await self._serve(lease)
            except _Expired:
                _log.warning("event=lease_expired coordinator=%s", target.target)
            except aio.AioRpcError as error:
                _tell(target.target, error, first=turn == 0 or registered)
                turn += 1
            finally:
                self._stub = None
            delay = BACK_OFF_FIRST_SECONDS if registered else min(delay * 2, BACK_OFF_MAX_SECONDS)
            await asyncio.sleep(delay)

    async def leave(self) -> None:
        """Takes the agent out of the fleet, if a coordinator answers within a second, and does not come back."""
        self._leaving = True
        if self._stub is not None:
            request = pb.UnregisterAgentRequest(
                agent=self._agent.agent_id, incarnation=self._incarnation
            )
            with contextlib.suppress(aio.AioRpcError):
                await self._stub.UnregisterAgent(request, timeout=1.0)

    # -- registering -------------------------------------------------------------------------------------------------

    async def _register(self) -> pb.Lease:
        """Announces every node with what runs on it."""
        nodes = self._agent.all()
        running = self._by_node()
        lease = pb.Lease()
        for part in _parts(nodes, NODES_PER_CALL):
            announced = [self._announcement(node, running.get(node.node_id, [])) for node in part]
            lease = await self._announce(announced, partial=part[-1] is not nodes[-1])
        if not nodes:
            lease = await self._announce([])
        self._note_announced(nodes)
        self._agent.dirty.update(self._announced)
        return lease

    def _note_announced(self, nodes: Sequence[HostedNode]) -> None:
        now = frozenset(node.node_id for node in nodes)
        self._deleted = (self._deleted | (self._announced - now)) - now
        self._announced = now

    async def _announce(self, nodes: list[NodeAnnouncement], *, partial: bool = False) -> pb.Lease:
        self._calls += 1
        request = pb.RegisterAgentRequest(
            sequence=self._calls,
            agent=self._agent.agent_id,
            incarnation=self._incarnation,
            address=self._address,
            nodes=map(announcement_message, nodes),
            version=__version__,
            partial=partial,
        )
        response = await self._connected.RegisterAgent(request, timeout=CALL_SECONDS)
        for rejected in response.rejected_nodes:
            _log.warning(
                "event=node_rejected node=%s reason=%s message=%r",
                rejected.node,
                rejected.reason,
                rejected.message,
            )
        return response.lease

    def _announcement(self, node: HostedNode, attempts: list[Attempt]) -> NodeAnnouncement:
        shape = node.shape
        return NodeAnnouncement(
            name=node.node_id,
            profile=shape.profile.name,
            possible_cpus=shape.possible_cpus,
            ram_bytes=shape.ram_bytes,
            replicas=tuple(self._replicas.news_of(attempt) for attempt in attempts),
        )

    def _by_node(self) -> dict[str, list[Attempt]]:
        found: dict[str, list[Attempt]] = {}
        for key in self._replicas.keys:
            attempt = self._replicas.find(key)
            if attempt is not None:
                found.setdefault(key.node, []).append(attempt)
        return found

    # -- renewing and reporting --------------------------------------------------------------------------------------

    async def _serve(self, lease: pb.Lease) -> None:
        """Renews the lease in time and reports in between; returns never, raises when the coordinator is gone."""
        loop = asyncio.get_running_loop()
        renew_at = loop.time()
        while True:
            if loop.time() >= renew_at:
                lease = await self._renew()
                renew_at = loop.time() + _renew_seconds(lease)
                await self._announce_new()
                await self._report(everything=True)
            elif self._replicas.changed:
                await self._report(everything=False)
            self._replicas.news.clear()
            if not self._replicas.changed:
                # Not wait_for: in Python 3.11 it can swallow the cancellation that ends this task.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(renew_at):
                        await self._replicas.news.wait()
            await asyncio.sleep(REPORT_SECONDS_MIN)

    async def _renew(self) -> pb.Lease:
        request = pb.RenewLeaseRequest(agent=self._agent.agent_id, incarnation=self._incarnation)
        try:
            response = await self._connected.RenewLease(request, timeout=CALL_SECONDS)
        except aio.AioRpcError as error:
            if decode_rpc_error(error).reason == ControlReason.LEASE_EXPIRED:
                raise _Expired from None
            raise
        return response.lease

    async def _announce_new(self) -> None:
        """Nodes that were created since the registration, and those that were deleted."""
        nodes = self._agent.all()
        fresh = [node for node in nodes if node.node_id not in self._announced]
        for part in _parts(fresh, NODES_PER_CALL):
            await self._announce([self._announcement(node, []) for node in part], partial=True)
        self._note_announced(nodes)
        if self._deleted:
            deleted = sorted(self._deleted)
            for gone in _parts(deleted, NODES_PER_CALL):
                await self._send([], removed=gone)
            self._deleted.difference_update(deleted)

    async def _report(self, *, everything: bool) -> None:
        """Reports replicas whose phase changed; with ``everything`` also the nodes that were called."""
        changed: dict[str, list[Key]] = {}
        for key in sorted(self._replicas.changed):
            changed.setdefault(key.node, []).append(key)
        wanted = set(changed) | (self._agent.dirty if everything else set())
        for part in _parts(sorted(wanted), NODES_PER_CALL):
            reports = [
                self._report_node(self._agent.find(node_id), changed.get(node_id, []))
                for node_id in part
                if self._agent.has(node_id)
            ]
            self._agent.dirty.difference_update(part)
            keys = [key for node_id in part for key in changed.get(node_id, [])]
            self._replicas.changed.difference_update(keys)
            try:
                await self._send(reports)
            except aio.AioRpcError:
                self._agent.dirty.update(part)
                self._replicas.changed.update(key for key in keys if self._replicas.find(key))
                raise

    async def _send(self, reports: list[NodeUsage], *, removed: Sequence[str] = ()) -> None:
        request = pb.ReportNodesRequest(
            agent=self._agent.agent_id,
            incarnation=self._incarnation,
            reports=map(usage_message, reports),
            removed_nodes=removed,
        )
        try:
            response = await self._connected.ReportNodes(request, timeout=CALL_SECONDS)
        except aio.AioRpcError as error:
            if decode_rpc_error(error).reason == ControlReason.LEASE_EXPIRED:
                raise _Expired from None
            raise
        unknown = frozenset(response.unknown_replicas)
        for key in [key for key in self._replicas.keys if key.replica in unknown]:
            _log.info("event=unknown_replica_stopped replica=%s node=%s", key.replica, key.node)
            self._replicas.stop(key)

    def _report_node(self, node: HostedNode, keys: list[Key]) -> NodeUsage:
        kernel = node.wake()
        found = [self._replicas.find(key) for key in keys]
        return NodeUsage(
            node=node.node_id,
            memory_used_bytes=node.used_bytes,
            bpf_charged_bytes=node.bpf_charged_bytes,
            locked_bytes=bytes_of(sum(user.locked_vm_pages for user in kernel.users.all())),
            verdicts=tuple(node.all_verdicts().items()),
            replicas=tuple(
                self._replicas.news_of(attempt) for attempt in found if attempt is not None
            ),
            crashed=bool(node.crash_message),
        )

    @property
    def _connected(self) -> "RegistryServiceAsyncStub":
        assert self._stub is not None, (
            "calls are made between registering and losing the coordinator"
        )
        return self._stub


def _renew_seconds(lease: pb.Lease) -> float:
    asked = lease.renew_interval.ToTimedelta().total_seconds()
    whole = lease.duration.ToTimedelta().total_seconds() or _LEASE_SECONDS_DEFAULT
    return asked or whole / _RENEWALS_PER_LEASE


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _tell(target: str, error: aio.AioRpcError, *, first: bool) -> None:
    """A coordinator that is away is worth one line when it goes, not one per attempt."""
    level = logging.WARNING if first else logging.DEBUG
    code = error.code().name
    _log.log(
        level, "event=coordinator_away target=%s code=%s details=%r", target, code, error.details()
    )
