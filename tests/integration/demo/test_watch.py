"""The demo's own reading of each minute: which positions should be out by now."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from exitguard.cli.demo.watch import BreachWatch
from exitguard.core.quote import Quote

CLOSE = datetime(2025, 3, 3, 21, 0, tzinfo=UTC)
NOON = datetime(2025, 3, 3, 17, 0, tzinfo=UTC)


def row(**fields: Any) -> dict[str, Any]:
    values = {
        "account_name": "large", "id": 1, "symbol": "F", "ticker": "F", "instrument_type": "STOCK", "side": "long",
        "status": "open",
        "entry_price": Decimal(10), "stop_loss": None, "take_profit": None, "strategy_type": "swing",
        "entry_time": NOON - timedelta(hours=1), "max_hold_deadline": NOON + timedelta(hours=2),
    }  # fmt: skip
    return {**values, **fields}


def quote(bid: str, ask: str, at: datetime = NOON) -> Quote:
    return Quote("F", Decimal(bid), Decimal(ask), at)


OPTION = {"instrument_type": "CALL"}
FRESH = {"entry_time": NOON - timedelta(minutes=3)}


@pytest.mark.parametrize(
    ("fields", "seen", "breached"),
    [
        ({}, quote("10.00", "10.02"), False),
        ({}, quote("9.84", "9.85"), True),
        ({}, quote("10.19", "10.22"), True),
        ({"side": "short"}, quote("9.84", "9.85"), False),
        ({"side": "short"}, quote("10.15", "10.17"), True),
        ({"stop_loss": Decimal("9.50")}, quote("9.84", "9.85"), False),
        ({"stop_loss": Decimal("9.90")}, quote("9.84", "9.85"), True),
        ({"side": "short", "take_profit": Decimal("9.50")}, quote("9.40", "9.42"), True),
        (FRESH, quote("9.50", "9.52"), False),
        ({**OPTION, **FRESH}, quote("6.90", "7.00"), True),
        ({**OPTION, **FRESH}, quote("7.60", "7.70"), False),
        (OPTION, quote("7.60", "7.70"), True),
        ({}, quote("0", "9.00"), False),
        ({}, quote("9.60", "9.50"), False),
        ({}, quote("9.00", "9.05", NOON - timedelta(minutes=2)), False),
        ({**OPTION}, quote("4.00", "9.00"), False),
        ({"max_hold_deadline": NOON}, None, True),
        ({"strategy_type": "day_trade"}, None, False),
    ],
)
def test_breaches(fields: dict[str, Any], seen: Quote | None, breached: bool) -> None:
    assert (BreachWatch(CLOSE).breach(row(**fields), seen, NOON) is not None) is breached


def test_a_day_trade_is_due_five_minutes_before_the_close() -> None:
    watch, late = BreachWatch(CLOSE), row(strategy_type="day_trade", max_hold_deadline=CLOSE + timedelta(hours=1))
    assert watch.breach(late, None, CLOSE - timedelta(minutes=6)) is None
    assert watch.breach(late, None, CLOSE - timedelta(minutes=5)) is not None


def test_only_a_lasting_breach_is_missed_and_a_close_may_take_its_time() -> None:
    watch = BreachWatch(CLOSE)

    def look(minute: int, status: str = "open", bid: str = "9.50") -> None:
        at = NOON + timedelta(minutes=minute)
        watch.look([row(status=status)], {"F": quote(bid, str(Decimal(bid) + Decimal("0.02")), at)}, at)

    look(0)
    look(1, bid="10.00")
    look(2)
    look(3, status="closing")
    look(6, status="closing")
    assert not watch.missed
    look(9, status="closing")
    assert [m.why for m in watch.missed.values()] == ["its close does not finish"]


def test_i9_a_breach_that_nobody_acts_on_is_missed() -> None:
    watch = BreachWatch(CLOSE)
    for minute in range(3):
        at = NOON + timedelta(minutes=minute)
        watch.look([row()], {"F": quote("9.50", "9.52", at)}, at)
    (missed,) = watch.missed.values()
    assert (missed.account, missed.symbol, missed.since) == ("large", "F", NOON)


def test_a_close_waits_out_a_halt_of_the_underlying() -> None:
    watch, contract = BreachWatch(CLOSE), "F250321C00012000"
    waiting = row(symbol=contract, status="closing", **OPTION)
    for minute in range(9):
        at = NOON + timedelta(minutes=minute)
        stock = quote("10.00", "10.02", NOON)  # the last one before the halt
        watch.look([waiting], {"F": stock, contract: quote("0.30", "0.32", at)}, at)
    assert not watch.missed
