"""The Alpaca adapter against the paper exchange: real HTTP, real sockets, a venue that trades."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from tests.support.clients import IMPATIENT, PATIENT
from tests.support.fake_venue import eventually
from tests.support.waiting import PATIENCE

from exitguard.broker.budget import RequestBudget
from exitguard.broker.clock import SteppedClock, follow_venue_clock
from exitguard.broker.market_data import AlpacaMarketData
from exitguard.broker.port import (
    Accepted,
    BrokerRateLimited,
    BrokerRefused,
    BrokerUnauthorised,
    BrokerUnavailable,
    Refused,
    StreamDown,
    StreamUp,
    Tick,
    TradeStreamEvent,
    Unknown,
    Unparsed,
)
from exitguard.broker.rest import AlpacaBroker, AlpacaEndpoints
from exitguard.broker.trade_stream import AlpacaTradeStream
from exitguard.broker.transport import Timeouts
from exitguard.broker.wire import Backoff
from exitguard.core.orders import (
    OrderClass,
    OrderRequest,
    OrderSide,
    OrderStatus,
    OrderType,
    PositionIntent,
    TimeInForce,
    TradeUpdate,
)
from exitguard.core.quote import Quote
from exitguard.core.session import table_calendar
from exitguard.paper.server.app import PaperServer
from exitguard.paper.server.settings import PaperSettings

START = datetime(2026, 10, 8, 14, tzinfo=UTC)
CASH = {"large": Decimal(100_000), "tiny": Decimal(1_000)}


@pytest.fixture
async def server() -> AsyncIterator[PaperServer]:
    settings = PaperSettings(
        accounts=CASH, start=START, paused=True, manual={"AAPL": Decimal(150), "F": Decimal(12)}, seed=7
    )
    async with PaperServer(settings) as running:
        yield running


def connect(server: PaperServer, name: str = "large", *, timeouts: Timeouts = PATIENT, **options: Any) -> AlpacaBroker:
    account = server.accounts[name]
    return AlpacaBroker(
        AlpacaEndpoints(server.rest_url, server.data_url),
        options.pop("key", account.key),
        account.secret,
        account_name=name,
        budget=RequestBudget(100_000),
        data_budget=RequestBudget(100_000),
        timeouts=timeouts,
        **options,
    )


@pytest.fixture
async def broker(server: PaperServer) -> AsyncIterator[AlpacaBroker]:
    client = connect(server)
    yield client
    await client.close()


def publish(server: PaperServer, symbol: str, bid: str, ask: str) -> None:
    server.host.player.publish(Quote(symbol, Decimal(bid), Decimal(ask), server.host.now(), 100, 100))


def order(client_order_id: str, side: OrderSide = OrderSide.BUY, qty: str = "10", **changes: Any) -> OrderRequest:
    opening = side is OrderSide.BUY
    fields: dict[str, Any] = {
        "symbol": "AAPL",
        "type": OrderType.MARKET,
        "time_in_force": TimeInForce.DAY,
        "position_intent": PositionIntent.BUY_TO_OPEN if opening else PositionIntent.SELL_TO_CLOSE,
        **changes,
    }
    return OrderRequest(client_order_id=client_order_id, side=side, qty=Decimal(qty), **fields)


async def filled(broker: AlpacaBroker, client_order_id: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await broker.order_by_client_id(client_order_id)
            if found is not None and found.status is OrderStatus.FILLED:
                return


@asynccontextmanager
async def listening(server: PaperServer, name: str = "large") -> AsyncIterator[list[TradeStreamEvent]]:
    account = server.accounts[name]
    stream = AlpacaTradeStream(
        server.stream_url, account.key, account.secret, backoff=Backoff(first=0.01, maximum=0.05, busy=0.01)
    )
    events: list[TradeStreamEvent] = []

    async def collect() -> None:
        async for event in stream.events():
            events.append(event)

    task = asyncio.create_task(collect())
    try:
        await eventually(lambda: any(isinstance(e, StreamUp) for e in events))
        yield events
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def fills_in(events: list[TradeStreamEvent]) -> list[Decimal]:
    return [e.fill.qty for e in events if isinstance(e, TradeUpdate) and e.fill is not None]


async def test_a_round_trip_is_the_same_over_rest_and_stream(server: PaperServer, broker: AlpacaBroker) -> None:
    async with listening(server) as events:
        bought = await broker.submit(order("in-1"))
        assert isinstance(bought, Accepted)
        await eventually(lambda: sum(fills_in(events)) == 10)
        position = await broker.position("AAPL")
        assert position is not None
        assert (position.qty, position.qty_available) == (10, 10)
        assert isinstance(await broker.submit(order("out-1", OrderSide.SELL)), Accepted)
        await eventually(lambda: sum(fills_in(events)) == 20)
    updates = [e for e in events if isinstance(e, TradeUpdate)]
    assert len(updates) == len([e for e in events if not isinstance(e, StreamUp)]), "everything could be read"
    assert updates[-1].position_qty == 0
    assert await broker.position("AAPL") is None
    assert await broker.positions() == []
    over_rest = await broker.fills()
    on_stream = [u.fill for u in updates if u.fill is not None]
    assert [(f.order_id, f.side, f.qty, f.price) for f in over_rest] == [
        (f.order_id, f.side, f.qty, f.price) for f in on_stream
    ]
    assert [o.client_order_id for o in await broker.orders_since(START - timedelta(days=1))] == ["in-1", "out-1"]


async def test_i4_each_credential_sees_its_own_account_only(server: PaperServer, broker: AlpacaBroker) -> None:
    tiny = connect(server, "tiny")
    assert isinstance(await broker.submit(order("shared-id")), Accepted)
    await filled(broker, "shared-id")
    assert await tiny.order_by_client_id("shared-id") is None
    assert await tiny.positions() == []
    assert (await tiny.account()).account_number == server.accounts["tiny"].account_number
    assert (await broker.account()).equity != (await tiny.account()).equity
    await tiny.close()
    stranger = connect(server, key="nobody")
    with pytest.raises(BrokerUnauthorised):
        await stranger.account()
    await stranger.close()


async def test_f2_f4_the_venue_refuses_what_would_open_the_other_side(
    server: PaperServer, broker: AlpacaBroker
) -> None:
    nothing_held = await broker.submit(order("out-1", OrderSide.SELL))
    assert isinstance(nothing_held, Refused)
    assert isinstance(nothing_held.error, BrokerRefused)
    assert nothing_held.error.is_intent_mismatch or nothing_held.error.is_insufficient_quantity
    assert isinstance(await broker.submit(order("in-1")), Accepted)
    await filled(broker, "in-1")
    again = await broker.submit(order("in-1"))
    assert isinstance(again, Refused)
    assert isinstance(again.error, BrokerRefused)
    assert again.error.is_duplicate_client_order_id
    too_much = await broker.submit(order("out-2", OrderSide.SELL, "11"))
    assert isinstance(too_much, Refused)
    assert isinstance(too_much.error, BrokerRefused)
    assert too_much.error.is_insufficient_quantity
    sub_penny = order(
        "out-3", OrderSide.SELL, type=OrderType.LIMIT, limit_price=Decimal("150.123"), time_in_force=TimeInForce.GTC
    )
    refused = await broker.submit(sub_penny)
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, BrokerRefused)
    assert "sub-penny" in refused.error.reason


async def test_a_bracket_rests_is_replaced_and_is_cancelled(server: PaperServer, broker: AlpacaBroker) -> None:
    bracket = order("in-1", order_class=OrderClass.BRACKET, take_profit=Decimal(160), stop_loss=Decimal(140))
    async with listening(server) as events:
        accepted = await broker.submit(bracket)
        assert isinstance(accepted, Accepted)
        await eventually(lambda: sum(fills_in(events)) == 10)
        parent = await broker.order(accepted.order.id)
        assert parent is not None
        prices = sorted(str(leg.stop_price or leg.limit_price) for leg in parent.legs)
        assert prices == ["140", "160"]
        stop = next(leg for leg in parent.legs if leg.stop_price is not None)
        assert stop.is_open
        held = await broker.submit(order("out-1", OrderSide.SELL))
        assert isinstance(held, Refused)
        assert isinstance(held.error, BrokerRefused)
        assert held.error.is_insufficient_quantity

        replaced = await broker.replace(stop.id, client_order_id="stop-2", stop_price=Decimal(141))
        assert isinstance(replaced, Accepted)
        assert replaced.order.replaces == stop.id
        old = await broker.order(stop.id)
        assert old is not None
        await eventually(lambda: any(isinstance(e, TradeUpdate) and e.event == "replaced" for e in events))

        open_now = {member.id for o in await broker.open_orders(["AAPL"]) for member in o.family() if member.is_open}
        assert replaced.order.id in open_now
        target = next(leg for leg in parent.legs if leg.stop_price is None)
        assert (await broker.cancel(target.id)).known
        await eventually(lambda: any(isinstance(e, TradeUpdate) and e.event == "canceled" for e in events))
    assert (await broker.cancel("00000000-0000-0000-0000-000000000000")).not_found
    finished = await broker.cancel(accepted.order.id)
    assert finished.known
    assert finished.already_terminal


UNKNOWN = ("http_504_after", "http_504_before", "timeout_after", "timeout_before", "reset_after", "reset_before")


@pytest.mark.parametrize("kind", [*UNKNOWN, "html_error", "http_500", "malformed_body"])
async def test_f33_an_unknown_outcome_is_told_apart_by_looking_the_id_up(
    server: PaperServer, broker: AlpacaBroker, kind: str
) -> None:
    server.exchange.faults.add({"kind": kind, "endpoint": "POST /v2/orders", "count": 1})
    first = connect(server, timeouts=IMPATIENT if kind.startswith("timeout") else PATIENT)
    assert isinstance(await first.submit(order("in-1")), Unknown)
    await first.close()
    arrived = kind.endswith("_after") or kind == "malformed_body"
    found = await broker.order_by_client_id("in-1")
    assert (found is not None) == arrived
    again = await broker.submit(order("in-1"))
    assert isinstance(again, Refused if arrived else Accepted)
    await filled(broker, "in-1")
    position = await broker.position("AAPL")
    assert position is not None
    assert position.qty == 10


@pytest.mark.parametrize("kind", ["http_504_before", "html_error", "http_500", "malformed_body", "reset_before"])
async def test_i11_a_failing_list_recovers_or_raises_and_is_never_empty(
    server: PaperServer, broker: AlpacaBroker, kind: str
) -> None:
    assert isinstance(await broker.submit(order("in-1")), Accepted)
    await filled(broker, "in-1")
    server.exchange.faults.add({"kind": kind, "endpoint": "GET /v2/positions", "count": 2})
    assert len(await broker.positions()) == 1
    server.exchange.faults.add({"kind": kind, "endpoint": "GET /v2/positions"})
    with pytest.raises(BrokerUnavailable):
        await broker.positions()


async def test_a_429_of_the_venue_is_refused_and_paused(server: PaperServer, broker: AlpacaBroker) -> None:
    server.exchange.faults.add({"kind": "rate_limit", "endpoint": "POST /v2/orders", "count": 1})
    result = await broker.submit(order("in-1"))
    assert isinstance(result, Refused)
    assert isinstance(result.error, BrokerRateLimited)
    assert result.error.retry_after is not None
    assert await connect_and_ask(server) is None, "the order was not taken"


async def connect_and_ask(server: PaperServer) -> object:
    other = connect(server)
    try:
        return await other.order_by_client_id("in-1")
    finally:
        await other.close()


async def test_venue_calendar_clock_assets_contracts_and_quotes(server: PaperServer, broker: AlpacaBroker) -> None:
    assert await broker.calendar(date(2026, 11, 23), date(2026, 11, 30)) == table_calendar().between(
        date(2026, 11, 23), date(2026, 11, 30)
    )
    clock = await broker.clock()
    assert abs(clock.now - START) < timedelta(seconds=1)
    assert clock.is_open
    asset = await broker.asset("AAPL")
    assert asset is not None
    assert asset.tradable
    assert await broker.asset("NOPE") is None
    assert {a.symbol for a in await broker.assets()} == {"AAPL", "F"}
    contracts = await broker.option_contracts(
        ["AAPL"], expiry_from=date(2026, 10, 9), expiry_to=date(2026, 10, 16), type="call"
    )
    assert contracts
    assert {c.type for c in contracts} == {"call"}
    near = min(contracts, key=lambda c: abs(c.strike - 150)).symbol
    found = await broker.option_contract(near)
    assert found is not None
    quotes = await broker.latest_quotes(["AAPL", near, "NOPE"])
    assert quotes.keys() == {"AAPL", near}
    assert 0 < quotes["AAPL"].bid <= quotes["AAPL"].ask
    assert quotes[near].ask > 0


async def test_a_stepped_clock_follows_the_venue(server: PaperServer, broker: AlpacaBroker) -> None:
    clock = SteppedClock(START - timedelta(days=1))
    task = asyncio.create_task(follow_venue_clock(broker, clock, poll_seconds=0.002))
    woken = asyncio.create_task(clock.sleep_until(START + timedelta(minutes=1)))
    await eventually(lambda: clock.now() >= START)
    assert not woken.done()
    await server.host.player.advance(START + timedelta(minutes=1), None)
    async with asyncio.timeout(PATIENCE):
        await woken
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_more_than_five_hundred_open_orders_all_come(server: PaperServer, broker: AlpacaBroker) -> None:
    account = server.accounts["large"]
    for number in range(620):
        body = {
            "symbol": "F",
            "qty": "1",
            "side": "buy",
            "type": "limit",
            "time_in_force": "day",
            "limit_price": "1",
            "client_order_id": f"rest-{number}",
        }
        server.exchange.submit_order(account, body)
    found = await broker.open_orders()
    assert sorted(o.client_order_id for o in found) == sorted(f"rest-{n}" for n in range(620))


# The sockets


@pytest.mark.parametrize("kind", ["stream_duplicate", "stream_unknown", "stream_null", "stream_reorder"])
async def test_t10_odd_streams_lose_no_fill(server: PaperServer, broker: AlpacaBroker, kind: str) -> None:
    async with listening(server) as events:
        server.exchange.faults.add({"kind": kind})
        assert isinstance(await broker.submit(order("in-1")), Accepted)
        await filled(broker, "in-1")
        await eventually(lambda: bool(fills_in(events)))
    fills = {e.fill.execution_id: e.fill.qty for e in events if isinstance(e, TradeUpdate) and e.fill is not None}
    assert sum(fills.values()) == 10
    if kind == "stream_null":
        assert any(isinstance(e, Unparsed) for e in events)


async def test_a_cut_trade_stream_comes_back(server: PaperServer, broker: AlpacaBroker) -> None:
    async with listening(server) as events:
        server.exchange.faults.add({"kind": "stream_disconnect", "count": 1})
        await broker.submit(order("in-1"))
        await eventually(lambda: sum(isinstance(e, StreamUp) for e in events) == 2)
        server.exchange.faults.clear()
        await broker.submit(order("in-2"))
        await eventually(lambda: any(isinstance(e, TradeUpdate) and e.order.client_order_id == "in-2" for e in events))
    assert any(isinstance(e, StreamDown) for e in events)


async def test_a_second_trade_stream_of_one_account_waits_for_the_first(server: PaperServer) -> None:
    account = server.accounts["large"]
    async with listening(server) as events:
        second = AlpacaTradeStream(server.stream_url, account.key, account.secret).events()
        down = await anext(second)
        assert isinstance(down, StreamDown)
        assert isinstance(down.error, BrokerRateLimited)
        await second.aclose()  # type: ignore[attr-defined]
    assert len(events) == 1
    async with listening(server, "tiny"):
        pass


@pytest.mark.parametrize("msgpack", [True, False])
async def test_quotes_of_stocks_and_options_arrive(server: PaperServer, broker: AlpacaBroker, msgpack: bool) -> None:
    account = server.accounts["large"]
    data = AlpacaMarketData(
        server.data_stream_url,
        server.option_stream_url,
        account.key,
        account.secret,
        stock_msgpack=msgpack,
        make_backoff=lambda: Backoff(first=0.01, maximum=0.05, busy=0.01),
    )
    contracts = await broker.option_contracts(["AAPL"], expiry_from=date(2026, 10, 9), expiry_to=date(2026, 10, 16))
    option = min(contracts, key=lambda c: abs(c.strike - 150)).symbol
    data.watch(["AAPL", "F", option])
    ticks: list[Tick] = []
    statuses: list[StreamUp | StreamDown] = []

    def newest(symbol: str) -> Tick:
        return next(tick for tick in reversed(ticks) if tick.symbol == symbol)

    task = asyncio.create_task(data.run(ticks.extend, statuses.append))
    try:
        await eventually(lambda: {s.stream for s in statuses if isinstance(s, StreamUp)} == {"stock", "option"})
        publish(server, "AAPL", "151.01", "151.03")
        publish(server, option, "0", "7.35")
        await eventually(lambda: {"AAPL", option} <= {t.symbol for t in ticks})
        stock = newest("AAPL").quote()
        assert (stock.bid, stock.ask) == (Decimal("151.01"), Decimal("151.03"))
        assert abs(stock.at - server.host.now()) < timedelta(seconds=5)
        server.exchange.faults.add({"kind": "data_disconnect", "count": 1})
        publish(server, "AAPL", "151.01", "151.04")
        await eventually(lambda: any(isinstance(s, StreamDown) for s in statuses))
        server.exchange.faults.clear()
        await eventually(lambda: isinstance(statuses[-1], StreamUp))
        publish(server, "AAPL", "152", "152.01")
        # A stock's quote brings new ones of its options, on another socket and in any order.
        await eventually(lambda: newest("AAPL").bid == 152.0)
        server.exchange.faults.add({"kind": "quote_nan"})
        publish(server, "AAPL", "153", "153.01")
        await eventually(lambda: math.isnan(newest("AAPL").bid))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
