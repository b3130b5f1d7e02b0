"""The measuring venue, a process of its own: sends breaches on its quote sockets and stamps the orders that come back.

Two clients are measured in turn, so that noise hits both alike: the manager, as `exitguard run` starts it, and the bare
loop of `bare`. Both moments of a round are stamped here, by one clock: just before the quote frame is handed to the
operating system, and when the last byte of the order has been parsed.
"""

import asyncio
import gc
import random
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, cast

import httptools
import msgspec
import orjson
import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

from exitguard.cli.bench.answers import Answers, quiet_prices
from exitguard.cli.bench.book import BREACHED_PREMIUM, Held, Sizes, make_book, opening_time, trading_day

# As second argument: answer over HTTP until stopped, and measure nothing.
STILL = "still"
BARE = "/bare"
TRADES = "/stream"
STOCKS = "/v2/iex"
OPTIONS = "/v1beta1/indicative"
# Polls of the account that the manager makes once it listens, before the first round: its books then agree with ours.
_POLLS_BEFORE = 1
_READY_SECONDS = 90.0
_ANSWER_SECONDS = 30.0
# Rest between rounds, in seconds: long enough for the manager to book one exit before the next begins.
_REST = (0.01, 0.025)
# The quiet feed meanwhile: 4,000 quotes a second.
_FRAME_SECONDS = 0.0025
_FRAME_QUOTES = 10
_BREACHED = (float(BREACHED_PREMIUM) - 0.01, float(BREACHED_PREMIUM) + 0.01)

_encode = msgspec.msgpack.Encoder().encode
_STATUS = {200: b"200 OK", 404: b"404 Not Found"}


class Http(asyncio.Protocol):
    """One kept-alive HTTP/1.1 connection."""

    def __init__(self, venue: "Venue") -> None:
        self._venue = venue
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        """Start a request."""
        self._url = self._body = b""

    def on_url(self, url: bytes) -> None:
        """Collect the address."""
        self._url += url

    def on_body(self, body: bytes) -> None:
        """Collect the body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Answer; an order is stamped before anything else."""
        at = time.perf_counter_ns()
        method = self._parser.get_method().decode()
        status, body = self._venue.on_request(method, self._url, self._body, at)
        assert self._transport is not None
        self._transport.write(
            b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (_STATUS[status], len(body), body)
        )


class Venue:
    """Sockets, rounds and stamps."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        session = trading_day()
        # An offset and not a second clock: the day need not be today, and the night must not close the market.
        self._offset = opening_time(session) - datetime.now(UTC)
        self._book = make_book(sizes, session.day)
        self._answers = Answers(self._book, session, self.now)
        self._sockets: dict[str, set[ServerConnection]] = {path: set() for path in (BARE, TRADES, STOCKS, OPTIONS)}
        self._subscribed: set[str] = set()
        self._expected: tuple[str, asyncio.Future[tuple[int, str]]] | None = None
        # The same waits in every run, but none that could beat in time with somebody's timer.
        self._random = random.Random(1)  # noqa: S311 - no secret

    def now(self) -> datetime:
        """The venue's time."""
        return datetime.now(UTC) + self._offset

    # Orders -----------------------------------------------------------------------------------------------------

    def on_request(self, method: str, target: bytes, body: bytes, at: int) -> tuple[int, bytes]:
        """Answer a request that was complete at `at` nanoseconds."""
        status, answer = self._answers.answer(method, target, body)
        if method == "POST" and self._expected is not None:
            symbol, future = self._expected
            order = orjson.loads(body)
            if order["symbol"] == symbol and not future.done():
                future.set_result((at, order["client_order_id"]))
        return status, answer

    # Sockets ----------------------------------------------------------------------------------------------------

    async def on_socket(self, socket: ServerConnection) -> None:
        """Serve one websocket: the dance of its kind, then silence until a round speaks."""
        assert socket.request is not None
        path = socket.request.path
        try:
            if path == TRADES:
                await self._open_trades(socket)
            elif path in (STOCKS, OPTIONS):
                await self._send(socket, [{"T": "success", "msg": "connected"}])
                await socket.recv()
                await self._send(socket, [{"T": "success", "msg": "authenticated"}])
            self._sockets[path].add(socket)
            async for frame in socket:
                await self._subscribe(socket, frame)
        except ConnectionClosed:
            pass  # the client left; a round that misses it says so
        finally:
            self._sockets[path].discard(socket)

    async def _open_trades(self, socket: ServerConnection) -> None:
        await socket.recv()
        data = {"status": "authorized", "action": "authenticate"}
        await socket.send(orjson.dumps({"stream": "authorization", "data": data}))
        await socket.recv()
        await socket.send(orjson.dumps({"stream": "listening", "data": {"streams": ["trade_updates"]}}))

    async def _send(self, socket: ServerConnection, message: Any) -> None:
        await socket.send(_encode(message))

    async def _subscribe(self, socket: ServerConnection, frame: str | bytes) -> None:
        """Confirm a (un)subscription and send the newest quotes of what was asked for."""
        request = msgspec.msgpack.decode(frame) if isinstance(frame, bytes) else orjson.loads(frame)
        mine = set(request["quotes"])
        if request["action"] == "subscribe":
            self._subscribed |= mine
        else:
            self._subscribed -= mine
        assert socket.request is not None
        is_option = socket.request.path == OPTIONS
        active = [held.symbol for held in self._book if held.symbol in self._subscribed and held.is_option is is_option]
        await self._send(socket, [{"T": "subscription", "trades": [], "quotes": active, "bars": []}])
        if request["action"] == "subscribe":
            await socket.send(self._quiet_frame(held for held in self._book if held.symbol in mine))

    def _quiet_frame(self, chosen: Iterable[Held], swing: float | None = None) -> bytes:
        """Quiet quotes in one frame, at one place of the quiet range or each anywhere in it."""
        at = self.now()
        quotes = []
        for held in chosen:
            bid, ask = quiet_prices(held, self._random.uniform(-1, 1) if swing is None else swing)
            quotes.append(_quote(held, at, bid, ask))
        return _encode(quotes)

    # Rounds -----------------------------------------------------------------------------------------------------

    async def measure(self) -> dict[str, list[list[int]]]:
        """Play all rounds; pairs of stamps in nanoseconds of CLOCK_MONOTONIC, warm-up left out."""
        await asyncio.wait_for(self._ready(), _READY_SECONDS)
        options = [held for held in self._book if held.is_option]
        stamps: dict[str, list[list[int]]] = {"bare": [], "product": []}
        feed = asyncio.create_task(self._feed())
        for number, held in enumerate(options[: self._sizes.rounds + self._sizes.warmup]):
            pair = {"bare": BARE, "product": OPTIONS}
            for kind in self._random.sample(sorted(pair), 2):
                await asyncio.sleep(self._random.uniform(*_REST))
                stamp = await self._round(pair[kind], held)
                if number >= self._sizes.warmup:
                    stamps[kind].append(stamp)
        feed.cancel()
        return stamps

    async def _ready(self) -> None:
        """Wait until both clients listen to everything and the manager's books were compared with ours."""
        polls: int | None = None
        while polls is None or self._answers.position_polls < polls + _POLLS_BEFORE:
            await asyncio.sleep(0.05)
            if polls is None and all(self._sockets.values()) and len(self._subscribed) == len(self._book):
                polls = self._answers.position_polls
                # Both ends of the quiet range: prices between them are nothing new to anybody.
                for swing in (-1.0, 1.0):
                    self._send_quotes(self._book, swing)

    async def _round(self, path: str, held: Held) -> list[int]:
        """Breach one position and wait for its order."""
        arrived: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._expected = (held.symbol, arrived)
        frame = _encode([_quote(held, self.now(), *_BREACHED)])
        sent = time.perf_counter_ns()
        broadcast(self._sockets[path], frame)
        try:
            at, client_order_id = await asyncio.wait_for(arrived, _ANSWER_SECONDS)
        except TimeoutError as error:
            who = "the bare loop" if path == BARE else "the manager"
            raise RuntimeError(
                f"{who} sent no order within {_ANSWER_SECONDS:g} s of a breach of {held.symbol}"
            ) from error
        finally:
            self._expected = None
        if path != BARE:
            await self._fill(client_order_id)
        return [sent, at]

    async def _fill(self, client_order_id: str) -> None:
        """The order's life after its arrival, as the trade stream tells it."""
        await asyncio.sleep(0.002)
        broadcast(self._sockets[TRADES], self._answers.update(client_order_id, "new"))
        await asyncio.sleep(0.002)
        broadcast(self._sockets[TRADES], self._answers.update(client_order_id, "fill", BREACHED_PREMIUM))

    async def _feed(self) -> None:
        """Quiet quotes of everything, round and round, to both clients: a market does not fall silent for a breach."""
        first = 0
        while True:
            await asyncio.sleep(_FRAME_SECONDS)
            self._send_quotes(self._book[each % len(self._book)] for each in range(first, first + _FRAME_QUOTES))
            first += _FRAME_QUOTES

    def _send_quotes(self, chosen: Iterable[Held], swing: float | None = None) -> None:
        wanted = [held for held in chosen if held.symbol in self._subscribed]
        for path, kinds in ((STOCKS, (False,)), (OPTIONS, (True,)), (BARE, (False, True))):
            mine = [held for held in wanted if held.is_option in kinds]
            if mine:
                broadcast(self._sockets[path], self._quiet_frame(mine, swing))


def _quote(held: Held, at: datetime, bid: float, ask: float) -> dict[str, Any]:
    """A quote message as the data sockets send it."""
    return {
        "T": "q",
        "S": held.symbol,
        "t": at,
        "bx": "C",
        "bp": bid,
        "bs": 10,
        "ax": "C",
        "ap": ask,
        "as": 10,
        "c": "A",
    }


async def serve_and_measure(sizes: Sizes) -> None:
    """Print the addresses as one line, then the stamps as another."""
    venue = Venue(sizes)
    loop = asyncio.get_running_loop()
    http = await loop.create_server(lambda: Http(venue), "127.0.0.1", 0)
    async with serve(venue.on_socket, "127.0.0.1", 0, compression=None, max_size=None) as sockets:
        ports = [next(iter(each.sockets)).getsockname()[1] for each in (http, sockets)]
        _print({"http": ports[0], "sockets": ports[1]})
        # A pause of ours must not look like one of theirs.
        gc.freeze()
        gc.disable()
        _print(await venue.measure())
    http.close()


async def serve_still(sizes: Sizes) -> None:
    """Print the address as one line, then answer until stopped."""
    venue = Venue(sizes)
    http = await asyncio.get_running_loop().create_server(lambda: Http(venue), "127.0.0.1", 0)
    _print({"http": http.sockets[0].getsockname()[1]})
    await http.serve_forever()


def _print(value: object) -> None:
    sys.stdout.buffer.write(orjson.dumps(value) + b"\n")
    sys.stdout.flush()


if __name__ == "__main__":
    work = serve_still if sys.argv[2:] == [STILL] else serve_and_measure
    uvloop.run(work(Sizes(**orjson.loads(sys.argv[1]))))
