"""While the faults go on: who can see must look (I7), and a breach is being closed or somebody is told (I9)."""

from datetime import datetime, timedelta
from typing import Protocol

from exitguard.core.records import PositionRecord, PositionStatus
from exitguard.core.session import SessionCalendar
from exitguard.sim.checks import Violation, overdue
from exitguard.sim.faults import Faults
from exitguard.sim.machine import Machine
from exitguard.sim.memory_store import AccountLedger, MemoryLedger
from exitguard.sim.scenario import PricePath, Scenario

LOOK_SECONDS = 20.0
# How long a manager must have had everything that it needs before it is held to its bounds.
SETTLED_IN = timedelta(minutes=4)
# Sweeps come once a minute; one may be lost to a database that fails, and the next to its journal.
CHECKED_WITHIN = timedelta(minutes=4)
# From a breach without doubt to a close under way or an alarm.
ACTED_WITHIN = timedelta(minutes=5)


class Watched(Protocol):
    """What the vigil looks at."""

    scenario: Scenario
    ledger: MemoryLedger
    faults: Faults
    calendar: SessionCalendar
    machines: list[Machine]
    paths: dict[str, PricePath]
    broker_down_until: datetime
    store_down_until: datetime
    rate_limited_until: datetime

    def now(self) -> datetime:
        """The venue's time."""
        ...

    def report(self, violation: Violation) -> None:
        """Note a violation."""
        ...


class Vigil:
    """Looks at every account now and then."""

    def __init__(self, world: Watched, clock_error: timedelta) -> None:
        self._world = world
        self._clock_error = clock_error
        self._able_since: dict[str, datetime] = {}
        self._open_since: datetime | None = None
        self._breached_since: dict[tuple[str, int], datetime] = {}
        # When a position was in the ledger for the first time: what is adopted may have been entered long before.
        self._known_since: dict[tuple[str, int], datetime] = {}

    def look(self) -> None:
        """Look once."""
        world, now = self._world, self._world.now()
        if not world.calendar.is_open(now):
            self._open_since = None
            self._breached_since.clear()
        elif self._open_since is None:
            self._open_since = now
        for account in world.scenario.accounts:
            for number in world.ledger.account(account).positions:
                self._known_since.setdefault((account, number), now)
            if not self._is_able(account, now):
                self._able_since.pop(account, None)
                continue
            if now - self._able_since.setdefault(account, now) >= SETTLED_IN:
                rows = world.ledger.account(account)
                for row in rows.positions.values():
                    if row.status is not PositionStatus.CLOSED:
                        self._check(account, rows, row, now)

    def _is_able(self, account: str, now: datetime) -> bool:
        """Whether a manager holds the account and has all that it needs."""
        world = self._world
        epoch = world.ledger.account(account).epoch
        holder = next((m for m in world.machines if m.account == account and m.epoch == epoch), None)
        if holder is None or holder.process is None or holder.process.paused or holder.disk.records:
            return False
        return now >= max(world.broker_down_until, world.store_down_until, world.rate_limited_until)

    def _check(self, account: str, rows: AccountLedger, row: PositionRecord, now: datetime) -> None:
        alarmed = any(alarm.position_id in (None, row.id) for alarm in rows.alarms.values())
        checked = row.last_checked_at or row.entry_time
        if now - checked > CHECKED_WITHIN + self._clock_error and not alarmed and self._is_known(account, row, now):
            text = f"position {row.id} ({row.symbol}) was looked at last at {checked:%H:%M:%S}, and no alarm is on"
            self._world.report(Violation("I7", account, text, (row.symbol,)))
        key = (account, row.id)
        why = overdue(row, self._world.scenario.policy, self._world.paths[row.symbol], now, self._world.scenario.start)
        acted = row.status is PositionStatus.CLOSING or alarmed
        if why is None or acted or self._open_since is None or now - self._open_since < ACTED_WITHIN:
            self._breached_since.pop(key, None)
        elif now - self._breached_since.setdefault(key, now) >= ACTED_WITHIN:
            text = f"position {row.id} ({row.symbol}) is neither being closed nor alarmed: {why}"
            self._world.report(Violation("I9", account, text, (row.symbol,)))

    def _is_known(self, account: str, row: PositionRecord, now: datetime) -> bool:
        """Whether the row has been in the ledger for long enough to be looked at."""
        return now - self._known_since.get((account, row.id), now) > CHECKED_WITHIN
