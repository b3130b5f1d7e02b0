"""The broker nets: of a contract there is one position, whatever turned it around and whoever learns of it late."""

from datetime import date, timedelta
from decimal import Decimal
from uuid import uuid4

from tests.support.managed import OPENING, Managed, Venue

from exitguard.broker.port import Accepted, Activity
from exitguard.core.instrument import InstrumentType
from exitguard.core.orders import BrokerOrder, OrderRequest, OrderSide, OrderType, PositionIntent, TimeInForce
from exitguard.core.policy import CloseStyle, Policy
from exitguard.core.position import PositionSide
from exitguard.core.records import (
    Action,
    CloseReason,
    ExecutionMode,
    ExecutionRecord,
    ExecutionStatus,
    PositionStatus,
)

CALL = "AAPL260619C00150000"
POLICY = Policy(missing_bracket=False, min_hold_minutes=0, option_close_style=CloseStyle.MARKET)


def _execution(order: BrokerOrder) -> ExecutionRecord:
    """The dispatcher's row of an entry that sells."""
    return ExecutionRecord(
        account_name="large",
        execution_id=uuid4(),
        recommendation_id=None,
        symbol=order.symbol,
        ticker=order.symbol,
        option_symbol=None,
        instrument_type=InstrumentType.STOCK,
        strategy_type="swing",
        action=Action.SELL_STOCK,
        side=OrderSide.SELL,
        qty=order.qty,
        execution_mode=ExecutionMode.ALPACA_PAPER,
        status=ExecutionStatus.ACCEPTED,
        client_order_id=order.client_order_id,
        simulated_ts=order.submitted_at or OPENING,
        broker_order_id=order.id,
    )


async def _sell_short(venue: Venue, qty: int) -> ExecutionRecord:
    """Send an entry that sells, as the dispatcher does; its row is not written yet."""
    symbol, intent = "AAPL", PositionIntent.SELL_TO_OPEN
    sale = OrderRequest("xg-large-e1", symbol, OrderSide.SELL, Decimal(qty), OrderType.MARKET, TimeInForce.DAY, intent)
    sent = await venue.broker("large").submit(sale)
    assert isinstance(sent, Accepted)
    return _execution(sent.order)


async def test_i8_an_entry_against_what_is_held_takes_from_it() -> None:
    """Found by the simulator: two rows of one contract on opposite sides looked matched and could never be closed."""
    venue = Venue()
    broker = venue.broker("large")
    broker.set_quote("AAPL", "100", "100.02")
    broker.auto_fill = False
    entry = await _sell_short(venue, 4)
    venue.time += timedelta(seconds=1)
    broker.external_order("AAPL", OrderSide.BUY, "10", "100.00")  # before the entry fills
    async with Managed(venue, policy=POLICY) as managed:
        (position,) = managed.rows.positions.values()
        assert position.quantity == 10
        venue.ledger.account("large").executions[entry.execution_id] = entry
        await managed.advance(1)
        broker.fill(entry.broker_order_id or "", Decimal(4), Decimal(101))
        await managed.until(lambda: managed.row(position.id).quantity == 6, "the sale is booked")
        await managed.advance(2)
        assert len(managed.rows.positions) == 1
        broker.auto_fill = True
        managed.command(position_id=position.id)
        await managed.closed(position)
        assert managed.held("AAPL") == 0
        assert managed.rows.history[position.id].quantity == 10


async def test_i5_an_episode_that_is_found_after_the_one_that_it_turned_into_loses_no_fill() -> None:
    """Found by the simulator: both parts of the fill that turned a position had one id, and one of them was lost."""
    venue = Venue()
    broker = venue.broker("large")
    broker.set_quote("AAPL", "100", "100.02")
    entry = await _sell_short(venue, 5)
    venue.time += timedelta(seconds=4)
    by_hand = broker.external_order("AAPL", OrderSide.BUY, "10", "99.00")
    async with Managed(venue, policy=POLICY) as managed:
        (turned,) = managed.rows.positions.values()
        assert (turned.side, turned.quantity) == (PositionSide.LONG, Decimal(5))
        await managed.advance(1)
        managed.command(position_id=turned.id)
        await managed.closed(turned)
    venue.ledger.account("large").executions[entry.execution_id] = entry
    async with Managed(venue, policy=POLICY) as restarted:
        await restarted.until(lambda: len(restarted.rows.history) == 2, "the sale's own episode is recorded")
        first = restarted.rows.history[turned.id + 1]
        assert (first.side, first.quantity, first.exit_price) == (PositionSide.SHORT, Decimal(5), Decimal(99))
        booked = [fill.qty for _, fill, _ in restarted.rows.fills.values() if fill.order_id == by_hand.id]
        assert booked == [Decimal(5), Decimal(5)]


async def test_f58_what_is_booked_of_an_order_that_filled_too_much_is_what_it_cost() -> None:
    """Found by the simulator: the close was booked at the order's average, and the excess at its last fill's price."""
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price("AAPL", "100")
        position = await managed.enter("AAPL", "10")
        managed.broker.auto_fill = False
        managed.trades.mute = True
        managed.command(position_id=position.id)
        await managed.until(lambda: managed.closing_orders(position), "the close is sent")
        order = next(o for o in managed.broker.orders.values() if f"-{position.uid}-" in o.client_order_id)
        managed.broker.fill(order.id, Decimal(6), Decimal(100))
        managed.broker.fill(order.id, Decimal(5), Decimal(99))
        await managed.advance(1)
        await managed.closed(position)
        for _ in range(4):
            await managed.advance(1)
        await managed.until(lambda: len(managed.rows.positions) == 2, "the excess is adopted")
        booked = [fill for _, fill, _ in managed.rows.fills.values() if fill.order_id == order.id]
        assert sum(fill.qty for fill in booked) == order.filled_qty == 11
        assert abs(sum(fill.qty * fill.price for fill in booked) - order.filled_value) < Decimal("0.0001")


async def test_i10_what_was_closed_of_an_adopted_position_before_is_in_its_row() -> None:
    """Found by the simulator: the row of a position adopted after a part of it was sold had no exit price."""
    venue = Venue()
    venue.broker("large").set_quote("AAPL", "100", "100.02")
    venue.broker("large").external_order("AAPL", OrderSide.BUY, "7", "100.00")
    venue.time += timedelta(seconds=2)
    venue.broker("large").external_order("AAPL", OrderSide.SELL, "4", "101.00")
    async with Managed(venue, policy=POLICY) as managed:
        (adopted,) = managed.rows.positions.values()
        assert (adopted.quantity, adopted.exit_price, adopted.realised_pnl) == (3, 101, 4)


async def test_i8_contracts_that_were_exercised_are_booked_although_the_position_was_turned_since() -> None:
    """Found by the simulator: after an exercise somebody sold more, and the activity was not looked at any longer."""
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        await managed.advance(1)
        del managed.broker.held[CALL]
        today = date(2026, 3, 17)
        managed.broker.all_activities.append(Activity("x1", "OPEXC", CALL, Decimal(-10), Decimal(0), Decimal(0), today))
        managed.broker.external_order(CALL, OrderSide.SELL, "3", "5.50")
        for _ in range(6):
            await managed.advance(1)
        row = await managed.closed(position)
        assert (row.status, row.close_reason) == (PositionStatus.CLOSED, CloseReason.EXERCISED)


async def test_i5_one_activity_never_ends_two_positions() -> None:
    """Found by the simulator: the exercise of an earlier position of the day was booked for the next one, too."""
    venue = Venue()
    today = date(2026, 3, 17)
    async with Managed(venue, policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        first = await managed.enter(CALL, "10")
        await managed.advance(1)
        del managed.broker.held[CALL]
        managed.broker.all_activities.append(Activity("x1", "OPEXC", CALL, Decimal(-10), Decimal(0), Decimal(0), today))
        for _ in range(5):
            await managed.advance(1)
        assert (await managed.closed(first)).close_reason is CloseReason.EXERCISED
    async with Managed(venue, policy=POLICY) as managed:
        second = await managed.enter(CALL, "4")
        await managed.advance(1)
        del managed.broker.held[CALL]  # nobody knows why
        for _ in range(8):
            await managed.advance(1)
        row = managed.row(second.id)
        assert (row.status, row.quantity) == (PositionStatus.OPEN, Decimal(4))
        assert f"unexplained:{second.id}" in managed.rows.alarms
