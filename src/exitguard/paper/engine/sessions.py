"""Where in the trading day a moment lies, and when an order given then ends."""

from datetime import UTC, datetime, time, timedelta

from exitguard.core.errors import InvalidInput
from exitguard.core.session import NEW_YORK, Session, SessionCalendar

REGULAR = "regular"
PRE = "pre"
POST = "post"
CLOSED = "closed"
# Alpaca refuses auction orders between these limits and the auction, and takes the next day's from 19:00.
OPENING_CUTOFF = timedelta(minutes=2)
CLOSING_CUTOFF = timedelta(minutes=10)
AUCTION_REOPEN = time(19, 0)
LIQUIDATION_LEAD = timedelta(minutes=30)
_GTC_CANCEL = time(16, 15)


class Sessions:
    """The calendar with the phase of the newest moment remembered: it is asked for on every quote."""

    def __init__(self, calendar: SessionCalendar) -> None:
        self.calendar = calendar
        self._from = self._until = datetime.min.replace(tzinfo=UTC)
        self._phase = CLOSED
        # The oldest quote that may trade in the current phase: yesterday's last quote opens no day.
        self.floor = self._from

    def phase(self, now: datetime) -> str:
        """Whether `now` is in regular hours, before or after them, or none of these."""
        if self._from <= now < self._until:
            return self._phase
        session = self.calendar.current(now)
        if session is None or now >= session.post_close or now < session.pre_open:
            following = self.session_after(now) if session is None or now >= session.pre_open else session
            self._remember(CLOSED, now, following.pre_open, now)
        elif now < session.open:
            self._remember(PRE, session.pre_open, session.open, session.pre_open)
        elif now < session.close:
            self._remember(REGULAR, session.open, session.close, session.open)
        else:
            self._remember(POST, session.close, session.post_close, session.pre_open)
        return self._phase

    def _remember(self, phase: str, start: datetime, end: datetime, floor: datetime) -> None:
        self._phase, self._from, self._until, self.floor = phase, start, end, floor

    def session_after(self, now: datetime) -> Session:
        """The first session that opens after the New York day of `now`. Raises InvalidInput at the calendar's end."""
        day = now.astimezone(NEW_YORK).date()
        following = self.calendar.between(day + timedelta(days=1), day + timedelta(days=15))
        if not following:
            raise InvalidInput(f"calendar ends on {self.calendar.last_day}, asked for what follows {day}: refresh it")
        return following[0]

    def session_for(self, now: datetime, extended: bool) -> Session:
        """The session in which a day order given now lives."""
        session = self.calendar.current(now)
        if session is not None and now < (session.post_close if extended else session.close):
            return session
        return self.session_after(now)

    def day_end(self, now: datetime, extended: bool) -> datetime:
        """When a day order given now expires."""
        session = self.session_for(now, extended)
        return session.post_close if extended else session.close

    def gtc_end(self, now: datetime, days: int) -> datetime:
        """When a good-till-cancelled order given now expires."""
        day = now.astimezone(NEW_YORK).date() + timedelta(days=days)
        return datetime.combine(day, _GTC_CANCEL, NEW_YORK).astimezone(UTC)

    def takes_auction(self, now: datetime, opening: bool) -> bool:
        """Whether an order for the opening or closing auction is still taken."""
        session = self.calendar.current(now)
        if session is None or now.astimezone(NEW_YORK).time() >= AUCTION_REOPEN:
            return True
        return now < (session.open - OPENING_CUTOFF if opening else session.close - CLOSING_CUTOFF)
