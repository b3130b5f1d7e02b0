"""The venue's clock as an account sees it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from tests.support.fake_venue import eventually

from exitguard.broker.clock import STEPPED_TRUST, Clock, ClockReport, RealClock, SteppedClock, follow_venue_clock
from exitguard.broker.port import Broker, BrokerUnavailable
from exitguard.core.orders import VenueTime

NOW = datetime(2026, 10, 8, 14, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_a_real_clock_runs_and_takes_its_offset_from_answers_only() -> None:
    clock = RealClock()
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)
    clock.observe(clock.now() + timedelta(hours=1), authoritative=False)
    assert clock.skew == timedelta(0)
    clock.observe(clock.now() + timedelta(seconds=90), authoritative=True)
    assert abs(clock.skew - timedelta(seconds=90)) < timedelta(seconds=1)
    assert clock.now() - datetime.now(UTC) > timedelta(seconds=85)


async def test_a_real_clock_sleeps_until_venue_time() -> None:
    clock = RealClock()
    async with asyncio.timeout(60):
        await clock.sleep_until(clock.now() - MINUTE)
        moment = clock.now() + timedelta(milliseconds=20)
        await clock.sleep_until(moment)
    assert clock.now() >= moment


async def test_a_stepped_clock_moves_only_by_what_it_sees() -> None:
    clock = SteppedClock(NOW)
    order: list[str] = []

    async def wait(name: str, minutes: int) -> None:
        await clock.sleep(60 * minutes)
        order.append(name)

    tasks = [asyncio.create_task(wait(*who)) for who in [("three", 3), ("one", 1), ("two", 2), ("five", 5)]]
    await asyncio.sleep(0)
    clock.observe(NOW + 3 * MINUTE, authoritative=True)
    await asyncio.gather(*tasks[:3])
    assert order == ["one", "two", "three"]
    assert not tasks[3].done()
    clock.observe(NOW, authoritative=True)
    assert clock.now() == NOW + 3 * MINUTE, "never backwards"
    tasks[3].cancel()
    clock.observe(NOW + 6 * MINUTE, authoritative=True)
    assert clock.now() == NOW + 6 * MINUTE


def test_f107_a_wild_market_timestamp_does_not_fast_forward_the_day() -> None:
    clock = SteppedClock(NOW)
    clock.observe(NOW + STEPPED_TRUST, authoritative=False)
    assert clock.now() == NOW + STEPPED_TRUST
    clock.observe(NOW + STEPPED_TRUST + timedelta(seconds=1), authoritative=False)
    assert clock.now() == NOW + STEPPED_TRUST, "trust counts from the last answer, not from the last timestamp"
    clock.observe(NOW + timedelta(days=300), authoritative=False)
    assert clock.now() == NOW + STEPPED_TRUST


class ClockBroker:
    """Answers `clock()` from a list, the last entry again and again."""

    def __init__(self, *answers: datetime | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.on_asked: Any = None

    async def clock(self) -> VenueTime:
        self.asked += 1
        if self.on_asked:
            self.on_asked()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return VenueTime(answer, True, answer, answer)


@asynccontextmanager
async def following(
    broker: ClockBroker, clock: Clock, reports: list[ClockReport], waits: list[float], **options: Any
) -> AsyncIterator[asyncio.Task[None]]:
    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    task = asyncio.create_task(follow_venue_clock(cast(Broker, broker), clock, reports.append, sleep=sleep, **options))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_stepped_clock_is_asked_all_the_time_and_taken_at_its_word() -> None:
    broker, clock = ClockBroker(NOW, NOW + MINUTE, NOW + 2 * MINUTE), SteppedClock(NOW - MINUTE)
    reports: list[ClockReport] = []
    waits: list[float] = []
    async with following(broker, clock, reports, waits):
        await eventually(lambda: len(reports) >= 3)
    assert clock.now() == NOW + 2 * MINUTE
    assert set(waits) == {0.015}
    assert {r.skew for r in reports} == {timedelta(0)}


async def test_a_real_clock_takes_the_answer_as_of_the_middle_of_the_round_trip() -> None:
    clock = RealClock(lambda: NOW)
    venue = NOW + timedelta(seconds=10)
    broker = ClockBroker(venue)
    wall = [100.0]
    broker.on_asked = lambda: wall.__setitem__(0, wall[0] + 1.0)
    reports: list[ClockReport] = []
    waits: list[float] = []
    async with following(broker, clock, reports, waits, monotonic=lambda: wall[0]):
        await eventually(lambda: len(reports) >= 1)
    assert reports[0].round_trip_seconds == pytest.approx(1.0)
    assert reports[0].skew == timedelta(seconds=10.5)
    assert waits[0] == 60.0


async def test_failures_and_late_answers_are_reported_and_change_nothing() -> None:
    clock = RealClock(lambda: NOW)
    broker = ClockBroker(BrokerUnavailable("HTTP 502"), BrokerUnavailable("HTTP 502"), NOW + MINUTE)
    wall = [0.0]

    def late() -> None:
        if broker.asked == 3:
            wall[0] += 30.0

    broker.on_asked = late
    reports: list[ClockReport] = []
    waits: list[float] = []
    async with following(broker, clock, reports, waits, monotonic=lambda: wall[0]):
        await eventually(lambda: len(reports) >= 4)
    assert [r.failures for r in reports[:4]] == [1, 2, 3, 0]
    assert reports[0].error == "HTTP 502"
    assert "30.0 s" in (reports[2].error or "")
    assert reports[2].skew == timedelta(0)
    assert reports[3].skew == MINUTE
    assert waits[:3] == [5.0, 5.0, 5.0]
