"""Lists and views: orders with paging, activities, positions, account, assets, portfolio history, watchlists."""

from decimal import Decimal
from typing import Any

import pytest
from tests.unit.paper_engine.floor import Floor, refusal


def resting(floor: Floor, count: int, **fields: Any) -> list[str]:
    ids = [floor.order(type="limit", limit_price="40", qty="1", **fields)["id"] for _ in range(count)]
    floor.run()
    return ids


def test_orders_come_fifty_at_a_time_newest_first() -> None:
    floor = Floor()
    ids = resting(floor, 60)
    listed = [order["id"] for order in floor.exchange.list_orders(floor.account, {})]
    assert listed == ids[:-51:-1]
    assert [o["id"] for o in floor.exchange.list_orders(floor.account, {"direction": "asc", "limit": "500"})] == ids


@pytest.mark.parametrize("limit", ["0", "501", "x", "-1", "True"])
def test_limits_outside_one_to_five_hundred_are_refused(limit: str) -> None:
    floor = Floor()
    assert refusal(lambda: floor.exchange.list_orders(floor.account, {"limit": limit}))[0] == 422


@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_more_than_five_hundred_orders_are_paged_by_submission_time_while_the_clock_stands_still(
    direction: str,
) -> None:
    floor = Floor()
    ids = resting(floor, 620)
    seen: list[str] = []
    params: dict[str, str] = {"status": "all", "limit": "100", "direction": direction}
    while page := floor.exchange.list_orders(floor.account, params):
        seen += [order["id"] for order in page]
        params["after" if direction == "asc" else "until"] = page[-1]["submitted_at"]
    assert seen == (ids if direction == "asc" else ids[::-1])


def test_orders_are_paged_by_order_id() -> None:
    floor = Floor()
    ids = resting(floor, 5)
    older = floor.exchange.list_orders(floor.account, {"before_order_id": ids[2]})
    newer = floor.exchange.list_orders(floor.account, {"after_order_id": ids[2], "direction": "asc"})
    assert [order["id"] for order in older] == [ids[1], ids[0]]
    assert [order["id"] for order in newer] == [ids[3], ids[4]]
    both = {"before_order_id": ids[0], "after_order_id": ids[1]}
    assert refusal(lambda: floor.exchange.list_orders(floor.account, both))[0] == 422
    mixed = {"before_order_id": ids[0], "until": "2026-10-08T15:00:00Z"}
    assert refusal(lambda: floor.exchange.list_orders(floor.account, mixed))[0] == 422


def test_order_filters() -> None:
    floor = Floor()
    floor.exchange.add_stock("PEP", Decimal(100))
    floor.quote("PEP", "99.9", "100.1")
    resting(floor, 2)
    floor.order(symbol="PEP", side="sell", type="limit", limit_price="120")
    floor.order(symbol="PEP", side="sell", qty="1")
    floor.run()
    count = lambda **params: len(floor.exchange.list_orders(floor.account, params))  # noqa: E731
    assert (count(), count(status="closed"), count(status="all")) == (3, 1, 4)
    assert (count(symbols="PEP"), count(symbols="PEP,KO"), count(side="sell")) == (1, 3, 1)
    assert (count(asset_class="us_option"), count(asset_class="us_equity,us_option")) == (0, 3)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("2026-10-08T15:00:00Z", 1),
        ("2026-10-08T15:00:00+00:00", 1),
        ("2026-10-08T15:00:00 00:00", 1),
        ("2026-10-08", 1),
        ("2026-10-09", 0),
        ("2026-10-08T14:59:59.999999999Z", 1),
    ],
)
def test_timestamps_of_every_client_are_understood(given: str, found: int) -> None:
    floor = Floor()
    resting(floor, 1)
    assert len(floor.exchange.list_orders(floor.account, {"after": given})) == found


@pytest.mark.parametrize("given", ["yesterday", "2026-13-01", "1e9"])
def test_nonsense_timestamps_are_refused(given: str) -> None:
    floor = Floor()
    assert refusal(lambda: floor.exchange.list_orders(floor.account, {"after": given}))[0] == 422


def test_activities_page_by_the_last_id_in_both_directions() -> None:
    floor = Floor()
    for _ in range(7):
        floor.order(qty="1")
    floor.run()
    for direction in ("asc", "desc"):
        params = {"direction": direction, "page_size": "3"}
        seen: list[str] = []
        while page := floor.exchange.list_activities(floor.account, params):
            seen += [row["id"] for row in page]
            params["page_token"] = page[-1]["id"]
        everything = [row["id"] for row in floor.exchange.list_activities(floor.account, {"direction": direction})]
        assert seen == everything
        assert len(set(seen)) == 7


def test_activity_filters() -> None:
    floor = Floor()
    order = floor.order(qty="1")
    floor.run()
    ask = lambda **params: floor.exchange.list_activities(floor.account, params)  # noqa: E731
    assert len(ask(activity_types="FILL,DIV")) == 1
    assert len(ask(order_id=order["id"])) == 1
    assert ask(order_id="other") == []
    assert len(ask(date="2026-10-08")) == 1
    assert ask(date="2026-10-07") == []
    assert ask(category="non_trade_activity") == []
    assert refusal(lambda: ask(activity_types="FILL", category="trade_activity"))[0] == 422
    assert refusal(lambda: ask(activity_types="NOPE"))[0] == 422
    assert refusal(lambda: ask(page_token="nope"))[0] == 422
    assert refusal(lambda: ask(page_size="101"))[0] == 422


# Positions ------------------------------------------------------------------------------------------------------------


def test_f47_a_short_position_has_negative_numbers() -> None:
    floor = Floor()
    floor.hold("10", side="sell")
    floor.quote("KO", "48.99", "49.01")
    (row,) = floor.exchange.list_positions(floor.account)
    expected = {
        "qty": "-10",
        "qty_available": "-10",
        "side": "short",
        "avg_entry_price": "49.99",
        "market_value": "-490",
        "cost_basis": "-499.9",
        "unrealized_pl": "9.9",
        "current_price": "49",
    }
    assert {key: row[key] for key in expected} == expected
    assert row == floor.exchange.get_position(floor.account, "KO")
    assert row == floor.exchange.get_position(floor.account, row["asset_id"])


def test_adding_moves_the_average_and_reducing_does_not() -> None:
    floor = Floor()
    floor.hold("10")
    floor.quote("KO", "59.99", "60.01")
    floor.hold("10")
    assert floor.exchange.get_position(floor.account, "KO")["avg_entry_price"] == "55.01"
    floor.order(side="sell", qty="15")
    floor.run()
    assert floor.exchange.get_position(floor.account, "KO")["avg_entry_price"] == "55.01"


@pytest.mark.parametrize(("params", "left"), [({}, 0), ({"qty": "4"}, 6), ({"percentage": "25"}, Decimal("7.5"))])
def test_closing_a_position_whole_or_in_part(params: dict[str, str], left: Decimal) -> None:
    floor = Floor()
    floor.hold("10")
    order = floor.exchange.close_position(floor.account, "KO", params)
    assert (order["side"], order["type"], order["position_intent"]) == ("sell", "market", "sell_to_close")
    floor.run()
    assert floor.qty() == left


@pytest.mark.parametrize(
    "params", [{"qty": "1", "percentage": "1"}, {"percentage": "0"}, {"percentage": "101"}, {"qty": "0"}, {"qty": "x"}]
)
def test_closing_with_nonsense_is_refused(params: dict[str, str]) -> None:
    floor = Floor()
    floor.hold("10")
    assert refusal(lambda: floor.exchange.close_position(floor.account, "KO", params))[0] == 422


def test_closing_everything_answers_each_position_with_its_own_status() -> None:
    floor = Floor()
    floor.exchange.add_stock("PEP", Decimal(100))
    floor.quote("PEP", "99.9", "100.1")
    floor.bracket()
    floor.run()
    floor.hold("5", "PEP", side="sell")
    items = {item["symbol"]: item for item in floor.exchange.close_all_positions(floor.account, {})}
    assert (items["KO"]["status"], items["KO"]["body"]["held_for_orders"]) == (403, "10")
    assert (items["PEP"]["status"], items["PEP"]["body"]["side"]) == (200, "buy")
    floor.run()
    (item,) = floor.exchange.close_all_positions(floor.account, {"cancel_orders": "True"})
    assert item["status"] == 200
    floor.run()
    assert floor.exchange.list_positions(floor.account) == []


# Account --------------------------------------------------------------------------------------------------------------


def test_a_flat_account_has_four_twice_and_once_its_equity_to_spend() -> None:
    floor = Floor(cash="100005.82")
    view = floor.exchange.account_json(floor.account)
    expected = {
        "cash": "100005.82",
        "equity": "100005.82",
        "buying_power": "400023.28",
        "regt_buying_power": "200011.64",
        "options_buying_power": "100005.82",
        "multiplier": "4",
        "options_trading_level": 3,
        "status": "ACTIVE",
    }
    assert {key: view[key] for key in expected} == expected
    assert "pattern_day_trader" not in view
    assert all(isinstance(view[name], str) for name in ("cash", "long_market_value", "short_market_value", "sma"))


def test_equity_follows_the_market_and_yesterdays_stays() -> None:
    floor = Floor()
    floor.hold("100")
    floor.quote("KO", "54.99", "55.01")
    view = floor.exchange.account_json(floor.account)
    assert Decimal(view["equity"]) == Decimal(100000) + 100 * (Decimal(55) - Decimal("50.01"))
    assert Decimal(view["buying_power"]) == 4 * Decimal(view["equity"]) - 5500
    assert view["last_equity"] == "100000"
    floor.to("09:00", days=1)
    assert floor.exchange.account_json(floor.account)["last_equity"] == view["equity"]
    assert floor.exchange.get_position(floor.account, "KO")["lastday_price"] == "55"


def test_assets_have_what_alpaca_py_requires() -> None:
    floor = Floor()
    asset = floor.exchange.get_asset("KO")
    assert asset == floor.exchange.get_asset(asset["id"])
    assert asset["easy_to_borrow"] is True
    assert asset["class"] == "us_equity"
    assert refusal(lambda: floor.exchange.get_asset("NOPE"))[1] == {
        "code": 40410000,
        "message": "asset not found for NOPE",
    }
    assert [row["symbol"] for row in floor.exchange.list_assets({"status": "active"})] == ["KO"]
    assert floor.exchange.list_assets({"status": "inactive"}) == []


@pytest.mark.parametrize(
    "body",
    [
        {"max_margin_multiplier": "3"},
        {"max_options_trading_level": 4},
        {"suspend_trade": "maybe"},
        {"trade_confirm_email": "x"},
    ],
)
def test_bad_configurations_change_nothing(body: dict[str, Any]) -> None:
    floor = Floor()
    before = floor.exchange.configurations_json(floor.account)
    assert refusal(lambda: floor.exchange.patch_configurations(floor.account, {"no_shorting": True, **body}))[0] == 422
    assert floor.exchange.configurations_json(floor.account) == before


def test_watchlists() -> None:
    floor = Floor()
    exchange, account = floor.exchange, floor.account
    made = exchange.create_watchlist(account, {"name": "mine", "symbols": ["KO"]})
    assert [asset["symbol"] for asset in made["assets"]] == ["KO"]
    exchange.add_stock("PEP", Decimal(100))
    assert len(exchange.add_to_watchlist(account, made["id"], {"symbol": "PEP"})["assets"]) == 2
    assert len(exchange.remove_from_watchlist(account, made["id"], "KO")["assets"]) == 1
    assert exchange.watchlist_id_by_name(account, "mine") == made["id"]
    assert "assets" not in exchange.list_watchlists(account)[0]
    assert exchange.update_watchlist(account, made["id"], {"name": "yours"})["name"] == "yours"
    assert refusal(lambda: exchange.create_watchlist(account, {"name": "yours"}))[0] == 422
    assert refusal(lambda: exchange.get_watchlist(floor.other, made["id"]))[0] == 404
    exchange.delete_watchlist(account, made["id"])
    assert refusal(lambda: exchange.get_watchlist(account, made["id"]))[0] == 404


def test_a_long_run_forgets_the_oldest_orders_but_never_a_client_order_id() -> None:
    floor = Floor(orders_kept=5, activities_kept=3)
    for number in range(12):
        floor.order(qty="1", client_order_id=f"mine-{number}")
    keep = floor.order(type="limit", limit_price="40", time_in_force="gtc", client_order_id="open")
    floor.run()
    newest = floor.exchange.list_activities(floor.account, {})[0]["id"]
    floor.to("09:00", days=1)
    assert len(floor.account.orders) == 5
    assert floor.get(keep)["status"] == "new"
    assert len(floor.exchange.list_activities(floor.account, {})) == 3
    older = floor.exchange.list_activities(floor.account, {"page_token": newest})
    assert len(older) == 2
    assert refusal(lambda: floor.order(client_order_id="mine-0"))[1]["message"] == "client_order_id must be unique"
    assert refusal(lambda: floor.exchange.get_order_by_client_order_id(floor.account, "mine-0"))[0] == 404


def test_contracts_long_expired_are_forgotten() -> None:
    floor = Floor()
    floor.exchange.add_option_chain("KO")
    assert floor.exchange.get_option_contract("KO261009C00050000")
    floor.to("09:00", days=14)
    assert refusal(lambda: floor.exchange.get_option_contract("KO261009C00050000"))[0] == 404
