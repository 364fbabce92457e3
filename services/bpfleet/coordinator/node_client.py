"""Calls to the RuntimeService of agents: one channel each, one batch of orders at a time."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from grpc import aio

from bpfleet.fleet.commands import ReplicaNews
from bpfleet.fleet.dispatch import Orders
from bpfleet.fleet.records import Workload
from bpfleet.rpc.addresses import ChannelOptions
from bpfleet.rpc.channel import aio_channel
from bpfleet.rpc.errors import decode_rpc_error
from bpfleet.rpc.interceptors import Ended
from bpfleet.rpc.orders import news_of, order_messages
from bpfleet.rpc.server import SettingsError
from bpfleet.v1.runtime_service_pb2_grpc import RuntimeServiceStub

if TYPE_CHECKING:
    from bpfleet.v1.runtime_service_pb2_grpc import RuntimeServiceAsyncStub

__all__ = [
    "AgentChannel",
    "AgentUnreachable",
    "Agents",
    "Answer",
    "GrpcAgents",
    "hand_over",
]

_DEADLINE_SECONDS: Final = 30.0
_CHANNELS_MAX: Final = 20_000

# Makes the channel options for an address and the agent there, whose token is the only one it is shown.
AgentChannel = Callable[[str, str], ChannelOptions]
# (node, news) of one answer, and the (node, replica) pairs that are stopped.
Answer = tuple[list[tuple[str, ReplicaNews]], list[tuple[str, str]]]


class AgentUnreachable(Exception):
    """An agent did not take its orders; they have to be repeated."""


class Agents(Protocol):
    """How orders reach agents."""

    async def carry_out(
        self, address: str, orders: Orders, workloads: dict[str, Workload], epoch: int
    ) -> Answer:
        """Hands orders over and returns what the agent says. Raises ``AgentUnreachable``."""

    async def close(self) -> None:
        """Lets go of all connections."""


async def hand_over(
    stub: "RuntimeServiceAsyncStub", orders: Orders, workloads: dict[str, Workload], epoch: int
) -> Answer:
    """The calls of one batch of orders: stops first, so that what starts finds its memory free.

    Raises ``AgentUnreachable``.
    """
    stops, runs = order_messages(orders, workloads, epoch)
    news: list[tuple[str, ReplicaNews]] = []
    try:
        if stops.replicas:
            await stub.StopReplicas(stops, timeout=_DEADLINE_SECONDS)
        if runs.replicas:
            answer = await stub.RunReplicas(runs, timeout=_DEADLINE_SECONDS)
            news = news_of(orders, answer)
    except aio.AioRpcError as error:
        told = decode_rpc_error(error)
        raise AgentUnreachable(f"{told.code.name} {told.reason}: {told.message}") from None
    return news, list(orders.stops)


class GrpcAgents:
    """Agents over gRPC."""

    def __init__(self, options: AgentChannel, ended: Ended | None = None) -> None:
        self._options = options
        self._ended = ended
        self._channels: dict[tuple[str, str], aio.Channel] = {}

    async def carry_out(
        self, address: str, orders: Orders, workloads: dict[str, Workload], epoch: int
    ) -> Answer:
        """Hands orders over and returns what the agent says. Raises ``AgentUnreachable``."""
        return await hand_over(self._stub(address, orders.agent), orders, workloads, epoch)

    async def close(self) -> None:
        """Closes every channel."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    def _stub(self, address: str, agent: str) -> "RuntimeServiceAsyncStub":
        channel = self._channels.get((address, agent))
        if channel is None:
            if len(self._channels) >= _CHANNELS_MAX:
                raise AgentUnreachable("too many agents")
            try:
                channel = aio_channel(self._options(address, agent), self._ended)
            except SettingsError as error:
                raise AgentUnreachable(str(error)) from None
            self._channels[address, agent] = channel
        return RuntimeServiceStub(channel)
