"""Alpaca's market data sockets: quotes of stocks and options for a changing set of symbols."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import msgspec
import structlog
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from exitguard.broker.decoding import excerpt
from exitguard.broker.port import (
    QUIET_SECONDS,
    BrokerError,
    BrokerRateLimited,
    BrokerUnauthorised,
    BrokerUnavailable,
    StreamDown,
    StreamUp,
    TickSink,
)
from exitguard.broker.subscriptions import SubscriptionBook
from exitguard.broker.ticks import read_frame
from exitguard.broker.wire import CONNECTION_ERRORS, REPLY_TIMEOUT, Backoff, explain, open_socket
from exitguard.core.instrument import InvalidSymbol, parse_instrument

StatusSink = Callable[[StreamUp | StreamDown], None]

STOCK = "stock"
OPTION = "option"
# Between two connections that are given up because they are deaf; doubles while none tells anything.
FIRST_DEAF_WAIT = 60.0
LAST_DEAF_WAIT = 960.0
_MAX_LOGGED = 5
_AUTH_FAILED = frozenset({401, 402})
_CONNECTION_LIMIT = 406
_NOT_ENTITLED = frozenset({408, 409})

_encode_json = msgspec.json.Encoder().encode
_encode_msgpack = msgspec.msgpack.Encoder().encode

log = structlog.get_logger()


class FeedSocket:
    """One data endpoint: connects while symbols are wanted, subscribes, delivers, reconnects."""

    def __init__(
        self,
        name: str,
        url: str,
        key: str,
        secret: str,
        *,
        msgpack: bool,
        backoff: Backoff,
        reply_timeout: float,
        quiet_seconds: float,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._name = name
        self._url = url
        self._key = key
        self._secret = secret
        self._msgpack = msgpack
        self._backoff = backoff
        self._reply_timeout = reply_timeout
        self._quiet_seconds = quiet_seconds
        self._sleep = sleep
        self._log = log.bind(stream=name)
        self._book = SubscriptionBook()
        self._changed = asyncio.Event()
        self._up_at: float | None = None
        self._gave_up: BrokerUnavailable | None = None
        self._problems = 0
        self._socket: ClientConnection | None = None
        # When ticks came last, and what is needed to tell a deaf connection from a quiet market.
        self._heard_at = -LAST_DEAF_WAIT
        self._suspicion: asyncio.TimerHandle | None = None
        self._deaf = False
        self._deaf_at = -LAST_DEAF_WAIT
        self._deaf_wait = FIRST_DEAF_WAIT
        self._closing: asyncio.Task[None] | None = None

    @property
    def unserved(self) -> dict[str, str]:
        """Symbols that the venue refuses to send, with its reason."""
        return dict(self._book.refused)

    def unheard(self) -> frozenset[str]:
        """What is subscribed, when the connection is up and has told nothing for a while; else nothing."""
        return frozenset(self._book.active) if self._is_quiet() else frozenset()

    def _is_quiet(self) -> bool:
        heard_at = None if self._up_at is None else max(self._up_at, self._heard_at)
        return heard_at is not None and time.monotonic() - heard_at >= self._quiet_seconds

    def missed(self, symbols: Collection[str]) -> None:
        """REST tells newer quotes of these. They may be on their way: judge in a moment."""
        if self._socket is None or self._suspicion is not None or self._book.active.isdisjoint(symbols):
            return
        loop = asyncio.get_running_loop()
        self._suspicion = loop.call_later(self._quiet_seconds / 5, self._judge, self._socket, self._heard_at)

    def _judge(self, socket: ClientConnection, heard_at: float) -> None:
        """Give the connection up when it has told nothing since, and for a while before."""
        self._suspicion = None
        now = time.monotonic()
        if socket is not self._socket or self._heard_at != heard_at or not self._is_quiet():
            return
        if self._heard_at > self._deaf_at:
            self._deaf_wait = FIRST_DEAF_WAIT
        elif now - self._deaf_at < self._deaf_wait:
            return
        else:
            self._deaf_wait = min(self._deaf_wait * 2, LAST_DEAF_WAIT)
        self._deaf, self._deaf_at = True, now
        self._gave_up = BrokerUnavailable("deaf: REST tells newer quotes, and this connection tells nothing")
        self._closing = asyncio.get_running_loop().create_task(socket.close(), name=f"close deaf {self._name}")

    def watch(self, symbols: Collection[str]) -> None:
        """Set the symbols wanted."""
        if frozenset(symbols) != self._book.wanted:
            self._book.watch(symbols)
            self._changed.set()

    async def run(self, on_ticks: TickSink, on_status: StatusSink) -> None:
        """Deliver until cancelled. What `on_ticks` raises ends it: a sink that fails must not fail in silence."""
        while True:
            while not self._book.wanted:
                self._changed.clear()
                await self._changed.wait()
            self._up_at = None
            self._gave_up = None
            self._deaf = False
            try:
                async with open_socket(self._url, self._headers()) as socket:
                    await self._authenticate(socket)
                    self._book.reset()
                    self._socket = socket
                    await self._serve(socket, on_ticks, on_status)
                ended: BrokerError = BrokerUnavailable("the connection closed")
            except CONNECTION_ERRORS as error:
                ended = explain(error)
            finally:
                self._socket = None
            held = 0.0 if self._up_at is None else time.monotonic() - self._up_at
            self._up_at = None
            on_status(StreamDown(str(ended), self._name, self._backoff.type_of(ended), deaf=self._deaf))
            await self._sleep(self._backoff.after(ended, held))

    def _headers(self) -> dict[str, str]:
        return {"Content-Type": "application/msgpack" if self._msgpack else "application/json"}

    async def _send(self, socket: ClientConnection, message: dict[str, Any]) -> None:
        await socket.send(_encode_msgpack(message) if self._msgpack else _encode_json(message).decode())

    async def _authenticate(self, socket: ClientConnection) -> None:
        await self._await_success(socket, "connected")
        await self._send(socket, {"action": "auth", "key": self._key, "secret": self._secret})
        await self._await_success(socket, "authenticated")

    async def _await_success(self, socket: ClientConnection, expected: str) -> None:
        try:
            async with asyncio.timeout(self._reply_timeout):
                while True:
                    frame = read_frame(await socket.recv(decode=False))
                    self._report(frame.problems)
                    for message in frame.controls:
                        if message.get("T") == "error":
                            raise feed_error(message)
                        if message.get("T") == "success" and message.get("msg") == expected:
                            return
        except TimeoutError as error:
            raise BrokerUnavailable(f"{expected!r} did not come within {self._reply_timeout:g} s") from error

    async def _serve(self, socket: ClientConnection, on_ticks: TickSink, on_status: StatusSink) -> None:
        sender = asyncio.create_task(self._keep_subscribed(socket), name=f"subscribe-{self._name}")
        try:
            while True:
                frame = read_frame(await socket.recv(decode=False))
                if frame.ticks:
                    self._heard_at = time.monotonic()
                    try:
                        on_ticks(frame.ticks)
                    except CONNECTION_ERRORS as error:
                        # Not ours to take for a lost connection.
                        raise RuntimeError(f"the sink of {self._name} ticks failed") from error
                if frame.controls or frame.problems:
                    self._report(frame.problems)
                    for message in frame.controls:
                        self._handle(message, on_status)
        except ConnectionClosed as error:
            if self._gave_up is not None:
                raise self._gave_up from error
            raise
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _keep_subscribed(self, socket: ClientConnection) -> None:
        """Send what is due, one request at a time, and close the socket when an answer is overdue."""
        while True:
            self._changed.clear()
            request = self._book.next_request()
            if request is not None:
                try:
                    await self._send(socket, {"action": request.action, "quotes": list(request.symbols)})
                except ConnectionClosed:
                    return
            waits = self._reply_timeout if self._book.in_flight is not None else None
            sent = self._book.in_flight
            try:
                async with asyncio.timeout(waits):
                    await self._changed.wait()
                    while self._book.in_flight is not None and self._book.in_flight is sent:
                        self._changed.clear()
                        await self._changed.wait()
            except TimeoutError:
                what = sent.action if sent else "a request"
                self._gave_up = BrokerUnavailable(f"no answer to {what} within {self._reply_timeout:g} s")
                # The reader ends with this reason.
                await socket.close()
                return

    def _handle(self, message: dict[str, Any], on_status: StatusSink) -> None:
        kind = message.get("T")
        if kind == "subscription":
            quotes = message.get("quotes")
            self._book.confirm([s for s in quotes if isinstance(s, str)] if isinstance(quotes, list) else [])
            self._changed.set()
            self._settle(on_status)
        elif kind == "error":
            code = message.get("code")
            if not (isinstance(code, int) and self._book.fail(code, str(message.get("msg")))):
                raise feed_error(message)
            self._changed.set()
            self._settle(on_status)

    def _settle(self, on_status: StatusSink) -> None:
        if not self._book.settled:
            return
        if self._book.refused:
            symbols = sorted(self._book.refused)
            self._log.error(
                "The venue does not send these quotes",
                count=len(symbols),
                symbols=symbols[:20],
                reason=self._book.refused[symbols[0]],
            )
        if self._up_at is None:
            self._up_at = time.monotonic()
            self._backoff.accepted()
            on_status(StreamUp(self._up_at, self._name))

    def _report(self, problems: list[str]) -> None:
        for problem in problems:
            self._problems += 1
            # The first few, then each thousandth: a broken feed must not fill the disk.
            if self._problems <= _MAX_LOGGED or self._problems % 1000 == 0:
                self._log.error("Unreadable market data", reason=problem, count=self._problems)


def feed_error(message: dict[str, Any]) -> BrokerError:
    """An error message of the data socket as a typed error."""
    code = message.get("code")
    said = f"the data stream reports {code} {excerpt(message.get('msg'))}"
    if code in _AUTH_FAILED:
        return BrokerUnauthorised(said)
    if code in _NOT_ENTITLED:
        return BrokerUnauthorised(f"{said}: the account has no subscription to this feed")
    if code == _CONNECTION_LIMIT:
        return BrokerRateLimited(f"{said}: another session is open, or one died less than about 90 s ago")
    return BrokerUnavailable(said)


class AlpacaMarketData:
    """Implements `broker.port.MarketData` for one data credential.

    The venue allows one connection an endpoint a user, whatever the number of accounts: share it through
    `broker.hub.MarketDataHub`. A connection that tells nothing for `quiet_seconds` is to be compared with REST, and is
    given up when it goes on a fifth of that after REST told more. `stock_msgpack` chooses the encoding of the stock
    socket: MessagePack frames are half the size of JSON and decode a fifth faster; options speak nothing else.
    """

    def __init__(
        self,
        stock_url: str,
        option_url: str,
        key: str,
        secret: str,
        *,
        stock_msgpack: bool = True,
        make_backoff: Callable[[], Backoff] = Backoff,
        reply_timeout: float = REPLY_TIMEOUT,
        quiet_seconds: float = QUIET_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        def feed(name: str, url: str, msgpack: bool) -> FeedSocket:
            return FeedSocket(
                name,
                url,
                key,
                secret,
                msgpack=msgpack,
                backoff=make_backoff(),
                reply_timeout=reply_timeout,
                quiet_seconds=quiet_seconds,
                sleep=sleep,
            )

        self._stock = feed(STOCK, stock_url, stock_msgpack)
        self._option = feed(OPTION, option_url, True)

    @property
    def unserved(self) -> dict[str, str]:
        """Symbols that the venue refuses to send, with its reason: their quotes must come over REST."""
        return self._stock.unserved | self._option.unserved

    def unheard(self) -> frozenset[str]:
        """Symbols subscribed on connections that are up and have told nothing for seconds: worth asking REST about."""
        return self._stock.unheard() | self._option.unheard()

    def missed(self, symbols: Collection[str]) -> None:
        """REST tells newer quotes of these: a connection that goes on telling nothing is deaf, and is opened anew."""
        self._stock.missed(symbols)
        self._option.missed(symbols)

    def watch(self, symbols: Collection[str]) -> None:
        """Set the symbols to receive; one that is neither stock nor option is reported and left out."""
        stocks: set[str] = set()
        options: set[str] = set()
        for symbol in symbols:
            try:
                (options if parse_instrument(symbol).is_option else stocks).add(symbol)
            except InvalidSymbol as error:
                log.error("Cannot watch this symbol", symbol=excerpt(symbol), reason=str(error))
        self._stock.watch(stocks)
        self._option.watch(options)

    async def run(self, on_ticks: TickSink, on_status: StatusSink) -> None:
        """Deliver ticks until cancelled; reconnects with back-off. A socket opens when it first has symbols.

        What a sink raises ends both sockets and comes out of here.
        """
        tasks = [
            asyncio.create_task(feed.run(on_ticks, on_status), name=f"market-data-{name}")
            for name, feed in ((STOCK, self._stock), (OPTION, self._option))
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
