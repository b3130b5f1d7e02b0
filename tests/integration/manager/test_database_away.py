"""The database goes away while positions are open: exits go on, and the ledger catches up later."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from tests.support.managed import OPENING, Managed, Venue

from exitguard.broker.clock import SteppedClock
from exitguard.core.orders import OrderSide
from exitguard.core.policy import CloseStyle, Policy
from exitguard.core.records import CloseReason, EventType, PositionStatus
from exitguard.store.port import StoreRejected, StoreUnavailable

CALL = "AAPL260619C00150000"
POLICY = Policy(missing_bracket=False, min_hold_minutes=0, option_close_style=CloseStyle.MARKET)
# Ends within the test, and is long enough that a busy machine does not stand still for as long.
SHORT_LEASE = timedelta(seconds=3)


async def _pass(managed: Managed, minutes: float = 1) -> None:
    """Let time pass; without a heartbeat to wait for, the manager is done when it sleeps until the next minute."""
    managed.venue.time += timedelta(minutes=minutes)
    managed.clock.observe(managed.venue.time, authoritative=True)
    assert isinstance(managed.clock, SteppedClock)
    waiters, until = managed.clock._waiters, managed.venue.time + timedelta(minutes=1)
    await managed.until(lambda: any(moment <= until for moment, _, _ in waiters), "the next sweep is waited for")


async def test_exits_go_on_while_the_database_is_away(tmp_path: Path) -> None:
    async with Managed(Venue(), policy=POLICY, journal=tmp_path, lease_ttl=SHORT_LEASE) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        await managed.advance(1)
        managed.store.away = True
        for _ in range(3):
            await _pass(managed)
        assert managed.journaled is not None
        assert managed.journaled._held is not None
        ends = managed.journaled._held[2]
        await managed.until(lambda: asyncio.get_running_loop().time() > ends, "the lease has ended")
        await managed.price(CALL, "2.50")
        await managed.until(lambda: managed.held(CALL) == 0, "closed at the broker")
        assert managed.row(position.id).status is PositionStatus.OPEN  # the tables cannot know yet
        for _ in range(2):
            await _pass(managed)
        managed.store.away = False
        row = await managed.closed(position)
        assert row.close_reason is CloseReason.CATASTROPHIC_STOP
        assert len(managed.closing_orders(position)) == 1
        assert len(managed.events(EventType.CLOSED, position.id)) == 1
        await managed.advance(1)
        assert len(managed.rows.history) == len(managed.rows.positions) == 1


async def test_a_position_that_appears_while_the_database_is_away_is_watched(tmp_path: Path) -> None:
    async with Managed(Venue(), policy=POLICY, journal=tmp_path) as managed:
        await managed.price("NVDA", "90")
        managed.store.away = True
        managed.broker.external_order("NVDA", OrderSide.BUY, "7", "90")
        for _ in range(4):
            await _pass(managed)
        await managed.until(lambda: "NVDA" in managed.market.watched, "quotes asked for")
        managed.store.away = False
        await managed.until(lambda: bool(managed.rows.positions), "written when the database is back")


async def test_a_close_that_cannot_be_recorded_is_recorded_later() -> None:
    """Without even a journal (disk full): what the broker did is written when the database takes it."""
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "10")
        await managed.advance(1)
        managed.store.away = True
        managed.broker.external_order(CALL, OrderSide.SELL, "10", "5.50")
        for _ in range(2):
            await _pass(managed)
        managed.store.away = False
        row = await managed.closed(position)
        assert row.close_reason is CloseReason.EXTERNAL_CLOSE
        await managed.advance(1)
        assert not managed.rows.alarms
        assert managed.rows.history[position.id].exit_price == Decimal("5.50")


@pytest.mark.parametrize("error", [StoreUnavailable("it stumbles"), StoreRejected("numeric overflow")], ids=repr)
async def test_a_sweep_that_cannot_be_written_never_ends_the_manager(error: Exception) -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "1")
        write_marks, failures = managed.store.write_marks, [error, error]

        async def failing(marks, epoch):  # type: ignore[no-untyped-def]
            if failures:
                raise failures.pop()
            return await write_marks(marks, epoch)

        managed.store.write_marks = failing  # type: ignore[method-assign]
        await _pass(managed)
        await managed.advance(1)
        managed.command(position_id=position.id)
        await managed.closed(position)
        assert not failures


async def test_f62_a_refused_history_row_leaves_no_position_closed_without_it() -> None:
    async with Managed(Venue(), policy=POLICY) as managed:
        await managed.price(CALL, "5.00")
        position = await managed.enter(CALL, "1")
        apply, broken = managed.store._apply, [True]

        def refusing(rows, operation):  # type: ignore[no-untyped-def]
            if broken[0] and type(operation).__name__ == "PutHistory":
                raise StoreRejected("position_history refuses the row")
            apply(rows, operation)

        managed.store._apply = refusing  # type: ignore[method-assign]
        await managed.price(CALL, "2.50")
        await managed.until(lambda: f"unrecorded:{position.id}" in managed.rows.alarms, "a person is told")
        assert managed.held(CALL) == 0
        assert managed.row(position.id).status is PositionStatus.CLOSING
        broken[0] = False
        await managed.advance(1)
        await managed.closed(position)
        await managed.until(lambda: not managed.rows.alarms, "alarm cleared")
        assert len(managed.events(EventType.CLOSED, position.id)) == 1
        assert managed.rows.history[position.id].closed_at >= OPENING
