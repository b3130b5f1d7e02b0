"""What both kinds of websocket share: accepting, refusing at the handshake, reading messages, ending cleanly."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack
import orjson

from exitguard.paper.server.wire import Receive, Send

_ENDINGS = (asyncio.CancelledError, ConnectionError, OSError)


async def refuse_handshake(receive: Receive, send: Send, status: int, body: bytes) -> None:
    """Answer the upgrade request with an HTTP error."""
    await receive()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


async def accept(receive: Receive, send: Send) -> None:
    """Complete the handshake."""
    await receive()
    await send({"type": "websocket.accept"})


async def next_message(receive: Receive) -> bytes | None:
    """The next message's payload, text or binary; None when the client has gone."""
    message = await receive()
    if message["type"] != "websocket.receive":
        return None
    payload = message.get("bytes")
    if payload is not None:
        return bytes(payload)
    return str(message["text"]).encode()


def decode(payload: bytes) -> dict[str, Any] | None:
    """A message as an object, from JSON or msgpack; None when it is neither."""
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError:
        try:
            value = msgpack.unpackb(payload)
        except (ValueError, msgpack.exceptions.UnpackException):
            return None
    return value if isinstance(value, dict) else None


async def with_writer(writer: Callable[[], Awaitable[None]], reader: Callable[[], Awaitable[None]]) -> None:
    """Run a session's reader until it ends, its writer beside it; both are over when this returns."""
    writing = asyncio.ensure_future(writer())
    reading = asyncio.ensure_future(reader())
    try:
        await asyncio.wait({writing, reading}, return_when=asyncio.FIRST_COMPLETED)
        if writing.done() and not reading.done():
            # The writer said goodbye: the client's answer ends the reader, the transport's abort does so at the latest.
            await asyncio.wait({reading}, timeout=5.0)
    finally:
        for task in (writing, reading):
            task.cancel()
            with contextlib.suppress(*_ENDINGS):
                await task
