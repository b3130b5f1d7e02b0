"""The official SDK, unmodified: the rest of the market data, by request and on the streams."""

import asyncio
import warnings
from datetime import UTC, date, datetime
from typing import Any

import pytest
from tests.integration.paper.conftest import Client
from tests.integration.paper.sdk import call, market_buy, streaming, trading
from tests.support.waiting import eventually

with warnings.catch_warnings():
    # The SDK is built on websockets' deprecated half; importing it warns.
    warnings.simplefilter("ignore", DeprecationWarning)
    from alpaca.data.enums import Adjustment, CorporateActionsType, DataFeed, MarketType, MostActivesBy, OptionsFeed
    from alpaca.data.historical import OptionHistoricalDataClient, StockHistoricalDataClient
    from alpaca.data.historical.corporate_actions import CorporateActionsClient
    from alpaca.data.historical.screener import ScreenerClient
    from alpaca.data.live import OptionDataStream, StockDataStream
    from alpaca.data.requests import (
        CorporateActionsRequest,
        MarketMoversRequest,
        MostActivesRequest,
        OptionBarsRequest,
        OptionChainRequest,
        OptionLatestTradeRequest,
        OptionTradesRequest,
        StockBarsRequest,
        StockLatestQuoteRequest,
        StockSnapshotRequest,
    )
    from alpaca.data.timeframe import TimeFrame, TimeFrameUnit
    from alpaca.trading.stream import TradingStream

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

START = datetime(2026, 11, 18, 15, tzinfo=UTC)


def data(kind: Any, client: Client) -> Any:
    one = client.server.accounts["large"]
    return kind(one.key, one.secret, url_override=client.server.data_url)


async def first_contract(client: Client) -> str:
    _, found = await client.get("/v2/options/contracts?underlying_symbols=AAPL&strike_price_gte=189")
    return str(found["option_contracts"][0]["symbol"])


async def test_bars_of_every_size_in_pages(client: Client) -> None:
    stocks = data(StockHistoricalDataClient, client)
    for minute in range(7):
        for symbol, price in (("AAPL", 190), ("F", 11)):
            await client.quote(symbol, price + minute, price + minute + 0.02, last=price + minute, trade_size=10)
        await client.post("/admin/advance", {"seconds": 60})
    for timeframe, opens in (
        (TimeFrame.Minute, [190, 191, 192, 193, 194, 195, 196]),
        (TimeFrame(5, TimeFrameUnit.Minute), [190, 195]),
        (TimeFrame.Hour, [190]),
        (TimeFrame.Day, [190]),
        (TimeFrame.Week, [190]),
        (TimeFrame.Month, [190]),
    ):
        request = StockBarsRequest(
            symbol_or_symbols=["AAPL", "F"],
            timeframe=timeframe,
            start=datetime(2026, 11, 1, tzinfo=UTC),
            adjustment=Adjustment.RAW,
            feed=DataFeed.IEX,
        )
        bars = await call(stocks.get_stock_bars, request)
        assert [bar.open for bar in bars["AAPL"]] == opens, timeframe.value
        assert len(bars["F"]) == len(opens)
    raw = await call(stocks.get, "/stocks/bars", {"symbols": "AAPL,F", "timeframe": "1Min", "limit": 9})
    assert (len(raw["bars"]["AAPL"]), len(raw["bars"]["F"])) == (7, 2)
    rest = await call(
        stocks.get,
        "/stocks/bars",
        {"symbols": "AAPL,F", "timeframe": "1Min", "limit": 9, "page_token": raw["next_page_token"]},
    )
    assert (len(rest["bars"]["F"]), rest["next_page_token"]) == (5, None)


async def test_snapshots_and_latest_of_several_symbols_and_feeds(client: Client) -> None:
    stocks = data(StockHistoricalDataClient, client)
    await client.quote("AAPL", 190, 190.02, last=190.01, trade_size=10)
    found = await call(stocks.get_stock_snapshot, StockSnapshotRequest(symbol_or_symbols=["AAPL", "F", "ZZZZ"]))
    assert set(found) == {"AAPL", "F"}
    for feed in (DataFeed.IEX, DataFeed.SIP, DataFeed.DELAYED_SIP, DataFeed.OTC):
        request = StockLatestQuoteRequest(symbol_or_symbols=["AAPL", "F"], feed=feed, currency="USD")
        assert set(await call(stocks.get_stock_latest_quote, request)) == {"AAPL", "F"}


async def test_option_history_is_what_was_printed(client: Client) -> None:
    options = data(OptionHistoricalDataClient, client)
    symbol = await first_contract(client)
    await client.quote(symbol, 4.9, 5.1, last=5.0, trade_size=3)
    await client.post("/admin/advance", {"seconds": 60})
    bars = await call(
        options.get_option_bars, OptionBarsRequest(symbol_or_symbols=symbol, timeframe=TimeFrame.Minute, start=START)
    )
    assert [(bar.close, bar.volume) for bar in bars[symbol]] == [(5.0, 3)]
    trades = await call(options.get_option_trades, OptionTradesRequest(symbol_or_symbols=symbol, start=START))
    assert [trade.price for trade in trades[symbol]] == [5.0]
    latest = await call(options.get_option_latest_trade, OptionLatestTradeRequest(symbol_or_symbols=symbol))
    assert latest[symbol].size == 3
    chain = await call(
        options.get_option_chain,
        OptionChainRequest(
            underlying_symbol="AAPL",
            feed=OptionsFeed.INDICATIVE,
            type="call",
            strike_price_gte=185,
            strike_price_lte=195,
            expiration_date_gte=date(2026, 11, 19),
            expiration_date_lte=date(2026, 11, 30),
            root_symbol="AAPL",
        ),
    )
    assert chain
    assert all(one.greeks.delta > 0 and one.implied_volatility > 0 for one in chain.values())
    assert "C" in await call(options.get_option_exchange_codes)


async def test_corporate_actions_and_the_screener(client: Client) -> None:
    await client.quote("AAPL", 190, 190.02, last=190.01, trade_size=10)
    await client.quote("AAPL", 199, 199.02, last=199.01, trade_size=10)
    await client.quote("F", 10, 10.02, last=11.5, trade_size=30)
    await client.quote("F", 10, 10.02, last=10.01, trade_size=30)
    screener = data(ScreenerClient, client)
    active = await call(screener.get_most_actives, MostActivesRequest(top=2, by=MostActivesBy.VOLUME))
    assert [(one.symbol, one.volume) for one in active.most_actives] == [("F", 60), ("AAPL", 20)]
    movers = await call(screener.get_market_movers, MarketMoversRequest(top=1, market_type=MarketType.STOCKS))
    assert ([one.symbol for one in movers.gainers], [one.symbol for one in movers.losers]) == (["AAPL"], ["F"])
    await client.fault("split", symbol="AAPL", parameters={"ratio": 4})
    await client.fault("split", symbol="F", parameters={"ratio": "0.1"})
    await client.fault("symbol_change", symbol="F", parameters={"new_symbol": "FORD"})
    actions = data(CorporateActionsClient, client)
    found = (await call(actions.get_corporate_actions, CorporateActionsRequest())).data
    assert [(one.symbol, one.new_rate) for one in found["forward_splits"]] == [("AAPL", 4)]
    assert [one.symbol for one in found["reverse_splits"]] == ["F"]
    assert [(one.old_symbol, one.new_symbol) for one in found["name_changes"]] == [("F", "FORD")]
    only = CorporateActionsRequest(
        symbols=["AAPL"], types=[CorporateActionsType.FORWARD_SPLIT], start=date(2026, 11, 1)
    )
    assert list((await call(actions.get_corporate_actions, only)).data) == ["forward_splits"]


async def test_the_stock_stream_hears_statuses_and_daily_bars_and_unsubscribes(client: Client) -> None:
    one = client.server.accounts["large"]
    stream = StockDataStream(one.key, one.secret, url_override=client.server.data_stream_url)
    heard: list[Any] = []

    async def handler(message: Any) -> None:
        heard.append(message)

    stream.subscribe_trading_statuses(handler, "AAPL")
    stream.subscribe_daily_bars(handler, "*")
    stream.subscribe_updated_bars(handler, "AAPL")
    stream.subscribe_quotes(handler, "F", "AAPL")
    streams = client.server.app.data_streams
    async with streaming(client, stream, lambda: streams.subscriptions() >= 5):
        await client.post("/admin/halt", {"symbol": "AAPL", "halted": True})
        await client.quote("F", 11.4, 11.42, last=11.41, trade_size=10)
        await client.post("/admin/advance", {"seconds": 65})
        kinds = lambda: {type(message).__name__ for message in heard}  # noqa: E731
        await eventually(lambda: kinds() >= {"TradingStatus", "Bar", "Quote"}, "a status, a daily bar and a quote")
        await asyncio.to_thread(stream.unsubscribe_quotes, "F")
        await eventually(lambda: streams.subscriptions() == 4, "the SDK to unsubscribe")
    (status,) = [message for message in heard if type(message).__name__ == "TradingStatus"]
    assert (status.symbol, status.status_code) == ("AAPL", "H")


async def test_the_stock_stream_hears_what_was_taken_back_and_updated_bars(client: Client) -> None:
    one = client.server.accounts["large"]
    stream = StockDataStream(one.key, one.secret, url_override=client.server.data_stream_url)
    heard: list[Any] = []

    async def handler(message: Any) -> None:
        heard.append(message)

    stream.subscribe_trades(handler, "AAPL")
    stream.register_trade_corrections(handler)
    stream.register_trade_cancels(handler)
    stream.subscribe_updated_bars(handler, "AAPL")
    streams = client.server.app.data_streams
    async with streaming(client, stream, lambda: streams.subscriptions() >= 4):
        for last in (190.0, 191.0, 192.0):
            await client.quote("AAPL", last - 0.01, last + 0.01, last=last, trade_size=100)
        await client.post("/admin/advance", {"seconds": 65})
        await client.fault("trade_correction", symbol="AAPL", parameters={"factor": 0.5})
        await client.fault("trade_cancel", symbol="AAPL", parameters={"back": 2})
        await eventually(lambda: len(heard) == 7, "three trades, a correction, a cancel and two updated bars")
    (correction,) = [message for message in heard if type(message).__name__ == "TradeCorrection"]
    (cancel,) = [message for message in heard if type(message).__name__ == "TradeCancel"]
    assert (correction.original_price, correction.corrected_price) == (192.0, 96.0)
    assert (cancel.price, cancel.action) == (191.0, "C")
    bars = [message for message in heard if type(message).__name__ == "Bar"]
    assert [(bar.high, bar.close, bar.volume) for bar in bars] == [(191.0, 96.0, 300), (190.0, 96.0, 200)]


async def test_the_option_stream_hears_trades(client: Client) -> None:
    one = client.server.accounts["large"]
    symbol = await first_contract(client)
    stream = OptionDataStream(one.key, one.secret, url_override=client.server.option_stream_url)
    heard: list[Any] = []

    async def handler(message: Any) -> None:
        heard.append(message)

    stream.subscribe_trades(handler, symbol)
    stream.subscribe_quotes(handler, symbol)
    streams = client.server.app.data_streams
    async with streaming(client, stream, lambda: streams.subscriptions() == 2):
        await client.quote(symbol, 4.9, 5.1, last=5.0, trade_size=3)
        await eventually(
            lambda: {type(message).__name__ for message in heard} == {"Trade", "Quote"}, "a trade and a quote"
        )
    (trade,) = [message for message in heard if type(message).__name__ == "Trade"]
    assert (trade.price, trade.size) == (5.0, 3)


async def test_the_trading_stream_hears_replacements_and_cancels(client: Client) -> None:
    one = client.server.accounts["large"]
    stream = TradingStream(one.key, one.secret, paper=True, url_override=client.server.stream_url)
    events: list[str] = []

    async def handler(update: Any) -> None:
        events.append(str(update.event))

    stream.subscribe_trade_updates(handler)
    sessions = client.server.app.trade_stream
    sdk = trading(client)
    async with streaming(client, stream, lambda: sessions.listeners("large") == 1):
        await call(sdk.submit_order, market_buy("F"))
        _, order = await client.post(
            "/v2/orders",
            {"symbol": "F", "qty": 1, "side": "sell", "type": "limit", "limit_price": 20, "time_in_force": "gtc"},
        )
        await eventually(lambda: events.count("new") >= 2, "the limit order to be new")
        status, new = await client.call("PATCH", f"/v2/orders/{order['id']}", json={"limit_price": "21"})
        assert status == 200
        await eventually(lambda: "replaced" in events, "the replacement")
        await call(sdk.cancel_order_by_id, new["id"])
        await eventually(lambda: "canceled" in events, "the cancel")
    assert {"new", "fill", "replaced", "canceled"} <= set(events)
