"""Instruments: what a symbol says, and nothing else (F1 F7 F37 F46 F51)."""

from datetime import date
from decimal import Decimal

import pytest

from exitguard.core.instrument import (
    InstrumentType,
    InvalidSymbol,
    format_occ,
    parse_instrument,
    price_tick,
    round_to_tick,
)

STOCK, CALL, PUT = InstrumentType.STOCK, InstrumentType.CALL, InstrumentType.PUT


@pytest.mark.parametrize(
    ("symbol", "underlying", "kind", "expiry", "strike"),
    [
        ("F", "F", STOCK, None, None),
        ("AAPL", "AAPL", STOCK, None, None),
        ("BRK.B", "BRK.B", STOCK, None, None),
        ("AAPL240223C00095000", "AAPL", CALL, date(2024, 2, 23), "95"),
        ("TSLA260220P00400000", "TSLA", PUT, date(2026, 2, 20), "400"),
        ("F250117C00012500", "F", CALL, date(2025, 1, 17), "12.5"),
        ("AAPL1240223C00095000", "AAPL", CALL, date(2024, 2, 23), "95"),
        ("GOOGL7250117P00000500", "GOOGL", PUT, date(2025, 1, 17), "0.5"),
        ("BRKB250117C00450000", "BRK.B", CALL, date(2025, 1, 17), "450"),
        ("BRKB1250117C00450000", "BRK.B", CALL, date(2025, 1, 17), "450"),
        ("BFB250117C00050000", "BF.B", CALL, date(2025, 1, 17), "50"),
        ("SPXW250103P05900000", "SPX", PUT, date(2025, 1, 3), "5900"),
        ("XSPW250103P00590000", "XSP", PUT, date(2025, 1, 3), "590"),
        ("ABCDEF280229C99999999", "ABCDEF", CALL, date(2028, 2, 29), "99999.999"),
    ],
)
def test_f37_f46_the_type_and_the_underlying_follow_from_the_symbol(
    symbol: str, underlying: str, kind: InstrumentType, expiry: date | None, strike: str | None
) -> None:
    instrument = parse_instrument(symbol)
    assert instrument.symbol == symbol
    assert instrument.underlying == underlying
    assert instrument.type is kind
    assert instrument.expiry == expiry
    assert instrument.strike == (None if strike is None else Decimal(strike))
    assert instrument.is_option is (kind is not STOCK)
    assert instrument.option_symbol == (symbol if instrument.is_option else None)
    assert instrument.asset_class == ("us_option" if instrument.is_option else "us_equity")
    assert instrument.multiplier == (100 if instrument.is_option else 1)


@pytest.mark.parametrize(
    ("given", "symbol"),
    [
        ("AAPL  240223C00095000", "AAPL240223C00095000"),
        ("F     250117C00012500", "F250117C00012500"),
        ("AAPL1 240223C00095000", "AAPL1240223C00095000"),
        ("BRK/B", "BRK.B"),
    ],
)
def test_f1_padded_and_slashed_forms_name_the_same_contract(given: str, symbol: str) -> None:
    assert parse_instrument(given) == parse_instrument(symbol)
    assert parse_instrument(given).symbol == symbol


@pytest.mark.parametrize(
    "symbol",
    [
        "", " ", "aapl", "AAPL ", " AAPL", "AAPL\n", "AAPL240223C00095000\n", "TOOLONGX", "AAPL.", ".B", "BRK..B",
        "BRK.BBBBB", "AAPL240223X00095000", "AAPL240223C0009500", "AAPL240223C000950000", "AAPL240230C00095000",
        "AAPL241323C00095000", "AAPL240023C00095000", "AAPL240223C00000000", "240223C00095000", "1AAPL240223C00095000",
        "ABCDEFG240223C00095000", "ABCDEF1240223C00095000", "A A P L 240223C00095000", "AAPL 24 0223C00095000",
        "AAPL12240223C00095000", "AAPL24022३C00095000", "ÄPFL", "AAPL'; DROP TABLE", "A" * 33, "AAPL\x00", "BTC/USDT1",
    ],
)  # fmt: skip
def test_malformed_symbols_are_refused_with_what_was_found(symbol: str) -> None:
    with pytest.raises(InvalidSymbol, match="symbol"):
        parse_instrument(symbol)


@pytest.mark.parametrize("symbol", [None, 7, 7.5, b"AAPL"])
def test_what_is_no_text_is_no_symbol(symbol: object) -> None:
    with pytest.raises(InvalidSymbol):
        parse_instrument(symbol)


@pytest.mark.parametrize(
    ("root", "kind", "strike"),
    [
        ("AAPL", STOCK, "95"),
        ("aapl", CALL, "95"),
        ("ABCDEFG", CALL, "95"),
        ("", CALL, "95"),
        ("AAPL", CALL, "0"),
        ("AAPL", CALL, "-5"),
        ("AAPL", CALL, "95.0001"),
        ("AAPL", CALL, "100000"),
        ("AAPL", PUT, "NaN"),
        ("AAPL", PUT, "Infinity"),
    ],
)
def test_no_symbol_is_built_that_could_not_be_read(root: str, kind: InstrumentType, strike: str) -> None:
    with pytest.raises(InvalidSymbol):
        format_occ(root, date(2025, 1, 17), kind, Decimal(strike))


@pytest.mark.parametrize(
    ("price", "is_option", "up", "down"),
    [
        ("10.001", False, "10.01", "10.00"),
        ("10.01", False, "10.01", "10.01"),
        ("1", False, "1.00", "1.00"),
        ("0.99995", False, "1.0000", "0.9999"),
        ("0.12345", False, "0.1235", "0.1234"),
        ("0.0512", True, "0.06", "0.05"),
        ("7.301", True, "7.31", "7.30"),
    ],
)
def test_f7_limit_prices_are_whole_ticks(price: str, is_option: bool, up: str, down: str) -> None:
    assert round_to_tick(Decimal(price), up=True, is_option=is_option) == Decimal(up)
    assert round_to_tick(Decimal(price), up=False, is_option=is_option) == Decimal(down)


@pytest.mark.parametrize(
    ("price", "is_option", "tick"),
    [("1", False, "0.01"), ("0.9999", False, "0.0001"), ("0.5", True, "0.01"), ("500", True, "0.01")],
)
def test_f7_the_tick_follows_price_and_kind(price: str, is_option: bool, tick: str) -> None:
    assert price_tick(Decimal(price), is_option=is_option) == Decimal(tick)


def test_f51_the_multiplier_is_in_the_notional() -> None:
    assert parse_instrument("AAPL").notional(Decimal("2.5"), Decimal(100)) == 250
    assert parse_instrument("AAPL240223C00095000").notional(Decimal(3), Decimal("1.25")) == 375
