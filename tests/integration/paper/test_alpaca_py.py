"""The official SDK, unmodified, as a client: the REST calls of a bot, and its three streams."""

import warnings
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from tests.integration.paper.conftest import Client, running
from tests.integration.paper.sdk import DAY, call, market_buy, streaming, trading, until_status
from tests.support.waiting import eventually

with warnings.catch_warnings():
    # The SDK is built on websockets' deprecated half; importing it warns.
    warnings.simplefilter("ignore", DeprecationWarning)
    from alpaca.common.exceptions import APIError
    from alpaca.data.historical import OptionHistoricalDataClient, StockHistoricalDataClient
    from alpaca.data.live import OptionDataStream, StockDataStream
    from alpaca.data.requests import (
        OptionChainRequest,
        OptionLatestQuoteRequest,
        OptionSnapshotRequest,
        StockBarsRequest,
        StockLatestBarRequest,
        StockLatestQuoteRequest,
        StockLatestTradeRequest,
        StockQuotesRequest,
        StockSnapshotRequest,
        StockTradesRequest,
    )
    from alpaca.data.timeframe import TimeFrame
    from alpaca.trading.client import TradingClient
    from alpaca.trading.enums import (
        AssetClass,
        OrderClass,
        OrderSide,
        OrderStatus,
        PositionIntent,
        QueryOrderStatus,
    )
    from alpaca.trading.requests import (
        ClosePositionRequest,
        CreateWatchlistRequest,
        GetAssetsRequest,
        GetCalendarRequest,
        GetOptionContractsRequest,
        GetOrdersRequest,
        GetPortfolioHistoryRequest,
        LimitOrderRequest,
        ReplaceOrderRequest,
        StopLimitOrderRequest,
        StopLossRequest,
        StopOrderRequest,
        TakeProfitRequest,
        TrailingStopOrderRequest,
    )
    from alpaca.trading.stream import TradingStream

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


async def test_account_clock_calendar_and_assets(client: Client) -> None:
    sdk = trading(client)
    account = await call(sdk.get_account)
    assert account.account_number == client.server.accounts["large"].account_number
    assert float(account.cash) == 100_000
    configurations = await call(sdk.get_account_configurations)
    assert configurations.max_options_trading_level == 3
    clock = await call(sdk.get_clock)
    assert clock.is_open
    assert clock.timestamp == datetime(2026, 11, 18, 15, 0, tzinfo=UTC)
    (day,) = await call(sdk.get_calendar, GetCalendarRequest(start=date(2026, 11, 27), end=date(2026, 11, 28)))
    assert f"{day.close:%Y-%m-%d %H:%M}" == "2026-11-27 13:00"
    assets = await call(sdk.get_all_assets, GetAssetsRequest(asset_class=AssetClass.US_EQUITY))
    assert {asset.symbol for asset in assets} >= {"AAPL", "F"}
    assert (await call(sdk.get_asset, "AAPL")).tradable
    with pytest.raises(APIError) as missing:
        await call(sdk.get_asset, "ZZZZ")
    assert missing.value.status_code == 404


async def test_orders_of_every_type_a_bot_sends(client: Client) -> None:
    sdk = trading(client)
    bought = await call(sdk.submit_order, market_buy(client_order_id="entry-1"))
    assert (await until_status(sdk, bought.id, OrderStatus.FILLED)).filled_qty == "10"
    assert (await call(sdk.get_order_by_client_id, "entry-1")).id == bought.id
    sell: dict[str, Any] = {"symbol": "AAPL", "qty": 2, "side": OrderSide.SELL, "time_in_force": DAY}
    resting = [
        await call(sdk.submit_order, request)
        for request in (
            LimitOrderRequest(**sell, limit_price=250.1),
            StopOrderRequest(**sell, stop_price=150.0),
            StopLimitOrderRequest(**sell, stop_price=150.0, limit_price=149.0),
            TrailingStopOrderRequest(**sell, trail_percent=5.0),
        )
    ]
    orders = await call(sdk.get_orders, GetOrdersRequest(status=QueryOrderStatus.OPEN, nested=True, symbols=["AAPL"]))
    assert {order.id for order in orders} == {order.id for order in resting}
    await until_status(sdk, resting[0].id, OrderStatus.NEW)
    replaced = await call(sdk.replace_order_by_id, resting[0].id, ReplaceOrderRequest(limit_price=240.0, qty=1))
    assert replaced.replaces == resting[0].id
    await until_status(sdk, resting[0].id, OrderStatus.REPLACED)
    await call(sdk.cancel_order_by_id, resting[1].id)
    await until_status(sdk, resting[1].id, OrderStatus.CANCELED)
    cancelled = await call(sdk.cancel_orders)
    assert {one.status for one in cancelled} == {200}
    for order in (replaced, resting[2], resting[3]):
        await until_status(sdk, order.id, OrderStatus.CANCELED)
    with pytest.raises(APIError) as duplicate:
        await call(sdk.submit_order, market_buy(client_order_id="entry-1"))
    assert (duplicate.value.status_code, duplicate.value.code) == (422, 40010001)


@pytest.mark.parametrize("order_class", [OrderClass.BRACKET, OrderClass.OTO])
async def test_bracket_and_oto_entries(client: Client, order_class: OrderClass) -> None:
    sdk = trading(client)
    both = order_class is OrderClass.BRACKET
    request = market_buy(
        order_class=order_class,
        take_profit=TakeProfitRequest(limit_price=220) if both else None,
        stop_loss=StopLossRequest(stop_price=170),
    )
    entry = await call(sdk.submit_order, request)
    await until_status(sdk, entry.id, OrderStatus.FILLED)
    orders = await call(sdk.get_orders, GetOrdersRequest(status=QueryOrderStatus.OPEN, nested=False))
    assert {order.type.value for order in orders} <= {"limit", "stop"}
    (parent,) = [
        order
        for order in await call(sdk.get_orders, GetOrdersRequest(status=QueryOrderStatus.ALL, nested=True))
        if order.id == entry.id
    ]
    assert len(parent.legs) == (2 if both else 1)


async def test_f2_held_quantity_blocks_a_second_exit_with_the_exact_body(client: Client) -> None:
    sdk = trading(client)
    entry = await call(sdk.submit_order, market_buy())
    await until_status(sdk, entry.id, OrderStatus.FILLED)
    oco = LimitOrderRequest(
        symbol="AAPL",
        qty=10,
        side=OrderSide.SELL,
        time_in_force=DAY,
        order_class=OrderClass.OCO,
        limit_price=230,
        take_profit=TakeProfitRequest(limit_price=230),
        stop_loss=StopLossRequest(stop_price=160),
    )
    await call(sdk.submit_order, oco)
    position = await call(sdk.get_open_position, "AAPL")
    assert (position.qty, position.qty_available) == ("10", "0")
    with pytest.raises(APIError) as refused:
        await call(sdk.close_position, "AAPL")
    assert (refused.value.status_code, refused.value.code) == (403, 40310000)
    assert "insufficient qty available" in refused.value.message


async def test_positions_are_closed_by_part_by_percentage_and_all(client: Client) -> None:
    sdk = trading(client)
    for symbol in ("AAPL", "F"):
        entry = await call(sdk.submit_order, market_buy(symbol))
        await until_status(sdk, entry.id, OrderStatus.FILLED)
    part = await call(sdk.close_position, "AAPL", ClosePositionRequest(qty="4"))
    await until_status(sdk, part.id, OrderStatus.FILLED)
    half = await call(sdk.close_position, "AAPL", ClosePositionRequest(percentage="50"))
    await until_status(sdk, half.id, OrderStatus.FILLED)
    assert {p.symbol: p.qty for p in await call(sdk.get_all_positions)} == {"AAPL": "3", "F": "10"}
    answers = await call(sdk.close_all_positions, cancel_orders=True)
    assert {answer.symbol for answer in answers} == {"AAPL", "F"}
    await eventually(lambda: len(client.server.exchange.fills_json()) == 6, "everything to be sold")
    assert await call(sdk.get_all_positions) == []
    with pytest.raises(APIError) as missing:
        await call(sdk.get_open_position, "AAPL")
    assert (missing.value.status_code, missing.value.code) == (404, 40410000)


async def test_options_are_found_quoted_bought_and_closed(client: Client) -> None:
    sdk = trading(client)
    one = client.server.accounts["large"]
    data = OptionHistoricalDataClient(one.key, one.secret, url_override=client.server.data_url)
    found = await call(
        sdk.get_option_contracts,
        GetOptionContractsRequest(underlying_symbols=["AAPL"], strike_price_gte="185", strike_price_lte="195"),
    )
    contract = found.option_contracts[0]
    quotes = await call(data.get_option_latest_quote, OptionLatestQuoteRequest(symbol_or_symbols=contract.symbol))
    ask = quotes[contract.symbol].ask_price
    snapshots = await call(data.get_option_snapshot, OptionSnapshotRequest(symbol_or_symbols=contract.symbol))
    assert snapshots[contract.symbol].greeks.delta != 0
    chain = await call(data.get_option_chain, OptionChainRequest(underlying_symbol="AAPL"))
    assert contract.symbol in chain
    entry = await call(sdk.submit_order, market_buy(contract.symbol, 2, position_intent=PositionIntent.BUY_TO_OPEN))
    filled = await until_status(sdk, entry.id, OrderStatus.FILLED)
    assert float(filled.filled_avg_price) == ask
    position = await call(sdk.get_open_position, contract.symbol)
    assert position.asset_class is AssetClass.US_OPTION
    leaving = await call(sdk.close_position, contract.symbol)
    await until_status(sdk, leaving.id, OrderStatus.FILLED)


async def test_stock_data_of_every_kind(client: Client) -> None:
    one = client.server.accounts["large"]
    data = StockHistoricalDataClient(one.key, one.secret, url_override=client.server.data_url)
    for minute in range(3):
        await client.quote("AAPL", 190 + minute, 190.02 + minute, last=190.01 + minute, trade_size=5)
        await client.post("/admin/advance", {"seconds": 60})
    await client.quote("AAPL", 199, 199.02, last=199.01, trade_size=5)
    start, end = datetime(2026, 11, 18, 12, tzinfo=UTC), datetime(2026, 11, 18, 23, tzinfo=UTC)
    span: dict[str, Any] = {"symbol_or_symbols": "AAPL", "start": start, "end": end}
    assert (await call(data.get_stock_latest_quote, StockLatestQuoteRequest(symbol_or_symbols="AAPL")))[
        "AAPL"
    ].bid_price == 199
    assert (await call(data.get_stock_latest_trade, StockLatestTradeRequest(symbol_or_symbols="AAPL")))[
        "AAPL"
    ].price == 199.01
    assert (await call(data.get_stock_latest_bar, StockLatestBarRequest(symbol_or_symbols="AAPL")))["AAPL"].close
    assert (await call(data.get_stock_snapshot, StockSnapshotRequest(symbol_or_symbols="AAPL")))["AAPL"].daily_bar
    bars = await call(data.get_stock_bars, StockBarsRequest(**span, timeframe=TimeFrame.Minute))
    assert [bar.open for bar in bars["AAPL"]] == [190.01, 191.01, 192.01]
    assert len((await call(data.get_stock_quotes, StockQuotesRequest(**span)))["AAPL"]) == 5
    assert len((await call(data.get_stock_trades, StockTradesRequest(**span, limit=2)))["AAPL"]) == 2


async def test_history_and_watchlists(client: Client) -> None:
    sdk = trading(client)
    history = await call(sdk.get_portfolio_history, GetPortfolioHistoryRequest(period="1D", timeframe="5Min"))
    assert len(history.timestamp) == len(history.equity)
    made = await call(sdk.create_watchlist, CreateWatchlistRequest(name="mine", symbols=["AAPL"]))
    await call(sdk.add_asset_to_watchlist_by_id, made.id, "F")
    assert [asset.symbol for asset in (await call(sdk.get_watchlist_by_id, made.id)).assets] == ["AAPL", "F"]
    await call(sdk.remove_asset_from_watchlist_by_id, made.id, "F")
    await call(sdk.delete_watchlist_by_id, made.id)
    assert await call(sdk.get_watchlists) == []
    activities = await call(sdk.get, "/account/activities")
    assert activities == []


async def test_wrong_keys_are_an_api_error_401(client: Client) -> None:
    sdk = TradingClient("PK", "wrong", paper=True, url_override=client.server.rest_url)
    with pytest.raises(APIError) as refused:
        await call(sdk.get_account)
    assert refused.value.status_code == 401


# Streams
async def test_trading_stream_hears_an_order_from_new_to_fill(client: Client) -> None:
    one = client.server.accounts["large"]
    stream = TradingStream(one.key, one.secret, paper=True, url_override=client.server.stream_url)
    heard: list[Any] = []

    async def handler(update: Any) -> None:
        heard.append(update)

    stream.subscribe_trade_updates(handler)
    sessions = client.server.app.trade_stream
    async with streaming(client, stream, lambda: sessions.listeners("large") == 1):
        await call(trading(client).submit_order, market_buy())
        await eventually(lambda: any(update.event == "fill" for update in heard), "the fill on the SDK's stream")
    fill = next(update for update in heard if update.event == "fill")
    assert (fill.qty, fill.position_qty, fill.order.symbol) == (10, 10, "AAPL")
    assert fill.execution_id is not None


async def test_stock_data_stream_hears_quotes_trades_and_bars() -> None:
    async with running(manual={}, symbols=["AAPL"]) as client:
        one = client.server.accounts["large"]
        stream = StockDataStream(one.key, one.secret, url_override=client.server.data_stream_url)
        heard: list[Any] = []

        async def handler(message: Any) -> None:
            heard.append(message)

        stream.subscribe_quotes(handler, "AAPL")
        stream.subscribe_trades(handler, "AAPL")
        stream.subscribe_bars(handler, "AAPL")
        streams = client.server.app.data_streams
        async with streaming(client, stream, lambda: streams.subscriptions() >= 3):
            await client.post("/admin/advance", {"seconds": 65})
            kinds = lambda: {type(message).__name__ for message in heard}  # noqa: E731
            await eventually(lambda: kinds() == {"Quote", "Trade", "Bar"}, "a quote, a trade and a bar")
        quote = next(message for message in heard if type(message).__name__ == "Quote")
        assert quote.ask_price > quote.bid_price > 0
        assert quote.timestamp.tzinfo is not None
        assert quote.timestamp - datetime(2026, 11, 18, 15, tzinfo=UTC) < timedelta(minutes=2)


async def test_option_data_stream_hears_model_quotes(client: Client) -> None:
    one = client.server.accounts["large"]
    _, found = await client.get("/v2/options/contracts?underlying_symbols=AAPL&strike_price_gte=189")
    symbol = found["option_contracts"][0]["symbol"]
    stream = OptionDataStream(one.key, one.secret, url_override=client.server.option_stream_url)
    heard: list[Any] = []

    async def handler(message: Any) -> None:
        heard.append(message)

    stream.subscribe_quotes(handler, symbol)
    streams = client.server.app.data_streams
    async with streaming(client, stream, lambda: streams.subscriptions() == 1):
        await client.quote("AAPL", 195, 195.02)
        await eventually(lambda: len(heard) >= 1, "a quote of the contract")
    assert heard[-1].symbol == symbol
    assert heard[-1].ask_price > 0
