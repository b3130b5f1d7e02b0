"""Reads recorded minute bars from files, with the quirks that each source has.

Recognised by content, not by name:

* CSV with a header that names a timestamp (`timestamp`, `time`, `t`), the prices (`o,h,l,c` or `open,high,low,close`),
  the volume (`v`, `volume`; optional) and optionally `symbol`: the timestamp is the bar's START; without a zone it is
  New York time.
* `yyyymmdd HHMMSS;o;h;l;c;v` without a header: UTC, stamped at the bar's END (NinjaTrader exports).

Either may be gzipped. The stock is the `symbol` column, else the file's name (`AAPL.csv.gz`, `nt-spy-minute-2011.csv`).
"""

import csv
import gzip
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from exitguard.core.errors import InvalidInput
from exitguard.core.instrument import InstrumentType, InvalidSymbol, parse_instrument
from exitguard.core.session import NEW_YORK
from exitguard.paper.market.recorded import RecordedBar

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


def load_bars(path: Path, symbols: Collection[str] | None = None) -> dict[str, list[RecordedBar]]:
    """Read the bars of a file, or of every stock file in a folder; `symbols` restricts them.

    Raises InvalidInput where the path is missing, holds no readable stock bars, lacks an asked symbol or has a bad
    row.
    """
    if not path.exists():
        raise InvalidInput(f"replay path {path} does not exist")
    wanted = None if symbols is None else set(symbols)
    loaded: dict[str, list[RecordedBar]] = {}
    for file in _stock_files(path, wanted):
        for symbol, bars in _read(file, wanted).items():
            loaded.setdefault(symbol, []).extend(bars)
    missing = sorted((wanted or set()) - loaded.keys())
    if missing:
        raise InvalidInput(f"replay path {path} has no bars of {', '.join(missing)}")
    if not loaded:
        raise InvalidInput(f"replay path {path} holds no stock bars: expected .csv or .csv.gz files")
    return loaded


def _stock_files(path: Path, wanted: Collection[str] | None) -> list[Path]:
    if path.is_file():
        return [path]
    files = [file for file in sorted(path.iterdir()) if file.name.endswith((".csv", ".csv.gz"))]
    # A folder may hold more than stock bars (option trades): take what is named as a stock, or asked for.
    named = [(file, _symbol_of(file)) for file in files]
    return [file for file, symbol in named if symbol is not None and (wanted is None or symbol in wanted)]


def _symbol_of(file: Path) -> str | None:
    stem = file.name.removesuffix(".gz").removesuffix(".csv")
    match = _MINUTE_NAME.match(stem)
    name = (match[1] if match else stem).upper()
    try:
        instrument = parse_instrument(name)
    except InvalidSymbol:
        return None
    return instrument.symbol if instrument.type is InstrumentType.STOCK else None


def _read(file: Path, wanted: Collection[str] | None) -> dict[str, list[RecordedBar]]:
    try:
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as text:
            first = text.readline()
            if _SEMICOLON_ROW.match(first):
                symbol = _symbol_of(file)
                if symbol is None:
                    raise InvalidInput(f"{file}: the file's name says no stock and there is no column for it")
                return {symbol: list(_rows(file, _chain(first, text), _semicolon_row, start_line=1))}
            return _read_csv(file, first, text, wanted)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file}: cannot be read as minute bars: {error}") from error


def _chain(first: str, rest: Iterable[str]) -> Iterator[str]:
    yield first
    yield from rest


def _read_csv(
    file: Path, header: str, text: Iterable[str], wanted: Collection[str] | None
) -> dict[str, list[RecordedBar]]:
    titles = [title.strip().lower() for title in header.strip().split(",")]
    columns = {
        field: next((titles.index(name) for name in names if name in titles), -1) for field, names in _NAMES.items()
    }
    absent = [field for field in _REQUIRED if columns[field] < 0]
    if absent:
        raise InvalidInput(f"{file}: the header lacks {', '.join(absent)}; found {', '.join(titles)[:200]}")
    by_column = columns["symbol"]
    named = _symbol_of(file)
    if by_column < 0 and named is None:
        raise InvalidInput(f"{file}: the file's name says no stock and there is no symbol column")
    loaded: dict[str, list[RecordedBar]] = {}
    for line, row in enumerate(csv.reader(text), start=2):
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


def _rows(
    file: Path, lines: Iterable[str], parse: Callable[[str], RecordedBar], start_line: int
) -> Iterator[RecordedBar]:
    for number, line in enumerate(lines, start=start_line):
        if not line.strip():
            continue
        try:
            yield parse(line)
        except (ValueError, InvalidInput) as error:
            raise InvalidInput(f"{file}, line {number}: not a minute bar: {error}") from error


def _bar(start: datetime, prices: list[float], volume: float) -> RecordedBar:
    if not all(math.isfinite(price) and price > 0 for price in prices) or not math.isfinite(volume) or volume < 0:
        raise InvalidInput(f"prices must be positive and volume not negative, found {prices} {volume}")
    opened, high, low, close = prices
    # Noise of single-precision sources may put the extremes a hair inside the others.
    high, low = max(prices), min(prices)
    return RecordedBar(start, opened, high, low, close, int(volume))
