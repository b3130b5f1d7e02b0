"""Refusals that follow no rule a client could know, switched on as faults: status codes and exact bodies."""

from typing import Any

import pytest
from tests.unit.paper_engine.floor import Floor, refusal
from tests.unit.paper_engine.test_options import CALL, HIGH_CALL, LATER, floor_with_options


def fault(floor: Floor, kind: str, **fields: Any) -> None:
    floor.exchange.faults.add({"kind": kind, **fields})


def last_day() -> Floor:
    """The morning on which CALL and HIGH_CALL expire, with three of CALL held."""
    floor = floor_with_options()
    floor.hold("3", CALL)
    floor.to("10:00", days=1)
    for symbol, ask in (("KO", "50.01"), (CALL, "0.90"), (HIGH_CALL, "0.25"), (LATER, "0.90")):
        floor.quote(symbol, "0.10" if symbol != "KO" else "49.99", ask)
    return floor


def test_an_assignment_lock_keeps_the_last_long_options() -> None:
    floor = floor_with_options()
    floor.hold("3", CALL)
    fault(floor, "assignment_lock", account="large", count=1)
    floor.order(symbol=CALL, side="sell", qty="2", type="limit", limit_price="5")
    assert refusal(lambda: floor.exchange.close_position(floor.account, CALL, {}))[0] == 403, "two of them are held"
    assert floor.exchange.faults.injected["assignment_lock"] == 0
    floor.exchange.cancel_all_orders(floor.account)
    floor.run()
    assert refusal(lambda: floor.exchange.close_position(floor.account, CALL, {})) == (
        403,
        {"code": 40310000, "message": f"active assignment lock on {CALL}, cannot close all long options"},
    )
    assert floor.exchange.faults.injected["assignment_lock"] == 1
    floor.exchange.close_position(floor.account, CALL, {})
    floor.run()
    assert floor.qty(CALL) == 0


def test_an_account_has_a_limit_of_contracts_that_expire_today() -> None:
    floor = last_day()
    fault(floor, "expiring_limit", parameters={"limit": 5})
    floor.order(symbol=CALL, qty="1", type="limit", limit_price="0.05")
    body = {
        "code": 40310000,
        "message": "exceeded account limit for contracts expiring today (requested: 2, held+open: 4, limit: 5)",
    }
    assert refusal(lambda: floor.order(symbol=HIGH_CALL, qty="2")) == (403, body)
    legs = [
        {"symbol": HIGH_CALL, "ratio_qty": "1", "side": "buy"},
        {"symbol": LATER, "ratio_qty": "1", "side": "sell"},
    ]
    calendar = {"symbol": None, "side": None, "order_class": "mleg", "qty": "2", "legs": legs}
    assert refusal(lambda: floor.order(**calendar)) == (403, body)
    assert floor.exchange.faults.injected["expiring_limit"] == 2
    floor.order(symbol=HIGH_CALL, qty="1")
    floor.order(symbol=LATER, qty="9")
    floor.order(symbol=CALL, qty="3", side="sell", position_intent="sell_to_close", type="limit", limit_price="5")
    assert floor.exchange.faults.injected["expiring_limit"] == 2


def test_a_halted_symbol_can_refuse_orders_instead_of_letting_them_wait() -> None:
    floor = Floor()
    fault(floor, "halt_refused", symbol="KO")
    floor.order(qty="1")
    floor.run()
    floor.exchange.halt("KO")
    assert refusal(floor.order) == (403, {"code": 40310010, "message": 'trading in "KO" is halted'})
    floor.exchange.resume("KO")
    floor.order(qty="1")


def test_a_day_trade_can_be_denied_as_before_june_2026() -> None:
    floor = Floor()
    floor.hold("5")
    fault(floor, "day_trade_denied")
    body = {"code": 40310100, "message": "trade denied due to pattern day trading protection"}
    assert refusal(lambda: floor.order(side="sell", qty="5")) == (403, body)
    (answer,) = floor.exchange.close_all_positions(floor.account, {})
    assert (answer["status"], answer["body"]) == (403, body)
    floor.to("10:00", days=1)
    floor.quote("KO", "49.99", "50.01")
    floor.order(side="sell", qty="5")
    floor.run()
    assert floor.qty() == 0


@pytest.mark.parametrize("kind", ["assignment_lock", "day_trade_denied"])
def test_nothing_stops_the_broker_from_selling_out(kind: str) -> None:
    """What blocks an account blocks its owner: the liquidation on the last day goes through all the same."""
    floor = floor_with_options()
    floor.hold("1", CALL)
    fault(floor, kind)
    fault(floor, "account_block", account="large")
    assert refusal(floor.order) == (403, {"code": 40310000, "message": "account is blocked from trading"})
    fault(floor, "liquidation", account="large", symbol=CALL)
    floor.run()
    assert floor.qty(CALL) == 0


def test_a_blocked_account_does_not_stop_the_last_hour_of_its_options() -> None:
    """Selling out what cannot be exercised is the exchange's own duty at 15:30, for a blocked account too."""
    floor = floor_with_options()
    floor.order(floor.other, symbol=CALL, qty="1")
    floor.run()
    fault(floor, "account_block", account="tiny")
    floor.to("15:00", days=1)
    floor.quote("KO", "51.99", "52.01")
    floor.quote(CALL, "1.90", "2.10")
    floor.to("15:31")
    floor.run()
    floor.quote(CALL, "1.90", "2.10")
    assert floor.other.position_qty(CALL) == 0


def test_a_market_order_without_a_quote_is_refused() -> None:
    floor = floor_with_options()
    unquoted = "KO261016C00049000"
    assert refusal(lambda: floor.order(symbol=unquoted, qty="1")) == (
        403,
        {
            "code": 40310000,
            "message": "order has been rejected due to no available quote for symbol. please reenter with a limit",
        },
    )
    floor.order(symbol=unquoted, qty="1", type="limit", limit_price="1")


def test_exercising_what_the_account_cannot_pay_or_deliver() -> None:
    floor = floor_with_options()
    floor.order(floor.other, symbol=CALL, qty="1")
    put = "KO261009P00053000"
    floor.quote(put, "0.80", "0.90")
    floor.order(floor.other, symbol=put, qty="1")
    floor.run()
    floor.quote("KO", "51.99", "52.01")
    status, body = refusal(lambda: floor.exchange.exercise(floor.other, CALL))
    assert (status, body["code"]) == (403, 40310000)
    assert body["message"].startswith("insufficient cash available (required: 5000, available: ")
    assert refusal(lambda: floor.exchange.exercise(floor.other, put)) == (
        403,
        {
            "code": 40310000,
            "message": "insufficient underlying qty available for deliverable: KO (requested: 100, available: 0)",
        },
    )


def test_spreads_need_level_three() -> None:
    floor = floor_with_options(options_trading_level=2)
    legs = [
        {"symbol": CALL, "ratio_qty": "1", "side": "buy"},
        {"symbol": HIGH_CALL, "ratio_qty": "1", "side": "sell"},
    ]
    assert refusal(lambda: floor.order(symbol=None, side=None, order_class="mleg", qty="1", legs=legs)) == (
        403,
        {"code": 40310000, "message": "account not eligible to trade spreads or uncovered contracts"},
    )
