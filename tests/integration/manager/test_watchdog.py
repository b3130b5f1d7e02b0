"""The watchdog: what makes no progress, or makes too much of it, is an alarm with its own threshold (F20, F98, I7)."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support.managed import Managed, Venue

from exitguard.broker.clock import RealClock
from exitguard.core.orders import OrderSide
from exitguard.core.policy import Policy
from exitguard.manager.vitals import WatchLimits

POLICY = Policy(missing_bracket=False, min_hold_minutes=0)
QUICK = WatchLimits(creations_a_minute=3, look_seconds=0.01)


def watched(venue: Venue, journal: Path | None = None, *, real_clock: bool = False) -> Managed:
    managed = Managed(venue, policy=POLICY, journal=journal, real_clock=real_clock)
    managed.options = replace(managed.options, limits=QUICK, skew_alarm=timedelta(seconds=2))
    return managed


async def raised(managed: Managed, key: str) -> None:
    await managed.until(lambda: key in managed.rows.alarms, f"alarm {key}")
    await managed.until(lambda: key in managed.options.vitals.alarms, f"{key} among the vitals")


async def cleared(managed: Managed, key: str) -> None:
    await managed.until(lambda: key not in managed.rows.alarms, f"no alarm {key}")
    await managed.until(lambda: key not in managed.options.vitals.alarms, f"{key} gone from the vitals")


async def test_f98_sweeps_that_hang_are_alarms_of_silence_and_of_stale_positions() -> None:
    """A sweep that hangs behind a database that takes its marks and never answers."""
    async with watched(Venue()) as managed:
        await managed.price("AAPL", "100")
        await managed.enter("AAPL")
        await managed.advance(1)
        write_marks, free, hangs = managed.store.write_marks, asyncio.Event(), asyncio.Event()

        async def hanging(marks, epoch):  # type: ignore[no-untyped-def]
            hangs.set()
            await free.wait()
            return await write_marks(marks, epoch)

        managed.store.write_marks = hanging  # type: ignore[method-assign]
        for minutes in (1, 7):
            managed.venue.time += timedelta(minutes=minutes)
            managed.clock.observe(managed.venue.time, authoritative=True)
            await managed.until(hangs.is_set, "the sweep hangs")
        await raised(managed, "silence:sweeps")
        assert managed.options.vitals.silent
        await raised(managed, "stale_marks")
        assert "AAPL" in managed.rows.alarms["stale_marks"].message
        free.set()
        await cleared(managed, "silence:sweeps")
        await cleared(managed, "stale_marks")


async def test_f98_a_ledger_that_gets_no_heartbeat_is_an_alarm_also_while_it_is_away(tmp_path: Path) -> None:
    async with watched(Venue(), tmp_path) as managed:
        managed.store.away = True
        for _ in range(4):
            managed.venue.time += timedelta(minutes=1)
            managed.clock.observe(managed.venue.time, authoritative=True)
        vitals = managed.options.vitals
        await managed.until(lambda: "silence:ledger" in vitals.alarms, "the process shows it")
        managed.store.away = False
        await raised(managed, "silence:ledger")
        managed.venue.time += timedelta(minutes=1)
        managed.clock.observe(managed.venue.time, authoritative=True)
        await cleared(managed, "silence:ledger")


async def test_a_broker_that_is_not_heard_over_rest_is_an_alarm() -> None:
    venue = Venue()
    async with watched(venue, real_clock=True) as managed:
        free, positions = asyncio.Event(), managed.broker.positions

        async def hanging(*arguments, **named):  # type: ignore[no-untyped-def]
            await free.wait()
            return await positions(*arguments, **named)

        managed.broker.positions = hanging  # type: ignore[method-assign]
        managed.options.vitals.looked_at = None
        assert isinstance(managed.clock, RealClock)
        managed.clock.skew += timedelta(seconds=QUICK.poll_silence.total_seconds() + 1)
        await raised(managed, "silence:polls")
        free.set()
        await cleared(managed, "silence:polls")


async def test_f20_positions_that_multiply_are_an_alarm() -> None:
    async with watched(Venue()) as managed:
        for number in range(QUICK.creations_a_minute):
            managed.broker.external_order(f"A{chr(65 + number)}", OrderSide.BUY, "1", "10")
        await managed.advance(1)
        await managed.until(lambda: len(managed.rows.positions) == QUICK.creations_a_minute, "three positions")
        assert "rapid_creation" not in managed.rows.alarms
        for number in range(QUICK.creations_a_minute + 1):
            managed.broker.external_order(f"B{chr(65 + number)}", OrderSide.BUY, "1", "10")
        await managed.advance(2)
        await raised(managed, "rapid_creation")
        assert managed.options.vitals.positions_created >= 4
        await managed.advance(2)
        await cleared(managed, "rapid_creation")


async def test_a_clock_that_differs_from_the_venues_is_an_alarm_with_its_own_threshold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    venue = Venue()
    managed = watched(venue, real_clock=True)
    managed.options = replace(managed.options, skew_alarm=timedelta(days=100_000))
    async with managed:
        await managed.until(lambda: managed.options.vitals.looked_at is not None, "a look")
        assert "clock_skew" not in managed.options.vitals.alarms
    skewed = watched(Venue(), real_clock=True)
    async with skewed:
        await raised(skewed, "clock_skew")
        assert abs(skewed.options.vitals.clock_skew) > 2
