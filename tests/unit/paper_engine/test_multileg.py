"""Orders of several option contracts: filled whole at a net price, replaced whole, refused whole."""

from decimal import Decimal
from typing import Any

import pytest
from tests.unit.paper_engine.floor import Floor, refusal
from tests.unit.paper_engine.test_options import CALL, HIGH_CALL, LATER, PUT, floor_with_options


def spread(floor: Floor, **fields: Any) -> dict[str, Any]:
    body = {
        "order_class": "mleg",
        "type": "limit",
        "limit_price": "0.75",
        "qty": "2",
        "time_in_force": "day",
        "legs": [
            {"symbol": CALL, "ratio_qty": "1", "side": "buy", "position_intent": "buy_to_open"},
            {"symbol": HIGH_CALL, "ratio_qty": "1", "side": "sell", "position_intent": "sell_to_open"},
        ],
        **fields,
    }
    return floor.exchange.submit_order(floor.account, body)


def test_a_spread_fills_whole_at_its_net_price() -> None:
    floor = floor_with_options()
    order = spread(floor, limit_price="0.70")
    assert (order["symbol"], order["asset_class"], order["side"], order["order_class"]) == ("", "", "", "mleg")
    assert [leg["ratio_qty"] for leg in order["legs"]] == ["1", "1"]
    floor.run()
    assert (floor.qty(CALL), floor.qty(HIGH_CALL)) == (2, -2)
    fill = floor.events[-1][1]
    assert (fill["event"], fill["price"], fill["qty"]) == ("fill", "0.7", "2")
    assert fill["position_qtys"] == {CALL: "2", HIGH_CALL: "-2"}
    assert [leg["price"] for leg in fill["legs"]] == ["0.9", "0.2"]
    assert len(fill["order"]["legs"]) == 2
    assert floor.account.cash == Decimal(100000) - 140
    assert not floor.account.option_reserve


def test_a_spread_rests_until_its_net_price_and_can_be_cancelled() -> None:
    floor = floor_with_options()
    order = spread(floor, limit_price="0.60")
    floor.run()
    assert floor.get(order)["status"] == "new"
    (listed,) = floor.exchange.list_orders(floor.account, {})
    assert listed["id"] == order["id"]
    floor.quote(CALL, "0.70", "0.79")
    assert floor.get(order)["status"] == "filled"
    other = spread(
        floor,
        limit_price="0.10",
        legs=[{"symbol": LATER, "ratio_qty": 1, "side": "buy"}, {"symbol": PUT, "ratio_qty": 1, "side": "buy"}],
    )
    floor.run()
    floor.exchange.cancel_order(floor.account, other["legs"][0]["id"])
    floor.run()
    assert {leg["status"] for leg in floor.get(other)["legs"]} == {"canceled"}


def test_a_spread_is_replaced_with_all_its_legs_under_new_ids() -> None:
    floor = floor_with_options()
    old = spread(floor, limit_price="0.50", qty="2")
    floor.run()
    new = floor.exchange.replace_order(floor.account, old["id"], {"limit_price": "0.60", "qty": 3})
    assert (new["replaces"], new["order_class"], new["qty"], new["limit_price"]) == (old["id"], "mleg", "3", "0.6")
    assert [leg["replaces"] for leg in new["legs"]] == [leg["id"] for leg in old["legs"]]
    assert [leg["qty"] for leg in new["legs"]] == ["3", "3"]
    assert floor.get(old)["status"] == "pending_replace"
    floor.run()
    gone = floor.get(old)
    assert (gone["status"], gone["replaced_by"]) == ("replaced", new["id"])
    assert [leg["status"] for leg in gone["legs"]] == ["replaced", "replaced"]
    assert [leg["replaced_by"] for leg in gone["legs"]] == [leg["id"] for leg in new["legs"]]
    assert floor.account.option_reserve == Decimal("0.60") * 300
    assert [order["id"] for order in floor.exchange.list_orders(floor.account, {})] == [new["id"]]
    floor.quote(CALL, "0.70", "0.79")
    assert floor.get(new)["status"] == "filled"
    assert (floor.qty(CALL), floor.qty(HIGH_CALL)) == (3, -3)
    assert floor.account.option_reserve == 0


def test_a_spread_can_fill_before_its_replacement_lands() -> None:
    floor = floor_with_options()
    old = spread(floor, limit_price="0.60")
    floor.run()
    new = floor.exchange.replace_order(floor.account, old["id"], {"limit_price": "0.55"})
    floor.quote(CALL, "0.70", "0.79")
    assert floor.get(old)["status"] == "filled"
    floor.run()
    assert floor.get(new)["status"] == "rejected"
    assert {leg["status"] for leg in floor.get(new)["legs"]} == {"rejected"}
    assert (floor.qty(CALL), floor.account.option_reserve, floor.account.holds) == (2, 0, {})


def test_a_closing_spread_can_be_replaced_although_it_holds_what_it_closes() -> None:
    floor = floor_with_options()
    spread(floor, limit_price="0.70")
    floor.run()
    legs = [
        {"symbol": CALL, "ratio_qty": "1", "side": "sell", "position_intent": "sell_to_close"},
        {"symbol": HIGH_CALL, "ratio_qty": "1", "side": "buy", "position_intent": "buy_to_close"},
    ]
    closing = spread(floor, limit_price="-0.90", legs=legs)
    floor.run()
    assert floor.account.holds == {CALL: 2, HIGH_CALL: 2}
    new = floor.exchange.replace_order(floor.account, closing["id"], {"limit_price": "-0.40"})
    floor.run()
    assert floor.get(new)["status"] == "filled"
    assert (floor.account.holds, floor.account.positions) == ({}, {})


def test_replacements_of_spreads_that_are_refused() -> None:
    floor = floor_with_options()
    order = spread(floor, limit_price="0.60")
    floor.run()

    def replace(order_id: str, **body: Any) -> str:
        return str(refusal(lambda: floor.exchange.replace_order(floor.account, order_id, body))[1]["message"])

    assert replace(order["id"], limit_price="0.60") == "order parameters are not changed"
    assert replace(order["id"], stop_price="1").startswith("stop_price cannot be set")
    assert replace(order["id"], time_in_force="ioc") == "invalid time_in_force for mleg orders"
    assert replace(order["id"], qty=10_000) == "insufficient options buying power"
    assert replace(order["id"], limit_price="0.555").startswith("invalid limit_price 0.555")
    assert "on its own" in replace(order["legs"][0]["id"], limit_price="0.61")
    assert floor.get(order)["status"] == "new"
    assert len(floor.account.open) == 3, "a refused replacement leaves nothing behind"


def test_the_venue_can_put_a_spread_under_a_new_id() -> None:
    floor = floor_with_options()
    floor.exchange.faults.add({"kind": "replaced_by_venue", "count": 1})
    order = spread(floor, limit_price="0.60")
    floor.run()
    new = floor.get({"id": floor.get(order)["replaced_by"]})
    assert (new["status"], new["limit_price"], len(new["legs"])) == ("new", "0.6", 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"legs": []}, "mleg orders require 2 to 4 legs"),
        ({"qty": "1.5"}, "qty must be integer for options trading"),
        ({"type": "stop", "stop_price": "1"}, "invalid order type for mleg orders"),
        ({"time_in_force": "ioc"}, "invalid time_in_force for mleg orders"),
        ({"symbol": "KO"}, "symbol is not allowed for mleg orders"),
        (
            {
                "legs": [
                    {"symbol": CALL, "ratio_qty": "2", "side": "buy"},
                    {"symbol": PUT, "ratio_qty": "2", "side": "buy"},
                ]
            },
            "leg ratio quantities must be relatively prime",
        ),
        (
            {
                "legs": [
                    {"symbol": CALL, "ratio_qty": "1", "side": "buy"},
                    {"symbol": CALL, "ratio_qty": "1", "side": "buy"},
                ]
            },
            "mleg orders require distinct legs",
        ),
        (
            {
                "legs": [
                    {"symbol": CALL, "ratio_qty": "1", "side": "sell"},
                    {"symbol": HIGH_CALL, "ratio_qty": "1", "side": "sell"},
                ]
            },
            "account not eligible to trade uncovered option contracts",
        ),
        (
            {
                "legs": [
                    {"symbol": CALL, "ratio_qty": "1", "side": "buy"},
                    {"symbol": "KO", "ratio_qty": "1", "side": "buy"},
                ]
            },
            'contract "KO" not found',
        ),
    ],
)
def test_spreads_that_are_refused(fields: dict[str, Any], message: str) -> None:
    floor = floor_with_options()
    assert refusal(lambda: spread(floor, **fields))[1]["message"] == message


def test_a_credit_spread_ties_up_its_width() -> None:
    floor = floor_with_options()
    spread(
        floor,
        limit_price="-0.50",
        qty="1",
        legs=[
            {"symbol": CALL, "ratio_qty": "1", "side": "sell"},
            {"symbol": HIGH_CALL, "ratio_qty": "1", "side": "buy"},
        ],
    )
    assert floor.account.option_reserve == 150
    floor.run()
    account = floor.exchange.account_json(floor.account)
    assert floor.account.cash == Decimal(100000) + 55
    assert Decimal(account["options_buying_power"]) == Decimal(100055) - 200
