"""The baseline, a process of its own: a bare loop from a quote socket to a POST, with nothing in between.

The same libraries, event loop, frames and order fields as the product's; no position, no rule, no ledger.
"""

import sys

import aiohttp
import msgspec
import orjson
import uvloop
from websockets.exceptions import ConnectionClosed

from exitguard.broker.wire import open_socket


class _Quote(msgspec.Struct):
    """The part of a quote message that the loop looks at."""

    S: str
    bp: float
    ap: float


_decode = msgspec.msgpack.Decoder(list[_Quote]).decode
_HEADERS = {
    "APCA-API-KEY-ID": "bare",
    "APCA-API-SECRET-KEY": "bare",
    "Accept": "application/json",
    "Content-Type": "application/json",
}


async def loop(socket_url: str, orders_url: str, level: float) -> None:
    """Send one order for each quote whose mid is at or below `level`, until the venue leaves."""
    connector = aiohttp.TCPConnector()
    jar = aiohttp.DummyCookieJar()
    async with (
        aiohttp.ClientSession(headers=_HEADERS, connector=connector, cookie_jar=jar) as session,
        open_socket(socket_url) as socket,
    ):
        number = 0
        while True:
            for quote in _decode(await socket.recv(decode=False)):
                if (quote.bp + quote.ap) / 2 <= level:
                    number += 1
                    order = {
                        "client_order_id": f"bare-{number:08d}-close1",
                        "symbol": quote.S,
                        "qty": "2",
                        "side": "sell",
                        "type": "market",
                        "time_in_force": "day",
                        "position_intent": "sell_to_close",
                    }
                    async with session.post(orders_url, data=orjson.dumps(order)) as answer:
                        orjson.loads(await answer.read())


async def main(socket_url: str, orders_url: str, level: float) -> None:
    """Run until the venue closes the socket, which ends a measurement."""
    try:
        await loop(socket_url, orders_url, level)
    except ConnectionClosed:
        return


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
