"""The venue's clock, as one account sees it. Managers and dispatchers ask it and never the machine's own."""

import asyncio
import heapq
import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

# In stepped mode a market timestamp may run ahead of the last clock answer by this much, no more: a wild quote
# must not fast-forward the day.
STEPPED_TRUST = timedelta(minutes=2)


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

    `skew` is venue minus machine; the manager raises an alarm when it grows (the machine's clock is wrong).
    """

    def __init__(self) -> None:
        self._base = datetime.now(UTC) - timedelta(seconds=time.monotonic())
        self.skew = timedelta(0)

    def now(self) -> datetime:
        """The venue's time."""
        return self._base + timedelta(seconds=time.monotonic()) + self.skew

    async def sleep_until(self, moment: datetime) -> None:
        """Sleep; re-reads the offset on waking, so that a corrected skew is honoured."""
        while (left := (moment - self.now()).total_seconds()) > 0:
            await asyncio.sleep(min(left, 30.0))

    async def sleep(self, seconds: float) -> None:
        """Sleep for a duration, which no skew can change."""
        await asyncio.sleep(seconds)

    def observe(self, venue_now: datetime, *, authoritative: bool) -> None:
        """Set the offset from a clock answer; market timestamps are ignored."""
        if authoritative:
            machine = self._base + timedelta(seconds=time.monotonic())
            self.skew = venue_now - machine


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
