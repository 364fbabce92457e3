"""gRPC without a network: stubs whose calls travel over the simulated one and fail as real calls do.

Requests and answers are copied as their bytes, so that no two processes share a message.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
from google.protobuf.message import Message
from grpc import aio
from grpc_status import rpc_status

from bpfleet.kernel.errors import KernelError
from bpfleet.rpc.errors import ApiError, status_of
from bpfleet.sim.network import Network, SimProcess, Unreachable

__all__ = ["CallContext", "Link", "Stub", "opened"]

# Hears a request when it leaves, and its answer when it has come back (None at first).
Hearing = Callable[[Message, Message | None], None]


class CallContext:
    """What a servicer sees of a call: the metadata, in both directions."""

    def __init__(self, sent: tuple[tuple[str, str], ...] = ()) -> None:
        self._sent: Final = sent
        self.told: tuple[tuple[str, str], ...] = ()

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """What the client sent along."""
        return self._sent

    def set_trailing_metadata(self, metadata: tuple[tuple[str, str], ...]) -> None:
        """What the server sends along."""
        self.told = metadata


class Link:
    """From one process to the services of another. ``serves`` finds the servicer of the target's present life."""

    def __init__(
        self,
        network: Network,
        source: SimProcess,
        target: SimProcess,
        serves: Callable[[], object],
        *,
        hears: Hearing = lambda request, answer: None,
        fails: Callable[[BaseException], None],
    ) -> None:
        self._network: Final = network
        self._source: Final = source
        self._target: Final = target
        self._serves: Final = serves
        self._hears: Final = hears
        self._fails: Final = fails

    # The message types depend on the method.
    async def call(self, method: str, request: Message) -> Any:
        """One unary call. Raises ``aio.AioRpcError``."""
        data = request.SerializeToString()
        self._hears(request, None)

        async def at_target() -> Message:
            return await self._answer(method, type(request).FromString(data))

        try:
            answer = await self._network.call(self._source, self._target, at_target)
        except Unreachable as error:
            raise _rpc_error(grpc.StatusCode.UNAVAILABLE, str(error)) from None
        except (ApiError, KernelError) as error:
            status = rpc_status.to_status(status_of(error, method))
            raise aio.AioRpcError(
                status.code,
                aio.Metadata(),
                aio.Metadata(*status.trailing_metadata),
                details=status.details,
            ) from None
        copied = type(answer).FromString(answer.SerializeToString())
        self._hears(request, copied)
        return copied

    async def _answer(self, method: str, request: Message) -> Message:
        try:
            servicer = getattr(self._serves(), method)
            answer: Message = await servicer(request, None)
        except (Unreachable, ApiError, KernelError, asyncio.CancelledError):
            raise
        except Exception as error:
            # A server would answer INTERNAL and write it in its log: here it ends the run.
            self._fails(error)
            raise
        return answer


class Stub:
    """Stands for any generated stub: every attribute is a method to call."""

    def __init__(self, link: Link) -> None:
        self._link: Final = link

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        async def call(request: Message, timeout: float | None = None) -> Any:
            return await self._link.call(method, request)

        return call


# Any: a Stub stands for the stub of every service.
@asynccontextmanager
async def opened(link: Link) -> AsyncIterator[Any]:
    """The stub of a link, as a channel gives it."""
    yield Stub(link)


def _rpc_error(code: grpc.StatusCode, details: str) -> aio.AioRpcError:
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), details=details)
