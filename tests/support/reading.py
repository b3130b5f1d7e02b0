"""An independent reading of recorded bars and captured quotes: when must a position leave, and why?

Written from `spec/exits.md` alone and sharing no code with the product, so that both can only agree by being right.
"""

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")
DATA = Path(__file__).parents[3] / "shared" / "data" / "minute-bars"
# A price this near to a level may or may not count: bid, ask and mid differ by a cent or two.
HAIR = Decimal("0.02")


@dataclass(frozen=True)
class Look:
    """A price at a moment."""

    at: datetime
    price: Decimal


def pyqstrat_day(symbol: str, day: str) -> list[Look]:
    """The path of one recorded day: open at :00, the extreme nearer to the open at :15, the other at :30, close at
    :45."""
    looks = []
    with gzip.open(DATA / f"{symbol}.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            if row["timestamp"].startswith(day):
                start = datetime.fromisoformat(row["timestamp"]).replace(tzinfo=NEW_YORK).astimezone(UTC)
                looks += _bar(start, [round(Decimal(row[key]), 2) for key in ("o", "h", "l", "c")], row)
    return looks


def ninja_days(file_name: str, days: Sequence[str]) -> list[Look]:
    """The same of a semicolon file, whose stamps are UTC and at the bar's END; `days` as yyyymmdd."""
    looks = []
    for line in (DATA / file_name).read_text().splitlines():
        stamp, *prices = line.split(";")
        if stamp[:8] in days:
            end = datetime.strptime(stamp, "%Y%m%d %H%M%S").replace(tzinfo=UTC)
            looks += _bar(end - timedelta(minutes=1), [round(Decimal(p), 2) for p in prices[:4]], None)
    return looks


def _bar(start: datetime, prices: list[Decimal], row: dict[str, str] | None) -> list[Look]:
    first, high, low, last = prices
    if row is not None:
        # The order of the extremes is decided on the unrounded numbers.
        up, down = Decimal(row["h"]) - Decimal(row["o"]), Decimal(row["o"]) - Decimal(row["l"])
    else:
        up, down = high - first, first - low
    second, third = (high, low) if up < down else (low, high)
    return [Look(start + timedelta(seconds=15 * i), price) for i, price in enumerate((first, second, third, last))]


@dataclass(frozen=True)
class Expected:
    """Why and between which minutes a position must leave; without reasons it must still be there.

    There is more than one reason only where a price came within a hair of a level before something else was due.
    """

    reasons: frozenset[str]
    earliest: datetime
    latest: datetime


@dataclass(frozen=True)
class Held:
    """A position as the venue's fills show it, and the numbers that its policy gives."""

    sign: int
    entry: Decimal
    opened: datetime
    stop: Decimal
    target: Decimal
    min_hold: timedelta
    deadline: datetime
    forced: dict[datetime, str]
    hard_stop: Decimal | None = None


def must_leave(position: Held, looks: Sequence[Look], end: datetime) -> Expected:
    """Walk along the path: the first price or time rule wins; a hair's breadth of a level widens the window."""
    times = {position.deadline: "max_hold_time", **position.forced}
    due, time_reason = min(times.items())
    blocked_until = position.opened + position.min_hold
    first: datetime | None = None
    reasons: set[str] = set()
    for look in looks:
        if look.at <= position.opened:
            continue
        if look.at >= min(due, end):
            break
        for reason, sure in _price_reasons(position, look, blocked_until):
            first = first or look.at
            reasons.add(reason)
            if sure:
                return Expected(frozenset(reasons), _minute(first), _minute(look.at))
    if due < end:
        last = _minute(due + timedelta(seconds=59))
        return Expected(frozenset({*reasons, time_reason}), _minute(first or due), last)
    return Expected(frozenset(reasons), _minute(first) if first else end, end)


def _price_reasons(position: Held, look: Look, blocked_until: datetime) -> list[tuple[str, bool]]:
    found = []
    if position.hard_stop is not None:
        beyond = (position.hard_stop - look.price) * position.sign
        if beyond >= -HAIR:
            found.append(("catastrophic_stop", beyond >= HAIR))
    if look.at >= blocked_until:
        beyond = (position.stop - look.price) * position.sign
        if beyond >= -HAIR:
            found.append(("stop_loss", beyond >= HAIR))
        beyond = (look.price - position.target) * position.sign
        if beyond >= -HAIR:
            found.append(("take_profit", beyond >= HAIR))
    return sorted(found, key=lambda item: not item[1])


def _minute(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)
