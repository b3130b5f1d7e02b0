"""The dispatcher on real parts: PostgreSQL, the Alpaca adapter and the paper exchange with its faults."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from tests.support.floor import Floor, open_floor

from exitguard.core.policy import Policy
from exitguard.core.quote import Quote
from exitguard.paper.server.app import PaperServer
from exitguard.paper.server.settings import PaperSettings

OPEN = datetime(2025, 3, 3, 15, 0, tzinfo=UTC)
POLICY = Policy(missing_bracket=False)
SECOND = timedelta(seconds=1)


@pytest.fixture
async def floor(database_url: str) -> AsyncIterator[Floor]:
    """Two accounts on an exchange whose stocks stand still."""
    settings = PaperSettings(
        {"large": Decimal(100_000), "tiny": Decimal(5_000)},
        manual={"AAPL": Decimal(100), "MSFT": Decimal(50)},
        start=OPEN,
        paused=True,
    )
    async with PaperServer(settings) as server, open_floor(server, database_url) as found:
        yield found


async def settled(floor: Floor, *numbers: int) -> list[Any]:
    """The signals, once none of them waits any longer."""

    async def waiting() -> bool:
        for seat in floor.seats.values():
            seat.check()
        return bool(
            await floor.rows(
                "SELECT 1 FROM dispatch_recommendations r LEFT JOIN dispatch_executions e"
                " ON (e.account_name, e.recommendation_id) = (r.account_name, r.id)"
                " WHERE r.id = ANY($1) AND (r.status IN ('pending', 'claimed')"
                " OR e.status IN ('intended', 'unknown', 'accepted', 'partially_filled'))",
                list(numbers),
            )
        )

    async def tick() -> bool:
        # The dispatcher polls by the market's clock, which has to pass; it proves absence by the machine's.
        if not await floor.rows("SELECT 1 FROM dispatch_executions WHERE status IN ('intended', 'unknown')"):
            await floor.server.host.player.advance(floor.now + SECOND, None)
        return await waiting()

    await floor.until(tick, "every signal has an end", wanted=False)
    return list(
        await floor.rows("SELECT * FROM dispatch_recommendations WHERE id = ANY($1) ORDER BY id", list(numbers))
    )


def orders_of(floor: Floor, account: str) -> list[dict[str, Any]]:
    return floor.server.exchange.list_orders(floor.server.accounts[account], {"status": "all", "nested": "true"})


async def test_f19_f41_the_same_contract_in_two_accounts_becomes_an_order_of_each(floor: Floor) -> None:
    for name in ("large", "tiny"):
        await floor.seat(name, POLICY)
    numbers = [await floor.signal(name, "BUY_STOCK", "AAPL", qty=3) for name in ("large", "tiny")]
    rows = await settled(floor, *numbers)
    assert [(row["account_name"], row["status"]) for row in rows] == [("large", "executed"), ("tiny", "executed")]
    for name in ("large", "tiny"):
        (execution,) = await floor.rows("SELECT * FROM dispatch_executions WHERE account_name = $1", name)
        (order,) = orders_of(floor, name)
        legs = {leg["type"]: leg["id"] for leg in order["legs"]}
        assert execution["client_order_id"] == order["client_order_id"]
        assert execution["broker_order_id"] == order["id"]
        assert (execution["stop_order_id"], execution["target_order_id"]) == (legs["stop"], legs["limit"])
        assert (execution["status"], execution["filled_qty"]) == ("filled", 3)
        assert execution["avg_fill_price"] == Decimal(order["filled_avg_price"])
        assert execution["executed_at"] is not None
        assert execution["execution_mode"] == "ALPACA_PAPER"
        assert order["position_intent"] == "buy_to_open"


@pytest.mark.parametrize("fault", ["http_504_after", "http_504_before", "reset_after", "reset_before", "html_error"])
async def test_t7_f34_an_unknown_outcome_becomes_exactly_one_order(floor: Floor, fault: str) -> None:
    await floor.seat("large", POLICY)
    floor.server.exchange.faults.add({"kind": fault, "account": "large", "endpoint": "POST /v2/orders", "count": 1})
    number = await floor.signal("large", "BUY_STOCK", "AAPL", qty=3)
    (row,) = await settled(floor, number)
    assert row["status"] == "executed"
    (order,) = orders_of(floor, "large")
    (execution,) = await floor.rows("SELECT * FROM dispatch_executions")
    assert (execution["status"], execution["broker_order_id"]) == ("filled", order["id"])
    (intent,) = await floor.rows("SELECT * FROM order_intents WHERE purpose = 'entry'")
    assert intent["status"] == "filled"


async def test_t7_f33_f43_a_dispatcher_that_dies_on_an_unknown_outcome_is_succeeded_without_a_second_order(
    floor: Floor,
) -> None:
    seat = await floor.seat("large", POLICY)
    faults = floor.server.exchange.faults
    faults.add({"kind": "http_504_after", "account": "large", "endpoint": "POST /v2/orders", "count": 1})
    faults.add({"kind": "lookup_lag", "account": "large", "parameters": {"seconds": 2}})
    await floor.signal("large", "BUY_STOCK", "AAPL", qty=3)

    async def unknown() -> bool:
        return bool(await floor.rows("SELECT 1 FROM dispatch_executions WHERE status = 'unknown'"))

    await floor.until(unknown, "the outcome is unknown")
    dispatcher = seat.tasks.pop()
    dispatcher.cancel()
    await asyncio.gather(dispatcher, return_exceptions=True)
    await seat.stores.pop().close()
    manager = seat.tasks.pop()
    floor.stop.set()
    await manager
    floor.stop.clear()
    seat.tasks[0].cancel()
    await asyncio.gather(*seat.tasks, return_exceptions=True)
    await seat.broker.close()
    for store in seat.stores:
        await store.close()
    await floor.seat("large", POLICY)
    (row,) = await settled(floor, 1)
    assert row["status"] == "executed"
    assert len(orders_of(floor, "large")) == 1
    (execution,) = await floor.rows("SELECT * FROM dispatch_executions")
    assert execution["status"] == "filled"


async def test_f60_f63_f70_bad_rows_stand_aside_and_their_neighbour_is_sent(floor: Floor) -> None:
    await floor.seat("large", POLICY)
    connection = await asyncpg.connect(floor.database_url)
    try:
        rows = await connection.fetch(
            """
            INSERT INTO dispatch_recommendations (account_name, ticker, option_symbol, action, strategy_type, qty,
                stop_loss) VALUES
            ('large', 'AAPL', NULL, 'BUY_STOCK', 'swing', 'NaN', NULL),
            ('large', 'AAPL', NULL, 'BUY_STOCK', 'swing', 'many', NULL),
            ('large', 'AAPL', NULL, 'BUY_STOCK', 'swing', '1', '140'),
            ('large', 'AAPL', NULL, 'SELL_CALL', 'swing', '1', NULL),
            ('large', '''; DROP TABLE accounts; --', NULL, 'BUY_STOCK', 'swing', '1', NULL),
            ('large', NULL, NULL, NULL, NULL, NULL, NULL),
            ('large', 'SPY', NULL, 'HOLD', 'swing', NULL, NULL),
            ('large', 'MSFT', NULL, 'BUY_STOCK', 'swing', '1', NULL)
            RETURNING id
            """
        )
    finally:
        await connection.close()
    found = await settled(floor, *(row["id"] for row in rows))
    assert [row["status"] for row in found] == ["set_aside"] * 6 + ["skipped", "executed"]
    assert all(row["reason"] for row in found[:7])
    assert [order["symbol"] for order in orders_of(floor, "large")] == ["MSFT"]
    kept = await floor.rows("SELECT reason FROM set_aside WHERE account_name = 'large'")
    assert len(kept) == 6


async def test_t8_an_entry_that_nobody_fills_is_cancelled_and_told_truthfully(floor: Floor) -> None:
    await floor.seat("large", POLICY)
    floor.server.exchange.faults.add({"kind": "fill_withheld", "account": "large", "symbol": "AAPL"})
    number = await floor.signal("large", "BUY_STOCK", "AAPL", qty=3)

    async def accepted() -> bool:
        return bool(await floor.rows("SELECT 1 FROM dispatch_executions WHERE status = 'accepted'"))

    await floor.until(accepted, "the order is accepted")
    await floor.server.host.player.advance(floor.now + timedelta(seconds=121), None)
    (row,) = await settled(floor, number)
    assert row["status"] == "failed"
    (execution,) = await floor.rows("SELECT * FROM dispatch_executions")
    assert (execution["status"], execution["filled_qty"]) == ("canceled", 0)
    assert "cancelled after 120 s" in execution["reason"]
    assert [order["status"] for order in orders_of(floor, "large")] == ["canceled"]


async def test_f129_a_tiny_account_declines_what_it_cannot_pay(floor: Floor) -> None:
    await floor.seat("tiny", POLICY)
    floor.server.host.player.publish(_quote("MSFT", "6000"))
    number = await floor.signal("tiny", "BUY_STOCK", "MSFT", qty=1)
    (row,) = await settled(floor, number)
    assert row["status"] == "skipped"
    assert "max_position_fraction" in row["reason"]
    assert orders_of(floor, "tiny") == []


def _quote(symbol: str, price: str) -> Quote:
    return Quote(symbol, Decimal(price), Decimal(price), OPEN, 100, 100)
