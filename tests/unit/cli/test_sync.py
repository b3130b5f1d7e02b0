"""The comparison of our records with the broker's positions (F24, F27, F142, T9)."""

from decimal import Decimal
from typing import Any

import pytest

from exitguard.broker.port import BrokerError, BrokerUnavailable
from exitguard.ops.sync import compare_account, render


class Account:
    account_number = "PA1"


class Position:
    def __init__(self, symbol: str, qty: str) -> None:
        self.symbol, self.qty = symbol, Decimal(qty)


class Venue:
    """The two questions that a comparison asks."""

    def __init__(self, positions: dict[str, str] | BrokerError, number: str = "PA1") -> None:
        self._positions = positions
        self._number = number

    async def account(self) -> Any:
        account = Account()
        account.account_number = self._number
        return account

    async def positions(self) -> Any:
        if isinstance(self._positions, BrokerError):
            raise self._positions
        return [Position(*each) for each in self._positions.items()]


async def compared(ours: dict[str, str], theirs: dict[str, str] | BrokerError, **more: Any) -> Any:
    records = {symbol: Decimal(qty) for symbol, qty in ours.items()}
    return await compare_account("large", records, Venue(theirs, **more), "PA1")  # type: ignore[arg-type]


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
