"""Trading sessions of the US equity and option markets: holidays, early closes and DST come from a table."""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from exitguard.core.calendar_table import EARLY_CLOSES, FIRST_DAY, HOLIDAYS, LAST_DAY
from exitguard.core.errors import InvalidInput

NEW_YORK = ZoneInfo("America/New_York")
_REGULAR_OPEN = time(9, 30)
_REGULAR_CLOSE = time(16, 0)
_PRE_OPEN = time(4, 0)
_POST_CLOSE = time(20, 0)
_POST_HOURS = 4


@dataclass(frozen=True, slots=True)
class Session:
    """One trading day: regular hours, and extended hours around them. All times aware, UTC."""

    day: date
    open: datetime
    close: datetime
    pre_open: datetime
    post_close: datetime

    @property
    def is_early_close(self) -> bool:
        """Whether the session ends before 16:00 New York time."""
        return self.close.astimezone(NEW_YORK).time() < _REGULAR_CLOSE

    def contains(self, now: datetime) -> bool:
        """Whether `now` lies in regular hours (open included, close excluded)."""
        return self.open <= now < self.close

    def contains_extended(self, now: datetime) -> bool:
        """Whether `now` lies between the pre-market's start and the after-market's end."""
        return self.pre_open <= now < self.post_close


def make_session(
    day: date,
    open_at: time = _REGULAR_OPEN,
    close_at: time = _REGULAR_CLOSE,
    pre_open: time = _PRE_OPEN,
    post_close: time = _POST_CLOSE,
) -> Session:
    """Build a session from New York wall times."""

    def aware(at: time) -> datetime:
        return datetime.combine(day, at, NEW_YORK).astimezone(UTC)

    return Session(day, aware(open_at), aware(close_at), aware(pre_open), aware(post_close))


class SessionCalendar:
    """Sessions in order. Made from the shipped table, or from what the broker's calendar says."""

    def __init__(self, sessions: Iterable[Session]) -> None:
        self._sessions = sorted(sessions, key=lambda s: s.day)
        self._days = [s.day for s in self._sessions]
        if not self._sessions:
            raise InvalidInput("a session calendar needs at least one session")

    @property
    def first_day(self) -> date:
        """First trading day known."""
        return self._days[0]

    @property
    def last_day(self) -> date:
        """Last trading day known."""
        return self._days[-1]

    def on(self, day: date) -> Session | None:
        """The session of a day, None on a weekend or holiday. Raises InvalidInput outside the calendar."""
        index = bisect_left(self._days, day)
        if index < len(self._days) and self._days[index] == day:
            return self._sessions[index]
        if not self.first_day <= day <= self.last_day:
            raise InvalidInput(f"calendar covers {self.first_day} to {self.last_day}, asked for {day}: refresh it")
        return None

    def current(self, now: datetime) -> Session | None:
        """The session of the New York day of `now`, whether it is open or not."""
        return self.on(now.astimezone(NEW_YORK).date())

    def is_open(self, now: datetime) -> bool:
        """Whether regular hours are on."""
        session = self.current(now)
        return session is not None and session.contains(now)

    def next_open(self, now: datetime) -> datetime:
        """The next regular open strictly after `now`."""
        return self._first_after(now, lambda s: s.open)

    def next_close(self, now: datetime) -> datetime:
        """The next regular close strictly after `now`."""
        return self._first_after(now, lambda s: s.close)

    def _first_after(self, now: datetime, moment: Callable[[Session], datetime]) -> datetime:
        start = bisect_left(self._days, now.astimezone(NEW_YORK).date() - timedelta(days=1))
        for session in self._sessions[start:]:
            at = moment(session)
            if at > now:
                return at
        raise InvalidInput(f"calendar ends on {self.last_day}, asked for what follows {now:%Y-%m-%d}: refresh it")

    def session_on_or_before(self, day: date) -> Session:
        """The last session that is not after `day`: an option that expires on a holiday stops trading before it.

        Beyond the calendar's end a regular session is assumed on `day`, or on the Friday before a weekend: an expiry
        that far away must not be taken for the calendar's last day. Holidays show when the calendar is refreshed.
        """
        if day > self.last_day:
            weekday = day - timedelta(days=max(0, day.weekday() - 4))
            return make_session(weekday) if weekday > self.last_day else self._sessions[-1]
        index = bisect_left(self._days, day + timedelta(days=1)) - 1
        if index < 0:
            raise InvalidInput(f"calendar starts on {self.first_day}, asked for {day}")
        return self._sessions[index]

    def session_on_or_after(self, day: date) -> Session:
        """The first session that is not before `day`. Raises InvalidInput beyond the calendar's end."""
        index = bisect_left(self._days, day)
        if index == len(self._days):
            raise InvalidInput(f"calendar ends on {self.last_day}, asked for {day}: refresh it")
        return self._sessions[index]

    def between(self, start: date, end: date) -> list[Session]:
        """Sessions from `start` to `end`, both included."""
        return self._sessions[bisect_left(self._days, start) : bisect_left(self._days, end + timedelta(days=1))]


@lru_cache(maxsize=16)
def table_calendar(first: date = FIRST_DAY, last: date = LAST_DAY) -> SessionCalendar:
    """The shipped calendar: every weekday that is no holiday, with its early closes."""
    sessions = []
    day = first
    while day <= last:
        if day.weekday() < 5 and day not in HOLIDAYS:
            close_at = EARLY_CLOSES.get(day, _REGULAR_CLOSE)
            # The after-market of an early close is as long as any other.
            post_close = time(close_at.hour + _POST_HOURS, close_at.minute)
            sessions.append(make_session(day, close_at=close_at, post_close=post_close))
        day += timedelta(days=1)
    return SessionCalendar(sessions)
