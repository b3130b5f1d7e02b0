"""The comparison of our records with the broker's positions (F24, F27, F142, T9)."""

from decimal import Decimal
from typing import Any

import pytest

from exitguard.broker.port import BrokerError, BrokerUnavailable
from exitguard.core.orders import BrokerOrder, OrderSide, OrderStatus, OrderType
from exitguard.core.reconcile import KnownOrder
from exitguard.ops.sync import compare_account, render


class Account:
    account_number = "PA1"


class Position:
    def __init__(self, symbol: str, qty: str) -> None:
        self.symbol, self.qty = symbol, Decimal(qty)


class Venue:
    """The questions that a comparison asks."""

    def __init__(
        self, positions: dict[str, str] | BrokerError, number: str = "PA1", orders: list[BrokerOrder] | None = None
    ) -> None:
        self._positions = positions
        self._number = number
        self._orders = orders or []

    async def account(self) -> Any:
        account = Account()
        account.account_number = self._number
        return account

    async def positions(self) -> Any:
        if isinstance(self._positions, BrokerError):
            raise self._positions
        return [Position(*each) for each in self._positions.items()]

    async def open_orders(self) -> list[BrokerOrder]:
        return self._orders


async def compared(
    ours: dict[str, str],
    theirs: dict[str, str] | BrokerError,
    *,
    known: list[KnownOrder] | None = None,
    **more: Any,
) -> Any:
    records = {symbol: Decimal(qty) for symbol, qty in ours.items()}

    async def known_orders(ids: list[str]) -> list[KnownOrder]:
        return [row for row in known or [] if row.order_id in ids or row.client_order_id in ids]

    venue: Any = Venue(theirs, **more)
    return await compare_account("large", records, venue, "PA1", known_orders)


async def test_the_block_is_the_one_that_operators_know() -> None:
    held = {"AAPL": "10", "AAPL240223C00095000": "2"}
    assert render(await compared(held, held)) == (
        "Large Account:\n  Alpaca: 2 positions\n  Database: 2 positions\n  Matched: 2/2\n  Phantom: 0"
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "kind", "line"),
    [
        ({"AAPL": "10"}, {}, "phantom", "  Phantom: AAPL (Alpaca 0, database 10)"),
        ({}, {"AAPL": "-3"}, "untracked", "  Untracked: AAPL (Alpaca -3, database 0)"),
        ({"AAPL": "10"}, {"AAPL": "9"}, "quantity", "  Quantity: AAPL (Alpaca 9, database 10)"),
        ({"AAPL": "10"}, {"AAPL": "-10"}, "side", "  Side: AAPL (Alpaca -10, database 10)"),
    ],
)
async def test_each_kind_of_difference_is_named(
    ours: dict[str, str], theirs: dict[str, str], kind: str, line: str
) -> None:
    comparison = await compared(ours, theirs)
    assert not comparison.in_sync
    assert comparison.body()[kind] == 1
    assert comparison.body()["differences"][0]["kind"] == kind
    assert line in render(comparison).splitlines()


async def test_f142_a_failed_answer_is_an_error_and_never_an_empty_list() -> None:
    comparison = await compared({"AAPL": "10"}, BrokerUnavailable("timeout"))
    assert not comparison.in_sync
    assert comparison.body()["phantom"] == 0
    assert render(comparison) == "Large Account:\n  Error: timeout"


async def test_f27_keys_of_another_account_are_reported_and_not_compared() -> None:
    comparison = await compared({"AAPL": "10"}, {"AAPL": "10"}, number="PA2")
    assert not comparison.in_sync
    assert "PA2" in render(comparison)
    assert comparison.findings == ()


def resting(name: str, *, number: str = "b1", symbol: str = "AAPL", legs: tuple[BrokerOrder, ...] = ()) -> BrokerOrder:
    """An open order to sell three."""
    return BrokerOrder(
        id=number,
        client_order_id=name,
        symbol=symbol,
        side=OrderSide.SELL,
        status=OrderStatus.NEW,
        qty=Decimal(5),
        filled_qty=Decimal(2),
        filled_avg_price=Decimal(9),
        type=OrderType.LIMIT,
        order_class="simple",
        limit_price=Decimal(10),
        stop_price=None,
        submitted_at=None,
        updated_at=None,
        legs=legs,
    )


def known(name: str | None, order_id: str, *, wanted: bool = False) -> KnownOrder:
    return KnownOrder(order_id, name, wanted)


HELD = {"AAPL": "10"}


@pytest.mark.parametrize(
    ("held", "order", "books", "line"),
    [
        (HELD, resting("somebody"), [], "  Foreign order: AAPL (-3 to fill, somebody)"),
        ({}, resting("somebody"), [], "  Foreign order: AAPL (-3 to fill, somebody)"),
        ({}, resting("xg-tiny-1-c1"), [], "  Foreign order: AAPL (-3 to fill, xg-tiny-1-c1)"),
        (
            {},
            resting("xg-large-1-c1"),
            [known("xg-large-1-c1", "b1")],
            "  Orphan order: AAPL (-3 to fill, xg-large-1-c1)",
        ),
        ({}, resting("leg"), [known(None, "b1")], "  Orphan order: AAPL (-3 to fill, leg)"),
        ({}, resting("xg-large-r1-a"), [known("xg-large-r1-a", "b1", wanted=True)], None),
        (HELD, resting("xg-large-1-c1"), [], None),
        (HELD, resting("leg"), [known(None, "b1")], None),
        (HELD, resting("xg-large-1-b1x1", legs=(resting("leg", number="b2"),)), [], None),
    ],
)
async def test_open_orders_that_nobody_needs_or_somebody_else_sent_are_named(
    held: dict[str, str], order: BrokerOrder, books: list[KnownOrder], line: str | None
) -> None:
    comparison = await compared(held, held, orders=[order], known=books)
    assert comparison.in_sync is (line is None)
    said = [each for each in render(comparison).splitlines() if "order" in each]
    assert said == ([] if line is None else [line])
    assert (comparison.held, comparison.recorded) == (len(held), len(held)), "orders are not positions"
