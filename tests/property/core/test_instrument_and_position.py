"""Symbols survive the round trip; the order in which fills arrive does not matter (F1 F7 F37 F45, I1 I5)."""

from datetime import date, timedelta
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.core.cases import OPENED, STOCK

from exitguard.core.instrument import (
    InstrumentType,
    InvalidSymbol,
    format_occ,
    parse_instrument,
    price_tick,
    round_to_tick,
)
from exitguard.core.orders import Fill
from exitguard.core.position import Holding, PositionSide, apply_fill, fold, pnl

QUICK = settings(max_examples=100, deadline=None)
ROOTS = st.from_regex(r"[A-Z]{1,6}|[A-Z]{1,5}[0-9]", fullmatch=True)
STRIKES = st.integers(1, 10**8 - 1).map(lambda n: Decimal(n).scaleb(-3))
EXPIRIES = st.dates(date(2010, 1, 1), date(2099, 12, 31))
KINDS = st.sampled_from([InstrumentType.CALL, InstrumentType.PUT])
PRICES = st.decimals(Decimal("0.0001"), Decimal(5000), places=4)


@QUICK
@given(ROOTS, EXPIRIES, KINDS, STRIKES)
def test_f1_f37_an_option_symbol_round_trips(root: str, expiry: date, kind: InstrumentType, strike: Decimal) -> None:
    symbol = format_occ(root, expiry, kind, strike)
    instrument = parse_instrument(symbol)
    assert (instrument.symbol, instrument.type) == (symbol, kind)
    assert (instrument.expiry, instrument.strike) == (expiry, strike)
    padded = f"{root:<6}{symbol[len(root) :]}"
    assert len(padded) == 21
    assert parse_instrument(padded) == instrument


@QUICK
@given(st.text(max_size=24) | st.text("AB1.C P/240223C00095000\n", max_size=24))
def test_f37_any_text_is_an_instrument_that_round_trips_or_is_refused(text: str) -> None:
    try:
        instrument = parse_instrument(text)
    except InvalidSymbol:
        return
    assert parse_instrument(instrument.symbol) == instrument
    assert instrument.symbol.isascii()
    assert not set(instrument.symbol) & set(" \n/")


@QUICK
@given(PRICES, st.booleans(), st.booleans())
def test_f7_rounding_is_legal_and_never_further_than_a_tick(price: Decimal, up: bool, is_option: bool) -> None:
    rounded = round_to_tick(price, up=up, is_option=is_option)
    assert rounded % price_tick(rounded, is_option=is_option) == 0
    assert abs(rounded - price) < price_tick(price, is_option=is_option)
    assert rounded >= price if up else rounded <= price
    assert round_to_tick(rounded, up=up, is_option=is_option) == rounded


QTYS = st.integers(1, 50).map(Decimal) | st.decimals(Decimal("0.000000001"), Decimal(50), places=9)


@st.composite
def episodes(draw: st.DrawFn) -> tuple[PositionSide, list[Fill], list[Fill]]:
    """Opening fills, and closing fills that add up to no more."""
    side = draw(st.sampled_from(PositionSide))
    opening = draw(st.lists(st.tuples(QTYS, PRICES), min_size=1, max_size=5))
    left = sum((qty for qty, _ in opening), Decimal(0))
    closing = []
    for qty, price in draw(st.lists(st.tuples(QTYS, PRICES), max_size=5)):
        part = min(qty, left)
        if part > 0:
            closing.append((part, price))
            left -= part
    opens = [_fill(f"a{i}", side, True, i, *pair) for i, pair in enumerate(opening)]
    return side, opens, [_fill(f"b{i}", side, False, 10 + i, *pair) for i, pair in enumerate(closing)]


def _fill(id_: str, side: PositionSide, opens: bool, minute: int, qty: Decimal, price: Decimal) -> Fill:
    direction = side.opening if opens else side.closing
    return Fill(id_, "o", None, STOCK, direction, qty, price, OPENED + timedelta(minutes=minute))


@QUICK
@given(episodes(), st.randoms(use_true_random=False))
def test_i5_any_arrival_order_with_duplicates_gives_the_same_holding(episode, random) -> None:  # type: ignore[no-untyped-def]
    side, opens, closes = episode
    expected = fold(parse_instrument(STOCK), side, opens + closes)
    random.shuffle(opens)
    random.shuffle(closes)
    holding = Holding(parse_instrument(STOCK), side)
    arrived: list[Fill] = []
    for one in opens + closes:
        holding = apply_fill(holding, one)
        arrived.append(one)
        holding = apply_fill(holding, random.choice(arrived))  # the stream repeats itself
        assert holding.qty >= 0
    assert holding == expected
    assert holding.opened_qty == sum(f.qty for f in opens)
    assert holding.closed_qty == sum(f.qty for f in closes)


@QUICK
@given(episodes(), PRICES)
def test_i5_realised_and_unrealised_profit_add_up_to_the_cash_flow(episode, mark: Decimal) -> None:  # type: ignore[no-untyped-def]
    side, opens, closes = episode
    instrument = parse_instrument(STOCK)
    holding = fold(instrument, side, opens + closes)
    cash = sum((f.qty * f.price for f in closes), Decimal(0)) - sum((f.qty * f.price for f in opens), Decimal(0))
    liquidated = (cash + holding.qty * mark) * side.sign
    open_part = pnl(instrument, side, holding.qty, holding.entry_price, mark).dollars
    assert abs(holding.realised_pnl + open_part - liquidated) < Decimal("1e-12")


@QUICK
@given(PRICES, PRICES, st.integers(1, 100))
def test_profit_of_a_long_is_the_loss_of_a_short(entry: Decimal, mark: Decimal, qty: int) -> None:
    long, short = (pnl(parse_instrument(STOCK), side, Decimal(qty), entry, mark) for side in PositionSide)
    assert (long.dollars, long.percent) == (-short.dollars, -short.percent)
