"""GET /v2/account/portfolio/history, from equity kept every five minutes of regular hours."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from exitguard.core.session import NEW_YORK
from exitguard.paper.engine.balances import balances
from exitguard.paper.engine.errors import unprocessable
from exitguard.paper.engine.fields import choice_field, flag_field, list_field, moment_field, text_field
from exitguard.paper.engine.model import ZERO, Account
from exitguard.paper.engine.queries import ACTIVITY_TYPES
from exitguard.paper.engine.venue import Venue
from exitguard.paper.engine.views import Json
from exitguard.paper.engine.wire import microseconds, moment_of

_TIMEFRAMES = {"1Min": 60, "5Min": 300, "15Min": 900, "1H": 3600, "1D": 86_400}
_PERIOD_DAYS = {"D": 1, "W": 7, "M": 30, "A": 365}
_DAY = 86_400_000_000
_CENT = Decimal("0.01")

Point = tuple[int, Decimal]


def portfolio_history(venue: Venue, account: Account, params: Mapping[str, Any]) -> Json:
    """The equity curve. Raises ApiError 422.

    A timeframe below five minutes has the points that were kept. Within a day profit counts from the day before, unless
    `pnl_reset` says no_reset; with days it counts from the first point.
    """
    begin, end, now = _span(venue, params)
    timeframe = _timeframe(params, end - begin)
    choice_field(params, "intraday_reporting", ("market_hours", "extended_hours", "continuous"))
    flag_field(params, "extended_hours")
    resets = (choice_field(params, "pnl_reset", ("no_reset", "per_day")) or "per_day") == "per_day"
    points = [(stamp, equity) for stamp, equity in account.history if begin <= stamp <= end]
    if end >= now:
        points.append((now, balances(account).equity.quantize(_CENT)))
    points = _thin(points, timeframe)
    base = points[0][1] if points else account.last_equity.quantize(_CENT)
    bases = _daily_bases(account, points, base) if resets and timeframe != "1D" else [base] * len(points)
    profit = [equity - before for (_, equity), before in zip(points, bases, strict=True)]
    view: Json = {
        "timestamp": [stamp // 1_000_000 for stamp, _ in points],
        "equity": [float(equity) for _, equity in points],
        "profit_loss": [float(value) for value in profit],
        "profit_loss_pct": [
            float(round(value / before, 6)) if before else 0.0 for value, before in zip(profit, bases, strict=True)
        ],
        "base_value": float(base),
        "timeframe": timeframe,
        "cashflow": _cash_flow(account, params, [stamp for stamp, _ in points]),
    }
    if points:
        view["base_value_asof"] = moment_of(points[0][0]).astimezone(NEW_YORK).date().isoformat()
    return view


def _span(venue: Venue, params: Mapping[str, Any]) -> tuple[int, int, int]:
    """First and last moment asked for, and now. `date_start` and `date_end` are the older names."""
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
        return start, end, now
    length = _period(period or "1M", venue.moment())
    if start is not None:
        return start, min(start + length, max(now, start)), now
    last = now if end is None else end
    return last - length, last, now


def _timeframe(params: Mapping[str, Any], length: int) -> str:
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


def _thin(points: list[Point], timeframe: str) -> list[Point]:
    """The last point of each step of a timeframe, stamped at the step's beginning."""
    steps: dict[int, Decimal] = {}
    size = _TIMEFRAMES[timeframe] * 1_000_000
    for stamp, equity in points:
        steps[_midnight(stamp) if timeframe == "1D" else stamp // size * size] = equity
    return list(steps.items())


def _midnight(stamp: int) -> int:
    """The beginning of a stamp's New York day."""
    local = moment_of(stamp).astimezone(NEW_YORK)
    return microseconds(local.replace(hour=0, minute=0, second=0, microsecond=0))


def _daily_bases(account: Account, points: list[Point], first: Decimal) -> list[Decimal]:
    """For each point the last equity of the day before; the first point's where nothing older is known."""
    bases: dict[int, Decimal] = {}
    found = []
    for stamp, _ in points:
        midnight = _midnight(stamp)
        if midnight not in bases:
            older = next((equity for at, equity in reversed(account.history) if at < midnight), first)
            bases[midnight] = older
        found.append(bases[midnight])
    return found


def _cash_flow(account: Account, params: Mapping[str, Any], stamps: list[int]) -> dict[str, list[float]]:
    """Dollars that non-trade activities moved in each step, by their type."""
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
    return {kind: [float(dollars) for dollars in steps] for kind, steps in flows.items()}
