"""Recorded quotes and trades: the exchange's own file format, and a source that plays it back as it came.

A recording is a table (CSV, gzipped or not, or Parquet) with one event a row, in the order in which they were heard:

    timestamp,kind,symbol,bid,ask,bid_size,ask_size,price,size

`kind` is quote, trade, halt or resume. `timestamp` is the venue's own (RFC 3339, to the microsecond; without a zone New
York time). An event is played at the latest timestamp up to its row: time never goes back, and a quote that was heard
late is played late with its old timestamp, as it was. Tables of others need `timestamp`, `bid` and `ask`; `kind` may be
missing, and `symbol` when the file's name says it.
"""

import heapq
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path

from exitguard.core.errors import InvalidInput
from exitguard.core.instrument import Instrument, parse_instrument
from exitguard.core.quote import Quote
from exitguard.core.session import NEW_YORK
from exitguard.paper.market.bar_files import symbol_of
from exitguard.paper.market.tables import rows_of, titles_of
from exitguard.paper.market.ticks import Print, Round, StatusChange, Tick

COLUMNS = ("timestamp", "kind", "symbol", "bid", "ask", "bid_size", "ask_size", "price", "size")
_ALIASES = {
    "timestamp": ("timestamp", "time", "t", "at"),
    "kind": ("kind",),
    "symbol": ("symbol", "s"),
    "bid": ("bid", "bid_price", "bp"),
    "ask": ("ask", "ask_price", "ap"),
    "bid_size": ("bid_size", "bs"),
    "ask_size": ("ask_size", "as"),
    "price": ("price", "p"),
    "size": ("size",),
}
_KINDS = ("quote", "trade", "halt", "resume")
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Event:
    """One row: when it is played, and what it is."""

    at: datetime
    item: Quote | Print | StatusChange


@dataclass(slots=True)
class _Scan:
    """What one pass over a recording finds."""

    first: datetime | None = None
    last: datetime | None = None
    prices: dict[str, Decimal] = field(default_factory=dict)


def is_recording(titles: Collection[str]) -> bool:
    """Whether a table's titles are those of quotes."""
    return all(any(name in titles for name in _ALIASES[column]) for column in ("timestamp", "bid", "ask"))


def read_events(file: Path, wanted: Collection[str] | None = None) -> Iterator[Event]:
    """The events of one file in order; `wanted` restricts them to stocks and their options. Raises InvalidInput."""
    titles = titles_of(file)
    columns = {
        name: next((titles.index(each) for each in names if each in titles), -1) for name, names in _ALIASES.items()
    }
    named = symbol_of(file)
    if columns["symbol"] < 0 and named is None:
        raise InvalidInput(f"{file}: the file's name says no stock and there is no symbol column")
    reached: datetime | None = None
    for line, row in rows_of(file, cut_end=columns["kind"] >= 0):
        try:
            cells = {name: row[index].strip() if index >= 0 else "" for name, index in columns.items()}
            instrument = _instrument(cells["symbol"] or named or "")
            if wanted is not None and instrument.underlying not in wanted and instrument.symbol not in wanted:
                continue
            stamp = _moment(cells["timestamp"])
            item = _item(cells, instrument.symbol, stamp)
        except (ValueError, IndexError, InvalidOperation, InvalidInput) as error:
            raise InvalidInput(f"{file}, line {line}: not a recorded event: {error}") from error
        reached = stamp if reached is None or stamp > reached else reached
        yield Event(reached, item)


def _item(cells: dict[str, str], symbol: str, at: datetime) -> Quote | Print | StatusChange:
    kind = cells["kind"] or "quote"
    if kind == "quote":
        # A feed can carry what is no number; it is played as it came.
        bid, ask = (Decimal(cells[name]) if cells[name] else _ZERO for name in ("bid", "ask"))
        return Quote(symbol, bid, ask, at, _size(cells["bid_size"]), _size(cells["ask_size"]))
    if kind == "trade":
        price = Decimal(cells["price"])
        if not price.is_finite() or price <= 0:
            raise InvalidInput(f"a trade needs a price above zero, found {cells['price']!r}")
        return Print(symbol, price, _size(cells["size"]), at)
    if kind in ("halt", "resume"):
        return StatusChange(symbol, kind == "halt")
    raise InvalidInput(f"kind must be one of {', '.join(_KINDS)}, found {kind[:40]!r}")


def _size(text: str) -> int:
    size = int(float(text)) if text else 0
    if size < 0:
        raise InvalidInput(f"a size must not be negative, found {text!r}")
    return size


@lru_cache(maxsize=1 << 14)
def _instrument(symbol: str) -> Instrument:
    return parse_instrument(symbol)


def _moment(text: str) -> datetime:
    # Nanoseconds, as data vendors write them: what is below a microsecond is cut off.
    head, point, fraction = text.partition(".")
    if point:
        digits = len(fraction) - len(fraction.lstrip("0123456789"))
        text = f"{head}.{fraction[: min(digits, 6)]}{fraction[digits:]}"
    at = datetime.fromisoformat(text)
    return at.replace(tzinfo=NEW_YORK).astimezone(UTC) if at.tzinfo is None else at.astimezone(UTC)


class RecordedTicks:
    """A source that plays recordings; several files are merged by time. Nothing but one row a file is in memory."""

    def __init__(self, files: Sequence[Path], wanted: Collection[str] | None = None) -> None:
        self._files = list(files)
        self._wanted = None if wanted is None else frozenset(wanted)
        scan = _Scan()
        for file in self._files:
            for event in read_events(file, self._wanted):
                _look(scan, event)
        if scan.first is None or scan.last is None:
            raise InvalidInput(f"{', '.join(map(str, files))}: nothing is recorded of what was asked for")
        self._first, self._last, self._prices = scan.first, scan.last, scan.prices
        self._events = self._merged()
        self._next = next(self._events, None)

    def symbols(self) -> Sequence[str]:
        """The stocks recorded."""
        return sorted(symbol for symbol in self._prices if not _instrument(symbol).is_option)

    def option_symbols(self) -> list[str]:
        """The option contracts recorded."""
        return sorted(symbol for symbol in self._prices if _instrument(symbol).is_option)

    def first_at(self) -> datetime:
        """Time of the first event."""
        return self._first

    def last_at(self) -> datetime:
        """Time of the last event."""
        return self._last

    def opening_price(self, symbol: str) -> Decimal:
        """The first price that makes sense: the middle of a sane quote, or a trade; one dollar without any."""
        return self._prices[symbol] or Decimal(1)

    def peek(self) -> datetime | None:
        """Time of the next event."""
        return None if self._next is None else self._next.at

    def take(self) -> Round:
        """The next events of one instant, as far as they can be shown together in their order."""
        if self._next is None:
            raise InvalidInput("the recording has ended")
        one = Round(self._next.at)
        while self._next is not None and self._next.at == one.at and _fits(one, self._next):
            item = self._next.item
            if isinstance(item, Quote):
                one.ticks.append(Tick(item))
            elif isinstance(item, Print):
                one.prints.append(item)
            else:
                one.statuses.append(item)
            self._next = next(self._events, None)
        return one

    def seek(self, moment: datetime) -> None:
        """Skip to the first event at or after `moment`."""
        while self._next is not None and self._next.at < moment:
            self._next = next(self._events, None)

    def _merged(self) -> Iterator[Event]:
        readers = [read_events(file, self._wanted) for file in self._files]
        return readers[0] if len(readers) == 1 else heapq.merge(*readers, key=lambda event: event.at)


def _fits(one: Round, event: Event) -> bool:
    """A round shows statuses, then trades, then quotes: what would change the order begins another round."""
    if isinstance(event.item, StatusChange):
        return not (one.prints or one.ticks)
    return isinstance(event.item, Quote) or not one.ticks


def _look(scan: _Scan, event: Event) -> None:
    scan.first = scan.first or event.at
    scan.last = event.at if scan.last is None else max(scan.last, event.at)
    item = event.item
    known = scan.prices.setdefault(item.symbol, _ZERO)
    if known:
        return
    if isinstance(item, Print):
        scan.prices[item.symbol] = item.price
    elif isinstance(item, Quote) and item.bid.is_finite() and item.ask.is_finite() and 0 < item.bid <= item.ask:
        scan.prices[item.symbol] = item.mid


def text_of(item: Quote | Print | StatusChange, at: datetime) -> str:
    """One row of a recording, with its line end. Prices are written as they are, not rounded."""
    stamp = at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(item, Quote):
        return f"{stamp},quote,{item.symbol},{item.bid},{item.ask},{item.bid_size},{item.ask_size},,\n"
    if isinstance(item, Print):
        return f"{stamp},trade,{item.symbol},,,,,{item.price},{item.size}\n"
    return f"{stamp},{'halt' if item.halted else 'resume'},{item.symbol},,,,,,\n"
