"""What a quote is worth, and when price rules may use it (F14 F17 F48-F50, T11)."""

from datetime import timedelta
from decimal import Decimal

import pytest
from tests.property.core.cases import CALL, LATER, quote

from exitguard.core.marks import QuoteView, WideStreak, agree, judge
from exitguard.core.policy import DEFAULT_POLICY, Policy
from exitguard.core.position import PositionSide
from exitguard.core.quote import PriceBasis, Quote, QuoteState, classify

LIMITS = DEFAULT_POLICY.quote_limits  # 90 s, 10 %, a nickel
NOW = LATER


@pytest.mark.parametrize(
    ("bid", "ask", "age", "state"),
    [
        ("5.00", "5.10", 0, QuoteState.LIVE),
        ("5.00", "5.00", 0, QuoteState.LIVE),  # locked
        ("5.00", "5.10", 90, QuoteState.LIVE),
        ("5.00", "5.10", 91, QuoteState.STALE),
        ("5.00", "5.10", 600, QuoteState.STALE),
        ("5.00", "5.10", -5, QuoteState.LIVE),
        ("5.00", "5.10", -6, QuoteState.STALE),  # from the future
        ("5.00", "5.60", 0, QuoteState.WIDE),
        ("5.00", "5.60", 91, QuoteState.STALE),
        ("0.95", "1.05", 0, QuoteState.LIVE),  # exactly ten percent of the mid
        ("0.94", "1.05", 0, QuoteState.WIDE),
        ("0.05", "0.10", 0, QuoteState.LIVE),  # a nickel is never wide
        ("0.05", "0.11", 0, QuoteState.WIDE),
        ("0", "5.00", 0, QuoteState.ONE_SIDED),
        ("5.00", "0", 0, QuoteState.ONE_SIDED),
        ("5.10", "5.00", 0, QuoteState.CROSSED),
        ("0", "0", 0, QuoteState.ABSENT),
        ("-1", "5.00", 0, QuoteState.ABSENT),
        ("5.00", "-5.00", 0, QuoteState.ABSENT),
        ("NaN", "5.00", 0, QuoteState.ABSENT),
        ("5.00", "sNaN", 0, QuoteState.ABSENT),
        ("5.00", "Infinity", 0, QuoteState.ABSENT),
        ("-Infinity", "Infinity", 0, QuoteState.ABSENT),
        ("NaN", "NaN", 600, QuoteState.ABSENT),
    ],
)
def test_t11_f17_every_state_of_a_quote(bid: str, ask: str, age: int, state: QuoteState) -> None:
    assert classify(quote(CALL, bid, ask, NOW - timedelta(seconds=age)), NOW, LIMITS) is state


def test_no_quote_is_absent() -> None:
    assert classify(None, NOW, LIMITS) is QuoteState.ABSENT


def test_f14_f17_the_spread_is_a_share_of_the_mid_and_shows_when_it_is_negative() -> None:
    assert quote(CALL, "0.95", "1.05").relative_spread == Decimal("0.1")
    assert quote(CALL, "5.10", "5.00").spread < 0


def _look(view: QuoteView) -> tuple[QuoteState, bool]:
    return view.state, view.usable


def _path(*steps: tuple[str, str, float]) -> list[bool]:
    """Judge quotes (bid, ask, seconds after NOW) in turn; whether price rules may use each."""
    streak, seen = WideStreak(), []
    for bid, ask, seconds in steps:
        at = NOW + timedelta(seconds=seconds)
        view, streak = judge(quote(CALL, bid, ask, at), at, DEFAULT_POLICY, streak)
        seen.append(view.usable)
    return seen


WIDE, LIVE, CROSSED, EMPTY = ("1.00", "3.00"), ("1.90", "2.00"), ("3.00", "1.00"), ("0", "3.00")


@pytest.mark.parametrize(
    ("steps", "usable"),
    [
        ([(*LIVE, 0)], [True]),
        ([(*WIDE, 0)], [False]),
        ([(*WIDE, 0), (*WIDE, 0.9)], [False, False]),
        ([(*WIDE, 0), (*WIDE, 1.0)], [False, True]),
        ([(*WIDE, 0), (*WIDE, 0.5), (*WIDE, 1.2)], [False, False, True]),
        ([(*WIDE, 0), (*LIVE, 0.5), (*WIDE, 1.2)], [False, True, False]),
        ([(*WIDE, 0), (*CROSSED, 0.5), (*WIDE, 1.2)], [False, False, False]),
        ([(*WIDE, 0), (*EMPTY, 0.5), (*WIDE, 1.2), (*WIDE, 2.3)], [False, False, False, True]),
        ([(*WIDE, 0), ("NaN", "NaN", 0.5), (*WIDE, 1.2)], [False, False, False]),
    ],
)
def test_a_wide_quote_counts_only_after_a_second_one_in_a_row(
    steps: list[tuple[str, str, float]], usable: list[bool]
) -> None:
    assert _path(*steps) == usable


def test_looking_twice_at_one_wide_quote_confirms_nothing() -> None:
    wide = quote(CALL, *WIDE, NOW)
    streak = WideStreak()
    for seconds in (0, 1, 5, 60):
        view, streak = judge(wide, NOW + timedelta(seconds=seconds), DEFAULT_POLICY, streak)
        assert _look(view) == (QuoteState.WIDE, False)


def test_a_look_without_a_new_quote_does_not_end_a_streak() -> None:
    _, streak = judge(quote(CALL, *WIDE, NOW), NOW, DEFAULT_POLICY, WideStreak())
    later = NOW + timedelta(seconds=95)
    for seen in (None, quote(CALL, *WIDE, NOW)):
        view, kept = judge(seen, later, DEFAULT_POLICY, streak)
        assert not view.usable
        assert kept == streak


@pytest.mark.parametrize(
    ("mark", "usable"),
    [("2.00", True), ("1.85", True), ("2.20", True), ("1.80", False), ("2.30", False), ("0", False), ("-2", False),
     ("NaN", False), ("Infinity", False), (None, False)],
)  # fmt: skip
def test_f49_the_brokers_own_mark_confirms_a_wide_quote(mark: str | None, usable: bool) -> None:
    broker_mark = None if mark is None else Decimal(mark)
    view, _ = judge(quote(CALL, *WIDE, NOW), NOW, DEFAULT_POLICY, WideStreak(), broker_mark)
    assert _look(view) == (QuoteState.WIDE, usable)


def test_f49_marks_agree_by_a_share_of_the_brokers() -> None:
    assert agree(Decimal(110), Decimal(100), Decimal(10))
    assert not agree(Decimal("110.01"), Decimal(100), Decimal(10))


@pytest.mark.parametrize(
    ("basis", "side", "last", "price"),
    [
        (PriceBasis.MID, PositionSide.LONG, "1.93", "1.95"),
        (PriceBasis.BID, PositionSide.LONG, None, "1.90"),
        (PriceBasis.BID, PositionSide.SHORT, None, "2.00"),
        (PriceBasis.LAST, PositionSide.LONG, "1.93", "1.93"),
        (PriceBasis.LAST, PositionSide.LONG, None, "1.95"),
        (PriceBasis.LAST, PositionSide.LONG, "NaN", "1.95"),
        (PriceBasis.LAST, PositionSide.SHORT, "0", "1.95"),
        (PriceBasis.LAST, PositionSide.SHORT, "-1", "1.95"),
        (PriceBasis.LAST, PositionSide.SHORT, "Infinity", "1.95"),
    ],
)
def test_the_price_basis_and_a_last_trade_that_is_none(
    basis: PriceBasis, side: PositionSide, last: str | None, price: str
) -> None:
    seen = Quote(CALL, Decimal("1.90"), Decimal("2.00"), NOW, last=None if last is None else Decimal(last))
    view, _ = judge(seen, NOW, Policy(price_basis=basis), WideStreak())
    assert view.price(side, basis) == Decimal(price)


def test_f48_f50_an_unusable_quote_has_no_price_for_any_basis() -> None:
    for bad in (None, quote(CALL, "0", "5"), quote(CALL, "6", "5"), quote(CALL, "5", "5", NOW - timedelta(hours=1))):
        view, _ = judge(bad, NOW, DEFAULT_POLICY, WideStreak())
        assert all(view.price(side, basis) is None for side in PositionSide for basis in PriceBasis)
