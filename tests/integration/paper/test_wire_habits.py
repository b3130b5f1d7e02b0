"""Older and newer ways of saying the same thing on the wire."""

from typing import Any

import pytest
from tests.integration.paper.conftest import Client
from tests.integration.paper.sdk import eventually_filled


@pytest.mark.parametrize("qty", ["2", 2, 2.0, "2.0", "2.000000000"])
@pytest.mark.parametrize("price", ["250.10", 250.1, "250.1", 250.10000000000002])
async def test_numbers_come_as_strings_or_as_numbers(client: Client, qty: Any, price: Any) -> None:
    order = {"symbol": "F", "qty": qty, "side": "buy", "type": "limit", "limit_price": price, "time_in_force": "day"}
    status, body = await client.post("/v2/orders", order)
    assert (status, body["qty"], body["limit_price"]) == (200, "2", "250.1")


@pytest.mark.parametrize("word", ["True", "true", "1", "t"])
async def test_booleans_in_queries_have_many_spellings(client: Client, word: str) -> None:
    legs = {"take_profit": {"limit_price": 20}, "stop_loss": {"stop_price": 5}}
    await client.buy("F", 1, order_class="bracket", **legs)
    _, orders = await client.get(f"/v2/orders?status=all&nested={word}")
    assert [len(order["legs"]) for order in orders] == [2]
    _, contracts = await client.get(f"/v2/options/contracts?underlying_symbols=F&limit=1&show_deliverables={word}")
    assert contracts["option_contracts"][0]["deliverables"]
    await eventually_filled(client, orders[0]["id"])
    status, closed = await client.delete(f"/v2/positions?cancel_orders={word}")
    assert (status, [one["status"] for one in closed]) == (207, [200])


@pytest.mark.parametrize(
    "query", ["activity_types=FILL,DIV", "activity_types=FILL&activity_types=DIV", "activity_types=FILL%2CDIV"]
)
async def test_lists_come_with_commas_or_as_repeated_names(client: Client, query: str) -> None:
    order = await client.buy()
    await eventually_filled(client, order["id"])
    _, activities = await client.get(f"/v2/account/activities?{query}")
    assert [activity["activity_type"] for activity in activities] == ["FILL"]


@pytest.mark.parametrize(
    "moment",
    [
        "2026-11-18T15:00:00Z",
        "2026-11-18T15:00:00.123456789Z",
        "2026-11-18T10:00:00-05:00",
        "2026-11-18T15:00:00+00:00",
        "2026-11-18T15:00:00%2B00:00",
        "2026-11-18",
    ],
)
async def test_moments_come_with_every_offset_and_precision(client: Client, moment: str) -> None:
    for path in ("/v2/orders?after=", "/v2/account/activities?after=", "/v2/stocks/AAPL/trades?start="):
        status, answer = await client.get(path + moment)
        assert status == 200, answer


async def test_an_order_class_may_be_named_simple_or_left_out(client: Client) -> None:
    assert (await client.buy(order_class="simple"))["order_class"] == ""
    assert (await client.buy(order_class=""))["order_class"] == ""
    assert (await client.buy())["order_class"] == ""


async def test_absent_and_null_fields_are_the_same(client: Client) -> None:
    order = await client.buy(limit_price=None, stop_price=None, take_profit=None, legs=None, client_order_id=None)
    assert order["limit_price"] is None


async def test_a_position_is_named_by_symbol_or_id_and_slashes_pass(client: Client) -> None:
    order = await client.buy()
    await eventually_filled(client, order["id"])
    assert (await client.get(f"/v2/positions/{order['asset_id']}"))[1]["symbol"] == "AAPL"
    for path in ("/v2/positions/BTC/USD", "/v2/positions/BTC%2FUSD"):
        status, body = await client.get(path)
        assert (status, body["message"]) == (404, "position does not exist")
