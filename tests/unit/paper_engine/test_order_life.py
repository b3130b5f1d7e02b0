"""The life of single orders: acceptance, matching, cancel, replace, and the races between them."""

from decimal import Decimal
from typing import Any

import pytest
from tests.unit.paper_engine.floor import Floor, refusal


def test_a_market_order_is_pending_then_new_then_filled_at_the_ask() -> None:
    floor = Floor()
    order = floor.order()
    assert (order["status"], order["position_intent"], order["order_class"]) == ("pending_new", "buy_to_open", "")
    assert floor.get(order)["status"] == "pending_new"
    floor.run()
    filled = floor.get(order)
    assert (filled["status"], filled["filled_qty"], filled["filled_avg_price"]) == ("filled", "10", "50.01")
    assert filled["expires_at"] == "2026-10-08T20:00:00Z"
    assert floor.names() == ["pending_new", "new", "fill"]


def test_a_fill_message_carries_execution_price_quantity_and_position() -> None:
    floor = Floor()
    floor.order(side="sell", qty="3")
    floor.run()
    fill = floor.events[-1][1]
    assert (fill["price"], fill["qty"], fill["position_qty"]) == ("49.99", "3", "-3")
    assert fill["execution_id"]
    assert fill["order"]["legs"] is None
    assert fill["order"]["cancel_requested_at"] is None


def test_fills_appear_as_activities_with_the_documented_id() -> None:
    floor = Floor()
    floor.order(side="sell", qty="3")
    floor.run()
    (activity,) = floor.exchange.list_activities(floor.account, {})
    prefix, _, uuid = activity["id"].partition("::")
    assert prefix == "20261008110000000"
    assert len(uuid) == 36
    assert {key: activity[key] for key in ("activity_type", "side", "qty", "cum_qty", "leaves_qty", "type")} == {
        "activity_type": "FILL",
        "side": "sell_short",
        "qty": "3",
        "cum_qty": "3",
        "leaves_qty": "0",
        "type": "fill",
    }


MARKETABLE = [
    # order, bid, ask, filled at (None: it rests)
    ({"type": "limit", "limit_price": "50.00"}, "49.99", "50.01", None),
    ({"type": "limit", "limit_price": "50.00"}, "49.90", "50.00", "50"),
    ({"type": "limit", "limit_price": "50.00"}, "49.50", "49.60", "49.6"),
    ({"type": "limit", "limit_price": "50.10", "side": "sell"}, "50.09", "50.20", None),
    ({"type": "limit", "limit_price": "50.10", "side": "sell"}, "50.30", "50.40", "50.3"),
    ({"type": "stop", "stop_price": "51"}, "50.90", "50.99", None),
    ({"type": "stop", "stop_price": "51"}, "50.99", "51.00", "51"),
    ({"type": "stop", "stop_price": "51"}, "53.00", "53.10", None),  # beyond the 2.5 % collar of a buy stop
    ({"type": "stop", "stop_price": "49", "side": "sell"}, "49.01", "49.02", None),
    ({"type": "stop", "stop_price": "49", "side": "sell"}, "48.00", "48.10", "48"),
    ({"type": "stop_limit", "stop_price": "49", "limit_price": "48.5", "side": "sell"}, "48.00", "48.10", None),
    ({"type": "stop_limit", "stop_price": "49", "limit_price": "48.5", "side": "sell"}, "48.60", "48.70", "48.6"),
    ({"type": "limit", "limit_price": "60"}, "0", "50", None),  # one-sided
    ({"type": "limit", "limit_price": "60"}, "55", "50", None),  # crossed
    ({"type": "limit", "limit_price": "60"}, "NaN", "50", None),
]


@pytest.mark.parametrize(("fields", "bid", "ask", "price"), MARKETABLE)
def test_what_a_resting_order_fills_at(fields: dict[str, Any], bid: str, ask: str, price: str | None) -> None:
    floor = Floor()
    if fields.get("limit_price") == "60":
        floor.quote("KO", "61", "62")
    order = floor.order(**fields)
    floor.run()
    assert floor.get(order)["status"] == "new"
    floor.quote("KO", bid, ask)
    assert floor.get(order)["filled_avg_price"] == price
    assert floor.get(order)["status"] == ("new" if price is None else "filled")


def test_a_triggered_stop_limit_rests_until_its_limit() -> None:
    floor = Floor()
    order = floor.order(side="sell", type="stop_limit", stop_price="49", limit_price="48.5")
    floor.run()
    floor.quote("KO", "48.00", "48.10")
    floor.quote("KO", "48.50", "48.60")
    assert floor.get(order)["filled_avg_price"] == "48.5"


def test_a_print_triggers_a_stop_which_fills_at_the_quote() -> None:
    floor = Floor()
    order = floor.order(side="sell", type="stop", stop_price="49")
    floor.run()
    floor.exchange.on_trade("KO", Decimal("48.99"), floor.now)
    assert floor.get(order)["filled_avg_price"] == "49.99"


def test_a_trailing_stop_follows_the_market_and_fires_on_the_way_back() -> None:
    floor = Floor()
    floor.hold("10")
    order = floor.order(side="sell", type="trailing_stop", trail_price="1", time_in_force="gtc")
    floor.run()
    assert (floor.get(order)["hwm"], floor.get(order)["stop_price"]) == ("49.99", "48.99")
    floor.quote("KO", "52", "52.02")
    floor.quote("KO", "51.01", "51.03")
    assert (floor.get(order)["hwm"], floor.get(order)["stop_price"], floor.get(order)["status"]) == ("52", "51", "new")
    floor.quote("KO", "51.00", "51.02")
    assert floor.get(order)["filled_avg_price"] == "51"


def test_a_trailing_percent_is_taken_of_the_mark() -> None:
    floor = Floor()
    order = floor.order(side="sell", type="trailing_stop", trail_percent="10", time_in_force="gtc")
    floor.run()
    assert floor.get(order)["stop_price"] == "44.99"


@pytest.mark.parametrize(
    ("tif", "size", "status", "filled"),
    [
        ("ioc", 4, "canceled", "4"),
        ("ioc", 100, "filled", "10"),
        ("fok", 4, "canceled", "0"),
        ("fok", 100, "filled", "10"),
    ],
)
def test_immediate_orders_fill_what_is_shown_and_cancel_the_rest(tif: str, size: int, status: str, filled: str) -> None:
    floor = Floor(respect_sizes=True)
    floor.quote("KO", "49.99", "50.01", ask_size=size)
    order = floor.order(time_in_force=tif, type="limit", limit_price="50.01")
    floor.run()
    assert (floor.get(order)["status"], floor.get(order)["filled_qty"]) == (status, filled)


def test_displayed_sizes_make_partial_fills_with_a_weighted_average() -> None:
    floor = Floor(respect_sizes=True)
    floor.quote("KO", "49.99", "50.00", ask_size=4)
    order = floor.order()
    other = floor.order(qty="1")
    floor.run()
    assert (floor.get(order)["status"], floor.get(order)["filled_qty"]) == ("partially_filled", "4")
    assert floor.get(other)["filled_qty"] == "0"
    floor.quote("KO", "50.99", "51.00", ask_size=100)
    assert (floor.get(order)["status"], floor.get(order)["filled_avg_price"]) == ("filled", "50.6")
    assert [data["event"] for _, data in floor.events if data["order"]["id"] == order["id"]][-2:] == [
        "partial_fill",
        "fill",
    ]


def test_chance_divides_fills_and_the_rest_follows_by_itself() -> None:
    floor = Floor(partial_fill_probability=1.0, seed=3)
    order = floor.order(qty="100")
    floor.run(5)
    filled = floor.get(order)
    assert (filled["status"], filled["filled_qty"]) == ("filled", "100")
    executions = [fill["execution_id"] for fill in floor.exchange.fills_json()]
    assert len(executions) == len(set(executions)) > 1


@pytest.mark.parametrize(
    ("fields", "filled"), [({"qty": "0.123456789"}, "0.123456789"), ({"qty": None, "notional": "100"}, "1.999600079")]
)
def test_fractions_and_notional_orders(fields: dict[str, Any], filled: str) -> None:
    floor = Floor()
    order = floor.order(**fields)
    floor.run()
    view = floor.get(order)
    assert (view["status"], view["filled_qty"], view["qty"], view["notional"]) == (
        "filled",
        filled,
        fields["qty"],
        fields.get("notional"),
    )
    assert not floor.account.stock_reserve


# Cancel ---------------------------------------------------------------------------------------------------------------


def test_a_cancel_is_acknowledged_first_and_frees_the_quantity_later() -> None:
    floor = Floor()
    floor.hold("10")
    order = floor.order(side="sell", type="limit", limit_price="60")
    floor.run()
    floor.exchange.cancel_order(floor.account, order["id"])
    assert floor.get(order)["status"] == "pending_cancel"
    assert refusal(lambda: floor.order(side="sell"))[1]["held_for_orders"] == "10"
    floor.run()
    assert floor.get(order)["status"] == "canceled"
    assert floor.order(side="sell")["status"] == "pending_new"


def test_a_fill_can_win_against_a_cancel() -> None:
    floor = Floor()
    order = floor.order(type="limit", limit_price="49")
    floor.run()
    floor.exchange.cancel_order(floor.account, order["id"])
    floor.quote("KO", "48.98", "49")
    floor.run()
    assert floor.get(order)["status"] == "filled"
    assert floor.names()[-2:] == ["fill", "order_cancel_rejected"]


def test_cancelling_what_has_ended() -> None:
    floor = Floor()
    order = floor.order()
    floor.run()
    assert refusal(lambda: floor.exchange.cancel_order(floor.account, order["id"])) == (
        422,
        {"code": 42210000, "message": 'order is already in "filled" state'},
    )
    resting = floor.order(type="limit", limit_price="40")
    floor.run()
    floor.exchange.cancel_order(floor.account, resting["id"])
    floor.exchange.cancel_order(floor.account, resting["id"])
    floor.run()
    floor.exchange.cancel_order(floor.account, resting["id"])
    assert floor.get(resting)["status"] == "canceled"


def test_cancel_all_answers_one_item_an_order() -> None:
    floor = Floor()
    ids = {floor.order(type="limit", limit_price="40", qty="1")["id"] for _ in range(3)}
    floor.run()
    items = floor.exchange.cancel_all_orders(floor.account)
    assert {item["id"] for item in items} == ids
    assert {item["status"] for item in items} == {200}
    floor.run()
    assert floor.exchange.list_orders(floor.account, {}) == []


# Replace --------------------------------------------------------------------------------------------------------------


def test_a_replacement_is_a_new_order_and_the_old_one_points_to_it() -> None:
    floor = Floor()
    old = floor.order(type="limit", limit_price="40", client_order_id="first")
    floor.run()
    new = floor.exchange.replace_order(floor.account, old["id"], {"limit_price": 41, "client_order_id": "second"})
    assert new["id"] != old["id"]
    assert (new["status"], new["replaces"], new["limit_price"], new["client_order_id"]) == (
        "pending_new",
        old["id"],
        "41",
        "second",
    )
    assert floor.get(old)["status"] == "pending_replace"
    floor.events.clear()
    floor.run()
    assert (floor.get(old)["status"], floor.get(old)["replaced_by"]) == ("replaced", new["id"])
    assert floor.get(new)["status"] == "new"
    assert floor.names() == ["replaced", "new"]


def test_the_old_order_can_fill_before_its_replacement_lands() -> None:
    floor = Floor()
    old = floor.order(type="limit", limit_price="49")
    floor.run()
    new = floor.exchange.replace_order(floor.account, old["id"], {"limit_price": "48"})
    floor.quote("KO", "48.9", "49")
    floor.events.clear()
    floor.run()
    assert (floor.get(old)["status"], floor.get(new)["status"]) == ("filled", "rejected")
    assert floor.qty() == 10
    assert floor.names() == ["rejected"]


REPLACE_REFUSALS = [
    ({}, "order parameters are not changed"),
    ({"limit_price": "40", "qty": "10"}, "order parameters are not changed"),
    ({"stop_price": "40"}, "stop_price cannot be set on limit orders"),
    ({"trail": "1"}, "trail cannot be set on limit orders"),
    ({"qty": "1.5"}, "qty of fractional orders cannot be replaced"),
    (
        {"limit_price": "40.001"},
        "invalid limit_price 40.001. sub-penny increment does not fulfill minimum pricing criteria",
    ),
]


@pytest.mark.parametrize(("body", "message"), REPLACE_REFUSALS)
def test_replacements_that_are_refused(body: dict[str, str], message: str) -> None:
    floor = Floor()
    order = floor.order(type="limit", limit_price="40")
    floor.run()
    assert refusal(lambda: floor.exchange.replace_order(floor.account, order["id"], body)) == (
        422,
        {"code": 42210000, "message": message},
    )
    assert floor.get(order)["status"] == "new"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("pending_new", "cannot replace order in pending_new status"),
        ("accepted", "cannot replace order in accepted status"),
        ("pending_cancel", "cannot replace order in pending_cancel status"),
        ("pending_replace", "cannot replace order in pending_replace status"),
        ("replacement", "order chain not fully replaced"),
        ("replaced", "order already replaced"),
        ("canceled", 'order is already in "canceled" state'),
    ],
)
def test_states_in_which_an_order_cannot_be_replaced(state: str, message: str) -> None:
    floor = Floor()
    if state == "accepted":
        floor.to("17:00")
    order = floor.order(type="limit", limit_price="40")
    if state != "pending_new":
        floor.run()
    if state in ("pending_cancel", "canceled"):
        floor.exchange.cancel_order(floor.account, order["id"])
    if state in ("pending_replace", "replaced"):
        floor.exchange.replace_order(floor.account, order["id"], {"limit_price": "41"})
    if state in ("replaced", "canceled"):
        floor.run()
    if state == "replacement":
        floor.run()
        order, state = floor.exchange.replace_order(floor.account, order["id"], {"limit_price": "41"}), "pending_new"
    assert floor.get(order)["status"] == state
    call = lambda: floor.exchange.replace_order(floor.account, order["id"], {"limit_price": "42"})  # noqa: E731
    assert refusal(call)[1]["message"] == message


def test_a_partly_filled_order_cannot_shrink_below_its_fills_and_keeps_its_whole_quantity() -> None:
    floor = Floor(respect_sizes=True)
    floor.quote("KO", "49.9", "50", ask_size=4)
    order = floor.order(type="limit", limit_price="50")
    floor.run()
    call = lambda qty: floor.exchange.replace_order(floor.account, order["id"], {"qty": qty})  # noqa: E731
    assert refusal(lambda: call("4"))[1]["message"] == "qty must be > filled_qty"
    replacement = floor.exchange.replace_order(floor.account, order["id"], {"limit_price": "49.5"})
    assert replacement["qty"] == "10"


def test_a_replacement_ties_up_the_larger_of_old_and_new() -> None:
    floor = Floor()
    order = floor.order(type="limit", limit_price="40")
    floor.run()
    floor.exchange.replace_order(floor.account, order["id"], {"limit_price": "44"})
    assert floor.account.stock_reserve == 440
    floor.run()
    assert floor.account.stock_reserve == 440
    again = floor.exchange.list_orders(floor.account, {})[0]
    floor.exchange.replace_order(floor.account, again["id"], {"limit_price": "30"})
    assert floor.account.stock_reserve == 440
    floor.run()
    assert floor.account.stock_reserve == 300


def test_same_seed_same_keys_other_seed_other_keys() -> None:
    one, two, three = Floor(seed=1), Floor(seed=1), Floor(seed=2)
    assert (one.account.key, one.account.secret, one.account.id) == (
        two.account.key,
        two.account.secret,
        two.account.id,
    )
    assert one.account.key != three.account.key
    assert one.exchange.account_by_key(one.account.key, one.account.secret) is one.account
    assert one.exchange.account_by_key(one.account.key, "wrong") is None
    assert one.exchange.account_by_key("wrong", one.account.secret) is None
