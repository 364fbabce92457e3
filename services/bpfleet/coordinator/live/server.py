"""Serves the live page over HTTP: the page, the fleet as a stream of JSON lines, one node in depth.

Everything is bounded: readers, rows per answer, and what is kept per reader (the rows it has, no queue).
"""

import asyncio
import json
import logging
from collections.abc import Sequence
from importlib import resources
from typing import Any, Final

from aiohttp import web

from bpfleet.coordinator.live.depth import node_in_depth
from bpfleet.coordinator.node_client import AgentChannel
from bpfleet.coordinator.reconcile import Coordinator
from bpfleet.fleet.errors import FleetError, Refused
from bpfleet.fleet.frames import Row, fleet_rows, frame
from bpfleet.fleet.reasons import ControlReason
from bpfleet.rpc.addresses import parse_address
from bpfleet.rpc.hosts import is_known_host
from bpfleet.rpc.server import ListenError
from bpfleet.rpc.tokens import Tokens

__all__ = ["LivePage"]

_log: Final = logging.getLogger(__name__)
READERS_MAX: Final = 64
INTERVAL_SECONDS: Final = 1.0
# How long a reader may read nothing, or a peer may take to ask for something, until its place is another's.
SILENCE_SECONDS: Final = 30.0
_STATUS: Final = {Refused.NOT_FOUND: 404, Refused.UNAVAILABLE: 503}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src data:;"
    " style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class LivePage:
    """The page of one coordinator. Readers send a token as gRPC clients do, where ``tokens`` are used.

    ``names`` are those it answers to, besides addresses and the name of this host. ``silence_seconds`` is the patience
    with peers that neither ask nor read.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        agent_channel: AgentChannel,
        *,
        tokens: Tokens | None = None,
        names: Sequence[str] = (),
        readers_max: int = READERS_MAX,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._coordinator: Final = coordinator
        self._agent_channel: Final = agent_channel
        self._tokens: Final = tokens
        self._names: Final = tuple(names)
        self._page: Final = resources.files(__package__).joinpath("page.html").read_text("utf-8")
        self._readers_max: Final = readers_max
        self._silence_seconds: Final = silence_seconds
        self._readers = 0
        # Connections that have not asked for anything yet, and what ends them.
        self._silent: dict[asyncio.BaseProtocol, asyncio.TimerHandle] = {}
        self._rows: tuple[float, list[Row]] = (float("-inf"), [])
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    async def start(self, listen: str) -> int:
        """Serves on ``host:port`` and returns the port. Raises ``ListenError`` if it is taken."""
        host, port = parse_address(listen)
        app = web.Application(middlewares=[self._guard])
        app.on_response_prepare.append(_say_no_more)
        app.router.add_get("/", self._index)
        app.router.add_get("/api/stream", self._stream)
        app.router.add_get("/api/nodes/{name}", self._node)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            self._server = await asyncio.get_running_loop().create_server(self._peer, host, port)
        except OSError as error:
            await self._runner.cleanup()
            raise ListenError(f"cannot serve the live page on {listen}: {error.strerror}") from None
        bound: int = self._server.sockets[0].getsockname()[1]
        _log.info("event=live_page host=%s port=%d", host, bound)
        return bound

    async def close(self) -> None:
        """Ends every stream and stops serving."""
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()
        for ending in self._silent.values():
            ending.cancel()

    # -- connections ---------------------------------------------------------------------------------------------

    def _peer(self) -> asyncio.BaseProtocol:
        """The protocol of a new connection: aiohttp waits for the first request for ever, this page does not."""
        assert self._runner is not None, "a page that is started has one"
        serve = self._runner.server
        assert serve is not None, "it was set up"
        peer = serve()
        loop = asyncio.get_running_loop()
        self._silent[peer] = loop.call_later(self._silence_seconds, self._hang_up, peer)
        return peer

    def _hang_up(self, peer: web.RequestHandler) -> None:
        self._silent.pop(peer, None)
        peer.force_close()

    # -- requests ------------------------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Asks for the token on everything but the page itself, which holds no data, and turns refusals into JSON."""
        if (ending := self._silent.pop(request.protocol, None)) is not None:
            ending.cancel()
        if not is_known_host(request.headers.get("Host", ""), self._names):
            text = "this page does not answer to that name; use an address, or name it with --live-host"
            return web.json_response({"error": text}, status=421, headers=_HEADERS)
        if not self._welcome(request):
            text = "a token is needed"
            return web.json_response({"error": text}, status=401, headers=_HEADERS)
        try:
            answer: web.StreamResponse = await handler(request)
        except FleetError as error:
            status = _STATUS.get(error.kind, 400)
            return web.json_response({"error": str(error)}, status=status, headers=_HEADERS)
        return answer

    def _welcome(self, request: web.Request) -> bool:
        """Whether a request shows a token, or asks for nothing that needs one."""
        if self._tokens is None or request.path == "/":
            return True
        return self._tokens.caller(request.headers.get("Authorization", "")) is not None

    async def _index(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=self._page, content_type="text/html", headers=_HEADERS)

    async def _node(self, request: web.Request) -> web.StreamResponse:
        state = self._coordinator.state
        told = await node_in_depth(state, request.match_info["name"], self._agent_channel)
        await self._coordinator.seen()
        return web.json_response(told, headers=_HEADERS)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """One JSON object a line: first the whole fleet, then what changed, about once a second."""
        if self._readers >= self._readers_max:
            text = f"{self._readers_max} readers are connected; close one"
            raise FleetError(Refused.UNAVAILABLE, ControlReason.TOO_MANY_READERS, text)
        first = await self._fleet()
        response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "application/x-ndjson"})
        self._readers += 1
        try:
            await response.prepare(request)
            await self._tell(response, first)
        except TimeoutError:
            # It does not read, so a farewell would wait for ever.
            if request.transport is not None:
                request.transport.abort()
        except (ConnectionError, FleetError):
            pass  # the reader has gone, or another coordinator leads: the page asks again
        finally:
            self._readers -= 1
        return response

    async def _tell(self, response: web.StreamResponse, rows: list[Row]) -> None:
        before: list[Row] | None = None
        log, seen = self._coordinator.log, 0
        while True:
            first = max(seen + 1, log.oldest_revision)
            events = log.since(first, log.last_revision - first + 1)
            told = frame(before, rows, events, missed=first - seen - 1 if seen else 0)
            seen = log.last_revision
            line = json.dumps(told, separators=(",", ":")).encode() + b"\n"
            async with asyncio.timeout(self._silence_seconds):
                await response.write(line)
            before = rows
            await asyncio.sleep(INTERVAL_SECONDS)
            rows = await self._fleet()

    async def _fleet(self) -> list[Row]:
        """The rows of now, computed at most once per interval for all readers, once what they show is stored.

        Raises ``FleetError`` on a standby, and where the store is away.
        """
        state = self._coordinator.state
        now = asyncio.get_running_loop().time()
        if now - self._rows[0] >= INTERVAL_SECONDS / 2:
            self._rows = (now, fleet_rows(state))
        rows = self._rows[1]
        await self._coordinator.seen()
        return rows


async def _say_no_more(request: web.Request, response: web.StreamResponse) -> None:
    """Takes away what tells strangers which versions run here."""
    response.headers.pop("Server", None)
