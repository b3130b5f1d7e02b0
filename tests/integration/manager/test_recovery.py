"""A manager that dies anywhere, streams that break, and positions nobody told us of."""

import asyncio
from datetime import timedelta
from decimal import Decimal

import pytest
from tests.support.fake_broker import Wire
from tests.support.managed import OPENING, Managed, Venue

from exitguard.broker.port import StreamDown, StreamUp
from exitguard.core.orders import OrderSide
from exitguard.core.policy import CloseStyle, Policy
from exitguard.core.records import Batch, CloseReason, EventType, PositionStatus, PutIntent
from exitguard.manager.armer import Armer
from exitguard.store.port import AccountMismatch, LeaseHeld, StoreUnavailable

CALL = "AAPL260619C00150000"
POLICY = Policy(missing_bracket=False, min_hold_minutes=0, option_close_style=CloseStyle.MARKET)


class Crash(BaseException):
    """kill -9 in the middle of a commit."""


@pytest.mark.parametrize("sent", [False, True], ids=["before the order", "after the order"])
async def test_t7_f33_a_crash_around_the_send_never_makes_a_second_order(sent: bool) -> None:
    venue = Venue()
    managed = Managed(venue, policy=POLICY)
    managed.start()
    await managed.caught_up()
    await managed.price(CALL, "5.00")
    position = await managed.enter(CALL, "10")
    managed.broker.match = lambda symbol: None  # type: ignore[method-assign]  # the order rests
    submit = managed.broker.submit

    async def dying(request, priority=None):  # type: ignore[no-untyped-def]
        if sent:
            await submit(request)
        raise Crash

    managed.broker.submit = dying  # type: ignore[method-assign]
    await managed.price(CALL, "2.50")
    assert managed.task is not None
    with pytest.raises(BaseException):  # noqa: B017, PT011 - however the runtime reports the crash
        await managed.task
    await managed.kill()
    managed.broker.submit = submit  # type: ignore[method-assign]
    del managed.broker.match
    async with Managed(venue, policy=POLICY) as restarted:
        await restarted.price(CALL, "2.50")
        row = await restarted.closed(position)
        assert row.close_reason is CloseReason.CATASTROPHIC_STOP
        ids = [o.client_order_id for o in restarted.closing_orders(position)]
        assert len(set(ids)) == 1
        assert restarted.held(CALL) == 0


async def test_a_crash_while_the_intent_is_written_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a close that could not be armed before its breach."""

    async def never(_: Armer) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Armer, "follow", never)
    venue = Venue()
    managed = Managed(venue, policy=POLICY)
    managed.start()
    await managed.caught_up()
    await managed.price(CALL, "5.00")
    position = await managed.enter(CALL, "10")

    def die(batch: Batch) -> None:
        if any(isinstance(operation, PutIntent) for operation in batch.operations):
            raise Crash

    managed.store.surely_leased = lambda: False  # type: ignore[method-assign]  # the intent is written first
    managed.store.on_commit = die
    await managed.price(CALL, "2.50")
    assert managed.task is not None
    with pytest.raises(BaseException):  # noqa: B017, PT011
        await managed.task
    assert managed.closing_orders(position) == []  # I3
    await managed.kill()
    async with Managed(venue, policy=POLICY) as restarted:
        await restarted.price(CALL, "2.50")
        await restarted.closed(position)
        assert len(restarted.closing_orders(position)) == 1


async def test_f21_a_restart_goes_on_with_a_close_and_remembers_the_peak() -> None:
    venue = Venue()
    policy = Policy(trailing_stop=True, min_hold_minutes=0, missing_bracket=False)
    managed = Managed(venue, policy=policy)
    managed.start()
    await managed.caught_up()
    await managed.price(CALL, "5.00")
    position = await managed.enter(CALL, "1")
    await managed.price(CALL, "8.10")
    await managed.price(CALL, "7.80")
    await managed.advance(1)
    await managed.kill()
    async with Managed(venue, policy=policy) as restarted:
        await restarted.price(CALL, "7.60")
        assert (await restarted.closed(position)).close_reason is CloseReason.TRAILING_STOP


async def test_f45_a_lost_stream_is_repaired_over_rest_and_duplicates_do_nothing() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        managed.trades.drop()
        managed.broker.external_order(CALL, OrderSide.SELL, "4", "5.50")  # nobody heard of it
        managed.trades.restore()
        await managed.until(lambda: managed.row(position.id).quantity == 6, "missed fill folded")
        fills = len(managed.rows.fills)
        await managed.advance(3)
        assert len(managed.rows.fills) == fills
        assert managed.row(position.id).quantity == 6


async def test_t9_f8_f24_a_manual_close_at_the_broker_is_booked_with_its_fill() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        managed.trades.mute = True
        managed.broker.external_order(CALL, OrderSide.SELL, "10", "5.50")
        await managed.advance(1)
        row = await managed.closed(position)
        assert row.close_reason is CloseReason.EXTERNAL_CLOSE
        assert managed.rows.history[position.id].exit_price == Decimal("5.50")
        assert managed.closing_orders(position) == []


async def test_t9_f32_a_position_nobody_told_us_of_is_adopted_with_its_true_entry_time() -> None:
    venue = Venue()
    broker = venue.broker("large")
    venue.time = OPENING - timedelta(minutes=50)
    broker.external_order("NVDA", OrderSide.BUY, "7", "90")
    venue.time = OPENING
    broker.set_quote("NVDA", "90", "90.02")
    async with Managed(venue, policy=POLICY) as managed:
        await managed.until(lambda: bool(managed.rows.positions), "adopted")
        (row,) = managed.rows.positions.values()
        assert row.adopted
        assert (row.symbol, row.quantity, row.entry_price) == ("NVDA", Decimal(7), Decimal(90))
        assert row.entry_time == OPENING - timedelta(minutes=50)
        assert managed.events(EventType.ADOPTED)


async def test_f38_a_late_copy_of_our_closing_fill_opens_nothing() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        copies = []
        managed.broker.update_sinks.append(copies.append)
        await managed.price(CALL, "2.50")
        await managed.closed(position)
        for update in copies:
            managed.trades.push(update)
        await managed.advance(3)
        assert len(managed.rows.positions) == 1
        assert len(managed.rows.history) == 1


async def test_t9_f142_i11_a_failed_or_empty_answer_never_empties_the_book() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        symbols = [f"AAPL260619C00{strike}000" for strike in range(150, 156)]
        for symbol in symbols:
            await managed.price(symbol, "5.00")
            await managed.enter(symbol, "1")
        held = dict(managed.broker.held)
        managed.broker.held.clear()  # an empty answer
        for _ in range(5):
            await managed.advance(1)
        assert all(p.status is PositionStatus.OPEN for p in managed.rows.positions.values())
        assert "mass_change" in managed.rows.alarms
        managed.broker.held.update(held)
        await managed.advance(1)
        assert "mass_change" not in managed.rows.alarms


async def test_t1_f25_two_accounts_with_the_same_contract_never_touch_each_other() -> None:
    venue = Venue()
    loose = Policy(missing_bracket=False, min_hold_minutes=0, max_hold_time=False)
    async with Managed(venue, "large", POLICY) as large, Managed(venue, "tiny", loose) as tiny:
        for managed in (large, tiny):
            await managed.price(CALL, "5.00")
        big = await large.enter(CALL, "10")
        small = await tiny.enter(CALL, "1")
        large.command(position_id=big.id)
        await large.closed(big)
        assert tiny.row(small.id).status is PositionStatus.OPEN
        assert (large.held(CALL), tiny.held(CALL)) == (Decimal(0), Decimal(1))
        assert all("large" in o.client_order_id for o in large.broker.submitted)
        assert all("tiny" in o.client_order_id for o in tiny.broker.submitted)


async def test_t2_f46_a_call_and_a_short_stock_of_one_underlying_are_two_positions() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        await managed.price("AAPL", "150")
        call = await managed.enter(CALL, "2")
        stock = await managed.enter("AAPL", "8", side=OrderSide.SELL)
        managed.command(position_id=call.id)
        await managed.closed(call)
        assert managed.row(stock.id).status is PositionStatus.OPEN
        assert managed.held("AAPL") == -8


async def test_f27_wrong_keys_and_a_second_start_are_refused() -> None:
    venue = Venue()
    with pytest.raises(AccountMismatch, match="PA-large"):
        await Managed(venue, expected_number="PA-other").start()
    async with Managed(venue):
        with pytest.raises(LeaseHeld):
            await Managed(venue).start()
    venue.brokers["large"].account_number = "PA-swapped"
    with pytest.raises(AccountMismatch):
        await Managed(venue).start()


async def test_a_ledger_that_is_away_for_a_moment_loses_nothing() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        managed.store.failures_after.extend([StoreUnavailable("connection lost")] * 2)
        managed.broker.next_submits(Wire.HONEST)
        await managed.price(CALL, "2.50")
        await managed.closed(position)
        assert len(managed.closing_orders(position)) == 1
        triggered = managed.events(EventType.EXIT_TRIGGERED, position.id)
        assert len(triggered) == 1  # a batch whose fate was unknown is repeated under its own id


async def test_stream_messages_that_cannot_be_read_are_kept_and_do_no_harm() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        managed.trades.push(StreamDown("test"))
        managed.trades.push(StreamUp(0.0))
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "1")
        await managed.advance(1)
        assert managed.row(position.id).status is PositionStatus.OPEN


async def test_run_mode_once_does_one_cycle_and_ends() -> None:
    venue = Venue()
    async with Managed(venue, policy=POLICY) as first:
        await first.price(CALL, "5.00")
        position = await first.enter(CALL, "3")
        await first.advance(1)
    venue.time += timedelta(minutes=1)
    venue.broker("large").set_quote(CALL, "2.00", "2.02")
    once = Managed(venue, policy=POLICY, once=True)
    await once.start()
    assert once.row(position.id).status is PositionStatus.CLOSED
    assert once.held(CALL) == 0
