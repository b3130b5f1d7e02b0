"""The equity curve: windows of every timeframe, hours and period, and what they count profit from."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from tests.unit.paper_engine.floor import CALENDAR, Floor, refusal

from exitguard.core.session import NEW_YORK
from exitguard.paper.engine.equity import EquityCurve
from exitguard.paper.engine.wire import microseconds

# Two days of a hundred shares: 100,000 - 100 x 50.01 in cash, and what the middle of the quote makes of the shares.
CASH = 94_999.0


def history(floor: Floor, **params: str) -> dict[str, Any]:
    return floor.exchange.portfolio_history(floor.account, params)


def local(stamp: int) -> str:
    return datetime.fromtimestamp(stamp, NEW_YORK).strftime("%d %H:%M")


def two_days() -> Floor:
    """Thursday 11:00 bought at 50; 55 from 12:00 on, 60 from 17:30 on; Friday 58 from 10:00 on; now 13:00:30."""
    floor = Floor()
    floor.hold("100")
    for clock, days, price in (("12:00", 0, 55), ("17:30", 0, 60), ("10:00", 1, 58)):
        floor.to(clock, days)
        floor.quote("KO", f"{price - 1}.99", f"{price}.01")
    floor.to("13:00")
    floor.now += timedelta(seconds=30)
    floor.exchange.advance_to(floor.now)
    return floor


@pytest.mark.parametrize(
    ("timeframe", "minutes", "thursday", "friday"),
    [("1Min", 1, 300, 211), ("5Min", 5, 60, 43), ("15Min", 15, 20, 15), ("1H", 60, 6, 4)],
)
def test_every_timeframe_has_a_window_for_each_step_of_regular_hours(
    timeframe: str, minutes: int, thursday: int, friday: int
) -> None:
    view = history(two_days(), period="1D", timeframe=timeframe)
    stamps = view["timestamp"]
    assert len(stamps) == len(view["equity"]) == len(view["profit_loss"]) == len(view["profit_loss_pct"])
    days = [datetime.fromtimestamp(stamp, NEW_YORK).day for stamp in stamps]
    assert (days.count(8), days.count(9)) == (thursday, friday), "from the account's beginning to the running window"
    same_day = [after - before for before, after in pairwise(stamps) if after - before < 3600 * 12]
    assert set(same_day) == {minutes * 60}
    equity = dict(zip(map(local, stamps), view["equity"], strict=True))
    if minutes < 60:
        assert (equity["08 11:45"], equity["08 12:00"]) == (CASH + 5000, CASH + 5500), "equity is that of the end"
        assert (equity["09 09:30"], equity["09 10:00"]) == (CASH + 6000, CASH + 5800)
    assert view["equity"][-1] == CASH + 5800
    assert view["timeframe"] == timeframe


def test_days_count_from_the_first_and_windows_from_the_close_before() -> None:
    floor = two_days()
    days = history(floor, period="1W", timeframe="1D")
    assert [local(stamp) for stamp in days["timestamp"]] == ["08 00:00", "09 00:00"]
    assert days["equity"] == [CASH + 5500, CASH + 5800], "the close, and the present"
    assert days["profit_loss"] == [0.0, 300.0]
    assert "base_value_asof" not in days
    today = history(floor, start="2026-10-09", timeframe="15Min")
    assert (today["base_value"], today["base_value_asof"]) == (CASH + 5500, "2026-10-08")
    assert today["profit_loss"][-1] == 300.0
    both = history(floor, start="2026-10-08", timeframe="15Min")
    assert (both["profit_loss"][-1], both["base_value"]) == (300.0, CASH + 5000), "each day from the close before it"
    kept = history(floor, start="2026-10-08", timeframe="15Min", pnl_reset="no_reset")
    assert kept["profit_loss"][-1] == 800.0


def test_hours_are_regular_extended_or_all() -> None:
    floor = two_days()
    given = {"start": "2026-10-08T15:00:00-04:00", "end": "2026-10-09T04:30:00-04:00", "timeframe": "1H"}
    regular = history(floor, **given)["timestamp"]
    assert [local(stamp) for stamp in regular] == ["08 14:30", "08 15:30"], "rolled back to a step of the session"
    extended = history(floor, **given, intraday_reporting="extended_hours")
    stamps = [local(stamp) for stamp in extended["timestamp"]]
    assert stamps == ["08 15:00", "08 16:00", "08 17:00", "08 18:00", "08 19:00", "09 04:00"]
    assert extended["equity"] == [CASH + 5500] * 2 + [CASH + 6000] * 4
    assert history(floor, **given, extended_hours="true")["timestamp"] == extended["timestamp"]
    always = history(floor, **given, intraday_reporting="continuous")
    assert len(always["timestamp"]) == 14, "every hour from 15 to 4, the night too"


@pytest.mark.parametrize(
    ("params", "timeframe"),
    [({}, "1D"), ({"period": "1D"}, "1Min"), ({"period": "2W"}, "15Min"), ({"period": "1A"}, "1D")],
)
def test_a_timeframe_follows_from_the_period(params: dict[str, str], timeframe: str) -> None:
    assert history(two_days(), **params)["timeframe"] == timeframe


@pytest.mark.parametrize("period", ["1D", "3D", "1W", "4W", "1M", "3M", "1A", "9999A", "YTD"])
def test_every_period_reaches_the_present(period: str) -> None:
    view = history(two_days(), period=period)
    assert view["equity"][-1] == CASH + 5800


@pytest.mark.parametrize(
    "params",
    [
        {"period": "1X"},
        {"period": "0D"},
        {"timeframe": "2Min"},
        {"period": "1A", "timeframe": "5Min"},
        {"period": "1D", "start": "2026-10-01", "end": "2026-10-02"},
        {"start": "2026-10-02", "end": "2026-10-01"},
        {"intraday_reporting": "sometimes"},
        {"cashflow_types": "BEER"},
    ],
)
def test_questions_without_sense_are_refused(params: dict[str, str]) -> None:
    floor = Floor()
    assert refusal(lambda: history(floor, **params))[0] == 422


def test_nothing_is_known_before_the_account() -> None:
    assert history(Floor(), start="1970-01-01", end="1970-01-20")["timestamp"] == []
    assert history(Floor(), start="2026-10-07", timeframe="1D")["timestamp"] == [1791432000], "not the day before"


def test_old_days_keep_their_closes_only() -> None:
    curve = EquityCurve()
    first = datetime(2026, 1, 5, 15, 0, tzinfo=UTC)
    for day in range(60):
        for minute in range(0, 360, 20):
            at = first + timedelta(days=day, minutes=minute)
            curve.add(microseconds(at), Decimal(day * 1000 + minute))
    now = microseconds(first + timedelta(days=60))
    before = len(curve)
    limit = curve.thin(CALENDAR, now)
    assert limit is not None
    assert len(curve) < before * 2 / 3
    monday = CALENDAR.session_on_or_before(datetime(2026, 1, 12, tzinfo=UTC).date())
    assert curve.at(microseconds(monday.close)) == Decimal(7 * 1000 + 340), "the close of the day"
    assert curve.at(limit) is not None
    recent = microseconds(first + timedelta(days=50, minutes=60))
    assert curve.at(recent) == Decimal(50 * 1000 + 60), "recent days have every minute"
    assert curve.thin(CALENDAR, now) is None, "nothing is left to drop"
