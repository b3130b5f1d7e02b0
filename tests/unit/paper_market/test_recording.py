"""Recorded quotes: our own format and those of others, CSV and Parquet, told apart from bars by their columns."""

import gzip
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from exitguard.core.errors import InvalidInput
from exitguard.core.quote import Quote
from exitguard.paper.market.recording import COLUMNS, RecordedTicks, text_of
from exitguard.paper.market.replay import load_replay
from exitguard.paper.market.ticks import Print, Round, StatusChange

CALL = "AAPL261120C00190000"
AT = datetime(2026, 11, 18, 15, 0, tzinfo=UTC)
HEADER = ",".join(COLUMNS) + "\n"
ROWS = (
    "2026-11-18T15:00:00Z,trade,AAPL,,,,,190.01,100\n"
    "2026-11-18T15:00:00Z,quote,AAPL,190,190.02,1,2,,\n"
    f"2026-11-18T15:00:00Z,quote,{CALL},3.1,3.2,5,6,,\n"
    "2026-11-18T15:00:00Z,trade,AAPL,,,,,190.02,7\n"
    "2026-11-18T14:59:00.5Z,quote,F,11,11.01,1,1,,\n"
    "2026-11-18T15:00:01Z,halt,F,,,,,,\n"
)


def played(source: RecordedTicks) -> list[Round]:
    rounds = []
    while source.peek() is not None:
        rounds.append(source.take())
    return rounds


def test_events_are_played_in_their_order_and_time_never_goes_back(tmp_path: Path) -> None:
    (tmp_path / "day.csv").write_text(HEADER + ROWS)
    source = load_replay(tmp_path / "day.csv").ticks
    assert source is not None
    assert (source.symbols(), source.option_symbols()) == (["AAPL", "F"], [CALL])
    assert source.opening_price("AAPL") == Decimal("190.01")
    first, second, third = played(source)
    assert [tick.quote.symbol for tick in first.ticks] == ["AAPL", CALL]
    assert [(one.price, one.size) for one in first.prints] == [(Decimal("190.01"), 100)]
    # A trade after quotes of the same instant begins another round; a late quote is played late with its own time.
    assert (second.at, second.prints[0].size) == (AT, 7)
    assert second.ticks[0].quote == Quote(
        "F", Decimal(11), Decimal("11.01"), AT.replace(hour=14, minute=59, second=0, microsecond=500000), 1, 1
    )
    assert third.statuses == [StatusChange("F", True)]
    assert source.first_at() == AT
    assert source.last_at() == AT.replace(second=1)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    items = [
        Print("AAPL", Decimal("0.1234"), 3, AT),
        Quote("AAPL", Decimal("1E+2"), Decimal("NaN"), AT.replace(microsecond=7), 0, 4),
        StatusChange("AAPL", False),
    ]
    (tmp_path / "x.csv").write_text(HEADER + "".join(text_of(item, getattr(item, "at", AT)) for item in items))
    source = RecordedTicks([tmp_path / "x.csv"])
    first, second, third = played(source)
    assert first.prints == [items[0]]
    quote = second.ticks[0].quote
    assert (quote.bid, quote.ask.is_nan(), quote.at, quote.ask_size) == (
        Decimal(100),
        True,
        AT.replace(microsecond=7),
        4,
    )
    assert third.statuses == [items[2]]


@pytest.mark.parametrize(
    "header",
    ["timestamp,symbol,bid,ask", "t,s,bp,ap", "Time,Symbol,Bid_Price,Ask_Price", "timestamp,symbol,bid,ask,kind"],
)
def test_quotes_of_others_are_recognised_by_their_columns(tmp_path: Path, header: str) -> None:
    row = "2026-11-18 10:00:00.123456789,AAPL,190,190.02" + (",quote" if "kind" in header else "")
    with gzip.open(tmp_path / "mine.csv.gz", "wt") as file:
        file.write(f"{header}\n{row}\n")
    source = load_replay(tmp_path).ticks
    assert source is not None
    (one,) = played(source)
    # New York time without a zone; nanoseconds are cut to microseconds.
    assert one.at == AT.replace(microsecond=123456)
    assert one.ticks[0].quote.ask == Decimal("190.02")


def test_the_file_name_can_say_the_stock(tmp_path: Path) -> None:
    (tmp_path / "IBM.csv").write_text("t,bid,ask\n2026-11-18T15:00:00Z,205,205.1\n")
    source = load_replay(tmp_path / "IBM.csv").ticks
    assert source is not None
    assert source.symbols() == ["IBM"]


def parquet(path: Path, columns: dict[str, list[object]]) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def test_parquet_bars_and_quotes(tmp_path: Path) -> None:
    prices = {"open": [1.5], "high": [2.0], "low": [1.0], "close": [1.75], "volume": [40]}
    parquet(tmp_path / "bars.parquet", {"timestamp": [AT], "symbol": ["IBM"], **prices})
    parquet(
        tmp_path / "AAPL.parquet", {"t": ["2026-11-18T15:00:00Z"], "bid": [190.0], "ask": [190.02], "bid_size": [None]}
    )
    bars = load_replay(tmp_path / "bars.parquet").bars
    assert [(bar.start, bar.path(), bar.volume) for bar in bars["IBM"]] == [(AT, (1.5, 1.0, 2.0, 1.75), 40)]
    source = load_replay(tmp_path / "AAPL.parquet").ticks
    assert source is not None
    (one,) = played(source)
    assert (one.ticks[0].quote.bid, one.ticks[0].quote.bid_size) == (Decimal("190.0"), 0)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(tmp_path / "AAPL.parquet", {"t": ["2026-11-18T15:00:00Z"], "bid": [190.0], "ask": [190.02]})
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidInput, match=r"pip install 'exitguard\[parquet\]'"):
        load_replay(tmp_path / "AAPL.parquet")


def test_several_files_are_merged_by_time_and_symbols_restrict_them(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        HEADER + "2026-11-18T15:00:00Z,quote,AAPL,1,2,,,,\n2026-11-18T15:00:02Z,quote,AAPL,1,2,,,,\n"
    )
    (tmp_path / "b.csv").write_text(
        HEADER + f"2026-11-18T15:00:01Z,quote,{CALL},1,2,,,,\n2026-11-18T15:00:01Z,quote,F,1,2,,,,\n"
    )
    everything = load_replay(tmp_path).ticks
    assert everything is not None
    assert [[tick.quote.symbol for tick in one.ticks] for one in played(everything)] == [
        ["AAPL"],
        [CALL, "F"],
        ["AAPL"],
    ]
    some = load_replay(tmp_path, ["AAPL"]).ticks
    assert some is not None
    # A stock brings its options along.
    assert (some.symbols(), some.option_symbols()) == (["AAPL"], [CALL])
    some.seek(AT.replace(second=2))
    assert [one.at.second for one in played(some)] == [2]


def test_a_recorder_that_was_killed_leaves_a_file_that_plays(tmp_path: Path) -> None:
    (tmp_path / "killed.csv").write_text(HEADER + ROWS + "2026-11-18T15:00:02Z,quote,AAPL,19")
    source = load_replay(tmp_path).ticks
    assert source is not None
    assert source.last_at() == AT.replace(second=1)
    packed = gzip.compress((HEADER + ROWS * 2000).encode())
    (tmp_path / "killed.csv").unlink()
    (tmp_path / "killed.csv.gz").write_bytes(packed[: len(packed) * 3 // 4])
    assert load_replay(tmp_path).ticks is not None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEADER + "soon,quote,AAPL,1,2,,,,\n", "line 2: not a recorded event"),
        (HEADER + "2026-11-18T15:00:00Z,quote,AAPL,much,2,,,,\n", "line 2"),
        (HEADER + "2026-11-18T15:00:00Z,rumour,AAPL,1,2,,,,\n", "kind must be one of quote, trade, halt, resume"),
        (HEADER + "2026-11-18T15:00:00Z,trade,AAPL,,,,,-1,1\n", "a price above zero"),
        (HEADER + "2026-11-18T15:00:00Z,quote,AAPL,1,2,-5,,,\n", "must not be negative"),
        (HEADER + "2026-11-18T15:00:00Z,quote\n", "line 2"),
        (HEADER, "nothing is recorded"),
        ("t,bid,ask\n2026-11-18T15:00:00Z,1,2\n", "no stock and there is no symbol column"),
    ],
)
def test_bad_recordings_name_file_line_and_fault(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "no-stock-7.csv").write_text(text)
    with pytest.raises(InvalidInput, match=words):
        load_replay(tmp_path / "no-stock-7.csv")


def test_broken_files_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "AAPL.parquet").write_bytes(b"no")
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_replay(tmp_path / "AAPL.parquet")
    (tmp_path / "AAPL.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_replay(tmp_path / "AAPL.csv.gz")


def test_bars_and_quotes_of_one_stock_are_a_contradiction(tmp_path: Path) -> None:
    (tmp_path / "AAPL.csv").write_text("timestamp,o,h,l,c,v\n2023-01-03 09:31:00,1,1,1,1,5\n")
    (tmp_path / "ticks.csv").write_text(HEADER + ROWS)
    with pytest.raises(InvalidInput, match="both bars and quotes of AAPL"):
        load_replay(tmp_path)
