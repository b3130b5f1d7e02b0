"""Splits and new symbols as the manager's real code takes them: with patience, during a close, over a restart."""

from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from itertools import count

import pytest
from tests.support.managed import OPENING, Managed, Venue

from exitguard.broker.port import Activity, BrokerUnavailable
from exitguard.core.orders import OrderSide
from exitguard.core.policy import CloseStyle, Policy
from exitguard.core.records import CloseReason, EventType, PositionStatus

PATIENT = Policy(
    missing_bracket=False,
    min_hold_minutes=0,
    stock_close_style=CloseStyle.MARKET,
    max_hold_time=False,
    trailing_stop=True,
)
BRACKETED = Policy(missing_bracket=True, min_hold_minutes=0, max_hold_time=False)


def split(managed: Managed, ratio: str, symbol: str = "AAPL") -> None:
    """The broker's side of a split: quantity, average, resting orders."""
    broker, factor = managed.broker, Decimal(ratio)
    qty, average = broker.held[symbol]
    for order in list(broker.orders.values()):
        for member in (order, *order.legs):
            if member.symbol == symbol and not member.status.is_terminal:
                broker._set_canceled(member)
    broker.held[symbol] = (qty * factor, average / factor)


async def overnight(managed: Managed, ratio: str) -> None:
    """A split when no price of before is live any more, as when the market has been closed."""
    await managed.advance(2)
    split(managed, ratio)


async def looks(managed: Managed) -> None:
    """Give the manager some looks at the broker."""
    for _ in range(4):
        await managed.advance(1)


async def opened(managed: Managed, side: OrderSide = OrderSide.BUY, **levels: str):  # type: ignore[no-untyped-def]
    await managed.price("AAPL", "100")
    return await managed.enter("AAPL", "10", side=side, **levels)


@pytest.mark.parametrize("side", list(OrderSide))
async def test_i5_levels_and_extremes_follow_a_split(side: OrderSide) -> None:
    venue = Venue()
    stop, target = ("95", "120") if side is OrderSide.BUY else ("105", "80")
    async with Managed(venue, policy=PATIENT) as managed:
        position = await opened(managed, side, stop=stop, target=target)
        await managed.price("AAPL", "101")
        await managed.advance(1)
        await overnight(managed, "2")
        await looks(managed)
        row = managed.row(position.id)
        assert (row.quantity, row.original_quantity) == (20, 20)
        assert (row.stop_loss, row.take_profit) == (Decimal(stop) / 2, Decimal(target) / 2)
        assert max(row.best_price or 0, row.worst_price or 0) < 51
        (event,) = managed.events(EventType.SPLIT, position.id)
        assert (event.data["old_rate"], event.data["new_rate"]) == (1, 2)
        await managed.price("AAPL", "50.5")
        await managed.advance(1)
        assert managed.row(position.id).status is PositionStatus.OPEN, "half the price is no loss"
        assert not managed.rows.alarms
        await managed.price("AAPL", "47" if side is OrderSide.BUY else "53")
        closed = await managed.closed(position)
        assert (closed.close_reason, managed.held("AAPL")) == (CloseReason.STOP_LOSS, 0)
        assert managed.closing_orders(position)[-1].qty == 20


async def test_i11_one_odd_answer_is_no_split() -> None:
    venue = Venue()
    async with Managed(venue, policy=PATIENT) as managed:
        position = await opened(managed)
        positions, asked = managed.broker.positions, count()

        async def odd():  # type: ignore[no-untyped-def]
            rows = await positions()
            if next(asked) % 2:
                return rows
            return [replace(row, qty=row.qty * 2, avg_entry_price=row.avg_entry_price / 2) for row in rows]

        managed.broker.positions = odd  # type: ignore[method-assign]
        await looks(managed)
        assert managed.row(position.id).quantity == 10
        assert not managed.events(EventType.SPLIT)


async def test_what_was_paid_for_is_no_split() -> None:
    venue = Venue()
    async with Managed(venue, policy=PATIENT) as managed:
        position = await opened(managed)
        managed.broker.hold("AAPL", "20", "100")
        await managed.until(
            lambda: managed.row(position.id).quantity == 20, "the addition is booked"
        ) if False else None
        await looks(managed)
        row = managed.row(position.id)
        assert (row.quantity, row.restatements) == (20, ())
        assert not managed.events(EventType.SPLIT)


async def test_i11_a_split_during_a_close_closes_all_of_it() -> None:
    """The close waits for the morning, and the shares are split in the night while nobody watches."""
    venue = Venue(OPENING + timedelta(hours=5, minutes=58))
    managed = Managed(venue, policy=PATIENT)
    managed.start()
    await managed.caught_up()
    position = await opened(managed)
    managed.broker.match = lambda symbol: None  # type: ignore[method-assign]
    managed.command(position_id=position.id)
    await managed.until(lambda: len(managed.closing_orders(position)) == 1, "close sent")
    # An armed order leaves before its record, which has the reason.
    await managed.until(lambda: managed.row(position.id).status is PositionStatus.CLOSING, "and recorded")
    await managed.kill()
    split(managed, "2")
    venue.time = OPENING + timedelta(days=1)
    async with Managed(venue, policy=PATIENT) as again:
        del again.broker.match  # type: ignore[method-assign]
        again.quote("AAPL", "49.99", "50.01")
        for _ in range(3):
            await again.advance(1)
            again.quote("AAPL", "49.99", "50.01")
        row = await again.closed(position)
        assert again.held("AAPL") == 0
        history = again.rows.history[position.id]
        assert (history.quantity, history.close_reason) == (20, CloseReason.MANUAL_CLOSE)
        assert row.realised_pnl == 20 * history.exit_price - 10 * position.entry_price
        assert len(again.rows.positions) == 1, "nothing is left over for a position of its own"


async def test_i10_a_restart_keeps_the_terms_of_a_split() -> None:
    venue = Venue()
    managed = Managed(venue, policy=PATIENT)
    managed.start()
    await managed.caught_up()
    position = await opened(managed)
    await overnight(managed, "2")
    await looks(managed)
    await managed.kill()
    async with Managed(venue, policy=PATIENT) as again:
        await looks(again)
        row = again.row(position.id)
        assert (row.quantity, row.entry_price, row.status) == (20, position.entry_price / 2, PositionStatus.OPEN)
        assert len(again.events(EventType.SPLIT)) == 1


@pytest.mark.parametrize("told", [True, False], ids=["what was paid is told", "it is not told yet"])
async def test_a_fraction_that_a_reverse_split_left_over_is_paid_out(told: bool) -> None:
    venue = Venue()
    async with Managed(venue, policy=PATIENT) as managed:
        await managed.price("AAPL", "10")
        position = await managed.enter("AAPL", "105")
        await overnight(managed, "0.1")
        managed.broker.held["AAPL"] = (Decimal(10), managed.broker.held["AAPL"][1])
        if told:
            day = date(2026, 3, 17)
            paid = Activity("SPLIT-1", "SPLIT", "AAPL", Decimal("0.5"), Decimal(0), Decimal("52.5"), day)
            managed.broker.all_activities.append(paid)
        await looks(managed)
        row = managed.row(position.id)
        assert (row.quantity, row.original_quantity) == (10, Decimal("10.5"))
        assert row.realised_pnl == (Decimal("52.5") - position.entry_price * 5 if told else 0)
        assert not {kind.partition(":")[0] for kind in managed.rows.alarms} - {"blind"}
        assert row.status is PositionStatus.OPEN


async def test_a_bracket_is_put_back_in_the_terms_of_a_split() -> None:
    venue = Venue()
    async with Managed(venue, policy=BRACKETED) as managed:
        position = await opened(managed, bracket=("98", "103"))
        venue.time = OPENING + timedelta(hours=12)
        await managed.advance(1)
        split(managed, "2")
        await looks(managed)
        venue.time = OPENING + timedelta(days=1)
        managed.quote("AAPL", "49.99", "50.01")
        await managed.advance(1)
        await managed.until(lambda: managed.row(position.id).bracket_order_accepted, "bracket is back")
        (restored,) = [request for request in managed.broker.submitted if "-b" in request.client_order_id]
        assert (restored.qty, managed.row(position.id).quantity) == (20, 20)
        assert restored.stop_loss is not None
        assert 45 < restored.stop_loss < 50 < (restored.take_profit or 0) < 55


async def test_a_split_is_recognised_while_activities_cannot_be_read() -> None:
    venue = Venue()
    async with Managed(venue, policy=PATIENT) as managed:
        position = await opened(managed)
        managed.broker.fail_reads("activities", BrokerUnavailable("away"), 50)
        await overnight(managed, "3")
        await looks(managed)
        assert managed.row(position.id).quantity == 30
