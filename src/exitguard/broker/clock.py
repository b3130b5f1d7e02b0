"""The venue's clock, as one account sees it. Managers and dispatchers ask it and never the machine's own."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog

from exitguard.broker.port import Broker, BrokerError

# In stepped mode a market timestamp may run ahead of the last clock answer by this much, no more: a wild quote
# must not fast-forward the day.
STEPPED_TRUST = timedelta(minutes=2)
REAL_POLL_SECONDS = 60.0
STEPPED_POLL_SECONDS = 0.015
# A clock answer that took longer than this says too little about what time it was, in seconds.
MAX_ROUND_TRIP = 2.0

log = structlog.get_logger()


class Clock(Protocol):
    """Time for everything that decides."""

    def now(self) -> datetime:
        """The venue's time, aware, UTC."""
        ...

    async def sleep_until(self, moment: datetime) -> None:
        """Return when the venue's time has reached `moment`."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` of venue time pass."""
        ...

    def observe(self, venue_now: datetime, *, authoritative: bool) -> None:
        """Learn the venue's time from an answer (authoritative) or from a market timestamp."""
        ...


class RealClock:
    """A venue that lives in real time: the machine's monotonic clock plus the venue's offset.

    `skew` is venue minus machine; the manager raises an alarm when it grows (the machine's clock is wrong). `machine`
    tells the machine's time, and is replaced in simulations.
    """

    def __init__(self, machine: Callable[[], datetime] | None = None) -> None:
        base = datetime.now(UTC) - timedelta(seconds=time.monotonic())
        self._machine = machine or (lambda: base + timedelta(seconds=time.monotonic()))
        self.skew = timedelta(0)

    def now(self) -> datetime:
        """The venue's time."""
        return self._machine() + self.skew

    async def sleep_until(self, moment: datetime) -> None:
        """Sleep; re-reads the offset on waking, so that a corrected skew is honoured."""
        while (left := (moment - self.now()).total_seconds()) > 0:  # noqa: ASYNC110 - the offset moves while it sleeps
            await asyncio.sleep(min(left, 30.0))

    async def sleep(self, seconds: float) -> None:
        """Sleep for a duration, which no skew can change."""
        await asyncio.sleep(seconds)

    def observe(self, venue_now: datetime, *, authoritative: bool) -> None:
        """Set the offset from a clock answer; market timestamps are ignored."""
        if authoritative:
            self.skew = venue_now - self._machine()


class SteppedClock:
    """A venue whose time is moved from outside (replay, demo, tests): time passes only when it is observed."""

    def __init__(self, start: datetime) -> None:
        self._now = start
        self._authority = start
        self._order = itertools.count()
        self._waiters: list[tuple[datetime, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """The latest venue time observed."""
        return self._now

    async def sleep_until(self, moment: datetime) -> None:
        """Wait for the venue to be observed at `moment` or later."""
        if moment <= self._now:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiters, (moment, next(self._order), future))
        await future

    async def sleep(self, seconds: float) -> None:
        """Wait for venue time to pass."""
        await self.sleep_until(self._now + timedelta(seconds=seconds))

    def observe(self, venue_now: datetime, *, authoritative: bool) -> None:
        """Move on; never backwards. A market timestamp is trusted up to STEPPED_TRUST beyond the last answer."""
        if authoritative:
            self._authority = max(self._authority, venue_now)
        elif venue_now > self._authority + STEPPED_TRUST:
            return
        if venue_now <= self._now:
            return
        self._now = venue_now
        while self._waiters and self._waiters[0][0] <= venue_now:
            _, _, future = heapq.heappop(self._waiters)
            if not future.done():
                future.set_result(None)


@dataclass(frozen=True, slots=True)
class ClockReport:
    """One look at the venue's clock: `skew` is venue minus machine for a real clock, zero for a stepped one.

    `error` is set when the venue gave no usable answer; `failures` counts those in a row.
    """

    skew: timedelta
    round_trip_seconds: float
    failures: int = 0
    error: str | None = None


async def follow_venue_clock(
    broker: Broker,
    clock: Clock,
    on_report: Callable[[ClockReport], None] | None = None,
    *,
    poll_seconds: float | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Keep `clock` at the venue's time, until cancelled.

    A real clock is asked every 60 s and takes the answer as of the middle of the round trip; a stepped one about
    every 15 ms of machine time. Failures are reported and never end it; after one it asks again within 5 s.
    """
    real = clock if isinstance(clock, RealClock) else None
    period = poll_seconds or (REAL_POLL_SECONDS if real else STEPPED_POLL_SECONDS)
    failures = 0
    while True:
        started = monotonic()
        error = None
        try:
            venue = await broker.clock()
        except BrokerError as failure:
            error = str(failure)
        round_trip = monotonic() - started
        if error is None and real is not None and round_trip > MAX_ROUND_TRIP:
            error = f"the venue's clock answered after {round_trip:.1f} s, too late to be of use"
        if error is None:
            failures = 0
            middle = timedelta(seconds=round_trip / 2) if real else timedelta(0)
            clock.observe(venue.now + middle, authoritative=True)
        else:
            failures += 1
            if failures == 1:
                log.warning("Venue clock unavailable", reason=error)
        if on_report is not None:
            on_report(ClockReport(real.skew if real else timedelta(0), round_trip, failures, error))
        await sleep(min(period, 5.0) if error else period)
