"""Watches that the account's loops make progress and that what they make is plausible (F20, F98, I7).

It looks every second, and shows what it saw in `Vitals`, which the health endpoint and the metrics read. An event loop
that stands still stops the looks too: then their age tells.
"""

import asyncio
import time
from collections import Counter, deque
from datetime import datetime, timedelta

from exitguard.broker.clock import RealClock
from exitguard.core.records import PositionStatus
from exitguard.manager.context import AccountContext
from exitguard.manager.pieces import in_pieces

PATIENCE = 5
_MINUTE = timedelta(minutes=1)
_MOST_NAMED = 10
_RESTART = "look at the log of this process, and restart it if it says nothing"
_DATABASE = "bring the database back; until then this process goes on from its journal, do not restart it"


class Watchdog:
    """Raises and clears the alarms of one account that no single position can tell of."""

    def __init__(self, context: AccountContext) -> None:
        self._context = context
        self._started = context.clock.now()
        self._due: Counter[str] = Counter()
        # (venue time, number of the next position) of the last minute and once before, oldest first.
        self._numbers: deque[tuple[datetime, int]] = deque([(self._started, context.next_position_id)])
        self._first_number = context.next_position_id
        self._first_seen: dict[int, datetime] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._context.options.limits.look_seconds)

    async def look(self) -> None:
        """One look at everything."""
        now = self._context.clock.now()
        self._silences(now)
        await self._stale(now)
        self._skew(now)
        self._creations(now)
        self._show(now)

    # Silence ------------------------------------------------------------------------------------------------------

    def _silences(self, now: datetime) -> None:
        context, limits, progress = self._context, self._context.options.limits, self._context.progress
        self._silence("sweeps", progress.swept_at, limits.sweep_silence, now, "no sweep was completed")
        if not context.options.stepped:  # there a poll belongs to each sweep
            self._silence(
                "polls", progress.poll_ended_at, limits.poll_silence, now, "no look at the broker came to an end"
            )
        self._silence(
            "ledger", progress.beaten_at, limits.ledger_silence, now, "no heartbeat reached the database", _DATABASE
        )

    def _silence(
        self, name: str, last: datetime | None, limit: timedelta, now: datetime, what: str, remedy: str = _RESTART
    ) -> None:
        since = last or self._started
        self._tell(
            f"silence:{name}",
            "silence",
            now - since > limit,
            f"{what} since {since:%H:%M:%S} UTC: {remedy}",
            now,
        )

    def _tell(self, key: str, kind: str, holds: bool, message: str, now: datetime) -> None:
        """Raise what has held for a few looks, clear what does not hold."""
        if not holds:
            del self._due[key]
            self._context.alarms.clear(key, now)
            return
        self._due[key] += 1
        if self._due[key] >= PATIENCE:
            self._context.alarms.raise_alarm(key, kind, message, now)

    # Positions ----------------------------------------------------------------------------------------------------

    async def _stale(self, now: datetime) -> None:
        """Every open position is evaluated within its bound, or this is an alarm (I7)."""
        positions = self._context.positions
        limit = self._context.options.limits.stale
        first_seen: dict[int, datetime] = {}
        late: list[str] = []
        async for piece in in_pieces(list(positions.items())):
            for number, tracked in piece:
                since = first_seen[number] = self._first_seen.get(number, now)
                checked = tracked.record.last_checked_at or self._started
                if now - max(checked, since) > limit and tracked.holding.qty > 0:
                    late.append(tracked.record.symbol)
        self._first_seen = first_seen
        named = ", ".join(late[:_MOST_NAMED]) + (", …" if len(late) > _MOST_NAMED else "")
        seconds = limit.total_seconds()
        message = f"{len(late)} positions were not evaluated for {seconds:.0f} s: {named}; watch them by hand"
        self._tell("stale_marks", "stale_marks", bool(late), message, now)

    def _skew(self, now: datetime) -> None:
        """The machine's clock and the venue's disagree; decisions follow the venue's."""
        clock, limit = self._context.clock, self._context.options.skew_alarm
        skew = clock.skew if isinstance(clock, RealClock) else timedelta(0)
        message = (
            f"this machine's clock is {-skew.total_seconds():+.1f} s off the venue's: set it (NTP);"
            ' an exchange with a time of its own needs clock = "stepped" in the settings'
        )
        self._tell("clock_skew", "clock_skew", abs(skew) > limit, message, now)

    def _creations(self, now: datetime) -> None:
        """Positions that multiply are a defect or an attack, never trading (F20)."""
        context, limit = self._context, self._context.options.limits.creations_a_minute
        self._numbers.append((now, context.next_position_id))
        while len(self._numbers) > 1 and now - self._numbers[1][0] >= _MINUTE:
            self._numbers.popleft()
        created = context.next_position_id - self._numbers[0][1]
        key = "rapid_creation"
        if created > limit:
            message = (
                f"{created} positions were created within a minute, {limit} are plausible: compare with the broker"
                " (exitguard sync), and stop whatever enters"
            )
            context.alarms.raise_alarm(key, key, message, now, created=created)
        elif key in context.alarms.active:
            context.alarms.clear(key, now)

    # Showing ------------------------------------------------------------------------------------------------------

    def _show(self, now: datetime) -> None:
        context, vitals, progress = self._context, self._context.options.vitals, self._context.progress
        positions = list(context.positions.values())
        vitals.broker_account_number = context.account_number
        vitals.open_positions = sum(1 for each in positions if each.record.status is PositionStatus.OPEN)
        vitals.closing_positions = sum(1 for each in positions if each.is_closing)
        vitals.protection = dict(Counter(each.record.protection.value for each in positions))
        vitals.alarms = tuple(sorted(context.alarms.active))
        vitals.alarm_kinds = dict(context.alarms.kinds)
        vitals.stream_up = context.stream_up
        vitals.sweep_age = (now - (progress.swept_at or self._started)).total_seconds()
        vitals.poll_age = (now - (progress.polled_at or self._started)).total_seconds()
        vitals.heartbeat_age = (now - (progress.beaten_at or self._started)).total_seconds()
        vitals.clock_skew = context.clock.skew.total_seconds() if isinstance(context.clock, RealClock) else 0.0
        vitals.refused_changes = context.ledger.refused
        vitals.positions_created = context.next_position_id - self._first_number
        vitals.looked_at = time.monotonic()
