"""What the market has shown so far: latest quotes and trades, minute and daily bars. Bounded memory."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import islice

import msgspec
from msgspec.structs import replace

from exitguard.core.quote import Quote
from exitguard.core.session import NEW_YORK

# Per stock: ten regular sessions of minute bars, and the newest quotes and trades.
_MINUTES_KEPT = 4_000
_PRINTS_KEPT = 1_000
_DAYS_KEPT = 1_000
_MINUTE = timedelta(minutes=1)


class Trade(msgspec.Struct, gc=False):
    """One print: dollars a share, shares or contracts.

    `update` says what became of it: "canceled", "incorrect" (another one took its place), "corrected" (it took the
    place of another one); empty for nearly all.
    """

    symbol: str
    price: float
    size: int
    at: datetime
    id: int
    update: str = ""

    @property
    def counts(self) -> bool:
        """Whether it is part of bars."""
        return self.update not in ("canceled", "incorrect")


class Bar(msgspec.Struct, gc=False):
    """Open, high, low, close in dollars, volume in shares, number of trades and traded value from `start` on."""

    symbol: str
    start: datetime
    open: float
    high: float
    low: float
    close: float
    volume: int
    trades: int
    value: float

    @property
    def vwap(self) -> float:
        """Volume-weighted average price."""
        return self.value / self.volume if self.volume else self.close

    def add(self, price: float, size: int) -> None:
        """Take one more trade in."""
        self.high = max(self.high, price)
        self.low = min(self.low, price)
        self.close = price
        self.volume += size
        self.trades += 1
        self.value += price * size

    def join(self, later: "Bar") -> None:
        """Take a later bar of the same stock in."""
        self.high = max(self.high, later.high)
        self.low = min(self.low, later.low)
        self.close = later.close
        self.volume += later.volume
        self.trades += later.trades
        self.value += later.value


@dataclass(frozen=True, slots=True)
class Revision:
    """A print taken back: what took its place, if anything, and the finished minute bar that it changed, if any."""

    original: Trade
    corrected: Trade | None
    bar: Bar | None


class Tape:
    """The public record of the market. Quotes are those that were shown, right or wrong."""

    def __init__(self) -> None:
        self.quotes: dict[str, Quote] = {}
        self.trades: dict[str, Trade] = {}
        self.minute_bars: dict[str, Bar] = {}
        self.daily_bars: dict[str, Bar] = {}
        self.previous_daily_bars: dict[str, Bar] = {}
        self._minute_history: dict[str, deque[Bar]] = {}
        self._daily_history: dict[str, deque[Bar]] = {}
        self._quote_history: dict[str, deque[Quote]] = {}
        self._trade_history: dict[str, deque[Trade]] = {}
        self._open_minutes: dict[str, Bar] = {}
        self._minute: datetime | None = None
        self._day: date | None = None
        self._trade_count = 0

    def add_quote(self, quote: Quote, *, keep_history: bool) -> None:
        """Record a shown quote; option quotes keep no history (the real service has none either)."""
        self.quotes[quote.symbol] = quote
        if keep_history:
            history = self._quote_history.get(quote.symbol)
            if history is None:
                history = self._quote_history[quote.symbol] = deque(maxlen=_PRINTS_KEPT)
            history.append(quote)

    def add_option_quotes(self, quotes: Iterable[Quote]) -> None:
        """Record shown option quotes, without history."""
        newest = self.quotes
        for quote in quotes:
            newest[quote.symbol] = quote

    def add_trade(self, symbol: str, price: float, size: int, at: datetime) -> Trade:
        """Record a print and build the bars from it; `roll` must have been called for `at`."""
        self._trade_count += 1
        trade = Trade(symbol, price, size, at, self._trade_count)
        self.trades[symbol] = trade
        history = self._trade_history.get(symbol)
        if history is None:
            history = self._trade_history[symbol] = deque(maxlen=_PRINTS_KEPT)
        history.append(trade)
        minute = self._open_minutes.get(symbol)
        if minute is None:
            start = at.replace(second=0, microsecond=0)
            self._open_minutes[symbol] = Bar(symbol, start, price, price, price, price, size, 1, price * size)
        else:
            minute.add(price, size)
        daily = self.daily_bars.get(symbol)
        if daily is None:
            midnight = at.astimezone(NEW_YORK).replace(hour=0, minute=0, second=0, microsecond=0)
            self.daily_bars[symbol] = Bar(symbol, midnight, price, price, price, price, size, 1, price * size)
        else:
            daily.add(price, size)
        return trade

    def revisable(self, symbol: str, back: int) -> Trade | None:
        """The print before `back` newer ones; None when there is none, or it was taken back."""
        history = self._trade_history.get(symbol, ())
        found = history[-1 - back] if 0 <= back < len(history) else None
        return found if found is not None and found.counts else None

    def revise(self, symbol: str, back: int, price: float | None) -> Revision | None:
        """Take the print before `back` newer ones back: corrected to `price`, or cancelled with None.

        None when there is no such print, or it was taken back already. The bars of its minute and its day follow.
        """
        original = self.revisable(symbol, back)
        if original is None:
            return None
        history = self._trade_history[symbol]
        corrected = None
        if price is None:
            original.update = "canceled"
        else:
            self._trade_count += 1
            original.update = "incorrect"
            corrected = replace(original, price=price, id=self._trade_count, update="corrected")
            if len(history) == history.maxlen:
                history.popleft()
            history.insert(len(history) - back, corrected)
        newest = next((trade for trade in reversed(history) if trade.counts), None)
        if newest is not None:
            self.trades[symbol] = newest
        updated = self._rebuild_minute(symbol, original.at.replace(second=0, microsecond=0), history)
        self._rebuild_day(symbol, original.at)
        return Revision(original, corrected, updated)

    def _rebuild_minute(self, symbol: str, start: datetime, history: Iterable[Trade]) -> Bar | None:
        """Make a minute's bar of its prints again; the bar, when it was finished and there still is one."""
        fresh: Bar | None = None
        for trade in history:
            if trade.counts and start <= trade.at < start + _MINUTE:
                price, size = trade.price, trade.size
                if fresh is None:
                    fresh = Bar(symbol, start, price, price, price, price, size, 1, price * size)
                else:
                    fresh.add(price, size)
        running = self._open_minutes.get(symbol)
        if running is not None and running.start == start:
            if fresh is None:
                del self._open_minutes[symbol]
            else:
                self._open_minutes[symbol] = fresh
            return None
        bars = self._minute_history.get(symbol, deque())
        index = next((index for index, bar in enumerate(bars) if bar.start == start), None)
        if index is None:
            return None
        if fresh is None:
            del bars[index]
        else:
            bars[index] = fresh
        if bars:
            self.minute_bars[symbol] = bars[-1]
        return fresh

    def _rebuild_day(self, symbol: str, at: datetime) -> None:
        """Make the running day's bar of its minutes again."""
        daily = self.daily_bars.get(symbol)
        if daily is None or at < daily.start:
            return
        minutes = self.minutes(symbol, daily.start, at.max.replace(tzinfo=at.tzinfo))
        if symbol in self._open_minutes:
            minutes.append(self._open_minutes[symbol])
        if not minutes:
            del self.daily_bars[symbol]
            return
        fresh = replace(minutes[0], start=daily.start)
        for minute in minutes[1:]:
            fresh.join(minute)
        self.daily_bars[symbol] = fresh

    def roll(self, at: datetime) -> list[Bar]:
        """Move on to `at`; the minute bars that this finished."""
        minute = at.replace(second=0, microsecond=0)
        if minute == self._minute:
            return []
        self._minute = minute
        finished = list(self._open_minutes.values())
        self._open_minutes.clear()
        for bar in finished:
            self.minute_bars[bar.symbol] = bar
            history = self._minute_history.get(bar.symbol)
            if history is None:
                history = self._minute_history[bar.symbol] = deque(maxlen=_MINUTES_KEPT)
            history.append(bar)
        day = at.astimezone(NEW_YORK).date()
        if day != self._day:
            self._roll_day(day)
        return finished

    def _roll_day(self, day: date) -> None:
        self._day = day
        for symbol, bar in self.daily_bars.items():
            self.previous_daily_bars[symbol] = bar
            self._daily_history.setdefault(symbol, deque(maxlen=_DAYS_KEPT)).append(bar)
        self.daily_bars.clear()

    def preload(self, bars: Iterable[Bar]) -> None:
        """Put minute bars of the time before the market's start into history, oldest first for each stock."""
        days: dict[tuple[str, date], Bar] = {}
        for bar in bars:
            self._minute_history.setdefault(bar.symbol, deque(maxlen=_MINUTES_KEPT)).append(bar)
            self.minute_bars[bar.symbol] = bar
            local = bar.start.astimezone(NEW_YORK)
            daily = days.get((bar.symbol, local.date()))
            if daily is None:
                midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
                days[bar.symbol, local.date()] = replace(bar, start=midnight)
            else:
                daily.join(bar)
        for (symbol, _), daily in days.items():
            self._daily_history.setdefault(symbol, deque(maxlen=_DAYS_KEPT)).append(daily)
            self.previous_daily_bars[symbol] = daily

    def forget_quotes(self, symbols: Iterable[str]) -> None:
        """Drop contracts that nobody follows any more."""
        for symbol in symbols:
            self.quotes.pop(symbol, None)

    def minutes(self, symbol: str, start: datetime, end: datetime) -> list[Bar]:
        """Finished minute bars that start between `start` and `end`, both included, oldest first."""
        return [bar for bar in _since(self._minute_history.get(symbol, ()), start) if start <= bar.start <= end]

    def days(self, symbol: str, start: datetime, end: datetime) -> list[Bar]:
        """Daily bars, the running day included."""
        bars: list[Bar] = list(self._daily_history.get(symbol, ()))
        if symbol in self.daily_bars:
            bars.append(self.daily_bars[symbol])
        return [bar for bar in bars if start <= bar.start <= end]

    def shown_quotes(self, symbol: str, start: datetime, end: datetime) -> list[Quote]:
        """Quotes between `start` and `end`, both included, oldest first; the newest few thousand are kept."""
        return [quote for quote in self._quote_history.get(symbol, ()) if start <= quote.at <= end]

    def prints(self, symbol: str, start: datetime, end: datetime) -> list[Trade]:
        """Trades between `start` and `end`, both included, oldest first; the newest few thousand are kept."""
        return [trade for trade in self._trade_history.get(symbol, ()) if start <= trade.at <= end]


def _since(bars: Sequence[Bar] | deque[Bar] | tuple[()], start: datetime) -> Iterable[Bar]:
    """Walk back from the newest to `start`: what is asked for is most often the last few bars."""
    count = 0
    for bar in reversed(bars):
        if bar.start < start:
            break
        count += 1
    return islice(bars, len(bars) - count, None)
