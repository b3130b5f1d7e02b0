"""Every rule ends in a confirmed close of exactly the right thing, by the real manager on a fake broker."""

from datetime import timedelta
from decimal import Decimal

import pytest
from tests.support.managed import Managed, Venue

from exitguard.core.orders import OrderSide, PositionIntent
from exitguard.core.policy import Policy
from exitguard.core.records import CloseReason, CommandVerb, EventType, Outcome, PositionStatus

CALL = "AAPL260320C00150000"
PUT = "AAPL260320P00150000"
FAR_CALL = "AAPL260619C00150000"


@pytest.mark.parametrize(
    ("symbol", "side", "entry", "breach", "reason", "intent"),
    [
        ("MSFT", OrderSide.BUY, "100", "97.90", CloseReason.STOP_LOSS, PositionIntent.SELL_TO_CLOSE),
        ("MSFT", OrderSide.BUY, "100", "103.10", CloseReason.TAKE_PROFIT, PositionIntent.SELL_TO_CLOSE),
        ("MSFT", OrderSide.SELL, "100", "102.10", CloseReason.STOP_LOSS, PositionIntent.BUY_TO_CLOSE),
        ("MSFT", OrderSide.SELL, "100", "96.90", CloseReason.TAKE_PROFIT, PositionIntent.BUY_TO_CLOSE),
        (FAR_CALL, OrderSide.BUY, "5.00", "2.90", CloseReason.STOP_LOSS, PositionIntent.SELL_TO_CLOSE),
        (FAR_CALL, OrderSide.BUY, "5.00", "9.10", CloseReason.TAKE_PROFIT, PositionIntent.SELL_TO_CLOSE),
    ],
)
async def test_i9_a_breach_ends_in_one_confirmed_close(
    symbol: str, side: OrderSide, entry: str, breach: str, reason: CloseReason, intent: PositionIntent
) -> None:
    async with Managed(Venue(), policy=Policy(missing_bracket=False)) as managed:
        await managed.price(symbol, entry)
        position = await managed.enter(symbol, "4", side=side)
        await managed.advance(31)
        await managed.price(symbol, breach)
        row = await managed.closed(position)
        orders = managed.closing_orders(position)
        assert [(o.symbol, o.qty, o.position_intent) for o in orders] == [(symbol, Decimal(4), intent)]
        assert row.close_reason is reason
        history = managed.rows.history[position.id]
        assert history.exit_price == managed.broker.all_fills[-1].price  # F58: fills, never marks
        wins = reason is CloseReason.TAKE_PROFIT
        assert history.outcome is (Outcome.WIN if wins else Outcome.LOSS)
        assert managed.held(symbol) == 0


async def test_t3_f5_a_fresh_position_at_its_entry_price_is_held() -> None:
    async with Managed(Venue(), policy=Policy(missing_bracket=False, min_hold_minutes=0)) as managed:
        for symbol in ("MSFT", FAR_CALL, "AAPL260619P00150000"):
            await managed.price(symbol, "7.30")
            await managed.enter(symbol, "1", stop="150.71" if symbol == FAR_CALL else None)  # F5: underlying dollars
        await managed.advance(2)
        assert all(p.status is PositionStatus.OPEN for p in managed.rows.positions.values())
        assert managed.broker.submitted[3:] == []


async def test_f54_a_stop_is_held_back_by_the_minimum_hold_then_closes_as_a_stop() -> None:
    async with Managed(Venue(), policy=Policy(missing_bracket=False)) as managed:
        await managed.price("MSFT", "100")
        position = await managed.enter("MSFT", "5")
        await managed.advance(5)
        await managed.price("MSFT", "95")
        await managed.until(lambda: managed.events(EventType.EXIT_HELD, position.id), "exit held")
        assert managed.row(position.id).status is PositionStatus.OPEN
        for _ in range(25):
            managed.quote("MSFT", "94.99", "95.01")
            await managed.advance(1)
        row = await managed.closed(position)
        assert row.close_reason is CloseReason.STOP_LOSS
        assert len(managed.events(EventType.EXIT_HELD, position.id)) == 1  # reported once, not each quote


async def test_the_catastrophic_stop_does_not_wait_for_the_minimum_hold() -> None:
    async with Managed(Venue()) as managed:
        await managed.price(FAR_CALL, "5.00")
        position = await managed.enter(FAR_CALL, "2")
        await managed.advance(1)
        await managed.price(FAR_CALL, "2.40")
        assert (await managed.closed(position)).close_reason is CloseReason.CATASTROPHIC_STOP


async def test_t4_f55_a_trailing_stop_fires_once_at_the_kept_share() -> None:
    policy = Policy(trailing_stop=True, min_hold_minutes=0, missing_bracket=False)
    async with Managed(Venue(), policy=policy) as managed:
        await managed.price(FAR_CALL, "5.00")
        position = await managed.enter(FAR_CALL, "1")
        await managed.price(FAR_CALL, "8.10")  # +61.7 % on 5.01: 85 % of the gain must stay, that is 7.636
        await managed.price(FAR_CALL, "7.65")
        await managed.advance(1)
        assert managed.row(position.id).status is PositionStatus.OPEN
        assert managed.row(position.id).best_price == Decimal("8.10")
        await managed.price(FAR_CALL, "7.63")
        assert (await managed.closed(position)).close_reason is CloseReason.TRAILING_STOP
        assert len(managed.closing_orders(position)) == 1


async def test_f53_max_hold_closes_at_its_deadline_also_without_any_quote() -> None:
    async with Managed(Venue(), policy=Policy(missing_bracket=False)) as managed:
        await managed.price("MSFT", "100")
        position = await managed.enter("MSFT", "5", max_hold_minutes=45)
        managed.market.mute = True
        managed.broker.quotes.pop("MSFT")
        await managed.advance(44)
        assert managed.row(position.id).status is PositionStatus.OPEN
        managed.broker.quotes["MSFT"] = managed.broker.set_quote("MSFT", "99", "99.02")
        await managed.advance(1)
        assert (await managed.closed(position)).close_reason is CloseReason.MAX_HOLD_TIME


async def test_t11_a_blind_position_raises_an_alarm_and_still_obeys_time_rules() -> None:
    async with Managed(Venue(), policy=Policy(missing_bracket=False)) as managed:
        await managed.price(FAR_CALL, "5.00")
        position = await managed.enter(FAR_CALL, "1", max_hold_minutes=60)
        await managed.advance(31)
        managed.quote(FAR_CALL, "0", "0.05")  # one-sided: a price rule must not act on it
        for _ in range(3):
            await managed.advance(1)
            managed.quote(FAR_CALL, "0", "0.05")
        assert f"blind:{position.id}" in managed.rows.alarms
        assert managed.row(position.id).status is PositionStatus.OPEN
        await managed.advance(30)
        assert managed.row(position.id).status is PositionStatus.CLOSING or position.id in managed.rows.history
        await managed.price(FAR_CALL, "5.00")
        assert (await managed.closed(position)).close_reason is CloseReason.MAX_HOLD_TIME
        await managed.until(lambda: f"blind:{position.id}" not in managed.rows.alarms, "alarm cleared")


async def test_f109_day_trades_close_five_minutes_before_the_close() -> None:
    async with Managed(Venue(), policy=Policy(missing_bracket=False, max_hold_time=False)) as managed:
        await managed.price("MSFT", "100")
        day = await managed.enter("MSFT", "5", strategy="day_trade")
        await managed.price("NVDA", "100")
        swing = await managed.enter("NVDA", "5", strategy="swing")
        to_close = timedelta(hours=5, minutes=54)  # 10:00 to 15:54
        await managed.advance(to_close.total_seconds() / 60)
        assert managed.row(day.id).status is PositionStatus.OPEN
        await managed.price("MSFT", "100.50")
        await managed.advance(1)
        row = await managed.closed(day)
        assert row.close_reason is CloseReason.DAY_TRADE_CLOSE
        assert managed.row(swing.id).status is PositionStatus.OPEN


async def test_t12_f113_an_option_that_expires_within_a_day_is_closed() -> None:
    tomorrow = "AAPL260318C00150000"
    async with Managed(Venue(), policy=Policy(missing_bracket=False, max_hold_time=False)) as managed:
        await managed.price(tomorrow, "5.00")
        position = await managed.enter(tomorrow, "1")
        await managed.price(CALL, "5.00")
        later = await managed.enter(CALL, "1")
        await managed.advance(5 * 60 + 59)
        assert managed.row(position.id).status is PositionStatus.OPEN
        await managed.advance(1)
        # 16:00 to 16:00 is 24 hours: due exactly at today's close, when nothing can be sent any more (F113).
        await managed.until(lambda: managed.events(EventType.EXIT_PENDING, position.id), "exit pending")
        assert managed.row(position.id).status is PositionStatus.OPEN
        assert managed.row(later.id).status is PositionStatus.OPEN
        await managed.advance(17 * 60 + 30)  # next morning, 09:30
        await managed.price(tomorrow, "5.00")
        assert (await managed.closed(position)).close_reason is CloseReason.EXPIRATION_RISK


async def test_profit_scaling_sells_a_share_once_and_keeps_the_rest() -> None:
    policy = Policy(profit_scaling=True, min_hold_minutes=0, missing_bracket=False)
    async with Managed(Venue(), policy=policy) as managed:
        await managed.price(FAR_CALL, "5.00")
        position = await managed.enter(FAR_CALL, "5")
        await managed.price(FAR_CALL, "6.10")
        await managed.until(lambda: managed.events(EventType.REDUCED, position.id), "reduced")
        row = managed.row(position.id)
        assert (row.quantity, row.original_quantity, row.status) == (Decimal(3), Decimal(5), PositionStatus.OPEN)
        await managed.price(FAR_CALL, "6.20")
        await managed.advance(1)
        assert [o.qty for o in managed.closing_orders(position)] == [Decimal(2)]
        await managed.price(FAR_CALL, "2.00")
        await managed.closed(position)
        assert [o.qty for o in managed.closing_orders(position)] == [Decimal(2), Decimal(3)]


async def test_a_person_closes_one_position_or_all_of_them() -> None:
    async with Managed(Venue(), policy=Policy(missing_bracket=False)) as managed:
        positions = []
        for symbol in ("MSFT", "NVDA", FAR_CALL):
            await managed.price(symbol, "20")
            positions.append(await managed.enter(symbol, "3"))
        command = managed.command(position_id=positions[1].id)
        assert (await managed.closed(positions[1])).close_reason is CloseReason.MANUAL_CLOSE
        await managed.until(lambda: managed.rows.commands[command].ok is not None, "answer")
        assert managed.rows.commands[command].ok
        kill = managed.command(CommandVerb.KILL_SWITCH)
        for position in (positions[0], positions[2]):
            assert (await managed.closed(position)).close_reason is CloseReason.KILL_SWITCH
        await managed.until(lambda: managed.rows.commands[kill].ok is not None, "answer")
        nothing = managed.command(position_id=99)
        await managed.until(lambda: managed.rows.commands[nothing].ok is False, "refusal")
