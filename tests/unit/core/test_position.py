"""Positions are folds of fills, and their profit is exact (F9 F40 F45 F47 F58, I1 I5)."""

from datetime import timedelta
from decimal import Decimal

import pytest
from tests.property.core.cases import CALL, OPENED, PUT, STOCK

from exitguard.core.instrument import parse_instrument
from exitguard.core.orders import Fill, OrderSide, PositionIntent
from exitguard.core.position import CrossesZero, Holding, PositionSide, apply_fill, fold, pnl

BUY, SELL, LONG, SHORT = OrderSide.BUY, OrderSide.SELL, PositionSide.LONG, PositionSide.SHORT


def fill(id_: str, side: OrderSide, qty: str, price: str, minute: int = 0, symbol: str = STOCK) -> Fill:
    at = OPENED + timedelta(minutes=minute)
    return Fill(id_, "o", "c", symbol, side, Decimal(qty), Decimal(price), at)


@pytest.mark.parametrize(
    ("symbol", "side", "fills", "qty", "entry", "exit_price", "realised"),
    [
        (STOCK, LONG, [("1", BUY, "10", "100")], "10", "100", None, "0"),
        (STOCK, LONG, [("1", BUY, "10", "100"), ("2", SELL, "10", "103")], "0", "100", "103", "30"),
        (STOCK, LONG, [("1", BUY, "10", "100"), ("2", SELL, "4", "98")], "6", "100", "98", "-8"),
        (STOCK, LONG, [("1", BUY, "1", "100"), ("2", BUY, "3", "104"), ("3", SELL, "2", "105")], "2", "103", "105",
         "4"),
        (STOCK, LONG, [("1", BUY, "0.5", "100"), ("2", BUY, "0.25", "100"), ("3", SELL, "0.75", "90")], "0", "100",
         "90", "-7.5"),
        (STOCK, SHORT, [("1", SELL, "10", "100")], "10", "100", None, "0"),
        (STOCK, SHORT, [("1", SELL, "10", "100"), ("2", BUY, "10", "97")], "0", "100", "97", "30"),
        (STOCK, SHORT, [("1", SELL, "10", "100"), ("2", BUY, "5", "110")], "5", "100", "110", "-50"),
        (CALL, LONG, [("1", BUY, "2", "5"), ("2", SELL, "2", "8")], "0", "5", "8", "600"),
        (PUT, LONG, [("1", BUY, "3", "4"), ("2", SELL, "1", "0")], "2", "4", "0", "-400"),
        (CALL, SHORT, [("1", SELL, "1", "5"), ("2", BUY, "1", "2")], "0", "5", "2", "300"),
    ],
)  # fmt: skip
def test_f47_f58_what_fills_add_up_to(
    symbol: str,
    side: PositionSide,
    fills: list[tuple[str, OrderSide, str, str]],
    qty: str,
    entry: str,
    exit_price: str | None,
    realised: str,
) -> None:
    holding = fold(parse_instrument(symbol), side, [fill(*f, symbol=symbol) for f in fills])
    assert holding.qty == Decimal(qty)
    assert holding.entry_price == Decimal(entry)
    assert holding.exit_price == (None if exit_price is None else Decimal(exit_price))
    assert holding.realised_pnl == Decimal(realised)
    assert holding.is_flat is (holding.qty == 0)


def test_f45_a_fill_seen_twice_counts_once_even_when_its_copy_lies() -> None:
    first = fill("1", BUY, "10", "100")
    once = apply_fill(Holding(parse_instrument(STOCK), LONG), first)
    assert apply_fill(once, first) == once
    assert apply_fill(once, fill("1", BUY, "99", "1", 5)) == once


def test_f40_partial_fills_accumulate_and_the_times_are_the_first_and_the_last() -> None:
    fills = [fill("2", BUY, "30", "101", 2), fill("1", BUY, "20", "100", 1), fill("3", SELL, "10", "102", 9)]
    holding = Holding(parse_instrument(STOCK), LONG)
    for one in fills:
        holding = apply_fill(holding, one)
    assert holding == fold(parse_instrument(STOCK), LONG, fills)
    assert (holding.opened_at, holding.last_fill_at) == (fills[1].at, fills[2].at)
    assert holding.opened_qty == 50


def test_i1_a_closing_fill_larger_than_what_is_held_is_refused() -> None:
    holding = fold(parse_instrument(STOCK), LONG, [fill("1", BUY, "10", "100")])
    with pytest.raises(CrossesZero, match="closes 11 AAPL but 10 are held"):
        apply_fill(holding, fill("2", SELL, "11", "100"))
    with pytest.raises(CrossesZero):
        fold(parse_instrument(STOCK), SHORT, [fill("1", BUY, "1", "100")])


@pytest.mark.parametrize(
    ("qty", "price"),
    [("0", "5"), ("-1", "5"), ("NaN", "5"), ("Infinity", "5"), ("1", "-0.01"), ("1", "NaN"), ("1", "Infinity")],
)
def test_a_fill_with_impossible_numbers_is_refused(qty: str, price: str) -> None:
    with pytest.raises(ValueError, match="must have qty > 0 and price >= 0"):
        apply_fill(Holding(parse_instrument(STOCK), LONG), fill("1", BUY, qty, price))


def test_f1_a_fill_of_another_contract_is_refused() -> None:
    with pytest.raises(ValueError, match="offered to a holding of AAPL"):
        apply_fill(Holding(parse_instrument(STOCK), LONG), fill("1", BUY, "1", "5", symbol=CALL))


@pytest.mark.parametrize(
    ("symbol", "side", "qty", "entry", "mark", "dollars", "percent"),
    [
        (STOCK, LONG, "10", "100", "102", "20", "2"),
        (STOCK, LONG, "10", "100", "98", "-20", "-2"),
        (STOCK, SHORT, "10", "100", "102", "-20", "-2"),
        (STOCK, SHORT, "10", "100", "98", "20", "2"),
        (STOCK, LONG, "0.5", "100", "110", "5", "10"),
        (CALL, LONG, "2", "5", "9", "800", "80"),
        (PUT, LONG, "2", "5", "3", "-400", "-40"),
        (CALL, SHORT, "1", "5", "7.5", "-250", "-50"),
        (STOCK, LONG, "1", "0", "7", "7", "0"),
    ],
)
def test_f51_profit_in_dollars_and_percent(
    symbol: str, side: PositionSide, qty: str, entry: str, mark: str, dollars: str, percent: str
) -> None:
    gain = pnl(parse_instrument(symbol), side, Decimal(qty), Decimal(entry), Decimal(mark))
    assert (gain.dollars, gain.percent) == (Decimal(dollars), Decimal(percent))


def test_f2_f3_the_side_names_the_orders_that_reduce_it() -> None:
    assert (LONG.opening, LONG.closing, LONG.closing_intent) == (BUY, SELL, PositionIntent.SELL_TO_CLOSE)
    assert (SHORT.opening, SHORT.closing, SHORT.closing_intent) == (SELL, BUY, PositionIntent.BUY_TO_CLOSE)
