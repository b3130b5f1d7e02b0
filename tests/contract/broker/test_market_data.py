"""The market data sockets: subscriptions that move, limits, garbage, reconnects, and one connection for many."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgpack
import pytest
from tests.support.fake_venue import OPTION, STOCK, Answer, FakeVenue, Peer, eventually

from exitguard.broker.hub import MarketDataHub
from exitguard.broker.market_data import AlpacaMarketData
from exitguard.broker.port import (
    BrokerRateLimited,
    BrokerUnauthorised,
    MarketData,
    StreamDown,
    StreamUp,
    Tick,
)
from exitguard.broker.wire import Backoff
from exitguard.core.quote import QuoteLimits, QuoteState, classify

AT = datetime(2026, 10, 8, 14, 0, 0, 123456, UTC)
AT_NS = int(AT.timestamp()) * 10**9 + 123_456_000
CALL = "AAPL261016C00200000"


class Sink:
    """Takes ticks and statuses."""

    def __init__(self) -> None:
        self.batches: list[list[Tick]] = []
        self.statuses: list[StreamUp | StreamDown] = []

    def on_ticks(self, ticks: Sequence[Tick]) -> None:
        self.batches.append(list(ticks))

    @property
    def ticks(self) -> list[Tick]:
        return [tick for batch in self.batches for tick in batch]

    @property
    def ups(self) -> list[str]:
        return [s.stream for s in self.statuses if isinstance(s, StreamUp)]

    @property
    def downs(self) -> list[StreamDown]:
        return [s for s in self.statuses if isinstance(s, StreamDown)]


def market_data(venue: FakeVenue, waits: list[float] | None = None, **options: Any) -> AlpacaMarketData:
    async def sleep(seconds: float) -> None:
        if waits is not None:
            waits.append(seconds)
        await asyncio.sleep(0)

    return AlpacaMarketData(
        venue.stock_url,
        venue.option_url,
        "key-1",
        "secret-1",
        make_backoff=lambda: Backoff(jitter=lambda: 0.0),
        sleep=sleep,
        **options,
    )


@asynccontextmanager
async def running(data: MarketData, sink: Sink) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(data.run(sink.on_ticks, sink.statuses.append))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def quote(symbol: str = "AAPL", bid: Any = 161.1, ask: Any = 161.11, **changes: Any) -> dict[str, Any]:
    stamp = changes.pop("t", msgpack.Timestamp(AT_NS // 10**9, AT_NS % 10**9))
    base = {"T": "q", "S": symbol, "bx": "K", "bp": bid, "bs": 2, "ax": "P", "ap": ask, "as": 13, "c": ["R"], "z": "C"}
    return {**base, "t": stamp, **changes}


class Feed:
    """A data endpoint that serves subscriptions, and sends what the test gives it."""

    def __init__(self, form: str = "msgpack", limit: int | None = None, bad: frozenset[str] = frozenset()) -> None:
        self.form = form
        self.limit = limit
        self.bad = bad
        self.active: set[str] = set()
        self.connections = 0
        self.peer: Peer | None = None

    async def __call__(self, peer: Peer) -> None:
        await peer.open_feed(form=self.form)
        self.connections += 1
        self.active = set()
        self.peer = peer
        while True:
            request = await peer.receive()
            change = set(request["quotes"])
            wanted = self.active - change if request["action"] == "unsubscribe" else self.active | change
            if self.limit is not None and len(wanted) > self.limit:
                await peer.send([{"T": "error", "code": 405, "msg": "symbol limit exceeded"}], form=self.form)
            elif self.bad & wanted:
                await peer.send([{"T": "error", "code": 400, "msg": "invalid syntax"}], form=self.form)
            else:
                self.active = wanted
                answer = {"T": "subscription", "quotes": sorted(wanted), "trades": [], "bars": []}
                await peer.send([answer], form=self.form)

    async def send(self, *quotes: dict[str, Any]) -> None:
        assert self.peer is not None
        await self.peer.send(list(quotes), form=self.form)


@pytest.mark.parametrize(("form", "stamp"), [("msgpack", None), ("text", "2026-10-08T14:00:00.123456Z")])
async def test_a_frame_of_quotes_is_one_batch_of_ticks(venue: FakeVenue, form: str, stamp: str | None) -> None:
    feed = Feed(form)
    venue.on_connect(STOCK, feed)
    data, sink = market_data(venue, stock_msgpack=form == "msgpack"), Sink()
    data.watch(["AAPL", "MSFT"])
    changes = {"t": stamp} if stamp else {}
    async with running(data, sink):
        await eventually(lambda: sink.ups == ["stock"])
        assert feed.active == {"AAPL", "MSFT"}
        await feed.send(quote("AAPL", **changes), quote("MSFT", 400, 401.5, **changes))
        await eventually(lambda: len(sink.batches) == 1)
    assert sink.batches[0] == [
        Tick("AAPL", 161.1, 161.11, 2, 13, AT_NS),
        Tick("MSFT", 400.0, 401.5, 2, 13, AT_NS),
    ]
    exact = sink.batches[0][0].quote()
    assert (exact.bid, exact.ask, exact.at) == (Decimal("161.1"), Decimal("161.11"), AT)
    peer = venue.peers[STOCK][0]
    assert peer.received[0] == {"action": "auth", "key": "key-1", "secret": "secret-1"}
    assert peer.headers["Content-Type"] == f"application/{'msgpack' if form == 'msgpack' else 'json'}"


async def test_options_have_a_socket_of_their_own_in_messagepack(venue: FakeVenue) -> None:
    stock, option = Feed("text"), Feed()
    venue.on_connect(STOCK, stock)
    venue.on_connect(OPTION, option)
    data, sink = market_data(venue, stock_msgpack=False), Sink()
    data.watch(["AAPL", CALL, "no symbol at all"])
    async with running(data, sink):
        await eventually(lambda: sorted(sink.ups) == ["option", "stock"])
        await option.send(quote(CALL, 0, 7.3, c="B"))
        await eventually(lambda: len(sink.ticks) == 1)
    assert (stock.active, option.active) == ({"AAPL"}, {CALL})
    assert (sink.ticks[0].symbol, sink.ticks[0].bid) == (CALL, 0.0)


async def test_no_socket_is_opened_for_nothing(venue: FakeVenue) -> None:
    feed = Feed()
    venue.on_connect(STOCK, feed)
    data, sink = market_data(venue), Sink()
    async with running(data, sink):
        data.watch([])
        await asyncio.sleep(0)
        assert venue.handshakes == []
        data.watch(["AAPL"])
        await eventually(lambda: sink.ups == ["stock"])
    assert venue.handshakes == [STOCK]


async def test_watching_sends_only_what_changed(venue: FakeVenue) -> None:
    feed = Feed()
    venue.on_connect(STOCK, feed)
    data, sink = market_data(venue), Sink()
    data.watch(["AAPL", "MSFT"])
    async with running(data, sink):
        await eventually(lambda: sink.ups == ["stock"])
        data.watch(["MSFT", "IBM"])
        await eventually(lambda: feed.active == {"MSFT", "IBM"})
        data.watch({"IBM", "MSFT"})
        data.watch([])
        await eventually(lambda: feed.active == set())
    requests = [(m["action"], m.get("quotes")) for m in venue.peers[STOCK][0].received]
    assert requests == [
        ("auth", None),
        ("subscribe", ["AAPL", "MSFT"]),
        ("unsubscribe", ["AAPL"]),
        ("subscribe", ["IBM"]),
        ("unsubscribe", ["IBM", "MSFT"]),
    ]


async def test_everything_is_subscribed_again_after_a_lost_connection(venue: FakeVenue) -> None:
    feed = Feed()
    venue.on_connect(STOCK, feed)
    data, sink, waits = market_data(venue, waits := []), Sink(), waits
    data.watch(["AAPL", "MSFT"])
    async with running(data, sink):
        await eventually(lambda: sink.ups == ["stock"])
        assert feed.peer is not None
        feed.peer.socket.transport.abort()
        await eventually(lambda: len(sink.ups) == 2)
        assert feed.active == {"AAPL", "MSFT"}
        await feed.send(quote())
        await eventually(lambda: len(sink.ticks) == 1)
    assert [type(s) for s in sink.statuses] == [StreamUp, StreamDown, StreamUp]
    assert waits == [1.0]


UNUSABLE: dict[str, dict[str, Any]] = {
    "nan": quote(bid=math.nan),
    "infinite": quote(ask=math.inf),
    "zero": quote(bid=0, ask=0),
    "negative": quote(bid=-1.0),
    "null": quote(ask=None),
    "text": quote(bid="a lot"),
    "bool": quote(bid=True),
    "missing": {"T": "q", "S": "AAPL", "t": msgpack.Timestamp(AT_NS // 10**9, 0)},
    "no time": {k: v for k, v in quote().items() if k != "t"},
    "wrong time": quote(t="yesterday"),
    "time without zone": quote(t="2026-10-08T14:00:00"),
    "huge": quote(ask=10**400) | {"ap": "1e999"},
}


@pytest.mark.parametrize("bad", UNUSABLE.values(), ids=UNUSABLE.keys())
async def test_f48_an_unusable_quote_passes_as_unusable_and_never_stops_the_feed(
    venue: FakeVenue, bad: dict[str, Any]
) -> None:
    feed = Feed()
    venue.on_connect(STOCK, feed)
    data, sink = market_data(venue), Sink()
    data.watch(["AAPL", "MSFT"])
    async with running(data, sink):
        await eventually(lambda: sink.ups == ["stock"])
        await feed.send(quote("MSFT"), bad, quote("MSFT"))
        await eventually(lambda: len(sink.ticks) == 3)
    limits = QuoteLimits(timedelta(seconds=30), Decimal("0.5"))
    states = [classify(tick.quote(), AT, limits) for tick in sink.ticks]
    assert states[0] is states[2] is QuoteState.LIVE
    assert states[1] in (QuoteState.ABSENT, QuoteState.STALE)


async def test_a_nan_in_json_costs_one_price_and_not_the_frame(venue: FakeVenue) -> None:
    feed = Feed("text")
    venue.on_connect(STOCK, feed)
    data, sink = market_data(venue, stock_msgpack=False), Sink()
    data.watch(["AAPL"])
    async with running(data, sink):
        await eventually(lambda: sink.ups == ["stock"])
        await feed.send(quote(bid=math.nan, t="2026-10-08T14:00:00Z"), quote(t="2026-10-08T14:00:00Z"))
        await eventually(lambda: len(sink.ticks) == 2)
    assert math.isnan(sink.ticks[0].bid)
    assert sink.ticks[1].bid == 161.1


async def test_garbage_and_unknown_messages_leave_the_feed_running(venue: FakeVenue) -> None:
    feed = Feed()
    venue.on_connect(STOCK, feed)
    data, sink = market_data(venue), Sink()
    data.watch(["AAPL"])
    async with running(data, sink):
        await eventually(lambda: sink.ups == ["stock"])
        assert feed.peer is not None
        for frame in (b"\xc1", b"", "[{broken", b"[" * 5000, msgpack.packb([1]), msgpack.packb({"T": "q"})):
            await feed.peer.socket.send(frame)
        await feed.send({"T": "t", "S": "AAPL", "p": 1.0}, {"T": "weather"}, quote(), {"T": "q", "S": 5})
        await eventually(lambda: len(sink.ticks) == 1)
    assert sink.downs == []


# What the venue refuses


async def test_the_symbol_limit_is_filled_and_the_rest_is_named(venue: FakeVenue) -> None:
    feed = Feed(limit=30)
    venue.on_connect(STOCK, feed)
    data, sink = market_data(venue), Sink()
    symbols = [f"A{a}{b}" for a in "ABCDEFG" for b in "ABCDEFG"]
    data.watch(symbols)
    async with running(data, sink):
        await eventually(lambda: sink.ups == ["stock"])
        assert len(feed.active) == 30
        assert data.unserved.keys() == set(symbols) - feed.active
        assert "405 symbol limit exceeded" in set(data.unserved.values())
        assert len(venue.peers[STOCK][0].received) < 20
        data.watch(symbols[:20])
        await eventually(lambda: feed.active == set(symbols[:20]) and not data.unserved)


async def test_one_bad_symbol_does_not_cost_the_others(venue: FakeVenue) -> None:
    feed = Feed(bad=frozenset({"BAD"}))
    venue.on_connect(STOCK, feed)
    data, sink = market_data(venue), Sink()
    data.watch(["AAPL", "BAD", "IBM", "MSFT", "NVDA"])
    async with running(data, sink):
        await eventually(lambda: sink.ups == ["stock"])
    assert feed.active == {"AAPL", "IBM", "MSFT", "NVDA"}
    assert data.unserved == {"BAD": "400 invalid syntax"}


def error(code: int, message: str, *, after: str = "connected") -> Callable[[Peer], Any]:
    async def script(peer: Peer) -> None:
        if after == "greeting":
            await peer.send([{"T": "error", "code": code, "msg": message}], form="msgpack")
            return
        await peer.send([{"T": "success", "msg": "connected"}], form="msgpack")
        await peer.receive()
        if after == "authenticated":
            await peer.send([{"T": "success", "msg": "authenticated"}], form="msgpack")
            await peer.receive()
        await peer.send([{"T": "error", "code": code, "msg": message}], form="msgpack")
        await peer.stay()

    return script


async def test_the_connection_limit_of_a_half_dead_session_is_waited_out(venue: FakeVenue) -> None:
    limit = "connection limit exceeded"
    feed = Feed()
    venue.on_connect(STOCK, error(406, limit), error(406, limit, after="greeting"), Answer(limit, 429), feed)
    waits: list[float] = []
    data, sink = market_data(venue, waits), Sink()
    data.watch(["AAPL"])
    async with running(data, sink):
        await eventually(lambda: sink.ups == ["stock"])
    assert all(isinstance(d.error, BrokerRateLimited) for d in sink.downs)
    assert waits == [5, 10, 20]


@pytest.mark.parametrize(
    ("code", "after"), [(402, "connected"), (401, "authenticated"), (409, "connected"), (409, "authenticated")]
)
async def test_f56_f134_a_missing_entitlement_is_a_typed_error_and_not_a_loop(
    venue: FakeVenue, code: int, after: str
) -> None:
    venue.on_connect(STOCK, error(code, "no", after=after))
    waits: list[float] = []
    data, sink = market_data(venue, waits), Sink()
    data.watch(["AAPL"])
    async with running(data, sink):
        await eventually(lambda: len(sink.downs) >= 6)
    errors = [d.error for d in sink.downs]
    assert errors[:2] == [None, None]
    assert all(isinstance(e, BrokerUnauthorised) for e in errors[2:])
    assert waits[:6] == [1, 2, 4, 8, 16, 30]
    assert f"{code} no" in sink.downs[0].reason
    assert sink.ups == []


@pytest.mark.parametrize("code", [407, 500, 404])
async def test_other_errors_reconnect_with_their_reason(venue: FakeVenue, code: int) -> None:
    feed = Feed()
    venue.on_connect(STOCK, error(code, "trouble", after="authenticated"), feed)
    data, sink = market_data(venue), Sink()
    data.watch(["AAPL"])
    async with running(data, sink):
        await eventually(lambda: sink.ups == ["stock"])
    assert f"{code} trouble" in sink.downs[0].reason


async def test_f99_a_mute_socket_and_an_unanswered_request_are_given_up(venue: FakeVenue) -> None:
    async def mute(peer: Peer) -> None:
        await peer.stay()

    async def ignores_requests(peer: Peer) -> None:
        await peer.open_feed()
        await peer.stay()

    feed = Feed()
    venue.on_connect(STOCK, mute, ignores_requests, feed)
    data, sink = market_data(venue, reply_timeout=1.0), Sink()
    data.watch(["AAPL"])
    async with running(data, sink):
        await eventually(lambda: sink.ups == ["stock"])
    assert [d.reason for d in sink.downs] == [
        "'connected' did not come within 1 s",
        "no answer to subscribe within 1 s",
    ]


async def test_a_sink_that_fails_is_heard(venue: FakeVenue) -> None:
    feed = Feed()
    venue.on_connect(STOCK, feed)
    data, sink = market_data(venue), Sink()
    data.watch(["AAPL"])

    def broken(ticks: Sequence[Tick]) -> None:
        raise OSError("disk full")

    task = asyncio.create_task(data.run(broken, sink.statuses.append))
    await eventually(lambda: sink.ups == ["stock"])
    await feed.send(quote())
    with pytest.raises(RuntimeError, match="sink of stock ticks failed"):
        await task


# The hub


async def test_accounts_share_one_connection_and_get_their_own_symbols(venue: FakeVenue) -> None:
    feed = Feed()
    venue.on_connect(STOCK, feed)
    hub = MarketDataHub(market_data(venue))
    large, tiny = hub.subscribe(), hub.subscribe()
    large.watch(["AAPL", "MSFT"])
    tiny.watch(["MSFT"])
    sinks = Sink(), Sink()
    async with running(large, sinks[0]):
        await eventually(lambda: sinks[0].ups == ["stock"])
        async with running(tiny, sinks[1]):
            await eventually(lambda: sinks[1].ups == ["stock"])
            await feed.send(quote("AAPL"), quote("MSFT"))
            await eventually(lambda: len(sinks[0].ticks) == 2 and len(sinks[1].ticks) == 1)
            tiny.watch(["IBM"])
            await eventually(lambda: feed.active == {"AAPL", "MSFT", "IBM"})
            await feed.send(quote("MSFT"), quote("IBM"))
            await eventually(lambda: len(sinks[0].ticks) == 3 and len(sinks[1].ticks) == 2)
        await eventually(lambda: feed.active == {"AAPL", "MSFT"})
    assert feed.connections == 1
    assert [t.symbol for t in sinks[1].ticks] == ["MSFT", "IBM"]
    # The last one gone, the connection is free for others; a newcomer opens it again.
    async with running(tiny, sinks[1]):
        await eventually(lambda: feed.connections == 2 and feed.active == {"IBM"})


async def test_one_accounts_failing_sink_does_not_stop_the_other(venue: FakeVenue) -> None:
    feed = Feed()
    venue.on_connect(STOCK, feed)
    hub = MarketDataHub(market_data(venue))
    good, bad = hub.subscribe(), hub.subscribe()
    good.watch(["AAPL"])
    bad.watch(["AAPL"])

    def broken(ticks: Sequence[Tick]) -> None:
        raise ValueError("a bug")

    sink = Sink()
    async with running(good, sink):
        failing = asyncio.create_task(bad.run(broken, lambda status: None))
        await eventually(lambda: sink.ups == ["stock"])
        await feed.send(quote())
        with pytest.raises(ValueError, match="a bug"):
            await failing
        await feed.send(quote())
        await eventually(lambda: len(sink.ticks) == 2)
    assert feed.connections == 1


async def test_a_failing_source_ends_every_subscription() -> None:
    class Source:
        def watch(self, symbols: object) -> None:
            return

        async def run(self, on_ticks: object, on_status: object) -> None:
            raise RuntimeError("the feed is broken")

    hub = MarketDataHub(Source())
    runs = [hub.subscribe().run(lambda ticks: None, lambda status: None) for _ in range(2)]
    results = await asyncio.gather(*runs, return_exceptions=True)
    assert [str(r) for r in results] == ["the feed is broken"] * 2
