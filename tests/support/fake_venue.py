"""A venue that misbehaves on request: a scriptable HTTP and websocket server on ephemeral ports.

It knows nothing of trading. A test says what it answers, request by request and connection by connection, and looks
at what arrived. For a venue that trades, use the paper exchange.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgpack
import orjson
from aiohttp import web
from tests.support import waiting
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

TRADE = "/stream"
STOCK = "/v2/iex"
OPTION = "/v1beta1/indicative"


@dataclass(frozen=True)
class Received:
    """A request as it arrived; `raw` is the body's bytes."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return orjson.loads(self.raw)


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. `body` goes out as JSON unless it is bytes."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    # One of "", "hang" (never answer), "reset" (cut before a byte), "reset_mid_body" (cut after the first bytes),
    # "close_after" (answer and close the connection without saying so).
    fault: str = ""


HTML = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
BAD_GATEWAY = Answer(HTML, 502, {"Content-Type": "text/html"})
GATEWAY_TIMEOUT = Answer(HTML, 504, {"Content-Type": "text/html"})
HANG = Answer(fault="hang")
RESET = Answer(fault="reset")
RESET_MID_BODY = Answer(fault="reset_mid_body")

Reply = Answer | Callable[[Received], Answer]


def refusal(status: int, code: int, message: str, **extras: Any) -> Answer:
    return Answer({"code": code, "message": message, **extras}, status)


class Peer:
    """The server's end of one websocket, with the vendor's dances."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.received: list[Any] = []

    @property
    def headers(self) -> Mapping[str, str]:
        assert self.socket.request is not None
        return self.socket.request.headers

    async def receive(self) -> Any:
        frame = await self.socket.recv(decode=False)
        message = orjson.loads(frame) if frame[:1] in b"{[" else msgpack.unpackb(frame, timestamp=3)
        self.received.append(message)
        return message

    async def send(self, message: Any, *, form: str = "binary", fragments: int = 1) -> None:
        """Send as `binary` or `text` JSON, or as `msgpack`, whole or in fragments."""
        frame: bytes = msgpack.packb(message) if form == "msgpack" else json.dumps(message).encode()
        size = -(-len(frame) // fragments)
        parts = [frame[i : i + size] for i in range(0, len(frame), size)]
        whole: Any = parts if fragments > 1 else frame
        if form == "text":
            whole = [p.decode() for p in parts] if fragments > 1 else frame.decode()
        await self.socket.send(whole)

    async def authorise(self, *, form: str = "binary") -> None:
        assert (await self.receive())["action"] in ("authenticate", "auth")
        await self.send(
            {"stream": "authorization", "data": {"status": "authorized", "action": "authenticate"}}, form=form
        )

    async def listen(self, *, form: str = "binary") -> None:
        assert (await self.receive()) == {"action": "listen", "data": {"streams": ["trade_updates"]}}
        await self.send({"stream": "listening", "data": {"streams": ["trade_updates"]}}, form=form)

    async def open_trades(self, *, form: str = "binary") -> None:
        await self.authorise(form=form)
        await self.listen(form=form)

    async def open_feed(self, *, form: str = "msgpack") -> None:
        await self.send([{"T": "success", "msg": "connected"}], form=form)
        assert (await self.receive())["action"] == "auth"
        await self.send([{"T": "success", "msg": "authenticated"}], form=form)

    async def subscribe(self, active: set[str], *, form: str = "msgpack") -> Any:
        """Serve one subscribe or unsubscribe request."""
        request = await self.receive()
        change = set(request["quotes"])
        active ^= active & change if request["action"] == "unsubscribe" else change - active
        await self.send([{"T": "subscription", "quotes": sorted(active), "trades": [], "bars": []}], form=form)
        return request

    async def stay(self) -> None:
        """Keep the connection open and silent until the other side leaves."""
        await self.socket.wait_closed()


Script = Callable[[Peer], Awaitable[None]]


class FakeVenue:
    """`async with FakeVenue() as venue`; scripts are used up one by one, the last one stays."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.peers: dict[str, list[Peer]] = defaultdict(list)
        self.handshakes: list[str] = []
        self.failures: list[BaseException] = []
        self._replies: dict[tuple[str, str], list[Reply]] = {}
        self._scripts: dict[str, list[Script | Answer]] = {}
        self._released = asyncio.Event()

    async def __aenter__(self) -> "FakeVenue":
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve_http)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._sockets: Server = await serve(
            self._serve_socket, "127.0.0.1", 0, process_request=self._admit, ping_interval=None, close_timeout=0.1
        )
        self.rest_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        base = f"ws://127.0.0.1:{next(iter(self._sockets.sockets)).getsockname()[1]}"
        self.trade_url, self.stock_url, self.option_url = base + TRADE, base + STOCK, base + OPTION
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._released.set()
        self._sockets.close()
        await self._sockets.wait_closed()
        await self._runner.cleanup()

    # HTTP

    def on(self, method: str, path: str, *replies: Reply) -> None:
        """Answer `method path` with these, in order; the last one again and again."""
        self._replies[method, path] = list(replies)

    def sent(self, method: str, path: str | None = None) -> list[Received]:
        """What arrived."""
        return [r for r in self.requests if r.method == method and path in (None, r.path)]

    async def _serve_http(self, request: web.Request) -> web.StreamResponse:
        received = Received(
            request.method, request.path, dict(request.query), dict(request.headers), await request.read()
        )
        self.requests.append(received)
        replies = self._replies.get((request.method, request.path))
        if replies is None:
            return web.json_response({"code": 0, "message": f"nothing scripted for {request.path}"}, status=404)
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        answer = reply if isinstance(reply, Answer) else reply(received)
        body = answer.body if isinstance(answer.body, bytes) else orjson.dumps(answer.body)
        transport = request.transport
        assert transport is not None
        if answer.fault == "hang":
            await self._released.wait()
        elif answer.fault == "reset":
            transport.abort()
        elif answer.fault == "reset_mid_body":
            response = web.StreamResponse(status=answer.status, headers={"Content-Length": "100000"})
            await response.prepare(request)
            await response.write(b'[{"id": "')
            transport.abort()
            return response
        headers = {"Content-Type": "application/json", **answer.headers}
        if answer.status == HTTPStatus.NO_CONTENT:
            return web.Response(status=answer.status)
        response = web.Response(body=body, status=answer.status, headers=headers)
        if answer.fault == "close_after":
            asyncio.get_running_loop().call_later(0.02, transport.close)
        return response

    # Sockets

    def on_connect(self, path: str, *scripts: Script | Answer) -> None:
        """Serve connections to `path` with these, in order, the last one again and again.

        An Answer refuses the handshake with its status.
        """
        self._scripts[path] = list(scripts)

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        self.handshakes.append(request.path)
        scripts = self._scripts[request.path]
        if not isinstance(scripts[0], Answer):
            return None
        refused = scripts.pop(0) if len(scripts) > 1 else scripts[0]
        assert isinstance(refused, Answer)
        response = connection.respond(HTTPStatus(refused.status), str(refused.body or ""))
        for name, value in refused.headers.items():
            response.headers[name] = value
        return response

    async def _serve_socket(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        path = socket.request.path
        scripts = self._scripts[path]
        script = scripts.pop(0) if len(scripts) > 1 else scripts[0]
        peer = Peer(socket)
        self.peers[path].append(peer)
        assert not isinstance(script, Answer)
        try:
            await script(peer)
        except ConnectionClosed:
            return
        except AssertionError as error:
            # Told to the test by `check`, and to the client as a closed connection.
            self.failures.append(error)

    def check(self) -> None:
        """Raise what a socket script found wrong."""
        for failure in self.failures:
            raise failure


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition of the test holds."""
    await waiting.eventually(condition, "the condition that the test waits for")
