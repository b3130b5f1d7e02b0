"""Windows, pages and time frames of historical data."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace

from exitguard.core.session import NEW_YORK
from exitguard.paper.market.tape import Bar
from exitguard.paper.server.data_fields import bad_request, whole_number

_DEFAULT_LIMIT = 1000
_HIGHEST_LIMIT = 10_000
_TIMEFRAME = re.compile(r"^(\d{1,2})(Min|T|Hour|H|Day|D|Week|W|Month|M)$", re.IGNORECASE)
_UNITS = {"t": "Min", "min": "Min", "h": "Hour", "hour": "Hour", "d": "Day", "day": "Day"} | {
    "w": "Week",
    "week": "Week",
    "m": "Month",
    "month": "Month",
}
_LARGEST = {"Min": 59, "Hour": 23, "Day": 1, "Week": 1, "Month": 12}


@dataclass(frozen=True, slots=True)
class Row:
    """One historical item."""

    symbol: str
    at: datetime
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Window:
    """What part of history is asked for."""

    start: datetime
    end: datetime
    limit: int
    descending: bool
    skip: int


def moment_of(text: str, name: str, *, end_of_day: bool = False) -> datetime:
    """A time or a date (New York) of a query. Raises ApiError 400."""
    try:
        at = datetime.fromisoformat(text.strip().replace(" ", "+"))
    except ValueError as error:
        raise bad_request(f"invalid {name}: expected RFC-3339 or YYYY-MM-DD, was {text[:40]!r}") from error
    try:
        if at.tzinfo is None:
            at = at.replace(tzinfo=NEW_YORK)
            if end_of_day and len(text) == 10:
                at += timedelta(days=1) - timedelta(microseconds=1)
        return at.astimezone(UTC)
    except OverflowError as error:
        raise bad_request(f"invalid {name}: out of range, was {text[:40]!r}") from error


def window_of(query: Mapping[str, str], *, default_start: datetime, now: datetime) -> Window:
    """Read start, end, limit, sort and page_token. Raises ApiError 400."""
    start = moment_of(query["start"], "start") if query.get("start") else default_start
    end = moment_of(query["end"], "end", end_of_day=True) if query.get("end") else max(now, start)
    if end < start:
        raise bad_request("end should not be before start")
    limit = whole_number(query, "limit", _DEFAULT_LIMIT, _HIGHEST_LIMIT)
    sort = query.get("sort", "asc").lower()
    if sort not in ("asc", "desc"):
        raise bad_request(f"invalid sort: expected asc or desc, was {sort[:20]!r}")
    return Window(start, end, limit, sort == "desc", token_offset(query.get("page_token")))


def token_offset(token: str | None) -> int:
    """The number of items that earlier pages held. Raises ApiError 400 for a token that we did not make."""
    if not token:
        return 0
    try:
        prefix, _, number = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
    except (binascii.Error, ValueError) as error:
        raise bad_request("invalid page_token") from error
    if prefix != "offset" or not (number.isascii() and number.isdigit()) or len(number) > 9:
        raise bad_request("invalid page_token")
    return int(number)


def offset_token(offset: int) -> str:
    """The token of the page that begins at `offset`."""
    return base64.urlsafe_b64encode(f"offset:{offset}".encode()).decode()


def page(rows: Sequence[Row], window: Window) -> tuple[Sequence[Row], str | None]:
    """The rows of one page, and the next page's token or None."""
    end = window.skip + window.limit
    return rows[window.skip : end], offset_token(end) if end < len(rows) else None


def parse_timeframe(text: str) -> tuple[int, str]:
    """Number and unit (Min, Hour, Day, Week, Month) of a timeframe such as 5Min, 1H, 1Day. Raises ApiError 400."""
    match = _TIMEFRAME.match(text)
    if match is not None:
        count, unit = int(match[1]), _UNITS[match[2].lower()]
        if 1 <= count <= _LARGEST[unit] and (unit != "Month" or 12 % count == 0):
            return count, unit
    raise bad_request(f"invalid timeframe: {text[:20]}")


def aggregate(bars: Sequence[Bar], count: int, unit: str) -> list[Bar]:
    """Join bars into larger ones, aligned to New York time."""
    if (count, unit) in ((1, "Min"), (1, "Day")):
        return list(bars)
    joined: list[Bar] = []
    for bar in bars:
        start = _bucket(bar.start, count, unit)
        if joined and joined[-1].start == start:
            joined[-1].join(bar)
        else:
            joined.append(replace(bar, start=start))
    return joined


def _bucket(start: datetime, count: int, unit: str) -> datetime:
    local = start.astimezone(NEW_YORK)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit in ("Min", "Hour"):
        minutes = local.hour * 60 + local.minute
        size = count if unit == "Min" else count * 60
        return local.replace(hour=minutes // size * size // 60, minute=minutes // size * size % 60).astimezone(UTC)
    if unit == "Day":
        return midnight.astimezone(UTC)
    if unit == "Week":
        return (midnight - timedelta(days=midnight.weekday())).astimezone(UTC)
    first = (midnight.month - 1) // count * count + 1
    return midnight.replace(month=first, day=1).astimezone(UTC)
