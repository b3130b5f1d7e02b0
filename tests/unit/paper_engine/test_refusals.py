"""Every refusal with its status code and exact body, one row each (reference: errors)."""

from decimal import Decimal
from typing import Any

import pytest
from tests.unit.paper_engine.floor import Floor, refusal

SHAPE, RULE, STATE = (422, 40010001), (422, 42210000), (403, 40310000)
TP, SL = {"limit_price": "53"}, {"stop_price": "48"}

SIMPLE_REFUSALS = [
    ({"type": None}, SHAPE, "type is required"),
    ({"side": None}, SHAPE, "side is required"),
    ({"symbol": None}, SHAPE, "symbol is required"),
    ({"time_in_force": None}, SHAPE, "time_in_force is required"),
    ({"side": "hold"}, SHAPE, "invalid side: hold"),
    ({"qty": "0"}, SHAPE, "qty must be > 0"),
    ({"qty": "-1"}, SHAPE, "qty must be > 0"),
    ({"qty": "NaN"}, SHAPE, "qty must be a number"),
    ({"qty": float("inf")}, SHAPE, "qty must be a number"),
    ({"qty": True}, SHAPE, "qty must be a number"),
    ({"qty": [1]}, SHAPE, "qty must be a number"),
    ({"qty": "1" * 60}, SHAPE, "qty must be a number"),
    ({"qty": "1.0000000001"}, SHAPE, "qty increment must be at least 0.000000001"),
    ({"qty": None}, SHAPE, "qty or notional is required"),
    ({"notional": "10"}, SHAPE, "only one of qty or notional is accepted"),
    ({"client_order_id": "x" * 129}, SHAPE, "client_order_id must be no more than 128 characters"),
    ({"type": "limit"}, SHAPE, "limit orders require limit price"),
    ({"limit_price": "10"}, SHAPE, "market orders must not have a limit price"),
    ({"type": "stop"}, SHAPE, "stop orders require stop price"),
    ({"type": "trailing_stop"}, SHAPE, "trailing stop orders require exactly one of trail_price and trail_percent"),
    ({"symbol": "NOPE"}, RULE, 'could not find asset "NOPE"'),
    (
        {"type": "limit", "limit_price": 290.123},
        RULE,
        "invalid limit_price 290.123. sub-penny increment does not fulfill minimum pricing criteria",
    ),
    (
        {"type": "limit", "limit_price": "0.12345"},
        RULE,
        "invalid limit_price 0.12345. sub-penny increment does not fulfill minimum pricing criteria",
    ),
    (
        {"position_intent": "buy_to_close"},
        RULE,
        "position intent mismatch, inferred: buy_to_open, specified: buy_to_close",
    ),
    (
        {"side": "sell", "position_intent": "sell_to_close"},
        RULE,
        "position intent mismatch, inferred: sell_to_open, specified: sell_to_close",
    ),
    ({"side": "sell", "qty": "0.5"}, RULE, "fractional orders cannot be sold short"),
    ({"qty": "0.5", "time_in_force": "gtc"}, RULE, "fractional orders must be DAY orders"),
    ({"notional": "0.5", "qty": None}, STATE, "cost basis must be >= minimal amount of order 1"),
    ({"take_profit": TP}, RULE, "take_profit and stop_loss require order_class bracket, oco or oto"),
    ({"order_class": "bracket", "stop_loss": SL}, RULE, "bracket orders require take_profit.limit_price"),
    ({"order_class": "bracket", "take_profit": TP}, RULE, "bracket orders require stop_loss.stop_price"),
    (
        {"order_class": "bracket", "take_profit": TP, "stop_loss": SL, "qty": "1.5"},
        RULE,
        "fractional orders must be simple orders",
    ),
    (
        {"order_class": "bracket", "take_profit": TP, "stop_loss": SL, "time_in_force": "ioc"},
        RULE,
        "bracket orders must be DAY or GTC orders",
    ),
    (
        {"order_class": "bracket", "take_profit": TP, "stop_loss": SL, "extended_hours": True},
        RULE,
        "extended hours order must be DAY or GTC limit orders",
    ),
    (
        {"order_class": "bracket", "take_profit": {"limit_price": "49"}, "stop_loss": SL},
        RULE,
        "take_profit.limit_price must be >= base_price + 0.01",
    ),
    (
        {"order_class": "bracket", "take_profit": TP, "stop_loss": {"stop_price": "50"}},
        RULE,
        "stop_loss.stop_price must be <= base_price - 0.01",
    ),
    ({"order_class": "oto"}, RULE, "oto orders require either take_profit.limit_price or stop_loss.stop_price"),
    ({"order_class": "oco", "take_profit": TP, "stop_loss": SL}, RULE, "oco orders must be limit orders"),
    (
        {"order_class": "oco", "type": "limit", "take_profit": TP, "stop_loss": SL},
        RULE,
        "oco orders must be exit orders",
    ),
    ({"extended_hours": True}, RULE, "extended hours order must be DAY or GTC limit orders"),
    ({"legs": [{}]}, SHAPE, "legs are only accepted for mleg orders"),
]


@pytest.mark.parametrize(("fields", "where", "message"), SIMPLE_REFUSALS, ids=[row[2][:60] for row in SIMPLE_REFUSALS])
def test_order_requests_are_refused_in_the_brokers_words(
    fields: dict[str, Any], where: tuple[int, int], message: str
) -> None:
    floor = Floor()
    status, body = refusal(lambda: floor.order(**fields))
    assert (status, body["code"], body["message"]) == (*where, message)
    assert not floor.account.orders
    assert not floor.account.stock_reserve


def test_a_body_that_is_no_object_is_malformed() -> None:
    floor = Floor()
    status, body = refusal(lambda: floor.exchange.submit_order(floor.account, ["market"]))  # type: ignore[arg-type]
    assert (status, body["message"]) == (400, "request body format is invalid")


def test_a_client_order_id_stays_taken_after_the_order_has_ended() -> None:
    floor = Floor()
    floor.order(client_order_id="mine")
    floor.run()
    expected = (422, {"code": 40010001, "message": "client_order_id must be unique"})
    assert refusal(lambda: floor.order(client_order_id="mine")) == expected
    assert floor.order(floor.other, client_order_id="mine", qty="1")["client_order_id"] == "mine"


def test_selling_more_than_is_held_and_free_names_every_number() -> None:
    floor = Floor()
    floor.hold("10")
    floor.order(side="sell", type="limit", limit_price="60", qty="4")
    assert refusal(lambda: floor.order(side="sell", type="limit", limit_price="60", qty="7")) == (
        403,
        {
            "available": "6",
            "code": 40310000,
            "existing_qty": "10",
            "held_for_orders": "4",
            "message": "insufficient qty available for order (requested: 7, available: 6)",
            "symbol": "KO",
        },
    )


@pytest.mark.parametrize(("side", "qty"), [("buy", "11"), ("sell", "11")])
def test_i1_no_order_crosses_zero(side: str, qty: str) -> None:
    floor = Floor()
    floor.hold("10", side="sell" if side == "buy" else "buy")
    status, body = refusal(lambda: floor.order(side=side, qty=qty))
    assert (status, body["message"]) == (403, f"insufficient qty available for order (requested: {qty}, available: 10)")


def test_f2_a_position_intent_that_no_longer_fits_guards_against_a_flip() -> None:
    floor = Floor()
    floor.hold("10")
    floor.order(side="sell")
    floor.run()
    status, body = refusal(lambda: floor.order(side="sell", position_intent="sell_to_close"))
    assert status == 422
    assert body["message"] == "position intent mismatch, inferred: sell_to_open, specified: sell_to_close"


WASH = [
    # resting order to sell, incoming order to buy, refused because of
    ({"type": "stop", "stop_price": "45"}, {"type": "market"}, "opposite side market/stop order exists"),
    (
        {"type": "stop", "stop_price": "45"},
        {"type": "limit", "limit_price": "40"},
        "opposite side market/stop order exists",
    ),
    ({"type": "limit", "limit_price": "55"}, {"type": "market"}, "opposite side limit order exists"),
    (
        {"type": "limit", "limit_price": "55"},
        {"type": "limit", "limit_price": "55"},
        "opposite side limit order exists",
    ),
    ({"type": "limit", "limit_price": "55"}, {"type": "limit", "limit_price": "54.99"}, None),
    ({"type": "trailing_stop", "trail_price": "1"}, {"type": "market"}, None),
]


@pytest.mark.parametrize(("resting", "incoming", "reason"), WASH)
def test_wash_trade_rule(resting: dict[str, str], incoming: dict[str, str], reason: str | None) -> None:
    floor = Floor()
    floor.hold("10")
    existing = floor.order(side="sell", **resting)
    floor.run()
    if reason is None:
        assert floor.order(**incoming)["status"] == "pending_new"
        return
    assert refusal(lambda: floor.order(**incoming)) == (
        403,
        {
            "code": 40310000,
            "existing_order_id": existing["id"],
            "message": "potential wash trade detected. use complex orders",
            "reject_reason": reason,
        },
    )


def test_brackets_are_exempt_from_the_wash_trade_rule() -> None:
    floor = Floor()
    floor.hold("10")
    floor.order(side="sell", type="stop", stop_price="45")
    assert floor.bracket()["status"] == "pending_new"


def test_long_and_short_openings_exclude_each_other() -> None:
    floor = Floor()
    floor.order(side="sell", type="limit", limit_price="60")
    assert refusal(lambda: floor.order(type="limit", limit_price="40"))[1]["message"] == (
        "cannot open a long buy while a short sell order is open"
    )
    floor = Floor()
    floor.order(type="limit", limit_price="40")
    assert refusal(lambda: floor.order(side="sell", type="limit", limit_price="60"))[1]["message"] == (
        "cannot open a short sell while a long buy order is open"
    )


def test_buying_power_counts_open_orders() -> None:
    floor = Floor()
    tiny = floor.other
    floor.order(tiny, type="limit", limit_price="50", qty="70")
    status, body = refusal(lambda: floor.order(tiny, type="limit", limit_price="50", qty="11"))
    assert (status, body) == (
        403,
        {"code": 40310000, "message": "insufficient buying power", "buying_power": "500", "cost_basis": "550"},
    )


def test_a_market_order_costs_its_collar() -> None:
    floor = Floor()
    body = refusal(lambda: floor.order(floor.other, qty="79"))[1]
    assert Decimal(body["cost_basis"]) == Decimal("50.01") * Decimal("1.025") * 79


@pytest.mark.parametrize(
    ("attributes", "fields", "message"),
    [
        ({"fractionable": False}, {"qty": "0.5"}, 'asset "OCGN" is not fractionable'),
        ({"shortable": False}, {"side": "sell"}, 'asset "OCGN" cannot be sold short'),
        ({"tradable": False}, {}, "asset OCGN is not tradable"),
    ],
)
def test_what_an_asset_does_not_allow(attributes: dict[str, bool], fields: dict[str, Any], message: str) -> None:
    floor = Floor()
    floor.exchange.add_stock("OCGN", Decimal(2), **attributes)
    floor.quote("OCGN", "1.99", "2.01")
    assert refusal(lambda: floor.order(symbol="OCGN", **fields))[1]["message"] == message


def test_configurations_forbid_shorting_and_trading() -> None:
    floor = Floor()
    floor.exchange.patch_configurations(floor.account, {"no_shorting": True})
    assert refusal(lambda: floor.order(side="sell"))[1]["message"] == "account is not allowed to short"
    floor.exchange.patch_configurations(floor.account, {"suspend_trade": "true"})
    assert refusal(floor.order)[1]["message"] == "new orders are rejected by user request"


def test_open_orders_are_bounded() -> None:
    floor = Floor(maximum_open_orders=3)
    for _ in range(3):
        floor.order(type="limit", limit_price="40", qty="1")
    assert (
        refusal(lambda: floor.order(type="limit", limit_price="40"))[1]["message"] == "too many open orders (limit: 3)"
    )


def test_numbers_may_be_strings_or_floats_with_binary_noise() -> None:
    floor = Floor()
    assert floor.order(qty=0.1 + 0.2)["qty"] == "0.3"
    assert floor.order(type="limit", limit_price=48.300000000000004, qty=3)["limit_price"] == "48.3"


@pytest.mark.parametrize("order_id", ["", "nonsense", "00000000-0000-0000-0000-000000000000"])
def test_unknown_orders_and_positions_are_404(order_id: str) -> None:
    floor = Floor()
    exchange, account = floor.exchange, floor.account
    assert refusal(lambda: exchange.get_order(account, order_id))[1]["code"] == 40410000
    assert refusal(lambda: exchange.get_order_by_client_order_id(account, order_id))[0] == 404
    assert refusal(lambda: exchange.get_position(account, order_id)) == (
        404,
        {"code": 40410000, "message": "position does not exist"},
    )
    assert refusal(lambda: exchange.close_position(account, order_id, {}))[0] == 404


def test_i4_another_accounts_order_does_not_exist_here() -> None:
    floor = Floor()
    order = floor.order()
    assert refusal(lambda: floor.exchange.get_order(floor.other, order["id"]))[0] == 404
    assert refusal(lambda: floor.exchange.cancel_order(floor.other, order["id"]))[0] == 404
