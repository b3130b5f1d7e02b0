"""The official SDK, unmodified: the rest of the trading client's calls."""

import warnings
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from tests.integration.paper.conftest import START, Client
from tests.integration.paper.sdk import DAY, call, market_buy, trading, until_status

with warnings.catch_warnings():
    # The SDK is built on websockets' deprecated half; importing it warns.
    warnings.simplefilter("ignore", DeprecationWarning)
    from alpaca.common.exceptions import APIError
    from alpaca.trading.enums import (
        AssetClass,
        CorporateActionDateType,
        CorporateActionType,
        OrderClass,
        OrderSide,
        OrderStatus,
        OrderType,
        PositionIntent,
        QueryOrderStatus,
        TimeInForce,
    )
    from alpaca.trading.requests import (
        GetCorporateAnnouncementsRequest,
        GetOptionContractsRequest,
        GetOrderByIdRequest,
        GetOrdersRequest,
        GetPortfolioHistoryRequest,
        LimitOrderRequest,
        MarketOrderRequest,
        OptionLegRequest,
        ReplaceOrderRequest,
        StopLossRequest,
        StopOrderRequest,
        TakeProfitRequest,
        TrailingStopOrderRequest,
        UpdateWatchlistRequest,
    )

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

GTC = TimeInForce.GTC


async def test_every_time_in_force_and_amount(client: Client) -> None:
    sdk = trading(client)
    buy: dict[str, Any] = {"symbol": "AAPL", "side": OrderSide.BUY}
    requests = [
        MarketOrderRequest(**buy, notional=150.55, time_in_force=DAY),
        MarketOrderRequest(**buy, qty=0.1 + 0.2, time_in_force=DAY),
        MarketOrderRequest(**buy, qty=1, time_in_force=TimeInForce.IOC),
        MarketOrderRequest(**buy, qty=1, time_in_force=TimeInForce.FOK),
        LimitOrderRequest(**buy, qty=1, time_in_force=GTC, limit_price=200),
        LimitOrderRequest(**buy, qty=1, time_in_force=DAY, limit_price=200, extended_hours=True),
    ]
    filled = []
    for request in requests:
        order = await call(sdk.submit_order, request)
        filled.append(await until_status(sdk, order.id, OrderStatus.FILLED))
    assert filled[0].notional == "150.55"
    assert filled[0].qty is None
    assert filled[1].filled_qty == "0.3", "binary noise of a float is no quantity"
    closing = MarketOrderRequest(**buy, qty=1, time_in_force=TimeInForce.CLS)
    assert (await call(sdk.submit_order, closing)).time_in_force is TimeInForce.CLS
    position = await call(sdk.get_open_position, "AAPL")
    assert position.qty_available == position.qty
    assert (await call(sdk.get_open_position, position.asset_id)).symbol == "AAPL"


async def test_oco_exits_and_the_trailing_stop_by_price(client: Client) -> None:
    sdk = trading(client)
    entry = await call(sdk.submit_order, market_buy(qty=5))
    await until_status(sdk, entry.id, OrderStatus.FILLED)
    oco = await call(
        sdk.submit_order,
        LimitOrderRequest(
            symbol="AAPL",
            qty=4,
            side=OrderSide.SELL,
            time_in_force=GTC,
            order_class=OrderClass.OCO,
            take_profit=TakeProfitRequest(limit_price=230),
            stop_loss=StopLossRequest(stop_price=160, limit_price=159.5),
        ),
    )
    (leg,) = oco.legs
    assert (leg.order_type, leg.status, leg.limit_price) == (OrderType.STOP_LIMIT, OrderStatus.HELD, "159.5")
    nested = await call(sdk.get_order_by_id, oco.id, GetOrderByIdRequest(nested=True))
    assert [one.id for one in nested.legs] == [leg.id]
    trail = TrailingStopOrderRequest(
        symbol="AAPL", qty=1, side=OrderSide.SELL, time_in_force=DAY, trail_price=3, client_order_id="trail"
    )
    trailing = await call(sdk.submit_order, trail)
    assert (trailing.trail_price, (await until_status(sdk, trailing.id, OrderStatus.NEW)).hwm) == ("3", "189.99")
    moved = await call(sdk.replace_order_by_id, trailing.id, ReplaceOrderRequest(trail=4))
    assert moved.trail_price == "4"
    await until_status(sdk, moved.id, OrderStatus.NEW)
    await call(sdk.cancel_order_by_id, oco.id)
    await until_status(sdk, leg.id, OrderStatus.CANCELED)


async def test_a_replacement_chain_keeps_its_links(client: Client) -> None:
    sdk = trading(client)
    limit = LimitOrderRequest(symbol="F", qty=5, side=OrderSide.BUY, time_in_force=DAY, limit_price=9)
    first = await call(sdk.submit_order, limit)
    await until_status(sdk, first.id, OrderStatus.NEW)
    change = ReplaceOrderRequest(qty=7, limit_price=9.5, time_in_force=GTC, client_order_id="second")
    second = await call(sdk.replace_order_by_id, first.id, change)
    await until_status(sdk, second.id, OrderStatus.NEW)
    third = await call(sdk.replace_order_by_id, second.id, ReplaceOrderRequest(limit_price=9.25))
    await until_status(sdk, third.id, OrderStatus.NEW)
    chain = {order.id: order for order in await call(sdk.get_orders, GetOrdersRequest(status=QueryOrderStatus.ALL))}
    assert [chain[one.id].replaced_by for one in (first, second)] == [second.id, third.id]
    assert [chain[one.id].replaces for one in (second, third)] == [first.id, second.id]
    assert (chain[third.id].qty, chain[third.id].time_in_force) == ("7", GTC)
    assert (await call(sdk.get_order_by_client_id, "second")).status is OrderStatus.REPLACED
    with pytest.raises(APIError) as again:
        await call(sdk.replace_order_by_id, first.id, ReplaceOrderRequest(limit_price=9.1))
    assert again.value.message == "order already replaced"


async def test_orders_are_listed_by_every_filter(client: Client) -> None:
    sdk = trading(client)
    for number, symbol in enumerate(("AAPL", "F", "AAPL")):
        order = await call(sdk.submit_order, market_buy(symbol, client_order_id=f"order-{number}"))
        await until_status(sdk, order.id, OrderStatus.FILLED)

    async def ids(**filters: Any) -> list[str]:
        listed = await call(sdk.get_orders, GetOrdersRequest(**filters))
        return [order.client_order_id for order in listed]

    everything = {"status": QueryOrderStatus.ALL}
    assert await ids() == []
    assert await ids(status=QueryOrderStatus.CLOSED, limit=2) == ["order-2", "order-1"]
    assert await ids(**everything, symbols=["F"]) == ["order-1"]
    assert await ids(**everything, side=OrderSide.SELL) == []
    assert len(await ids(**everything, after=START - timedelta(hours=1))) == 3
    assert await ids(**everything, until=START - timedelta(hours=1)) == []
    raw = await call(sdk.get, "/orders", {"status": "all", "direction": "asc", "asset_class": "us_equity"})
    assert [order["client_order_id"] for order in raw] == ["order-0", "order-1", "order-2"]
    paged = await call(sdk.get, "/orders", {"status": "all", "after_order_id": raw[1]["id"]})
    assert [order["client_order_id"] for order in paged] == ["order-2"]


async def test_a_spread_is_opened_and_its_legs_are_positions(client: Client) -> None:
    sdk = trading(client)
    found = await call(
        sdk.get_option_contracts,
        GetOptionContractsRequest(
            underlying_symbols=["AAPL"], type="call", expiration_date=date(2026, 11, 27), limit=40
        ),
    )
    near, far = [one.symbol for one in found.option_contracts if 190 <= one.strike_price <= 200][:2]
    assert (await call(sdk.get_option_contract, near)).underlying_symbol == "AAPL"
    order = await call(
        sdk.submit_order,
        MarketOrderRequest(
            qty=1,
            time_in_force=DAY,
            order_class=OrderClass.MLEG,
            legs=[
                OptionLegRequest(
                    symbol=near, ratio_qty=1, side=OrderSide.BUY, position_intent=PositionIntent.BUY_TO_OPEN
                ),
                OptionLegRequest(
                    symbol=far, ratio_qty=1, side=OrderSide.SELL, position_intent=PositionIntent.SELL_TO_OPEN
                ),
            ],
        ),
    )
    await until_status(sdk, order.id, OrderStatus.FILLED)
    assert {(one.symbol, one.qty) for one in await call(sdk.get_all_positions)} == {(near, "1"), (far, "-1")}


async def test_an_option_in_the_money_is_exercised(client: Client) -> None:
    sdk = trading(client)
    found = await call(
        sdk.get_option_contracts,
        GetOptionContractsRequest(underlying_symbols=["AAPL"], type="call", strike_price_lte="180"),
    )
    symbol = found.option_contracts[0].symbol
    bought = await call(sdk.submit_order, market_buy(symbol, 1))
    await until_status(sdk, bought.id, OrderStatus.FILLED)
    await call(sdk.exercise_options_position, symbol)
    assert {(one.symbol, one.qty) for one in await call(sdk.get_all_positions)} == {("AAPL", "100")}
    with pytest.raises(APIError) as gone:
        await call(sdk.exercise_options_position, symbol)
    assert gone.value.status_code == 404


async def test_configurations_are_changed_and_obeyed(client: Client) -> None:
    sdk = trading(client)
    configurations = await call(sdk.get_account_configurations)
    configurations.suspend_trade = True
    assert (await call(sdk.set_account_configurations, configurations)).suspend_trade is True
    assert (await call(sdk.get_account)).trade_suspended_by_user is True
    with pytest.raises(APIError) as refused:
        await call(sdk.submit_order, market_buy())
    assert refused.value.status_code == 403


async def test_watchlists_by_id_and_by_name(client: Client) -> None:
    sdk = trading(client)
    made = await call(sdk.post, "/watchlists", {"name": "by name", "symbols": ["AAPL"]})
    update = UpdateWatchlistRequest(name="new name", symbols=["F"])
    assert [one.symbol for one in (await call(sdk.update_watchlist_by_id, made["id"], update)).assets] == ["F"]
    assert [one.name for one in await call(sdk.get_watchlists)] == ["new name"]
    found = await call(sdk.get, "/watchlists:by_name", {"name": "new name"})
    assert found["id"] == made["id"]
    added = await call(sdk.post, "/watchlists:by_name?name=new%20name", {"symbol": "AAPL"})
    assert [asset["symbol"] for asset in added["assets"]] == ["F", "AAPL"]
    await call(sdk.delete, "/watchlists:by_name?name=new%20name")
    assert await call(sdk.get_watchlists) == []


async def test_activities_by_client_get(client: Client) -> None:
    sdk = trading(client)
    for _ in range(3):
        order = await call(sdk.submit_order, market_buy(qty=1))
        await until_status(sdk, order.id, OrderStatus.FILLED)
    newest = await call(sdk.get, "/account/activities", {"activity_types": "FILL", "page_size": 2})
    assert [len(newest), newest[0]["order_id"]] == [2, str(order.id)]
    older = await call(sdk.get, "/account/activities/FILL", {"page_token": newest[-1]["id"]})
    assert [one["id"] for one in older if one in newest] == []
    assert len(older) == 1
    assert await call(sdk.get, "/account/activities", {"category": "non_trade_activity"}) == []
    with pytest.raises(APIError) as unknown:
        await call(sdk.get, "/account/activities/FFFFF")
    assert (unknown.value.code, unknown.value.message) == (40010001, "invalid activity type: FFFFF")


async def test_portfolio_history_of_two_days(client: Client) -> None:
    sdk = trading(client)
    order = await call(sdk.submit_order, market_buy())
    await until_status(sdk, order.id, OrderStatus.FILLED)
    await client.quote("AAPL", 199.99, 200.01)
    await client.post("/admin/clock", {"jump_to": "2026-11-19T10:00:00-05:00"})
    days = await call(sdk.get_portfolio_history, GetPortfolioHistoryRequest(period="1W", timeframe="1D"))
    assert len(days.timestamp) == len(days.equity) == len(days.profit_loss) == 2
    hours = await call(
        sdk.get_portfolio_history,
        GetPortfolioHistoryRequest(
            timeframe="5Min", intraday_reporting="market_hours", pnl_reset="per_day", start=START, cashflow_types="ALL"
        ),
    )
    assert hours.profit_loss[-1] == pytest.approx(0, abs=0.01), "yesterday's profit is not today's"


async def test_corporate_announcements_of_a_split(client: Client) -> None:
    sdk = trading(client)
    await client.fault("split", symbol="AAPL", parameters={"ratio": 4})
    await client.fault("symbol_change", symbol="F", parameters={"new_symbol": "FORD"})
    request = GetCorporateAnnouncementsRequest(
        ca_types=[CorporateActionType.SPLIT, CorporateActionType.DIVIDEND],
        since=date(2026, 11, 1),
        until=date(2026, 11, 30),
        date_type=CorporateActionDateType.EX_DATE,
    )
    (split,) = await call(sdk.get_corporate_announcements, request)
    assert (split.initiating_symbol, split.old_rate, split.new_rate) == ("AAPL", 1, 4)
    assert (await call(sdk.get_corporate_announcement_by_id, split.id)).ex_date == date(2026, 11, 18)


async def test_clocks_and_calendars_of_both_generations(client: Client) -> None:
    sdk = trading(client)
    newer = await call(sdk.get, "/calendar/NYSE", {"start": "2026-11-27", "end": "2026-11-27"}, api_version="v3")
    assert newer["calendar"][0]["core_end"] == "2026-11-27T13:00:00-05:00"
    utc = {"start": "2026-11-27", "end": "2026-11-27", "timezone": "UTC"}
    newer = await call(sdk.get, "/calendar/OPRA", utc, api_version="v3")
    assert newer["calendar"][0]["core_end"] == "2026-11-27T18:00:00Z"
    clock = await call(
        sdk.get, "/clock", {"markets": "XNYS,IEX", "time": "2026-11-18T09:00:00-05:00"}, api_version="v3"
    )
    assert [one["phase"] for one in clock["clocks"]] == ["pre", "pre"]
    whole = await call(sdk.get_calendar)
    assert whole[0].date < date(2020, 1, 1) < whole[-1].date
    assert isinstance(whole[0].open, datetime)


async def test_a_sale_without_a_position_says_that_it_opens_a_short(client: Client) -> None:
    sdk = trading(client)
    stop = StopOrderRequest(symbol="AAPL", qty=1, side=OrderSide.SELL, time_in_force=DAY, stop_price=1)
    assert (await call(sdk.submit_order, stop)).position_intent is PositionIntent.SELL_TO_OPEN
    assert {asset.asset_class for asset in await call(sdk.get_all_assets)} == {AssetClass.US_EQUITY}
