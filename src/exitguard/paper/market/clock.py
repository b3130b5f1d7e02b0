"""The market's clock: real time, any speed, paused, stepped, jumped."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from exitguard.core.errors import InvalidInput

# Between two moves of the player the clock runs on by at most this much wall time; a stalled player stops it.
_EXTRAPOLATION_SECONDS = 0.25
# A player that falls this far behind at another speed than real time gives the lost time up; real time catches up.
_LAG_SECONDS = 1.0


class MarketClock:
    """Market time as a function of wall time.

    `speed` is market seconds a wall second. While paused, time moves only through `reach`. Time never goes backwards.
    """

    def __init__(
        self, start: datetime, *, speed: float = 1.0, paused: bool = False, wall: Callable[[], float] = time.monotonic
    ) -> None:
        if start.tzinfo is None:
            raise InvalidInput(f"the market clock needs a start time with a time zone, was {start.isoformat()}")
        self._wall = wall
        self._speed = checked_speed(speed)
        self._paused = paused
        self._reached = start
        self._reached_wall = wall()
        self._shown = start
        self._anchor = (start, self._reached_wall)

    @property
    def speed(self) -> float:
        """Market seconds a wall second while running."""
        return self._speed

    @property
    def paused(self) -> bool:
        """Whether time moves only when it is stepped."""
        return self._paused

    @property
    def reached(self) -> datetime:
        """The time up to which the market was played."""
        return self._reached

    def now(self) -> datetime:
        """The market's time. Never earlier than any time it returned before."""
        if not self._paused:
            ahead = min(self._wall() - self._reached_wall, _EXTRAPOLATION_SECONDS) * self._speed
            running = self._reached + timedelta(seconds=ahead)
            if running > self._shown:
                self._shown = running
        return self._shown

    def target(self) -> datetime:
        """The time up to which the market ought to have been played by now."""
        if self._paused:
            return self._reached
        moment, at = self._anchor
        target = moment + timedelta(seconds=(self._wall() - at) * self._speed)
        lag = (target - self._reached).total_seconds() / self._speed
        if self._speed != 1.0 and lag > _LAG_SECONDS:
            self._set_anchor()
            return self._reached + timedelta(seconds=_LAG_SECONDS * self._speed)
        return target

    def reach(self, moment: datetime) -> None:
        """Say that the market was played up to `moment`; an earlier moment than before is ignored."""
        if moment > self._reached:
            self._reached = moment
        if moment > self._shown:
            self._shown = moment
        self._reached_wall = self._wall()

    def set_speed(self, speed: float) -> None:
        """Change the speed from now on."""
        self._speed = checked_speed(speed)
        self._set_anchor()

    def pause(self) -> None:
        """Stop; time moves only through `reach` from here on."""
        self.now()
        self._paused = True

    def resume(self) -> None:
        """Run on from the time reached."""
        self._paused = False
        self._set_anchor()

    def _set_anchor(self) -> None:
        at = self._wall()
        self._reached_wall = at
        self._anchor = (max(self._reached, self._shown), at)


def checked_speed(speed: float) -> float:
    """Return `speed` if it can be one: a finite number above zero and at most a million. Raises InvalidInput."""
    if not 0 < speed <= 1_000_000:
        raise InvalidInput(f"speed is market seconds a wall second, above 0 and at most 1000000, was {speed}")
    return float(speed)
