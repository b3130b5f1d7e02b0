"""Failures of the predecessor's books, prices and alarms that the whole manager has to make impossible or loud."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from tests.support.managed import OPENING, Managed, Venue

from exitguard.broker.port import StreamDown, Tick
from exitguard.core.orders import OrderSide
from exitguard.core.policy import CloseStyle, Policy
from exitguard.core.records import CloseReason, EventType, PositionStatus, Protection

CALL = "AAPL260619C00150000"
POLICY = Policy(missing_bracket=False, min_hold_minutes=0, option_close_style=CloseStyle.MARKET)


async def test_t9_f22_f23_a_position_that_vanished_without_evidence_is_never_booked_closed() -> None:
    """Phantom rows were closed at a price of nothing, or stayed because their clean-up had never run."""
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        await managed.price("MSFT", "100")
        other = await managed.enter("MSFT", "5")
        await managed.advance(1)
        fills, activities = list(managed.broker.all_fills), list(managed.broker.all_activities)
        managed.trades.mute = True
        managed.broker.external_order(CALL, OrderSide.SELL, "10", "5.50")
        sold = managed.broker.all_fills[-1]
        orders = dict(managed.broker.orders)
        # The broker shows neither the position nor why: its records come late.
        managed.broker.all_fills[:], managed.broker.all_activities[:] = fills, activities
        for order in [each for each in orders.values() if each.id == sold.order_id]:
            del managed.broker.orders[order.id]
        for _ in range(6):
            await managed.advance(1)
        row = managed.row(position.id)
        assert (row.status, row.quantity) == (PositionStatus.OPEN, Decimal(10))
        assert position.id not in managed.rows.history
        assert f"unexplained:{position.id}" in managed.rows.alarms
        assert managed.closing_orders(position) == []  # nothing is sent for what the broker does not hold
        managed.broker.orders.update(orders)
        managed.broker.all_fills.append(sold)
        for _ in range(4):
            await managed.advance(1)
        row = await managed.closed(position)
        assert row.close_reason is CloseReason.EXTERNAL_CLOSE
        assert managed.rows.history[position.id].exit_price == Decimal("5.50")
        assert managed.row(other.id).status is PositionStatus.OPEN
        await managed.until(lambda: f"unexplained:{position.id}" not in managed.rows.alarms, "alarm cleared")


async def test_f31_f135_a_position_keeps_the_execution_and_the_strategy_that_it_came_from() -> None:
    """Names that did not match broke the link, and what had led to a trade was lost."""
    venue = Venue()
    async with Managed(venue, policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "2", strategy="gap_fade")
        (execution,) = managed.rows.executions.values()
        assert (position.execution_id, position.strategy_type) == (execution.execution_id, "gap_fade")
        assert not position.adopted
        managed.broker.external_order("NVDA", OrderSide.BUY, "7", "90")
        await managed.advance(1)
        await managed.until(lambda: len(managed.rows.positions) == 2, "the other is adopted")
        created, adopted = managed.events(EventType.CREATED), managed.events(EventType.ADOPTED)
        assert [event.position_id for event in created] == [position.id]  # by link
        assert len(adopted) == 1  # by comparison with the broker
        managed.command(position_id=position.id)
        await managed.closed(position)
        history = managed.rows.history[position.id]
        assert (history.execution_id, history.strategy_type) == (execution.execution_id, "gap_fade")


async def test_f139_history_says_which_account_build_and_policy_made_it() -> None:
    async with Managed(Venue(), "tiny", POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "2")
        managed.command(position_id=position.id)
        await managed.closed(position)
        history = managed.rows.history[position.id]
        assert (history.account_name, history.build) == ("tiny", "test")
        assert history.policy_hash


async def test_t11_f102_a_quote_that_is_old_when_it_arrives_moves_nothing() -> None:
    """Prices of three days ago were computed anew and stamped as fresh: what counts is the market's own time."""
    venue = Venue()
    async with Managed(venue, policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        await managed.advance(3)
        age = timedelta(seconds=POLICY.max_quote_age_seconds + 1)
        at = int((venue.time - age).timestamp()) * 1_000_000_000
        managed.broker.match = lambda symbol: None  # type: ignore[method-assign]
        managed.market.push(Tick(CALL, 0.49, 0.51, 10, 10, at))  # newer than what we have, and a loss of 90 %
        await managed.market.delivered()
        await managed.advance(1)
        row = managed.row(position.id)
        assert (row.status, row.protection) == (PositionStatus.OPEN, Protection.BLIND)
        assert managed.closing_orders(position) == []
        assert row.current_price != Decimal("0.50")


async def test_f49_a_lasting_difference_to_the_brokers_mark_is_an_alarm() -> None:
    """The broker said +130 % where the ledger said +22 %; it was called fixed twice and never compared."""
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        positions, wrong = managed.broker.positions, [True]

        async def listed():  # type: ignore[no-untyped-def]
            return [replace(row, current_price=Decimal("6.80")) if wrong[0] else row for row in await positions()]

        managed.broker.positions = listed  # type: ignore[method-assign]
        key = f"divergence:{position.id}"
        for minute in range(5):
            await managed.price(CALL, "5.00")
            await managed.advance(1)
            if minute == 0:
                assert key not in managed.rows.alarms  # one answer may be late
        await managed.until(lambda: key in managed.rows.alarms, "a person is told")
        assert managed.row(position.id).status is PositionStatus.OPEN  # told, and not acted upon
        wrong[0] = False
        await managed.price(CALL, "5.00")
        await managed.advance(1)
        await managed.until(lambda: key not in managed.rows.alarms, "alarm cleared")


async def test_f141_what_lasts_is_told_once_and_again_only_after_it_had_ended() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        key = f"blind:{position.id}"

        def told() -> int:
            return sum(1 for event in managed.events(EventType.ALARM_RAISED) if event.position_id == position.id)

        for expected in (1, 2):
            for _ in range(8):
                managed.quote(CALL, "0", "5.01")
                await managed.advance(1)
            await managed.until(lambda: key in managed.rows.alarms, "alarm")
            assert told() == expected
            await managed.price(CALL, "5.00")
            await managed.advance(1)
            await managed.until(lambda: key not in managed.rows.alarms, "alarm cleared")


@pytest.mark.parametrize(("silent", "alarm"), [("trade stream", "trade_stream"), ("quotes", "blind:")])
async def test_f98_a_part_that_has_fallen_silent_is_an_alarm_while_the_process_runs(silent: str, alarm: str) -> None:
    """The task was RUNNING for 100 minutes while nothing happened in it."""
    venue = Venue(OPENING)
    async with Managed(venue, policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        await managed.enter(CALL, "10")
        if silent == "trade stream":
            managed.trades.drop()
        else:
            managed.market.mute = True
            managed.market.push(StreamDown("connection lost"))
            managed.broker.quotes.pop(CALL)
        for _ in range(4):
            await managed.advance(1)
        await managed.until(lambda: any(key.startswith(alarm) for key in managed.rows.alarms), "a person is told")


async def test_f104_quotes_that_come_once_a_minute_leave_nobody_blind() -> None:
    """Limits of freshness were tighter than the rhythm of what they watched, so that nothing was ever fresh."""
    async with Managed(Venue()) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "2", max_hold_minutes=600)
        managed.market.mute = True  # no stream: one quote a minute, over REST
        for _ in range(10):
            managed.quote(CALL, "4.99", "5.01")
            await managed.advance(1)
            row = managed.row(position.id)
            assert row.protection is Protection.PROTECTED
            assert row.last_checked_at == managed.venue.time
        assert not managed.rows.alarms
