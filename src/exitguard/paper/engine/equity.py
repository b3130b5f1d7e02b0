"""An account's equity over time: what it was worth at the end of each minute, kept in sixteen bytes a change."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from datetime import timedelta
from decimal import Decimal

from exitguard.core.session import SessionCalendar
from exitguard.paper.engine.wire import microseconds, moment_of

MINUTE = 60_000_000
# Alpaca answers no more than thirty days within days; older days keep their closes.
_DETAIL_KEPT = timedelta(days=35)


class EquityCurve:
    """Equity in cents by the minute's beginning (microseconds since 1970); a minute without a change has no entry."""

    def __init__(self, points: Iterable[tuple[int, Decimal]] = ()) -> None:
        self._minutes = array("q")
        self._cents = array("q")
        for stamp, equity in points:
            self.add(stamp, equity)

    def __len__(self) -> int:
        return len(self._minutes)

    def add(self, stamp: int, equity: Decimal) -> None:
        """Say what the account was worth at the end of the minute in which `stamp` lies; never an earlier minute."""
        minute, cents = stamp // MINUTE * MINUTE, round(equity * 100)
        if self._cents and self._cents[-1] == cents:
            return
        if self._minutes and self._minutes[-1] >= minute:
            self._cents[-1] = cents
            return
        self._minutes.append(minute)
        self._cents.append(cents)

    @property
    def begins(self) -> int | None:
        """The first minute known."""
        return self._minutes[0] if self._minutes else None

    def at(self, stamp: int) -> Decimal | None:
        """Equity at the end of the minute in which `stamp` lies; None before the first entry."""
        index = bisect_right(self._minutes, stamp) - 1
        return None if index < 0 else Decimal(self._cents[index]).scaleb(-2)

    def since(self, stamp: int) -> Iterator[tuple[int, Decimal]]:
        """The entries from `stamp` on."""
        first = bisect_left(self._minutes, stamp)
        for minute, cents in zip(self._minutes[first:], self._cents[first:], strict=True):
            yield minute, Decimal(cents).scaleb(-2)

    def thin(self, calendar: SessionCalendar, now: int) -> int | None:
        """Keep of old days what they closed with; the moment before which only closes are left, None for no change."""
        limit = microseconds(moment_of(now) - _DETAIL_KEPT)
        count = bisect_left(self._minutes, limit)
        if count < 2:
            return None
        first, last = moment_of(self._minutes[0]).date(), moment_of(limit).date()
        closes = (microseconds(session.close) for session in calendar.between(first - timedelta(days=1), last))
        kept = {0} | {bisect_right(self._minutes, close) - 1 for close in closes if close < limit}
        kept = {index for index in kept if 0 <= index < count} | {count - 1}
        if len(kept) == count:
            return None
        rest = [*sorted(kept), *range(count, len(self._minutes))]
        self._minutes = array("q", (self._minutes[index] for index in rest))
        self._cents = array("q", (self._cents[index] for index in rest))
        return limit
