"""Failures of the predecessor that the whole manager has to make impossible, each by its number."""

import asyncio
from datetime import timedelta
from decimal import Decimal

import pytest
from tests.support.managed import OPENING, Managed, Venue

from exitguard.core.orders import OrderSide, OrderStatus, PositionIntent
from exitguard.core.policy import CloseStyle, Policy
from exitguard.core.records import CloseReason, EventType, PositionStatus, Protection
from exitguard.manager.options import ManagerOptions

CALL = "AAPL260619C00150000"
POLICY = Policy(missing_bracket=False, min_hold_minutes=0, option_close_style=CloseStyle.MARKET)


async def test_t8_f34_f40_unfilled_for_minutes_then_filled_in_part_then_cancelled() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        told = []
        managed.broker.update_sinks.append(told.append)
        managed.broker.auto_fill = False
        entering = asyncio.create_task(managed.enter(CALL, "10"))
        await managed.until(lambda: bool(managed.broker.orders), "entry sent")
        for _ in range(3):
            await managed.advance(1)
        assert not managed.rows.positions  # nothing is simulated, nothing is guessed (F34)
        (order,) = managed.broker.orders.values()
        managed.broker.fill(order.id, Decimal(4), Decimal("5.00"))
        position = await entering
        assert (position.quantity, position.entry_price) == (Decimal(4), Decimal("5.00"))
        managed.broker.fill(order.id, Decimal(2), Decimal("5.30"))
        await managed.until(lambda: managed.row(position.id).quantity == 6, "the next part")
        await managed.broker.cancel(order.id)
        for update in list(told):
            managed.trades.push(update)  # everything again
        await managed.advance(2)
        row = managed.row(position.id)
        assert (row.status, row.quantity, row.entry_price) == (PositionStatus.OPEN, Decimal(6), Decimal("5.10"))
        assert row.execution_id in managed.rows.executions
        assert len(managed.events(EventType.CREATED)) == len(managed.rows.positions) == 1
        managed.broker.auto_fill = True
        managed.command(position_id=position.id)
        await managed.closed(position)
        assert [o.qty for o in managed.closing_orders(position)] == [Decimal(6)]
        assert managed.held(CALL) == 0


@pytest.mark.parametrize("side", [OrderSide.BUY, OrderSide.SELL])
@pytest.mark.parametrize("symbol", [CALL, "AAPL260619P00150000", "AAPL"])
async def test_f1_f4_f47_a_close_names_the_contract_held_and_only_ever_closes(symbol: str, side: OrderSide) -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price("AAPL", "150")
        await managed.price(symbol, "5.00" if symbol != "AAPL" else "150")
        position = await managed.enter(symbol, "7", side=side)
        managed.command(position_id=position.id)
        await managed.closed(position)
        (close,) = managed.closing_orders(position)
        assert (close.symbol, close.qty, close.side) == (symbol, Decimal(7), side.opposite)
        closing = {OrderSide.BUY: PositionIntent.SELL_TO_CLOSE, OrderSide.SELL: PositionIntent.BUY_TO_CLOSE}
        assert close.position_intent is closing[side]
        assert managed.broker.held == {}
        assert managed.rows.history[position.id].side.value == ("long" if side is OrderSide.BUY else "short")


async def test_t6_f58_history_has_the_price_of_the_fill_and_never_the_mark() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        match = managed.broker.match
        managed.broker.match = lambda symbol: None  # type: ignore[method-assign]
        await managed.price(CALL, "2.50")  # the mark that triggers
        await managed.until(lambda: len(managed.closing_orders(position)) == 1, "close sent")
        await managed.advance(1)
        assert position.id not in managed.rows.history  # nothing is booked before the fill
        managed.broker.match = match  # type: ignore[method-assign]
        managed.quote(CALL, "2.20", "2.22")
        row = await managed.closed(position)
        history = managed.rows.history[position.id]
        assert history.trigger_price == Decimal("2.50")
        (told,) = managed.events(EventType.CLOSED, position.id)
        assert history.exit_price == row.exit_price == told.data["exit_price"] == Decimal("2.20")
        assert history.realised_pnl == row.realised_pnl == told.data["realised_pnl"]
        assert history.realised_pnl == (Decimal("2.20") - Decimal("5.01")) * 10 * 100


async def test_f111_a_position_of_which_little_is_known_is_held_and_alarmed() -> None:
    """The predecessor took the worst case for missing fields, and sold everything at 14:30."""
    policy = Policy(
        missing_bracket=False, min_hold_minutes=0, theta_decay=True, overnight=True, max_hold_time=False,
        expiration_risk=False,
    )  # fmt: skip
    soon = "AAPL260318C00150000"
    venue = Venue(OPENING.replace(hour=18, minute=25))  # 14:25 in New York
    venue.broker("large").external_order(soon, OrderSide.BUY, "3", "5")  # no levels, no strategy, no execution
    async with Managed(venue, policy=policy) as managed:
        for _ in range(10):
            await managed.advance(1)
        (row,) = managed.rows.positions.values()
        assert (row.status, row.stop_loss, row.strategy_type) == (PositionStatus.OPEN, None, "unknown")
        assert row.protection is Protection.BLIND
        assert f"blind:{row.id}" in managed.rows.alarms
        assert managed.closing_orders(row) == []


async def test_f112_a_position_that_lives_for_seconds_is_tracked_and_closed() -> None:
    """The predecessor looked every five minutes at positions that lived for four."""
    venue = Venue()
    async with Managed(venue, policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        venue.time += timedelta(seconds=2)
        await managed.price(CALL, "2.00")
        row = await managed.closed(position)
        assert row.close_reason is CloseReason.CATASTROPHIC_STOP
        assert venue.time - OPENING < timedelta(seconds=5)  # no sweep came in between
    assert ManagerOptions.__dataclass_fields__["poll_seconds"].default <= 60


async def test_f25_f29_everything_written_carries_the_account_that_acted() -> None:
    venue = Venue()
    async with Managed(venue, "large", POLICY) as large, Managed(venue, "tiny", POLICY) as tiny:
        for managed in (large, tiny):
            await managed.price(CALL, "5.00")
            position = await managed.enter(CALL, "2")
            managed.command(position_id=position.id)
            await managed.closed(position)
            rows = managed.rows
            written = [*rows.positions.values(), *rows.history.values(), *rows.intents.values()]
            assert {row.account_name for row in written} == {managed.name}
            assert all(batch.account_name == managed.name for batch in managed.store.batches)
        statuses = {o.status for managed in (large, tiny) for o in managed.broker.orders.values()}
        assert statuses == {OrderStatus.FILLED}
