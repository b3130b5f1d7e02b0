"""At what price an entry goes out."""

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.dispatch.rows import CALL, NOW

from exitguard.core.instrument import parse_instrument
from exitguard.core.position import PositionSide
from exitguard.core.quote import Quote, QuoteLimits, QuoteState
from exitguard.dispatch.pricing import BracketLevels, Caps, NoPrice, Priced, bracket_levels, price_entry

STOCK, OPTION = parse_instrument("AAPL"), parse_instrument(CALL)
LIMITS = QuoteLimits(timedelta(seconds=90), Decimal("0.10"))
LONG, SHORT = PositionSide.LONG, PositionSide.SHORT


def quote(bid: str, ask: str, age: int = 0) -> Quote:
    return Quote("X", Decimal(bid), Decimal(ask), NOW - timedelta(seconds=age))


@pytest.mark.parametrize(
    ("bad", "state"),
    [
        (None, QuoteState.ABSENT),
        (quote("NaN", "100"), QuoteState.ABSENT),
        (quote("0", "0"), QuoteState.ABSENT),
        (quote("-1", "100"), QuoteState.ABSENT),
        (quote("0", "100"), QuoteState.ONE_SIDED),
        (quote("101", "100"), QuoteState.CROSSED),  # F17
        (quote("99", "100", age=91), QuoteState.STALE),
        (quote("60", "100"), QuoteState.WIDE),  # F14, F15
    ],
)
def test_f48_no_price_without_a_live_quote(bad: Quote | None, state: QuoteState) -> None:
    result = price_entry(STOCK, LONG, bad, NOW, LIMITS, Caps())
    assert isinstance(result, NoPrice)
    assert result.state is state


@pytest.mark.parametrize(
    ("instrument", "side", "bid", "ask", "limit"),
    [
        (STOCK, LONG, "99.98", "100.00", "100.25"),
        (STOCK, SHORT, "99.98", "100.00", "99.74"),
        (STOCK, LONG, "0.5000", "0.5005", "0.5017"),  # four decimals below a dollar
        (OPTION, LONG, "2.40", "2.50", "2.57"),
        (OPTION, LONG, "0.10", "0.12", "0.12"),  # whole cents, and never below the ask
    ],
)
def test_f7_f15_limits_are_marketable_capped_and_on_a_tick(
    instrument: object, side: PositionSide, bid: str, ask: str, limit: str
) -> None:
    result = price_entry(instrument, side, quote(bid, ask), NOW, LIMITS, Caps())  # type: ignore[arg-type]
    assert isinstance(result, Priced)
    assert result.limit == Decimal(limit)


@given(
    cents=st.integers(2, 10**6),
    spread=st.integers(0, 5),
    side=st.sampled_from([LONG, SHORT]),
    instrument=st.sampled_from([STOCK, OPTION]),
)
def test_f15_a_limit_reaches_the_far_side_and_no_further_than_the_cap(cents, spread, side, instrument) -> None:  # type: ignore[no-untyped-def]
    bid, ask = Decimal(cents) / 100, Decimal(cents + spread) / 100
    caps = Caps()
    result = price_entry(instrument, side, Quote("X", bid, ask, NOW), NOW, LIMITS, caps)
    if isinstance(result, NoPrice):
        return
    percent = caps.option_percent if instrument.is_option else caps.stock_percent
    if side is LONG:
        assert ask <= result.limit <= ask * (1 + percent / 100)
    else:
        assert bid >= result.limit >= bid * (1 - percent / 100)


@pytest.mark.parametrize(
    ("side", "given", "percents", "expected"),
    [
        (LONG, ("98", "103"), ("-2", "3"), BracketLevels(Decimal("98.00"), Decimal("103.00"))),
        (LONG, (None, None), ("-2", "3"), BracketLevels(Decimal("97.99"), Decimal("102.99"))),
        (SHORT, (None, None), ("-2", "3"), BracketLevels(Decimal("101.99"), Decimal("96.99"))),
        (LONG, (None, None), (None, "3"), "neither the signal nor the policy"),
        (LONG, ("99.98", "103"), ("-2", "3"), "leave no room"),
        (LONG, ("98", "100.25"), ("-2", "3"), "leave no room"),
        (SHORT, ("100.00", "95"), ("-2", "3"), "leave no room"),
    ],
)
def test_bracket_levels(side, given, percents, expected) -> None:  # type: ignore[no-untyped-def]
    priced = price_entry(STOCK, side, quote("99.98", "100.00"), NOW, LIMITS, Caps())
    assert isinstance(priced, Priced)
    levels = [Decimal(v) if v is not None else None for v in (*given, *percents)]
    result = bracket_levels(STOCK, side, priced, *levels)
    if isinstance(expected, str):
        assert isinstance(result, str)
        assert expected in result
    else:
        assert result == expected
