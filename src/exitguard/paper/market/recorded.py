"""Plays recorded one-minute bars of real days as quotes and trades.

How a bar becomes quotes (`docs/exchange.md` promises exactly this). A bar of minute M is played in four rounds:

====  =====================================================================
:00   open
:15   the extreme (high or low) that is nearer to the open; the low on a tie
:30   the other extreme
:45   close
====  =====================================================================

Each price is rounded to 0.01, traded once (the four trades' sizes sum to the bar's volume) and quoted around itself:
bid = price - h, ask = price + h, h = half the configured spread in whole cents, at least 0.01; the mid is the bar's
price. A minute without a bar, between the first and the last bar of its day, repeats the last price as a quote in all
four rounds, without a trade. Before a day's first bar and after its last there are no quotes.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from exitguard.core.errors import InvalidInput
from exitguard.core.quote import Quote
from exitguard.core.session import NEW_YORK
from exitguard.paper.market.ticks import Round, Tick, quoted_around, stock_price

DEFAULT_SPREAD_FRACTION = 0.0001
_MINUTE = timedelta(minutes=1)
_SLOT_SECONDS = (0, 15, 30, 45)


@dataclass(frozen=True, slots=True)
class RecordedBar:
    """One minute of one stock: `start` aware UTC, prices in dollars, volume in shares."""

    start: datetime
    open: float
    high: float
    low: float
    close: float
    volume: int

    def path(self) -> tuple[float, float, float, float]:
        """The four prices in the order in which they are played."""
        if self.high - self.open < self.open - self.low:
            return self.open, self.high, self.low, self.close
        return self.open, self.low, self.high, self.close


@dataclass(slots=True)
class _Track:
    """A stock's bars by New York day."""

    days: dict[date, list[RecordedBar]]

    def bars_by_minute(self, day: date) -> dict[datetime, RecordedBar]:
        return {bar.start: bar for bar in self.days.get(day, ())}


class RecordedBars:
    """A source that plays bars; see the module's description for the exact path."""

    def __init__(
        self, bars: Mapping[str, Iterable[RecordedBar]], *, spread_fraction: float = DEFAULT_SPREAD_FRACTION
    ) -> None:
        if not 0 <= spread_fraction < 1:
            raise InvalidInput(f"spread must be a fraction of the price from 0 to below 1, was {spread_fraction}")
        self._spread = spread_fraction
        self._tracks = {symbol: _Track(_by_day(symbol, rows)) for symbol, rows in bars.items()}
        self._tracks = {symbol: track for symbol, track in self._tracks.items() if track.days}
        if not self._tracks:
            raise InvalidInput("there are no bars to play: check the replay path and the symbols asked for")
        self._days = sorted({day for track in self._tracks.values() for day in track.days})
        self._rounds = self._play(None)
        self._next: Round | None = next(self._rounds, None)

    def symbols(self) -> Sequence[str]:
        """The stocks recorded."""
        return sorted(self._tracks)

    def first_at(self) -> datetime:
        """Start of the earliest day on which most of the stocks have bars."""
        common = max(self._days, key=lambda day: (sum(day in t.days for t in self._tracks.values()), -day.toordinal()))
        return min(t.days[common][0].start for t in self._tracks.values() if common in t.days)

    def last_at(self) -> datetime:
        """End of the last bar."""
        last = self._days[-1]
        return max(t.days[last][-1].start for t in self._tracks.values() if last in t.days) + _MINUTE

    def opening_price(self, symbol: str) -> Decimal:
        """The first open recorded."""
        days = self._tracks[symbol].days
        return stock_price(days[min(days)][0].open)

    def closes(self, symbol: str) -> list[tuple[date, float]]:
        """Each day's last price; the material for an estimate of the stock's volatility."""
        return [(day, bars[-1].close) for day, bars in sorted(self._tracks[symbol].days.items())]

    def before(self, moment: datetime) -> Iterator[tuple[str, RecordedBar]]:
        """The bars that were over by `moment`, oldest first for each stock."""
        for symbol, track in self._tracks.items():
            for bars in track.days.values():
                for bar in bars:
                    if bar.start + _MINUTE <= moment:
                        yield symbol, bar

    def peek(self) -> datetime | None:
        """Time of the next round."""
        return None if self._next is None else self._next.at

    def take(self) -> Round:
        """The next round."""
        if self._next is None:
            raise InvalidInput("the recorded bars have ended")
        taken, self._next = self._next, next(self._rounds, None)
        return taken

    def seek(self, moment: datetime) -> None:
        """Skip to the first round at or after `moment`."""
        self._rounds = self._play(moment)
        self._next = next(self._rounds, None)

    def _play(self, start: datetime | None) -> Iterator[Round]:
        first = 0 if start is None else bisect_left(self._days, start.astimezone(NEW_YORK).date())
        for day in self._days[first:]:
            for one in self._play_day(day):
                if start is None or one.at >= start:
                    yield one

    def _play_day(self, day: date) -> Iterator[Round]:
        tracks = [
            (symbol, track.bars_by_minute(day), track.days[day][0].start, track.days[day][-1].start)
            for symbol, track in self._tracks.items()
            if day in track.days
        ]
        minute = min(first for _, _, first, _ in tracks)
        end = max(last for _, _, _, last in tracks)
        last_price: dict[str, float] = {}
        while minute <= end:
            live = [(symbol, bars.get(minute)) for symbol, bars, first, last in tracks if first <= minute <= last]
            yield from self._play_minute(minute, live, last_price)
            minute += _MINUTE

    def _play_minute(
        self, minute: datetime, live: list[tuple[str, RecordedBar | None]], last_price: dict[str, float]
    ) -> Iterator[Round]:
        for slot, second in enumerate(_SLOT_SECONDS):
            at = minute + timedelta(seconds=second)
            ticks = []
            for symbol, bar in live:
                price = last_price[symbol] if bar is None else bar.path()[slot]
                last_price[symbol] = price
                ticks.append(self._tick(symbol, at, price, bar, slot))
            if ticks:
                yield Round(at, ticks)

    def _tick(self, symbol: str, at: datetime, price: float, bar: RecordedBar | None, slot: int) -> Tick:
        bid, middle, ask = quoted_around(price, self._spread)
        if bar is None:
            return Tick(Quote(symbol, bid, ask, at, 100, 100, None))
        share, rest = divmod(bar.volume, len(_SLOT_SECONDS))
        size = share + (rest if slot == len(_SLOT_SECONDS) - 1 else 0)
        # Displayed depth is not in the data: a hundredth of the minute's volume, between 1 and 20 round lots.
        depth = min(2000, max(100, bar.volume // 10_000 * 100))
        return Tick(Quote(symbol, bid, ask, at, depth, depth, middle if size else None), size)


def _by_day(symbol: str, rows: Iterable[RecordedBar]) -> dict[date, list[RecordedBar]]:
    days: dict[date, dict[datetime, RecordedBar]] = {}
    for bar in rows:
        if bar.start.tzinfo is None or bar.start.second or bar.start.microsecond:
            raise InvalidInput(f"{symbol}: bars start on a minute with a time zone, found {bar.start.isoformat()}")
        # The last of two bars for one minute is the correction.
        days.setdefault(bar.start.astimezone(NEW_YORK).date(), {})[bar.start.astimezone(UTC)] = bar
    return {day: [minutes[start] for start in sorted(minutes)] for day, minutes in sorted(days.items())}
