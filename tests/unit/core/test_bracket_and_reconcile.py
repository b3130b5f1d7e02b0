"""What protects a position, and how our records compare with the broker's (F22 F24 F28 F47 F142, I11, T9)."""

from decimal import Decimal

import pytest
from tests.property.core.cases import CALL, LATER, STOCK

from exitguard.core.bracket import view_bracket
from exitguard.core.evaluate import Bracket
from exitguard.core.instrument import parse_instrument
from exitguard.core.orders import BrokerOrder, OrderSide, OrderStatus, OrderType
from exitguard.core.position import PositionSide
from exitguard.core.reconcile import changes_too_much, compare

D = Decimal
BUY, SELL = OrderSide.BUY, OrderSide.SELL
LONG, SHORT = PositionSide.LONG, PositionSide.SHORT
STOP, LIMIT, NEW = OrderType.STOP, OrderType.LIMIT, OrderStatus.NEW


def order(
    kind: OrderType, qty: str = "10", status: OrderStatus = NEW, side: OrderSide = SELL, filled: str = "0",
    symbol: str = STOCK,
) -> BrokerOrder:  # fmt: skip
    return BrokerOrder(
        f"{kind}-{qty}-{side}",
        "c",
        symbol,
        side,
        status,
        D(qty),
        D(filled),
        None,
        kind,
        "oco",
        None,
        None,
        LATER,
        LATER,
    )


@pytest.mark.parametrize(
    ("orders", "held", "side", "state"),
    [
        ([], "10", LONG, Bracket.MISSING),
        ([order(STOP), order(LIMIT)], "10", LONG, Bracket.COMPLETE),
        ([order(STOP, status=OrderStatus.HELD), order(LIMIT)], "10", LONG, Bracket.COMPLETE),
        ([order(OrderType.STOP_LIMIT), order(LIMIT)], "10", LONG, Bracket.COMPLETE),
        ([order(OrderType.TRAILING_STOP), order(LIMIT)], "10", LONG, Bracket.COMPLETE),
        ([order(STOP)], "10", LONG, Bracket.MISSING),
        ([order(LIMIT)], "10", LONG, Bracket.MISSING),
        ([order(STOP, "9"), order(LIMIT)], "10", LONG, Bracket.MISSING),
        ([order(STOP), order(LIMIT, filled="1")], "10", LONG, Bracket.MISSING),
        ([order(STOP), order(LIMIT)], "9", LONG, Bracket.COMPLETE),
        ([order(STOP, "4"), order(STOP, "6"), order(LIMIT)], "10", LONG, Bracket.COMPLETE),
        ([order(STOP, status=OrderStatus.CANCELED), order(LIMIT)], "10", LONG, Bracket.MISSING),
        ([order(STOP, symbol="MSFT"), order(LIMIT)], "10", LONG, Bracket.MISSING),
        ([order(STOP), order(OrderType.MARKET)], "10", LONG, Bracket.MISSING),
        ([order(STOP, side=BUY), order(LIMIT, side=BUY)], "10", SHORT, Bracket.COMPLETE),
        ([order(LIMIT, side=BUY)], "4", LONG, Bracket.NOT_NEEDED),  # the entry still works
        ([], "0.5", LONG, Bracket.NOT_NEEDED),
        ([], "0", LONG, Bracket.NOT_NEEDED),
    ],
)
def test_a_bracket_is_a_live_stop_and_a_live_target_for_all_of_it(
    orders: list[BrokerOrder], held: str, side: PositionSide, state: Bracket
) -> None:
    assert view_bracket(parse_instrument(STOCK), side, D(held), orders).state is state


def test_options_need_no_bracket() -> None:
    assert view_bracket(parse_instrument(CALL), LONG, D(10), []).state is Bracket.NOT_NEEDED


def test_the_ids_of_the_protecting_orders_are_told() -> None:
    seen = view_bracket(parse_instrument(STOCK), LONG, D(10), [order(LIMIT), order(STOP)])
    assert (seen.stop_order_id, seen.target_order_id) == ("stop-10-sell", "limit-10-sell")


def test_t9_every_kind_of_difference_has_its_name() -> None:
    ours = {"A": D(10), "B": D(5), "C": D(3), "D": D(-2), "E": D(1), "Z": D(0)}
    theirs = {"A": D(10), "C": D(2), "D": D(2), "E": D(1), "F": D(7), "Z": D(0)}
    found = [(f.symbol, f.kind.value, int(f.ours), int(f.theirs)) for f in compare(ours, theirs)]
    assert found == [
        ("A", "matched", 10, 10),
        ("B", "phantom", 5, 0),
        ("C", "quantity", 3, 2),
        ("D", "side", -2, 2),
        ("E", "matched", 1, 1),
        ("F", "untracked", 0, 7),
    ]


@pytest.mark.parametrize(
    ("gone", "tracked", "too_much"), [(0, 0, False), (3, 3, False), (4, 4, True), (6, 20, False), (7, 20, True)]
)
def test_f142_i11_a_reconciliation_that_would_change_most_of_it_stops_and_asks(
    gone: int, tracked: int, too_much: bool
) -> None:
    findings = compare({f"S{i}": D(1) for i in range(gone)}, {})
    assert changes_too_much(findings, tracked) is too_much
