"""Clock and calendar answers in Alpaca's shapes (v2 and v3)."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

from exitguard.core.errors import InvalidInput
from exitguard.core.session import NEW_YORK, Session, SessionCalendar
from exitguard.paper.engine import ApiError

# Markets that keep the exchange's hours, by the codes that Alpaca accepts; the others it knows are abroad or of bonds.
_NYSE = {"mic": "XNYS", "acronym": "NYSE", "name": "New York Stock Exchange"}
_NASDAQ = {"mic": "XNAS", "acronym": "NASDAQ", "name": "Nasdaq"}
_IEX = {"mic": "IEXG", "acronym": "IEX", "name": "Investors Exchange"}
_OTC = {"mic": "OTCM", "acronym": "OTC", "name": "OTC Markets"}
_OPRA = {"mic": "OPRA", "acronym": "OPRA", "name": "Options Price Reporting Authority"}
_MARKETS = {
    "NYSE": _NYSE,
    "XNYS": _NYSE,
    "NASDAQ": _NASDAQ,
    "XNAS": _NASDAQ,
    "IEX": _IEX,
    "IEXG": _IEX,
    "OTC": _OTC,
    "OTCM": _OTC,
    "OPRA": _OPRA,
}


def _eastern(at: datetime) -> str:
    return at.astimezone(NEW_YORK).isoformat()


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def clock_json(calendar: SessionCalendar, now: datetime) -> dict[str, Any]:
    """GET /v2/clock: times carry the New York offset."""
    return {
        "timestamp": _eastern(now),
        "is_open": calendar.is_open(now),
        "next_open": _eastern(calendar.next_open(now)),
        "next_close": _eastern(calendar.next_close(now)),
    }


def _bad(message: str) -> ApiError:
    return ApiError(400, {"code": 40010001, "message": message})


def _day(text: str | None, default: date, name: str) -> date:
    if not text:
        return default
    try:
        return date.fromisoformat(text[:10])
    except ValueError as error:
        raise _bad(f"Invalid format for parameter {name}: expected YYYY-MM-DD, was {text[:40]!r}") from error


def _sessions(calendar: SessionCalendar, query: Mapping[str, str]) -> list[Session]:
    start = _day(query.get("start"), calendar.first_day, "start")
    end = _day(query.get("end"), calendar.last_day, "end")
    return calendar.between(max(start, calendar.first_day), min(end, calendar.last_day))


def settlement_date(calendar: SessionCalendar, day: date) -> str:
    """Trade date plus one session (T+1, since 28 May 2024); plus two before."""
    after = calendar.between(day, min(calendar.last_day, day + timedelta(days=14)))
    steps = 1 if day >= date(2024, 5, 28) else 2
    return (after[steps].day if len(after) > steps else day + timedelta(days=steps)).isoformat()


def calendar_json(calendar: SessionCalendar, query: Mapping[str, str]) -> list[dict[str, Any]]:
    """GET /v2/calendar. With date_type=SETTLEMENT the range is one of settlement dates."""
    kind = query.get("date_type", "TRADING").upper()
    if kind not in ("TRADING", "SETTLEMENT"):
        raise _bad(f"Invalid value for parameter date_type: {kind[:40]!r}")
    by_settlement = kind == "SETTLEMENT"
    rows = []
    for session in _sessions(calendar, {} if by_settlement else query):
        opened, closed = session.open.astimezone(NEW_YORK), session.close.astimezone(NEW_YORK)
        rows.append(
            {
                "date": session.day.isoformat(),
                "open": f"{opened:%H:%M}",
                "close": f"{closed:%H:%M}",
                "session_open": f"{session.pre_open.astimezone(NEW_YORK):%H%M}",
                "session_close": f"{session.post_close.astimezone(NEW_YORK):%H%M}",
                "settlement_date": settlement_date(calendar, session.day),
            }
        )
    if not by_settlement:
        return rows
    start = _day(query.get("start"), calendar.first_day, "start").isoformat()
    end = _day(query.get("end"), calendar.last_day, "end").isoformat()
    return [row for row in rows if start <= row["settlement_date"] <= end]


def _phase(session: Session | None, now: datetime) -> str:
    if session is None or not session.contains_extended(now):
        return "closed"
    if now < session.open:
        return "pre"
    return "core" if now < session.close else "post"


def clock_v3_json(calendar: SessionCalendar, now: datetime, query: Mapping[str, str]) -> dict[str, Any]:
    """GET /v3/clock?markets=NYSE,…&time=…: each market's phase."""
    at = now
    if query.get("time"):
        try:
            at = datetime.fromisoformat(query["time"].strip())
            at = (at.replace(tzinfo=NEW_YORK) if at.tzinfo is None else at).astimezone(UTC)
        except (ValueError, OverflowError) as error:
            raise _bad("Invalid format for parameter time: expected RFC-3339") from error
    names = [name.strip() for name in (query.get("markets") or "NYSE").split(",") if name.strip()]
    try:
        session = calendar.current(at)
        rows = [
            {
                "market": market(name),
                "timestamp": _eastern(at),
                "is_market_day": session is not None,
                "phase": _phase(session, at),
                "phase_until": _eastern(_phase_end(calendar, session, at)),
                "next_market_open": _eastern(calendar.next_open(at)),
                "next_market_close": _eastern(calendar.next_close(at)),
            }
            for name in names
        ]
    except InvalidInput as error:
        raise _bad(str(error)) from error
    return {"clocks": rows}


def _phase_end(calendar: SessionCalendar, session: Session | None, at: datetime) -> datetime:
    if session is not None:
        for edge in (session.pre_open, session.open, session.close, session.post_close):
            if at < edge:
                return edge
    following = calendar.current(calendar.next_open(at))
    assert following is not None
    return following.pre_open


def market(name: str) -> dict[str, str]:
    """A market's description. Raises ApiError 400 for one that the exchange does not keep."""
    found = _MARKETS.get(name.upper())
    if found is None:
        raise _bad(f"market is not supported: {name[:20]}")
    return {**found, "timezone": "America/New_York"}


def calendar_v3_json(calendar: SessionCalendar, name: str, query: Mapping[str, str]) -> dict[str, Any]:
    """GET /v3/calendar/{market}: times with the New York offset, or in UTC when asked for."""
    zone = query.get("timezone")
    if zone not in (None, "", "UTC"):
        raise _bad(f"Invalid value for parameter timezone: {zone[:40]!r}")
    show = _utc if zone else _eastern
    rows = [
        {
            "date": session.day.isoformat(),
            "pre_start": show(session.pre_open),
            "pre_end": show(session.open),
            "core_start": show(session.open),
            "core_end": show(session.close),
            "post_start": show(session.close),
            "post_end": show(session.post_close),
            "settlement_date": settlement_date(calendar, session.day),
        }
        for session in _sessions(calendar, query)
    ]
    return {"market": market(name), "calendar": rows}
