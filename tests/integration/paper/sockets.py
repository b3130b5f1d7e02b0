"""Data sockets as a raw client sees them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import msgpack
from tests.integration.paper.conftest import Client
from tests.support.waiting import PATIENCE
from websockets.asyncio.client import ClientConnection, connect

PACKED = {"Content-Type": "application/msgpack"}


async def hear(socket: ClientConnection) -> list[dict[str, Any]]:
    """The next frame, an array in either encoding."""
    frame = await asyncio.wait_for(socket.recv(), PATIENCE)
    messages = json.loads(frame) if isinstance(frame, str) else msgpack.unpackb(frame, timestamp=3)
    assert isinstance(messages, list)
    return messages


async def hear_all(socket: ClientConnection, number: int) -> list[dict[str, Any]]:
    """As many data messages, however they are framed."""
    messages: list[dict[str, Any]] = []
    while len(messages) < number:
        messages += await hear(socket)
    return messages


async def tell(socket: ClientConnection, message: dict[str, Any], *, packed: bool = False) -> list[dict[str, Any]]:
    await socket.send(msgpack.packb(message) if packed else json.dumps(message))
    return await hear(socket)


def auth(client: Client, account: str = "large") -> dict[str, str]:
    one = client.server.accounts[account]
    return {"action": "auth", "key": one.key, "secret": one.secret}


@contextlib.asynccontextmanager
async def connected(
    client: Client, *, packed: bool = False, option: bool = False, account: str = "large", **options: Any
) -> AsyncIterator[ClientConnection]:
    """An authenticated data socket."""
    url = client.server.option_stream_url if option else client.server.data_stream_url
    async with connect(url, additional_headers=PACKED if packed else {}, **options) as socket:
        assert await hear(socket) == [{"T": "success", "msg": "connected"}]
        answer = await tell(socket, auth(client, account), packed=packed)
        assert answer == [{"T": "success", "msg": "authenticated"}]
        yield socket
