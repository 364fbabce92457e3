"""Whether an agent is where it says: asked at the address itself, before anything else is sent there."""

import hmac
from collections import OrderedDict
from secrets import token_hex
from typing import TYPE_CHECKING, Final, final

import grpc
from grpc import aio

from bpfleet.coordinator.node_client import AgentChannel
from bpfleet.fleet.reasons import ControlReason
from bpfleet.rpc.channel import aio_channel, without_token
from bpfleet.rpc.errors import ApiError, decode_rpc_error
from bpfleet.rpc.tokens import Tokens, proof_of_address
from bpfleet.v1 import runtime_service_pb2 as pb
from bpfleet.v1.runtime_service_pb2_grpc import RuntimeServiceStub

if TYPE_CHECKING:
    from bpfleet.v1.runtime_service_pb2_grpc import RuntimeServiceAsyncStub

__all__ = ["AddressProver"]

_DEADLINE_SECONDS: Final = 5.0
_PROVEN_MAX: Final = 20_000


@final
class AddressProver:
    """Asks each start of an agent once."""

    def __init__(self, tokens: Tokens, channel: AgentChannel) -> None:
        self._tokens: Final = tokens
        self._channel: Final = channel
        self._proven: Final[OrderedDict[tuple[str, str, str], None]] = OrderedDict()

    async def check(self, agent: str, incarnation: str, address: str) -> None:
        """Raises ``ApiError`` (FAILED_PRECONDITION, ADDRESS_UNPROVEN) unless this agent answers at ``address``."""
        key = (agent, incarnation, address)
        if key in self._proven:
            return
        nonce = token_hex(16)
        expected = proof_of_address(
            self._tokens.of_agent(agent), nonce=nonce, agent=agent, incarnation=incarnation
        )
        request = pb.ProveAddressRequest(nonce=nonce, agent=agent, incarnation=incarnation)
        async with aio_channel(without_token(self._channel(address, agent))) as channel:
            stub: RuntimeServiceAsyncStub = RuntimeServiceStub(channel)
            try:
                answer = await stub.ProveAddress(request, timeout=_DEADLINE_SECONDS)
            except aio.AioRpcError as error:
                told = decode_rpc_error(error)
                raise _unproven(agent, address, f"{told.code.name} {told.message}") from None
        if not hmac.compare_digest(answer.proof.encode(), expected.encode()):
            raise _unproven(agent, address, "what answers there does not have the agent's token")
        self._proven[key] = None
        if len(self._proven) > _PROVEN_MAX:
            self._proven.popitem(last=False)


def _unproven(agent: str, address: str, why: str) -> ApiError:
    return ApiError(
        grpc.StatusCode.FAILED_PRECONDITION,
        ControlReason.ADDRESS_UNPROVEN,
        f"address: agent {agent} could not be found at {address}: {why}",
        field="address",
    )
