"""The load on the exchange, a process of its own: order requests as fast as they are answered, one an account.

Raw HTTP on plain sockets: a client library would cost more than what is measured. Prints orders a second.
"""

import asyncio
import sys
import time
from typing import Any, cast

import orjson
import uvloop

_BODY = orjson.dumps({"symbol": "AAPL", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"})


class _Client(asyncio.Protocol):
    """One keep-alive connection that sends the next order when the last one was answered."""

    def __init__(self, request: bytes, done: "asyncio.Future[None]") -> None:
        self.request = request
        self.answered = 0
        self._done = done
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports behave like asyncio.Transport without being one.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data
        head = buffer.find(b"\r\n\r\n")
        if head < 0:
            self._buffer = buffer
            return
        mark = buffer.find(b"content-length: ") + 16
        size = int(buffer[mark : buffer.find(b"\r\n", mark)])
        if len(buffer) < head + 4 + size:
            self._buffer = buffer
            return
        self._buffer = b""
        if not buffer.startswith(b"HTTP/1.1 200"):
            if not self._done.done():
                self._done.set_exception(RuntimeError(f"the order was refused: {buffer[:400]!r}"))
            return
        self.answered += 1
        assert self._transport is not None
        self._transport.write(self.request)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(ConnectionError(f"the exchange hung up: {error}"))


async def load(target: dict[str, Any]) -> list[float]:
    """Orders a second in each round after one that warms up."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    clients: list[_Client] = []
    for key, secret in target["accounts"]:
        head = (
            f"POST /v2/orders HTTP/1.1\r\nHost: bench\r\nAPCA-API-KEY-ID: {key}\r\nAPCA-API-SECRET-KEY: {secret}\r\n"
            f"Content-Type: application/json\r\nAccept: */*\r\nContent-Length: {len(_BODY)}\r\n\r\n"
        )
        client = _Client(head.encode() + _BODY, done)
        clients.append(client)
        await loop.create_connection(lambda client=client: client, "127.0.0.1", target["port"])  # type: ignore[misc]
    rates = []
    for _ in range(target["rounds"] + 1):
        before, began = sum(client.answered for client in clients), time.perf_counter()
        await asyncio.wait([done], timeout=target["seconds"])
        if done.done():
            done.result()
        rates.append((sum(client.answered for client in clients) - before) / (time.perf_counter() - began))
    done.set_result(None)
    return rates[1:]


if __name__ == "__main__":
    print(orjson.dumps(uvloop.run(load(orjson.loads(sys.argv[1])))).decode(), flush=True)
