"""The listeners of the exchange's market data, a process of its own: many sockets that count what they are sent.

Raw frames on plain sockets: a client library would cost more than what is measured. Prints a line when all listen, and
at the end how many messages the socket that heard least heard, for each round.
"""

import asyncio
import sys
import time
from typing import Any

import msgpack
import orjson
import uvloop

_UPGRADE = (
    "GET /v2/iex HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    "Content-Type: application/msgpack\r\nAPCA-API-KEY-ID: {key}\r\nAPCA-API-SECRET-KEY: {secret}\r\n\r\n"
)
_SUBSCRIBE = bytes(msgpack.packb({"action": "subscribe", "quotes": ["*"]}))
# The first data frame comes after connected, authenticated and the subscription's echo.
_CONTROL_FRAMES = 3


class _Ear(asyncio.Protocol):
    """One socket: it knows where frames begin and how many messages their arrays hold, and nothing more."""

    def __init__(self, upgrade: bytes) -> None:
        self.messages = 0
        self.frames = 0
        self.listening = asyncio.Event()
        self._upgrade = upgrade
        self._upgraded = False
        self._buffer = bytearray()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.write(self._upgrade)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if not self._upgraded:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            if not buffer.startswith(b"HTTP/1.1 101"):
                raise RuntimeError(f"the exchange refused the socket: {bytes(buffer[:200])!r}")
            del buffer[: end + 4]
            self._upgraded = True
            # Masked with zeros: a client's frames have to be masked.
            self._transport.write(bytes([0x82, 0x80 | len(_SUBSCRIBE), 0, 0, 0, 0]) + _SUBSCRIBE)
        self._count(buffer)

    def _count(self, buffer: bytearray) -> None:
        at, size = 0, len(buffer)
        while size - at >= 10 or (size - at >= 2 and buffer[at + 1] < 126):
            length, body = buffer[at + 1], at + 2
            if length == 126:
                length, body = int.from_bytes(buffer[at + 2 : at + 4], "big"), at + 4
            elif length == 127:
                length, body = int.from_bytes(buffer[at + 2 : at + 10], "big"), at + 10
            if body + length > size:
                break
            if buffer[at] == 0x82:
                self._hear(buffer, body)
            at = body + length
        del buffer[:at]

    def _hear(self, buffer: bytearray, body: int) -> None:
        self.frames += 1
        if self.frames <= _CONTROL_FRAMES:
            if self.frames == _CONTROL_FRAMES:
                self.listening.set()
            return
        first = buffer[body]
        self.messages += first & 15 if first != 0xDC else int.from_bytes(buffer[body + 1 : body + 3], "big")


async def listen(target: dict[str, Any]) -> list[float]:
    """Messages a second of the socket that heard least, for each round after one that warms up."""
    loop = asyncio.get_running_loop()
    ears = [_Ear(_UPGRADE.format(key=key, secret=secret).encode()) for key, secret in target["accounts"]]
    for ear in ears:
        await loop.create_connection(lambda ear=ear: ear, "127.0.0.1", target["port"])  # type: ignore[misc]
    await asyncio.wait_for(asyncio.gather(*(ear.listening.wait() for ear in ears)), 20)
    print('"listening"', flush=True)
    rates = []
    for _ in range(target["rounds"] + 1):
        before, began = [ear.messages for ear in ears], time.perf_counter()
        await asyncio.sleep(target["seconds"])
        least = min(ear.messages - start for ear, start in zip(ears, before, strict=True))
        rates.append(least / (time.perf_counter() - began))
    return rates[1:]


if __name__ == "__main__":
    print(orjson.dumps(uvloop.run(listen(orjson.loads(sys.argv[1])))).decode(), flush=True)
