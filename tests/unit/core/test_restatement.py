"""Splits and new symbols: the same position in other terms, and not a cent earned."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest

from exitguard.core.instrument import parse_instrument
from exitguard.core.orders import Fill, OrderSide
from exitguard.core.position import Holding, PositionSide, apply_fill, closable, fold, restate
from exitguard.core.restatement import Restatement, RestatementKind, split_ratio

AT = datetime(2026, 3, 17, 15, 0, tzinfo=UTC)


def fill(name: str, side: OrderSide, qty: str, price: str, minutes: int, symbol: str = "AAPL") -> Fill:
    return Fill(
        name, f"order-{name}", None, symbol, side, Decimal(qty), Decimal(price), AT + timedelta(minutes=minutes)
    )


def split(old: str, new: str, minutes: int = 60) -> Restatement:
    at = AT + timedelta(minutes=minutes)
    return Restatement(RestatementKind.SPLIT, at, "AAPL", "AAPL", Decimal(old), Decimal(new))


def held(*fills: Fill) -> Holding:
    return fold(parse_instrument("AAPL"), PositionSide.LONG, fills)


@pytest.mark.parametrize(
    ("old", "new", "qty", "entry"), [("1", "2", "12", "50"), ("2", "3", "9", "66.66"), ("10", "1", "0.6", "1000")]
)
def test_i5_a_split_restates_quantity_and_entry_and_leaves_the_money(old: str, new: str, qty: str, entry: str) -> None:
    before = held(fill("a", OrderSide.BUY, "10", "100", 0), fill("b", OrderSide.SELL, "4", "110", 5))
    after = restate(before, split(old, new))
    assert after.qty == Decimal(qty)
    assert abs(after.entry_price - Decimal(entry)) < Decimal("0.01")
    assert (after.entry_value, after.exit_value) == (before.entry_value, before.exit_value)
    assert after.realised_pnl == before.realised_pnl == 40


def test_i5_fills_after_a_split_are_in_its_terms_and_fills_found_late_in_the_old_ones() -> None:
    after = restate(held(fill("a", OrderSide.BUY, "10", "100", 0)), split("1", "2"))
    late = fill("late", OrderSide.SELL, "2", "104", 30)
    new = fill("new", OrderSide.SELL, "16", "55", 90)
    done = apply_fill(apply_fill(after, new), late)
    assert done.is_flat
    assert done.realised_pnl == 16 * 55 + 2 * 104 - 1000
    again = fold(done.instrument, done.side, [late, new, *after.fills], done.restatements)
    assert (again.qty, again.realised_pnl, again.exit_price) == (0, done.realised_pnl, done.exit_price)


@pytest.mark.parametrize(
    ("minutes", "qty", "fits"), [(30, "4", "4"), (30, "12", "10"), (90, "12", "12"), (90, "25", "20")]
)
def test_f2_what_of_a_fill_is_held_is_told_in_the_terms_of_the_fill(minutes: int, qty: str, fits: str) -> None:
    after = restate(held(fill("a", OrderSide.BUY, "10", "100", 0)), split("1", "2"))
    assert closable(after, fill("b", OrderSide.SELL, qty, "100", minutes)) == Decimal(fits)


def test_a_new_symbol_takes_the_fills_of_the_old_one_along() -> None:
    renamed = Restatement(RestatementKind.SYMBOL_CHANGED, AT, "AAPL", "APLE", Decimal(1), Decimal(1))
    after = restate(held(fill("a", OrderSide.BUY, "10", "100", 0)), renamed)
    assert (after.instrument.symbol, after.qty, after.entry_price) == ("APLE", 10, 100)
    closed = apply_fill(after, fill("b", OrderSide.SELL, "10", "101", 5, "APLE"))
    assert (closed.is_flat, closed.realised_pnl) == (True, 10)


@pytest.mark.parametrize(
    ("ours", "theirs", "ratio"),
    [
        (("10", "100"), ("20", "50"), Fraction(2)),
        (("-10", "100"), ("-20", "50"), Fraction(2)),
        (("10", "100"), ("15", "66.67"), Fraction(3, 2)),
        (("100", "10"), ("105", "9.5238"), Fraction(21, 20)),
        (("105", "10"), ("10.5", "100"), Fraction(1, 10)),
        # The fraction was paid out.
        (("105", "10"), ("10", "100"), Fraction(1, 10)),
        # Something was paid, or received: not a split.
        (("10", "100"), ("20", "100"), None),
        (("10", "100"), ("20", "75"), None),
        (("10", "100"), ("5", "100"), None),
        # The average of a cheap contract is rounded to more than the part that was closed.
        (("100", "0.45"), ("99", "0.45"), None),
        (("20", "0.05"), ("19", "0.05"), None),
        (("10", "100"), ("10", "50"), None),
        (("10", "100"), ("0", "0"), None),
        # No company splits 10 for 13.37.
        (("1000", "100"), ("1337", "74.7943"), None),
    ],
)
def test_a_split_is_a_plain_ratio_for_which_nothing_was_paid(
    ours: tuple[str, str], theirs: tuple[str, str], ratio: Fraction | None
) -> None:
    mine, broker = tuple(map(Decimal, ours)), tuple(map(Decimal, theirs))
    assert split_ratio((mine[0], mine[1]), (broker[0], broker[1])) == ratio
