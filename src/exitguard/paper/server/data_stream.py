"""Market data sockets: `/v2/{iex|sip|…|test}` for stocks, `/v1beta1/{indicative|opra}` for options."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from exitguard.core.quote import Quote
from exitguard.paper.engine import Account
from exitguard.paper.market.player import Shown
from exitguard.paper.market.tape import Trade
from exitguard.paper.server.auth import account_of
from exitguard.paper.server.data_frames import (
    Format,
    Message,
    bar_fields,
    cancel_fields,
    correction_fields,
    is_option_symbol,
    quote_fields,
    status_fields,
    trade_fields,
)
from exitguard.paper.server.host import Host
from exitguard.paper.server.luld import PriceBands
from exitguard.paper.server.outbox import Outbox
from exitguard.paper.server.sockets import accept, decode, next_message, with_writer
from exitguard.paper.server.stream_faults import stale_seconds
from exitguard.paper.server.wire import Receive, Scope, Send, headers_of

STOCK_CHANNELS = {
    "trades": "t",
    "quotes": "q",
    "bars": "b",
    "updatedBars": "u",
    "dailyBars": "d",
    "statuses": "s",
    "lulds": "l",
    "corrections": "c",
    "cancelErrors": "x",
}
OPTION_CHANNELS = {"trades": "t", "quotes": "q"}
# A trades subscription brings its corrections and cancellations with it.
_COMES_WITH_TRADES = ("corrections", "cancelErrors")
TEST_SYMBOL = "FAKEPACA"
_LONGEST_LIST = 20_000
_MESSAGES_A_CHUNK = 256
_MESSAGES = {
    400: "invalid syntax",
    401: "not authenticated",
    402: "auth failed",
    403: "already authenticated",
    404: "auth timeout",
    405: "symbol limit exceeded",
    406: "connection limit exceeded",
    407: "slow client",
    409: "insufficient subscription",
    410: "invalid subscribe action for this feed",
    412: "option messages are only available in MsgPack format",
    413: "star subscription is not allowed for option quotes",
    500: "internal error",
}


@dataclass(frozen=True, slots=True)
class Feed:
    """One socket path."""

    name: str
    option: bool

    @property
    def endpoint(self) -> str:
        """Connections are counted for each of these."""
        return f"{'v1beta1' if self.option else 'v2'}/{self.name}"

    @property
    def market(self) -> str:
        """Whose messages it carries."""
        return "option" if self.option else "test" if self.name == "test" else "stock"

    @property
    def channels(self) -> dict[str, str]:
        """Channel names and their message kinds."""
        return OPTION_CHANNELS if self.option else STOCK_CHANNELS


class DataSession:
    """One connection: its format, its account, its subscriptions."""

    def __init__(self, feed: Feed, style: Format, outbox: Outbox) -> None:
        self.feed = feed
        self.style = style
        self.outbox = outbox
        self.account: Account | None = None
        self.symbols: dict[str, dict[str, None]] = {channel: {} for channel in feed.channels}
        # Still connected, still answering pings, and never heard of again.
        self.mute = False

    def control(self, message: dict[str, Any]) -> None:
        """Queue a control message."""
        if self.mute:
            return
        self.outbox.put_frame(self.style.control(message))

    def error(self, code: int) -> None:
        """Queue a documented error."""
        self.control({"T": "error", "code": code, "msg": _MESSAGES[code]})

    def end(self, code: int) -> None:
        """Queue a documented error and close."""
        last = self.style.control({"T": "error", "code": code, "msg": _MESSAGES[code]})
        self.outbox.close(1008 if code != 407 else 1013, _MESSAGES[code], last)

    def echo(self) -> dict[str, Any]:
        """The full subscription lists, every channel named."""
        return {"T": "subscription", **{channel: list(names) for channel, names in self.symbols.items()}}


class DataStreams:
    """All data sessions and the fan-out of the market to them."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._limits = host.settings.limits
        self._faults = host.exchange.faults
        self._bands = PriceBands(host.calendar, host.player.tape)
        self._sessions: set[DataSession] = set()
        self._held: dict[tuple[str, str], int] = {}
        # (market, kind, symbol) -> sessions; "*" is every symbol.
        self._index: dict[tuple[str, str, str], set[DataSession]] = {}
        # Who reads what, kept until a subscription changes.
        self._readers_of: dict[tuple[str, str, str], frozenset[DataSession]] = {}
        self._known_groups: dict[frozenset[DataSession], frozenset[DataSession]] = {}
        host.player.listeners.append(self.on_shown)
        host.busy_checks.append(self._has_pending)
        host.watched.append(self.subscribed_options)

    def _has_pending(self) -> bool:
        return any(session.outbox.pending for session in self._sessions)

    def subscribed_options(self) -> set[str]:
        """Option contracts that some client subscribes to."""
        return {symbol for market, _, symbol in self._index if market == "option" and symbol != "*"}

    def connection_count(self) -> int:
        """Sessions of every feed."""
        return len(self._sessions)

    def subscriptions(self) -> int:
        """Subscribed pairs of channel and symbol, over all sessions."""
        return sum(len(names) for session in self._sessions for names in session.symbols.values())

    # Sessions
    async def serve(self, feed: Feed, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection from handshake to end."""
        headers = headers_of(scope)
        packed = "msgpack" in headers.get("content-type", "")
        await accept(receive, send)
        style = Format(packed=packed)
        outbox = Outbox(send, self._limits.backlog_bytes, text=not packed, join=style.join)
        session = DataSession(feed, style, outbox)
        self._sessions.add(session)
        try:
            await with_writer(session.outbox.run, lambda: self._read(session, headers, receive))
        finally:
            self._sessions.discard(session)
            self._unsubscribe(session, {channel: list(names) for channel, names in session.symbols.items()})
            self._release(session)

    def _release(self, session: DataSession) -> None:
        if session.account is None:
            return
        place = (session.feed.endpoint, session.account.name)
        always = self._limits.stale_session_seconds
        seconds = stale_seconds(self._faults, "data_half_dead", session.account.name, session.feed.endpoint, always)
        if seconds <= 0:
            return
        self._held[place] = self._held.get(place, 0) + 1

        def free() -> None:
            self._held[place] -= 1

        asyncio.get_running_loop().call_later(seconds, free)

    async def _read(self, session: DataSession, headers: dict[str, str], receive: Receive) -> None:
        session.control({"T": "success", "msg": "connected"})
        account = account_of(self._host.exchange, headers)
        if account is not None and not self._admit(session, account):
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.auth_seconds
        while True:
            try:
                remaining = None if session.account is not None else deadline - loop.time()
                payload = await asyncio.wait_for(next_message(receive), remaining)
            except TimeoutError:
                session.end(404)
                return
            if payload is None or not self._on_message(session, payload):
                return

    def _on_message(self, session: DataSession, payload: bytes) -> bool:
        """Handle one message; False ends the session."""
        if len(payload) > self._limits.largest_message:
            session.end(400)
            return False
        message = decode(payload)
        if message is None:
            session.error(400)
            return True
        if session.feed.option and not session.style.packed:
            session.end(412)
            return False
        action = message.get("action")
        if action == "auth":
            return self._authenticate(session, message)
        if action not in ("subscribe", "unsubscribe"):
            session.error(400)
        elif session.account is None:
            session.error(401)
        else:
            self._change(session, message, subscribe=action == "subscribe")
        return True

    def _authenticate(self, session: DataSession, message: dict[str, Any]) -> bool:
        if session.account is not None:
            session.error(403)
            return True
        account = self._host.exchange.account_by_key(str(message.get("key")), str(message.get("secret")))
        if account is None:
            session.end(402)
            return False
        return self._admit(session, account)

    def _admit(self, session: DataSession, account: Account) -> bool:
        if session.feed.name in self._host.settings.feeds_withheld:
            session.end(409)
            return False
        limit = self._limits.data_connections_per_account
        endpoint = session.feed.endpoint
        taken = sum(1 for other in self._sessions if other.account is account and other.feed.endpoint == endpoint)
        if limit is not None and taken + self._held.get((endpoint, account.name), 0) >= limit:
            session.end(406)
            return False
        session.account = account
        session.control({"T": "success", "msg": "authenticated"})
        return True

    # Subscriptions
    def _change(self, session: DataSession, message: dict[str, Any], *, subscribe: bool) -> None:
        wanted = _lists(session.feed, message)
        if isinstance(wanted, int):
            session.error(wanted)
            return
        if not subscribe:
            self._unsubscribe(session, wanted)
        else:
            refusal = self._refusal(session, wanted)
            if refusal is not None:
                session.error(refusal)
                return
            self._subscribe(session, wanted)
        session.control(session.echo())

    def _refusal(self, session: DataSession, wanted: dict[str, list[str]]) -> int | None:
        if session.feed.option:
            if "*" in wanted.get("quotes", ()):
                return 413
            quotes = session.symbols["quotes"].keys() | wanted.get("quotes", ())
            limit = self._limits.option_quotes
            return 405 if limit is not None and len(quotes) > limit else None
        if session.feed.name == "test" and any(set(names) - {TEST_SYMBOL, "*"} for names in wanted.values()):
            return 409
        limit = self._limits.stock_symbols
        if limit is None:
            return None
        symbols = {name for names in (*session.symbols.values(), *wanted.values()) for name in names}
        return 405 if len(symbols) > limit else None

    def _forget_readers(self) -> None:
        self._readers_of.clear()
        self._known_groups.clear()

    def _subscribe(self, session: DataSession, wanted: dict[str, list[str]]) -> None:
        self._forget_readers()
        if not session.feed.option and "trades" in wanted:
            wanted = {**wanted, **dict.fromkeys(_COMES_WITH_TRADES, wanted["trades"])}
        for channel, names in wanted.items():
            kind = session.feed.channels[channel]
            for name in names:
                session.symbols[channel][name] = None
                self._index.setdefault((session.feed.market, kind, name), set()).add(session)
        if session.feed.option:
            self._host.need_contracts(wanted.get("quotes", ()))

    def _unsubscribe(self, session: DataSession, wanted: dict[str, list[str]]) -> None:
        self._forget_readers()
        if not session.feed.option and "trades" in wanted:
            wanted = {**wanted, **dict.fromkeys(_COMES_WITH_TRADES, wanted["trades"])}
        for channel, names in wanted.items():
            kind = session.feed.channels[channel]
            for name in names:
                session.symbols[channel].pop(name, None)
                place = (session.feed.market, kind, name)
                sessions = self._index.get(place)
                if sessions is not None:
                    sessions.discard(session)
                    if not sessions:
                        del self._index[place]

    # Fan-out
    def on_shown(self, shown: Shown) -> None:
        """Publish one round."""
        if self._index:
            self.apply_faults()
            self._publish(self._messages(shown))

    def apply_faults(self) -> None:
        """Cut or mute sessions by the faults that are on: asked when faults change and before each round."""
        if not (self._faults.is_on("data_disconnect") or self._faults.is_on("data_mute")):
            return
        for session in list(self._sessions):
            if session.account is None or session.mute:
                continue
            name, endpoint = session.account.name, session.feed.endpoint
            if self._faults.strike("data_disconnect", account=name, endpoint=endpoint):
                session.mute = True
                session.outbox.cut()
            elif self._faults.strike("data_mute", account=name, endpoint=endpoint):
                session.mute = True

    def publish_test_symbol(self) -> None:
        """Publish the test feed's own symbol: it lives on wall time, whatever the market does."""
        if not any(market == "test" for market, _, _ in self._index):
            return
        at = datetime.now(UTC)
        price = Decimal(133) + Decimal(at.second) / 100
        quote = Quote(TEST_SYMBOL, price - Decimal("0.01"), price + Decimal("0.01"), at, 1, 1)
        trade = Trade(TEST_SYMBOL, float(price), 1, at, int(at.timestamp()))
        messages = [
            ("test", Message("q", TEST_SYMBOL, quote_fields(quote, option=False), at)),
            ("test", Message("t", TEST_SYMBOL, trade_fields(trade, option=False), at)),
        ]
        self._publish(messages)

    def _publish(self, messages: Iterable[tuple[str, Message]]) -> None:
        """Send messages to their readers: what the same readers get is encoded once in each format."""
        groups: dict[frozenset[DataSession], list[Message]] = {}
        for market, message in messages:
            readers = self._readers(market, message)
            group = groups.get(readers)
            if group is None:
                groups[readers] = [message]
            else:
                group.append(message)
        for readers, group in groups.items():
            for begin in range(0, len(group), _MESSAGES_A_CHUNK):
                self._send(readers, group[begin : begin + _MESSAGES_A_CHUNK])

    def _send(self, readers: frozenset[DataSession], messages: Sequence[Message]) -> None:
        chunks: dict[bool, bytes] = {}
        for session in readers:
            if session.mute:
                continue
            packed = session.style.packed
            chunk = chunks.get(packed)
            if chunk is None:
                chunk = chunks[packed] = session.style.chunk(messages)
            self._host.activity += 1
            if not session.outbox.put_chunk(chunk, len(messages)):
                session.end(407)

    def _messages(self, shown: Shown) -> Iterable[tuple[str, Message]]:
        for status in shown.statuses:
            if self._wanted("stock", "s", status.symbol):
                yield "stock", Message("s", status.symbol, status_fields(status), shown.at)
        for trade in shown.trades:
            option = is_option_symbol(trade.symbol)
            market = "option" if option else "stock"
            if self._wanted(market, "t", trade.symbol):
                yield market, Message("t", trade.symbol, trade_fields(trade, option=option), trade.at)
        yield from self._revisions(shown)
        for quote in shown.quotes:
            option = is_option_symbol(quote.symbol)
            market = "option" if option else "stock"
            if self._wanted(market, "q", quote.symbol):
                yield market, Message("q", quote.symbol, quote_fields(quote, option=option), quote.at)
        for bar in shown.minute_bars:
            if self._wanted("stock", "b", bar.symbol):
                yield "stock", Message("b", bar.symbol, bar_fields(bar), bar.start)
            if self._wanted("stock", "l", bar.symbol):
                bands = self._bands.renewed(bar.symbol, shown.at)
                if bands is not None:
                    yield "stock", Message("l", bar.symbol, bands, shown.at)
            daily = self._host.player.tape.daily_bars.get(bar.symbol)
            if daily is not None and self._wanted("stock", "d", bar.symbol):
                yield "stock", Message("d", bar.symbol, bar_fields(daily), daily.start)

    def _revisions(self, shown: Shown) -> Iterable[tuple[str, Message]]:
        """Prints that were taken back, and the finished minute bars that this changed."""
        for revision in shown.revisions:
            original, corrected, bar = revision.original, revision.corrected, revision.bar
            symbol = original.symbol
            if corrected is None and self._wanted("stock", "x", symbol):
                yield "stock", Message("x", symbol, cancel_fields(original), shown.at)
            if corrected is not None and self._wanted("stock", "c", symbol):
                yield "stock", Message("c", symbol, correction_fields(original, corrected), shown.at)
            if bar is not None and self._wanted("stock", "u", symbol):
                yield "stock", Message("u", symbol, bar_fields(bar), bar.start)

    def _wanted(self, market: str, kind: str, symbol: str) -> bool:
        return (market, kind, symbol) in self._index or (market, kind, "*") in self._index

    def _readers(self, market: str, message: Message) -> frozenset[DataSession]:
        place = (market, message.kind, message.symbol)
        readers = self._readers_of.get(place)
        if readers is None:
            named = self._index.get(place, set())
            everything = self._index.get((market, message.kind, "*"), set())
            found = frozenset(named | everything)
            # Equal sets become one object: comparing them while messages are grouped is then free.
            readers = self._readers_of[place] = self._known_groups.setdefault(found, found)
        return readers

    def close_all(self) -> None:
        """Say goodbye to everybody: the exchange stops."""
        for session in list(self._sessions):
            session.outbox.close(1001, "the exchange is stopping")


def _lists(feed: Feed, message: dict[str, Any]) -> dict[str, list[str]] | int:
    """The channels and symbols that a message names, or the error code that it deserves."""
    wanted: dict[str, list[str]] = {}
    for channel, names in message.items():
        if channel == "action":
            continue
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return 400
        if len(names) > _LONGEST_LIST:
            return 405
        if channel not in feed.channels:
            if names:
                return 410
            continue
        wanted[channel] = names
    return wanted
