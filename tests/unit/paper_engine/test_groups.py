"""Brackets, OCO and OTO: held legs, activation, one cancels the other, replacement of legs."""

from typing import Any

import pytest
from tests.unit.paper_engine.floor import Floor, refusal


def legs(floor: Floor, parent: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {leg["group_role"]: leg for leg in floor.get(parent, nested=True)["legs"]}


def test_legs_are_held_until_the_entry_is_completely_filled() -> None:
    floor = Floor(respect_sizes=True)
    floor.quote("KO", "49.9", "50", ask_size=4)
    parent = floor.bracket(type="limit", limit_price="50")
    floor.run()
    assert floor.get(parent)["status"] == "partially_filled"
    assert {leg["status"] for leg in legs(floor, parent).values()} == {"held"}
    floor.quote("KO", "49.9", "50", ask_size=100)
    floor.run()
    both = legs(floor, parent)
    assert (both["take_profit"]["status"], both["stop_loss"]["status"]) == ("new", "held")
    assert {leg["qty"] for leg in both.values()} == {"10"}


def test_group_ids_and_roles_are_on_every_member() -> None:
    floor = Floor()
    parent = floor.bracket()
    members = [parent, *parent["legs"]]
    assert [member["group_role"] for member in members] == ["entry", "take_profit", "stop_loss"]
    assert len({member["group_id"] for member in members}) == 1
    assert "group_id" not in floor.order(type="limit", limit_price="40")


def test_exits_tie_up_the_position_once() -> None:
    floor = Floor()
    floor.bracket()
    floor.run()
    (position,) = floor.exchange.list_positions(floor.account)
    assert (position["qty"], position["qty_available"]) == ("10", "0")
    status, body = refusal(lambda: floor.exchange.close_position(floor.account, "KO", {}))
    assert (status, body["held_for_orders"], body["existing_qty"]) == (403, "10", "10")


@pytest.mark.parametrize(
    ("bid", "ask", "winner", "loser", "price"),
    [("53", "53.02", "take_profit", "stop_loss", "53"), ("47.5", "47.52", "stop_loss", "take_profit", "47.5")],
)
def test_one_exit_fills_and_the_other_is_cancelled(bid: str, ask: str, winner: str, loser: str, price: str) -> None:
    floor = Floor()
    parent = floor.bracket()
    floor.run()
    floor.quote("KO", bid, ask)
    floor.run()
    both = legs(floor, parent)
    assert (both[winner]["status"], both[winner]["filled_avg_price"], both[loser]["status"]) == (
        "filled",
        price,
        "canceled",
    )
    assert floor.qty() == 0
    assert not floor.account.holds


def test_an_entry_that_gaps_through_its_stop_is_stopped_at_once() -> None:
    floor = Floor()
    floor.bracket(type="limit", limit_price="50", stop_loss={"stop_price": "49.5"})
    floor.quote("KO", "49.0", "49.2")
    floor.run()
    assert floor.qty() == 0
    assert [fill["side"] for fill in floor.exchange.fills_json()] == ["buy", "sell"]


def test_a_partly_filled_target_shrinks_the_stop() -> None:
    floor = Floor(respect_sizes=True)
    parent = floor.bracket()
    floor.run()
    floor.quote("KO", "53", "53.02", bid_size=3)
    both = legs(floor, parent)
    assert (both["take_profit"]["filled_qty"], both["stop_loss"]["qty"]) == ("3", "7")
    floor.quote("KO", "47", "47.02")
    assert floor.qty() == 0
    assert legs(floor, parent)["take_profit"]["status"] == "canceled"


@pytest.mark.parametrize("role", ["take_profit", "stop_loss"])
def test_cancelling_one_exit_cancels_the_other(role: str) -> None:
    floor = Floor()
    parent = floor.bracket()
    floor.run()
    floor.exchange.cancel_order(floor.account, legs(floor, parent)[role]["id"])
    floor.run()
    assert {leg["status"] for leg in legs(floor, parent).values()} == {"canceled"}
    assert floor.exchange.close_position(floor.account, "KO", {})["status"] == "pending_new"


def test_cancelling_a_partly_filled_entry_leaves_the_filled_part_unprotected() -> None:
    floor = Floor(respect_sizes=True)
    floor.quote("KO", "49.9", "50", ask_size=4)
    parent = floor.bracket(type="limit", limit_price="50")
    floor.run()
    floor.exchange.cancel_order(floor.account, parent["id"])
    floor.run()
    assert floor.qty() == 4
    assert {leg["status"] for leg in legs(floor, parent).values()} == {"canceled"}


def test_a_day_bracket_expires_whole() -> None:
    floor = Floor()
    parent = floor.bracket()
    floor.run()
    floor.to("16:00")
    assert {leg["status"] for leg in legs(floor, parent).values()} == {"expired"}
    assert floor.qty() == 10


def test_a_gtc_bracket_outlives_the_day() -> None:
    floor = Floor()
    parent = floor.bracket(time_in_force="gtc")
    floor.run()
    floor.to("16:00")
    floor.to("09:30", days=1)
    floor.quote("KO", "47.5", "47.52")
    assert legs(floor, parent)["stop_loss"]["status"] == "filled"


def test_a_short_bracket_mirrors_a_long_one() -> None:
    floor = Floor()
    parent = floor.bracket(side="sell", take_profit={"limit_price": "47"}, stop_loss={"stop_price": "52"})
    floor.run()
    floor.quote("KO", "52", "52.02")
    floor.run()
    both = legs(floor, parent)
    assert (both["stop_loss"]["status"], both["stop_loss"]["side"], both["take_profit"]["status"]) == (
        "filled",
        "buy",
        "canceled",
    )
    assert floor.qty() == 0


def test_an_oco_is_its_target_with_the_stop_as_leg() -> None:
    floor = Floor()
    floor.hold("10")
    parent = floor.order(
        side="sell", type="limit", order_class="oco", take_profit={"limit_price": "53"}, stop_loss={"stop_price": "48"}
    )
    floor.run()
    view = floor.get(parent, nested=True)
    assert (view["status"], view["limit_price"], view["legs"][0]["status"]) == ("new", "53", "held")
    floor.quote("KO", "48", "48.02")
    view = floor.get(parent, nested=True)
    assert (view["status"], view["legs"][0]["status"]) == ("canceled", "filled")
    assert floor.qty() == 0


def test_an_oco_out_of_hours_waits_whole_for_the_open() -> None:
    floor = Floor()
    floor.hold("10")
    floor.to("17:00")
    parent = floor.order(
        side="sell", type="limit", order_class="oco", take_profit={"limit_price": "53"}, stop_loss={"stop_price": "48"}
    )
    floor.run()
    view = floor.get(parent, nested=True)
    assert (view["status"], view["legs"][0]["status"]) == ("accepted", "held")
    floor.to("09:30", days=1)
    floor.quote("KO", "47", "47.02")
    floor.run()
    assert floor.qty() == 0


def test_an_oto_has_one_exit_which_works_alone() -> None:
    floor = Floor()
    parent = floor.order(order_class="oto", stop_loss={"stop_price": "48", "limit_price": "47.5"})
    floor.run()
    (leg,) = floor.get(parent, nested=True)["legs"]
    assert (leg["status"], leg["type"], leg["limit_price"]) == ("new", "stop_limit", "47.5")
    floor.quote("KO", "47.9", "48.1")
    assert floor.qty() == 0


def test_a_replaced_leg_takes_its_place_in_the_group() -> None:
    floor = Floor()
    parent = floor.bracket()
    floor.run()
    old = legs(floor, parent)["stop_loss"]
    new = floor.exchange.replace_order(floor.account, old["id"], {"stop_price": "49.5"})
    floor.run()
    both = legs(floor, parent)
    assert (both["stop_loss"]["id"], both["stop_loss"]["status"], both["stop_loss"]["stop_price"]) == (
        new["id"],
        "held",
        "49.5",
    )
    assert (new["group_id"], new["group_role"]) == (parent["group_id"], "stop_loss")
    assert floor.get(old)["replaced_by"] == new["id"]
    floor.quote("KO", "49.4", "49.42")
    assert legs(floor, parent)["take_profit"]["status"] == "canceled"
    assert floor.qty() == 0


def test_a_leg_is_replaced_before_its_entry_fills() -> None:
    floor = Floor()
    parent = floor.bracket(type="limit", limit_price="49.9", take_profit={"limit_price": "53"})
    floor.run()
    target = legs(floor, parent)["take_profit"]
    floor.exchange.replace_order(floor.account, target["id"], {"limit_price": "52"})
    floor.run()
    assert legs(floor, parent)["take_profit"]["status"] == "held"
    floor.quote("KO", "49.88", "49.9")
    floor.run()
    assert (legs(floor, parent)["take_profit"]["status"], legs(floor, parent)["take_profit"]["limit_price"]) == (
        "new",
        "52",
    )


def test_the_quantity_of_a_leg_cannot_be_replaced_and_an_ended_leg_says_so() -> None:
    floor = Floor()
    parent = floor.bracket()
    floor.run()
    target = legs(floor, parent)["take_profit"]
    call = lambda body: floor.exchange.replace_order(floor.account, target["id"], body)  # noqa: E731
    assert refusal(lambda: call({"qty": "5"}))[1]["message"] == "qty of complex orders cannot be replaced"
    floor.quote("KO", "53", "53.02")
    assert refusal(lambda: call({"limit_price": "54"}))[1]["message"] == "leg order is already in filled state"


def test_replacing_an_unfilled_entry_takes_the_legs_along() -> None:
    floor = Floor()
    parent = floor.bracket(type="limit", limit_price="49")
    floor.run()
    new = floor.exchange.replace_order(floor.account, parent["id"], {"limit_price": "49.5"})
    floor.run()
    assert len(floor.get(new, nested=True)["legs"]) == 2
    assert floor.get(parent, nested=True)["legs"] is None
    floor.quote("KO", "49.4", "49.5")
    floor.run()
    assert legs(floor, new)["take_profit"]["status"] == "new"


def test_held_legs_are_missing_from_an_open_list_unless_it_is_nested() -> None:
    floor = Floor()
    parent = floor.bracket()
    floor.run()
    plain = floor.exchange.list_orders(floor.account, {"status": "open"})
    assert [order["group_role"] for order in plain] == ["take_profit"]
    (nested,) = floor.exchange.list_orders(floor.account, {"status": "open", "nested": "True"})
    assert nested["id"] == parent["id"]
    assert [leg["group_role"] for leg in nested["legs"]] == ["take_profit", "stop_loss"]
    closed = floor.exchange.list_orders(floor.account, {"status": "closed", "nested": "true"})
    assert closed == []
