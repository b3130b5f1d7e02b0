"""The REST surface over real HTTP: authentication, habits of clients, malformed input, data envelopes."""

import asyncio
import base64
import io
import socket
from typing import Any

import aiohttp
import pytest
from tests.integration.paper.conftest import Client, client_of, running
from tests.support.waiting import eventually

from exitguard.paper.server.app import PaperServer, PortInUse


async def filled(client: Client, order: dict[str, Any]) -> dict[str, Any]:
    """Wait until an order is filled."""
    for _ in range(400):
        _, found = await client.get(f"/v2/orders/{order['id']}")
        if found["status"] == "filled":
            return found
        await asyncio.sleep(0.005)
    raise AssertionError(f"not filled: {found}")


# Authentication
def ways_in(key: str, secret: str) -> dict[str, dict[str, str]]:
    pair = base64.b64encode(f"{key}:{secret}".encode()).decode()
    return {
        "headers": {"APCA-API-KEY-ID": key, "APCA-API-SECRET-KEY": secret},
        "basic": {"Authorization": f"Basic {pair}"},
        "bearer": {"Authorization": f"Bearer {key}:{secret}"},
        "bearer, base64": {"Authorization": f"bearer {pair}"},
    }


async def test_every_way_to_authenticate_and_401_for_all_else(client: Client) -> None:
    account = client.server.accounts["tiny"]
    async with aiohttp.ClientSession() as session:

        async def status(headers: dict[str, str], path: str = "/v2/account") -> int:
            async with session.get(client.server.rest_url + path, headers=headers) as answer:
                return answer.status

        for name, headers in ways_in(account.key, account.secret).items():
            assert await status(headers) == 200, name
        for name, headers in ways_in(account.key, "wrong").items():
            assert await status(headers) == 401, name
        assert await status({}) == 401
        assert await status({}, "/v2/stocks/quotes/latest?symbols=AAPL") == 401
        assert await status({"Authorization": "Basic %%%"}) == 401
        assert await status({"Authorization": "Digest abc"}) == 401


async def test_i4_each_key_pair_sees_its_own_account_only(client: Client) -> None:
    await filled(client, await client.buy())
    async with client_of(client.server, "tiny") as tiny:
        assert await tiny.get("/v2/positions") == (200, [])
        assert await tiny.get("/v2/orders?status=all") == (200, [])
        _, theirs = await client.get("/v2/orders?status=all")
        status, body = await tiny.get(f"/v2/orders/{theirs[0]['id']}")
        assert (status, body["code"]) == (404, 40410000)


# Habits of clients
@pytest.mark.parametrize("nested", ["True", "true", "1"])
async def test_booleans_in_every_spelling(client: Client, nested: str) -> None:
    await client.buy(
        order_class="bracket",
        take_profit={"limit_price": "200"},
        stop_loss={"stop_price": "180"},
        type="limit",
        limit_price="185",
    )
    _, orders = await client.get(f"/v2/orders?nested={nested}&status=open")
    assert [len(order["legs"] or ()) for order in orders] == [2]


async def test_numbers_as_strings_or_json_numbers(client: Client) -> None:
    for qty, limit in (("3", "100.5"), (3, 100.5), (3.0, "100.50")):
        order = await client.buy(qty=qty, type="limit", limit_price=limit)
        assert (order["qty"], order["limit_price"]) == ("3", "100.5")


async def test_orders_by_client_order_id_with_its_literal_colon(client: Client) -> None:
    order = await client.buy(client_order_id="my id/1")
    status, found = await client.get("/v2/orders:by_client_order_id", params={"client_order_id": "my id/1"})
    assert (status, found["id"]) == (200, order["id"])
    assert (await client.get("/v2/orders:by_client_order_id"))[0] == 422


async def test_position_path_with_an_unescaped_slash(client: Client) -> None:
    status, body = await client.get("/v2/positions/BTC/USD")
    assert (status, body["code"]) == (404, 40410000)
    status, _ = await client.post("/v2/positions/NOPE261120C00100000/exercise")
    assert status in (403, 404, 422)


async def test_a_time_offset_with_a_bare_plus_is_understood(client: Client) -> None:
    await filled(client, await client.buy())
    for after in ("2026-11-18T00:00:00+00:00", "2026-11-18T00:00:00%2B00:00", "2026-11-18T00:00:00Z"):
        status, orders = await client.get(f"/v2/orders?status=all&after={after}", skip_auto_headers=())
        assert (status, len(orders)) == (200, 1), after


# Bad input
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"order"', b"null", b"\xff\xfe", b"NaN", b"{" * 5000])
async def test_malformed_json_is_400_and_harms_nobody(client: Client, body: bytes) -> None:
    status, answer = await client.call("POST", "/v2/orders", data=body, headers={"Content-Type": "application/json"})
    assert (status, answer["code"]) == (400, 40010000)
    assert (await client.get("/v2/account"))[0] == 200


async def test_huge_bodies_are_refused_unread(client: Client) -> None:
    status, _ = await client.call("POST", "/v2/orders", data=io.BytesIO(b"x" * (2 << 20)))
    assert status == 413

    async def endless():  # type: ignore[no-untyped-def]
        for _ in range(40):
            yield b"x" * (1 << 16)

    status, _ = await client.call("POST", "/v2/orders", data=endless())
    assert status == 413


async def test_unknown_paths_and_methods(client: Client) -> None:
    assert (await client.get("/v2/nothing"))[0] == 404
    assert (await client.get("/elsewhere"))[0] == 404
    assert (await client.call("PUT", "/v2/orders"))[0] == 405
    assert (await client.post("/v2/clock"))[0] == 405
    assert (await client.get("/admin/nothing"))[0] == 404
    assert (await client.get("/admin/advance"))[0] == 405


async def test_a_client_that_vanishes_in_mid_request_harms_nobody(client: Client) -> None:
    for cut in (
        b"POST /v2/orders HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{",
        b"GET /v2/acc",
        b"\x00\x01\x02",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.server.port)
        writer.write(cut)
        await writer.drain()
        writer.transport.abort()
        del reader
    assert (await client.get("/v2/account"))[0] == 200


# Clock, calendar, data
async def test_clock_and_calendar_have_new_york_times(client: Client) -> None:
    _, clock = await client.get("/v2/clock")
    assert clock == {
        "timestamp": "2026-11-18T10:00:00-05:00",
        "is_open": True,
        "next_open": "2026-11-19T09:30:00-05:00",
        "next_close": "2026-11-18T16:00:00-05:00",
    }
    _, days = await client.get("/v2/calendar?start=2026-11-26&end=2026-11-28")
    assert days == [
        {
            "date": "2026-11-27",
            "open": "09:30",
            "close": "13:00",
            "session_open": "0400",
            "session_close": "1700",
            "settlement_date": "2026-11-30",
        }
    ]
    assert (await client.get("/v2/calendar?start=soon"))[0] == 400
    _, newer = await client.get("/v3/clock?markets=NYSE,NASDAQ")
    assert [one["phase"] for one in newer["clocks"]] == ["core", "core"]
    assert (await client.get("/v3/calendar/NYSE?start=2026-11-27&end=2026-11-27"))[1]["calendar"][0]["core_end"] == (
        "2026-11-27T13:00:00-05:00"
    )
    assert (await client.get("/v3/calendar/MOON"))[0] == 400


async def test_stock_data_envelopes(client: Client) -> None:
    await client.quote("AAPL", 190.10, 190.14, last=190.12, trade_size=40)
    _, quotes = await client.get("/v2/stocks/quotes/latest?symbols=AAPL,ZZZZ")
    assert quotes["quotes"]["AAPL"]["bp"] == 190.1
    assert set(quotes["quotes"]) == {"AAPL"}
    _, single = await client.get("/v2/stocks/AAPL/quotes/latest")
    assert (single["symbol"], single["quote"]["ap"]) == ("AAPL", 190.14)
    _, trade = await client.get("/v2/stocks/AAPL/trades/latest")
    assert (trade["trade"]["p"], trade["trade"]["s"]) == (190.12, 40)
    _, snapshots = await client.get("/v2/stocks/snapshots?symbols=AAPL")
    assert snapshots["AAPL"]["latestTrade"]["p"] == 190.12
    assert (await client.get("/v2/stocks/quotes/latest"))[0] == 400
    assert (await client.get("/v2/stocks/ZZZZ/quotes/latest"))[0] == 404
    assert (await client.get("/v2/stocks/AAPL/quotes/latest?feed=moon"))[0] == 400


async def test_history_of_what_was_played_comes_in_pages(client: Client) -> None:
    for minute in range(5):
        await client.quote("AAPL", 190 + minute, 190.02 + minute, last=190.01 + minute, trade_size=10)
        await client.post("/admin/advance", {"seconds": 60})
    bars: list[float] = []
    token, pages = None, 0
    while True:
        query = "timeframe=1Min&symbols=AAPL&start=2026-11-18&limit=2" + (f"&page_token={token}" if token else "")
        _, answer = await client.get(f"/v2/stocks/bars?{query}")
        bars += [bar["o"] for bar in answer["bars"].get("AAPL", [])]
        pages += 1
        token = answer["next_page_token"]
        if token is None:
            break
    assert bars == [190.01 + minute for minute in range(5)]
    assert pages == 3
    _, joined = await client.get("/v2/stocks/AAPL/bars?timeframe=5Min&start=2026-11-18")
    assert (joined["bars"][0]["o"], joined["bars"][0]["v"]) == (190.01, 10 * len(bars))
    _, newest = await client.get("/v2/stocks/AAPL/trades?start=2026-11-18&sort=desc&limit=1")
    assert newest["trades"][0]["p"] == 194.01
    assert (await client.get("/v2/stocks/bars?symbols=AAPL&timeframe=7Years"))[0] == 400
    assert (await client.get("/v2/stocks/bars?symbols=AAPL&page_token=xx"))[0] == 400


async def test_option_chain_snapshots_and_quotes_on_demand(client: Client) -> None:
    _, chain = await client.get("/v1beta1/options/snapshots/AAPL?limit=1000&type=call&strike_price_gte=180")
    symbols = sorted(chain["snapshots"])
    assert symbols
    assert all("C" in symbol[10:] for symbol in symbols)
    one = chain["snapshots"][symbols[0]]
    assert set(one) >= {"latestQuote", "impliedVolatility", "greeks"}
    _, quotes = await client.get(f"/v1beta1/options/quotes/latest?symbols={symbols[0]},AAPL991231C00001000,AAPL")
    assert set(quotes["quotes"]) == {symbols[0]}
    _, pages = await client.get("/v1beta1/options/snapshots/AAPL?limit=1")
    assert pages["next_page_token"]
    assert (await client.get("/v1beta1/options/quotes/latest"))[0] == 400
    assert client.server.host.player.board.followed() == set(), "looking does not make a contract expensive"


async def test_an_option_order_finds_its_first_quote_waiting(client: Client) -> None:
    _, contracts = await client.get("/v2/options/contracts?underlying_symbols=AAPL&type=call&strike_price_gte=189")
    symbol = contracts["option_contracts"][0]["symbol"]
    order = await filled(client, await client.buy(symbol, qty=1))
    assert float(order["filled_avg_price"]) > 0
    assert symbol in client.server.host.player.board.followed()


# The server itself
async def test_a_port_in_use_is_one_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"127.0.0.1:{port}.*another port"):
            async with running(port=port):
                raise AssertionError("started on a taken port")


async def test_stopping_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    async with running(paused=False, manual={}, symbols=["AAPL"]) as client:
        await eventually(lambda: client.server.host.player.rounds_played > 0, "the first round")
    assert asyncio.all_tasks() == before


async def test_a_rate_limit_is_kept_when_asked_for() -> None:
    async with running(requests_per_minute=5) as client:
        seen = []
        for _ in range(7):
            async with client._session.get(client.server.rest_url + "/v2/clock") as answer:
                seen.append((answer.status, answer.headers.get("X-RateLimit-Limit")))
        assert seen == [(200, "5")] * 5 + [(429, "5")] * 2
        async with client_of(client.server, "tiny") as tiny:
            assert (await tiny.get("/v2/clock"))[0] == 200


async def test_the_status_page_shows_accounts_and_no_secrets(client: Client) -> None:
    await client.buy()
    status, page = await client.get("/")
    assert status == 200
    assert "large" in page
    account = client.server.accounts["large"]
    assert account.secret not in page
    assert account.key not in page


async def test_the_status_page_shows_what_is_held_ordered_and_broken_and_escapes_it(client: Client) -> None:
    await client.buy(qty=3)
    await client.post("/admin/advance", {"seconds": 1})
    for number in range(45):
        await client.buy(type="limit", limit_price="100.25", qty=1, client_order_id=f"resting {number}")
    await client.fault("cancel_slow", symbol="<script>alert(1)</script>", probability=0.25)
    await client.fault("halt", symbol="F")
    status, page = await client.get("/")
    assert status == 200
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    for title in ("Positions", "Open orders", "Newest fills", "Faults switched on", "Newest of what was injected"):
        assert "<p>None." not in page.split(f"<h2>{title}</h2>")[1][:12], title
    assert "100.25" in page
    assert "And 5 more." in page
    assert "<b>halted</b>" in page


def test_nothing_else_than_uvicorn_is_accepted() -> None:
    from exitguard.paper.server.wire import transport_of

    async def send(message: Any) -> None:
        raise AssertionError(message)

    with pytest.raises(TypeError, match="uvicorn"):
        transport_of(send)
    assert PaperServer.__doc__
