"""GET /v2/account/portfolio/history: windows of any timeframe over the equity that is kept of every minute."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from typing import Any

from exitguard.core.session import NEW_YORK, Session, SessionCalendar
from exitguard.paper.engine.balances import balances
from exitguard.paper.engine.equity import MINUTE
from exitguard.paper.engine.errors import unprocessable
from exitguard.paper.engine.fields import choice_field, flag_field, list_field, moment_field, text_field
from exitguard.paper.engine.model import ZERO, Account
from exitguard.paper.engine.queries import ACTIVITY_TYPES
from exitguard.paper.engine.venue import Venue
from exitguard.paper.engine.views import Json
from exitguard.paper.engine.wire import microseconds, moment_of

_TIMEFRAMES = {"1Min": 1, "5Min": 5, "15Min": 15, "1H": 60, "1D": 1440}
_REPORTING = ("market_hours", "extended_hours", "continuous")
_PERIOD_DAYS = {"D": 1, "W": 7, "M": 30, "A": 365}
_DAY = 86_400_000_000
_CENT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class _Point:
    """One window: its beginning, the day whose profit it belongs to, and equity at its end, all stamps microseconds."""

    begin: int
    day: Session
    equity: Decimal


def portfolio_history(venue: Venue, account: Account, params: Mapping[str, Any]) -> Json:
    """The equity curve. Raises ApiError 422.

    Windows are stamped at their beginning and hold the equity at their end; the running one holds the present. Windows
    from before the account's beginning are left out. Within a day profit counts from the close before, unless
    `pnl_reset` says no_reset; with days it counts from the first point.
    """
    span = _read_span(venue, params)
    timeframe = _timeframe(params, span)
    reporting = choice_field(params, "intraday_reporting", _REPORTING) or "market_hours"
    if flag_field(params, "extended_hours") and reporting == "market_hours":
        reporting = "extended_hours"
    resets = (choice_field(params, "pnl_reset", ("no_reset", "per_day")) or "per_day") == "per_day"
    curve = _Curve(venue, account, span)
    points = list(curve.days() if timeframe == "1D" else curve.windows(_TIMEFRAMES[timeframe] * MINUTE, reporting))
    before = curve.close_before(points[0].day) if points and timeframe != "1D" else None
    earliest = points[0].equity if points else account.last_equity.quantize(_CENT)
    base = earliest if before is None else before[1]
    bases = curve.daily_bases(points, base) if resets and timeframe != "1D" else [base] * len(points)
    profit = [point.equity - start for point, start in zip(points, bases, strict=True)]
    view: Json = {
        "timestamp": [point.begin // 1_000_000 for point in points],
        "equity": [float(point.equity) for point in points],
        "profit_loss": [float(value) for value in profit],
        "profit_loss_pct": [
            float(round(value / start, 6)) if start else 0.0 for value, start in zip(profit, bases, strict=True)
        ],
        "base_value": float(base),
        "timeframe": timeframe,
        "cashflow": _cash_flow(account, params, [point.begin for point in points]),
    }
    if before is not None:
        view["base_value_asof"] = before[0].day.isoformat()
    return view


class _Curve:
    """Reads an account's equity by windows."""

    def __init__(self, venue: Venue, account: Account, span: "_Span") -> None:
        self._calendar: SessionCalendar = venue.sessions.calendar
        self._account = account
        self._span = span
        self._now = span.now
        # Nobody was anywhere before the calendar begins, and years beyond Python's are nobody's either.
        floor = microseconds(datetime.combine(self._calendar.first_day, datetime.min.time(), NEW_YORK))
        self._start = max(span.start, floor)
        self._end = max(min(span.end, span.now), floor)
        self._present = balances(account).equity.quantize(_CENT)
        self._begins = account.equity.begins

    def _at(self, end: int) -> Decimal | None:
        """Equity just before `end`: the present for a window that is not over."""
        if self._begins is None or end <= self._begins:
            return None
        return self._present if end > self._now else self._account.equity.at(end - 1)

    def _sessions(self) -> Sequence[Session]:
        first, last = (moment_of(stamp).astimezone(NEW_YORK).date() for stamp in (self._start, self._end))
        if not self._span.is_given:
            first = self._calendar.session_on_or_before(first).day
        return self._calendar.between(first, last)

    def days(self) -> Iterator[_Point]:
        """One point a session, stamped at its New York midnight, with what the account closed with."""
        for session in self._sessions():
            opened, closed = microseconds(session.open), microseconds(session.close)
            equity = self._at(closed + MINUTE)
            if opened <= self._now and equity is not None:
                yield _Point(_midnight(session), session, equity)

    def windows(self, size: int, reporting: str) -> Iterator[_Point]:
        """Windows of `size` microseconds: of regular hours, of extended hours too, or without a gap."""
        if reporting == "continuous":
            yield from self._without_gap(size)
            return
        for session in self._sessions():
            if reporting == "market_hours":
                begin, end = microseconds(session.open), microseconds(session.close)
            else:
                begin, end = microseconds(session.pre_open), microseconds(session.post_close)
            if self._span.is_given and self._start > begin:
                begin += (self._start - begin) // size * size
            yield from self._points(begin, end, size, session)

    def _without_gap(self, size: int) -> Iterator[_Point]:
        begin = self._start // size * size
        while begin <= self._end:
            day = moment_of(begin).astimezone(NEW_YORK).date()
            midnight = datetime.combine(day + timedelta(days=1), datetime.min.time(), NEW_YORK)
            session = self._calendar.session_on_or_before(day)
            end = microseconds(midnight)
            yield from self._points(begin, end, size, session)
            begin += -((begin - end) // size) * size

    def _points(self, begin: int, end: int, size: int, session: Session) -> Iterator[_Point]:
        last = min(end - 1, self._end)
        while begin <= last:
            equity = self._at(begin + size)
            if equity is not None:
                yield _Point(begin, session, equity)
            begin += size

    def close_before(self, session: Session) -> tuple[Session, Decimal] | None:
        """The session before one, with what the account closed with; None when it did not exist then."""
        if session.day <= self._calendar.first_day:
            return None
        earlier = self._calendar.session_on_or_before(session.day - timedelta(days=1))
        equity = self._at(microseconds(earlier.close) + MINUTE)
        return None if equity is None else (earlier, equity)

    def daily_bases(self, points: Sequence[_Point], first: Decimal) -> list[Decimal]:
        """For each point what the account closed with on the session before it."""
        bases: dict[Session, Decimal] = {}
        for point in points:
            if point.day not in bases:
                before = self.close_before(point.day)
                bases[point.day] = first if before is None else before[1]
        return [bases[point.day] for point in points]


@dataclass(frozen=True, slots=True)
class _Span:
    """What is asked for. `is_given`: its start was named; else windows begin with the session of the start."""

    start: int
    end: int
    now: int
    is_given: bool


def _read_span(venue: Venue, params: Mapping[str, Any]) -> _Span:
    """`date_start` and `date_end` are the older names."""
    now = microseconds(venue.moment())
    start = moment_field(params, "start")
    start = start if start is not None else moment_field(params, "date_start")
    end = moment_field(params, "end")
    end = end if end is not None else moment_field(params, "date_end")
    period = text_field(params, "period")
    if start is not None and end is not None:
        if period is not None:
            raise unprocessable("only two of start, end and period are accepted")
        if end < start:
            raise unprocessable("end must not be before start")
        return _Span(start, end, now, is_given=True)
    length = _period(period or "1M", venue.moment())
    if start is not None:
        return _Span(start, min(start + length, max(now, start)), now, is_given=True)
    last = now if end is None else end
    return _Span(last - length, last, now, is_given=end is not None)


def _timeframe(params: Mapping[str, Any], span: _Span) -> str:
    length = span.end - span.start
    given = choice_field(params, "timeframe", _TIMEFRAMES)
    if given is None:
        return "1Min" if length < 7 * _DAY else "15Min" if length < 30 * _DAY else "1D"
    if given != "1D" and length > 31 * _DAY:
        raise unprocessable("only timeframe 1D is accepted for a period of more than 30 days")
    return given


def _period(period: str, now: datetime) -> int:
    """Microseconds of a period such as 1D, 2W, 3M, 1A, or since the first of January for YTD."""
    if period == "YTD":
        local = now.astimezone(NEW_YORK)
        first = local.replace(month=1, day=1, hour=0, minute=0, second=0, microsecond=0)
        return microseconds(now) - microseconds(first)
    number, unit = period[:-1], period[-1:]
    is_number = number.isascii() and number.isdigit() and len(number) <= 4
    if not is_number or int(number) < 1 or unit not in _PERIOD_DAYS:
        raise unprocessable("period must be a number followed by D, W, M or A")
    return int(number) * _PERIOD_DAYS[unit] * _DAY


def _midnight(session: Session) -> int:
    """The beginning of a session's New York day."""
    return microseconds(datetime.combine(session.day, datetime.min.time(), NEW_YORK))


def _cash_flow(account: Account, params: Mapping[str, Any], stamps: list[int]) -> dict[str, list[float]]:
    """Dollars that non-trade activities have moved since the first window, at each window's end, by their type."""
    wanted = set(list_field(params, "cashflow_types")) - {"NONE"}
    if not wanted or not stamps:
        return {}
    unknown = wanted - ACTIVITY_TYPES - {"ALL"}
    if unknown:
        raise unprocessable(f"invalid cashflow type: {sorted(unknown)[0][:32]}")
    flows: dict[str, list[Decimal]] = {}
    for stamp, activity in account.activities:
        kind = activity["activity_type"]
        if "net_amount" not in activity or stamp < stamps[0] or ("ALL" not in wanted and kind not in wanted):
            continue
        steps = flows.setdefault(kind, [ZERO] * len(stamps))
        index = sum(1 for begin in stamps if begin <= stamp) - 1
        steps[index] += Decimal(activity["net_amount"])
    return {kind: [float(dollars) for dollars in accumulate(steps)] for kind, steps in flows.items()}
