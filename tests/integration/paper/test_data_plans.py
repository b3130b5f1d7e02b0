"""Alpaca's data plans: what the small one refuses, and in which words."""

from datetime import timedelta
from typing import Any

import pytest
from tests.integration.paper.conftest import START, Client, running
from tests.integration.paper.sockets import auth, connected, hear, tell
from websockets.asyncio.client import connect

from exitguard.paper.server.settings import PLANS

RECENT_SIP = {"code": 42210000, "message": "subscription does not permit querying recent SIP data"}


def basic() -> Any:
    plan = PLANS["basic"]
    return running(
        limits=plan.limits,
        requests_per_minute=plan.requests_per_minute,
        feeds_withheld=plan.feeds_withheld,
    )


@pytest.mark.parametrize(
    "path",
    [
        "/v2/stocks/AAPL/quotes/latest?feed=sip",
        "/v2/stocks/snapshots?symbols=AAPL&feed=sip",
        "/v2/stocks/AAPL/bars?timeframe=1Min&feed=sip",
        f"/v2/stocks/bars?symbols=AAPL&timeframe=1Min&feed=sip&end={START:%Y-%m-%dT%H:%M:%SZ}",
    ],
)
async def test_recent_sip_data_is_not_for_the_basic_plan(path: str) -> None:
    async with basic() as client:
        assert await client.get(path) == (403, RECENT_SIP)
    async with running() as client:
        assert (await client.get(path))[0] == 200, "without a plan there is every feed"


async def test_old_sip_data_and_the_small_feeds_are() -> None:
    async with basic() as client:
        old = START - timedelta(minutes=16)
        query = f"timeframe=1Min&feed=sip&start=2026-11-18&end={old:%Y-%m-%dT%H:%M:%SZ}"
        assert (await client.get(f"/v2/stocks/AAPL/bars?{query}"))[0] == 200
        assert (await client.get("/v2/stocks/AAPL/quotes/latest?feed=iex"))[0] == 200
        assert (await client.get("/v1beta1/options/snapshots/AAPL?feed=indicative"))[0] == 200
        status, body = await client.get("/v1beta1/options/snapshots/AAPL?feed=opra")
        assert (status, body["message"]) == (403, "subscription does not permit querying recent OPRA data")


async def first_refusal(client: Client, path: str) -> dict[str, Any]:
    headers = {"Content-Type": "application/msgpack"}
    async with connect(client.server.stream_url.replace("/stream", path), additional_headers=headers) as socket:
        await hear(socket)
        (answer,) = await tell(socket, auth(client), packed=True)
        return answer


async def test_sockets_of_feeds_without_a_subscription_are_409() -> None:
    async with basic() as client:
        for path in ("/v2/sip", "/v1beta1/opra"):
            answer = await first_refusal(client, path)
            assert answer == {"T": "error", "code": 409, "msg": "insufficient subscription"}


async def test_thirty_symbols_and_two_hundred_option_quotes() -> None:
    async with basic() as client, connected(client) as socket:
        names = [f"A{chr(65 + number // 26)}{chr(65 + number % 26)}" for number in range(31)]
        await tell(socket, {"action": "subscribe", "quotes": names[:30]})
        (answer,) = await tell(socket, {"action": "subscribe", "quotes": names})
        assert answer["code"] == 405
    assert PLANS["basic"].limits.option_quotes == 200


async def test_trading_and_data_requests_are_counted_apart() -> None:
    async with running(requests_per_minute=3) as client:
        assert [(await client.get("/v2/clock"))[0] for _ in range(4)] == [200, 200, 200, 429]
        assert (await client.get("/v2/stocks/AAPL/quotes/latest"))[0] == 200
