"""What every Broker must do, asked of the Alpaca adapter on the paper exchange and of the tests' own broker alike.

A fake that passes is a fake that the manager's tests may trust.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any, TypeVar

import pytest
from tests.support.fake_broker import FakeBroker
from tests.support.waiting import PATIENCE

from exitguard.broker.budget import RequestBudget
from exitguard.broker.port import Accepted, Broker, BrokerRefused, Refused
from exitguard.broker.rest import AlpacaBroker, AlpacaEndpoints
from exitguard.core.orders import (
    BrokerOrder,
    OrderClass,
    OrderRequest,
    OrderSide,
    OrderStatus,
    OrderType,
    PositionIntent,
    TimeInForce,
)
from exitguard.core.quote import Quote
from exitguard.core.session import table_calendar
from exitguard.paper.server.app import PaperServer
from exitguard.paper.server.settings import PaperSettings

START = datetime(2026, 10, 8, 14, tzinfo=UTC)
T = TypeVar("T")


class World:
    """A broker, and a way to move its market."""

    def __init__(self, broker: Broker, quote: Callable[[str, str, str], object]) -> None:
        self.broker = broker
        self.quote = quote


@asynccontextmanager
async def alpaca_world() -> AsyncIterator[World]:
    settings = PaperSettings(
        accounts={"large": Decimal(100_000)}, start=START, paused=True, manual={"AAPL": Decimal(150)}
    )
    async with PaperServer(settings) as server:
        account = server.accounts["large"]
        broker = AlpacaBroker(
            AlpacaEndpoints(server.rest_url, server.data_url),
            account.key,
            account.secret,
            account_name="large",
            budget=RequestBudget(100_000),
            data_budget=RequestBudget(100_000),
        )

        def quote(symbol: str, bid: str, ask: str) -> None:
            server.host.player.publish(Quote(symbol, Decimal(bid), Decimal(ask), server.host.now(), 100, 100))

        quote("AAPL", "149.99", "150.01")
        yield World(broker, quote)
        await broker.close()


@asynccontextmanager
async def fake_world() -> AsyncIterator[World]:
    ticking = count()
    broker = FakeBroker(lambda: START + timedelta(milliseconds=next(ticking)))
    broker.set_quote("AAPL", "149.99", "150.01")
    yield World(broker, broker.set_quote)


@pytest.fixture(params=[alpaca_world, fake_world], ids=["alpaca", "fake"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with request.param() as made:
        yield made


def order(client_order_id: str, side: OrderSide = OrderSide.BUY, qty: str = "10", **changes: Any) -> OrderRequest:
    fields: dict[str, Any] = {
        "symbol": "AAPL",
        "type": OrderType.MARKET,
        "time_in_force": TimeInForce.DAY,
        "position_intent": PositionIntent.BUY_TO_OPEN if side is OrderSide.BUY else PositionIntent.SELL_TO_CLOSE,
        **changes,
    }
    return OrderRequest(client_order_id=client_order_id, side=side, qty=Decimal(qty), **fields)


async def until(ask: Callable[[], Awaitable[T]], good: Callable[[T], bool]) -> T:
    async with asyncio.timeout(PATIENCE):
        while not good(found := await ask()):  # noqa: ASYNC110 - a venue over HTTP can only be asked again
            await asyncio.sleep(0.002)
        return found


async def reaches(broker: Broker, order_id: str, status: OrderStatus) -> BrokerOrder:
    found = await until(lambda: broker.order(order_id), lambda o: o is not None and o.status is status)
    assert found is not None
    return found


async def accepted(broker: Broker, request: OrderRequest) -> BrokerOrder:
    result = await broker.submit(request)
    assert isinstance(result, Accepted), result
    return result.order


async def refused(broker: Broker, request: OrderRequest) -> BrokerRefused:
    result = await broker.submit(request)
    assert isinstance(result, Refused), result
    assert isinstance(result.error, BrokerRefused)
    return result.error


async def bought(broker: Broker, client_order_id: str = "in-1", **changes: Any) -> BrokerOrder:
    entry = await accepted(broker, order(client_order_id, **changes))
    return await reaches(broker, entry.id, OrderStatus.FILLED)


async def test_a_market_order_fills_into_a_position(world: World) -> None:
    broker = world.broker
    entry = await bought(broker)
    assert (entry.filled_qty, entry.symbol, entry.client_order_id) == (10, "AAPL", "in-1")
    assert entry.filled_avg_price is not None
    by_id = await broker.order_by_client_id("in-1")
    assert by_id is not None
    assert by_id.id == entry.id
    position = await until(lambda: broker.position("AAPL"), lambda p: p is not None)
    assert position is not None
    assert (position.qty, position.qty_available, position.avg_entry_price) == (10, 10, entry.filled_avg_price)
    assert [p.symbol for p in await broker.positions()] == ["AAPL"]
    fills = await broker.fills(order_id=entry.id)
    assert sum(f.qty for f in fills) == 10
    assert {(f.side, f.symbol) for f in fills} == {(OrderSide.BUY, "AAPL")}
    assert await broker.fills(order_id="00000000-0000-0000-0000-000000000000") == []


async def test_what_is_not_there_is_none(world: World) -> None:
    assert await world.broker.position("AAPL") is None
    assert await world.broker.order("00000000-0000-0000-0000-000000000000") is None
    assert await world.broker.order_by_client_id("never-sent") is None
    assert await world.broker.positions() == []
    assert await world.broker.open_orders() == []
    assert (await world.broker.cancel("00000000-0000-0000-0000-000000000000")).not_found


async def test_a_used_id_stays_used(world: World) -> None:
    broker = world.broker
    limit = {"type": OrderType.LIMIT, "limit_price": Decimal(100)}
    resting = await accepted(broker, order("in-1", **limit))
    assert (await refused(broker, order("in-1", **limit))).is_duplicate_client_order_id
    assert (await broker.cancel(resting.id)).known
    await reaches(broker, resting.id, OrderStatus.CANCELED)
    assert (await refused(broker, order("in-1", **limit))).is_duplicate_client_order_id


async def test_f2_a_close_never_opens_and_never_exceeds(world: World) -> None:
    broker = world.broker
    nothing = await refused(broker, order("out-1", OrderSide.SELL))
    assert nothing.is_intent_mismatch or nothing.is_insufficient_quantity
    await bought(broker)
    assert (await refused(broker, order("out-2", OrderSide.SELL, "11"))).is_insufficient_quantity
    done = await accepted(broker, order("out-3", OrderSide.SELL))
    await reaches(broker, done.id, OrderStatus.FILLED)
    assert await until(lambda: broker.position("AAPL"), lambda p: p is None) is None


async def test_a_resting_order_holds_its_quantity_until_it_is_cancelled(world: World) -> None:
    broker = world.broker
    await bought(broker)
    target = {"type": OrderType.LIMIT, "limit_price": Decimal(200), "time_in_force": TimeInForce.GTC}
    resting = await accepted(broker, order("out-1", OrderSide.SELL, "6", **target))
    assert [o.id for o in await broker.open_orders(["AAPL"])] == [resting.id]
    assert await broker.open_orders(["MSFT"]) == []
    position = await until(lambda: broker.position("AAPL"), lambda p: p is not None and p.qty_available == 4)
    assert position is not None
    assert position.qty == 10
    assert (await refused(broker, order("out-2", OrderSide.SELL))).is_insufficient_quantity
    cancelled = await broker.cancel(resting.id)
    assert cancelled.known
    assert not cancelled.already_terminal
    await reaches(broker, resting.id, OrderStatus.CANCELED)
    await until(lambda: broker.position("AAPL"), lambda p: p is not None and p.qty_available == 10)


async def test_a_limit_fills_when_the_market_comes_to_it(world: World) -> None:
    broker = world.broker
    await bought(broker)
    target = {"type": OrderType.LIMIT, "limit_price": Decimal(160), "time_in_force": TimeInForce.GTC}
    resting = await accepted(broker, order("out-1", OrderSide.SELL, **target))
    world.quote("AAPL", "161", "161.02")
    done = await reaches(broker, resting.id, OrderStatus.FILLED)
    assert done.filled_avg_price is not None
    assert done.filled_avg_price >= 160
    late = await broker.cancel(resting.id)
    assert late.known
    assert late.already_terminal


async def test_a_bracket_protects_what_it_opened(world: World) -> None:
    broker = world.broker
    legs = {"order_class": OrderClass.BRACKET, "take_profit": Decimal(160), "stop_loss": Decimal(140)}
    entry = await bought(broker, **legs)
    parent = await until(
        lambda: broker.order(entry.id), lambda o: o is not None and len([m for m in o.legs if m.is_open]) == 2
    )
    assert parent is not None
    assert sorted(m.stop_price or m.limit_price or Decimal(0) for m in parent.legs) == [140, 160]
    assert {m.side for m in parent.legs} == {OrderSide.SELL}
    world.quote("AAPL", "139", "139.02")
    stop = next(m for m in parent.legs if m.stop_price is not None)
    target = next(m for m in parent.legs if m.stop_price is None)
    await reaches(broker, stop.id, OrderStatus.FILLED)
    await reaches(broker, target.id, OrderStatus.CANCELED)
    assert await until(lambda: broker.position("AAPL"), lambda p: p is None) is None


async def test_a_replacement_is_a_new_order(world: World) -> None:
    broker = world.broker
    await bought(broker)
    target = {"type": OrderType.LIMIT, "limit_price": Decimal(200), "time_in_force": TimeInForce.GTC}
    first = await accepted(broker, order("out-1", OrderSide.SELL, **target))
    await reaches(broker, first.id, OrderStatus.NEW)
    result = await broker.replace(first.id, client_order_id="out-2", limit_price=Decimal(190))
    assert isinstance(result, Accepted)
    assert result.order.id != first.id
    assert result.order.client_order_id == "out-2"
    old = await reaches(broker, first.id, OrderStatus.REPLACED)
    assert old.replaced_by == result.order.id
    new = await reaches(broker, result.order.id, OrderStatus.NEW)
    assert (new.limit_price, new.qty, new.replaces) == (190, 10, first.id)


async def test_history_is_whole_and_in_order(world: World) -> None:
    broker = world.broker
    for number in range(3):
        await bought(broker, f"in-{number}")
    found = await broker.orders_since(START - timedelta(days=1))
    assert [o.client_order_id for o in found] == ["in-0", "in-1", "in-2"]
    fills = await broker.fills()
    assert sum(f.qty for f in fills) == 30
    assert [f.at for f in fills] == sorted(f.at for f in fills)
    assert len({f.execution_id for f in fills}) == len(fills)


async def test_the_venue_tells_time_calendar_account_and_quotes(world: World) -> None:
    clock = await world.broker.clock()
    assert clock.is_open
    assert clock.next_close == datetime(2026, 10, 8, 20, tzinfo=UTC)
    days = (date(2026, 11, 25), date(2026, 11, 30))
    assert await world.broker.calendar(*days) == table_calendar().between(*days)
    account = await world.broker.account()
    assert account.account_number
    assert account.equity == 100_000
    assert not account.trading_blocked
    quotes = await world.broker.latest_quotes(["AAPL", "MSFT"])
    assert quotes.keys() == {"AAPL"}
    assert (quotes["AAPL"].bid, quotes["AAPL"].ask) == (Decimal("149.99"), Decimal("150.01"))
