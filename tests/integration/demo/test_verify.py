"""The demo's judge: it must find what it is there to find."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from exitguard.cli.demo.verify import VenueAccount, VenueFill, Verdict, read_fills, read_state, verify

AT = datetime(2025, 3, 3, 15, 0, tzinfo=UTC)
CALL = "F250321C00012000"


def fill(symbol: str, qty: str, price: str, client_order_id: str = "somebody", account: str = "large") -> VenueFill:
    return VenueFill(account, symbol, Decimal(qty), Decimal(price), AT, client_order_id)


def closed(
    symbol: str, qty: str, entry: str, exit_at: str, pnl: str, side: str = "long", **more: Any
) -> dict[str, Any]:
    multiplier = 100 if len(symbol) > 6 else 1
    return {
        "account_name": "large", "position_id": 1, "symbol": symbol, "side": side, "quantity": Decimal(qty),
        "multiplier": multiplier, "entry_price": Decimal(entry), "exit_price": Decimal(exit_at),
        "realised_pnl": Decimal(pnl), "close_reason": "stop_loss", "trigger_price": None, "trigger_at": None,
        "closed_at": AT, **more,
    }  # fmt: skip


def held(symbol: str, qty: str, side: str = "long", entry: str = "10") -> dict[str, Any]:
    return {
        "account_name": "large", "symbol": symbol, "side": side, "quantity": Decimal(qty),
        "entry_price": Decimal(entry), "multiplier": 100 if len(symbol) > 6 else 1, "realised_pnl": Decimal(0),
    }  # fmt: skip


def judged(
    fills: list[VenueFill],
    history: list[dict[str, Any]],
    cash: str,
    positions: dict[str, str] | None = None,
    rows: list[dict[str, Any]] | None = None,
    opened: int | None = None,
) -> Verdict:
    rows = rows or []
    return verify(
        start_cash={"large": Decimal(1000)},
        state={"large": VenueAccount(Decimal(cash), {s: Decimal(q) for s, q in (positions or {}).items()}, 0)},
        fills=fills,
        history=history,
        open_rows=rows,
        opened={"large": len(history) + len(rows) if opened is None else opened},
        signals={},
    )


ENTRY = "xg-large-r5-0123abcd"
LONG = [fill("F", "10", "11", ENTRY), fill("F", "-10", "10.50")]
SHORT = [fill("F", "-10", "11", ENTRY), fill("F", "10", "10.50")]


@pytest.mark.parametrize(
    ("fills", "row", "cash"),
    [
        (LONG, closed("F", "10", "11", "10.50", "-5"), "995"),
        (SHORT, closed("F", "10", "11", "10.50", "5", side="short"), "1005"),
        (
            [fill(CALL, "2", "0.30", ENTRY), fill(CALL, "-2", "0.45")],
            closed(CALL, "2", "0.30", "0.45", "30"),
            "1030",
        ),
    ],
)
def test_an_honest_day_is_in_order(fills: list[VenueFill], row: dict[str, Any], cash: str) -> None:
    verdict = judged(fills, [row], cash)
    assert verdict.ok, verdict.problems
    assert verdict.accounts["large"].to_json()["exit_reasons"] == {"stop_loss": 1}


def test_f20_a_second_close_that_opens_the_other_side_is_a_duplicate() -> None:
    fills = [*LONG, fill("F", "-10", "10.50", "xg-large-aaaa-a2")]
    verdict = judged(fills, [closed("F", "10", "11", "10.50", "-5")], "1100", {"F": "-10"})
    assert verdict.duplicates == 1
    assert verdict.missed_exits == 1
    assert not verdict.ok


def test_i1_a_close_larger_than_the_position_is_a_duplicate() -> None:
    verdict = judged([LONG[0], fill("F", "-15", "10.50")], [closed("F", "10", "11", "10.50", "-5")], "1047.5")
    assert verdict.duplicates == 1


def test_f43_a_signal_that_became_two_orders_is_a_duplicate() -> None:
    fills = [fill("F", "5", "11", ENTRY), fill("F", "5", "11", "xg-large-r5-ffffffff"), fill("F", "-10", "10.50")]
    verdict = judged(fills, [closed("F", "10", "11", "10.50", "-5")], "995")
    assert verdict.duplicates == 1


def test_f22_a_row_without_a_position_is_left_open() -> None:
    verdict = judged(LONG, [closed("F", "10", "11", "10.50", "-5")], "995", rows=[held("AMD", "3")])
    assert verdict.rows_left_open == 1


def test_f32_a_position_without_a_row_is_a_missed_exit() -> None:
    verdict = judged([LONG[0]], [], "890", {"F": "10"}, opened=0)
    assert verdict.missed_exits == 1


def test_a_position_held_on_both_sides_at_the_end_is_a_missed_exit() -> None:
    verdict = judged([LONG[0]], [], "890", {"F": "10"}, rows=[held("F", "10", entry="11")])
    assert verdict.missed_exits == 1
    assert verdict.mismatches == 0


def test_f58_a_pnl_that_is_not_the_cash_change_is_a_mismatch() -> None:
    verdict = judged(LONG, [closed("F", "10", "11", "10.80", "-2")], "995")
    assert verdict.mismatches == 1
    assert "not the cash change" in verdict.problems[0]


def test_slippage_counts_from_the_breach_and_leaves_wrong_prints_out() -> None:
    seen = {"trigger_price": Decimal("10.60"), "trigger_at": AT - timedelta(seconds=7)}
    wrong = {"trigger_price": Decimal("1.10"), "trigger_at": AT}
    history = [closed("F", "10", "11", "10.50", "-5", **seen), closed("F", "10", "11", "10.50", "-5", **wrong)]
    slip = judged([*LONG, *[fill("F", "10", "11", "xg-large-r6-0123abcd"), LONG[1]]], history, "990").accounts["large"]
    assert slip.slippage.to_json() == {
        "closes": 1, "wrong_prints": 1, "dollars": "-1.00", "mean_bp": "-94.34", "worst_bp": "-94.34",
        "median_seconds": 7.0, "longest_seconds": 7.0,
    }  # fmt: skip


def test_reading_the_exchange() -> None:
    (read,) = read_fills(
        [{"account": "large", "symbol": "F", "side": "sell", "qty": "3", "price": "11.5",
          "at": "2025-03-03T15:00:00.123456789Z", "client_order_id": ENTRY}]
    )  # fmt: skip
    assert (read.signed_qty, read.cash, read.signal_number) == (-3, Decimal("34.5"), 5)
    state = read_state({"large": {"cash": "12.50", "positions": {"F": {"qty": "-3"}}, "open_orders": []}})
    assert state["large"] == VenueAccount(Decimal("12.50"), {"F": Decimal(-3)}, 0)
