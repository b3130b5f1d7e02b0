"""Reads recorded minute bars from files, with the quirks that each source has.

Recognised by content, not by name:

* CSV or Parquet with columns for a timestamp (`timestamp`, `time`, `t`), the prices (`o,h,l,c` or
  `open,high,low,close`), the volume (`v`, `volume`; optional) and optionally `symbol`: the timestamp is the bar's
  START; without a zone it is New York time.
* `yyyymmdd HHMMSS;o;h;l;c;v` without a header: UTC, stamped at the bar's END (NinjaTrader exports).

CSV may be gzipped. The stock is the `symbol` column, else the file's name (`AAPL.csv.gz`, `nt-spy-minute-2011.csv`).
"""

import math
import re
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from exitguard.core.errors import InvalidInput
from exitguard.core.instrument import InstrumentType, InvalidSymbol, parse_instrument
from exitguard.core.session import NEW_YORK
from exitguard.paper.market.recorded import RecordedBar
from exitguard.paper.market.tables import first_line, rows_of, stem_of, titles_of

_NAMES = {
    "timestamp": ("timestamp", "time", "t"),
    "open": ("o", "open"),
    "high": ("h", "high"),
    "low": ("l", "low"),
    "close": ("c", "close"),
    "volume": ("v", "volume"),
    "symbol": ("symbol", "s"),
}
_REQUIRED = ("timestamp", "open", "high", "low", "close")
_MINUTE_NAME = re.compile(r"^(?:[a-z]+-)?([a-z]{1,6})-minute", re.IGNORECASE)
_SEMICOLON_ROW = re.compile(r"^\d{8} \d{6};")


def load_bars(files: Iterable[Path], symbols: Collection[str] | None = None) -> dict[str, list[RecordedBar]]:
    """Read the bars of files; `symbols` restricts them. Raises InvalidInput for an unreadable file or a bad row."""
    wanted = None if symbols is None else set(symbols)
    loaded: dict[str, list[RecordedBar]] = {}
    for file in files:
        for symbol, bars in _read(file, wanted).items():
            loaded.setdefault(symbol, []).extend(bars)
    return loaded


def symbol_of(file: Path) -> str | None:
    """The stock that a file's name says, None where it says none."""
    stem = stem_of(file)
    match = _MINUTE_NAME.match(stem)
    name = (match[1] if match else stem).upper()
    try:
        instrument = parse_instrument(name)
    except InvalidSymbol:
        return None
    return instrument.symbol if instrument.type is InstrumentType.STOCK else None


def is_headless(line: str) -> bool:
    """Whether a first line is data already: the form without a header."""
    return _SEMICOLON_ROW.match(line) is not None


def _read(file: Path, wanted: Collection[str] | None) -> dict[str, list[RecordedBar]]:
    named = symbol_of(file)
    if file.suffix != ".parquet" and is_headless(first_line(file)):
        if named is None:
            raise InvalidInput(f"{file}: the file's name says no stock and there is no column for it")
        return {named: list(_headless_rows(file))}
    titles = titles_of(file)
    columns = {
        field: next((titles.index(name) for name in names if name in titles), -1) for field, names in _NAMES.items()
    }
    absent = [field for field in _REQUIRED if columns[field] < 0]
    if absent:
        raise InvalidInput(f"{file}: the header lacks {', '.join(absent)}; found {', '.join(titles)[:200]}")
    by_column = columns["symbol"]
    if by_column < 0 and named is None:
        raise InvalidInput(f"{file}: the file's name says no stock and there is no symbol column")
    loaded: dict[str, list[RecordedBar]] = {}
    for line, row in rows_of(file):
        try:
            symbol = named if by_column < 0 else parse_instrument(row[by_column].strip()).symbol
            if symbol is None or (wanted is not None and symbol not in wanted):
                continue
            loaded.setdefault(symbol, []).append(_csv_row(row, columns))
        except (ValueError, IndexError, InvalidInput) as error:
            raise InvalidInput(f"{file}, line {line}: not a minute bar: {error}") from error
    return loaded


def _csv_row(row: list[str], columns: dict[str, int]) -> RecordedBar:
    start = datetime.fromisoformat(row[columns["timestamp"]].strip())
    if start.tzinfo is None:
        start = start.replace(tzinfo=NEW_YORK)
    volume = float(row[columns["volume"]]) if columns["volume"] >= 0 else 0.0
    prices = [float(row[columns[field]]) for field in ("open", "high", "low", "close")]
    return _bar(start.astimezone(UTC), prices, volume)


def _semicolon_row(line: str) -> RecordedBar:
    stamp, *numbers = line.strip().split(";")
    end = datetime.strptime(stamp, "%Y%m%d %H%M%S").replace(tzinfo=UTC)
    opened, high, low, close, volume = (float(number) for number in numbers)
    return _bar(end - timedelta(minutes=1), [opened, high, low, close], volume)


def _headless_rows(file: Path) -> Iterator[RecordedBar]:
    # The first line is a row here, which `rows_of` takes for titles.
    yield _checked(file, 1, first_line(file))
    for number, row in rows_of(file):
        yield _checked(file, number, row[0])


def _checked(file: Path, number: int, line: str) -> RecordedBar:
    try:
        return _semicolon_row(line)
    except (ValueError, InvalidInput) as error:
        raise InvalidInput(f"{file}, line {number}: not a minute bar: {error}") from error


def _bar(start: datetime, prices: list[float], volume: float) -> RecordedBar:
    if not all(math.isfinite(price) and price > 0 for price in prices) or not math.isfinite(volume) or volume < 0:
        raise InvalidInput(f"prices must be positive and volume not negative, found {prices} {volume}")
    opened, high, low, close = prices
    # Noise of single-precision sources may put the extremes a hair inside the others.
    high, low = max(prices), min(prices)
    return RecordedBar(start, opened, high, low, close, int(volume))
