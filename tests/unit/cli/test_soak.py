"""The verdict of a soak: what is lost, done twice or left unfinished is found; what is well is not."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from exitguard.cli.demo.verify import VenueAccount, VenueFill
from exitguard.cli.soak.report import growth
from exitguard.cli.soak.verdict import compare, sentences

AT = datetime(2026, 11, 20, 16, tzinfo=UTC)


def fill(qty: int, account: str = "a", symbol: str = "XAAA") -> VenueFill:
    return VenueFill(account, symbol, Decimal(qty), Decimal(10), AT, "order")


def row(qty: int, **more: Any) -> dict[str, Any]:
    return {"account_name": "a", "symbol": "XAAA", "side": "long", "quantity": Decimal(qty), "position_id": 1, **more}


def open_row(qty: int, closed: int = 0) -> dict[str, Any]:
    return row(qty, original_quantity=Decimal(qty + closed))


def holding(qty: int) -> dict[str, VenueAccount]:
    return {"a": VenueAccount(Decimal(0), {"XAAA": Decimal(qty)} if qty else {}, 0)}


@pytest.mark.parametrize(
    ("fills", "held", "live", "closed", "kind"),
    [
        ([5], 5, [5], [], None),
        ([5, -5], 0, [], [5], None),
        ([5, -2, -3, 4], 4, [4], [5], None),
        ([5], 5, [], [], "lost"),
        ([5], 0, [5], [], "lost"),
        ([5], 5, [3], [], "lost"),
        ([5, -5], 0, [], [], "lost"),
        ([5, -5, -5], -5, [], [5], "twice"),
        ([5, -5], 0, [], [5, 5], "twice"),
    ],
)
def test_i1_i8_ledger_and_exchange_are_compared(
    fills: list[int], held: int, live: list[int], closed: list[int], kind: str | None
) -> None:
    found = compare(
        state=holding(held),
        fills=[fill(qty) for qty in fills],
        open_rows=[open_row(qty) for qty in live],
        history=[row(qty, position_id=number) for number, qty in enumerate(closed)],
        unfinished=[],
    )
    wrong = {name for name, problems in found.items() if problems}
    assert (kind in wrong) if kind else not wrong
    assert bool(sentences(found)) is bool(kind)


def test_what_is_closed_of_an_open_position_is_not_lost_and_what_was_before_it_must_be_there() -> None:
    def found(history: list[dict[str, Any]]) -> dict[str, list[str]]:
        fills = [fill(qty) for qty in (4, -4, 2, -1)]
        return compare(state=holding(1), fills=fills, open_rows=[open_row(1, closed=1)], history=history, unfinished=[])

    assert not any(found([row(4)]).values())
    assert len(found([])["lost"]) == 1
    assert len(found([row(4), row(4, position_id=2)])["twice"]) == 1


def test_one_position_with_two_rows_of_history_is_done_twice() -> None:
    found = compare(state=holding(0), fills=[fill(4), fill(-4)], open_rows=[], history=[row(2), row(2)], unfinished=[])
    assert found["twice"] == ["1 positions have more than one row of history"]


def test_memory_that_grows_shows_and_a_start_does_not() -> None:
    assert growth([100.0] * 7) is None
    assert growth([10.0, 20.0, *[100.0] * 14]) == 1.0
    assert growth([100.0 + 2 * minute for minute in range(40)]) == pytest.approx(170 / 130)
