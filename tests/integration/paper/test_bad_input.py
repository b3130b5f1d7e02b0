"""Bad input and bad clients: the documented answer, bounded memory, and nobody else notices."""

import asyncio
import contextlib
import io
import json
import os
import struct
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import msgpack
import pytest
from tests.integration.paper.conftest import Client, client_of, running
from tests.integration.paper.sockets import connected, hear, tell
from tests.integration.paper.test_trade_stream import events, listening
from tests.support.waiting import PATIENCE, eventually
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from exitguard.paper.server.settings import SocketLimits

HASTY = SocketLimits(head_seconds=1.0, body_seconds=1.0, auth_seconds=1.0, head_bytes=16_000)
MEBIBYTE = 1 << 20


@contextlib.asynccontextmanager
async def unaffected(client: Client) -> AsyncIterator[None]:
    """Another account trades, listens and is answered while something bad happens."""
    async with client_of(client.server, "tiny") as other, listening(client, "tiny") as socket:

        async def trade() -> None:
            await other.buy("F", qty=1)
            assert (await events(socket, "fill"))[-1]["order"]["symbol"] == "F"

        await trade()
        yield
        await asyncio.wait_for(trade(), PATIENCE)
        assert (await other.get("/v2/account"))[0] == 200


@contextlib.asynccontextmanager
async def raw(client: Client) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.server.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def hung_up(reader: asyncio.StreamReader) -> bytes:
    """What comes until the exchange hangs up."""
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), PATIENCE)
    return b""


# Credentials ------------------------------------------------------------------------------------------------------

PATHS = (
    "/v2/account",
    "/v2/orders",
    "/v2/positions",
    "/v2/stocks/quotes/latest?symbols=AAPL",
    "/v3/clock",
    "/v2/nowhere",
)


@pytest.mark.parametrize("path", PATHS)
async def test_unknown_keys_are_401_everywhere(client: Client, path: str) -> None:
    one = client.server.accounts["large"]
    for headers in (
        {"APCA-API-KEY-ID": "PKNOBODY", "APCA-API-SECRET-KEY": one.secret},
        {"APCA-API-KEY-ID": one.key, "APCA-API-SECRET-KEY": "wrong"},
        {"APCA-API-KEY-ID": one.key, "APCA-API-SECRET-KEY": ""},
        {"APCA-API-KEY-ID": "", "APCA-API-SECRET-KEY": "", "Authorization": "Basic !!!"},
        {"APCA-API-KEY-ID": "\u00e9", "APCA-API-SECRET-KEY": "\u00e9"},
    ):
        for method in ("GET", "POST", "DELETE"):
            status, body = await client.call(method, path, headers=headers)
            assert (status, body["message"]) == (401, "request is not authorized")
    assert client.server.exchange.fills_json() == []


# Bodies -----------------------------------------------------------------------------------------------------------

ORDER = {"symbol": "AAPL", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}
WRONG: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, "", " ", "NaN", "Infinity", "-1", "1e400", "0x10", "\u0000", "x" * 5000,
    [], [1], {}, {"a": 1}, "9" * 400, 1.0000000001, "0.0000000001",
)  # fmt: skip


@pytest.mark.parametrize("field", ["symbol", "qty", "side", "type", "time_in_force", "limit_price", "client_order_id"])
async def test_wrong_types_and_values_are_refused_with_a_body(client: Client, field: str) -> None:
    async with unaffected(client):
        for value in WRONG:
            order = {**ORDER, "type": "limit", "limit_price": "1", field: value}
            status, body = await client.post("/v2/orders", order)
            assert status in (200, 403, 404, 422, 400), (value, body)
            if status != 200:
                assert isinstance(body["code"], int), (value, body)
                assert body["message"], (value, body)


@pytest.mark.parametrize("field", ["legs", "take_profit", "stop_loss", "order_class", "extended_hours", "notional"])
async def test_wrong_shapes_of_complex_orders_are_refused(client: Client, field: str) -> None:
    for value in (*WRONG, [{}], [[]], {"limit_price": {}}, {"stop_price": []}, [{"symbol": 1, "ratio_qty": "x"}] * 9):
        for order_class in ("bracket", "mleg", "oco"):
            status, body = await client.post("/v2/orders", {**ORDER, "order_class": order_class, field: value})
            assert status in (200, 400, 403, 404, 422), (value, body)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/orders"),
        ("PATCH", "/v2/orders/00000000-0000-0000-0000-000000000000"),
        ("PATCH", "/v2/account/configurations"),
        ("POST", "/v2/watchlists"),
        ("POST", "/admin/faults"),
        ("POST", "/admin/quote"),
    ],
)
async def test_malformed_json_is_400_or_404(client: Client, method: str, path: str) -> None:
    deep = b"[" * 100_000
    bodies = (
        b"{",
        b"",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"a":}',
        b"{'a': 1}",
        deep,
        b'{"a":' * 2000,
        b"\x00" * 10,
    )
    async with unaffected(client):
        for body in bodies:
            status, answer = await client.call(method, path, data=body)
            assert status in (400, 404, 422), (body[:20], status, answer)
            assert answer["message"]


async def test_odd_queries_are_answered(client: Client) -> None:
    for path in (
        "/v2/orders?limit=x", "/v2/orders?limit=-1", "/v2/orders?after=never", "/v2/orders?status=maybe",
        "/v2/orders/%00", "/v2/orders/..%2f..%2fetc", "/v2/positions/" + "A" * 3000, "/v2/assets/%FF%FE",
        "/v2/account/activities?page_size=0", "/v2/account/portfolio/history?period=999999Z",
        "/v2/options/contracts?strike_price_gte=NaN", "/v2/stocks/bars?symbols=&timeframe=", "/v2/calendar?start=x",
    ):  # fmt: skip
        status, body = await client.get(path)
        assert status in (400, 404, 422), (path, status, body)


async def test_huge_bodies_are_413_and_not_kept(client: Client) -> None:
    async with unaffected(client):
        tracemalloc.start()
        try:
            for _ in range(3):
                status, body = await client.call("POST", "/v2/orders", data=io.BytesIO(b"x" * (3 * MEBIBYTE)))
                assert (status, body["code"]) == (413, 41310000)
            # Announced as small pieces without an end.
            async with raw(client) as (reader, writer):
                one = client.server.accounts["large"]
                head = f"POST /v2/orders HTTP/1.1\r\nHost: x\r\nAPCA-API-KEY-ID: {one.key}\r\n"
                writer.write(
                    (head + f"APCA-API-SECRET-KEY: {one.secret}\r\nTransfer-Encoding: chunked\r\n\r\n").encode()
                )
                piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
                with contextlib.suppress(ConnectionError):
                    for _ in range(200):
                        writer.write(piece)
                        await writer.drain()
                assert b"413" in (await asyncio.wait_for(reader.read(200), PATIENCE)).split(b"\r\n")[0]
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept < 8 * MEBIBYTE


# Many orders ------------------------------------------------------------------------------------------------------


async def test_ten_thousand_open_orders(client: Client) -> None:
    exchange, account = client.server.exchange, client.server.accounts["large"]
    order = {**ORDER, "symbol": "F", "type": "limit", "limit_price": "0.01"}
    for _ in range(10_000):
        exchange.submit_order(account, order)
    await eventually(lambda: not client.server.host.scheduler.busy, "all to be accepted")
    async with unaffected(client):
        status, first = await client.get("/v2/orders?status=open&limit=500&direction=asc")
        assert (status, len(first)) == (200, 500)
        seen, last = 500, first[-1]["id"]
        while page := (await client.get(f"/v2/orders?limit=500&direction=asc&after_order_id={last}"))[1]:
            seen, last = seen + len(page), page[-1]["id"]
        assert seen == 10_000
        # A quote that reaches none of them costs the market nothing that counts.
        for cents in range(200):
            await client.quote("F", 11.50 + cents / 100, 11.52 + cents / 100)
        status, cancelled = await client.delete("/v2/orders")
        assert (status, len(cancelled)) == (207, 10_000)
        await eventually(lambda: not account.open, "all to be cancelled")
    assert account.holds == {}
    assert account.stock_reserve == 0


# Slow, mute and vanishing clients ---------------------------------------------------------------------------------


async def test_a_client_that_trickles_its_request_is_hung_up_on() -> None:
    async with running(limits=HASTY) as client, unaffected(client), raw(client) as (reader, writer):
        writer.write(b"GET /v2/account HTTP/1.1\r\nHost:")
        assert await hung_up(reader) == b""


async def test_a_client_that_connects_and_says_nothing_is_hung_up_on() -> None:
    async with running(limits=HASTY) as client, unaffected(client), raw(client) as (reader, _):
        assert await hung_up(reader) == b""


async def test_a_body_that_never_comes_is_hung_up_on() -> None:
    async with running(limits=HASTY) as client, unaffected(client), raw(client) as (reader, writer):
        writer.write(b"POST /v2/orders HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
        assert await hung_up(reader) == b""
        assert client.server.host.requests_in_progress == 0


async def test_a_head_without_end_is_refused() -> None:
    async with running(limits=HASTY) as client, unaffected(client), raw(client) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nX: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                writer.write(b"y" * 4096)
                await writer.drain()
        assert (await hung_up(reader)).split(b"\r\n")[0] in (b"HTTP/1.1 400 Bad Request", b"")


@pytest.mark.parametrize(
    "request_text", [b"HELLO\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 100]
)
async def test_what_is_not_http_is_400(client: Client, request_text: bytes) -> None:
    async with unaffected(client), raw(client) as (reader, writer):
        writer.write(request_text)
        assert (await hung_up(reader)).startswith(b"HTTP/1.1 400")


async def test_mute_sockets_run_into_the_documented_timeout() -> None:
    async with running(limits=HASTY) as client, unaffected(client), connect(client.server.data_stream_url) as socket:
        assert await hear(socket) == [{"T": "success", "msg": "connected"}]
        assert (await hear(socket))[0] == {"T": "error", "code": 404, "msg": "auth timeout"}
        with pytest.raises(ConnectionClosed):
            await hear(socket)


def handshake(path: str, client: Client) -> bytes:
    one = client.server.accounts["large"]
    return (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        f"APCA-API-KEY-ID: {one.key}\r\nAPCA-API-SECRET-KEY: {one.secret}\r\n\r\n"
    ).encode()


@pytest.mark.parametrize("path", ["/stream", "/v2/iex", "/v1beta1/indicative"])
@pytest.mark.parametrize("after", ["handshake", "half a frame", "a fragment"])
async def test_clients_that_vanish_in_mid_frame(client: Client, path: str, after: str) -> None:
    app = client.server.app
    async with unaffected(client):
        sessions = app.trade_stream.connections("large") + app.data_streams.connection_count()
        for _ in range(5):
            async with raw(client) as (reader, writer):
                writer.write(handshake(path, client))
                assert b"101" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
                if after == "half a frame":
                    # 5,000 bytes are announced, ten come.
                    writer.write(struct.pack("!BBH4s", 0x81, 0x80 | 126, 5000, b"\0" * 4) + b'{"action":')
                elif after == "a fragment":
                    writer.write(struct.pack("!BB4s", 0x01, 0x80 | 3, b"\0" * 4) + b'{"a')
                await writer.drain()
                writer.transport.abort()
            await eventually(
                lambda: app.trade_stream.connections("large") + app.data_streams.connection_count() == sessions,
                "the place to be free again",
            )


@pytest.mark.parametrize("path", ["stream_url", "data_stream_url", "option_stream_url"])
async def test_socket_messages_beyond_the_limit_end_the_connection(client: Client, path: str) -> None:
    async def send_and_hear(socket: ClientConnection) -> None:
        await socket.send("x" * (2 * MEBIBYTE))
        while True:
            await asyncio.wait_for(socket.recv(), PATIENCE)

    async with unaffected(client), connect(getattr(client.server, path), max_size=None) as socket:
        with pytest.raises(ConnectionClosed):
            await send_and_hear(socket)


@pytest.mark.parametrize(
    "message", [b"\xc1", b"\xdf\xff\xff\xff\xff", b"\x81\xa6action", msgpack.packb([[[]]] * 50), b"", os.urandom(64)]
)
async def test_garbage_on_a_data_socket_is_400_and_the_socket_lives(client: Client, message: bytes) -> None:
    async with unaffected(client), connected(client, packed=True) as socket:
        await socket.send(message)
        assert (await hear(socket))[0]["code"] in (400, 401)
        answer = await tell(socket, {"action": "subscribe", "quotes": ["AAPL"]}, packed=True)
        assert answer[0]["T"] == "subscription"


async def test_odd_subscriptions_are_refused_one_by_one(client: Client) -> None:
    async with unaffected(client), connected(client) as socket:
        for wanted, code in (
            ({"quotes": "AAPL"}, 400),
            ({"quotes": [1]}, 400),
            ({"quotes": {"a": 1}}, 400),
            ({"news": ["*"]}, 410),
            ({"quotes": ["A"] * 30_000}, 405),
        ):
            answer = await tell(socket, {"action": "subscribe", **wanted})
            assert answer[0]["code"] == code, wanted
        assert (await tell(socket, {"action": "dance"}))[0]["code"] == 400
        assert (await tell(socket, {"action": "auth", "key": "x", "secret": "y"}))[0]["code"] == 403


async def test_a_hundred_clients_that_come_and_go(client: Client) -> None:
    async def come_and_go(number: int) -> None:
        async with raw(client) as (reader, writer):
            if number % 3 == 0:
                writer.write(handshake("/v2/iex", client))
            elif number % 3 == 1:
                writer.write(b"GET /v2/clock HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
            else:
                writer.write(b"POST /v2/orders HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n" + b"{" * 100)
            await writer.drain()
            if number % 2:
                await asyncio.wait_for(reader.read(1), PATIENCE) if number % 3 != 2 else None
            writer.transport.abort()

    async with unaffected(client):
        await asyncio.gather(*(come_and_go(number) for number in range(100)))
        app = client.server.app
        await eventually(lambda: app.data_streams.connection_count() == 0, "all places to be free")
        await eventually(lambda: client.server.host.requests_in_progress == 0, "all requests to be over")
    assert json.dumps(client.server.exchange.state_json()["large"]["positions"]) == "{}"
