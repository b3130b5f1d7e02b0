"""The trade stream on the wire: authentication, acknowledgements, binary frames, limits, clients that misbehave."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import msgpack
import pytest
from tests.integration.paper.conftest import Client, client_of, running
from tests.support.waiting import PATIENCE, eventually
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from exitguard.paper.server.settings import SocketLimits


def keys(client: Client, account: str = "large") -> dict[str, str]:
    one = client.server.accounts[account]
    return {"APCA-API-KEY-ID": one.key, "APCA-API-SECRET-KEY": one.secret}


async def say(socket: ClientConnection, message: Any, *, binary: bool = False) -> None:
    text = json.dumps(message)
    await socket.send(text.encode() if binary else text)


async def hear(socket: ClientConnection) -> Any:
    frame = await asyncio.wait_for(socket.recv(), PATIENCE)
    assert isinstance(frame, bytes), "the paper stream sends binary frames"
    return json.loads(frame)


@contextlib.asynccontextmanager
async def listening(client: Client, account: str = "large", **options: Any) -> AsyncIterator[ClientConnection]:
    """A socket that is authenticated and listens to trade updates."""
    one = client.server.accounts[account]
    async with connect(client.server.stream_url, **options) as socket:
        await say(socket, {"action": "auth", "key": one.key, "secret": one.secret})
        assert (await hear(socket))["data"]["status"] == "authorized"
        await say(socket, {"action": "listen", "data": {"streams": ["trade_updates"]}})
        assert (await hear(socket))["stream"] == "listening"
        yield socket


async def events(socket: ClientConnection, last: str) -> list[Any]:
    """Trade update data up to and including the event `last`."""
    heard = []
    while True:
        heard.append((await hear(socket))["data"])
        if heard[-1] and heard[-1]["event"] == last:
            return heard


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("style", ["sdk", "documented"])
async def test_both_auth_messages_in_text_or_binary(client: Client, style: str, binary: bool) -> None:
    one = client.server.accounts["large"]
    message = {
        "sdk": {"action": "authenticate", "data": {"key_id": one.key, "secret_key": one.secret}},
        "documented": {"action": "auth", "key": one.key, "secret": one.secret},
    }[style]
    async with connect(client.server.stream_url) as socket:
        await say(socket, message, binary=binary)
        assert await hear(socket) == {
            "stream": "authorization",
            "data": {"status": "authorized", "action": "authenticate"},
        }
        await say(socket, {"action": "listen", "data": {"streams": ["trade_updates", "moon"]}}, binary=binary)
        assert await hear(socket) == {"stream": "listening", "data": {"streams": ["trade_updates"]}}
        order = await client.buy()
        heard = await events(socket, "fill")
        assert {data["order"]["id"] for data in heard} == {order["id"]}
        fill = heard[-1]
        assert (fill["qty"], fill["position_qty"]) == ("10", "10")
        assert fill["execution_id"]
        assert fill["order"]["legs"] is None


async def test_wrong_keys_and_listening_too_early_are_unauthorized(client: Client) -> None:
    async with connect(client.server.stream_url) as socket:
        await say(socket, {"action": "listen", "data": {"streams": ["trade_updates"]}})
        assert (await hear(socket))["data"] == {"status": "unauthorized", "action": "listen"}
        await say(socket, {"action": "authenticate", "data": {"key_id": "PK", "secret_key": "no"}})
        assert (await hear(socket))["data"] == {"status": "unauthorized", "action": "authenticate"}


async def test_header_credentials_authorize_at_the_handshake(client: Client) -> None:
    async with connect(client.server.stream_url, additional_headers=keys(client)) as socket:
        await say(socket, {"action": "listen", "data": {"streams": ["trade_updates"]}})
        assert (await hear(socket))["stream"] == "listening"
    with pytest.raises(InvalidStatus) as refused:
        async with connect(client.server.stream_url, additional_headers={"APCA-API-KEY-ID": "PK"}):
            raise AssertionError("wrong header credentials were let in")
    assert refused.value.response.status_code == 401


async def test_a_second_connection_of_an_account_is_429_at_the_handshake(client: Client) -> None:
    async with listening(client):
        with pytest.raises(InvalidStatus) as refused:
            async with connect(client.server.stream_url, additional_headers=keys(client)):
                raise AssertionError("a second connection was let in")
        assert refused.value.response.status_code == 429
        async with listening(client, "tiny"):
            pass
        one = client.server.accounts["large"]
        async with connect(client.server.stream_url) as second:
            await say(second, {"action": "auth", "key": one.key, "secret": one.secret})
            assert (await hear(second))["action"] == "error"
            with pytest.raises(ConnectionClosed):
                await hear(second)
    async with listening(client):
        pass


async def test_the_connection_limit_can_be_switched_off() -> None:
    limits = SocketLimits(one_trade_stream_per_account=False)
    async with running(limits=limits) as client, listening(client) as first, listening(client) as second:
        await client.buy()
        heard = [[data["event"] for data in await events(socket, "fill")] for socket in (first, second)]
        assert heard[0] == heard[1]


async def test_nothing_is_replayed(client: Client) -> None:
    async with listening(client) as socket:
        await client.buy()
        await events(socket, "fill")
    await client.buy("F", qty=1)
    await eventually(lambda: len(client.server.exchange.fills_json()) == 2, "the second fill")
    async with listening(client) as socket:
        order = await client.buy("F", qty=2)
        heard = await events(socket, "fill")
        assert {data["order"]["id"] for data in heard} == {order["id"]}


async def test_i4_an_account_hears_its_own_orders_only(client: Client) -> None:
    async with listening(client) as large, listening(client, "tiny") as tiny, client_of(client.server, "tiny") as other:
        await other.buy("F", qty=1)
        mine = await client.buy("F", qty=2)
        assert {data["order"]["id"] for data in await events(large, "fill")} == {mine["id"]}
        assert {data["order"]["qty"] for data in await events(tiny, "fill")} == {"1"}


async def test_msgpack_is_spoken_when_the_content_type_asks(client: Client) -> None:
    one = client.server.accounts["large"]
    headers = {"Content-Type": "application/msgpack"}
    async with connect(client.server.stream_url, additional_headers=headers) as socket:
        await socket.send(msgpack.packb({"action": "auth", "key": one.key, "secret": one.secret}))
        assert msgpack.unpackb(await socket.recv())["data"]["status"] == "authorized"


@pytest.mark.parametrize("message", ["{", "[]", "7", '{"action": "dance"}', '{"no": "action"}', "\x00"])
async def test_nonsense_is_answered_and_hung_up_on(client: Client, message: str) -> None:
    async with connect(client.server.stream_url) as socket:
        await socket.send(message)
        assert "error_message" in (await hear(socket))["data"]
        with pytest.raises(ConnectionClosed):
            await hear(socket)
    assert (await client.get("/v2/account"))[0] == 200


async def test_fragmented_frames_and_compression(client: Client) -> None:
    one = client.server.accounts["large"]
    text = json.dumps({"action": "auth", "key": one.key, "secret": one.secret})
    async with connect(client.server.stream_url, compression="deflate") as socket:
        assert "permessage-deflate" in socket.response.headers["Sec-WebSocket-Extensions"]
        await socket.send([text[:10], text[10:11], text[11:]])
        assert (await hear(socket))["data"]["status"] == "authorized"


async def test_a_slow_client_is_dropped_and_others_are_not() -> None:
    limits = SocketLimits(one_trade_stream_per_account=False, backlog_bytes=20_000)
    deaf = {"max_queue": 1, "compression": None, "close_timeout": 0.1}
    async with running(limits=limits) as client, listening(client) as quick, listening(client, **deaf) as slow:
        slow.transport.pause_reading()
        stream = client.server.app.trade_stream
        account = client.server.accounts["large"]
        heard = asyncio.create_task(count(quick))
        try:
            for _ in range(4000):
                stream.on_update(account, {"event": "new", "order": {"symbol": "AAPL", "pad": "x" * 3000}})
                await asyncio.sleep(0)
                if stream.connections("large") == 1:
                    break
            await eventually(lambda: stream.connections("large") == 1, "the slow client to be dropped")
            before = heard.get_name()
            await client.buy()
            await eventually(lambda: heard.get_name() != before, "the quick client to go on")
        finally:
            heard.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await heard


async def count(socket: ClientConnection) -> None:
    """Count frames in the task's name: visible progress without a shared variable."""
    task = asyncio.current_task()
    assert task is not None
    number = 0
    async for _ in socket:
        number += 1
        task.set_name(str(number))


# Faults
async def test_dropped_doubled_late_reordered_unknown_and_null_updates(client: Client) -> None:
    async with listening(client) as socket:
        normal = [data["event"] for data in await after(client, socket)]
        await client.fault("stream_drop", count=1)
        assert len(await after(client, socket)) == len(normal) - 1
        await client.fault("stream_duplicate", count=1)
        doubled = await after(client, socket)
        assert doubled[0] == doubled[1]
        await client.fault("stream_reorder", count=1)
        swapped = [data["event"] for data in await after(client, socket)]
        assert sorted(swapped) == sorted(normal)
        assert swapped != normal
        await client.fault("stream_delay", count=1, parameters={"seconds": 1.0})
        late = [data["event"] for data in await after(client, socket, expect=len(normal))]
        assert late[-1] == normal[0]
        await client.fault("stream_unknown", count=1)
        assert (await after(client, socket))[0]["event"] == "order_reviewed"
        await client.fault("stream_null", count=1)
        assert (await after(client, socket))[0] is None


async def after(client: Client, socket: ClientConnection, expect: int | None = None) -> list[Any]:
    """The updates of one filled order; up to the fill, or as many as expected."""
    await client.buy("F", qty=1)
    if expect is None:
        return await events(socket, "fill")
    return [(await hear(socket))["data"] for _ in range(expect)]


async def test_a_mute_socket_answers_pings_and_says_nothing(client: Client) -> None:
    async with listening(client) as socket:
        await client.fault("stream_mute", account="large")
        await client.buy()
        await eventually(lambda: len(client.server.exchange.fills_json()) == 1, "the fill")
        await asyncio.wait_for(await socket.ping(), PATIENCE)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 0.05)


async def test_a_cut_socket_and_a_half_dead_session_that_blocks_reconnecting(client: Client) -> None:
    for account, seconds in (("tiny", 3600), ("large", 0.1)):
        async with listening(client, account) as socket:
            await client.fault("stream_half_dead", count=1, account=account, parameters={"seconds": seconds})
            await client.fault("stream_disconnect", count=1, account=account)
            with pytest.raises(ConnectionClosed):
                await hear(socket)
    with pytest.raises(InvalidStatus) as refused:
        async with connect(client.server.stream_url, additional_headers=keys(client, "tiny")):
            raise AssertionError("let in although the old session is still there")
    assert refused.value.response.status_code == 429
    stream = client.server.app.trade_stream
    await eventually(lambda: stream.connections("large") == 0, "the stale session to end")
    async with listening(client):
        pass
