"""The official SDK, unmodified, and how the tests drive it beside the server's loop."""

import asyncio
import contextlib
import threading
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

from tests.integration.paper.conftest import Client
from tests.support.waiting import eventually

with warnings.catch_warnings():
    # The SDK is built on websockets' deprecated half; importing it warns.
    warnings.simplefilter("ignore", DeprecationWarning)
    from alpaca.trading.client import TradingClient
    from alpaca.trading.enums import OrderSide, OrderStatus, TimeInForce
    from alpaca.trading.requests import MarketOrderRequest

DAY = TimeInForce.DAY


def trading(client: Client, account: str = "large") -> TradingClient:
    one = client.server.accounts[account]
    return TradingClient(one.key, one.secret, paper=True, url_override=client.server.rest_url)


async def call(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Run a blocking SDK call beside the server's loop."""
    return await asyncio.wait_for(asyncio.to_thread(function, *arguments, **named), 20)


async def until_status(sdk: TradingClient, order_id: Any, *statuses: OrderStatus) -> Any:
    for _ in range(400):
        order = await call(sdk.get_order_by_id, order_id)
        if order.status in statuses:
            return order
        await asyncio.sleep(0.005)
    raise AssertionError(f"order is {order.status}, not {statuses}")


def market_buy(symbol: str = "AAPL", qty: float = 10, **fields: Any) -> MarketOrderRequest:
    return MarketOrderRequest(symbol=symbol, qty=qty, side=OrderSide.BUY, time_in_force=DAY, **fields)


@contextlib.asynccontextmanager
async def streaming(client: Client, stream: Any, ready: Callable[[], bool]) -> AsyncIterator[None]:
    """A stream that has connected and subscribed, in a thread of its own, as the SDK's documentation says."""
    thread = threading.Thread(target=stream.run, daemon=True)
    thread.start()
    try:
        await eventually(ready, "the SDK's stream to subscribe")
        yield
    finally:
        await asyncio.to_thread(stream.stop)
        # The SDK looks at its stop flag after a message or five seconds: closing its socket wakes it.
        client.server.app.trade_stream.close_all()
        client.server.app.data_streams.close_all()
        await eventually(lambda: not thread.is_alive(), "the SDK's stream to stop", 15.0)


async def eventually_filled(client: Client, order_id: str) -> None:
    """Wait until an order of the client's account is filled."""

    def is_filled() -> bool:
        return any(fill["order_id"] == order_id for fill in client.server.exchange.fills_json())

    await eventually(is_filled, "the order to be filled")
