"""Recorded bars: the documented path inside a minute, carried prices, DST, and reading files with their quirks."""

import gzip
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from exitguard.core.errors import InvalidInput
from exitguard.core.session import NEW_YORK
from exitguard.paper.market.recorded import RecordedBar, RecordedBars
from exitguard.paper.market.replay import load_replay
from exitguard.paper.market.ticks import Round

MINUTE = datetime(2023, 1, 3, 14, 31, tzinfo=UTC)
SHARED = Path(__file__).parents[4] / "shared" / "data" / "minute-bars"


def bar(start: datetime, *prices: float, volume: int = 1000) -> RecordedBar:
    return RecordedBar(start, *prices, volume)


def play(source: RecordedBars) -> list[Round]:
    rounds = []
    while source.peek() is not None:
        rounds.append(source.take())
    return rounds


@pytest.mark.parametrize(
    ("prices", "path"),
    [
        ((10.0, 10.5, 9.9, 10.2), ["10.00", "9.90", "10.50", "10.20"]),  # the low is nearer
        ((10.0, 10.1, 9.0, 9.5), ["10.00", "10.10", "9.00", "9.50"]),  # the high is nearer
        ((10.0, 10.5, 9.5, 10.2), ["10.00", "9.50", "10.50", "10.20"]),  # a tie: the low first
        ((10.0, 10.0, 10.0, 10.0), ["10.00"] * 4),
        ((129.76819, 129.87001, 129.45999, 129.65001), ["129.77", "129.87", "129.46", "129.65"]),  # noise is rounded
    ],
)
def test_a_bar_is_played_open_nearer_extreme_other_extreme_close(prices: tuple[float, ...], path: list[str]) -> None:
    rounds = play(RecordedBars({"AAPL": [bar(MINUTE, *prices)]}))
    assert [one.at for one in rounds] == [MINUTE + timedelta(seconds=s) for s in (0, 15, 30, 45)]
    assert [str(one.ticks[0].quote.last) for one in rounds] == path
    assert [one.ticks[0].quote.mid for one in rounds] == [Decimal(price) for price in path]
    assert sum(one.ticks[0].trade_size for one in rounds) == 1000


def test_the_spread_is_configurable_and_at_least_two_cents() -> None:
    narrow = RecordedBars({"AAPL": [bar(MINUTE, 100, 100, 100, 100)]}, spread_fraction=0.0).take().ticks[0].quote
    wide = RecordedBars({"AAPL": [bar(MINUTE, 100, 100, 100, 100)]}, spread_fraction=0.01).take().ticks[0].quote
    assert (narrow.bid, narrow.ask) == (Decimal("99.99"), Decimal("100.01"))
    assert (wide.bid, wide.ask) == (Decimal("99.50"), Decimal("100.50"))


def test_a_missing_minute_repeats_the_last_price_without_a_trade() -> None:
    later = MINUTE + timedelta(minutes=2)
    rounds = play(RecordedBars({"IBM": [bar(MINUTE, 5, 6, 4, 5.5), bar(later, 7, 7, 7, 7)]}))
    gap = [one.ticks[0] for one in rounds if MINUTE + timedelta(minutes=1) <= one.at < later]
    assert len(gap) == 4
    assert {tick.quote.mid for tick in gap} == {Decimal("5.50")}
    assert all(tick.trade_size == 0 and tick.quote.last is None for tick in gap)


def test_prices_are_not_carried_over_night() -> None:
    tomorrow = MINUTE + timedelta(days=1)
    rounds = play(RecordedBars({"IBM": [bar(MINUTE, 5, 5, 5, 5), bar(tomorrow, 9, 9, 9, 9)]}))
    assert [one.at.date() for one in rounds] == [date(2023, 1, 3)] * 4 + [date(2023, 1, 4)] * 4


def test_several_stocks_share_their_rounds_and_seek_starts_in_the_middle() -> None:
    bars = {
        "AAPL": [bar(MINUTE, 1, 1, 1, 1), bar(MINUTE + timedelta(minutes=1), 2, 2, 2, 2)],
        "IBM": [bar(MINUTE + timedelta(minutes=1), 3, 3, 3, 3)],
    }
    source = RecordedBars(bars)
    source.seek(MINUTE + timedelta(seconds=50))
    assert [tick.quote.symbol for tick in source.take().ticks] == ["AAPL", "IBM"]
    assert source.first_at() == MINUTE
    assert source.last_at() == MINUTE + timedelta(minutes=2)


def test_files_of_naive_new_york_starts(tmp_path: Path) -> None:
    path = tmp_path / "AAPL.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("timestamp,o,h,l,c,v\n2023-01-03 09:31:00,129.7,129.8,129.4,129.6,463769\n")
    bars = load_replay(path).bars
    assert bars == {"AAPL": [bar(MINUTE, 129.7, 129.8, 129.4, 129.6, volume=463769)]}


def test_files_of_utc_ends_start_a_minute_earlier(tmp_path: Path) -> None:
    path = tmp_path / "nt-spy-minute-2011.csv"
    path.write_text("20110103 143100;126.7;126.8;126.6;126.75;100\n")
    (found,) = load_replay(path).bars["SPY"]
    assert found.start == datetime(2011, 1, 3, 14, 30, tzinfo=UTC)


def test_a_file_may_name_its_stocks_in_a_column(tmp_path: Path) -> None:
    path = tmp_path / "mixed bars.csv"
    path.write_text(
        "symbol,t,open,high,low,close\nAAPL,2023-01-03T14:31:00Z,1,1,1,1\nBRK.B,2023-01-03T14:31:00Z,2,2,2,2\n"
    )
    assert set(load_replay(path).bars) == {"AAPL", "BRK.B"}
    assert set(load_replay(path, ["BRK.B"]).bars) == {"BRK.B"}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("timestamp,o,h,l\n", "lacks close"),
        ("timestamp,o,h,l,c,v\n2023-01-03 09:31:00,1,1,1,nan,5\n", "line 2"),
        ("timestamp,o,h,l,c,v\n2023-01-03 09:31:00,1,1,1,-1,5\n", "line 2"),
        ("timestamp,o,h,l,c,v\nyesterday,1,1,1,1,5\n", "line 2"),
        ("timestamp,o,h,l,c,v\n2023-01-03 09:31:00,1\n", "line 2"),
        ("20110103 143100;1;2\n", "line 1"),
    ],
)
def test_bad_files_are_refused_with_the_line(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "AAPL.csv"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=complaint):
        load_replay(path)


def test_missing_paths_symbols_and_bars_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        load_replay(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="no stock bars"):
        load_replay(tmp_path)
    (tmp_path / "AAPL.csv").write_text("timestamp,o,h,l,c,v\n2023-01-03 09:31:00,1,1,1,1,5\n")
    with pytest.raises(InvalidInput, match="nothing of IBM"):
        load_replay(tmp_path, ["AAPL", "IBM"])
    (tmp_path / "AAPL.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(InvalidInput, match=r"AAPL\.csv\.gz"):
        load_replay(tmp_path / "AAPL.csv.gz")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared minute bars are not on this machine")
def test_real_days_cross_the_change_to_summer_time() -> None:
    bars = load_replay(SHARED, ["SPY"]).bars["SPY"]
    opens = {}
    for one in bars:
        local = one.start.astimezone(NEW_YORK)
        if (local.hour, local.minute) == (9, 30):
            opens[local.date()] = one.start.hour
    assert opens[date(2011, 3, 11)] == 14
    assert opens[date(2011, 3, 14)] == 13


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared minute bars are not on this machine")
def test_real_days_load_with_their_quirks() -> None:
    bars = load_replay(SHARED, ["AAPL", "IBM", "MSFT", "NVDA"]).bars
    assert {symbol: len(rows) for symbol, rows in bars.items()} == {
        "AAPL": 7410,
        "IBM": 7409,
        "MSFT": 7410,
        "NVDA": 7410,
    }
    source = RecordedBars(bars)
    assert source.first_at() == MINUTE
    source.seek(datetime(2023, 1, 13, 18, 32, tzinfo=UTC))
    ibm = next(tick for tick in source.take().ticks if tick.quote.symbol == "IBM")
    assert ibm.trade_size == 0, "IBM has no bar of 2023-01-13 13:32 New York time"
