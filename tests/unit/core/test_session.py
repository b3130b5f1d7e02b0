"""Sessions: holidays, early closes and DST come from the calendar, never from constants (F107-F115, T12)."""

from datetime import UTC, date, datetime, time, timedelta

import exchange_calendars
import pytest
from tests.property.core.cases import CALENDAR, day, ny

from exitguard.core.calendar_table import FIRST_DAY, LAST_DAY
from exitguard.core.errors import InvalidInput
from exitguard.core.session import NEW_YORK, SessionCalendar, make_session, table_calendar


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pandas, caused by exchange_calendars
def test_f115_the_shipped_table_is_the_exchanges_calendar_for_its_whole_range() -> None:
    source = exchange_calendars.get_calendar("XNYS", start=FIRST_DAY.isoformat())
    theirs = {
        stamp.date(): (opens.to_pydatetime(), closes.to_pydatetime())
        for stamp, opens, closes in zip(source.sessions, source.opens, source.closes, strict=True)
        if stamp.date() <= LAST_DAY
    }
    ours = {s.day: (s.open, s.close) for s in CALENDAR.between(FIRST_DAY, LAST_DAY)}
    assert ours == theirs


@pytest.mark.parametrize(
    ("on", "open_utc", "close_utc", "early"),
    [
        ("2025-03-07", "14:30", "21:00", False),  # the Friday before the clocks go forward
        ("2025-03-10", "13:30", "20:00", False),
        ("2025-10-31", "13:30", "20:00", False),  # the Friday before they go back
        ("2025-11-03", "14:30", "21:00", False),
        ("2025-07-03", "13:30", "17:00", True),
        ("2025-11-28", "14:30", "18:00", True),
        ("2011-03-14", "13:30", "20:00", False),
    ],
)
def test_f107_t12_sessions_keep_new_york_time(on: str, open_utc: str, close_utc: str, early: bool) -> None:
    session = CALENDAR.on(day(on))
    assert session is not None
    assert f"{session.open.astimezone(UTC):%H:%M}" == open_utc
    assert f"{session.close.astimezone(UTC):%H:%M}" == close_utc
    assert session.is_early_close is early
    assert session.open.astimezone(NEW_YORK).time() == time(9, 30)
    assert session.pre_open.astimezone(NEW_YORK).time() == time(4)


@pytest.mark.parametrize("on", ["2025-01-01", "2025-01-09", "2025-04-18", "2025-07-04", "2025-11-27", "2025-03-08"])
def test_t12_f115_holidays_and_weekends_have_no_session(on: str) -> None:
    assert CALENDAR.on(day(on)) is None
    assert not CALENDAR.is_open(ny(f"{on} 11:00"))
    assert CALENDAR.current(ny(f"{on} 11:00")) is None


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2025-03-03 09:29:59", False),
        ("2025-03-03 09:30:00", True),
        ("2025-03-03 15:59:59", True),
        ("2025-03-03 16:00:00", False),
        ("2025-07-03 12:59:59", True),
        ("2025-07-03 13:00:00", False),
    ],
)
def test_regular_hours_include_the_open_and_exclude_the_close(moment: str, is_open: bool) -> None:
    assert CALENDAR.is_open(ny(moment)) is is_open


def test_f108_the_session_is_that_of_the_new_york_day_not_of_the_utc_day() -> None:
    session = CALENDAR.current(datetime(2025, 3, 4, 2, 0, tzinfo=UTC))  # still Monday evening in New York
    assert session is not None
    assert session.day == day("2025-03-03")


@pytest.mark.parametrize(
    ("moment", "next_open", "next_close"),
    [
        ("2025-03-03 09:00", "2025-03-03 09:30", "2025-03-03 16:00"),
        ("2025-03-03 09:30", "2025-03-04 09:30", "2025-03-03 16:00"),
        ("2025-03-03 16:00", "2025-03-04 09:30", "2025-03-04 16:00"),
        ("2025-03-07 20:00", "2025-03-10 09:30", "2025-03-10 16:00"),
        ("2025-07-02 17:00", "2025-07-03 09:30", "2025-07-03 13:00"),
        ("2025-07-03 13:00", "2025-07-07 09:30", "2025-07-07 16:00"),
        ("2025-10-31 16:00", "2025-11-03 09:30", "2025-11-03 16:00"),
    ],
)
def test_t12_f113_the_next_open_and_close_step_over_holidays_and_dst(
    moment: str, next_open: str, next_close: str
) -> None:
    assert CALENDAR.next_open(ny(moment)) == ny(next_open)
    assert CALENDAR.next_close(ny(moment)) == ny(next_close)


@pytest.mark.parametrize(
    ("on", "session"),
    [
        ("2025-03-03", "2025-03-03"),
        ("2025-03-09", "2025-03-07"),
        ("2025-04-18", "2025-04-17"),  # Good Friday: its options stop on Thursday
        ("2025-07-04", "2025-07-03"),
        (LAST_DAY.isoformat(), LAST_DAY.isoformat()),
        ("2029-01-19", "2029-01-19"),  # beyond the table: a regular session is assumed
        ("2029-01-20", "2029-01-19"),
        ("2029-01-21", "2029-01-19"),
    ],
)
def test_t12_f115_the_last_session_of_an_expiry(on: str, session: str) -> None:
    assert CALENDAR.session_on_or_before(day(on)).day == day(session)


def test_a_far_expiry_is_never_taken_for_the_calendars_last_day() -> None:
    short = table_calendar(date(2025, 3, 3), date(2025, 3, 7))
    assert short.session_on_or_before(date(2025, 6, 20)).close == ny("2025-06-20 16:00")
    assert short.session_on_or_before(date(2025, 3, 9)).day == date(2025, 3, 7)
    with pytest.raises(InvalidInput, match="starts on 2025-03-03"):
        short.session_on_or_before(date(2025, 3, 2))


def test_outside_its_range_a_calendar_says_so() -> None:
    short = table_calendar(date(2025, 3, 3), date(2025, 3, 7))
    for wrong in (date(2025, 3, 2), date(2025, 3, 10)):
        with pytest.raises(InvalidInput, match="refresh it"):
            short.on(wrong)
    with pytest.raises(InvalidInput, match="refresh it"):
        short.next_open(ny("2025-03-07 10:00"))
    with pytest.raises(InvalidInput, match="at least one"):
        SessionCalendar([])


def test_between_includes_both_ends_and_the_broker_may_name_other_hours() -> None:
    days = [s.day for s in CALENDAR.between(date(2025, 7, 2), date(2025, 7, 7))]
    assert days == [date(2025, 7, 2), date(2025, 7, 3), date(2025, 7, 7)]
    late = make_session(date(2025, 3, 3), time(10), time(16, 15))
    calendar = SessionCalendar([make_session(date(2025, 3, 4)), late])
    assert calendar.first_day == date(2025, 3, 3)
    assert not late.contains(ny("2025-03-03 09:45"))
    assert late.contains_extended(ny("2025-03-03 09:45"))
    assert late.close - late.open == timedelta(hours=6, minutes=15)
