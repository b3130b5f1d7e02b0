"""Our books against the broker's: answers that lag, options that end without an order, alarms that must end."""

from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal

import pytest
from tests.support.managed import OPENING, Managed, Venue

from exitguard.broker.port import Activity
from exitguard.core.orders import OrderSide
from exitguard.core.policy import CloseStyle, Policy
from exitguard.core.position import PositionSide
from exitguard.core.records import CloseReason, EventType, PositionRecord, PositionStatus

CALL = "AAPL260619C00150000"
TODAY = "AAPL260317C00150000"  # expires on the day of OPENING
POLICY = Policy(missing_bracket=False, min_hold_minutes=0, option_close_style=CloseStyle.MARKET)
PATIENT = Policy(missing_bracket=False, min_hold_minutes=0, option_close_style=CloseStyle.MARKET, expiration_risk=False)


def _activity(kind: str, symbol: str, qty: str, day: date | None = None) -> Activity:
    day = day or OPENING.date()
    return Activity(f"{kind}-{symbol}-{qty}", kind, symbol, Decimal(qty), Decimal(0), Decimal(0), day)


def _differences(managed: Managed) -> list[str]:
    """Alarms about our books and the broker's."""
    return [key for key in managed.rows.alarms if not key.startswith(("clock_skew", "blind"))]


async def _polls(managed: Managed, number: int) -> None:
    def count() -> int:
        return sum(1 for name, _ in managed.broker.calls if name == "positions")

    before = count()
    await managed.until(lambda: count() >= before + number, f"{number} polls")


async def _open(managed: Managed, symbol: str = CALL, qty: str = "10") -> PositionRecord:
    await managed.price(symbol, "5.00")
    return await managed.enter(symbol, qty)


async def test_a_position_that_lags_its_fills_is_not_booked_again() -> None:
    async with Managed(Venue(), policy=POLICY, real_clock=True) as managed:
        position = await _open(managed)
        stale = await managed.broker.positions()
        positions = managed.broker.positions

        async def lagging():  # type: ignore[no-untyped-def]
            await positions()
            return stale

        managed.broker.positions = lagging  # type: ignore[method-assign]
        managed.broker.external_order(CALL, OrderSide.SELL, "4", "5.50")
        await managed.until(lambda: managed.row(position.id).quantity == 6, "fill booked")
        await _polls(managed, 8)
        assert managed.row(position.id).quantity == 6
        managed.broker.external_order(CALL, OrderSide.SELL, "6", "5.50")
        await managed.closed(position)
        await _polls(managed, 8)
        assert len(managed.rows.positions) == 1
        managed.broker.positions = positions  # type: ignore[method-assign]
        await _polls(managed, 4)
        assert len(managed.rows.positions) == 1
        assert not _differences(managed)


async def test_a_position_that_the_broker_does_not_show_yet_is_no_alarm() -> None:
    async with Managed(Venue(), policy=POLICY, real_clock=True) as managed:
        positions = managed.broker.positions

        async def lagging():  # type: ignore[no-untyped-def]
            await positions()
            return []

        managed.broker.positions = lagging  # type: ignore[method-assign]
        position = await _open(managed)
        await _polls(managed, 6)
        managed.broker.positions = positions  # type: ignore[method-assign]
        await _polls(managed, 2)
        assert managed.row(position.id).status is PositionStatus.OPEN
        assert not _differences(managed)


async def test_an_unexplained_difference_that_ends_by_itself_is_no_alarm_any_longer() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        position = await _open(managed)
        await managed.advance(1)
        held = managed.broker.held.pop(CALL)
        for _ in range(5):
            await managed.advance(1)
        key = f"unexplained:{position.id}"
        assert key in managed.rows.alarms
        managed.broker.held[CALL] = held
        await managed.advance(1)
        await managed.until(lambda: key not in managed.rows.alarms, "alarm cleared")
        assert managed.row(position.id).quantity == 10


async def test_an_unreadable_position_that_is_gone_is_no_alarm_any_longer() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.advance(1)
        positions = managed.broker.positions

        async def strange():  # type: ignore[no-untyped-def]
            rows = await positions()
            managed.broker.hold("NVDA", "1", "90")
            row = managed.broker._position("NVDA")
            del managed.broker.held["NVDA"]
            return [*rows, replace(row, symbol="?!")]

        managed.broker.positions = strange  # type: ignore[method-assign]
        await managed.advance(1)
        assert "unreadable:?!" in managed.rows.alarms
        managed.broker.positions = positions  # type: ignore[method-assign]
        await managed.advance(1)
        await managed.until(lambda: not managed.rows.alarms, "alarm cleared")


@pytest.mark.parametrize("closing", [False, True], ids=["held", "while it is being closed"])
async def test_an_option_that_expires_is_closed_by_its_activity(closing: bool) -> None:
    """Nobody bids for it, the close finds no buyer, and it expires worthless (OPEXP comes the next day)."""
    venue = Venue()
    async with Managed(venue, policy=PATIENT) as managed:
        position = await _open(managed, TODAY)
        managed.broker.match = lambda symbol: None  # type: ignore[method-assign]
        if closing:
            managed.command(position_id=position.id)
            await managed.until(lambda: len(managed.closing_orders(position)) == 1, "close sent")
        venue.time = OPENING.replace(hour=20, minute=1)
        await managed.advance(1)
        for order in list(managed.broker.orders.values()):
            if not order.status.is_terminal:
                managed.broker.expire(order.id)
        del managed.broker.held[TODAY]
        venue.time += timedelta(hours=18)  # the next morning
        managed.broker.all_activities.append(_activity("OPEXP", TODAY, "-10", OPENING.date() + timedelta(days=1)))
        for _ in range(5):
            await managed.advance(1)
        row = await managed.closed(position)
        assert row.close_reason is CloseReason.EXPIRED
        assert managed.rows.history[position.id].exit_price == 0
        assert managed.rows.history[position.id].realised_pnl == -5010
        await managed.until(lambda: not managed.rows.alarms, "no alarm is left")


@pytest.mark.parametrize(
    ("kind", "side", "reason"),
    [("OPASN", OrderSide.SELL, CloseReason.ASSIGNED), ("OPEXC", OrderSide.BUY, CloseReason.EXERCISED)],
)
async def test_an_early_assignment_or_exercise_closes_with_its_own_reason(
    kind: str, side: OrderSide, reason: CloseReason
) -> None:
    async with Managed(Venue(), policy=PATIENT) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10", side=side)
        await managed.advance(1)
        del managed.broker.held[CALL]
        managed.broker.all_activities.append(_activity(kind, CALL, "10" if side is OrderSide.SELL else "-10"))
        for _ in range(4):
            await managed.advance(1)
        assert (await managed.closed(position)).close_reason is reason
        assert len(managed.rows.positions) == 1


async def test_a_partial_assignment_leaves_the_rest_under_management() -> None:
    async with Managed(Venue(), policy=PATIENT) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10", side=OrderSide.SELL)
        await managed.advance(1)
        managed.broker.held[CALL] = (Decimal(-7), Decimal("4.99"))
        managed.broker.all_activities.append(_activity("OPASN", CALL, "3"))
        for _ in range(5):
            await managed.advance(1)
        row = managed.row(position.id)
        assert (row.status, row.side, row.quantity) == (PositionStatus.OPEN, PositionSide.SHORT, Decimal(7))
        assert not _differences(managed)
        managed.command(position_id=position.id)
        await managed.closed(position)
        assert managed.rows.history[position.id].quantity == 10


async def test_i11_activities_that_explain_a_part_book_nothing_until_the_rest_is_told() -> None:
    """One of an hour before the position was adopted says nothing about what is missing of it now."""
    async with Managed(Venue(), policy=PATIENT) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10", side=OrderSide.SELL)
        await managed.advance(1)
        managed.broker.all_activities.append(replace(_activity("OPASN", CALL, "4"), id="earlier"))
        managed.broker.held[CALL] = (Decimal(-5), Decimal("4.99"))
        for _ in range(5):
            await managed.advance(1)
        assert managed.row(position.id).quantity == 10
        assert f"unexplained:{position.id}" in managed.rows.alarms
        managed.broker.all_activities += [
            replace(_activity("OPASN", CALL, "2"), id="first"), replace(_activity("OPASN", CALL, "3"), id="second")
        ]  # fmt: skip
        await managed.advance(1)
        await managed.until(lambda: managed.row(position.id).quantity == 5, "what was told is booked")
        booked = {fill.order_id for _, fill, source in managed.rows.fills.values() if source == "reconciled"}
        assert booked == {"first", "second"}
        await managed.advance(1)
        await managed.until(lambda: f"unexplained:{position.id}" not in managed.rows.alarms, "alarm cleared")


async def test_a_split_keeps_what_was_paid_and_closes_nothing() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price("NVDA", "100")
        position = await managed.enter("NVDA", "10")
        await managed.advance(1)
        managed.broker.match = lambda symbol: None  # type: ignore[method-assign]
        managed.broker.held["NVDA"] = (Decimal(20), Decimal("50.00"))
        managed.broker.quotes.pop("NVDA")
        managed.quote("NVDA", "0", "0")
        for _ in range(4):
            await managed.advance(1)
        await managed.until(lambda: managed.row(position.id).quantity == 20, "the new quantity is booked")
        await managed.price("NVDA", "50")
        await managed.advance(1)
        row = managed.row(position.id)
        assert (row.status, round(row.entry_price)) == (PositionStatus.OPEN, 50)


async def test_t10_f38_f45_one_lifecycle_whatever_is_told_twice() -> None:
    """Buy fill, duplicate buy fill, our sell fill, foreign sell fill, assignment: exactly one position (T10)."""
    venue = Venue()
    async with Managed(venue, policy=PATIENT) as managed:
        told = []
        managed.broker.update_sinks.append(told.append)
        position = await _open(managed)
        for update in list(told):  # each entry message again
            managed.trades.push(update)
        await managed.advance(1)
        assert managed.row(position.id).quantity == 10
        managed.broker.largest_fill = Decimal(3)
        managed.command(position_id=position.id)
        await managed.until(lambda: managed.row(position.id).quantity == 7, "our sell fill")
        ours = next(o for o in managed.broker.orders.values() if f"-{position.uid}-" in o.client_order_id)
        managed.broker.expire(ours.id)  # the rest of ours ends, and before the next attempt...
        managed.broker.match = lambda symbol: None  # type: ignore[method-assign]
        managed.broker.external_order(CALL, OrderSide.SELL, "4", "5.50")  # ...somebody sells by hand
        await managed.until(lambda: managed.row(position.id).quantity == 3, "foreign sell fill")
        for update in list(told):
            managed.trades.push(update)
        for order in list(managed.broker.orders.values()):
            if not order.status.is_terminal:
                managed.broker.expire(order.id)
        del managed.broker.held[CALL]  # the last three are exercised
        managed.broker.all_activities.append(_activity("OPEXC", CALL, "-3"))
        for _ in range(5):
            await managed.advance(1)
        row = await managed.closed(position)
        assert row.close_reason is CloseReason.EXERCISED
        for update in list(told):
            managed.trades.push(update)
        await managed.advance(3)
        assert len(managed.rows.positions) == len(managed.rows.history) == 1
        assert managed.rows.history[position.id].quantity == 10
        booked = [fill for number, fill, _ in managed.rows.fills.values() if number == position.id]
        assert sum(fill.qty for fill in booked if fill.side is OrderSide.BUY) == 10
        assert sum(fill.qty for fill in booked if fill.side is OrderSide.SELL) == 10
        assert len(managed.events(EventType.CREATED)) == len(managed.events(EventType.CLOSED)) == 1


async def test_i5_what_was_before_an_adopted_position_is_never_booked_into_it() -> None:
    """Found by the simulator: an episode that a lost journal had kept was folded into the position adopted after it."""
    venue = Venue()
    broker = venue.broker("large")
    broker.set_quote("AAPL", "100", "100.02")
    for side, qty in ((OrderSide.BUY, "10"), (OrderSide.SELL, "12"), (OrderSide.SELL, "3"), (OrderSide.BUY, "9")):
        venue.time += timedelta(seconds=1)
        broker.external_order("AAPL", side, qty, "100.00")
    async with Managed(venue, policy=POLICY) as managed:
        (adopted,) = managed.rows.positions.values()
        assert (adopted.quantity, adopted.side) == (4, PositionSide.LONG)
    venue.time += timedelta(seconds=1)
    broker.external_order("AAPL", OrderSide.SELL, "1", "100.00")  # found when every order is read again
    async with Managed(venue, policy=POLICY) as restarted:
        await restarted.until(lambda: restarted.row(adopted.id).quantity == 3, "the sale of 1 is booked")
        await restarted.advance(1)
        assert restarted.row(adopted.id).quantity == 3
        assert not _differences(restarted)


async def test_what_an_index_option_paid_at_its_exercise_is_its_exit_price() -> None:
    """No shares come for it: the cash of the activity is what it was worth."""
    venue, contract = Venue(), "SPXW260320C06000000"
    async with Managed(venue, policy=PATIENT) as managed:
        position = await _open(managed, contract)
        del managed.broker.held[contract]
        for _ in range(4):
            await managed.advance(1)
        assert managed.row(position.id).status is PositionStatus.OPEN, "nothing proves what became of it"
        told = replace(_activity("OPEXC", contract, "-10"), net_amount=Decimal(12_000))
        managed.broker.all_activities.append(told)
        for _ in range(3):
            await managed.advance(1)
        row = await managed.closed(position)
        assert (row.close_reason, row.exit_price) == (CloseReason.EXERCISED, 12)
