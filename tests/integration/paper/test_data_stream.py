"""Market data sockets on the wire: the documented flow, both encodings, full echoes, every error code."""

import asyncio

import msgpack
import pytest
from tests.integration.paper.conftest import Client, client_of, running
from tests.integration.paper.sockets import auth, connected, hear, hear_all, tell
from tests.support.waiting import PATIENCE, eventually
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from exitguard.paper.server.settings import SocketLimits

ALL_STOCK_CHANNELS = {
    "trades": [],
    "quotes": [],
    "bars": [],
    "updatedBars": [],
    "dailyBars": [],
    "statuses": [],
    "lulds": [],
    "corrections": [],
    "cancelErrors": [],
}


async def option_of(client: Client, underlying: str = "AAPL", number: int = 0) -> str:
    _, contracts = await client.get(f"/v2/options/contracts?underlying_symbols={underlying}&strike_price_gte=180")
    return str(contracts["option_contracts"][number]["symbol"])


@pytest.mark.parametrize("packed", [False, True])
async def test_the_documented_flow_in_both_encodings(client: Client, packed: bool) -> None:
    async with connected(client, packed=packed) as socket:
        subscribe = {"action": "subscribe", "quotes": ["AAPL"], "trades": ["F"], "bars": ["*"]}
        assert await tell(socket, subscribe, packed=packed) == [
            {
                "T": "subscription",
                **ALL_STOCK_CHANNELS,
                "quotes": ["AAPL"],
                "trades": ["F"],
                "bars": ["*"],
                "corrections": ["F"],
                "cancelErrors": ["F"],
            }
        ]
        await client.quote("AAPL", 190.1, 190.14, bid_size=7, ask_size=8)
        (quote,) = await hear(socket)
        at = quote.pop("t")
        assert quote == {
            "T": "q", "S": "AAPL", "bx": "V", "bp": 190.1, "bs": 7, "ax": "V", "ap": 190.14, "as": 8,
            "c": ["R"], "z": "C",
        }  # fmt: skip
        assert (at.isoformat() if packed else at) == ("2026-11-18T15:00:00+00:00" if packed else "2026-11-18T15:00:00Z")
        await client.quote("F", 11.49, 11.51, last=11.5, trade_size=3)
        (trade,) = await hear(socket)
        assert (trade["T"], trade["S"], trade["p"], trade["s"], trade["z"]) == ("t", "F", 11.5, 3, "C")
        unsubscribed = await tell(socket, {"action": "unsubscribe", "quotes": ["AAPL"], "trades": ["F"]}, packed=packed)
        assert unsubscribed == [{"T": "subscription", **ALL_STOCK_CHANNELS, "bars": ["*"]}]


async def test_bars_come_when_their_minute_is_over() -> None:
    async with running(manual={}, symbols=["AAPL"]) as client, connected(client) as socket:
        await tell(socket, {"action": "subscribe", "bars": ["AAPL"], "dailyBars": ["AAPL"]})
        await client.post("/admin/advance", {"seconds": 65})
        bar, daily = await hear_all(socket, 2)
        assert (bar["T"], bar["t"], daily["T"]) == ("b", "2026-11-18T15:00:00Z", "d")
        assert bar["l"] <= min(bar["o"], bar["c"]) <= max(bar["o"], bar["c"]) <= bar["h"]
        assert bar["v"] > 0


async def test_halts_are_announced_as_statuses(client: Client) -> None:
    async with connected(client) as socket:
        await tell(socket, {"action": "subscribe", "statuses": ["AAPL"]})
        await client.post("/admin/halt", {"symbol": "AAPL"})
        (halted,) = await hear(socket)
        await client.post("/admin/halt", {"symbol": "AAPL", "halted": False})
        (resumed,) = await hear(socket)
    assert (halted["T"], halted["sc"], halted["rc"], resumed["sc"]) == ("s", "H", "T1", "T")


async def test_price_bands_follow_the_price_by_one_per_cent(client: Client) -> None:
    async with connected(client) as socket:
        await tell(socket, {"action": "subscribe", "lulds": ["AAPL"]})
        for price in (190.0, 190.5, 210.0):
            await client.quote("AAPL", price - 0.01, price + 0.01, last=price, trade_size=10)
            await client.post("/admin/advance", {"seconds": 60})
        first, second = await hear_all(socket, 2)
    assert (first["T"], first["S"], first["u"], first["d"]) == ("l", "AAPL", 199.5, 180.5)
    mean = (190 + 190.5 + 210) / 3
    assert (second["u"], second["d"]) == (round(mean * 1.05, 2), round(mean * 0.95, 2))


async def test_a_subscribed_option_follows_its_underlying(client: Client) -> None:
    symbol = await option_of(client)
    async with connected(client, packed=True, option=True) as socket:
        await socket.send(msgpack.packb({"action": "subscribe", "quotes": [symbol]}))
        messages = await hear_all(socket, 1)
        while {"T": "subscription", "trades": [], "quotes": [symbol]} not in messages:
            messages += await hear(socket)
        await client.quote("AAPL", 200.0, 200.02)
        while True:
            (quote,) = await hear(socket)
            if quote["bp"] > 0:
                break
        assert (quote["T"], quote["S"], quote["c"]) == ("q", symbol, "A")
        assert quote["ap"] > quote["bp"] > 15


async def test_option_sockets_speak_msgpack_only(client: Client) -> None:
    async with connect(client.server.option_stream_url) as socket:
        await hear(socket)
        assert (await tell(socket, auth(client)))[0]["code"] == 412
        with pytest.raises(ConnectionClosed):
            await hear(socket)


async def test_header_credentials_authenticate_at_once(client: Client) -> None:
    one = client.server.accounts["large"]
    headers = {"APCA-API-KEY-ID": one.key, "APCA-API-SECRET-KEY": one.secret}
    async with connect(client.server.data_stream_url, additional_headers=headers) as socket:
        assert await hear(socket) == [{"T": "success", "msg": "connected"}]
        assert await hear(socket) == [{"T": "success", "msg": "authenticated"}]


async def test_every_documented_error_code(client: Client) -> None:
    async with connect(client.server.data_stream_url) as socket:
        await hear(socket)
        assert (await tell(socket, {"action": "subscribe", "quotes": ["AAPL"]}))[0]["code"] == 401
        await socket.send("{")
        assert (await hear(socket))[0]["code"] == 400
        assert (await tell(socket, {"action": "auth", "key": "x", "secret": "y"}))[0]["code"] == 402
        with pytest.raises(ConnectionClosed):
            await hear(socket)
    async with connected(client) as socket:
        assert (await tell(socket, auth(client)))[0]["code"] == 403
        assert (await tell(socket, {"action": "subscribe", "quotes": "AAPL"}))[0]["code"] == 400
        assert (await tell(socket, {"action": "subscribe", "moons": ["AAPL"]}))[0]["code"] == 410
        assert (await tell(socket, {"action": "dance"}))[0]["code"] == 400
        async with connect(client.server.data_stream_url) as second:
            await hear(second)
            assert (await tell(second, auth(client)))[0]["code"] == 406
        async with connected(client, account="tiny"):
            pass
    async with connected(client, packed=True, option=True) as socket:
        answer = await tell(socket, {"action": "subscribe", "quotes": ["*"]}, packed=True)
        assert answer[0]["code"] == 413
        assert (await tell(socket, {"action": "subscribe", "bars": ["A"]}, packed=True))[0]["code"] == 410


async def test_limits_are_configurable() -> None:
    limits = SocketLimits(stock_symbols=2, option_quotes=1)
    async with running(limits=limits) as client:
        async with connected(client) as socket:
            assert (await tell(socket, {"action": "subscribe", "quotes": ["A", "B"], "trades": ["A"]}))[0]["T"] == (
                "subscription"
            )
            assert (await tell(socket, {"action": "subscribe", "quotes": ["C"]}))[0]["code"] == 405
        symbols = [await option_of(client, number=n) for n in (0, 1)]
        async with connected(client, packed=True, option=True) as socket:
            assert (await tell(socket, {"action": "subscribe", "quotes": symbols}, packed=True))[0]["code"] == 405
    async with (
        running(limits=SocketLimits(auth_seconds=0.05)) as client,
        connect(client.server.data_stream_url) as silent,
    ):
        await hear(silent)
        assert (await hear(silent))[0] == {"T": "error", "code": 404, "msg": "auth timeout"}


async def test_fragmented_subscriptions_and_compression(client: Client) -> None:
    async with connected(client, packed=True, compression="deflate") as socket:
        message = msgpack.packb({"action": "subscribe", "quotes": ["AAPL"]})
        await socket.send([message[:5], message[5:9], message[9:]])
        assert (await hear(socket))[0]["quotes"] == ["AAPL"]
        assert "permessage-deflate" in socket.response.headers["Sec-WebSocket-Extensions"]


async def test_the_test_feed_quotes_its_own_symbol_whatever_the_market_does(client: Client) -> None:
    url = client.server.data_stream_url.replace("/iex", "/test")
    async with connect(url) as socket:
        await hear(socket)
        await tell(socket, auth(client))
        assert (await tell(socket, {"action": "subscribe", "quotes": ["AAPL"]}))[0]["code"] == 409
        await tell(socket, {"action": "subscribe", "quotes": ["FAKEPACA"]})
        assert (await hear(socket))[0]["S"] == "FAKEPACA"


async def test_unknown_sockets_are_refused_at_the_handshake(client: Client) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(client.server.data_stream_url.replace("/iex", "/moon")):
            raise AssertionError("let in")
    assert refused.value.response.status_code == 404


async def test_a_slow_reader_is_told_407_and_dropped_and_others_are_not() -> None:
    limits = SocketLimits(data_connections_per_account=None, backlog_bytes=30_000)
    deaf = {"compression": None, "close_timeout": 0.1, "max_queue": 1}
    async with running(limits=limits) as client, connected(client) as quick, connected(client, **deaf) as slow:
        for socket in (quick, slow):
            await tell(socket, {"action": "subscribe", "quotes": ["*"]})
        slow.transport.pause_reading()
        streams, host = client.server.app.data_streams, client.server.host
        quote = host.player.tape.quotes["AAPL"]
        read = 0
        for _ in range(40_000):
            host.player.publish(quote)
            if _ % 50 == 0:
                read += len(await hear(quick))
            if streams.connection_count() == 1:
                break
        await eventually(lambda: streams.connection_count() == 1, "the slow reader to be dropped")
        assert read > 0
        host.player.publish(quote)
        await hear(quick)


async def test_mute_cut_and_half_dead_data_sockets(client: Client) -> None:
    async with connected(client) as socket:
        await tell(socket, {"action": "subscribe", "quotes": ["AAPL"]})
        await client.fault("data_mute", count=1)
        await client.quote("AAPL", 191, 191.02)
        await asyncio.wait_for(await socket.ping(), PATIENCE)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 0.05)
    async with connected(client) as socket:
        await client.fault("data_half_dead", count=1, parameters={"seconds": 3600})
        await client.fault("data_disconnect", count=1)
        with pytest.raises(ConnectionClosed):
            await hear(socket)
    async with connect(client.server.data_stream_url) as socket:
        await hear(socket)
        assert (await tell(socket, auth(client)))[0]["code"] == 406
    async with client_of(client.server, "tiny"), connected(client, account="tiny"):
        pass


async def test_f48_wrong_quotes_on_the_feed_do_not_move_the_market(client: Client) -> None:
    async with connected(client, packed=True) as socket:
        await tell(socket, {"action": "subscribe", "quotes": ["AAPL"]}, packed=True)
        for kind in ("quote_zero", "quote_crossed", "quote_wild", "quote_one_sided", "quote_nan"):
            await client.fault(kind, count=1)
            await client.quote("AAPL", 190.0, 190.02)
            (shown,) = await hear(socket)
            assert (shown["bp"], shown["ap"]) != (190.0, 190.02), kind
        order = await client.buy()
        await eventually(lambda: len(client.server.exchange.fills_json()) == 1, "the fill")
        _, found = await client.get(f"/v2/orders/{order['id']}")
        assert found["filled_avg_price"] == "190.02"


@pytest.mark.parametrize("garbage", [b"\xc1", b"\x92\x01", b"\xde\xff\xff", b"", b"\x81\x90\x01"])
async def test_garbage_is_invalid_syntax_and_the_socket_lives(client: Client, garbage: bytes) -> None:
    async with connected(client, packed=True) as socket:
        await socket.send(garbage)
        assert (await hear(socket))[0]["code"] == 400
        assert (await tell(socket, {"action": "subscribe", "quotes": ["F"]}, packed=True))[0]["T"] == "subscription"
