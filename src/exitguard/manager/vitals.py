"""What one account's manager shows of itself to whoever watches the process: progress, not mere life."""

import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta

SILENCE = "silence:"
SILENT_LEDGER = "silence:ledger"


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """When a person is told, each in its own measure.

    `sweep_silence`: no sweep was completed for this long (one is due every minute). `poll_silence`: no look at the
    broker came to an end, good or bad, for this long (on a real clock; one is due every few seconds).
    `ledger_silence`: no heartbeat reached the database for this long. `stale`: a position was not evaluated for this
    long. All four are of venue time.
    `creations_a_minute`: more new positions than this in a minute are no trading (F20). `look_seconds`: wall seconds
    between two looks; a silence counts when it is there for `PATIENCE` looks, so that a clock that is moved by an hour
    is not mistaken for an hour without a sweep.
    """

    sweep_silence: timedelta = timedelta(seconds=150)
    poll_silence: timedelta = timedelta(seconds=60)
    ledger_silence: timedelta = timedelta(seconds=150)
    stale: timedelta = timedelta(seconds=300)
    creations_a_minute: int = 30
    look_seconds: float = 1.0


@dataclass(slots=True)
class Progress:
    """When each loop last got something done, in venue time; None before the first time."""

    swept_at: datetime | None = None
    # The broker answered; and a look at it came to an end, whatever the answer was.
    polled_at: datetime | None = None
    poll_ended_at: datetime | None = None
    beaten_at: datetime | None = None


@dataclass(slots=True)
class Vitals:
    """The newest look at one account. `looked_at` is of the machine's monotonic clock: an old look is silence too."""

    looked_at: float | None = None
    broker_account_number: str = ""
    open_positions: int = 0
    closing_positions: int = 0
    protection: dict[str, int] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    alarm_kinds: dict[str, int] = field(default_factory=dict)
    stream_up: bool = False
    sweep_age: float = 0.0
    poll_age: float = 0.0
    heartbeat_age: float = 0.0
    clock_skew: float = 0.0
    refused_changes: int = 0
    positions_created: int = 0

    @property
    def look_age(self) -> float | None:
        """Wall seconds since the newest look; None when there was none."""
        return None if self.looked_at is None else time.monotonic() - self.looked_at

    @property
    def silent(self) -> tuple[str, ...]:
        """Alarms that say that something makes no progress."""
        return tuple(key for key in self.alarms if key.startswith(SILENCE))

    @property
    def stalled(self) -> tuple[str, ...]:
        """Those of them that a restart mends; with the database away a restart would lose the journal's manager."""
        return tuple(key for key in self.silent if key != SILENT_LEDGER)
