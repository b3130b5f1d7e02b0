"""The trade stream against sockets that lie, die, stutter and stay mute."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from tests.support.fake_venue import TRADE, Answer, FakeVenue, Peer
from tests.support.payloads import fill_update, order_json, update_json
from tests.support.waiting import PATIENCE

from exitguard.broker.port import (
    BrokerRateLimited,
    BrokerUnauthorised,
    StreamDown,
    StreamUp,
    TradeStreamEvent,
    Unparsed,
)
from exitguard.broker.trade_stream import AlpacaTradeStream
from exitguard.broker.wire import Backoff
from exitguard.core.orders import OrderSide, TradeUpdate

Take = Callable[[int], Awaitable[list[TradeStreamEvent]]]


class Waits:
    """Stands in for sleeping between connections: notes how long it would have been."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


@asynccontextmanager
async def stream_of(venue: FakeVenue, waits: Waits, **options: Any) -> AsyncIterator[Take]:
    stream = AlpacaTradeStream(
        venue.trade_url, "key-1", "secret-1", backoff=Backoff(jitter=lambda: 0.0), sleep=waits, **options
    )
    events = stream.events()

    async def take(count: int) -> list[TradeStreamEvent]:
        async with asyncio.timeout(PATIENCE):
            return [await anext(events) for _ in range(count)]

    try:
        yield take
    finally:
        await events.aclose()  # type: ignore[attr-defined]


def sends(*messages: Any, form: str = "binary", fragments: int = 1) -> Callable[[Peer], Awaitable[None]]:
    async def script(peer: Peer) -> None:
        await peer.open_trades(form=form)
        for message in messages:
            await peer.send(message, form=form, fragments=fragments)
        await peer.stay()

    return script


@pytest.mark.parametrize(
    ("form", "fragments"), [("binary", 1), ("text", 1), ("msgpack", 1), ("binary", 5), ("text", 3), ("msgpack", 4)]
)
async def test_a_fill_arrives_in_every_form_of_frame(venue: FakeVenue, form: str, fragments: int) -> None:
    venue.on_connect(TRADE, sends(fill_update(), form=form, fragments=fragments))
    async with stream_of(venue, Waits()) as take:
        up, update = await take(2)
    assert isinstance(up, StreamUp)
    assert up.stream == "trade_updates"
    assert isinstance(update, TradeUpdate)
    assert update.fill is not None
    assert (update.fill.execution_id, update.fill.qty, update.fill.price) == ("execution-1", 10, Decimal("101.25"))
    assert (update.fill.side, update.fill.symbol, update.fill.client_order_id) == (OrderSide.BUY, "AAPL", "client-o1")
    assert update.position_qty == 10
    assert update.fill.at == update.at
    assert venue.peers[TRADE][0].received[0] == {
        "action": "authenticate",
        "data": {"key_id": "key-1", "secret_key": "secret-1"},
    }


async def test_both_replies_to_authentication_are_understood(venue: FakeVenue) -> None:
    async def script(peer: Peer) -> None:
        await peer.receive()
        await peer.send([{"T": "success", "msg": "authenticated"}])
        await peer.listen()
        await peer.stay()

    venue.on_connect(TRADE, script)
    async with stream_of(venue, Waits()) as take:
        assert isinstance((await take(1))[0], StreamUp)


async def test_f45_what_comes_before_the_acknowledgement_is_not_lost_and_comes_after_up(venue: FakeVenue) -> None:
    async def script(peer: Peer) -> None:
        await peer.authorise()
        await peer.receive()
        await peer.send(fill_update())
        await peer.send({"stream": "listening", "data": {"streams": ["trade_updates"]}})
        await peer.stay()

    venue.on_connect(TRADE, script)
    async with stream_of(venue, Waits()) as take:
        up, update = await take(2)
    assert isinstance(up, StreamUp)
    assert isinstance(update, TradeUpdate)


async def test_what_cannot_be_read_is_told_and_its_neighbours_survive(venue: FakeVenue) -> None:
    strange = order_json(status="moonlit", type="iceberg", asset_class="crypto_perp")
    venue.on_connect(
        TRADE,
        sends(
            {"stream": "trade_updates", "data": None},
            update_json("restated_by_moon", strange),
            update_json("new", order_json(side="sideways", position_intent=None)),
            {"stream": "weather", "data": {}},
            [update_json("new"), update_json("canceled")],
            update_json("fill", order_json(status="filled", filled_qty="10"), price="1", qty="10"),
            fill_update(),
        ),
    )
    async with stream_of(venue, Waits()) as take:
        events = await take(10)
    kinds = ["Unparsed" if isinstance(e, Unparsed) else getattr(e, "event", "up") for e in events]
    assert kinds == [
        "up",
        "Unparsed",
        "restated_by_moon",
        "Unparsed",
        "Unparsed",
        "new",
        "canceled",
        "fill",
        "Unparsed",
        "fill",
    ]
    without_fill, reason, with_fill = events[7:]
    assert isinstance(without_fill, TradeUpdate)
    assert without_fill.fill is None
    assert isinstance(reason, Unparsed)
    assert "execution_id" in reason.reason
    assert isinstance(with_fill, TradeUpdate)
    assert with_fill.fill is not None


async def test_garbage_frames_do_not_end_the_stream(venue: FakeVenue) -> None:
    async def script(peer: Peer) -> None:
        await peer.open_trades()
        for frame in (b"", b"\xc1", b"{not json", "plain text", b"[1, 2]", b"[" * 100_000, b"null", b"\x00" * 50):
            await peer.socket.send(frame)
        await peer.send(fill_update())
        await peer.stay()

    venue.on_connect(TRADE, script)
    async with stream_of(venue, Waits()) as take:
        events = await take(10)
    assert isinstance(events[0], StreamUp)
    assert all(isinstance(e, Unparsed) for e in events[1:9])
    assert all(len(e.raw) <= 201 for e in events[1:9] if isinstance(e, Unparsed))
    assert isinstance(events[9], TradeUpdate)


async def test_each_leg_of_a_spread_fills_by_itself(venue: FakeVenue) -> None:
    done = {"type": "", "status": "filled", "filled_qty": "1", "qty": "1"}
    legs = [
        order_json("leg-1", symbol="AAPL261016C00200000", side="sell", **done),
        order_json("leg-2", symbol="AAPL261016C00210000", side="buy", **done),
    ]
    nameless = {"symbol": "", "asset_class": "", "side": "", "position_intent": None}
    parent = order_json("spread", order_class="mleg", legs=legs, **nameless)
    fills = [
        {"order_id": leg["id"], "execution_id": f"x-{leg['id']}", "qty": "1", "price": "2.5", "symbol": leg["symbol"]}
        for leg in legs
    ]
    held = {legs[0]["symbol"]: "0", legs[1]["symbol"]: "0"}
    venue.on_connect(TRADE, sends(update_json("fill", parent, legs=fills, position_qtys=held)))
    async with stream_of(venue, Waits()) as take:
        _, first, second = await take(3)
    assert isinstance(first, TradeUpdate)
    assert isinstance(second, TradeUpdate)
    assert first.fill is not None
    assert second.fill is not None
    assert (first.fill.symbol, first.fill.side, first.order.id) == (legs[0]["symbol"], OrderSide.SELL, "leg-1")
    assert (second.fill.symbol, second.fill.side, second.position_qty) == (legs[1]["symbol"], OrderSide.BUY, 0)


# Losing and regaining the connection


async def test_a_lost_connection_is_told_and_reopened_after_a_wait(venue: FakeVenue) -> None:
    async def breaks(peer: Peer) -> None:
        await peer.open_trades()
        peer.socket.transport.abort()

    venue.on_connect(TRADE, breaks, sends(fill_update()))
    waits = Waits()
    async with stream_of(venue, waits) as take:
        up, down, again, update = await take(4)
    assert isinstance(up, StreamUp)
    assert isinstance(down, StreamDown)
    assert isinstance(again, StreamUp)
    assert isinstance(update, TradeUpdate)
    assert waits.seconds == [1.0]


async def test_f96_a_loop_of_closing_connections_slows_down_to_thirty_seconds(venue: FakeVenue) -> None:
    async def closes(peer: Peer) -> None:
        await peer.open_trades()

    venue.on_connect(TRADE, closes)
    waits = Waits()
    async with stream_of(venue, waits) as take:
        events = await take(16)
    assert sum(isinstance(e, StreamUp) for e in events) == 8
    assert waits.seconds == [1, 2, 4, 8, 16, 30, 30]


async def test_a_good_connection_forgets_the_bad_ones(venue: FakeVenue) -> None:
    async def closes(peer: Peer) -> None:
        await peer.open_trades()

    venue.on_connect(TRADE, closes)
    now = 0.0

    def monotonic() -> float:
        nonlocal now
        now += 31.0
        return now

    waits = Waits()
    async with stream_of(venue, waits, monotonic=monotonic) as take:
        await take(7)
    assert waits.seconds == [1, 1, 1]


async def test_f86_refused_credentials_become_a_typed_error_and_a_slow_retry(venue: FakeVenue) -> None:
    async def refuses(peer: Peer) -> None:
        await peer.receive()
        await peer.send({"stream": "authorization", "data": {"status": "unauthorized", "action": "authenticate"}})
        await peer.stay()

    venue.on_connect(TRADE, refuses)
    waits = Waits()
    async with stream_of(venue, waits) as take:
        downs = await take(5)
    assert all(isinstance(d, StreamDown) and "refused the credential" in d.reason for d in downs)
    errors = [d.error for d in downs if isinstance(d, StreamDown)]
    assert errors[:2] == [None, None]
    assert all(isinstance(e, BrokerUnauthorised) for e in errors[2:])
    assert waits.seconds == [1, 2, 4, 8]
    assert "secret-1" not in str(downs)


async def test_a_second_session_refused_at_the_handshake_waits_as_told(venue: FakeVenue) -> None:
    venue.on_connect(
        TRADE,
        Answer("too many", 429),
        Answer("too many", 429, {"Retry-After": "20"}),
        Answer("down", 503),
        Answer("forbidden", 403),
        sends(fill_update()),
    )
    waits = Waits()
    async with stream_of(venue, waits) as take:
        events = await take(6)
    downs = [e for e in events if isinstance(e, StreamDown)]
    assert len(downs) == 4
    assert [isinstance(d.error, BrokerRateLimited) for d in downs] == [True, True, False, False]
    assert "HTTP 429" in downs[0].reason
    assert waits.seconds == [5, 20, 30, 30]
    assert isinstance(events[-1], TradeUpdate)


async def test_a_mute_socket_is_given_up_before_it_is_called_up(venue: FakeVenue) -> None:
    async def mute(peer: Peer) -> None:
        await peer.stay()

    async def half_mute(peer: Peer) -> None:
        await peer.authorise()
        await peer.stay()

    venue.on_connect(TRADE, mute, half_mute, sends())
    async with stream_of(venue, Waits(), reply_timeout=1.0) as take:
        first, second, third = await take(3)
    assert isinstance(first, StreamDown)
    assert "authentication did not come" in first.reason
    assert isinstance(second, StreamDown)
    assert "listen did not come" in second.reason
    assert isinstance(third, StreamUp)


async def test_a_venue_that_leaves_trade_updates_out_is_not_up(venue: FakeVenue) -> None:
    async def leaves_out(peer: Peer) -> None:
        await peer.authorise()
        await peer.receive()
        await peer.send({"stream": "listening", "data": {"streams": []}})
        await peer.stay()

    async def complains(peer: Peer) -> None:
        await peer.authorise()
        await peer.receive()
        await peer.send({"action": "error", "data": {"error_message": "internal server error"}})

    venue.on_connect(TRADE, leaves_out, complains)
    async with stream_of(venue, Waits()) as take:
        first, second = await take(2)
    assert isinstance(first, StreamDown)
    assert "does not grant trade_updates" in first.reason
    assert isinstance(second, StreamDown)
    assert "internal server error" in second.reason


async def test_nobody_listening_is_a_down_with_a_reason() -> None:
    async with FakeVenue() as venue:
        pass
    async with stream_of(venue, Waits()) as take:
        (down,) = await take(1)
    assert isinstance(down, StreamDown)
    assert "Connect" in down.reason


async def test_a_burst_beyond_the_buffer_loses_nothing(venue: FakeVenue) -> None:
    count = 3000
    venue.on_connect(TRADE, sends(*(fill_update(execution_id=f"x{i}") for i in range(count))))
    async with stream_of(venue, Waits()) as take:
        await take(1)
        events = await take(count)
    assert [e.fill.execution_id for e in events if isinstance(e, TradeUpdate) and e.fill] == [
        f"x{i}" for i in range(count)
    ]
